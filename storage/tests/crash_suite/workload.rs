//! What a workload does to the store.

use staticfire_storage::disk::{DiskOperation, OperationRecord, SimulatedDisk};
use staticfire_storage::{
    CutError, Durability, Epoch, Message, Outcome, QueueId, Step, StoppedProducer, Store, TopicName,
};

use super::model::{Model, Violation, check_shown};
use super::{SEGMENT_BYTES, options};

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Append a small message; nothing is written.
    Append,
    /// Append a message that takes more than half a segment, so that two of them roll.
    AppendLarge,
    /// Append three messages that must stay together.
    AppendBatch,
    /// A producer takes numbers and a place for a small message, and is stopped there.
    Reserve,
    /// It goes on.
    Publish,
    Write,
    /// Start a flush and let it complete.
    Flush,
    /// Start a flush; it completes when another op lets it.
    StartFlush,
    /// Complete what was started.
    Complete,
    /// Start a flush that fails, and with it whatever else was being made durable.
    FailFlush,
    Dispatch,
    /// Make the next segment ahead of time and write zeros to it.
    Prepare,
    Tidy,
    Retain,
    /// End the epoch, cut what is not confirmed, begin the next one.
    Cut,
    /// End the epoch, cut, and take the bytes of another leader in place of what was cut.
    CutAndFollow,
    /// Close the store; nothing happens after that.
    Close,
    CloseAndOpen,
}

impl Op {
    /// Every op.
    pub const ALL: [Self; 18] = [
        Self::Append,
        Self::AppendLarge,
        Self::AppendBatch,
        Self::Reserve,
        Self::Publish,
        Self::Write,
        Self::Flush,
        Self::StartFlush,
        Self::Complete,
        Self::FailFlush,
        Self::Dispatch,
        Self::Prepare,
        Self::Tidy,
        Self::Retain,
        Self::Cut,
        Self::CutAndFollow,
        Self::Close,
        Self::CloseAndOpen,
    ];
}

/// What happens, in order, in a store of one mode.
#[derive(Clone, Debug)]
pub struct Workload {
    pub ops: Vec<Op>,
    pub durability: Durability,
}

impl Workload {
    /// Workloads that between them reach every sync, the likeliest first.
    pub fn reaching_every_sync() -> Vec<Self> {
        use Op::*;
        let sequences: [&[Op]; 10] = [
            &[Append, Write, Flush, Close],
            &[Append, Write, Flush],
            &[AppendLarge, AppendLarge, Write, Flush, Dispatch, Tidy],
            &[Append, Write, Flush, Dispatch, Close],
            &[Append, Write, Flush, Append, Write, Cut],
            &[Append, Write, Flush, AppendLarge, AppendLarge, Write, Cut, Append, Write, Flush],
            &[
                AppendLarge,
                AppendLarge,
                AppendLarge,
                AppendLarge,
                Write,
                Flush,
                Flush,
                Flush,
                Dispatch,
                Tidy,
                Retain,
            ],
            &[Append, Write, Flush, Dispatch, CloseAndOpen, AppendLarge, AppendLarge, Write, Flush, Flush],
            &[AppendBatch, AppendBatch, AppendBatch, AppendBatch, Write, Flush, Flush, Dispatch, Tidy, Close],
            &[AppendLarge, AppendLarge, Write, FailFlush],
        ];
        let modes = [Durability::Flushed, Durability::Written];
        let all = sequences.into_iter().flat_map(|ops| modes.map(|durability| (ops, durability)));
        all.map(|(ops, durability)| Self { ops: ops.to_vec(), durability }).collect()
    }

    /// Runs on `disk` until the end or until the machine is gone; gives what was promised.
    pub fn run(&self, disk: &SimulatedDisk) -> Model {
        let mut model = Model::default();
        let Ok(store) = Store::open(options(disk, self)) else { return model };
        let mut running = Running { disk, workload: self, store: Some(store), appended: 0, stopped: None };
        for op in &self.ops {
            model.closed = false;
            running.apply(*op, &mut model);
            let failure = |store: &Store| !disk.is_gone() && store.failure().is_some();
            if running.store.as_ref().is_some_and(failure) {
                let acknowledged = model.acknowledged();
                model.failed.get_or_insert(acknowledged);
            }
            if disk.is_gone() || running.store.is_none() || model.broken.is_some() {
                break;
            }
        }
        model
    }
}

