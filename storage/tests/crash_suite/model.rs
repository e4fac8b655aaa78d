//! What was appended and what was promised: a list of records.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::sync::{Arc, Mutex};

use staticfire_storage::disk::{DirectoryEntry, SimulatedDisk};
use staticfire_storage::{
    Durability, Outcome, PhysicalOffset, Position, QueueId, QueueOffset, Receipt, Record, Store,
};

use super::Workload;

/// What the crash may have taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Loss {
    Nothing,
    Kill,
    /// What a power cut takes: the cache stopped showing what a failed flush left undone.
    KillAfterFailure,
    Power,
}

impl Loss {
    /// May what was written and not flushed be gone?
    fn takes_written(self) -> bool {
        matches!(self, Self::KillAfterFailure | Self::Power)
    }
}

/// A broken promise.
#[derive(Clone, Debug)]
pub struct Violation {
    pub invariant: &'static str,
    what: String,
    at: Option<(String, u64)>,
}

impl Violation {
    pub fn new(invariant: &'static str, what: impl Into<String>) -> Self {
        Self { invariant, what: what.into(), at: None }
    }

    pub fn at(mut self, workload: &Workload, step: u64) -> Self {
        self.at.get_or_insert((format!("{workload:?}"), step));
        self
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)?;
        match &self.at {
            Some((workload, step)) => write!(f, "\n  crashed at step {step} of {workload}"),
            None => Ok(()),
        }
    }
}

/// One appended message.
#[derive(Clone)]
pub struct Appended {
    pub start: PhysicalOffset,
    pub end: PhysicalOffset,
    pub queue: QueueId,
    pub offset: QueueOffset,
    pub body: Vec<u8>,
    written: Arc<Mutex<Option<Outcome>>>,
    flushed: Arc<Mutex<Option<Outcome>>>,
}

impl Appended {
    /// What became of the wait for the write, if it is known.
    pub fn written(&self) -> Option<Outcome> {
        *self.written.lock().unwrap()
    }

    /// What became of the wait for the flush, if it is known.
    pub fn flushed(&self) -> Option<Outcome> {
        *self.flushed.lock().unwrap()
    }

    /// The promise that keeps the record through `loss`, if one was given: a kill takes nothing that was
    /// written, be it flushed or not.
    fn kept_by(&self, loss: Loss) -> Option<&'static str> {
        match self.acknowledged() {
            [true, _] if !loss.takes_written() => Some("I2"),
            [_, true] => Some("I1"),
            _ => None,
        }
    }

    /// What its producer was told: that it is written, that it is flushed.
    fn acknowledged(&self) -> [bool; 2] {
        [self.written(), self.flushed()].map(|outcome| outcome == Some(Outcome::Reached))
    }
}

impl fmt::Debug for Appended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { start, end, queue, offset, body, .. } = self;
        let message = String::from_utf8_lossy(body.get(..6).unwrap_or(body));
        let [written, flushed] = [self.written(), self.flushed()];
        write!(f, "message {message} at {start} to {end}, number {offset} of queue {queue}")?;
        write!(f, " (written: {written:?}, flushed: {flushed:?})")
    }
}

/// Everything appended, in order.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub records: Vec<Appended>,
    /// The history without what a cut under way takes; the machine died meanwhile.
    pub cutting: Option<PhysicalOffset>,
    /// The store is being closed or opened again: its marks are on their way.
    pub turning: bool,
    /// The store was closed, and that was the last thing that happened.
    pub closed: bool,
    /// The cut got as far as giving the old files their orphan names.
    pub replaced: bool,
    /// Records that were cut off: nobody may ever be told that they are safe.
    pub cut_off: Vec<Appended>,
    /// Bytes that were cut off and must be found among the orphans.
    pub orphaned: Vec<Vec<u8>>,
    /// What was acknowledged when a flush failed, by the start of the record: the store gives no
    /// promise after that.
    pub failed: Option<Acknowledged>,
    /// What was found to be broken while the workload ran.
    pub broken: Option<Violation>,
}

/// What producers were told of the records that start at these places: written, flushed.
pub type Acknowledged = BTreeMap<u64, [bool; 2]>;

impl Model {
    pub fn add(&mut self, store: &Store, receipt: &Receipt, queue: QueueId, body: Vec<u8>) {
        self.add_at(store, receipt.position(), receipt, queue, body);
    }

