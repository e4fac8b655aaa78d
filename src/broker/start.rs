//! Starting and stopping a broker.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use staticfire_replication::{MemberError, MemberStatus, Mode, NodeId, Role, control_topic};
use staticfire_storage::{
    Background, CloseError, Durability, OpenError, Position, QueueId, QueueOffset, Store, StoreOptions,
};
use staticfire_transport::{Connection, Listener, Runtime, Service, Transport};

use super::advice::ReadLoad;
use super::chores::{keep_house, keep_offsets, keep_persisted, watch_time};
use super::config_files::{CONSUMER_OFFSETS, ConfigError, ConfigFiles, DELAY_OFFSETS, GROUPS, TOPICS};
use super::delay::DelayQueues;
use super::delivery::deliver_delayed;
use super::groups::Groups;
use super::latency::Latency;
use super::node::{GroupOptionsError, JoinError, Node, NodeView};
use super::offsets::ConsumerOffsets;
use super::options::BrokerOptions;
use super::polls::Polls;
use super::pull::Arrivals;
use super::registration::{keep_registered, wait};
use super::send::own_properties;
use super::service::Front;
use super::settling::Settling;
use super::shared::{Shared, lock};
use super::signal::{Awaited, Signal, oneshot, until};
use super::state::{keep_exported, keep_state};
use super::topics::Topics;
use crate::protocol::body::{ConsumerOffsetTable, DelayOffsetTable};

/// How long a starting broker waits for its name servers, and a stopping one for its work.
const PATIENCE: Duration = Duration::from_secs(5);

/// A running broker. Dropping it stops it and closes its connections, without the farewell of
/// [`Broker::stop`].
pub struct Broker {
    shared: Arc<Shared>,
    listener: Option<Listener>,
    /// Come when tables and offsets were written for the last time.
    saved: Vec<Awaited<Result<(), StopError>>>,
}

