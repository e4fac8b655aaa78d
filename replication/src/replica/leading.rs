//! A leader: sends what is asked for, counts who has what, confirms.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use staticfire_storage::{Epoch, PhysicalOffset, Position};

use super::pacing::{NEAR, Pace, window};
use super::{Effect, Failover, Millis, Replica, Role, Token};
use crate::{Answer, Fetch, FetchAnswer, Mode, NodeId, Promise, Request, SlaveAck};

/// Fetches of one node that wait for something to send.
const PARKED_MAX: usize = 2;
/// Bits of an epoch that count restarts of a master within one generation of the operator's.
const RESTART_BITS: u32 = 16;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Leading {
    epoch: Epoch,
    /// Where the barrier of this epoch ends, once it is appended.
    barrier: Option<PhysicalOffset>,
    serves: bool,
    followers: BTreeMap<NodeId, Follower>,
    /// The newest round of read-index; each fetch repeats the last it heard of.
    round: u64,
    reads: VecDeque<Read>,
    transfer: Option<Transfer>,
    /// When a master next asks those that are silent whether there is a newer one.
    doubt_ms: Millis,
    /// Of what is sent to those who catch up.
    pace: Pace,
}

/// A read waits for a majority to show that this node still leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Read {
    round: u64,
    token: Token,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Transfer {
    to: NodeId,
    /// It was told to take over.
    told: bool,
    deadline_ms: Millis,
}

/// What is known of one that copies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Follower {
    session: u64,
    /// Its log and ours are the same up to here.
    matched: PhysicalOffset,
    /// And on its stable storage up to here.
    flushed: PhysicalOffset,
    /// What consumers may read there.
    visible: PhysicalOffset,
    /// Sent in this session up to here; `None` before the logs are known to agree.
    sent: Option<PhysicalOffset>,
    told_confirmed: PhysicalOffset,
    told_round: u64,
    round: u64,
    learner: bool,
    /// It was far behind when its session began, and has not come near since.
    catching_up: bool,
    heard_ms: Option<Millis>,
    parked: VecDeque<(Token, Millis)>,
}

impl Follower {
    /// It asks for more than it was sent, and may be sent that.
    fn waits_for_more(&self, end: PhysicalOffset, fetch_max: u64) -> bool {
        let upto = end.min(window(self.matched, fetch_max));
        !self.parked.is_empty() && self.sent.is_some_and(|sent| sent < upto)
    }
}

/// What a leader knows of another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaProgress {
    /// Its log is ours up to here.
    pub matched: PhysicalOffset,
    /// And on its stable storage up to here.
    pub flushed: PhysicalOffset,
    /// And consumers may read it there up to here.
    pub visible: PhysicalOffset,
    /// When it last asked; `None`: not in this epoch.
    pub heard_ms: Option<Millis>,
    /// It counts for nothing yet.
    pub learner: bool,
    /// It is far behind, and copies no faster than [`Settings::catch_up_rate`](crate::Settings::catch_up_rate)
    /// allows; it is not in sync.
    pub catching_up: bool,
    /// Its fetches that wait here.
    pub parked: usize,
}

impl Leading {
    pub(super) const fn serves(&self) -> bool {
        self.serves
    }

    pub(super) fn deadline(&self, settings: &super::Settings, end: PhysicalOffset) -> Millis {
        let parked = self.followers.values().filter_map(|follower| follower.parked.front());
        let oldest = parked.map(|(_, since)| since + settings.timing.heartbeat_ms).min();
        let heard = self.followers.values().filter_map(|follower| follower.heard_ms).min();
        let quorum = match settings.failover {
            Failover::Raft => heard.map(|heard| heard + settings.timing.election_max_ms),
            Failover::Master { .. } | Failover::Slave => Some(self.doubt_ms),
        };
        let transfer = self.transfer.map(|transfer| transfer.deadline_ms);
        let paced = settings.catch_up_rate.is_some()
            && self
                .followers
                .values()
                .any(|follower| follower.catching_up && follower.waits_for_more(end, settings.fetch_max));
        let paced = paced.then_some(self.pace.due());
        [oldest, quorum, transfer, paced].into_iter().flatten().min().unwrap_or(Millis::MAX)
    }

