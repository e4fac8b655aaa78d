//! A node of a broker group at work: gives a [`Replica`] the marks of a store and the messages of a
//! network, and carries out what it decides.
//!
//! ```text
//!   store marks ──┐                        ┌──> store: append, cut, confirm, fence
//!   messages ─────┼──> events ──> Replica ─┼──> network: ask, answer (slices of the log)
//!   clock ────────┘    (in order)          └──> whoever wants to know the role
//! ```
//! Whoever brings an event handles it, and everything that comes up meanwhile; there is no thread
//! and no task between a flush and the answer that it allows (DESIGN D11).

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use staticfire_storage::{Durability, Epoch, KeptFor, PhysicalOffset, Position, Store, Waiter};
use staticfire_transport::{Connection, Listener, Runtime, Transport};

use crate::notes::{self, NotesError};
use crate::{
    EpochStart, Evidence, Failover, Input, LogCut, Millis, Mode, NodeId, Promise, Remembered, Replica,
    ReplicaProgress, Settings, Token,
};

mod carrying;
mod keeping;
mod links;
mod raising;
mod reading;
mod shipping;

use crate::incoming::Incoming;
use keeping::Keeping;
use links::{Links, ReplicationService};
pub use reading::ReadIndex;

/// How often the clock is looked at, at least.
const TICK_MAX: Duration = Duration::from_millis(50);
/// The epochs of the log are noted again when it grew by this much.
const NOTE_EVERY: u64 = 64 << 20;
/// Above it the epochs of a master would not fit 31 bits.
const GENERATION_MAX: u16 = i16::MAX as u16;

/// Settings of a node.
#[derive(Clone, Debug)]
pub struct MemberOptions {
    /// The cluster, as the broker names it.
    pub cluster: String,
    /// The broker group.
    pub name: String,
    /// Where the others reach this node's replication port.
    pub listen: SocketAddr,
    /// Where the others are reached.
    pub peers: BTreeMap<NodeId, SocketAddr>,
    /// What the replica is told.
    pub settings: Settings,
    /// Bytes at the end of the log that were just written: whether these are in memory is not asked before
    /// they are shipped.
    pub hot_bytes: u64,
}

/// What a node is, for the broker around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It leads.
    Leader {
        /// Its epoch.
        epoch: Epoch,
        /// Its barrier is confirmed: it may answer pulls, bounds, offsets and locks.
        serves: bool,
        /// It takes messages: no transfer is under way.
        accepts: bool,
    },
    /// It copies.
    Follower {
        /// The newest epoch it knows.
        epoch: Epoch,
        /// Whom, if it knows.
        leader: Option<NodeId>,
    },
    /// It takes part in nothing more until it is started again.
    Stopped,
}

impl Role {
    /// It takes messages.
    #[must_use]
    pub const fn accepts(self) -> bool {
        matches!(self, Self::Leader { accepts: true, .. })
    }

    /// It answers what only the leader may answer.
    #[must_use]
    pub const fn serves(self) -> bool {
        matches!(self, Self::Leader { serves: true, .. })
    }
}

/// Hears what becomes of a node. Called in order, on the thread that found out: be quick.
pub trait MemberObserver: Send + Sync {
    /// The role changed.
    fn role(&self, _role: Role) {}
    /// It stands for election in `epoch`: the leader hands over to it (`told`), or was not heard of for
    /// too long. Said once for each other member.
    fn stands(&self, _epoch: Epoch, _told: bool) {}
    /// Nothing more is acknowledged in the epochs before this one.
    fn fenced(&self, _epoch: Epoch) {}
    /// Something was cut off the log and is kept as an orphan. Called once for each cut; a machine that
    /// fails meanwhile finishes it when the store is opened, whose report says so.
    fn cut(&self, _cut: &LogCut) {}
    /// The log was dropped and begins at `base`: the leader keeps nothing from before. All that was
    /// derived from it is void; the state is what the records from there on say.
    fn restarted(&self, _base: Position) {}
    /// Going on would destroy what was confirmed.
    fn evidence(&self, _evidence: &Evidence) {}
    /// Something failed. The node tries again, or it stopped: its role says which.
    fn failed(&self, _what: &str) {}
}

/// Why a node did not start.
#[derive(Debug)]
pub enum MemberError {
    /// The address cannot be listened on.
    Listen(SocketAddr, io::Error),
    /// Its promise or epochs cannot be read.
    Notes(NotesError),
    /// Its promise cannot be written.
    Promise(io::Error),
    /// No generation of a master: only 1 to 32,767 fit the epochs.
    Generation(u16),
}

