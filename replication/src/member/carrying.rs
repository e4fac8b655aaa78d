//! Events become inputs of the replica, and its effects are carried out.

use bytes::Bytes;
use staticfire_storage::orphans::CutReason;
use staticfire_storage::{
    AppendError, Durability, Epoch, KeptFor, LeadError, PhysicalOffset, Position, Store,
};

use super::shipping::Shipment;
use super::{Asked, Event, Inner, NOTE_EVERY, Role, State};
use crate::{
    Answer, Barrier, Effect, EpochStart, Failover, FetchAnswer, Input, LogCut, Request, Token, VoteRequest,
    notes, resync,
};

/// How often a fence looks whether the last producers have finished: for a good part of a second.
const FENCE_PATIENCE: u32 = 1_000_000;

impl Inner {
    pub(super) fn handle(&self, event: Event) {
        let mut state = self.state();
        match event {
            Event::Input(Input::Tick) => self.tick_event(&mut state),
            Event::Input(input) => self.step(&mut state, input),
            Event::Marks(mark) => {
                // One waiter for each mark, set again when it fired.
                match mark {
                    Durability::Flushed => state.waiting_flushed = None,
                    _ => state.waiting_written = None,
                }
                self.marks(&mut state);
            }
            Event::Answered(from, answer, records) => {
                state.records = records;
                self.step(&mut state, Input::Answer { from, answer });
                state.records = Bytes::new();
            }
            // What could it say? Nothing that it promises is remembered.
            Event::Asked(_, _, connection, _) if state.keeping.has_failed() => connection.close(),
            Event::Asked(from, request, connection, command) => {
                let token = state.token();
                state.requests.insert(token, Asked { from, connection, command });
                self.step(&mut state, Input::Request { from, token, request });
            }
            Event::Read(waiting) => {
                let token = state.token();
                state.reads.insert(token, waiting);
                self.step(&mut state, Input::Read(token));
            }
            Event::Raised(raised) => state.raised.push(raised),
            Event::Kept(promise, result) => self.kept(&mut state, promise, result),
        }
        self.settle_raised(&mut state);
        self.watch_marks(&mut state);
        self.note_epochs(&mut state);
        self.show_role(&mut state);
        *self.visible() = state.replica.visible_ends(self.now());
    }

    /// Gives the replica an input, and then those that its effects bring up, each after all effects
    /// of the one before.
    pub(super) fn step(&self, state: &mut State, input: Input) {
        state.inputs.push_back(input);
        if std::mem::replace(&mut state.stepping, true) {
            return;
        }
        while let Some(input) = state.inputs.pop_front() {
            let mut effects = Vec::new();
            state.replica.step(self.now(), input, &mut effects);
            for effect in effects {
                self.carry_out(state, effect);
            }
        }
        state.stepping = false;
    }

    /// Tells the replica how far the store has got.
    fn marks(&self, state: &mut State) {
        if self.store.failure().is_some() {
            return self.fail(state, "the store failed");
        }
        let marks = self.store.marks();
        if marks.written > state.replica.log().end() && state.replica.leads() {
            let epochs = std::mem::take(&mut state.begun);
            let (now, later): (Vec<EpochStart>, _) =
                epochs.into_iter().partition(|begun| begun.start < marks.written);
            state.begun = later;
            self.step(state, Input::Appended { end: marks.written, epochs: now });
        }
        let flushed = marks.flushed.min(state.replica.log().end());
        if flushed > state.replica.flushed_end() {
            self.step(state, Input::Flushed(flushed));
        }
        if marks.min > state.replica.log().base().end {
            self.step(state, Input::Forgotten(marks.min));
        }
    }

    fn carry_out(&self, state: &mut State, effect: Effect) {
        match effect {
            Effect::Save(promise) => self.keep(state, promise),
            Effect::Ask { to, request } => {
                if let Request::Vote(VoteRequest { epoch, pre: false, transfer, .. }) = request {
                    self.observer.stands(epoch, transfer);
                }
                self.ask(to, request);
            }
            Effect::Answer { token, answer } => self.answer(state, token, answer),
            Effect::Fence(epoch) => self.fence(state, epoch),
            Effect::Lead(epoch) => self.lead(state, epoch),
            Effect::Take { from } => self.take(state, from),
            Effect::Restart => state.incoming.clear(),
            Effect::Truncate(to) => self.truncate(state, to),
            Effect::Reset(base) => self.reset(state, base),
            Effect::Confirm { epoch, end } => self.store.confirm(epoch, end),
            Effect::Gate { open } => {
                if let Role::Leader { accepts, .. } = &mut state.role {
                    *accepts = open;
                    self.observer.role(state.role);
                }
            }
            Effect::ReadReady { token, .. } => {
                state.reads.remove(&token).into_iter().for_each(|waiting| waiting.set(true));
            }
            Effect::ReadLost(token) => drop(state.reads.remove(&token)),
            Effect::Stop(evidence) => self.observer.evidence(&evidence),
            // The role is looked at when all is done.
            Effect::Serve(_) | Effect::Follow { .. } => {}
        }
    }