    pub(super) fn progress(&self) -> BTreeMap<NodeId, ReplicaProgress> {
        let shown = |follower: &Follower| ReplicaProgress {
            matched: follower.matched,
            flushed: follower.flushed,
            visible: follower.visible,
            heard_ms: follower.heard_ms,
            learner: follower.learner,
            catching_up: follower.catching_up,
            parked: follower.parked.len(),
        };
        self.followers.iter().map(|(node, follower)| (*node, shown(follower))).collect()
    }
}

impl Replica {
    fn leading(&mut self) -> Option<&mut Leading> {
        match &mut self.role {
            Role::Leading(leading) => Some(leading),
            _ => None,
        }
    }

    /// A majority voted, or the operator said so.
    pub(super) fn lead(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let epoch = self.epoch();
        let heard = Follower { heard_ms: Some(now), ..Follower::default() };
        let followers = self.settings.group.others().map(|node| (node, heard.clone())).collect();
        let early = match &mut self.role {
            Role::Standing(standing) => standing.take_early(),
            _ => BTreeMap::new(),
        };
        self.role = Role::Leading(Leading {
            epoch,
            barrier: None,
            serves: self.settings.planted("serve-at-once"),
            followers,
            round: 0,
            reads: VecDeque::new(),
            transfer: None,
            doubt_ms: now + self.settings.timing.election_max_ms,
            pace: Pace::default(),
        });
        self.send(Effect::Lead(epoch), effects);
        for (from, (token, fetch)) in early {
            self.fetch(now, from, token, fetch, effects);
        }
    }

    /// The operator made this node the master. Each start is an epoch of its own: what was not
    /// flushed when it crashed may be on a slave, and other bytes will stand in its place here.
    pub(super) fn begin_as_master(&mut self, now: Millis, generation: u16, effects: &mut Vec<Effect>) {
        let me = self.settings.group.me();
        let first = u64::from(generation) << RESTART_BITS;
        let epoch = Epoch(first.max(self.epoch().0 + 1));
        let newer = epoch.0 >> RESTART_BITS > u64::from(generation);
        if newer {
            // A higher generation has begun: this master is an old one, and follows.
            return self.tick_following(now, effects);
        }
        self.save(Promise { epoch, vote: Some(me), ..self.promise.clone() }, effects);
        self.lead(now, effects);
    }

    /// Whatever this node was, it is no more: nobody waits for it in vain.
    pub(super) fn leave(&mut self, effects: &mut Vec<Effect>) {
        self.held.retain(|effect| !matches!(effect, Effect::Lead(_)));
        if let Role::Standing(standing) = &mut self.role {
            let early = standing.take_early();
            early.into_values().for_each(|(token, _)| self.refuse(token, 0, effects));
        }
        let Some(leading) = self.leading() else { return };
        let reads: Vec<Token> = leading.reads.drain(..).map(|read| read.token).collect();
        let gated = leading.transfer.take().is_some();
        let mut parked = Vec::new();
        for follower in leading.followers.values_mut() {
            parked.extend(follower.parked.drain(..).map(|(token, _)| (token, follower.session)));
        }
        effects.extend(reads.into_iter().map(Effect::ReadLost));
        if gated {
            effects.push(Effect::Gate { open: true });
        }
        let epoch = self.epoch();
        for (token, session) in parked {
            let answer = Answer::Fetch(FetchAnswer::Refused { epoch, leader: None, session });
            self.send(Effect::Answer { token, answer }, effects);
        }
    }

