//! A follower: finds its leader, finds what both logs have in common, copies.
//!
//! ```text
//!   Seeking ──> Probing ──────────────────────────> Copying
//!      ^           └──> cut, or begin anew ──┐
//!      └─────────────────────────────────────┘
//! ```
//! Reconciliation happens once in a session and by epochs, never by a high watermark (KIP-101): the
//! follower asks from its end; the leader names the most the two can have in common; the follower
//! asks from there, until they agree. Only then is anything cut, once.

use staticfire_storage::{PhysicalOffset, Position};

use super::{Effect, Millis, Replica, Role};
use crate::{EpochTable, Fetch, FetchAnswer, NodeId, Request};

/// Fetches that wait at the leader.
const IN_FLIGHT: u8 = 2;
/// With those that only bring news of a flush.
const IN_FLIGHT_MAX: u8 = 4;

/// Why a replica stopped: two logs contradict each other below what was confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Evidence {
    /// The leader whose log differs.
    pub leader: NodeId,
    /// The last position that both may have in common.
    pub common: Position,
    /// What was confirmed here.
    pub confirmed: PhysicalOffset,
    /// Where the log here ends.
    pub last: Position,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Following {
    leader: Option<NodeId>,
    phase: Phase,
    in_flight: u8,
    /// A flush that the leader has not heard of.
    news: bool,
    /// What the leader said last.
    leader_confirmed: PhysicalOffset,
    round: u64,
    /// When to ask again, without a leader.
    retry_ms: Millis,
    /// Whom to ask then, before the others.
    first: Option<NodeId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Seeking,
    /// Asked whether the leader has this position.
    Probing(Position),
    /// The logs agree up to the end of ours; bytes have come up to here.
    Copying(PhysicalOffset),
}

impl Following {
    pub(super) const fn new(leader: Option<NodeId>) -> Self {
        Self {
            leader,
            phase: Phase::Seeking,
            in_flight: 0,
            news: false,
            leader_confirmed: PhysicalOffset(0),
            round: 0,
            retry_ms: 0,
            first: None,
        }
    }

    pub(super) const fn seek(first: Option<NodeId>, retry_ms: Millis) -> Self {
        Self { first, retry_ms, ..Self::new(None) }
    }

    pub(super) const fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    pub(super) fn deadline(&self, silent_ms: Millis) -> Millis {
        match self.phase {
            Phase::Seeking => self.retry_ms,
            Phase::Probing(_) | Phase::Copying(_) => silent_ms,
        }
    }
}

impl Replica {
    /// The logs agree and bytes are coming.
    #[must_use]
    pub const fn is_copying(&self) -> bool {
        matches!(&self.role, Role::Following(Following { phase: Phase::Copying(_), .. }))
    }

    fn following(&mut self) -> Option<&mut Following> {
        match &mut self.role {
            Role::Following(following) => Some(following),
            _ => None,
        }
    }

    /// Looks again in a moment.
    pub(super) fn wait_before_seeking(&mut self, now: Millis) {
        let retry_ms = now + self.settings.timing.retry_ms;
        if let Some(following) = self.following() {
            following.retry_ms = retry_ms;
        }
    }

    /// Without a leader, asks one node after the other whether it is one.
    pub(super) fn tick_following(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let (retry_ms, silent_ms) = (now + self.settings.timing.retry_ms, self.silent_deadline());
        let Some(following) = self.following() else { return };
        if now < following.deadline(silent_ms) {
            return;
        }
        let first = following.first;
        *following = Following::seek(None, retry_ms);
        if let Some(next) = first.or(self.settings.group.next_after(self.asked)) {
            self.asked = next;
            self.session += 1;
            if !self.cutting {
                self.ask_from(self.log.last(), effects);
            }
        }
    }

    /// Asks the leader from the end of the log.
    pub(super) fn begin_session(&mut self, effects: &mut Vec<Effect>) {
        let last = self.log.last();
        let Some(Following { leader: Some(leader), .. }) = self.following() else { return };
        self.asked = *leader;
        self.session += 1;
        if !self.cutting {
            self.probe(last, effects);
        }
    }

    fn probe(&mut self, at: Position, effects: &mut Vec<Effect>) {
        let Some(following) = self.following() else { return };
        following.phase = Phase::Probing(at);
        following.in_flight = 1;
        self.ask_from(at, effects);
    }

    fn ask_from(&mut self, at: Position, effects: &mut Vec<Effect>) {
        let round = self.following().map_or(0, |following| following.round);
        let flushed = if self.settings.planted("Z27") { at.end } else { self.flushed.min(at.end) };
        let (session, epoch, learner) = (self.session, self.epoch(), !self.is_voter());
        let visible = self.confirmed.min(at.end);
        let fetch = Fetch { session, epoch, at, flushed, visible, round, learner };
        self.send(Effect::Ask { to: self.asked, request: Request::Fetch(fetch) }, effects);
    }