    fn answer(&self, state: &mut State, token: Token, answer: Answer) {
        let Some(request) = state.requests.remove(&token) else { return };
        let (from, upto) = match answer {
            Answer::Fetch(FetchAnswer::Records { from, upto, .. }) if upto > from => (from, upto),
            _ => return self.write_answer(&request, answer, Vec::new()),
        };
        match self.store.slices(from, upto) {
            Ok(records) => self.ship(Shipment { request, answer, from, upto, records }),
            // Retention was faster: whoever asked asks again, and learns what is left.
            Err(_) => {
                request.connection.close();
                self.marks(state);
            }
        }
    }

    /// Ends the epoch before, and tells the replica first of all what producers had appended in it
    /// that it has not heard of: the log does end there.
    fn fence(&self, state: &mut State, epoch: Epoch) {
        if epoch > self.store.marks().epoch {
            self.store.fence(epoch);
            self.observer.fenced(epoch);
        }
        let begun = std::mem::take(&mut state.begun);
        // A producer that has its place only copies now; it is not waited for by sleeping.
        let end = (0..FENCE_PATIENCE).find_map(|_| {
            let end = self.store.final_end();
            if end.is_none() {
                std::thread::yield_now();
            }
            end
        });
        let Some(end) = end else {
            return self.fail(state, "a producer does not finish what it began before the epoch ended");
        };
        let log = state.replica.log().end();
        if end > log {
            let epochs = begun.into_iter().filter(|begun| begun.start >= log).collect();
            state.inputs.push_front(Input::Appended { end, epochs });
        }
    }

    pub(super) fn lead(&self, state: &mut State, epoch: Epoch) {
        if self.store.marks().epoch != epoch {
            return;
        }
        let members = match state.replica.settings().failover {
            Failover::Raft => state.replica.promise().formed.clone(),
            Failover::Master { .. } | Failover::Slave => Vec::new(),
        };
        let leader = state.replica.settings().group.me();
        let barrier = Barrier { epoch, leader, previous: state.replica.last(), members };
        match self.store.open_epoch_with(&barrier.message()) {
            Ok(receipt) => {
                state.begun.push(EpochStart { epoch, start: receipt.start() });
                self.marks(state);
            }
            Err(error) if may_pass(&error) => {
                self.observer.failed(&format!("epoch {epoch} cannot begin: {error}"));
                let again_ms = self.now() + state.replica.settings().timing.election_min_ms;
                state.begin_again = Some((epoch, again_ms));
                // Of an elected group somebody else may have room; what the operator chose tries again.
                self.step(state, Input::Resign);
            }
            Err(error) => self.fail(state, &format!("epoch {epoch} cannot begin: {error}")),
        }
    }

    fn take(&self, state: &mut State, from: PhysicalOffset) {
        let records = std::mem::take(&mut state.records);
        let at = state.replica.log().end();
        let whole = match state.incoming.add(at, records) {
            Ok(whole) => whole,
            Err(error) => return self.ask_again(state, &format!("{error} (from {from})")),
        };
        if whole.bytes.is_empty() {
            return;
        }
        let written = self.store.append_raw(at, &whole.bytes);
        // All of it, or all that went into the segments that there are: whole records too.
        let end = self.store.marks().appended;
        if end > at {
            let epochs = whole.epochs.into_iter().filter(|begun| begun.start < end).collect();
            self.step(state, Input::Appended { end, epochs });
        }
        match written {
            Ok(()) => {}
            Err(error) if is_passing(&error) => self.ask_again(state, &error.to_string()),
            Err(error) => self.fail(state, &format!("what the leader sent cannot be written: {error}")),
        }
    }

    /// The bytes that came are not used; the next come again from the end of the log.
    fn ask_again(&self, state: &mut State, why: &str) {
        self.observer.failed(&format!("{why}; asking again"));
        state.incoming.clear();
        let from = state.replica.leader();
        from.into_iter().for_each(|from| self.step(state, Input::Unanswered { from }));
    }