    pub(super) fn fetch(
        &mut self,
        now: Millis,
        from: NodeId,
        token: Token,
        fetch: Fetch,
        effects: &mut Vec<Effect>,
    ) {
        if self.adopt(now, fetch.epoch, None, effects) || fetch.epoch < self.epoch() {
            return self.refuse(token, 0, effects);
        }
        if let Role::Standing(standing) = &mut self.role {
            if let Some(refused) = standing.wait(from, token, fetch) {
                self.refuse(refused, 0, effects);
            }
            return;
        }
        let base = self.log.base();
        let counts_probes = self.settings.planted("count-probe");
        let undetected = self.settings.planted("Z29") && fetch.at.end <= self.log.end();
        let counts_earlier_lives = self.settings.planted("Z30");
        let stale_counts = self.settings.planted("stale-session");
        let (known, has) = (self.log.common(fetch.at.epoch), self.log.has(fetch.at) || undetected);
        let Some(leading) = self.leading() else { return self.refuse(token, 0, effects) };
        let (epoch, session, newest_round) = (leading.epoch, fetch.session, leading.round);
        let follower = leading.followers.entry(from).or_default();
        if session < follower.session && !stale_counts {
            let newest = follower.session;
            return self.refuse(token, newest, effects);
        }
        follower.heard_ms = Some(now);
        follower.learner = fetch.learner;
        // One that was never told would answer for reads to come (B56).
        if fetch.round <= newest_round {
            follower.round = follower.round.max(fetch.round);
        }
        let mut void = Vec::new();
        if session > follower.session {
            follower.session = session;
            follower.sent = None;
            // In an earlier life it may have had more: it counts again for what it shows in this one (I25).
            follower.visible = PhysicalOffset(0);
            if !counts_earlier_lives {
                (follower.matched, follower.flushed) = (PhysicalOffset(0), PhysicalOffset(0));
            }
            follower.told_confirmed = PhysicalOffset(0);
            void.extend(follower.parked.drain(..));
        }
        if counts_probes {
            follower.flushed = follower.flushed.max(fetch.flushed);
        }
        let sent = follower.sent;
        for (token, _) in void {
            self.refuse(token, session, effects);
        }
        let answer = match sent {
            None if fetch.at.end < base.end || known.epoch > fetch.at.epoch => {
                FetchAnswer::Below { session, epoch, base }
            }
            None if !has => FetchAnswer::Diverged { session, epoch, common: known },
            // It claims what it was never sent: an acknowledgement not to be believed (I24).
            Some(sent) if (fetch.at.end > sent || !has) && !self.settings.planted("Z28") => {
                return self.refuse(token, session + 1, effects);
            }
            _ => {
                self.park(now, from, (token, fetch), effects);
                self.answer_reads(effects);
                return;
            }
        };
        self.send(Effect::Answer { token, answer: Answer::Fetch(answer) }, effects);
        self.answer_reads(effects);
    }

    /// The logs agree up to where it asks from: note what it has, and answer when there is more.
    fn park(&mut self, now: Millis, from: NodeId, (token, fetch): (Token, Fetch), effects: &mut Vec<Effect>) {
        let trusting = self.settings.planted("Z28");
        let end = self.log.end();
        let Some(follower) = self.leading().and_then(|leading| leading.followers.get_mut(&from)) else {
            return;
        };
        if follower.sent.is_none() {
            follower.catching_up = end.0.saturating_sub(fetch.at.end.0) > NEAR;
        }
        follower.sent.get_or_insert(fetch.at.end);
        follower.matched = follower.matched.max(fetch.at.end);
        let flushed = if trusting { fetch.flushed } else { fetch.flushed.min(fetch.at.end) };
        follower.flushed = follower.flushed.max(flushed);
        follower.visible = follower.visible.max(fetch.visible.min(fetch.at.end));
        follower.parked.push_back((token, now));
        let surplus = follower.parked.len() > PARKED_MAX;
        self.advance(now, effects);
        self.feed(now, from, surplus, effects);
        self.hand_over(now, effects);
    }