struct Running<'a> {
    disk: &'a SimulatedDisk,
    workload: &'a Workload,
    store: Option<Store>,
    appended: u64,
    stopped: Option<StoppedProducer>,
}

impl Running<'_> {
    fn apply(&mut self, op: Op, model: &mut Model) {
        let Some(store) = self.store.clone() else { return };
        match op {
            Op::Append => self.append(&store, model, 31, 1),
            Op::AppendLarge => self.append(&store, model, 441, 1),
            Op::AppendBatch => self.append(&store, model, 12, 3),
            Op::Reserve => self.reserve(&store, model),
            Op::Publish => drop(self.stopped.take().map(StoppedProducer::publish)),
            Op::Write => drop(store.step(Step::Write)),
            Op::Flush => {
                drop(store.step(Step::Flush));
                self.disk.complete_all();
            }
            Op::StartFlush => drop(store.step(Step::Flush)),
            Op::Complete => {
                self.disk.complete_all();
            }
            Op::FailFlush => {
                drop(store.step(Step::Flush));
                let acknowledged = model.acknowledged();
                let failed = self.disk.pending_syncs().into_iter().filter(|sync| self.disk.fail(sync.ticket));
                if failed.count() > 0 {
                    model.failed.get_or_insert(acknowledged);
                }
            }
            Op::Dispatch => {
                drop(store.step(Step::Dispatch(100)));
                if !self.disk.is_gone() {
                    model.broken = check_shown(&store).err();
                }
            }
            Op::Prepare => drop(store.step(Step::Prepare)),
            Op::Tidy => drop(store.step(Step::Tidy)),
            Op::Retain => drop(store.retain()),
            Op::Cut => self.cut(&store, model, false),
            Op::CutAndFollow => self.cut(&store, model, true),
            Op::Close => self.close(store, model),
            Op::CloseAndOpen => {
                self.close(store, model);
                (model.closed, model.turning) = (false, true);
                self.store = Store::open(options(self.disk, self.workload)).ok();
                model.turning = self.store.is_none();
                if let Some(store) = &self.store {
                    model.reopened(store);
                }
            }
        }
    }

    fn append(&mut self, store: &Store, model: &mut Model, len: usize, count: u64) {
        let queue = QueueId((self.appended % 2) as u32);
        let messages: Vec<_> = (0..count).map(|n| message(queue, body(self.appended + n, len))).collect();
        self.appended += count;
        if let Ok(receipts) = store.append_batch(&messages) {
            for (receipt, message) in receipts.iter().zip(messages) {
                model.add(store, receipt, queue, message.body.to_vec());
            }
        }
    }

    fn reserve(&mut self, store: &Store, model: &mut Model) {
        let (queue, body) = (QueueId((self.appended % 2) as u32), body(self.appended, 31));
        self.appended += 1;
        if let Ok(stopped) = store.reserve(&[message(queue, body.clone())]) {
            model.add(store, &stopped.receipts()[0], queue, body);
            self.stopped = Some(stopped);
        }
    }

    fn cut(&mut self, store: &Store, model: &mut Model, follow: bool) {
        let epoch = Epoch(store.marks().epoch.0 + 1);
        store.fence(epoch);
        let refused = store.append(&message(QueueId(0), body(999, 31)));
        assert!(refused.is_err() || staticfire_planted(), "an append slipped past the fence");
        if store.failure().is_some() {
            let refused = store.truncate(store.marks().confirmed);
            assert!(matches!(refused, Err(CutError::Failed(_))), "a failed store was cut: {refused:?}");
            return drop(store.open_epoch());
        }
        let Some(_) = store.final_end() else { return };
        let to = store.marks().confirmed;
        model.cutting = Some(to);
        let cut = model.records.iter().filter(|record| record.end > to);
        let bytes = cut.filter_map(|record| store.record(record.start).ok());
        model.orphaned.extend(bytes.map(|record| record.bytes().to_vec()));
        let linked = |it: &&OperationRecord| it.operation == DiskOperation::Link;
        let links = || self.disk.operations().iter().filter(linked).count();
        let before = links();
        let cut = store.truncate(to);
        model.replaced = links() > before;
        if cut.is_err() {
            return;
        }
        model.cut(to);
        if follow {
            self.follow(store, model);
        }
        drop(store.open_epoch());
    }

    /// Takes what another leader has at the same place: bytes of equal length, made by a store of
    /// its own.
    fn follow(&mut self, store: &Store, model: &mut Model) {
        let other = SimulatedDisk::new(77);
        let leader = Store::open(options(&other, self.workload)).unwrap();
        for record in &model.records {
            let message = message(record.queue, record.body.clone());
            leader.append(&message).unwrap();
        }
        let at = store.marks().appended;
        let theirs = body(500 + self.appended, 31);
        let receipt = leader.append(&message(QueueId(0), theirs.clone())).unwrap();
        leader.step(Step::Write).unwrap();
        if receipt.start() != at {
            return;
        }
        let record = leader.record(at).unwrap();
        if store.append_raw(at, record.bytes()).is_ok() {
            let epoch = store.marks().epoch;
            let position = staticfire_storage::Position { epoch, end: receipt.position().end };
            model.add_at(store, position, &receipt, QueueId(0), theirs);
        }
    }

    fn close(&mut self, store: Store, model: &mut Model) {
        self.disk.complete_all();
        drop(store.step(Step::Write));
        model.turning = true;
        model.closed = store.clone().close().is_ok();
        model.turning = !model.closed;
        if !model.closed && !self.disk.is_gone() {
            let acknowledged = model.acknowledged();
            model.failed.get_or_insert(acknowledged);
        }
        if self.stopped.take().map(StoppedProducer::publish).is_some() && model.closed {
            // Too late, and whoever waits for what stands there and behind it knows it.
            model.cut(store.marks().written);
        }
        self.store = None;
    }
}