impl fmt::Display for MemberError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(at, error) => write!(f, "cannot listen on {at} for replication: {error}"),
            Self::Notes(error) => error.fmt(f),
            Self::Promise(error) => write!(f, "staticfire/promise cannot be written: {error}"),
            Self::Generation(generation) => {
                write!(f, "{generation} is no generation of a master; 1 to {GENERATION_MAX} are")
            }
        }
    }
}

impl std::error::Error for MemberError {}

/// What a node knows at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// This node.
    pub node: NodeId,
    /// What it is.
    pub role: Role,
    /// The newest epoch it knows.
    pub epoch: Epoch,
    /// Whom it takes for the leader.
    pub leader: Option<NodeId>,
    /// It votes and counts.
    pub voter: bool,
    /// Where its log ends.
    pub last: Position,
    /// What of it is on stable storage.
    pub flushed: PhysicalOffset,
    /// What can no longer be taken back.
    pub confirmed: PhysicalOffset,
    /// What the leader knows of the others.
    pub others: BTreeMap<NodeId, ReplicaProgress>,
    /// Slaves that count now.
    pub in_sync: usize,
    /// The clock of this node, in the unit of the others' times.
    pub now_ms: Millis,
}

/// A node at work. Dropping it stops it.
pub struct Member {
    inner: Arc<Inner>,
    _listener: Listener,
}

pub(crate) struct Inner {
    options: MemberOptions,
    group: String,
    store: Store,
    runtime: Arc<dyn Runtime>,
    transport: Arc<dyn Transport>,
    observer: Arc<dyn MemberObserver>,
    events: Mutex<Events>,
    state: Mutex<State>,
    /// How far consumers may read at the others.
    visible: Mutex<Vec<(NodeId, PhysicalOffset)>>,
    links: Links,
    shipping: shipping::Shipping,
    me: Weak<Inner>,
}

#[derive(Default)]
struct Events {
    waiting: VecDeque<Event>,
    /// Somebody handles them.
    busy: bool,
    stopped: bool,
}

pub(crate) enum Event {
    /// For the replica as it is.
    Input(Input),
    /// An answer, and the records that came with it.
    Answered(NodeId, crate::Answer, bytes::Bytes),
    /// A waiter for this mark fired: more was written or flushed, or an epoch ended.
    Marks(Durability),
    /// A request, and how it is answered.
    Asked(NodeId, crate::Request, Connection, staticfire_transport::Command),
    Read(reading::Waiting),
    Raised(raising::Raised),
    /// The promise is on stable storage, or could not be brought there.
    Kept(Promise, io::Result<()>),
}

/// A request that waits for its answer.
pub(crate) struct Asked {
    from: NodeId,
    connection: Connection,
    command: staticfire_transport::Command,
}

pub(crate) struct State {
    replica: Replica,
    incoming: Incoming,
    /// Records that belong to the answer being handled.
    records: bytes::Bytes,
    role: Role,
    /// The barrier of this node's epoch, until it is written.
    begun: Vec<EpochStart>,
    requests: BTreeMap<Token, Asked>,
    reads: BTreeMap<Token, reading::Waiting>,
    raised: Vec<raising::Raised>,
    next_token: u64,
    keeping: Keeping,
    /// An epoch of a master whose barrier found no room, and when to try again.
    begin_again: Option<(Epoch, Millis)>,
    /// Inputs that the effects being carried out bring up.
    inputs: VecDeque<Input>,
    stepping: bool,
    /// Waiters are set for these ends.
    waiting_written: Option<Position>,
    waiting_flushed: Option<Position>,
    /// Where the log ended when its epochs were noted.
    noted: Position,
}

