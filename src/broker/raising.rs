//! Topics that ask for more than the broker's mode: the attribute `staticfire.mode`, as one of the words
//! that `--mode` has (D2). It raises what OK means for sends to the topic, and lowers nothing.
//!
//! When consumers see a message is up to the broker's mode all the same.

use std::sync::Arc;

use staticfire_replication::{Failover, Mode, SlaveAck};
use staticfire_storage::{Durability, Outcome, PhysicalOffset, Position};

use super::held::TurnAnswers;
use super::node::Node;
use super::refusal::Refusal;
use super::shared::Shared;
use crate::protocol::body::TopicConfig;
use crate::protocol::codes::response;

/// The attribute of a topic.
pub const MODE: &str = "staticfire.mode";
/// The field of an answer to a send that says what was reached, where that is more than the broker's mode.
pub const REACHED: &str = "reached";

impl Shared {
    /// The mode of a topic, where that is above the broker's.
    ///
    /// # Errors
    /// This broker cannot keep it; nothing less is promised instead.
    pub fn raised_mode(&self, topic: &TopicConfig) -> Result<Option<Mode>, Refusal> {
        let Some(text) = topic.attributes.get(MODE) else { return Ok(None) };
        let refused = |why: String| Refusal::parameter(format!("{MODE} of {}: {why}", topic.topic_name));
        let mode: Mode = text.parse().map_err(|error| refused(format!("{error}")))?;
        if let Some(why) = self.not_kept(mode) {
            return Err(refused(format!("{mode}: {why}")));
        }
        Ok(Some(self.mode.raised_by(mode)).filter(|raised| *raised != self.mode))
    }

    fn not_kept(&self, mode: Mode) -> Option<String> {
        let slaves = self.node.as_ref().map_or(0, |node| node.options.peers.len().saturating_sub(1));
        let elects = self.node.as_ref().is_some_and(|node| node.options.failover == Failover::Raft);
        match mode {
            Mode::Written | Mode::Flushed => None,
            Mode::Quorum if elects => None,
            Mode::Quorum => Some("needs raft".to_owned()),
            Mode::Replicated { .. } if elects => Some("with raft, OK always means quorum".to_owned()),
            Mode::Replicated { slaves: wanted, .. } if usize::from(wanted.get()) > slaves => {
                Some(format!("there are {slaves} slaves"))
            }
            Mode::Replicated { ack: SlaveAck::Flushed, .. } if self.mode == Mode::Written => {
                Some("slaves of a broker with mode written do not flush for anybody".to_owned())
            }
            Mode::Replicated { .. } => None,
        }
    }

    /// Refuses, before it is written, what this node could not copy as `mode` promises.
    pub fn enough_in_sync(&self, mode: Mode) -> Result<(), Refusal> {
        let Mode::Replicated { slaves, .. } = mode else { return Ok(()) };
        let in_sync = self.in_sync();
        if in_sync < usize::from(slaves.get()) {
            let remark = format!("OK means {mode} here, and {in_sync} slaves are in sync");
            return Err(Refusal::new(response::SERVICE_NOT_AVAILABLE, remark));
        }
        Ok(())
    }

    fn in_sync(&self) -> usize {
        let member = self.node.as_ref().and_then(Node::member);
        member.map_or(0, |member| member.in_sync())
    }

    /// Settles the answers of a turn when everything up to `position` is confirmed, and as safe as `raised` says.
    pub fn settle_when_safe(&self, turn: Arc<TurnAnswers>, position: Position, raised: Option<Mode>) {
        let Some(mode) = raised else {
            return self.store.when(
                Durability::Confirmed,
                position,
                Box::new(move |outcome| turn.settle(outcome)),
            );
        };
        let member = self.node.as_ref().and_then(Node::member);
        let store = self.store.clone();
        let confirmed = move |outcome| match (outcome, mode, member) {
            (Outcome::Reached, Mode::Flushed, _) => {
                store.when(Durability::Flushed, position, Box::new(move |outcome| turn.settle(outcome)));
            }
            (Outcome::Reached, mode, Some(member)) => {
                member.when(mode, position, Box::new(move |outcome| turn.settle(outcome)));
            }
            (Outcome::Reached, _, None) => turn.settle(Outcome::Unknown),
            (outcome, ..) => turn.settle(outcome),
        };
        self.store.when(Durability::Confirmed, position, Box::new(confirmed));
    }

    /// What a send is told that is stored, up to `end`, and was not as safe in time as `raised` or the broker's mode
    /// promises.
    pub fn too_late(&self, end: PhysicalOffset, raised: Option<Mode>) -> (i32, &'static str) {
        let flushed = self.store.marks().flushed >= end;
        match &self.node {
            Some(node) if flushed => {
                if self.in_sync() < node.slaves_needed(raised.unwrap_or(self.mode)) {
                    return (response::SLAVE_NOT_AVAILABLE, "stored here, and too few slaves are in sync");
                }
                (response::FLUSH_SLAVE_TIMEOUT, "stored here, but the slaves did not have it in time")
            }
            _ => (response::FLUSH_DISK_TIMEOUT, "stored, but the flush did not end in time"),
        }
    }
}
