//! How a broker of a group keeps the state of the group.
//!
//! ```text
//!               leader                                      everybody
//!   request ──> tables ──> changes of the turn ──> log ──> confirmed ──> state
//!                                                                          │ unless it leads
//!                                                                          └──> tables
//! ```
//! The tables ([`Topics`](crate::broker::topics::Topics) and so on) are what requests see. On a leader they
//! run ahead of what is confirmed; whoever loses the lead falls back to that (I30). A leader takes
//! requests only after it took over: everything up to its barrier is confirmed and applied then.
//!
//! Rule of the locks: `logging` before the tables and before the store is appended to, never in what the
//! store calls; `confirmed` before the tables, in what the store calls too.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use staticfire_replication::Role;
use staticfire_storage::properties::TAGS;
use staticfire_storage::{
    AppendError, Durability, Epoch, KeptFor, Message, Outcome, PhysicalOffset, Position, QueueId,
    QueueOffset, ReadError, Step, TopicName,
};

use super::record::{self, Row};
use super::{Numbers, ReplicatedState, StateError};
use crate::broker::config_files::{CONSUMER_OFFSETS, ConfigError, DELAY_OFFSETS, GROUPS, TOPICS};
use crate::broker::refusal::Refusal;
use crate::broker::registration::wait;
use crate::broker::shared::{Shared, lock, read, write};
use crate::broker::signal::{Setter, oneshot, until};
use crate::broker::start::StopError;
use crate::protocol::body::{ConsumerOffsetTable, DelayOffsetTable};
use crate::protocol::names::STATE_TOPIC;

const QUEUE: QueueId = QueueId(0);
const CHANGE: &str = "change";
const CHECKPOINT: &str = "checkpoint";
/// Records appended at a time, about 1 MiB.
const AT_ONCE: usize = 32;
/// Changes that nobody waits for are logged, and checkpoints looked at, at least so often.
const TICK: Duration = Duration::from_secs(1);
/// The JSON files follow so often.
const EXPORT_PERIOD: Duration = Duration::from_secs(5);
/// Before something is tried again.
const RETRY: Duration = Duration::from_millis(20);

/// A broker's hold on the state of its group.
pub struct Keeping {
    confirmed: Mutex<Confirmed>,
    logging: Mutex<Logging>,
    /// The newest epoch in which this node took over; 0: none.
    taken: AtomicU64,
}

struct Confirmed {
    state: Result<ReplicatedState, StateError>,
    /// The tables run ahead of it, for this node leads in this epoch; `None`: they follow it.
    leads: Option<Epoch>,
}

/// What a leader put into the log.
#[derive(Default)]
struct Logging {
    /// Where the last change ends.
    last: Option<Position>,
    delays: Vec<(i32, QueueOffset)>,
}

impl Default for Keeping {
    fn default() -> Self {
        let confirmed = Confirmed { state: Ok(ReplicatedState::default()), leads: None };
        Self { confirmed: Mutex::new(confirmed), logging: Mutex::default(), taken: AtomicU64::new(0) }
    }
}

impl Keeping {
    /// True when the tables of this node are complete in this epoch, which it leads.
    pub fn took_over(&self, epoch: Epoch) -> bool {
        self.taken.load(Ordering::Acquire) == epoch.0
    }

    fn leads(&self) -> Option<Epoch> {
        lock(&self.confirmed).leads
    }
}

/// Takes over and steps down, settles changes of topics and groups, and writes checkpoints.
pub async fn keep_state(shared: Arc<Shared>) {
    // Where the last part of the newest checkpoint ends.
    let mut checkpoint = None;
    while !shared.is_stopping() {
        let Some(keeping) = shared.keeping() else { return };
        let mut retry = None;
        let upto = shared.present();
        match (shared.leading(), keeping.leads()) {
            (Some(epoch), leads) if leads != Some(epoch) => {
                if shared.take_over(epoch) {
                    // Whoever asks for a topic that came just before waits for it to be settled here.
                    continue;
                }
                retry = Some(if shared.knows_state() { RETRY } else { TICK });
            }
            (None, Some(_)) => {
                shared.step_down();
                shared.settling.not_persisted(upto, "this broker leads no longer".to_owned());
            }
            (None, None) => shared.settling.persisted(upto),
            (Some(_), _) => {
                match shared.changes_confirmed().await {
                    Ok(()) => shared.settling.persisted(upto),
                    Err(refusal) => shared.settling.not_persisted(upto, refusal.remark),
                }
                shared.write_checkpoint(&mut checkpoint).await;
            }
        }
        let again = |shared: &Shared| {
            let leads = shared.keeping().and_then(Keeping::leads);
            shared.is_stopping() || shared.leading() != leads || (leads.is_some() && shared.present() != upto)
        };
        match retry {
            Some(time) => wait(&shared, shared.now() + time, Shared::is_stopping).await,
            None => wait(&shared, shared.now() + TICK, again).await,
        };
    }
}

