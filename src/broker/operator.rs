//! What the operator of a broker group asks its nodes.
//!
//! There is no authentication yet, so only who is on the same machine is answered.

use std::sync::atomic::Ordering;

use staticfire_replication::{Failover, NodeId, Replica, Role};
use staticfire_transport::{Command, Connection};

use super::refusal::Refusal;
use super::shared::Shared;
use super::turn::{Handled, Reply};
use crate::protocol::body::{NodeStatus, OtherNode};
use crate::protocol::codes::response;
use crate::protocol::json;

impl Shared {
    /// What this broker is, in its group or alone.
    pub fn node_status(&self) -> NodeStatus {
        let marks = self.store.marks();
        let topics = self.store.topics();
        let queues = topics.iter().flat_map(|topic| self.store.queues_of(topic.as_str()));
        let mut status = NodeStatus {
            cluster: self.options.cluster.clone(),
            broker_name: self.options.name.clone(),
            role: "alone".to_owned(),
            failover: "none".to_owned(),
            mode: self.mode.to_string(),
            min: marks.min.0,
            end: marks.appended.0,
            flushed: marks.flushed.0,
            confirmed: marks.confirmed.0,
            messages: queues.map(|queue| queue.max().0.saturating_sub(queue.min().0)).sum(),
            put: self.counters.put.load(Ordering::Relaxed),
            got: self.counters.got.load(Ordering::Relaxed),
            ..NodeStatus::default()
        };
        let Some(node) = &self.node else { return status };
        let group = &node.options;
        let role = node.role();
        status.node = group.node.0;
        status.role = match role {
            Role::Leader { .. } => "leader",
            Role::Follower { .. } => "follower",
            Role::Stopped => "stopped",
        }
        .to_owned();
        status.failover = match group.failover {
            Failover::Raft => "raft",
            Failover::Master { .. } => "master",
            Failover::Slave => "slave",
        }
        .to_owned();
        (status.serves, status.accepts) = (role.serves(), role.accepts());
        status.trouble = node.trouble();
        status.leaderships = node.leaderships.load(Ordering::Relaxed);
        status.truncated_bytes = node.truncated.load(Ordering::Relaxed);
        let Some(known) = node.status() else { return status };
        status.epoch = known.epoch.0;
        status.generation =
            if group.failover == Failover::Raft { 0 } else { Replica::generation(known.epoch) };
        status.leader = known.leader.map(|leader| leader.0);
        status.voter = known.voter;
        (status.end, status.end_epoch) = (known.last.end.0, known.last.epoch.0);
        status.in_sync = known.in_sync;
        let other = |(node, progress): (&NodeId, &staticfire_replication::ReplicaProgress)| OtherNode {
            node: node.0,
            matched: progress.matched.0,
            flushed: progress.flushed.0,
            lag_bytes: known.last.end.0.saturating_sub(progress.matched.0),
            heard_ms_ago: progress.heard_ms.map(|heard| known.now_ms.saturating_sub(heard)),
            learner: progress.learner,
            catching_up: progress.catching_up,
            parked: progress.parked,
        };
        status.others = known.others.iter().map(other).collect();
        status
    }

    /// Our own code 21001.
    pub fn tell_status(&self, connection: &Connection, request: &Command) -> Handled {
        from_here(connection)?;
        Ok(Reply::Now(request.answer(response::SUCCESS).with_body(json::to_bytes(&self.node_status()))))
    }

    /// Our own code 21002: hands the leadership to the node named, or to the one that has most. The
    /// answer says that it was begun; the status of the nodes, what came of it.
    pub fn begin_transfer(&self, connection: &Connection, request: &Command) -> Handled {
        from_here(connection)?;
        let elects = self.node.as_ref().is_some_and(|node| node.options.failover == Failover::Raft);
        if !elects {
            return Err(Refusal::parameter("the nodes of this group do not elect; see promote-plan"));
        }
        if !self.writes() {
            return Err(self.not_leader());
        }
        let to = request.ext.get("to").map(|to| to.parse().map(NodeId));
        let to = to.transpose().map_err(|_| Refusal::parameter("a node is a number"))?;
        self.transfer(to);
        Ok(Reply::Now(request.answer(response::SUCCESS)))
    }
}

fn from_here(connection: &Connection) -> Result<(), Refusal> {
    if connection.peer().ip().is_loopback() {
        return Ok(());
    }
    Err(Refusal::new(response::NO_PERMISSION, "operators are listened to on the broker's own machine only"))
}
