//! The commit log: one byte sequence shared by all topics.
//!
//! ```text
//!   append ── reserve ── fill ── publish ──> slots ── write ──> file ── sync ──> stable storage
//!             (lock)             (lock)              one pwritev        started, completes later
//!                                                    for all published
//! ```
//!
//! Reserving numbers a record and takes its range; filling patches the numbers into the encoded
//! record and seals it with its checksum, outside the lock; publishing hands it to the writer.
//! Whoever finds the writer idle writes everything published (DESIGN D5). No I/O happens under the
//! lock of the head.

mod ahead;
mod append;
pub(crate) mod cold;
pub(crate) mod cut;
mod facts;
mod flush;
pub(crate) mod retention;
pub(crate) mod search;
pub(crate) mod segments;
mod write;

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use crossbeam::queue::ArrayQueue;

use crate::combine::Combiner;
use crate::disk::Directory;
use crate::dispatch::{DispatchFact, DispatchRules, LogItem, LogRecords};
use crate::error::{Failure, ReadError};
use crate::marks::{Confirm, Generation, Marks, Watermarks};
use crate::queue::QueueEntry;
use crate::record::{Record, RecordCrc, Scanned, next_at};
use crate::{Clock, Epoch, PhysicalOffset};

pub use append::AppendError;
pub(crate) use append::{Placed, Reservation, Staged};
use facts::Facts;
use segments::{Segment, Segments};

/// What the log needs to know; the rest of the store's options is none of its business.
#[derive(Clone, Debug)]
pub(crate) struct LogOptions {
    pub(crate) segment_bytes: u64,
    pub(crate) store_host: std::net::SocketAddr,
    /// Bytes reserved and not yet written, at most; more is refused before it is written.
    pub(crate) staged_bytes_max: u64,
    pub(crate) confirm: Confirm,
    pub(crate) rules: DispatchRules,
    /// Every record from here on carries its own checksum.
    pub(crate) sealed_from: PhysicalOffset,
    /// Where recovery found the end. Before it there may be damage, which was reported and kept.
    pub(crate) recovered_to: PhysicalOffset,
}

/// The commit log. Shared by everybody who appends, writes, flushes and reads.
pub(crate) struct CommitLog {
    directory: Arc<dyn Directory>,
    clock: Arc<dyn Clock>,
    options: LogOptions,
    pub(crate) marks: Watermarks,
    pub(crate) segments: Segments,
    head: Mutex<Head>,
    /// Only one thread creates the next segment.
    rolling: Mutex<()>,
    ahead: Mutex<ahead::Ahead>,
    writer: Combiner,
    flush: Mutex<flush::Flush>,
    buffers: ArrayQueue<Box<Staged>>,
    /// Retention removes nothing from here on, for each that may say so ([`retention::KeptFor`]).
    keep_from: [AtomicU64; 2],
    /// End of the segment that retention would remove next and may not; 0: none.
    retention_waits_for: AtomicU64,
    failure: OnceLock<Failure>,
    on_failure: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

/// Where the next record goes, and what was reserved and not yet written.
pub(crate) struct Head {
    /// False between `fence` and `open_epoch`, and before the first epoch of a replicated log.
    accepting: bool,
    epoch: Epoch,
    /// End of everything reserved.
    end: PhysicalOffset,
    /// The segment that was last reserved in: most often it need not be looked for.
    segment: Option<Segment>,
    /// Store time of the newest record; the next one is not older.
    store_ms: i64,
    /// Reserved ranges, oldest first, until the writer takes them.
    slots: VecDeque<Slot>,
    /// Number of the first slot; reservations name theirs by number.
    first_slot: u64,
    /// Slots from the front that were published.
    published: usize,
    /// Bytes in `slots`.
    staged: u64,
    facts: Facts,
}

/// One reserved range. A range longer than what was published is the blank at the end of a segment,
/// whose rest stays zero.
struct Slot {
    start: PhysicalOffset,
    len: u64,
    published: Option<Box<Staged>>,
}

impl CommitLog {
    /// A log that ends at `marks.appended`, with the segments found by recovery.
    pub(crate) fn new(
        directory: Arc<dyn Directory>,
        clock: Arc<dyn Clock>,
        options: LogOptions,
        found: Vec<Segment>,
        marks: Marks,
        store_ms: i64,
    ) -> Self {
        // Recovery looked past the end; what lies before it may be read and held from now on.
        for segment in found.iter().filter(|segment| segment.start < marks.written) {
            segment.file.settle(marks.written.0 - segment.start.0);
        }
        let segments = Segments::new(Arc::clone(&directory), options.segment_bytes, found);
        Self {
            directory,
            clock,
            segments,
            marks: Watermarks::new(marks, options.confirm),
            head: Mutex::new(Head {
                // Who confirms also says when there are producers.
                accepting: options.confirm != Confirm::External,
                epoch: marks.epoch,
                end: marks.appended,
                segment: None,
                store_ms,
                slots: VecDeque::new(),
                first_slot: 0,
                published: 0,
                staged: 0,
                facts: Facts::from(marks.appended),
            }),
            rolling: Mutex::new(()),
            ahead: Mutex::default(),
            writer: Combiner::default(),
            flush: Mutex::default(),
            buffers: ArrayQueue::new(64),
            keep_from: [AtomicU64::new(u64::MAX), AtomicU64::new(u64::MAX)],
            retention_waits_for: AtomicU64::new(0),
            failure: OnceLock::new(),
            on_failure: OnceLock::new(),
            options,
        }
    }