/// Writes the JSON files of what is confirmed, and a last time at the end; `saved` gets the result of
/// that.
pub async fn keep_exported(shared: Arc<Shared>, saved: Setter<Result<(), StopError>>) {
    let mut exported = None;
    loop {
        let is_last = shared.is_stopping();
        let written = shared.export(&mut exported).await;
        if is_last {
            return saved.set(written.map_err(StopError::Tables));
        }
        let next = shared.now() + EXPORT_PERIOD;
        wait(&shared, next, Shared::is_stopping).await;
    }
}

impl Shared {
    fn keeping(&self) -> Option<&Keeping> {
        self.node.as_ref().map(|node| &node.state)
    }

    /// The epoch in which this node leads, once its barrier is confirmed.
    fn leading(&self) -> Option<Epoch> {
        match self.node.as_ref()?.member_role() {
            Role::Leader { epoch, serves: true, .. } => Some(epoch),
            _ => None,
        }
    }

    fn read_state(&self, at: QueueOffset) -> Result<bytes::Bytes, ReadError> {
        let queue = self.store.queue(STATE_TOPIC, QUEUE);
        let record = queue.map_or_else(|| Ok(Vec::new()), |queue| queue.read(at, 1))?.pop();
        let none = || ReadError::NoRecord { at: PhysicalOffset(0) };
        record.map(|record| record.body()).ok_or_else(none)
    }

    fn state_bounds(&self) -> (QueueOffset, QueueOffset) {
        let queue = self.store.queue(STATE_TOPIC, QUEUE);
        queue.map_or((QueueOffset(0), QueueOffset(0)), |queue| (queue.min(), queue.max()))
    }

    /// Makes the state from the log: at the start, and after the log was cut below what was applied. The
    /// tables keep what the JSON files say when the log says nothing.
    pub fn load_state(&self) {
        let Some(keeping) = self.keeping() else { return };
        let mut confirmed = lock(&keeping.confirmed);
        self.load(&mut confirmed);
    }

    fn load(&self, confirmed: &mut Confirmed) {
        let (first, end) = self.state_bounds();
        confirmed.state =
            ReplicatedState::rebuild(first, end, |at| self.read_state(at)).map(|(state, numbers)| {
                for (topic, queue, next) in numbers {
                    self.store.continue_queue(&topic, queue, next);
                }
                state
            });
        if let (Ok(state), None) = (&confirmed.state, confirmed.leads) {
            self.show(state);
        }
        self.keep_what_is_needed(confirmed);
    }

    fn keep_what_is_needed(&self, confirmed: &Confirmed) {
        let from = match &confirmed.state {
            Ok(state) => state.needed_from(),
            Err(error) => {
                // Without a checkpoint a copy that begins anew has not got far enough.
                if !matches!(error, StateError::Incomplete { .. }) {
                    self.state_trouble(error);
                }
                self.store.marks().min
            }
        };
        self.store.keep_from(KeptFor::State, from);
    }

    fn state_trouble(&self, error: &StateError) {
        if let Some(node) = &self.node {
            node.tell(format!("the topics, groups and offsets of the group are not known here: {error}"));
        }
    }