/// Why a broker did not start.
#[derive(Debug)]
pub enum StartError {
    /// The address cannot be listened on.
    Listen {
        /// The address.
        at: SocketAddr,
        /// What the system said.
        cause: io::Error,
    },
    /// The store cannot be opened.
    Store(OpenError),
    /// A configuration file cannot be read.
    Config(ConfigError),
    /// The options of its group make no sense.
    Group(GroupOptionsError),
    /// It cannot take part in its group.
    Member(MemberError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen { at, cause } => write!(f, "cannot listen on {at}: {cause}"),
            Self::Store(error) => error.fmt(f),
            Self::Config(error) => error.fmt(f),
            Self::Group(error) => error.fmt(f),
            Self::Member(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StartError {}

/// Why a broker did not stop properly; the next start recovers.
#[derive(Debug)]
pub enum StopError {
    /// Topics, groups or offsets were not written: messages will be delivered again.
    Tables(ConfigError),
    /// The same, because the disk did not answer in time.
    Late,
    /// The store was not closed properly.
    Store(CloseError),
}

impl fmt::Display for StopError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tables(error) => error.fmt(f),
            Self::Late => f.write_str("the disk did not take the last topics, groups and offsets in time"),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StopError {}

impl Broker {
    /// Listens, opens the store, and registers at the name servers; complete when clients find
    /// it. Name servers that cannot be reached are not waited for.
    ///
    /// `store` needs no observer and no store host: the broker fills in itself and its address.
    /// The housekeeping of a store with [`Background::Caller`] becomes a task of `runtime`.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(
        transport: Arc<dyn Transport>,
        runtime: Arc<dyn Runtime>,
        options: BrokerOptions,
        store: StoreOptions,
    ) -> Result<Self, StartError> {
        let front = Arc::new(Front::default());
        let at = options.listen;
        let listener = transport.listen(at, Arc::clone(&front) as Arc<dyn Service>);
        let listener = listener.map_err(|cause| StartError::Listen { at, cause })?;
        let address = options.advertised.unwrap_or_else(|| listener.address());
        let housekeeping = store.background == Background::Caller;
        let shared = open(transport, runtime, options, store, address, &front)?;
        shared.join().map_err(|error| match error {
            JoinError::Options(error) => StartError::Group(error),
            JoinError::Member(error) => StartError::Member(error),
        })?;
        front.open(Arc::clone(&shared));
        if housekeeping {
            shared.spawn(keep_house(Arc::clone(&shared)));
        }
        let (tables, tables_saved) = oneshot();
        let mut saved = vec![tables_saved];
        if shared.node.is_some() {
            shared.spawn(keep_state(Arc::clone(&shared)));
            shared.spawn(keep_exported(Arc::clone(&shared), tables));
        } else {
            let (offsets, offsets_saved) = oneshot();
            saved.push(offsets_saved);
            shared.spawn(keep_persisted(Arc::clone(&shared), tables));
            shared.spawn(keep_offsets(Arc::clone(&shared), offsets));
        }
        shared.spawn(watch_time(Arc::clone(&shared)));
        shared.spawn(deliver_delayed(Arc::clone(&shared)));
        let broker = Self { shared, listener: Some(listener), saved };
        broker.register().await;
        Ok(broker)
    }

    /// The address clients dial.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// The store behind it.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// What it was started with.
    #[must_use]
    pub fn options(&self) -> &BrokerOptions {
        &self.shared.options
    }

    /// What it is in its group now; `None`: it is alone.
    #[must_use]
    pub fn role(&self) -> Option<Role> {
        self.shared.node.as_ref().map(Node::role)
    }

    /// What it knows of its group now; `None`: it is alone.
    #[must_use]
    pub fn group_status(&self) -> Option<MemberStatus> {
        self.shared.node.as_ref()?.status()
    }

    /// A look at its part in the group that can be kept.
    #[must_use]
    pub fn node_view(&self) -> NodeView {
        NodeView(Arc::downgrade(&self.shared))
    }

    /// Hands the leadership to node `to`, or to the one that has most. Without effect unless it leads
    /// a group that elects; whether it came to that says [`Broker::role`].
    pub fn transfer(&self, to: Option<NodeId>) {
        self.shared.transfer(to);
    }

    /// Hands the leadership over, leaves the name servers, answers what waits, writes everything and closes the store.
    ///
    /// # Errors
    /// See [`StopError`].
    pub async fn stop(mut self) -> Result<(), StopError> {
        let shared = Arc::clone(&self.shared);
        shared.log_soon();
        self.handed_over().await;
        shared.halt();
        self.listener = None;
        // Sends in flight end with their flush; nobody is left in the dark.
        let marks = shared.store.marks();
        let position = Position { epoch: marks.epoch, end: marks.appended };
        let (done, flushed) = oneshot();
        shared.store.when(Durability::Confirmed, position, Box::new(move |outcome| done.set(outcome)));
        let mut flushed = std::pin::pin!(flushed);
        if shared.serves() {
            until(&*shared.runtime, shared.now() + PATIENCE, |cx| flushed.as_mut().poll(cx)).await;
        }
        self.unregistered().await;
        let mut saved = Ok(());
        let deadline = shared.now() + PATIENCE;
        for mut last in std::mem::take(&mut self.saved) {
            let last = until(&*shared.runtime, deadline, |cx| Pin::new(&mut last).poll(cx)).await;
            saved = saved.and(last.unwrap_or(Err(StopError::Late)));
        }
        shared.close_connections();
        shared.part();
        shared.store.clone().close().map_err(StopError::Store)?;
        saved
    }

    /// Waits until another node leads, if this one does and nodes elect.
    async fn handed_over(&self) {
        let shared = &self.shared;
        shared.transfer(None);
        if shared.serves() && !shared.writes() {
            wait(shared, shared.now() + PATIENCE, |shared| !shared.serves() || shared.writes()).await;
        }
    }

    /// Starts a task for each name server and waits for the first attempt of all.
    async fn register(&self) {
        let shared = &self.shared;
        let first = Arc::new(Signal::default());
        let servers = shared.options.name_servers.len();
        for server in 0..servers {
            shared.spawn(keep_registered(Arc::clone(shared), server, Arc::clone(&first)));
        }
        let tried = |cx: &mut std::task::Context<'_>| {
            loop {
                let seen = first.count();
                if shared.settling.all_tried() {
                    return std::task::Poll::Ready(());
                }
                if first.poll_after(seen, cx).is_pending() {
                    return std::task::Poll::Pending;
                }
            }
        };
        until(&*shared.runtime, shared.now() + PATIENCE, tried).await;
    }

    /// Waits until the name server tasks have said goodbye.
    async fn unregistered(&self) {
        let shared = &self.shared;
        let gone = |cx: &mut std::task::Context<'_>| shared.settling.poll_all_unreachable(cx);
        until(&*shared.runtime, shared.now() + PATIENCE, gone).await;
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.shared.halt();
        self.shared.close_connections();
        self.shared.part();
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").field("address", &self.shared.address).finish_non_exhaustive()
    }
}

impl Shared {
    fn halt(&self) {
        self.stopping.store(true, Ordering::Release);
        self.changes.raise();
    }

