//! Everything the parts of one broker share.
//!
//! Rule of the locks: each table has its own, none is held while another is taken, and none while
//! the store or a connection is called, except that the dispatcher, inside the store, takes the
//! polls.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use staticfire_replication::Mode;
use staticfire_storage::{PhysicalOffset, QueueOffset, ReadError, Record, Store};
use staticfire_transport::{BoxFuture, Command, Connection, ConnectionId, Monotonic, Runtime, Transport};

use super::advice::ReadLoad;
use super::config_files::ConfigFiles;
use super::delay::DelayQueues;
use super::groups::Groups;
use super::held::HeldAnswers;
use super::latency::Latency;
use super::locks::QueueLocks;
use super::membership::Membership;
use super::node::Node;
use super::offsets::ConsumerOffsets;
use super::options::BrokerOptions;
use super::polls::Polls;
use super::pull::Pull;
use super::refusal::Refusal;
use super::settling::{Need, Settling};
use super::signal::{Signal, until};
use super::topics::Topics;
use crate::protocol::body::SubscriptionGroupConfig;
use crate::protocol::codes::request;
use crate::protocol::names::GroupName;

/// How long the creator of a topic waits for it to be settled: less than a client's patience.
const SETTLE_WAIT: std::time::Duration = std::time::Duration::from_millis(2500);

pub struct Shared {
    pub options: BrokerOptions,
    /// Properties that every message gets.
    pub own_properties: Vec<u8>,
    /// What clients dial.
    pub address: SocketAddr,
    pub runtime: Arc<dyn Runtime>,
    pub transport: Arc<dyn Transport>,
    pub store: Store,
    pub files: ConfigFiles,
    pub topics: RwLock<Topics>,
    pub groups: RwLock<Groups>,
    pub members: Mutex<Membership>,
    pub offsets: Mutex<ConsumerOffsets>,
    pub locks: Mutex<QueueLocks>,
    pub polls: Mutex<Polls<Pull>>,
    /// Of each connection, what it asked of the leader and somebody is about to answer.
    pub for_leader: Mutex<BTreeMap<ConnectionId, Vec<Command>>>,
    /// Pulls that wait for the device.
    pub reads: AtomicUsize,
    pub delays: Mutex<DelayQueues>,
    pub connections: Arc<Mutex<BTreeMap<ConnectionId, Connection>>>,
    /// Answers that wait for a flush.
    pub held: Mutex<HeldAnswers>,
    /// What OK means.
    pub mode: Mode,
    pub settling: Settling,
    /// Its part in a broker group.
    pub node: Option<Node>,
    /// Topics, groups or the role changed, or the broker stops.
    pub changes: Signal,
    pub stopping: AtomicBool,
    pub counters: Counters,
    /// How long senders wait.
    pub latency: Arc<Latency>,
    /// How much consumers take.
    pub read_load: ReadLoad,
    /// The state of the offsets that was last written to disk.
    pub written_offsets: AtomicU64,
    /// The same for the delay queues.
    pub written_delays: Mutex<Vec<(i32, QueueOffset)>>,
    pub started_ms: i64,
}

/// Numbers for `brokerStatus`, counted since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Messages accepted.
    pub put: AtomicU64,
    /// Messages handed to consumers.
    pub got: AtomicU64,
    /// Pulls whose consumer was told to ask a slave next, by the slave's id.
    pub advised_slaves: Mutex<BTreeMap<i64, u64>>,
}

impl Shared {
    pub fn now(&self) -> Monotonic {
        self.runtime.now()
    }

    pub fn wall_ms(&self) -> i64 {
        self.runtime.wall_ms()
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let task: BoxFuture<'static, ()> = Box::pin(task);
        self.runtime.spawn(task);
    }

    /// A random number below `bound`; 0 when that is 0.
    pub fn random_below(&self, bound: u32) -> u32 {
        u32::try_from(self.runtime.random() % u64::from(bound.max(1))).unwrap_or(0)
    }

    /// The record at `at`, for whoever names its place: no sooner than consumers see it, for until then it may be
    /// lost or cut off.
    pub fn confirmed_record(&self, at: PhysicalOffset) -> Result<Record, ReadError> {
        let record = self.store.record(at)?;
        if at.after(record.len().into()) > self.store.marks().confirmed {
            return Err(ReadError::NoRecord { at });
        }
        Ok(record)
    }

    /// The group's configuration, created when that is allowed.
    pub fn group(&self, name: &str) -> Result<(GroupName, Arc<SubscriptionGroupConfig>), Refusal> {
        if let Some((name, config)) = read(&self.groups).get_named(name) {
            return Ok((name, config));
        }
        let name = GroupName::new(name)?;
        if !self.writes() && self.options.auto_create_groups {
            // The leader creates it; until then it is what it will be.
            let config = Arc::new(SubscriptionGroupConfig::new(name.as_str()));
            return Ok((name, config));
        }
        let config = write(&self.groups).ensure(&name, self.wall_ms());
        self.changes.raise();
        let config = config.ok_or_else(|| Refusal::no_group(name.as_str()))?;
        Ok((name, config))
    }

    /// Waits until `need` is settled, or for as long as a client has patience.
    pub async fn settle(&self, need: Need) -> Result<(), Refusal> {
        self.changes.raise();
        let deadline = self.now() + SETTLE_WAIT;
        match until(&*self.runtime, deadline, |cx| self.settling.poll(need, cx)).await {
            Some(settled) => Ok(settled?),
            None if self.settling.is_on_disk(need) => Ok(()),
            None => Err(Refusal::system("the change was made but is not on disk yet")),
        }
    }

    /// Answers `request` once `need` is settled.
    pub fn answer_settled(self: &Arc<Self>, connection: &Connection, answer: Command, need: Need) {
        let (shared, connection) = (Arc::clone(self), connection.clone());
        self.spawn(async move {
            let answer = match shared.settle(need).await {
                Ok(()) => answer,
                Err(refusal) => Command { code: refusal.code, remark: Some(refusal.remark), ..answer },
            };
            // A peer that is gone needs no answer.
            let _ = connection.send(answer);
        });
    }

    /// Tells all members of a group that it changed, unless its configuration says not to.
    pub fn tell_members(&self, group: &GroupName) {
        let silent = |config: &Arc<SubscriptionGroupConfig>| !config.notify_consumer_ids_changed_enable;
        if read(&self.groups).get(group.as_str()).is_some_and(silent) {
            return;
        }
        let ids: Vec<ConnectionId> = {
            let members = lock(&self.members);
            members
                .consumers(group.as_str())
                .map(|g| g.members().map(|c| c.connection).collect())
                .unwrap_or_default()
        };
        let connections: Vec<Connection> = {
            let open = lock(&self.connections);
            ids.iter().filter_map(|id| open.get(id).cloned()).collect()
        };
        for connection in connections {
            let notice =
                Command::one_way(request::NOTIFY_CONSUMER_IDS_CHANGED).with_ext("consumerGroup", group);
            // Who is gone will be struck off when its close arrives.
            let _ = connection.send(notice);
        }
    }
}

/// The tables stay usable when a thread panicked: each is consistent between its calls.
pub fn lock<T>(table: &Mutex<T>) -> MutexGuard<'_, T> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

/// See [`lock`].
pub fn read<T>(table: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    table.read().unwrap_or_else(PoisonError::into_inner)
}

/// See [`lock`].
pub fn write<T>(table: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    table.write().unwrap_or_else(PoisonError::into_inner)
}
