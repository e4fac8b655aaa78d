//! Looks at all nodes while they run: what must never be true, not even for a moment.
//!
//! ```text
//!   every 10 ms ──> marks of each node     ordered; confirmed never falls              I40, I48
//!                   confirmed bytes        the same on every node, in every life       I22, I38, I40
//!                   newly confirmed        as many nodes hold it as the mode says      I25, I40
//!                   leaders                one in each epoch                           I31, I35
//!                   name servers           a master's epoch never falls                I55
//! ```

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use staticfire_replication::{Failover, Mode, Role as GroupRole, SlaveAck};
use staticfire_storage::{Marks, PhysicalOffset, Store};
use staticfire_transport::Monotonic;
use staticfire_transport::memory::EventSource;

use super::machine::{Failure, Process};
use super::{Node, Role, Violation, reached};
use crate::broker::Broker;
use crate::name_server::NameServer;

/// How often it looks.
const EVERY: Duration = Duration::from_millis(10);
/// Name servers are looked at each so many times.
const NAME_SERVERS_EVERY: u64 = 16;
/// Bytes compared at a look and node, so that a node that comes back takes many looks.
const PORTION: u64 = 1 << 20;

/// What a role returned, once it did.
pub(super) type Started = OnceLock<Result<Process, Failure>>;

#[derive(Default)]
pub(super) struct Watch(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    looks: u64,
    now: Monotonic,
    next: Monotonic,
    lives: BTreeMap<Node, Watched>,
    groups: BTreeMap<u8, History>,
    /// The epochs of the masters that each name server knows.
    masters: BTreeMap<(Node, String), i64>,
    violations: Vec<Violation>,
}

/// A node, in its present life or down.
struct Watched {
    started: Weak<Started>,
    role: Arc<dyn Role>,
    /// As of the last look, also while it is down.
    marks: Marks,
    /// Its confirmed bytes were compared up to here.
    compared: u64,
    /// The marks are those of this life.
    fresh: bool,
    /// It begins or ends, out of sight, and may hold more than its marks say.
    unseen: bool,
}

/// What a group that elects confirmed.
#[derive(Default)]
struct History {
    /// From the first position that was compared on.
    bytes: Vec<u8>,
    base: u64,
    confirmed: PhysicalOffset,
    leaders: BTreeMap<u64, Node>,
}

impl Watch {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node begins another life.
    pub(super) fn follow(&self, node: Node, started: &Arc<Started>, role: &Arc<dyn Role>) {
        let mut seen = self.seen();
        let marks = seen.lives.get(&node).map_or_else(Marks::default, |before| before.marks);
        let started = Arc::downgrade(started);
        seen.lives.insert(
            node,
            Watched { started, role: Arc::clone(role), marks, compared: 0, fresh: false, unseen: true },
        );
        seen.masters.retain(|(server, _), _| *server != node);
    }

    /// Looks at all nodes, at once: one of them is about to die.
    pub(super) fn look(&self) {
        self.seen().look();
    }

    /// A node is about to end properly, which takes it some time.
    pub(super) fn look_away(&self, node: Node) {
        if let Some(life) = self.seen().lives.get_mut(&node) {
            life.unseen = true;
        }
    }

    /// What a node held is gone.
    pub(super) fn forget(&self, node: Node) {
        self.seen().lives.remove(&node);
    }

    pub(super) fn first_violation(&self) -> Option<Violation> {
        self.seen().violations.first().cloned()
    }

    pub(super) fn take_violations(&self) -> Vec<Violation> {
        std::mem::take(&mut self.seen().violations)
    }
}

impl EventSource for Watch {
    fn next_due(&self) -> Option<Monotonic> {
        Some(self.seen().next)
    }

    fn run_due(&self, now: Monotonic) {
        let mut seen = self.seen();
        (seen.now, seen.next) = (now, now + EVERY);
        seen.looks += 1;
        seen.look();
    }
}

impl Seen {
    fn look(&mut self) {
        let started = |(node, life): (&Node, &Watched)| Some((*node, life.started.upgrade()?));
        let lives: Vec<_> = self.lives.iter().filter_map(started).collect();
        let served = || lives.iter().filter_map(|(node, life)| Some((*node, life.get()?.as_ref().ok()?)));
        // All marks first: what one node confirms depends on what others hold.
        for (node, process) in served() {
            let role = self.lives.get(&node).map(|life| Arc::clone(&life.role));
            let looked = match role.as_ref().and_then(|role| role.store(process)) {
                Some(store) => self.look_at_marks(node, store),
                None => Ok(()),
            };
            self.note(node, looked);
        }
        for (node, process) in served() {
            if let Some(server) = process.downcast_ref::<NameServer>() {
                if self.looks.is_multiple_of(NAME_SERVERS_EVERY) {
                    self.look_at_name_server(node, server);
                }
            } else if let Some(broker) = process.downcast_ref::<Broker>() {
                let looked = self.look_at_member(node, broker);
                self.note(node, looked);
            }
        }
    }

