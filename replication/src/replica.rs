//! One node's part in copying and electing: a state machine without clock, socket, thread or
//! randomness of its own (DESIGN D3, D7, §7).
//!
//! ```text
//!              timeout, majority would          majority voted
//!   Following ──────────────────────> Standing ────────────────> Leading
//!       ^    <──────────────────────     │   a leader, or a          │
//!       │      a leader is heard of      │   higher epoch            │
//!       └────────────────────────────────┴──────────────────<────────┘
//! ```
//!
//! It is Raft (Ongaro and Ousterhout, USENIX ATC 2014, with pre-vote and check-quorum of Ongaro's
//! thesis, §4.2.3 and §6.2) on positions of the commit log, and pull-based: the follower asks, as
//! in KRaft (KIP-595, KIP-320) and MongoDB (Zhou and Mu, NSDI 2021). With
//! [`Failover::Master`] and [`Failover::Slave`] the same machine copies between a master and its slaves that nobody elects.
//!
//! The bytes themselves never pass through here. Whoever drives a replica gives it [`Input`]s and
//! carries out the [`Effect`]s in order.

use std::collections::BTreeMap;

use staticfire_storage::{Epoch, PhysicalOffset, Position};

use crate::{
    Answer, DiskId, EpochStart, EpochTable, FetchAnswer, Introduction, Mode, NodeId, Promise, Request,
    VoteAnswer,
};

mod electing;
mod following;
mod joining;
mod leading;
mod pacing;
mod settings;

pub use following::Evidence;
pub use leading::ReplicaProgress;
pub use settings::{Draw, Failover, Settings, Timing};

use electing::Standing;
use following::Following;
use joining::Joining;
use leading::Leading;

/// Names a request until it is answered; drawn by the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// Milliseconds of a monotonic clock. Safety never depends on it (I45).
pub type Millis = u64;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// Time passed; see [`Replica::deadline`].
    Tick,
    /// Another member asks.
    Request {
        /// Who; known from the connection, not from the message.
        from: NodeId,
        /// For the answer.
        token: Token,
        /// What.
        request: Request,
    },
    /// Another member answers.
    Answer {
        /// Who.
        from: NodeId,
        /// What.
        answer: Answer,
    },
    /// What this member was asked will not be answered: it is not reachable.
    Unanswered {
        /// Who.
        from: NodeId,
    },
    /// [`Effect::Save`] is on stable storage.
    Saved(Promise),
    /// Whole records were written, up to `end`: by producers here, or taken from the leader.
    Appended {
        /// The end of a record.
        end: PhysicalOffset,
        /// The epochs whose barriers are among them.
        epochs: Vec<EpochStart>,
    },
    /// Everything below this end of a record is on stable storage, by a flush that was started in
    /// the same incarnation of the log: none from before a cut.
    Flushed(PhysicalOffset),
    /// [`Effect::Truncate`] or [`Effect::Reset`] is done, durably.
    CutDone,
    /// Retention removed everything below this position.
    Forgotten(PhysicalOffset),
    /// A write or a flush failed: this node takes part in nothing more until it is opened again (I8).
    /// A promise that cannot be saved is saved later, and nothing leaves before (I36).
    Failed,
    /// This node cannot lead for now: where the members elect, another one shall.
    Resign,
    /// Stand for election without waiting for the timeout.
    Campaign,
    /// Hand the leadership to this node, or to the one that has most.
    Transfer {
        /// Whom.
        to: Option<NodeId>,
    },
    /// Tell when everything acknowledged before now can be read here (read-index, I44).
    Read(Token),
}

/// Something to be done, in the order given.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Put this on stable storage in place of the last one, then say [`Input::Saved`].
    Save(Promise),
    /// Ask another member.
    Ask {
        /// Whom.
        to: NodeId,
        /// What.
        request: Request,
    },
    /// Answer a request. To [`FetchAnswer::Records`] belong the bytes of the log that it names.
    Answer {
        /// Which request.
        token: Token,
        /// With what.
        answer: Answer,
    },
    /// End the epoch before: nothing is acknowledged in it any more.
    Fence(Epoch),
    /// This node leads: number the queues, append the barrier of this epoch, accept producers. Not
    /// if it was told to fence a later epoch since.
    Lead(Epoch),
    /// The barrier is confirmed: answer pulls, bounds, offsets and locks (DESIGN §7 rule 10).
    Serve(Epoch),
    /// This node follows, whom if it knows.
    Follow {
        /// In which epoch.
        epoch: Epoch,
        /// Whom.
        leader: Option<NodeId>,
    },
    /// Write the bytes that came with the answer being handled, and say [`Input::Appended`] for the
    /// whole records among them, before anything else. What is left over of a record belongs to the
    /// next bytes.
    Take {
        /// Position of the first byte.
        from: PhysicalOffset,
    },
    /// Whatever was left over of a record is void: bytes come again from the end of the log.
    Restart,
    /// Cut the log, keeping what is cut as an orphan. When the operator decides
    /// who leads, this may take back what was confirmed on this node alone.
    Truncate(PhysicalOffset),
    /// Drop the whole log as an orphan and begin at this position, with the state noted there.
    Reset(Position),
    /// Everything below can no longer be taken back.
    Confirm {
        /// In the log of which epoch.
        epoch: Epoch,
        /// The end of a record.
        end: PhysicalOffset,
    },
    /// Refuse producers for now, or no longer: a transfer is under way.
    Gate {
        /// Accept them.
        open: bool,
    },
    /// Everything acknowledged before the read is below this position.
    ReadReady {
        /// Which read.
        token: Token,
        /// What was confirmed then.
        confirmed: PhysicalOffset,
    },
    /// This node cannot say; ask the leader.
    ReadLost(Token),
    /// Going on would destroy something that was confirmed. A human must look.
    Stop(Evidence),
}