impl Member {
    /// Starts to take part with `store`, which was opened with [`Durability::Confirmed`].
    ///
    /// # Errors
    /// [`MemberError`].
    ///
    /// # Panics
    /// When the store confirms by itself.
    pub fn start(
        transport: Arc<dyn Transport>,
        runtime: Arc<dyn Runtime>,
        store: Store,
        options: MemberOptions,
        observer: Arc<dyn MemberObserver>,
    ) -> Result<Self, MemberError> {
        if let Failover::Master { generation } = options.settings.failover
            && !(1..=GENERATION_MAX).contains(&generation)
        {
            return Err(MemberError::Generation(generation));
        }
        let directory = Arc::clone(store.directory());
        let found = notes::read_promise(&*directory).map_err(MemberError::Notes)?;
        let new = found.is_none();
        let (disk, mut promise) =
            found.unwrap_or_else(|| (crate::DiskId(runtime.random()), Promise::default()));
        if let Some(base) = crate::resync::finish(&store).map_err(MemberError::Notes)? {
            observer.restarted(base);
        }
        let marks = store.marks();
        let log = notes::read_epochs(&store, new).map_err(MemberError::Notes)?;
        if new {
            notes::write_promise(&*directory, disk, &promise).map_err(MemberError::Promise)?;
        }
        // The store may have had epochs of its own before it was replicated.
        promise.epoch = promise.epoch.max(Epoch(marks.epoch.0.saturating_sub(1)));
        if promise.epoch > marks.epoch {
            store.fence(promise.epoch);
        }
        let session = u64::try_from(runtime.wall_ms()).unwrap_or(0) << 16;
        let noted = log.last();
        store.keep_from(KeptFor::Replication, noted.end);
        let (flushed, confirmed) = (marks.flushed, marks.confirmed);
        let remembered = Remembered { disk, promise, log, flushed, confirmed, session };
        let replica = Replica::new(options.settings.clone(), runtime.random(), remembered);
        let group = format!("{}/{}", options.cluster, options.name);
        let listen = options.listen;
        let role = Role::Follower { epoch: replica.epoch(), leader: None };
        let inner = Arc::new_cyclic(|me| Inner {
            links: Links::new(&options.peers),
            shipping: shipping::Shipping::default(),
            options,
            group,
            store,
            runtime,
            transport,
            observer,
            events: Mutex::default(),
            visible: Mutex::default(),
            state: Mutex::new(State {
                replica,
                incoming: Incoming::default(),
                records: bytes::Bytes::new(),
                role,
                begun: Vec::new(),
                requests: BTreeMap::new(),
                reads: BTreeMap::new(),
                raised: Vec::new(),
                next_token: 0,
                keeping: Keeping::default(),
                begin_again: None,
                inputs: VecDeque::new(),
                stepping: false,
                waiting_written: None,
                waiting_flushed: None,
                noted,
            }),
            me: me.clone(),
        });
        let service = Arc::new(ReplicationService(Arc::downgrade(&inner)));
        let listener =
            inner.transport.listen(listen, service).map_err(|error| MemberError::Listen(listen, error))?;
        // Sets the first waiters.
        inner.push(Event::Marks(Durability::Written));
        inner.runtime.spawn(Box::pin(tick(Arc::downgrade(&inner))));
        Ok(Self { inner, _listener: listener })
    }

    /// What this node is now.
    #[must_use]
    pub fn role(&self) -> Role {
        self.inner.state().role
    }

    /// What this node knows now.
    #[must_use]
    pub fn status(&self) -> MemberStatus {
        let now_ms = self.inner.now();
        let state = self.inner.state();
        let replica = &state.replica;
        MemberStatus {
            node: replica.settings().group.me(),
            role: state.role,
            epoch: replica.epoch(),
            leader: replica.leader(),
            voter: replica.is_voter(),
            last: replica.last(),
            flushed: replica.flushed_end(),
            confirmed: replica.confirmed(),
            others: replica.progress(),
            in_sync: replica.in_sync(now_ms).len(),
            now_ms,
        }
    }

    /// Slaves that count for the mode now; 0 on a node that does not lead.
    #[must_use]
    pub fn in_sync(&self) -> usize {
        let now_ms = self.inner.now();
        self.inner.state().replica.in_sync(now_ms).len()
    }

    /// How far consumers may read at each slave that was heard of lately: for [`crate::suggest`].
    /// Empty on a node that does not lead. As of the last event; unlike the other questions it may be
    /// asked while an observer is called.
    #[must_use]
    pub fn visible_ends(&self) -> Vec<(NodeId, PhysicalOffset)> {
        self.inner.visible().clone()
    }

    /// Hands the leadership to `to`, or to the node that has most; without effect on a follower.
    pub fn transfer(&self, to: Option<NodeId>) {
        self.inner.push(Event::Input(Input::Transfer { to }));
    }

    /// Completes when everything that was acknowledged before can be read here, or with `false` when
    /// this node cannot say.
    #[must_use]
    pub fn read_index(&self) -> ReadIndex {
        let (waiting, read) = reading::pair();
        self.inner.push(Event::Read(waiting));
        read
    }