    /// Answers waiting fetches of `node` while there is something to say; `oldest`: one at least.
    fn feed(&mut self, now: Millis, node: NodeId, mut oldest: bool, effects: &mut Vec<Effect>) {
        let (end, confirmed, max) = (self.log.end(), self.confirmed, self.settings.fetch_max);
        let rate = self.settings.catch_up_rate;
        loop {
            let Some(leading) = self.leading() else { return };
            let (epoch, round, pace) = (leading.epoch, leading.round, &mut leading.pace);
            let Some(follower) = leading.followers.get_mut(&node) else { return };
            let Some(from) = follower.sent else { return };
            let slowed = rate.filter(|_| follower.catching_up);
            let more = follower.waits_for_more(end, max) && (slowed.is_none() || pace.due() <= now);
            // What was confirmed at the end is no news to who has not come near it.
            let shown = slowed.is_none() && follower.told_confirmed < confirmed;
            let news = more || shown || follower.told_round < round;
            if !news && !oldest {
                return;
            }
            let Some((token, _)) = follower.parked.pop_front() else { return };
            oldest = false;
            let room = if more { end.min(window(follower.matched, max)) } else { from };
            let upto = room.min(PhysicalOffset(from.0.saturating_add(max)));
            if let Some(rate) = slowed {
                pace.sent(now, upto.0 - from.0, rate.get());
            }
            follower.catching_up &= end.0 - upto.0 > NEAR;
            (follower.sent, follower.told_confirmed, follower.told_round) = (Some(upto), confirmed, round);
            let session = follower.session;
            let answer = FetchAnswer::Records { session, epoch, from, upto, end, confirmed, round };
            self.send(Effect::Answer { token, answer: Answer::Fetch(answer) }, effects);
        }
    }

    /// Who has least comes first, so that of those who share the rate nobody is left behind.
    fn feed_all(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let mut others: Vec<NodeId> = self.settings.group.others().collect();
        if let (Some(leading), true) = (self.leading(), others.len() > 1) {
            let has = |node: &NodeId| leading.followers.get(node).map(|follower| follower.matched);
            others.sort_by_key(has);
        }
        others.into_iter().for_each(|node| self.feed(now, node, false, effects));
    }

    pub(super) fn appended_leading(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let started = self.log.rows().last().is_some_and(|row| row.epoch == self.epoch());
        let end = self.log.end();
        if let Some(leading) = self.leading()
            && leading.barrier.is_none()
            && started
        {
            leading.barrier = Some(end);
        }
        self.advance(now, effects);
        self.feed_all(now, effects);
    }

    /// Confirms what enough nodes have, and never anything before the barrier of this epoch is
    /// among it (Raft, figure 8; DESIGN §7 rule 6).
    pub(super) fn advance(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let reached = self.reached(self.mode());
        let (any_epoch, end) = (self.settings.planted("Z19"), self.log.end());
        let Some(leading) = self.leading() else { return };
        let barrier = leading.barrier.unwrap_or(PhysicalOffset(u64::MAX));
        if reached >= barrier || any_epoch {
            let serve = !leading.serves && reached >= barrier;
            leading.serves |= serve;
            let epoch = leading.epoch;
            self.confirm(reached.min(end), effects);
            if serve {
                effects.push(Effect::Serve(epoch));
            }
            self.feed_all(now, effects);
        }
    }

    /// The largest position that as many nodes have as `mode` asks for; 0 on a node that does not lead.
    #[must_use]
    pub fn reached(&self, mode: Mode) -> PhysicalOffset {
        let Role::Leading(leading) = &self.role else { return PhysicalOffset(0) };
        let own = if self.settings.planted("Z2") { self.log.end() } else { self.flushed };
        let count_learners = self.settings.planted("Z21");
        let counted = leading.followers.values().filter(|follower| !follower.learner || count_learners);
        let kth = |mut ends: Vec<PhysicalOffset>, k: usize| {
            if !self.settings.planted("Z20") {
                ends.sort_unstable_by(|a, b| b.cmp(a));
            }
            ends.get(k - 1).copied().unwrap_or_default()
        };
        match mode {
            Mode::Written => self.log.end(),
            Mode::Flushed => own,
            Mode::Replicated { slaves, ack } => {
                let ends = counted.map(|follower| match ack {
                    SlaveAck::Received => follower.matched,
                    SlaveAck::Flushed => follower.flushed,
                });
                let ends: Vec<PhysicalOffset> = ends.collect();
                let connected = leading.followers.values().filter(|follower| follower.sent.is_some()).count();
                if self.settings.planted("Z31") && connected < usize::from(slaves.get()) {
                    return own;
                }
                own.min(kth(ends, usize::from(slaves.get())))
            }
            Mode::Quorum => {
                let received = self.settings.planted("count-received");
                let end = |it: &Follower| if received { it.matched } else { it.flushed };
                let ends = std::iter::once(own).chain(counted.map(end));
                kth(ends.collect(), self.settings.group.majority())
            }
        }
    }