    /// Applies what became confirmed. The store's dispatcher calls it.
    pub fn follow_state(&self) {
        let Some(keeping) = self.keeping() else { return };
        let mut confirmed = lock(&keeping.confirmed);
        let (first, end) = self.state_bounds();
        let Confirmed { state, leads } = &mut *confirmed;
        let known = match state {
            Ok(known) if known.next() >= first => known,
            // A checkpoint may have come, or the log begins anew.
            _ => return self.load(&mut confirmed),
        };
        let was_blank = known.next() == QueueOffset(0);
        let mut rows = Vec::new();
        while known.next() < end {
            let at = known.next();
            let body = self.read_state(at).map_err(|cause| StateError::Unreadable { at, cause });
            match body.and_then(|body| known.apply(at, &body)) {
                Ok(more) => rows.extend(more),
                Err(error) => {
                    *state = Err(error);
                    break;
                }
            }
        }
        for row in &rows {
            match row {
                Row::Number(topic, queue, next) => self.store.continue_queue(topic, *queue, *next),
                row if leads.is_none() && !was_blank => self.follow(row),
                _ => {}
            }
        }
        if let (Ok(state), None, true) = (&*state, *leads, was_blank) {
            self.show(state);
        }
        self.keep_what_is_needed(&confirmed);
    }

    /// The tables follow one row.
    fn follow(&self, row: &Row) {
        let now_ms = self.wall_ms();
        match row {
            Row::Topic(topic, config) => write(&self.topics).follow(topic, Some(config), now_ms),
            Row::TopicGone(topic) => write(&self.topics).follow(topic, None, now_ms),
            Row::Group(group, config) => write(&self.groups).follow(group, Some(config), now_ms),
            Row::GroupGone(group) => write(&self.groups).follow(group, None, now_ms),
            Row::Offset(group, topic, queue, next) => lock(&self.offsets).follow(group, topic, *queue, *next),
            Row::TopicForgotten(topic) => lock(&self.offsets).remove_topic(topic.as_str()),
            Row::GroupForgotten(group) => lock(&self.offsets).remove_group(group.as_str()),
            Row::Delay(level, next) => lock(&self.delays).set_next((*level).into(), *next),
            Row::Number(..) => {}
        }
        self.changes.raise();
    }

    /// The tables become what the state is. They keep what the JSON files said while the log says nothing.
    fn show(&self, state: &ReplicatedState) {
        if state.next() == QueueOffset(0) {
            return;
        }
        let now_ms = self.wall_ms();
        write(&self.topics).follow_all(state.topics(), now_ms);
        write(&self.groups).follow_all(state.groups(), now_ms);
        {
            let mut offsets = lock(&self.offsets);
            offsets.clear();
            state.offsets().for_each(|(group, topic, queue, next)| offsets.follow(group, topic, queue, next));
        }
        let mut delays = lock(&self.delays);
        delays.levels().for_each(|level| delays.set_next(level, QueueOffset(0)));
        state.delays().for_each(|(level, next)| delays.set_next(level.into(), next));
        drop(delays);
        self.changes.raise();
    }

    fn log_from_here(&self, all: bool) {
        write(&self.topics).log_changes(all);
        write(&self.groups).log_changes(all);
        lock(&self.offsets).log_changes(all);
    }

    fn knows_state(&self) -> bool {
        self.keeping().is_some_and(|keeping| lock(&keeping.confirmed).state.is_ok())
    }

    /// Takes over as the leader of `epoch`. False when it is too early, or the state is not known.
    fn take_over(self: &Arc<Self>, epoch: Epoch) -> bool {
        let Some(keeping) = self.keeping() else { return false };
        let confirmed_to = self.store.marks().confirmed;
        loop {
            let before = self.store.marks().dispatched;
            if before >= confirmed_to {
                break;
            }
            // Somebody else may be at it; then this waits for the lock of the dispatcher.
            let stepped = self.store.step(Step::Dispatch(1024));
            if stepped.is_err() || self.store.marks().dispatched == before {
                return false;
            }
        }
        self.follow_state();
        let mut logging = lock(&keeping.logging);
        let mut confirmed = lock(&keeping.confirmed);
        let state = match &confirmed.state {
            Ok(state) => state,
            Err(error) => {
                self.state_trouble(error);
                return false;
            }
        };
        let is_blank = state.next() == QueueOffset(0);
        self.show(state);
        // A group that has no state yet begins with what its first leader has.
        self.log_from_here(is_blank);
        let delays = if is_blank { Vec::new() } else { lock(&self.delays).progress().collect() };
        *logging = Logging { last: None, delays };
        confirmed.leads = Some(epoch);
        keeping.taken.store(epoch.0, Ordering::Release);
        drop((confirmed, logging));
        self.changes.raise();
        self.look_again();
        true
    }