/// The state machine of one node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Replica {
    settings: Settings,
    draw: Draw,
    /// Drawn anew when a directory is first used.
    disk: DiskId,
    promise: Promise,
    /// The newest promise that is on stable storage. What depends on a newer one is `held`.
    saved: Promise,
    held: Vec<Effect>,
    log: EpochTable,
    flushed: PhysicalOffset,
    confirmed: PhysicalOffset,
    /// Numbers the sessions of this node as a follower.
    session: u64,
    /// The node last asked whether it leads.
    asked: NodeId,
    /// When a leader was last heard, or a vote given.
    heard_ms: Millis,
    election_ms: Millis,
    joining: Joining,
    /// A cut or reset is under way: nothing is copied until it is done.
    cutting: bool,
    role: Role,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Role {
    Following(Following),
    Standing(Standing),
    Leading(Leading),
    /// Failed or stopped: silent.
    Stopped,
}

/// What a replica knows when it starts: from the files of its directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// The directory's identity.
    pub disk: DiskId,
    /// What was last saved; the default in a new directory.
    pub promise: Promise,
    /// The epochs of the recovered log.
    pub log: EpochTable,
    /// The end of a record; everything below survives a power cut.
    pub flushed: PhysicalOffset,
    /// What was confirmed, as far as the directory knows.
    pub confirmed: PhysicalOffset,
    /// Above the sessions of this node's earlier lives, such as the wall clock in milliseconds. If
    /// it is not, the leader says so.
    pub session: u64,
}

impl Replica {
    /// A node that begins to take part, as a follower. Give it [`Input::Tick`] next.
    ///
    /// # Panics
    /// When the marks lie outside of the log.
    #[must_use]
    pub fn new(settings: Settings, seed: u64, remembered: Remembered) -> Self {
        let Remembered { disk, promise, log, flushed, confirmed, session } = remembered;
        assert!(flushed <= log.end() && confirmed <= log.end(), "marks beyond the log: {log:?}");
        let me = settings.group.me();
        let mut draw = Draw::new(seed);
        let election_ms = settings.timing.draw_election(&mut draw);
        let role = Role::Following(Following::new(None));
        let saved = promise.clone();
        Self {
            settings,
            draw,
            disk,
            promise,
            saved,
            held: Vec::new(),
            log,
            flushed,
            confirmed,
            session,
            asked: me,
            heard_ms: 0,
            election_ms,
            joining: Joining::default(),
            cutting: false,
            role,
        }
    }

    /// Takes one input and says what is to be done about it.
    pub fn step(&mut self, now: Millis, input: Input, effects: &mut Vec<Effect>) {
        if matches!(self.role, Role::Stopped) {
            return;
        }
        match input {
            Input::Tick => self.tick(now, effects),
            Input::Request { from, token, request } => self.request(now, from, token, request, effects),
            Input::Answer { from, answer } => self.answer(now, from, answer, effects),
            Input::Unanswered { from } => self.unanswered(now, from),
            Input::Saved(promise) => self.saved(now, promise, effects),
            Input::Appended { end, epochs } => self.appended(now, end, &epochs, effects),
            Input::Flushed(end) => self.flushed(now, end, effects),
            Input::CutDone => self.cut_done(effects),
            Input::Forgotten(min) => self.log.forget(min),
            Input::Failed => self.failed(effects),
            Input::Resign => self.resign(now, effects),
            Input::Campaign => self.campaign(now, false, effects),
            Input::Transfer { to } => self.transfer(now, to, effects),
            Input::Read(token) => self.read(now, token, effects),
        }
        assert!(self.confirmed <= self.log.end(), "confirmed what the log does not hold: {self:?}");
        assert!(self.flushed <= self.log.end(), "flushed what the log does not hold: {self:?}");
    }

