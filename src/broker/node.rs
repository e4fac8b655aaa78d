//! A broker as a node of a broker group: who leads it, and what only the leader does.
//!
//! ```text
//!                      leader                    everybody else
//!   sends, topics      taken                     "not available" (14), before anything is written
//!   offsets, bounds,   answered once a majority  the same
//!   locks              shows that it leads
//!   pulls              answered                  below its confirmed; else "retry at the master" (20)
//!   registered as      id 0                      its node number
//! ```
//! Election and copying are [`Member`]'s. Without a group all of this lets everything pass.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use staticfire_replication::{
    Evidence, Failover, Group, GroupError, LogCut, Member, MemberError, MemberObserver, MemberOptions,
    MemberStatus, Mode, NodeId, Role, Settings, Timing,
};
use staticfire_storage::{Epoch, Position};
use staticfire_transport::{Command, Connection};

use super::metrics::Seen;
use super::options::BrokerOptions;
use super::polls::Poll;
use super::refusal::Refusal;
use super::shared::{Shared, lock};
use super::state::Keeping;
use super::turn::Reply;
use crate::protocol::body::{MASTER_ID, NodeStatus};
use crate::protocol::codes::{request, response};

/// Cuts that are remembered until somebody asks.
const UNTOLD_MAX: usize = 64;
/// The highest generation an operator may choose.
const GENERATION_MAX: u16 = 32_767;

/// How a broker takes part in its broker group.
#[derive(Clone, Debug)]
pub struct GroupOptions {
    /// Its number in the group: 1 or more, kept for ever, and its broker id while it is a slave.
    pub node: NodeId,
    /// Where it listens for the other nodes.
    pub listen: SocketAddr,
    /// All nodes of the group, this one too, and where each listens for the others.
    pub peers: BTreeMap<NodeId, SocketAddr>,
    /// Who decides which node leads.
    pub failover: Failover,
    /// What OK means. With [`Failover::Raft`] it is always [`Mode::Quorum`].
    pub mode: Mode,
    /// How long the nodes wait for each other.
    pub timing: Timing,
    /// Bytes a second that slaves get together which are far behind; `None`: as fast as they take it. See
    /// [`Settings::catch_up_rate`].
    pub catch_up_rate: Option<NonZeroU64>,
}

impl GroupOptions {
    /// Node `node` of the group of `peers`, with the default times; OK means flushed, or with Raft
    /// flushed by a majority.
    ///
    /// # Panics
    /// When the node is not among them.
    #[must_use]
    pub fn new(node: NodeId, peers: BTreeMap<NodeId, SocketAddr>, failover: Failover) -> Self {
        let mode = if failover == Failover::Raft { Mode::Quorum } else { Mode::Flushed };
        Self {
            node,
            listen: peers[&node],
            peers,
            failover,
            mode,
            timing: Timing::default(),
            catch_up_rate: None,
        }
    }

    /// Finds out whether a broker can start with these.
    ///
    /// # Errors
    /// [`GroupOptionsError`].
    pub fn check(&self) -> Result<(), GroupOptionsError> {
        self.settings().map(drop)
    }

    /// What the replica is told.
    fn settings(&self) -> Result<Settings, GroupOptionsError> {
        if self.peers.contains_key(&NodeId(0)) {
            return Err(GroupOptionsError::NodeZero);
        }
        if let Failover::Master { generation } = self.failover
            && !(1..=GENERATION_MAX).contains(&generation)
        {
            return Err(GroupOptionsError::Generation(generation));
        }
        let (raft, quorum) = (self.failover == Failover::Raft, self.mode == Mode::Quorum);
        let slaves = self.peers.len().saturating_sub(1);
        let too_many = matches!(self.mode, Mode::Replicated { slaves: wanted, .. } if usize::from(wanted.get()) > slaves);
        if raft != quorum || too_many {
            return Err(GroupOptionsError::Mode { mode: self.mode, failover: self.failover, slaves });
        }
        let group = Group::new(self.peers.keys().copied().collect(), self.node);
        let mut settings = Settings::new(group.map_err(GroupOptionsError::Group)?, self.failover);
        (settings.mode, settings.timing) = (self.mode, self.timing);
        settings.catch_up_rate = self.catch_up_rate;
        Ok(settings)
    }
}