    /// Calls `waiter` when as many nodes as `mode` says have everything up to `position`, which this node
    /// appended in the position's epoch, or with [`Outcome::Unknown`](staticfire_storage::Outcome::Unknown) when that epoch is over. For more than the
    /// mode of the group, which the store's own waiters are for.
    pub fn when(&self, mode: Mode, position: Position, waiter: Waiter) {
        self.inner.push(Event::Raised(raising::Raised { mode, position, waiter }));
    }

    /// Takes part in nothing more.
    pub fn stop(&self) {
        self.inner.stop();
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("group", &self.inner.group).finish_non_exhaustive()
    }
}

/// Looks at the clock when the replica wants it, until the node stops.
async fn tick(inner: Weak<Inner>) {
    loop {
        let Some(sleep) = inner.upgrade().and_then(|inner| inner.until_tick()) else { return };
        sleep.await;
        let Some(inner) = inner.upgrade() else { return };
        inner.tick();
    }
}

impl Inner {
    pub(crate) fn now(&self) -> Millis {
        u64::try_from(self.runtime.now().since_start().as_millis()).unwrap_or(Millis::MAX)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn visible(&self) -> MutexGuard<'_, Vec<(NodeId, PhysicalOffset)>> {
        self.visible.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn events(&self) -> MutexGuard<'_, Events> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.events().stopped
    }

    fn stop(&self) {
        let mut events = self.events();
        events.stopped = true;
        events.waiting.clear();
        drop(events);
        self.links.close();
    }

    fn until_tick(&self) -> Option<staticfire_transport::BoxFuture<'static, ()>> {
        if self.is_stopped() {
            return None;
        }
        let due = Duration::from_millis(self.state().due());
        let now = self.runtime.now();
        let wait = due.saturating_sub(now.since_start()).clamp(Duration::from_millis(1), TICK_MAX);
        Some(self.runtime.sleep(wait))
    }

    fn tick(&self) {
        if self.state().due() <= self.now() {
            self.push(Event::Input(Input::Tick));
        }
    }

    /// Handles `event` after all that came before, here or on the thread that is at it.
    pub(crate) fn push(&self, event: Event) {
        let mut events = self.events();
        if events.stopped {
            return;
        }
        events.waiting.push_back(event);
        if std::mem::replace(&mut events.busy, true) {
            return;
        }
        while let Some(event) = events.waiting.pop_front() {
            drop(events);
            self.handle(event);
            events = self.events();
        }
        events.busy = false;
    }

    /// The member itself, for what runs later.
    pub(crate) fn weak(&self) -> Weak<Self> {
        self.me.clone()
    }

    /// Comes back when more than what the replica knows is written or flushed.
    pub(crate) fn watch_marks(&self, state: &mut State) {
        if state.replica.is_stopped() {
            return;
        }
        let epoch = self.store.marks().epoch;
        let after = |end: PhysicalOffset| Position { epoch, end: end.after(1) };
        let (written, flushed) = (after(state.replica.log().end()), after(state.replica.flushed_end()));
        if state.waiting_written.is_none() {
            state.waiting_written = Some(written);
            self.come_back(Durability::Written, written);
        }
        // Nothing is flushed for somebody who does not ask for it.
        let settings = state.replica.settings();
        let wanted = settings.failover == Failover::Raft || settings.mode != Mode::Written;
        let wanted = wanted || !state.raised.is_empty();
        if wanted && state.waiting_flushed.is_none() {
            state.waiting_flushed = Some(flushed);
            self.come_back(Durability::Flushed, flushed);
        }
    }

    fn come_back(&self, mark: Durability, position: Position) {
        let inner = self.weak();
        let told = move |_| {
            if let Some(inner) = inner.upgrade() {
                inner.push(Event::Marks(mark));
            }
        };
        self.store.when(mark, position, Box::new(told));
    }
}

/// A future of one value, set from anywhere.
pub(crate) struct Later<T>(Arc<Mutex<(Option<T>, Option<std::task::Waker>)>>);

impl<T> Clone for Later<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Later<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new((None, None))))
    }
}

impl<T> Later<T> {
    pub(crate) fn set(&self, value: T) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.0.get_or_insert(value);
        let waker = state.1.take();
        drop(state);
        waker.into_iter().for_each(std::task::Waker::wake);
    }
}

impl<T> Future for Later<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match state.0.take() {
            Some(value) => Poll::Ready(value),
            None => {
                state.1 = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}