    pub(super) fn tick_leading(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let timing = self.settings.timing;
        let (elects, majority) = (self.elects(), self.settings.group.majority());
        let Some(leading) = self.leading() else { return };
        let hears = |follower: &&Follower| {
            !follower.learner && follower.heard_ms.is_some_and(|heard| now < heard + timing.election_max_ms)
        };
        if elects && leading.followers.values().filter(hears).count() + 1 < majority {
            return self.step_down(now, effects);
        }
        if !elects && now >= leading.doubt_ms {
            leading.doubt_ms = now + timing.election_max_ms;
            let silent = leading.followers.iter().filter(|(_, follower)| !hears(follower));
            let silent: Vec<NodeId> = silent.map(|(node, _)| *node).collect();
            self.ask_for_newer(silent, effects);
        }
        let Some(leading) = self.leading() else { return };
        if leading.transfer.is_some_and(|transfer| now >= transfer.deadline_ms) {
            leading.transfer = None;
            effects.push(Effect::Gate { open: true });
        }
        let Some(leading) = self.leading() else { return };
        let late = |follower: &Follower| {
            follower.parked.front().is_some_and(|(_, since)| now >= since + timing.heartbeat_ms)
        };
        let late: Vec<NodeId> =
            leading.followers.iter().filter(|(_, follower)| late(follower)).map(|(node, _)| *node).collect();
        late.into_iter().for_each(|node| self.feed(now, node, true, effects));
        if self.settings.catch_up_rate.is_some() {
            self.feed_all(now, effects);
        }
    }

    /// Whoever waits learns that nothing is known, for the epoch ends (check-quorum, thesis §6.2).
    fn step_down(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let epoch = Epoch(self.epoch().0 + 1);
        self.adopt(now, epoch, None, effects);
        self.hear(now);
    }

    pub(super) fn resign(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        if self.elects() && self.leads() {
            self.step_down(now, effects);
        }
    }

    pub(super) fn read(&mut self, now: Millis, token: Token, effects: &mut Vec<Effect>) {
        let (stale, old_round) = (self.settings.planted("Z25"), self.settings.planted("old-round"));
        let (by_clock, patience) = (self.settings.planted("Z26"), self.settings.timing.election_min_ms);
        let lease = |follower: &&Follower| follower.heard_ms.is_some_and(|at| now < at + patience);
        let (confirmed, majority) = (self.confirmed, self.settings.group.majority());
        let Some(leading) = self.leading().filter(|leading| leading.serves) else {
            return effects.push(Effect::ReadLost(token));
        };
        if stale || by_clock && leading.followers.values().filter(lease).count() >= majority - 1 {
            return effects.push(Effect::ReadReady { token, confirmed });
        }
        leading.round += u64::from(!old_round || leading.round == 0);
        let round = leading.round;
        leading.reads.push_back(Read { round, token });
        self.feed_all(now, effects);
        self.answer_reads(effects);
    }

    /// A round is over when a majority repeated it: each of them was still in this epoch after the
    /// read came.
    fn answer_reads(&mut self, effects: &mut Vec<Effect>) {
        let (elects, majority, confirmed) = (self.elects(), self.settings.group.majority(), self.confirmed);
        let Some(leading) = self.leading() else { return };
        let mut rounds: Vec<u64> =
            leading.followers.values().filter(|f| !f.learner).map(|f| f.round).collect();
        rounds.push(leading.round);
        rounds.sort_unstable_by(|a, b| b.cmp(a));
        let shown = if elects { rounds.get(majority - 1).copied().unwrap_or(0) } else { leading.round };
        while leading.reads.front().is_some_and(|read| read.round <= shown) {
            let ready = leading.reads.pop_front();
            effects.extend(ready.map(|read| Effect::ReadReady { token: read.token, confirmed }));
        }
    }