    /// As `add`, for a record that stands at `position` of this store.
    pub fn add_at(
        &mut self,
        store: &Store,
        position: Position,
        receipt: &Receipt,
        queue: QueueId,
        body: Vec<u8>,
    ) {
        let (written, flushed) = (Arc::default(), Arc::default());
        for (durability, slot) in [(Durability::Written, &written), (Durability::Flushed, &flushed)] {
            let slot: Arc<Mutex<Option<Outcome>>> = Arc::clone(slot);
            let settle =
                move |outcome| assert_eq!(slot.lock().unwrap().replace(outcome), None, "called twice");
            store.when(durability, position, Box::new(settle));
        }
        let (start, end) = (receipt.start(), position.end);
        let offset = receipt.queue_offset();
        self.records.push(Appended { start, end, queue, offset, body, written, flushed });
    }

    /// A number that differs when promises or history do.
    pub fn digest(&self) -> u64 {
        let mut hash = DefaultHasher::new();
        (self.closed, self.cutting.map(|to| to.0), self.records.len()).hash(&mut hash);
        for record in &self.records {
            (record.start.0, &record.body, record.acknowledged()).hash(&mut hash);
        }
        hash.finish()
    }

    /// What producers have been told so far.
    pub fn acknowledged(&self) -> Acknowledged {
        self.records.iter().map(|record| (record.start.0, record.acknowledged())).collect()
    }

    /// The store was opened again in the same machine: after a failed flush the cache may have shown
    /// less than was written, and what is gone is no longer part of the history.
    pub fn reopened(&mut self, store: &Store) {
        if self.failed.is_none() {
            return;
        }
        match self.check(store, Loss::KillAfterFailure) {
            Ok(found) => *self = found,
            Err(violation) => self.broken = Some(violation),
        }
    }

    pub fn cut(&mut self, to: PhysicalOffset) {
        let (kept, cut) = self.records.drain(..).partition(|record| record.end <= to);
        self.records = kept;
        self.cut_off.extend::<Vec<_>>(cut);
        self.cutting = None;
    }

    /// Holds `store` against this history, and gives the history that was found.
    pub fn check(&self, store: &Store, loss: Loss) -> Result<Model, Violation> {
        self.check_failed()?;
        if let Some(to) = self.cutting {
            return self.check_cutting(to, store, loss);
        }
        let found = self.check_records(store, loss)?;
        self.check_promises(found, loss)?;
        let records = self.records[..found].to_vec();
        let min = store.marks().min;
        check_queues(store, records.iter().filter(|record| record.start >= min))?;
        self.check_closed(store)?;
        self.check_orphans(store)?;
        let orphaned = orphans(store).unwrap_or_default();
        Ok(Self { records, orphaned, ..Self::default() })
    }

    /// The machine died while the log was cut at `to`: the cut is done or not, never in part.
    fn check_cutting(&self, to: PhysicalOffset, store: &Store, loss: Loss) -> Result<Model, Violation> {
        let not = Self { cutting: None, orphaned: Vec::new(), ..self.clone() };
        let mut done = self.clone();
        done.cut(to);
        if loss.takes_written() && !self.replaced {
            // Not flushed yet, so the power cut may have taken what was to become an orphan.
            done.orphaned.clear();
        }
        if store.marks().written > to { not.check(store, loss) } else { done.check(store, loss) }
    }

    /// proves: I4, I5, I6: what is there is a prefix of what was appended, byte for byte.
    fn check_records(&self, store: &Store, loss: Loss) -> Result<usize, Violation> {
        let marks = store.marks();
        let mut next = self.records.iter().take_while(|record| record.end <= marks.min).count();
        for record in store.records(marks.min) {
            let expected = self.records.get(next);
            // One that cannot be read is as lost as one that is not there.
            let invariant = expected.and_then(|lost| lost.kept_by(loss)).unwrap_or("I4");
            let record = record.map_err(|error| Violation::new(invariant, format!("unreadable: {error}")))?;
            if expected.is_none_or(|expected| !same(expected, &record)) {
                let what = format!("{record:?} was found where {expected:?} should be");
                return Err(Violation::new("I5", what));
            }
            next += 1;
        }
        Ok(next)
    }

    /// proves: I8: after a failed flush nothing is acknowledged.
    fn check_failed(&self) -> Result<(), Violation> {
        let Some(before) = &self.failed else { return Ok(()) };
        let told = |record: &Appended| before.get(&record.start.0).copied().unwrap_or_default();
        match self.records.iter().find(|record| record.acknowledged() != told(record)) {
            None => Ok(()),
            Some(record) => {
                Err(Violation::new("I8", format!("{record:?} was acknowledged after a failed flush")))
            }
        }
    }