/// Why a broker cannot be a node as its options say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupOptionsError {
    /// 0 is the broker id of whoever leads.
    NodeZero,
    /// The generation is not 1 to 32,767.
    Generation(u16),
    /// The mode asks for more than this group can give.
    Mode {
        /// The mode.
        mode: Mode,
        /// Who decides which node leads.
        failover: Failover,
        /// Slaves that there can be.
        slaves: usize,
    },
    /// The nodes are no group.
    Group(GroupError),
}

impl fmt::Display for GroupOptionsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NodeZero => f.write_str("node 0: nodes are numbered from 1, for the leader registers as 0"),
            Self::Generation(found) => {
                write!(f, "generation {found}: there are 1 to {GENERATION_MAX}, one more at each promotion")
            }
            Self::Mode { failover: Failover::Raft, mode, .. } => {
                write!(f, "mode {mode}: with raft, OK always means quorum")
            }
            Self::Mode { mode: Mode::Quorum, .. } => f.write_str("mode quorum needs raft"),
            Self::Mode { mode, slaves, .. } => write!(f, "mode {mode}: the group has {slaves} slaves"),
            Self::Group(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for GroupOptionsError {}

/// A broker's part in its group.
pub struct Node {
    pub options: GroupOptions,
    role: Mutex<Role>,
    /// Until the broker stops.
    member: Mutex<Option<Arc<Member>>>,
    /// What it last could not do.
    trouble: Mutex<Option<String>>,
    /// How often it began to lead.
    pub leaderships: AtomicU64,
    /// Bytes cut from the log.
    pub truncated: AtomicU64,
    pub cuts: Mutex<Cuts>,
    pub turns: Turns,
    pub state: Keeping,
}

/// What was cut off the log since the start.
#[derive(Debug, Default)]
pub struct Cuts {
    /// How often, by reason.
    pub times: BTreeMap<&'static str, u64>,
    /// The newest, until they are told.
    untold: VecDeque<LogCut>,
}

/// How often the lead was asked for and lost, since the start.
#[derive(Debug, Default)]
pub struct Turns {
    /// It stood for election, for no leader was heard of.
    pub silence: AtomicU64,
    /// It stood for election, for the leader handed over to it.
    pub handed: AtomicU64,
    /// It led and does so no more.
    pub lost: AtomicU64,
    /// Times that the log was closed to an epoch's producers.
    pub fences: AtomicU64,
    /// The last epoch it stood in.
    stood: AtomicU64,
}

impl Node {
    pub fn new(options: GroupOptions) -> Self {
        let role = Mutex::new(Role::Follower { epoch: Epoch(0), leader: None });
        let state = Keeping::default();
        Self {
            options,
            role,
            member: Mutex::default(),
            trouble: Mutex::default(),
            leaderships: AtomicU64::new(0),
            truncated: AtomicU64::new(0),
            cuts: Mutex::default(),
            turns: Turns::default(),
            state,
        }
    }

    /// What it is for clients: whoever leads serves once it took over the state of the group.
    pub fn role(&self) -> Role {
        match self.member_role() {
            Role::Leader { epoch, accepts, .. } if !self.state.took_over(epoch) => {
                Role::Leader { epoch, serves: false, accepts }
            }
            role => role,
        }
    }

    /// What it is in the group.
    pub fn member_role(&self) -> Role {
        *lock(&self.role)
    }

    /// Something could not be done.
    pub fn tell(&self, trouble: String) {
        *lock(&self.trouble) = Some(trouble);
    }

    pub fn trouble(&self) -> Option<String> {
        lock(&self.trouble).clone()
    }

    pub fn member(&self) -> Option<Arc<Member>> {
        lock(&self.member).clone()
    }

    pub fn status(&self) -> Option<MemberStatus> {
        self.member().map(|member| member.status())
    }

    /// Slaves that a message must be on before it is acknowledged as `mode` says.
    pub fn slaves_needed(&self, mode: Mode) -> usize {
        match mode {
            Mode::Written | Mode::Flushed => 0,
            Mode::Replicated { slaves, .. } => slaves.get().into(),
            Mode::Quorum => self.options.peers.len() / 2,
        }
    }
}

/// Looks at a broker's part in its group, also while the broker stops. Does not keep it.
#[derive(Clone)]
pub struct NodeView(pub(super) Weak<Shared>);

impl NodeView {
    /// What it is now; `None`: it is in no group, or gone.
    #[must_use]
    pub fn role(&self) -> Option<Role> {
        Some(self.0.upgrade()?.node.as_ref()?.role())
    }

    /// What the broker is, in a group or alone; `None`: it is gone.
    #[must_use]
    pub fn status(&self) -> Option<NodeStatus> {
        Some(self.0.upgrade()?.node_status())
    }

    /// What the broker is and has done; `None`: it is gone.
    pub(super) fn seen(&self) -> Option<Seen> {
        Some(self.0.upgrade()?.seen())
    }

    /// What was cut off its log since this was asked last, oldest first; no more than 64 are remembered.
    #[must_use]
    pub fn take_cuts(&self) -> Vec<LogCut> {
        let shared = self.0.upgrade();
        let node = shared.as_ref().and_then(|shared| shared.node.as_ref());
        node.map_or_else(Vec::new, |node| lock(&node.cuts).untold.drain(..).collect())
    }

    /// What its part in the group last could not do, in words.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.0.upgrade()?.node.as_ref()?.trouble()
    }
}