    fn note(&mut self, node: Node, looked: Result<(), Violation>) {
        let at = self.now.since_start();
        let seen =
            |found: Violation| Violation::new(found.invariant, format!("{} (seen at {at:?})", found.what));
        self.violations.extend(looked.err().map(|found| seen(found).on(node)));
    }

    fn look_at_marks(&mut self, node: Node, store: &Store) -> Result<(), Violation> {
        let marks = store.marks();
        let Some(life) = self.lives.get_mut(&node) else { return Ok(()) };
        let before = std::mem::replace(&mut life.marks, marks);
        life.unseen = false;
        let ordered = marks.dispatched <= marks.confirmed
            && marks.confirmed <= marks.written
            && marks.flushed <= marks.written
            && marks.written <= marks.appended;
        if !ordered {
            return Err(Violation::new("I48", format!("{marks:?}")));
        }
        if std::mem::replace(&mut life.fresh, true) && marks.min < before.min {
            return Err(Violation::new(
                "I12",
                format!("the log began at {} and does at {}", before.min, marks.min),
            ));
        }
        Ok(())
    }

    fn look_at_member(&mut self, node: Node, broker: &Broker) -> Result<(), Violation> {
        let (Some(role), Some(options), Some(group)) =
            (broker.role(), broker.options().replication.as_ref(), node.group())
        else {
            return Ok(());
        };
        let marks = self.lives[&node].marks;
        let history = self.groups.entry(group).or_default();
        if let GroupRole::Leader { epoch, .. } = role {
            let leads = *history.leaders.entry(epoch.0).or_insert_with(|| {
                reached::note("somebody leads", "");
                node
            });
            if leads != node {
                return Err(Violation::new("I35", format!("{leads} leads in {epoch:?} already")));
            }
        }
        if marks.confirmed > history.confirmed {
            let holders = self.holders(group, marks.confirmed, options.mode);
            let history = self.groups.entry(group).or_default();
            history.confirmed = marks.confirmed;
            let (wanted, invariant) = match options.mode {
                Mode::Quorum => (options.peers.len() / 2 + 1, "I40"),
                Mode::Replicated { slaves, .. } => (usize::from(slaves.get()) + 1, "I25"),
                Mode::Written | Mode::Flushed => (0, "I25"),
            };
            if holders < wanted {
                let what =
                    format!("{} is confirmed, and {holders} nodes hold it: {marks:?}", marks.confirmed);
                return Err(Violation::new(invariant, what));
            }
        }
        if options.failover == Failover::Raft { self.compare(node, group, broker.store()) } else { Ok(()) }
    }

    /// How many members hold everything up to `end`, as they do for this mode.
    fn holders(&self, group: u8, end: PhysicalOffset, mode: Mode) -> usize {
        let received = matches!(mode, Mode::Replicated { ack: SlaveAck::Received, .. });
        let members = self.lives.iter().filter(|(node, _)| node.group() == Some(group));
        let held = members.map(|(_, life)| {
            if life.unseen {
                PhysicalOffset(u64::MAX)
            } else if received {
                life.marks.appended
            } else {
                life.marks.flushed
            }
        });
        held.filter(|held| *held >= end).count()
    }

    /// What a node confirmed since the last look, against what the others did.
    fn compare(&mut self, node: Node, group: u8, store: &Store) -> Result<(), Violation> {
        let (Some(life), Some(history)) = (self.lives.get_mut(&node), self.groups.get_mut(&group)) else {
            return Ok(());
        };
        let from = life.compared.max(life.marks.min.0);
        let upto = life.marks.confirmed.0.min(from + PORTION);
        if from >= upto {
            return Ok(());
        }
        // A disk that fails has nothing to compare, until it is read again.
        let Ok(slices) = store.slices(PhysicalOffset(from), PhysicalOffset(upto)) else { return Ok(()) };
        life.compared = upto;
        if history.bytes.is_empty() {
            history.base = from;
        }
        for (at, byte) in (from..).zip(slices.iter().flat_map(|slice| slice.iter().copied())) {
            let index = at.checked_sub(history.base).and_then(|index| usize::try_from(index).ok());
            match index.map(|index| (index, history.bytes.get(index))) {
                Some((_, Some(known))) if *known != byte => {
                    let what =
                        format!("byte {at} is confirmed, and is not what another node confirmed there");
                    return Err(Violation::new("I40", what));
                }
                Some((index, None)) if index == history.bytes.len() => history.bytes.push(byte),
                _ => {}
            }
        }
        Ok(())
    }

    fn look_at_name_server(&mut self, node: Node, server: &NameServer) {
        let known = server.brokers().into_iter().filter(|known| known.broker_id == 0);
        let now: BTreeMap<_, _> =
            known.map(|master| ((node, master.broker_name), master.version.state_version)).collect();
        for (key, epoch) in &now {
            if let Some(before) = self.masters.get(key).filter(|before| *before > epoch) {
                let what = format!("{} had a master of epoch {before}, and has one of {epoch}", key.1);
                self.violations.push(Violation::new("I55", what).on(node));
            }
        }
        self.masters.retain(|(server, _), _| *server != node);
        self.masters.extend(now);
    }
}