/// Uses a recovered store: one more message, flushed. It is as long as those of the workload, so that
/// a stale record behind it would line up.
pub fn append_and_flush(
    disk: &SimulatedDisk,
    store: &Store,
    number: u64,
    model: &mut Model,
) -> Result<(), Violation> {
    let (queue, body) = (QueueId((number % 2) as u32), body(900 + number, 31));
    let receipt = store
        .append(&message(queue, body.clone()))
        .map_err(|error| Violation::new("I17", format!("a recovered store takes nothing: {error}")))?;
    model.add(store, &receipt, queue, body);
    drop(store.step(Step::Write));
    while store.step(Step::Flush).is_ok() && disk.complete_all() > 0 {}
    drop(store.step(Step::Dispatch(100)));
    let outcome = model.records.last().and_then(super::model::Appended::flushed);
    match outcome {
        Some(Outcome::Reached) => Ok(()),
        outcome => Err(Violation::new("I1", format!("a recovered store does not flush: {outcome:?}"))),
    }
}

fn message(queue: QueueId, body: Vec<u8>) -> Message {
    let tag = tag_of(&body);
    Message::new(TopicName::new("t").unwrap(), queue, body).with_property("TAGS", &tag)
}

/// The tag of the message with this body: its number, so that neighbours differ.
pub fn tag_of(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[3..6]).into_owned()
}

/// A body that says which message it is, at both ends.
fn body(n: u64, len: usize) -> Vec<u8> {
    let mark = format!("{n:06}");
    let filling = len.min(SEGMENT_BYTES as usize).saturating_sub(12);
    [mark.as_bytes(), &vec![b'.'; filling], mark.as_bytes()].concat()
}

/// True in builds that can plant bugs, where an assertion would hide what the oracles must find.
const fn staticfire_planted() -> bool {
    cfg!(feature = "planted-bugs")
}