impl fmt::Debug for NodeView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NodeView").field(&self.role()).finish()
    }
}

/// What the member tells its broker.
struct Told(Weak<Shared>);

impl Told {
    fn trouble(&self, what: String) {
        self.node(|node| node.tell(what));
    }

    fn node(&self, tell: impl FnOnce(&Node)) {
        let shared = self.0.upgrade();
        if let Some(node) = shared.as_ref().and_then(|shared| shared.node.as_ref()) {
            tell(node);
        }
    }
}

impl MemberObserver for Told {
    fn role(&self, role: Role) {
        if let Some(shared) = self.0.upgrade() {
            shared.on_role(role);
        }
    }

    fn stands(&self, epoch: Epoch, told: bool) {
        self.node(|Node { turns, .. }| {
            if turns.stood.swap(epoch.0, Ordering::Relaxed) != epoch.0 {
                let why = if told { &turns.handed } else { &turns.silence };
                why.fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    fn fenced(&self, _epoch: Epoch) {
        self.node(|node| _ = node.turns.fences.fetch_add(1, Ordering::Relaxed));
    }

    fn cut(&self, cut: &LogCut) {
        if let Some(shared) = self.0.upgrade() {
            shared.on_cut(cut);
        }
    }

    fn restarted(&self, _base: Position) {
        if let Some(shared) = self.0.upgrade() {
            shared.state_after_restart();
        }
    }

    fn evidence(&self, evidence: &Evidence) {
        self.trouble(format!("going on would destroy what was confirmed: {evidence:?}"));
    }

    fn failed(&self, what: &str) {
        self.trouble(what.to_owned());
    }
}

impl Shared {
    /// What this broker is now became known. The member's lock is held: ask it for nothing here.
    fn on_role(self: &Arc<Self>, role: Role) {
        let Some(node) = &self.node else { return };
        let before = std::mem::replace(&mut *lock(&node.role), role);
        if role.serves() && !before.serves() {
            node.leaderships.fetch_add(1, Ordering::Relaxed);
        }
        if before.serves() && !role.serves() {
            node.turns.lost.fetch_add(1, Ordering::Relaxed);
        }
        // Name servers are told.
        self.changes.raise();
        self.look_again();
    }

    /// Whoever waits here may have to wait elsewhere.
    pub fn look_again(self: &Arc<Self>) {
        let shared = Arc::clone(self);
        self.spawn(async move {
            let held = lock(&shared.polls).take_where(|_: &Poll<_>| true);
            held.into_iter().for_each(|poll| shared.answer_held(poll.request));
        });
    }

    /// The log lost something; nothing of that was confirmed, unless the operator chose another node's
    /// log, or the leader's expired. The member's lock is held.
    fn on_cut(&self, cut: &LogCut) {
        if let Some(node) = &self.node {
            node.truncated.fetch_add(cut.bytes(), Ordering::Relaxed);
            let mut cuts = lock(&node.cuts);
            *cuts.times.entry(cut.reason.name()).or_default() += 1;
            cuts.untold.push_back(*cut);
            if cuts.untold.len() > UNTOLD_MAX {
                cuts.untold.pop_front();
            }
        }
        self.state_after_cut();
    }

    /// Begins to take part in the group, if there is one.
    pub fn join(self: &Arc<Self>) -> Result<(), JoinError> {
        let Some(node) = &self.node else { return Ok(()) };
        let options = MemberOptions {
            cluster: self.options.cluster.clone(),
            name: self.options.name.clone(),
            listen: node.options.listen,
            peers: node.options.peers.clone(),
            settings: node.options.settings().map_err(JoinError::Options)?,
            hot_bytes: self.options.hot_bytes,
        };
        let (transport, runtime) = (Arc::clone(&self.transport), Arc::clone(&self.runtime));
        let told = Arc::new(Told(Arc::downgrade(self)));
        let member = Member::start(transport, runtime, self.store.clone(), options, told);
        *lock(&node.member) = Some(Arc::new(member.map_err(JoinError::Member)?));
        Ok(())
    }

    /// Takes part no more.
    pub fn part(&self) {
        let member = self.node.as_ref().and_then(|node| lock(&node.member).take());
        if let (Some(node), Some(member)) = (&self.node, member) {
            member.stop();
            *lock(&node.role) = Role::Stopped;
        }
    }

    /// Hands the leadership to another node, if this one has it and nodes elect; to the one that has
    /// most unless told.
    pub fn transfer(&self, to: Option<NodeId>) {
        if let Some(member) = self.node.as_ref().and_then(Node::member) {
            member.transfer(to);
        }
    }

    /// True for a broker that answers what only a leader may answer.
    pub fn serves(&self) -> bool {
        self.node.as_ref().is_none_or(|node| node.role().serves())
    }

    /// True for a broker that changes what the group has: messages, topics, offsets.
    pub fn writes(&self) -> bool {
        self.node.as_ref().is_none_or(|node| node.role().serves() && node.role().accepts())
    }

    /// The id it registers with, and the leadership period, 0 for who does not lead.
    pub fn standing(&self) -> (i64, i64) {
        match &self.node {
            None => (self.options.id, 0),
            Some(node) => match node.role() {
                Role::Leader { serves: true, epoch, .. } => {
                    (MASTER_ID, i64::try_from(epoch.0).unwrap_or(i64::MAX))
                }
                _ => (node.options.node.0.into(), 0),
            },
        }
    }

    /// Refuses messages that this node must not take, or could not copy as it promises.
    pub fn takes_messages(&self) -> Result<(), Refusal> {
        let Some(node) = &self.node else { return self.must_be_master() };
        if !self.writes() {
            return Err(self.not_leader());
        }
        self.enough_in_sync(node.options.mode)
    }

    fn must_be_master(&self) -> Result<(), Refusal> {
        let BrokerOptions { id, name, .. } = &self.options;
        if *id == MASTER_ID {
            return Ok(());
        }
        let remark = format!("this broker is slave {id} of {name}; messages are sent to its master");
        Err(Refusal::new(response::SERVICE_NOT_AVAILABLE, remark))
    }

    pub fn not_leader(&self) -> Refusal {
        let leader = match self.node.as_ref().map(Node::role) {
            Some(Role::Follower { leader: Some(leader), .. }) => format!("node {leader} leads"),
            Some(Role::Leader { .. }) => "its leadership begins or ends".to_owned(),
            _ => "it knows no leader".to_owned(),
        };
        Refusal::new(response::SERVICE_NOT_AVAILABLE, format!("this broker is no master now: {leader}"))
    }

    /// Completes with true when everything acknowledged before can be read here (read-index).
    pub async fn leads_now(&self) -> bool {
        match &self.node {
            None => true,
            Some(node) => match node.member() {
                Some(member) => member.read_index().await,
                None => false,
            },
        }
    }

    /// Answers what only a leader answers, all of a turn after one look whether this node leads. What one connection
    /// asks takes effect in the order in which it came: what comes while somebody looks waits for him.
    pub fn answer_as_leader(self: &Arc<Self>, connection: &Connection, requests: Vec<Command>) {
        match lock(&self.for_leader).entry(connection.id()) {
            Entry::Occupied(mut waiting) => return waiting.get_mut().extend(requests),
            Entry::Vacant(nobody) => _ = nobody.insert(requests),
        }
        let (shared, connection) = (Arc::clone(self), connection.clone());
        self.spawn(async move {
            while let Some(requests) = shared.next_for_leader(&connection) {
                let leads = shared.leads_now().await;
                shared.answer_in_order(&connection, requests, leads);
            }
        });
    }

    /// What came since the last time; `None`, and nobody is at it any more, when nothing did.
    fn next_for_leader(&self, connection: &Connection) -> Option<Vec<Command>> {
        let mut all = lock(&self.for_leader);
        let waiting = all.get_mut(&connection.id()).map(std::mem::take).unwrap_or_default();
        if waiting.is_empty() {
            all.remove(&connection.id());
        }
        Some(waiting).filter(|waiting| !waiting.is_empty())
    }

    fn answer_in_order(self: &Arc<Self>, connection: &Connection, requests: Vec<Command>, leads: bool) {
        let mut answers = Vec::new();
        for request in requests {
            let handled = if leads { self.handle(connection, &request) } else { Err(self.not_leader()) };
            let answer = match handled {
                Ok(Reply::Later) => continue,
                Ok(Reply::Now(answer)) => answer,
                Err(refusal) => refusal.answer(&request),
            };
            if !request.is_one_way() {
                answers.push(answer);
            }
        }
        let (shared, connection) = (Arc::clone(self), connection.clone());
        self.spawn(async move {
            // What was changed, or was seen of changes, must outlive this node.
            if leads && let Err(Refusal { code, remark }) = shared.changes_confirmed().await {
                for answer in &mut answers {
                    (answer.code, answer.remark) = (code, Some(remark.clone()));
                }
            }
            // A peer that is gone needs no answers.
            let _ = connection.send_all(&mut answers);
        });
    }
}

/// Why a broker is not a node of its group.
#[derive(Debug)]
pub enum JoinError {
    Options(GroupOptionsError),
    Member(MemberError),
}

/// True for what only a leader answers: what it writes, and what must not be older than the newest
/// acknowledgement (DESIGN §7 rule 12).
pub const fn is_for_leader(code: i32) -> bool {
    matches!(
        code,
        request::QUERY_CONSUMER_OFFSET
            | request::GET_CONSUME_STATS
            | request::QUERY_CONSUME_TIME_SPAN
            | request::UPDATE_CONSUMER_OFFSET
            | request::GET_MAX_OFFSET
            | request::GET_MIN_OFFSET
            | request::SEARCH_OFFSET_BY_TIMESTAMP
            | request::GET_EARLIEST_MSG_STORE_TIME
            | request::LOCK_BATCH_MQ
            | request::UNLOCK_BATCH_MQ
            | request::UPDATE_AND_CREATE_TOPIC
            | request::UPDATE_AND_CREATE_TOPIC_LIST
            | request::DELETE_TOPIC_IN_BROKER
            | request::UPDATE_AND_CREATE_SUBSCRIPTION_GROUP
            | request::UPDATE_AND_CREATE_SUBSCRIPTION_GROUP_LIST
            | request::DELETE_SUBSCRIPTION_GROUP
            | request::CLONE_GROUP_OFFSET
            | request::INVOKE_BROKER_TO_RESET_OFFSET
    )
}