    /// Refuses producers, waits until the other one has everything, and tells it to stand.
    pub(super) fn transfer(&mut self, now: Millis, to: Option<NodeId>, effects: &mut Vec<Effect>) {
        let patience = self.settings.timing.election_max_ms;
        let elects = self.elects();
        let Some(leading) = self.leading().filter(|leading| elects && leading.transfer.is_none()) else {
            return;
        };
        let voters = leading.followers.iter().filter(|(_, follower)| !follower.learner);
        let best = voters.max_by_key(|(node, follower)| (follower.matched, follower.heard_ms, **node));
        let Some(to) = to.filter(|node| leading.followers.contains_key(node)).or(best.map(|(node, _)| *node))
        else {
            return;
        };
        leading.transfer = Some(Transfer { to, told: false, deadline_ms: now + patience });
        effects.push(Effect::Gate { open: false });
        self.hand_over(now, effects);
    }

    fn hand_over(&mut self, _now: Millis, effects: &mut Vec<Effect>) {
        let (end, confirmed) = (self.log.end(), self.confirmed);
        let Some(Leading { transfer: Some(transfer), followers, epoch, .. }) = self.leading() else { return };
        let ready = followers.get(&transfer.to).is_some_and(|follower| follower.matched == end);
        if ready && confirmed == end && !transfer.told {
            transfer.told = true;
            let (to, epoch) = (transfer.to, *epoch);
            self.send(Effect::Ask { to, request: Request::TakeOver { epoch } }, effects);
        }
    }

    /// A failed node hands over what it can and is silent from then on (DESIGN §7 rule 13).
    pub(super) fn failed(&mut self, effects: &mut Vec<Effect>) {
        let elects = self.elects() && self.saved == self.promise;
        if let Some(leading) = self.leading().filter(|_| elects) {
            let voters = leading.followers.iter().filter(|(_, follower)| !follower.learner);
            let best = voters.max_by_key(|(node, follower)| (follower.matched, **node));
            let epoch = leading.epoch;
            if let Some((to, _)) = best {
                effects.push(Effect::Ask { to: *to, request: Request::TakeOver { epoch } });
            }
        }
        self.leave(effects);
        self.role = Role::Stopped;
    }

    /// Slaves that count for the mode: heard of lately, and not far behind since they came.
    #[must_use]
    pub fn in_sync(&self, now: Millis) -> BTreeSet<NodeId> {
        let near = self.heard_lately(now).filter(|(_, follower)| !follower.catching_up);
        near.map(|(node, _)| node).collect()
    }

    /// How far consumers may read at slaves that were heard of lately: for [`crate::suggest`].
    #[must_use]
    pub fn visible_ends(&self, now: Millis) -> Vec<(NodeId, PhysicalOffset)> {
        self.heard_lately(now).map(|(node, follower)| (node, follower.visible)).collect()
    }

    fn heard_lately(&self, now: Millis) -> impl Iterator<Item = (NodeId, &Follower)> {
        let followers = match &self.role {
            Role::Leading(leading) => Some(&leading.followers),
            _ => None,
        };
        let patience = self.settings.timing.election_max_ms;
        let lately = move |follower: &Follower| {
            follower.sent.is_some()
                && !follower.learner
                && follower.heard_ms.is_some_and(|heard| now < heard + patience)
        };
        let all = followers.into_iter().flatten().map(|(node, follower)| (*node, follower));
        all.filter(move |(_, follower)| lately(follower))
    }

    /// The operator's generation that an epoch belongs to, in manual mode.
    #[must_use]
    pub const fn generation(epoch: Epoch) -> u64 {
        epoch.0 >> RESTART_BITS
    }
}

impl Replica {
    /// True when this node was configured as master and a newer one was heard of.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        match self.settings.failover {
            Failover::Master { generation } => Self::generation(self.epoch()) > u64::from(generation),
            Failover::Raft | Failover::Slave => false,
        }
    }

    /// Where the log ended, as a position, when it was last looked at.
    #[must_use]
    pub fn last(&self) -> Position {
        self.log.last()
    }
}