    fn close_connections(&self) {
        let open: Vec<_> = lock(&self.connections).values().cloned().collect();
        open.iter().for_each(Connection::close);
    }
}

/// Opens the store and reads the tables beside it.
fn open(
    transport: Arc<dyn Transport>,
    runtime: Arc<dyn Runtime>,
    mut options: BrokerOptions,
    mut store: StoreOptions,
    address: SocketAddr,
    front: &Front,
) -> Result<Arc<Shared>, StartError> {
    let arrivals = Arc::new(Arrivals::default());
    store.observers.push(Arc::clone(&arrivals) as _);
    store.store_host = address;
    store.rules.system_topic = Some(control_topic());
    if options.replication.is_some() {
        store.durability = Durability::Confirmed;
    }
    let mode = match (&options.replication, store.durability) {
        (Some(group), _) => group.mode,
        (None, Durability::Written) => Mode::Written,
        (None, _) => Mode::Flushed,
    };
    let store = Store::open(store).map_err(StartError::Store)?;
    // The store has made a folder of this name in small letters.
    options.topics.ignoring_case |= store.directory().list("COMMITLOG").is_ok();
    let files = ConfigFiles::open(Arc::clone(store.directory())).map_err(StartError::Config)?;
    let read = |error| StartError::Config(error);
    let topics = files.read(TOPICS).map_err(read)?;
    let groups = files.read(GROUPS).map_err(read)?;
    let now_ms = runtime.wall_ms();
    let shared = Shared {
        own_properties: own_properties(&options.cluster),
        topics: RwLock::new(Topics::new(&options.cluster, &options.name, options.topics, topics, now_ms)),
        groups: RwLock::new(Groups::new(options.auto_create_groups, groups)),
        members: Mutex::default(),
        offsets: Mutex::new(consumer_offsets(files.read(CONSUMER_OFFSETS).map_err(read)?)),
        locks: Mutex::default(),
        polls: Mutex::new(Polls::new(options.polls)),
        for_leader: Mutex::default(),
        reads: AtomicUsize::new(0),
        delays: Mutex::new(delay_queues(&files.read(DELAY_OFFSETS).map_err(read)?)),
        connections: front.connections(),
        held: Mutex::default(),
        mode,
        settling: Settling::new(options.name_servers.len()),
        node: options.replication.clone().map(Node::new),
        changes: Signal::default(),
        stopping: AtomicBool::new(false),
        counters: Default::default(),
        latency: Arc::new(Latency::new(Arc::clone(&runtime))),
        read_load: ReadLoad::new(options.busy_reading.clone()),
        written_offsets: AtomicU64::new(0),
        written_delays: Mutex::default(),
        started_ms: now_ms,
        options,
        address,
        runtime,
        transport,
        store,
        files,
    };
    let shared = Arc::new(shared);
    // Nothing was appended yet, so nothing was missed.
    let _ = arrivals.0.set(Arc::downgrade(&shared));
    shared.load_state();
    Ok(shared)
}

fn consumer_offsets(table: ConsumerOffsetTable) -> ConsumerOffsets {
    let mut offsets = ConsumerOffsets::default();
    for (key, queues) in table.offset_table {
        // Groups hold no `@`, topics neither.
        let Some((topic, group)) = key.split_once('@') else { continue };
        for (queue, offset) in queues {
            if let (Ok(queue), Ok(offset)) = (u32::try_from(queue), u64::try_from(offset)) {
                offsets.load(group, topic, QueueId(queue), QueueOffset(offset));
            }
        }
    }
    offsets
}

fn delay_queues(table: &DelayOffsetTable) -> DelayQueues {
    let mut delays = DelayQueues::default();
    for (level, next) in &table.offset_table {
        delays.set_next(*level, QueueOffset(u64::try_from(*next).unwrap_or(0)));
    }
    delays
}