    /// When the next [`Input::Tick`] is due, if nothing else happens.
    #[must_use]
    pub fn deadline(&self) -> Millis {
        match &self.role {
            Role::Following(following) => {
                let elect =
                    if self.elects() && self.is_voter() { self.election_deadline() } else { Millis::MAX };
                elect.min(following.deadline(self.silent_deadline())).min(self.joining_deadline())
            }
            Role::Standing(_) => self.election_deadline(),
            Role::Leading(leading) => leading.deadline(&self.settings, self.log.end()),
            Role::Stopped => Millis::MAX,
        }
    }

    /// The identity of its directory.
    #[must_use]
    pub const fn disk(&self) -> DiskId {
        self.disk
    }

    /// The session it follows in, or followed in last.
    #[must_use]
    pub const fn session(&self) -> u64 {
        self.session
    }

    /// The newest epoch this node knows.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.promise.epoch
    }

    /// The epochs of its log.
    #[must_use]
    pub const fn log(&self) -> &EpochTable {
        &self.log
    }

    /// What can no longer be taken back, as far as it knows.
    #[must_use]
    pub const fn confirmed(&self) -> PhysicalOffset {
        self.confirmed
    }

    /// What of its log is on stable storage.
    #[must_use]
    pub const fn flushed_end(&self) -> PhysicalOffset {
        self.flushed
    }

    /// Whom this node takes for the leader of its epoch.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        match &self.role {
            Role::Leading(_) => Some(self.settings.group.me()),
            Role::Following(following) => following.leader(),
            Role::Standing(_) | Role::Stopped => None,
        }
    }

    /// True while this node leads, whether or not its barrier is confirmed.
    #[must_use]
    pub const fn leads(&self) -> bool {
        matches!(self.role, Role::Leading(_))
    }

    /// True when it leads and its barrier is confirmed.
    #[must_use]
    pub const fn serves(&self) -> bool {
        matches!(&self.role, Role::Leading(leading) if leading.serves())
    }

    /// True when this node votes and counts.
    #[must_use]
    pub fn is_voter(&self) -> bool {
        !self.promise.formed.is_empty() || !self.elects()
    }

    /// True when it takes part in nothing more until it is opened again.
    #[must_use]
    pub const fn is_stopped(&self) -> bool {
        matches!(self.role, Role::Stopped)
    }

    /// What the leader knows of the others; empty on other nodes.
    #[must_use]
    pub fn progress(&self) -> BTreeMap<NodeId, ReplicaProgress> {
        match &self.role {
            Role::Leading(leading) => leading.progress(),
            _ => BTreeMap::new(),
        }
    }

    /// What it promised last, saved or not.
    #[must_use]
    pub const fn promise(&self) -> &Promise {
        &self.promise
    }

    /// Its settings.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    fn elects(&self) -> bool {
        self.settings.failover == Failover::Raft
    }

    /// When a leader that says nothing is taken for none.
    fn silent_deadline(&self) -> Millis {
        self.heard_ms.saturating_add(self.settings.timing.election_min_ms)
    }

    fn election_deadline(&self) -> Millis {
        self.heard_ms.saturating_add(self.election_ms)
    }

    /// A leader lives, or a vote was given: whoever stands now waits another, newly drawn, while.
    fn hear(&mut self, now: Millis) {
        self.heard_ms = now;
        if !self.settings.planted("Z23") {
            self.election_ms = self.settings.timing.draw_election(&mut self.draw);
        }
    }

    fn tick(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        match &self.role {
            Role::Leading(_) => self.tick_leading(now, effects),
            Role::Stopped => {}
            Role::Following(_) | Role::Standing(_) => {
                if let Failover::Master { generation } = self.settings.failover {
                    if self.has_asked_for_newer(now, effects) {
                        self.begin_as_master(now, generation, effects);
                    }
                } else if self.elects() && self.is_voter() && now >= self.election_deadline() {
                    self.campaign(now, true, effects);
                } else {
                    self.tick_joining(now, effects);
                    self.tick_following(now, effects);
                }
            }
        }
    }

    fn request(
        &mut self,
        now: Millis,
        from: NodeId,
        token: Token,
        request: Request,
        effects: &mut Vec<Effect>,
    ) {
        let member = self.settings.group.has(from) && from != self.settings.group.me();
        match request {
            Request::Fetch(fetch) if member => self.fetch(now, from, token, fetch, effects),
            Request::Fetch(_) => self.refuse(token, 0, effects),
            Request::Vote(vote) if member => self.vote(now, from, token, vote, effects),
            Request::Vote(vote) => {
                let (epoch, asked) = (self.epoch(), vote.epoch);
                let answer = Answer::Vote(VoteAnswer { epoch, asked, pre: vote.pre, granted: false });
                self.send(Effect::Answer { token, answer }, effects);
            }
            Request::TakeOver { epoch } => {
                let answer = Answer::TakeOver { epoch: self.epoch() };
                self.send(Effect::Answer { token, answer }, effects);
                if member && epoch == self.epoch() && self.leader() == Some(from) {
                    self.take_over(now, effects);
                }
            }
            Request::Introduce { .. } => {
                let introduction = Introduction {
                    disk: self.disk,
                    epoch: self.epoch(),
                    last: self.log.last(),
                    floor: self.promise.floor,
                    formed: self.promise.formed.clone(),
                };
                self.send(Effect::Answer { token, answer: Answer::Introduce(introduction) }, effects);
            }
        }
    }

    fn answer(&mut self, now: Millis, from: NodeId, answer: Answer, effects: &mut Vec<Effect>) {
        if !self.settings.group.has(from) {
            return;
        }
        match answer {
            Answer::Fetch(answer) => self.fetched(now, from, answer, effects),
            Answer::Vote(answer) => self.voted(now, from, answer, effects),
            Answer::TakeOver { epoch } => drop(self.adopt(now, epoch, None, effects)),
            Answer::Introduce(introduction) => self.introduced(now, from, introduction, effects),
        }
    }

    /// A message that may depend on the promise: it leaves when the promise is on stable storage.
    fn send(&mut self, effect: Effect, effects: &mut Vec<Effect>) {
        if self.saved == self.promise || self.settings.planted("Z3") {
            effects.push(effect);
        } else {
            self.held.push(effect);
        }
    }

    fn save(&mut self, promise: Promise, effects: &mut Vec<Effect>) {
        let begins = promise.epoch > self.promise.epoch;
        let epoch = promise.epoch;
        self.promise = promise;
        effects.push(Effect::Save(self.promise.clone()));
        if begins {
            effects.push(Effect::Fence(epoch));
        }
    }

    fn saved(&mut self, now: Millis, promise: Promise, effects: &mut Vec<Effect>) {
        if promise != self.promise {
            return;
        }
        self.saved = promise;
        effects.append(&mut self.held);
        self.count_votes(now, effects);
    }

    /// Follows in `epoch` if that is news; true when it was.
    fn adopt(
        &mut self,
        now: Millis,
        epoch: Epoch,
        leader: Option<NodeId>,
        effects: &mut Vec<Effect>,
    ) -> bool {
        if epoch <= self.epoch() {
            return false;
        }
        self.save(Promise { epoch, vote: None, ..self.promise.clone() }, effects);
        self.follow(now, leader, effects);
        true
    }

    fn follow(&mut self, now: Millis, leader: Option<NodeId>, effects: &mut Vec<Effect>) {
        self.leave(effects);
        self.role = Role::Following(Following::new(leader));
        effects.push(Effect::Follow { epoch: self.epoch(), leader });
        if leader.is_some() {
            self.hear(now);
            self.begin_session(effects);
        }
    }

    fn refuse(&mut self, token: Token, session: u64, effects: &mut Vec<Effect>) {
        let leader = self.leader();
        let answer = Answer::Fetch(FetchAnswer::Refused { epoch: self.epoch(), leader, session });
        self.send(Effect::Answer { token, answer }, effects);
    }

    fn appended(
        &mut self,
        now: Millis,
        end: PhysicalOffset,
        epochs: &[EpochStart],
        effects: &mut Vec<Effect>,
    ) {
        let extended = self.log.extend(epochs, end);
        assert!(extended.is_ok(), "a log out of order: {extended:?} in {self:?}");
        match &self.role {
            Role::Leading(_) => self.appended_leading(now, effects),
            Role::Following(_) => self.appended_following(effects),
            Role::Standing(_) | Role::Stopped => {}
        }
    }

    fn flushed(&mut self, now: Millis, end: PhysicalOffset, effects: &mut Vec<Effect>) {
        self.flushed = self.flushed.max(end.min(self.log.end()));
        match &self.role {
            Role::Leading(_) => self.advance(now, effects),
            Role::Following(_) => self.flushed_following(effects),
            Role::Standing(_) | Role::Stopped => {}
        }
    }

    fn confirm(&mut self, end: PhysicalOffset, effects: &mut Vec<Effect>) {
        if end > self.confirmed {
            self.confirmed = end;
            effects.push(Effect::Confirm { epoch: self.epoch(), end });
        }
    }

    fn stop(&mut self, evidence: Evidence, effects: &mut Vec<Effect>) {
        self.leave(effects);
        self.role = Role::Stopped;
        effects.push(Effect::Stop(evidence));
    }

    /// True when OK here depends on what this node alone has.
    fn mode(&self) -> Mode {
        if self.elects() { Mode::Quorum } else { self.settings.mode }
    }
}