    /// Keeps fetches at the leader, and brings it news of flushes.
    fn pump(&mut self, effects: &mut Vec<Effect>) {
        let last = self.log.last();
        loop {
            let Some(following) = self.following() else { return };
            let allowed = if following.news { IN_FLIGHT_MAX } else { IN_FLIGHT };
            if !matches!(following.phase, Phase::Copying(_)) || following.in_flight >= allowed {
                return;
            }
            following.in_flight += 1;
            following.news = false;
            self.ask_from(last, effects);
        }
    }

    pub(super) fn unanswered(&mut self, now: Millis, from: NodeId) {
        let retry_ms = now + self.settings.timing.retry_ms;
        let asked = self.asked;
        let Some(following) = self.following() else { return };
        if from == asked {
            let was_leader = following.leader == Some(from);
            // The election timer runs on: a leader that cannot be reached is none.
            *following = Following::seek(None, retry_ms);
            if was_leader {
                self.stand_soon(now);
            }
        }
    }

    /// The connection to the leader broke, as it does when its process dies. It is asked for among the
    /// others once or twice; then this node stands, for which they must not hear of the leader either.
    fn stand_soon(&mut self, now: Millis) {
        let timing = self.settings.timing;
        let spread = timing.election_max_ms.saturating_sub(timing.election_min_ms) / 2;
        let drawn = if spread == 0 { 0 } else { self.draw.next() % spread };
        let soon = now + 2 * timing.retry_ms + drawn;
        self.election_ms = self.election_ms.min(soon.saturating_sub(self.heard_ms));
    }

    pub(super) fn fetched(
        &mut self,
        now: Millis,
        from: NodeId,
        answer: FetchAnswer,
        effects: &mut Vec<Effect>,
    ) {
        let (epoch, session) = match answer {
            FetchAnswer::Records { epoch, session, .. }
            | FetchAnswer::Diverged { epoch, session, .. }
            | FetchAnswer::Below { epoch, session, .. } => (epoch, session),
            FetchAnswer::Refused { epoch, leader, session } => {
                return self.refused(now, from, epoch, (leader, session), effects);
            }
        };
        if self.adopt(now, epoch, Some(from), effects) || epoch < self.epoch() {
            return;
        }
        // A node that stands, and hears of the leader that was elected in its epoch, follows it.
        if matches!(self.role, Role::Standing(_)) {
            return self.follow(now, Some(from), effects);
        }
        let (current, asked) = (self.session, self.asked);
        let Some(following) = self.following() else { return };
        if session != current || from != asked {
            return;
        }
        let found = following.leader.is_none();
        following.leader = Some(from);
        if found && following.phase == Phase::Seeking {
            effects.push(Effect::Follow { epoch, leader: Some(from) });
            self.hear(now);
            return self.begin_session(effects);
        }
        self.hear(now);
        match answer {
            FetchAnswer::Records { from: start, upto, end, confirmed, round, .. } => {
                self.joining.aim(epoch, end);
                self.records(from, start, upto, (confirmed, round), effects);
            }
            FetchAnswer::Diverged { common, .. } => self.diverged(common, effects),
            FetchAnswer::Below { base, .. } => self.below(from, base, effects),
            FetchAnswer::Refused { .. } => unreachable!("handled above"),
        }
    }

    fn refused(
        &mut self,
        now: Millis,
        from: NodeId,
        epoch: staticfire_storage::Epoch,
        (leader, session): (Option<NodeId>, u64),
        effects: &mut Vec<Effect>,
    ) {
        let leader =
            leader.filter(|leader| self.settings.group.has(*leader) && *leader != self.settings.group.me());
        if self.adopt(now, epoch, leader, effects) || epoch < self.epoch() || from != self.asked {
            return;
        }
        self.session = self.session.max(session.min(u64::MAX / 2));
        let retry_ms = now + self.settings.timing.retry_ms;
        let Some(following) = self.following() else { return };
        match leader {
            // Whom the others know, not who answered: that one is asked at once.
            Some(leader) if leader != from => {
                following.leader = Some(leader);
                self.begin_session(effects);
            }
            leader => *following = Following::seek(leader, retry_ms),
        }
    }

    fn records(
        &mut self,
        leader: NodeId,
        from: PhysicalOffset,
        upto: PhysicalOffset,
        (confirmed, round): (PhysicalOffset, u64),
        effects: &mut Vec<Effect>,
    ) {
        let (last, base) = (self.log.last(), self.log.base());
        if self.settings.planted("confirm-unmatched") {
            self.confirm(confirmed.min(last.end), effects);
        }
        let Some(following) = self.following() else { return };
        following.in_flight = following.in_flight.saturating_sub(1);
        following.round = following.round.max(round);
        match following.phase {
            Phase::Probing(at) if at.end < base.end => {
                if !self.contradicts(leader, at, effects) {
                    self.reset(at, effects);
                }
            }
            Phase::Probing(at) if at.end < last.end => self.cut(leader, at, effects),
            Phase::Probing(at) => {
                following.phase = Phase::Copying(at.end);
                following.leader_confirmed = confirmed;
                self.copied(from, upto, effects);
            }
            Phase::Copying(_) => {
                following.leader_confirmed = following.leader_confirmed.max(confirmed);
                self.copied(from, upto, effects);
            }
            Phase::Seeking => {}
        }
    }