    /// The tables fall back to what is confirmed.
    fn step_down(&self) {
        let Some(keeping) = self.keeping() else { return };
        let _logging = lock(&keeping.logging);
        let mut confirmed = lock(&keeping.confirmed);
        confirmed.leads = None;
        write(&self.topics).stop_logging();
        write(&self.groups).stop_logging();
        lock(&self.offsets).stop_logging();
        if let Ok(state) = &confirmed.state {
            self.show(state);
        }
    }

    /// The log was cut.
    pub fn state_after_cut(&self) {
        let Some(keeping) = self.keeping() else { return };
        let mut confirmed = lock(&keeping.confirmed);
        let (_, end) = self.state_bounds();
        if confirmed.state.as_ref().is_ok_and(|state| state.next() > end) {
            self.load(&mut confirmed);
        }
    }

    /// The log begins anew: nothing is known until a checkpoint comes, and the tables stay as they were.
    pub fn state_after_restart(&self) {
        self.load_state();
    }

    /// Puts what changed since the last time into the log. The position behind which all changes are;
    /// `None`: there were none.
    ///
    /// # Errors
    /// This node does not lead, or the store refused; the changes stay to be logged.
    fn log_changes(&self) -> Result<Option<Position>, Refusal> {
        let Some(keeping) = self.keeping() else { return Ok(None) };
        let mut logging = lock(&keeping.logging);
        let mut rows = write(&self.topics).take_changes();
        rows.extend(write(&self.groups).take_changes());
        rows.extend(lock(&self.offsets).take_changes());
        let delays: Vec<_> = lock(&self.delays).progress().collect();
        let moved = delays.iter().filter(|row| !logging.delays.contains(row));
        rows.extend(moved.filter_map(|(level, next)| Some(Row::Delay(u8::try_from(*level).ok()?, *next))));
        if rows.is_empty() {
            return Ok(logging.last);
        }
        if !self.writes() {
            self.log_later(&rows);
            return Err(self.not_leader());
        }
        let messages: Vec<Message> =
            record::changes(&rows).into_iter().map(|body| message(CHANGE, body)).collect();
        match self.append_state(&messages) {
            Ok(last) => {
                logging.delays = delays;
                logging.last = last.or(logging.last);
                Ok(logging.last)
            }
            Err(error) => {
                self.log_later(&rows);
                Err(Refusal::from(&error))
            }
        }
    }

    fn append_state(&self, messages: &[Message]) -> Result<Option<Position>, AppendError> {
        let mut last = None;
        for some in messages.chunks(AT_ONCE) {
            for receipt in self.store.append_each(some) {
                last = Some(receipt?.position());
            }
        }
        Ok(last)
    }

    fn log_later(&self, rows: &[Row]) {
        for row in rows {
            match row {
                Row::Topic(topic, _) | Row::TopicGone(topic) => write(&self.topics).log_later(topic),
                Row::Group(group, _) | Row::GroupGone(group) => write(&self.groups).log_later(group),
                row => lock(&self.offsets).log_later(row),
            }
        }
    }

    /// Puts what changed into the log; nobody waits for it.
    pub fn log_soon(&self) {
        // What could not be logged is tried again within a second.
        drop(self.log_changes());
    }

    /// Completes when everything that the tables say survives the loss of this node. At once for a broker
    /// without a group.
    ///
    /// # Errors
    /// It does not, or that is not known.
    pub async fn changes_confirmed(&self) -> Result<(), Refusal> {
        let Some(position) = self.log_changes()? else { return Ok(()) };
        let (done, outcome) = oneshot();
        self.store.when(Durability::Confirmed, position, Box::new(move |outcome| done.set(outcome)));
        let mut outcome = std::pin::pin!(outcome);
        let deadline = self.now() + self.options.flush_wait;
        match until(&*self.runtime, deadline, |cx| outcome.as_mut().poll(cx)).await {
            Some(Outcome::Reached) => Ok(()),
            Some(Outcome::Unknown) => {
                Err(Refusal::system("the broker lost its role; the change may be lost"))
            }
            Some(Outcome::Failed) => Err(Refusal::system("the disk failed; the change may be lost")),
            None => Err(Refusal::system("the change was made but is not confirmed yet")),
        }
    }