    /// Why the log takes nothing more, if so.
    pub(crate) fn failure(&self) -> Option<&Failure> {
        self.failure.get()
    }

    /// Nothing is accepted, written or counted as flushed from here on (DESIGN D6): the kernel
    /// reports a failed write-back once and drops the pages, so only reading the file again, at
    /// the next open, can tell what it holds.
    fn fail(&self, failure: Failure) {
        drop(self.failure.set(failure));
        self.marks.fail();
        self.on_failure.get().into_iter().for_each(|tell| tell());
    }

    /// Calls `tell` when the log fails, besides everybody who waits for a mark.
    pub(crate) fn on_failure(&self, tell: impl Fn() + Send + Sync + 'static) {
        drop(self.on_failure.set(Box::new(tell)));
    }

    /// The record at `at`, checked.
    ///
    /// # Errors
    /// [`ReadError`] says whether the position is out of range, not a record, or damaged.
    pub(crate) fn record(&self, at: PhysicalOffset) -> Result<Record, ReadError> {
        match self.next(at)? {
            Next::Record(record) => Ok(record),
            Next::Segment(_) | Next::End => Err(ReadError::NoRecord { at }),
        }
    }

    /// The records that queue entries name: of this size, at this position.
    ///
    /// # Errors
    /// As [`CommitLog::record`]; also when a record there has another size. Records before it are not
    /// returned.
    pub(crate) fn records(&self, named: &[QueueEntry]) -> Result<Vec<Record>, ReadError> {
        let marks = self.marks.snapshot();
        let mut records = Vec::with_capacity(named.len());
        let mut run = Run::default();
        for (index, entry) in named.iter().enumerate() {
            if !run.holds(entry) {
                run = self.run(&named[index..], &marks)?;
            }
            records.push(self.record_in(&run, entry)?);
        }
        Ok(records)
    }

    /// As [`CommitLog::records`], of one.
    pub(crate) fn record_named(&self, named: &QueueEntry) -> Result<Record, ReadError> {
        let run = self.run(std::slice::from_ref(named), &self.marks.snapshot())?;
        self.record_in(&run, named)
    }

    /// The bytes of the first of `named`, and of those after it that follow one another in its segment.
    fn run(&self, named: &[QueueEntry], marks: &Marks) -> Result<Run, ReadError> {
        let start = named[0].physical;
        let out_of_range = ReadError::OutOfRange { at: start, min: marks.min, end: marks.written };
        if start < marks.min || named[0].physical_end() > marks.written {
            return Err(out_of_range);
        }
        let segment = self.segments.find(start).ok_or(ReadError::NoRecord { at: start })?;
        let limit = segment.end().min(marks.written);
        if named[0].physical_end() > limit {
            return Err(ReadError::NoRecord { at: start });
        }
        let follows = |pair: &&[QueueEntry]| {
            pair[0].physical_end() == pair[1].physical && pair[1].physical_end() <= limit
        };
        let end = named[named.windows(2).take_while(follows).count()].physical_end();
        let bytes = segment.file.read(start.0 - segment.start.0..end.0 - segment.start.0);
        Ok(Run { start, bytes: bytes.map_err(|error| ReadError::io(start, &error))? })
    }

    fn record_in(&self, run: &Run, named: &QueueEntry) -> Result<Record, ReadError> {
        let (at, from) = (named.physical, (named.physical.0 - run.start.0) as usize);
        let bytes = run.bytes.slice(from..from + named.size as usize);
        Record::parse_again(bytes, at, self.crc(at)).map_err(|error| ReadError::damaged(at, error))
    }