    fn truncate(&self, state: &mut State, to: PhysicalOffset) {
        state.incoming.clear();
        let (reason, cut): (_, fn(&Store, PhysicalOffset) -> _) = match state.replica.settings().failover {
            Failover::Raft => (CutReason::Diverged, Store::truncate),
            Failover::Master { .. } | Failover::Slave => (CutReason::Retracted, Store::retract),
        };
        let said = self.about_to_cut(state, reason, to, to);
        let noted = cut(&self.store, to).map_err(|error| error.to_string()).and_then(|()| {
            // Before other bytes stand there.
            notes::write_epochs(&**self.store.directory(), state.replica.log())
                .map_err(|error| error.to_string())
        });
        match noted {
            Ok(()) => {
                self.noted(state);
                self.observer.cut(&said);
                self.step(state, Input::CutDone);
            }
            Err(error) => self.fail(state, &format!("the log cannot be cut at {to}: {error}")),
        }
    }

    fn reset(&self, state: &mut State, base: Position) {
        state.incoming.clear();
        let said = self.about_to_cut(state, CutReason::BegunAnew, self.store.marks().min, base.end);
        match resync::begin(&self.store, base) {
            Ok(()) => {
                self.noted(state);
                self.observer.cut(&said);
                self.observer.restarted(base);
                self.step(state, Input::CutDone);
            }
            Err(error) => self.fail(state, &format!("the log cannot begin anew at {}: {error}", base.end)),
        }
    }

    /// The replica has forgotten which epochs it cuts; they are noted still.
    fn about_to_cut(
        &self,
        state: &State,
        reason: CutReason,
        from: PhysicalOffset,
        goes_on: PhysicalOffset,
    ) -> LogCut {
        let (end, epoch) = (self.store.marks().appended, state.replica.epoch());
        let noted = notes::noted_epochs(&**self.store.directory()).unwrap_or_default();
        let (first, last) = (noted.at(from.after(1)).epoch, noted.at(end).epoch);
        LogCut { reason, from, end, first, last, epoch, goes_on }
    }

    fn fail(&self, state: &mut State, what: &str) {
        if !state.replica.is_stopped() {
            self.observer.failed(what);
            self.step(state, Input::Failed);
        }
    }

    /// The epochs found so far need not be looked for again, and retention may remove their barriers. A
    /// new one is noted at once, others now and then or when retention waits for it.
    fn note_epochs(&self, state: &mut State) {
        let log = state.replica.log();
        let newest = log.last().epoch;
        let grown = log.end().since(state.noted.end).is_none_or(|grown| grown >= NOTE_EVERY);
        let awaited = self.store.retention_waits_for();
        let awaited = awaited.is_some_and(|wanted| state.noted.end < wanted && wanted <= log.end());
        if (grown || awaited || newest != state.noted.epoch)
            && notes::write_epochs(&**self.store.directory(), log).is_ok()
        {
            self.noted(state);
        }
    }

    /// The epochs of the log as it is are noted.
    fn noted(&self, state: &mut State) {
        state.noted = state.replica.log().last();
        self.store.keep_from(KeptFor::Replication, state.noted.end);
    }

    fn show_role(&self, state: &mut State) {
        let replica = &state.replica;
        let epoch = replica.epoch();
        let accepts = match state.role {
            Role::Leader { epoch: led, accepts, .. } if led == epoch => accepts,
            _ => true,
        };
        // Not by the row of the epoch: retention removes it with the barrier.
        let begun = replica.last().epoch == epoch;
        let role = match () {
            () if replica.is_stopped() => Role::Stopped,
            () if replica.leads() && begun => Role::Leader { epoch, serves: replica.serves(), accepts },
            () => Role::Follower { epoch, leader: replica.leader().filter(|_| !replica.leads()) },
        };
        if role != state.role {
            state.role = role;
            self.observer.role(role);
        }
        if matches!(role, Role::Stopped) {
            state.requests.clear();
            state.reads.clear();
        }
    }
}

/// It can be tried again: the disk was full, or more was under way than memory holds.
/// A log whose end cannot be read may be readable next time; until then others lead.
fn may_pass(error: &LeadError) -> bool {
    match error {
        LeadError::Dispatch(_) => true,
        LeadError::Append(error) => is_passing(error),
    }
}

fn is_passing(error: &AppendError) -> bool {
    matches!(error, AppendError::NoSegment { .. } | AppendError::Busy { .. })
}

impl State {
    fn token(&mut self) -> Token {
        self.next_token += 1;
        Token(self.next_token)
    }
}