    /// proves: I1, I2, I31: what was acknowledged is there.
    fn check_promises(&self, found: usize, loss: Loss) -> Result<(), Violation> {
        if let Some(cut) = self.cut_off.iter().find(|record| record.flushed() == Some(Outcome::Reached)) {
            return Err(Violation::new("I31", format!("{cut:?} was cut off and then acknowledged")));
        }
        let broken = |lost: &Appended| {
            lost.kept_by(loss).map(|invariant| Violation::new(invariant, format!("{lost:?} is gone")))
        };
        self.records[found..].iter().find_map(broken).map_or(Ok(()), Err)
    }

    /// proves: I74: after a proper close nothing is scanned, whatever happens to the power.
    fn check_closed(&self, store: &Store) -> Result<(), Violation> {
        let log = &store.report().log;
        if self.closed && (!log.clean || log.records > 0) {
            return Err(Violation::new("I74", format!("a closed store was recovered:\n{log}")));
        }
        Ok(())
    }

    /// RocketMQ goes by its own marks: `abort` while the store is open, and what `checkpoint` says
    /// once it is closed.
    pub fn check_marks(&self, image: &SimulatedDisk) -> Result<(), Violation> {
        let abort = image.contents("abort");
        let aborted = abort.is_ok();
        let promised = self.records.iter().any(|record| record.flushed() == Some(Outcome::Reached));
        if promised && !self.turning && aborted == self.closed {
            let what = format!("closed: {}, but `abort` exists: {aborted}", self.closed);
            return Err(Violation::new("I74", what));
        }
        // It names us, so that what stands in the log is held to the checksums that we write.
        if promised && !self.turning && abort.is_ok_and(|content| content != b"staticfire\n") {
            return Err(Violation::new("I74", "`abort` does not say that it is ours"));
        }
        let physic_ms = image.contents("checkpoint").ok().and_then(|bytes| bytes.first_chunk().copied());
        if promised && self.closed && physic_ms.map(i64::from_be_bytes) != Some(super::NOW_MS) {
            return Err(Violation::new("I74", "closed, but the checkpoint does not say so"));
        }
        Ok(())
    }

    /// proves: I9: no name that an acknowledged record depends on is gone. Retention takes the oldest files,
    /// so one that stands behind another, or alone, is needed.
    pub fn check_names(&self, image: &SimulatedDisk) -> Result<(), Violation> {
        if self.cutting.is_some() {
            return Ok(());
        }
        let paths = image.paths();
        let oldest = paths.iter().find_map(|path| path.strip_prefix("commitlog/"));
        let gone = |record: &&Appended| {
            let start = record.start.0 / super::SEGMENT_BYTES * super::SEGMENT_BYTES;
            let name = format!("{start:020}");
            oldest.is_none_or(|oldest| *name > *oldest) && !paths.contains(&format!("commitlog/{name}"))
        };
        match self.records.iter().filter(|record| record.acknowledged()[1]).find(gone) {
            None => Ok(()),
            Some(record) => {
                Err(Violation::new("I9", format!("{record:?} was flushed, and its file has no name")))
            }
        }
    }

    /// proves: I13: in the queues of a closed store stands what its log says, byte for byte, and nothing else.
    pub fn check_queue_files(&self, image: &SimulatedDisk, min: PhysicalOffset) -> Result<(), Violation> {
        for id in 0..2 {
            let records = self.records.iter().filter(|record| record.queue.0 == id && record.start >= min);
            let expected: BTreeMap<u64, [u8; 20]> = records.map(|it| (it.offset.0, entry(it))).collect();
            let Some(first) = expected.keys().next() else { continue };
            let (folder, mut found) = (format!("consumequeue/t/{id}/"), BTreeMap::new());
            for path in image.paths().iter().filter(|path| path.starts_with(&folder)) {
                let at: u64 = path[folder.len()..].parse().unwrap();
                let bytes = image.contents(path).unwrap();
                let entries = bytes.chunks(20).map(|entry| entry.try_into().unwrap());
                found.extend((at / 20..).zip(entries).filter(|(n, entry)| n >= first && *entry != [0; 20]));
            }
            if found != expected {
                let what = format!("queue {id} holds {found:?}, the log makes it {expected:?}");
                return Err(Violation::new("I13", what));
            }
        }
        Ok(())
    }

    /// proves: M34: what was cut off is kept.
    fn check_orphans(&self, store: &Store) -> Result<(), Violation> {
        let kept = orphans(store).unwrap_or_default();
        let holds = |orphan: &Vec<u8>, lost: &Vec<u8>| orphan.windows(lost.len()).any(|at| at == lost);
        let is_kept = |lost: &Vec<u8>| lost.is_empty() || kept.iter().any(|orphan| holds(orphan, lost));
        match self.orphaned.iter().find(|lost| !is_kept(lost)) {
            None => Ok(()),
            Some(lost) => Err(Violation::new("M34", format!("{} bytes that were cut are gone", lost.len()))),
        }
    }