    /// Writes a checkpoint when one is due, and the one before, which ended at `last`, is confirmed.
    async fn write_checkpoint(&self, last: &mut Option<Position>) {
        let Some(bodies) = self.checkpoint_due(*last) else { return };
        for body in bodies {
            let message = [message(CHECKPOINT, body)];
            loop {
                if !self.writes() {
                    return;
                }
                match self.append_state(&message) {
                    Ok(position) => *last = position,
                    Err(AppendError::Busy { .. }) => {
                        wait(self, self.now() + RETRY, Self::is_stopping).await;
                        continue;
                    }
                    // Half of it counts for nothing.
                    Err(_) => return,
                }
                break;
            }
        }
    }

    fn checkpoint_due(&self, last: Option<Position>) -> Option<Vec<Vec<u8>>> {
        let marks = self.store.marks();
        if last.is_some_and(|last| last.epoch == marks.epoch && last.end > marks.dispatched) {
            return None;
        }
        let keeping = self.keeping()?;
        let wanted = self.store.retention_waits_for().filter(|wanted| *wanted <= marks.dispatched);
        let due = |state: &ReplicatedState| {
            state.wants_checkpoint() || wanted.is_some_and(|wanted| state.needed_from() < wanted)
        };
        if !lock(&keeping.confirmed).state.as_ref().is_ok_and(due) {
            return None;
        }
        // Whatever was dispatched is in the state and the numbers, and perhaps a bit more.
        let numbers = self.numbers();
        let confirmed = lock(&keeping.confirmed);
        Some(confirmed.state.as_ref().ok()?.checkpoint(marks.dispatched, numbers))
    }

    fn numbers(&self) -> Numbers {
        let mut numbers = Vec::new();
        for topic in self.store.topics().into_iter().filter(|topic| topic.as_str() != STATE_TOPIC) {
            let queues = self.store.queues_of(topic.as_str());
            let used = queues.iter().filter(|queue| queue.max() > QueueOffset(0));
            numbers.extend(used.map(|queue| (topic.clone(), queue.id(), queue.max())));
        }
        numbers
    }

    /// Writes the JSON files of what is confirmed, unless that is what they were written of last.
    async fn export(&self, exported: &mut Option<QueueOffset>) -> Result<(), ConfigError> {
        let Some(keeping) = self.keeping() else { return Ok(()) };
        let (mut topics, mut groups) = (read(&self.topics).table(), read(&self.groups).table());
        let (mut offsets, mut delays) = (ConsumerOffsetTable::default(), DelayOffsetTable::default());
        let next = {
            let confirmed = lock(&keeping.confirmed);
            let Ok(state) = &confirmed.state else { return Ok(()) };
            if state.next() == QueueOffset(0) || *exported == Some(state.next()) {
                return Ok(());
            }
            let system = read(&self.topics);
            topics.topic_config_table.retain(|name, _| system.is_system(name));
            drop(system);
            let named = state.topics().iter().map(|(name, config)| (name.to_string(), (**config).clone()));
            topics.topic_config_table.extend(named);
            let named = state.groups().iter().map(|(name, config)| (name.to_string(), (**config).clone()));
            groups.subscription_group_table = named.collect();
            for (group, topic, queue, next) in state.offsets() {
                let queues = offsets.offset_table.entry(format!("{topic}@{group}")).or_default();
                queues.insert(queue.0.cast_signed(), signed(next));
            }
            delays.offset_table = state.delays().map(|(level, next)| (level.into(), signed(next))).collect();
            state.next()
        };
        self.files.write(TOPICS, &topics).await?;
        self.files.write(GROUPS, &groups).await?;
        self.files.write(CONSUMER_OFFSETS, &offsets).await?;
        self.files.write(DELAY_OFFSETS, &delays).await?;
        *exported = Some(next);
        Ok(())
    }
}

fn signed(offset: QueueOffset) -> i64 {
    i64::try_from(offset.0).unwrap_or(i64::MAX)
}

fn message(tag: &str, body: Vec<u8>) -> Message {
    let topic = TopicName::new(STATE_TOPIC).expect("a valid name");
    Message::new(topic, QUEUE, body).with_property(TAGS, tag)
}