    /// What stands at `at`.
    ///
    /// # Errors
    /// As [`CommitLog::record`].
    pub(crate) fn next(&self, at: PhysicalOffset) -> Result<Next, ReadError> {
        if at == self.marks.written() {
            return Ok(Next::End);
        }
        let end = self.in_range(at)?;
        let segment = self.segments.find(at).ok_or(ReadError::NoRecord { at })?;
        let readable = end.min(segment.end()).0 - segment.start.0;
        let from = at.0 - segment.start.0;
        let read = |upto| segment.file.read(from..upto).map_err(|error| ReadError::io(at, &error));
        // Its length first: a simulated disk copies what it gives out.
        let len = read(readable.min(from + 4))?.first_chunk().map_or(0, |len| u32::from_be_bytes(*len));
        let bytes = read(readable.min(from + u64::from(len.max(8))))?;
        match next_at(&bytes) {
            Scanned::Record { len } => {
                let record = Record::parse_again(bytes.slice(..len as usize), at, self.crc(at));
                Ok(Next::Record(record.map_err(|error| ReadError::damaged(at, error))?))
            }
            Scanned::Blank { .. } => Ok(Next::Segment(self.segment_end(at))),
            Scanned::Nothing => Err(ReadError::NoRecord { at }),
            Scanned::Damaged(error) => Err(ReadError::damaged(at, error)),
        }
    }

    fn segment_end(&self, at: PhysicalOffset) -> PhysicalOffset {
        PhysicalOffset((at.0 / self.options.segment_bytes + 1) * self.options.segment_bytes)
    }

    /// The end of what can be read, if `at` lies before it and was not removed.
    fn in_range(&self, at: PhysicalOffset) -> Result<PhysicalOffset, ReadError> {
        let marks = self.marks.snapshot();
        if (marks.min..marks.written).contains(&at) {
            return Ok(marks.written);
        }
        Err(ReadError::OutOfRange { at, min: marks.min, end: marks.written })
    }

    fn crc(&self, at: PhysicalOffset) -> RecordCrc {
        if at >= self.options.sealed_from { RecordCrc::Required } else { RecordCrc::IfPresent }
    }

    /// What [`Facts::take`] does, with the facts of everything numbered and not taken.
    pub(crate) fn take_facts(
        &self,
        at: PhysicalOffset,
        upto: PhysicalOffset,
        budget: usize,
        taken: &mut VecDeque<DispatchFact>,
    ) -> Result<PhysicalOffset, PhysicalOffset> {
        self.head().facts.take(at, upto, budget, taken)
    }

    pub(crate) fn head(&self) -> MutexGuard<'_, Head> {
        self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Records that follow one another in a segment.
#[derive(Default)]
struct Run {
    start: PhysicalOffset,
    bytes: Bytes,
}

impl Run {
    fn holds(&self, named: &QueueEntry) -> bool {
        self.start <= named.physical && named.physical_end().0 - self.start.0 <= self.bytes.len() as u64
    }
}

impl LogRecords for CommitLog {
    fn item(&self, at: PhysicalOffset) -> Result<LogItem, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.item_at(at)?)
    }
}

impl CommitLog {
    /// What stands at `at`. Damage that recovery reported is skipped; damage behind it is an error.
    pub(crate) fn item_at(&self, at: PhysicalOffset) -> Result<LogItem, ReadError> {
        match self.next(at) {
            Ok(Next::Record(record)) => Ok(LogItem::Record(record)),
            Ok(Next::Segment(start)) => Ok(LogItem::SkipTo(start)),
            Ok(Next::End) => Ok(LogItem::End),
            Err(ReadError::NoRecord { .. } | ReadError::Damaged { .. }) if at < self.options.recovered_to => {
                Ok(LogItem::SkipTo(self.behind_damage(at)?))
            }
            Err(error) => Err(error),
        }
    }

    /// Where the next valid record behind damage at `at` starts, or where the recovered log ended.
    fn behind_damage(&self, at: PhysicalOffset) -> Result<PhysicalOffset, ReadError> {
        let mut next = self.options.recovered_to;
        let first = |record: Record| {
            next = next.min(record.physical());
            false
        };
        search::valid_records_after(&self.segments.all(), at, |at| self.crc(at), first)
            .map_err(|error| ReadError::io(at, &error))?;
        Ok(next)
    }
}

/// What stands at a position of the log.
#[derive(Debug)]
pub(crate) enum Next {
    /// A whole record.
    Record(Record),
    /// The blank at the end of a segment; the next record starts at the position given.
    Segment(PhysicalOffset),
    /// Nothing yet.
    End,
}

impl fmt::Debug for CommitLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommitLog")
            .field("directory", &self.directory)
            .field("marks", &self.marks)
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}

/// What a started flush covers.
pub(crate) type Covered = (Generation, PhysicalOffset);