    fn copied(&mut self, from: PhysicalOffset, upto: PhysicalOffset, effects: &mut Vec<Effect>) {
        let Some(Following { phase: Phase::Copying(received), .. }) = self.following() else { return };
        if upto > from {
            if from != *received {
                // Something between is missing: begin again from the end of the log.
                effects.push(Effect::Restart);
                return self.begin_session(effects);
            }
            *received = upto;
            effects.push(Effect::Take { from });
        }
        self.learn(effects);
        self.pump(effects);
    }

    /// Never above what is known to be the leader's too: our end, within this session.
    fn learn(&mut self, effects: &mut Vec<Effect>) {
        let end = self.log.end();
        let Some(Following { phase: Phase::Copying(_), leader_confirmed, .. }) = self.following() else {
            return;
        };
        let confirmed = end.min(*leader_confirmed);
        self.confirm(confirmed, effects);
    }

    pub(super) fn appended_following(&mut self, effects: &mut Vec<Effect>) {
        let received = self.log.end();
        if let Some(Following { phase: Phase::Copying(at), news, .. }) = self.following() {
            *at = (*at).max(received);
            *news = true;
        }
        self.learn(effects);
        self.pump(effects);
    }

    pub(super) fn flushed_following(&mut self, effects: &mut Vec<Effect>) {
        if let Some(following) = self.following() {
            following.news = true;
        }
        self.caught_up(effects);
        self.pump(effects);
    }

    fn diverged(&mut self, common: Position, effects: &mut Vec<Effect>) {
        let Some(Following { phase: Phase::Probing(at), .. }) = self.following() else {
            effects.push(Effect::Restart);
            return self.begin_session(effects);
        };
        let at = *at;
        let here = self.log.common(common.epoch);
        let end = match () {
            // Everything kept here is newer than what the leader has of it: from the very beginning.
            () if here.epoch > common.epoch => PhysicalOffset(0),
            () if here.epoch == common.epoch => here.end.min(common.end),
            () => here.end,
        };
        if end >= at.end {
            // No leader answers so: it named what we just said we have. Ask someone else.
            let Some(following) = self.following() else { return };
            *following = Following::new(None);
            return;
        }
        let next = if end == PhysicalOffset(0) { Position::default() } else { self.log.at(end) };
        self.probe(next, effects);
    }

    fn below(&mut self, leader: NodeId, base: Position, effects: &mut Vec<Effect>) {
        if let Some(Following { phase: Phase::Probing(at), .. }) = self.following() {
            // What both have ends no later than what was asked for, nor than what the leader keeps begins.
            let common = Position { end: at.end.min(base.end), ..base };
            if !self.contradicts(leader, common, effects) {
                self.reset(base, effects);
            }
        }
    }

    /// From here on this node claims only what is left, while the cut is still under way.
    fn cut(&mut self, leader: NodeId, to: Position, effects: &mut Vec<Effect>) {
        if self.contradicts(leader, to, effects) {
            return;
        }
        self.log.truncate(to.end);
        if !self.settings.planted("Z18") {
            self.flushed = self.flushed.min(to.end);
        }
        self.confirmed = self.confirmed.min(to.end);
        self.begin_cut(Effect::Truncate(to.end), effects);
    }

    /// What the leader keeps begins at `base`. All before it was confirmed once, so who begins there counts
    /// for it; this node claims nothing else from here on.
    fn reset(&mut self, mut base: Position, effects: &mut Vec<Effect>) {
        if self.settings.planted("base-epoch") {
            base.epoch = staticfire_storage::Epoch(0);
        }
        self.log = EpochTable::new(base, &[], base.end).unwrap_or_default();
        (self.flushed, self.confirmed) = (base.end, base.end);
        self.begin_cut(Effect::Reset(base), effects);
    }

    fn begin_cut(&mut self, cut: Effect, effects: &mut Vec<Effect>) {
        self.cutting = true;
        if let Some(following) = self.following() {
            following.phase = Phase::Seeking;
            following.in_flight = 0;
        }
        effects.push(cut);
    }

    /// Nothing that a majority confirmed is ever taken back; an operator may take back what one
    /// node alone had confirmed.
    fn contradicts(&mut self, leader: NodeId, common: Position, effects: &mut Vec<Effect>) -> bool {
        let contradicts = self.elects() && common.end < self.confirmed;
        if contradicts {
            let evidence = Evidence { leader, common, confirmed: self.confirmed, last: self.log.last() };
            self.stop(evidence, effects);
        }
        contradicts
    }

    /// The log is what it shall be; it is compared once more, and copied.
    pub(super) fn cut_done(&mut self, effects: &mut Vec<Effect>) {
        self.cutting = false;
        self.begin_session(effects);
    }
}