    /// proves: I17: recovery, crashed and done again, ends where one recovery ends.
    pub fn check_same(&self, store: &Store, loss: Loss, step: u64) -> Result<(), Violation> {
        let found = self.check(store, loss)?.records.len();
        if found == self.records.len() {
            return Ok(());
        }
        let what = format!("recovery crashed at its step {step} finds {found} of {}", self.records.len());
        Err(Violation::new("I17", what))
    }
}

/// The contents of all orphans: whole segments from the cut on, and copies of what stood at the tail.
fn orphans(store: &Store) -> io::Result<Vec<Vec<u8>>> {
    const FOLDER: &str = "staticfire/orphans";
    let directory = store.directory();
    let read = |entry: DirectoryEntry| {
        let file = directory.open(&format!("{FOLDER}/{}", entry.name))?;
        let at = entry.name.split('-').nth(1).and_then(|at| at.parse::<u64>().ok()).unwrap_or(0);
        let from = if entry.len == super::SEGMENT_BYTES { at % super::SEGMENT_BYTES } else { 0 };
        let mut bytes = vec![0; (entry.len - from) as usize];
        file.read_into(from, &mut bytes).map(|()| bytes)
    };
    directory.list(FOLDER)?.into_iter().map(read).collect()
}

/// proves: I13, I14, I15: the queues are a function of the log.
fn check_queues<'a>(store: &Store, records: impl Iterator<Item = &'a Appended>) -> Result<(), Violation> {
    let mut counts = [(None, 0_u64); 2];
    for record in records {
        let (first, count) = &mut counts[record.queue.0 as usize];
        let first = *first.get_or_insert(record.offset.0);
        if record.offset.0 != first + *count {
            return Err(Violation::new("I14", format!("{record:?} breaks the numbering")));
        }
        *count += 1;
        let queue = store.queue("t", record.queue);
        let queue = queue.ok_or_else(|| Violation::new("I13", format!("{record:?} has no queue")))?;
        let entry =
            queue.entries(record.offset, 1).map_err(|error| Violation::new("I13", error.to_string()))?;
        let entry = entry.first().filter(|entry| entry.physical == record.start);
        if entry.is_none_or(|entry| u64::from(entry.size) != record.end.0 - record.start.0) {
            return Err(Violation::new("I15", format!("{record:?} has the entry {entry:?}")));
        }
        if entry.is_none_or(|entry| entry.tags_code != tags_code(record)) {
            return Err(Violation::new("I15", format!("{record:?} has another tag in its entry {entry:?}")));
        }
    }
    for (id, (first, count)) in counts.into_iter().enumerate() {
        let Some(queue) = store.queue("t", QueueId(id as u32)) else { continue };
        let end = first.map(|first| first + count);
        if end.is_some_and(|end| queue.max().0 != end) || (end.is_none() && queue.min() != queue.max()) {
            let what = format!("queue {id} ends at {}, its records at {end:?}", queue.max());
            return Err(Violation::new("I15", what));
        }
    }
    Ok(())
}

/// Java's `String.hashCode` of the tag, written once more.
fn tags_code(record: &Appended) -> i64 {
    let tag = super::workload::tag_of(&record.body);
    tag.bytes().fold(0_i32, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into())).into()
}

/// The entry of a record in its queue's file.
fn entry(record: &Appended) -> [u8; 20] {
    let size = u32::try_from(record.end.0 - record.start.0).unwrap();
    let parts = [&record.start.0.to_be_bytes()[..], &size.to_be_bytes(), &tags_code(record).to_be_bytes()];
    parts.concat().try_into().unwrap()
}

/// proves: I15: no queue shows what is not confirmed.
pub fn check_shown(store: &Store) -> Result<(), Violation> {
    let confirmed = store.marks().confirmed;
    for queue in store.queues_of("t") {
        let entries = queue.entries(queue.min(), 100).unwrap_or_default();
        if let Some(early) = entries.iter().find(|entry| entry.physical >= confirmed) {
            return Err(Violation::new("I15", format!("{early:?} is shown, confirmed is {confirmed}")));
        }
    }
    Ok(())
}

fn same(expected: &Appended, record: &Record) -> bool {
    expected.start == record.physical()
        && expected.end == record.physical().after(record.len().into())
        && expected.queue == record.queue()
        && expected.offset == record.queue_offset()
        && expected.body == record.body()
}
