//! Appending: reserve, fill, publish (DESIGN §4.2).

use std::fmt;
use std::sync::Arc;

use super::segments::Segment;
use super::{CommitLog, Head, Slot};
use crate::blank::{self, BLANK_LEN_MIN};
use crate::checksum;
use crate::dispatch::{DispatchFact, DispatchRules, TagsCode, messages_in};
use crate::error::Failure;
use crate::message::{Message, MessageError};
use crate::queue::{ConsumeQueue, Layout, QueueEntry};
use crate::record::{self, Encoded};
use crate::{Epoch, PhysicalOffset, Position, QueueId, QueueOffset, TopicName};

/// Queues of earlier records among which that of the next one is looked for, before the table of all.
const QUEUES_REMEMBERED: usize = 8;
/// A buffer above this size is not kept for the next append.
const BUFFER_KEPT_MAX: usize = 256 << 10;
/// The blank that must fit behind every record.
const BLANK_LEN: u64 = BLANK_LEN_MIN as u64;

/// Why a message was not stored. In every case nothing of it was written.
#[derive(Clone, Debug)]
pub enum AppendError {
    /// The message breaks a limit or cannot be expressed as a record.
    Message(MessageError),
    /// The record, or the batch that must stay together, does not fit into one segment.
    TooLargeForSegment {
        /// Bytes needed.
        len: u64,
        /// Bytes of a segment.
        segment: u64,
    },
    /// More is waiting to be written than the store holds in memory; try again.
    Busy {
        /// Bytes waiting.
        staged: u64,
    },
    /// The next segment cannot be created (disk full, no permission, …). Appends go on once it can.
    NoSegment {
        /// Where the segment would start.
        start: PhysicalOffset,
        /// What the system said.
        error: Arc<std::io::Error>,
    },
    /// The epoch ended; the log accepts nothing until a new one begins here.
    Fenced {
        /// The epoch for which the log was fenced.
        epoch: Epoch,
    },
    /// Another node's bytes do not continue this log. Nothing of them from `at` on was taken.
    NotAtEnd {
        /// Where they would have gone.
        at: PhysicalOffset,
        /// Where the log ends.
        end: PhysicalOffset,
        /// The log is not fenced: it numbers messages of its own.
        open: bool,
    },
    /// A write or flush failed. The store must be reopened.
    Failed(Failure),
    /// The store is closed.
    Closed,
}

impl fmt::Display for AppendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message(error) => error.fmt(f),
            Self::TooLargeForSegment { len, segment } => {
                write!(f, "{len} bytes must stay together and a segment has {segment}; use larger segments")
            }
            Self::Busy { staged } => write!(f, "{staged} bytes wait to be written; try again"),
            Self::NoSegment { start, error } => {
                write!(f, "the segment at {start} cannot be created: {error}; make room and try again")
            }
            Self::Fenced { epoch } => write!(f, "the log was fenced for epoch {epoch}"),
            Self::NotAtEnd { open: true, .. } => {
                f.write_str("the log takes messages of its own; fence it first")
            }
            Self::NotAtEnd { at, end, .. } => {
                write!(f, "bytes for {at} do not continue a log that ends at {end}")
            }
            Self::Failed(failure) => failure.fmt(f),
            Self::Closed => f.write_str("the store is closed"),
        }
    }
}

impl std::error::Error for AppendError {}

impl From<MessageError> for AppendError {
    fn from(error: MessageError) -> Self {
        Self::Message(error)
    }
}

/// Encoded records, each with what its queue will say of it; or bytes that another node appended.
#[derive(Default)]
pub(crate) struct Staged {
    bytes: Vec<u8>,
    records: Vec<StagedRecord>,
    /// The queues of the records, and the last few of earlier appends.
    queues: Vec<Arc<ConsumeQueue>>,
}

struct StagedRecord {
    encoded: Encoded,
    /// Which of the queues it goes to. `None` for control records and prepared or rolled-back
    /// transactions: no number and no entry.
    queue: Option<usize>,
    tags: TagsCode,
    /// Messages in the record: more than one for an inner batch.
    messages: u16,
    /// Both 0 until the record is numbered.
    start: PhysicalOffset,
    queue_offset: QueueOffset,
}

/// A numbered range that was not published yet.
pub(crate) struct Reservation {
    place: Place,
    records: Box<Staged>,
    /// What did not fit into the segment.
    rest: Option<Box<Staged>>,
    epoch: Epoch,
    store_ms: i64,
}

/// How a reserved range gets to the writer.
pub(super) enum Place {
    /// In the slot with this number.
    Slot(u64),
    /// By the hand of whoever is the writer already, with nothing in front of it.
    InHand { start: PhysicalOffset, segment: Segment },
}

/// Where a record came to stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) position: Position,
    pub(crate) start: PhysicalOffset,
    pub(crate) queue_offset: QueueOffset,
    pub(crate) store_ms: i64,
}

impl Reservation {
    /// Where the records will stand once published, in order.
    pub(crate) fn placed(&self) -> impl Iterator<Item = Placed> + '_ {
        let (epoch, store_ms) = (self.epoch, self.store_ms);
        self.records.records.iter().map(move |record| {
            let position = Position { epoch, end: record.start.after(record.encoded.len().into()) };
            Placed { position, start: record.start, queue_offset: record.queue_offset, store_ms }
        })
    }

    /// Patches the numbers into the records and seals each with its checksum.
    pub(crate) fn fill(&mut self) {
        let Staged { bytes, records, .. } = &mut *self.records;
        // All numbers first: a checksum that reads what was stored just before it waits for it.
        each_record(bytes, records, |bytes, record| {
            record::number(bytes, record.encoded, record.queue_offset, record.start, self.store_ms);
        });
        each_record(bytes, records, |bytes, _| checksum::write_suffix(bytes));
    }
}

fn each_record(
    mut bytes: &mut [u8],
    records: &[StagedRecord],
    mut work: impl FnMut(&mut [u8], &StagedRecord),
) {
    for record in records {
        let (this, rest) = bytes.split_at_mut(record.encoded.len() as usize);
        work(this, record);
        bytes = rest;
    }
}

impl Staged {
    fn push(
        &mut self,
        message: &Message,
        store_host: std::net::SocketAddr,
        rules: &DispatchRules,
        queue: usize,
    ) -> Result<(), MessageError> {
        // The sender sets the flag; stored in an ordinary queue it would take numbers without entries.
        let messages = messages_in(message.sys_flag, message.properties());
        if messages > 1 && self.queues[queue].layout() == Layout::Single {
            return Err(MessageError::InnerBatch { messages });
        }
        let queued = message.transaction().is_queued() && !rules.is_system(message.topic.as_str());
        // Before the bytes: moved here, it is loaded in wider pieces than it was stored in, and those
        // wait until all earlier stores have left, the body's kilobyte among them.
        self.records.push(StagedRecord {
            encoded: Encoded::NOT_YET,
            queue: queued.then_some(queue),
            tags: TagsCode::of(message.topic.as_str(), message.properties(), &rules.delay_levels),
            messages,
            start: PhysicalOffset(0),
            queue_offset: QueueOffset(0),
        });
        let encoded = record::encode(message, store_host, &mut self.bytes);
        match (&encoded, self.records.last_mut()) {
            (Ok(encoded), Some(record)) => record.encoded = *encoded,
            _ => drop(self.records.pop()),
        }
        encoded.map(drop)
    }

    /// The queue `id` of `topic`, if one of the last few records went there.
    pub(crate) fn queue(&self, topic: &TopicName, id: QueueId) -> Option<usize> {
        let is_it = |at: &usize| {
            let queue = &self.queues[*at];
            queue.id() == id && queue.topic() == topic && !queue.is_removed()
        };
        (0..self.queues.len()).rev().take(QUEUES_REMEMBERED).find(is_it)
    }

    /// Adds a queue, which [`Staged::queue`] finds.
    pub(crate) fn add_queue(&mut self, queue: Arc<ConsumeQueue>) -> usize {
        self.queues.push(queue);
        self.queues.len() - 1
    }

    /// Bytes that need no number: a blank, or copied ones.
    pub(super) fn raw(bytes: Vec<u8>) -> Box<Self> {
        Box::new(Self { bytes, ..Self::default() })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Empty, with room for about as much; `None` when that is too much to keep.
    pub(super) fn recycled(mut self: Box<Self>) -> Option<Box<Self>> {
        self.bytes.clear();
        self.records.clear();
        self.queues.drain(..self.queues.len().saturating_sub(QUEUES_REMEMBERED));
        (self.bytes.capacity() <= BUFFER_KEPT_MAX).then_some(self)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

/// Whether a reservation waits outside of a closed gate, or is the one that opens it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    AsItIs,
    Opening,
}

/// Who reserves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Anybody,
    /// Whoever is the writer until what was reserved is written.
    Writer,
}

impl CommitLog {
    /// Room to encode `count` records into; its buffer comes back to the log when it was written.
    pub(crate) fn staging(&self, count: usize) -> Box<Staged> {
        let mut staged = self.buffers.pop().unwrap_or_default();
        staged.records.reserve(count);
        staged
    }

    /// Encodes `message`, which goes to the queue that `staged` has at `queue`, behind what is staged
    /// already.
    pub(crate) fn stage(
        &self,
        staged: &mut Staged,
        message: &Message,
        queue: usize,
    ) -> Result<(), MessageError> {
        staged.push(message, self.options.store_host, &self.options.rules, queue)
    }

    /// Reserves, fills and publishes `staged`. With `together` all records stand in one
    /// segment or none is accepted; without, a prefix of them may have been accepted when an error
    /// comes: those that `placed` was called with.
    pub(crate) fn append(
        &self,
        staged: Box<Staged>,
        together: bool,
        mut placed: impl FnMut(Placed),
    ) -> Result<(), AppendError> {
        let mut next = Some(staged).filter(|staged| !staged.is_empty());
        while let Some(staged) = next {
            let mut reservation = self.reserve(staged, together)?;
            next = reservation.rest.take();
            reservation.fill();
            reservation.placed().for_each(&mut placed);
            self.publish(reservation);
        }
        Ok(())
    }

    /// As [`CommitLog::append`], by the writer: what has nothing in front of it is written without
    /// being published. Returns what did not fit into the segment.
    pub(super) fn append_as_writer(
        &self,
        staged: Box<Staged>,
        together: bool,
        placed: impl FnMut(Placed),
    ) -> Result<Option<Box<Staged>>, AppendError> {
        let mut reservation = self.reserve_at(staged, together, Gate::AsItIs, By::Writer)?;
        let rest = reservation.rest.take();
        reservation.fill();
        reservation.placed().for_each(placed);
        match reservation.place {
            Place::InHand { start, segment } => self.write_in_hand(start, segment, reservation.records),
            Place::Slot(_) => {
                self.publish(reservation);
                while self.write_once() {}
            }
        }
        Ok(rest)
    }

    /// Opens the gate of a fenced log with the first record of its epoch: nobody gets in before it.
    pub(crate) fn append_first(
        &self,
        staged: Box<Staged>,
        placed: impl FnMut(Placed),
    ) -> Result<(), AppendError> {
        let mut reservation = self.reserve_at(staged, true, Gate::Opening, By::Anybody)?;
        reservation.fill();
        reservation.placed().for_each(placed);
        self.publish(reservation);
        Ok(())
    }

    /// Numbers as many of the staged records as the current segment takes (at least one), rolling
    /// to the next segment first when the first one does not fit.
    pub(crate) fn reserve(&self, staged: Box<Staged>, together: bool) -> Result<Reservation, AppendError> {
        self.reserve_at(staged, together, Gate::AsItIs, By::Anybody)
    }

    fn reserve_at(
        &self,
        mut staged: Box<Staged>,
        together: bool,
        gate: Gate,
        by: By,
    ) -> Result<Reservation, AppendError> {
        let now = self.clock.wall_ms();
        let segment = self.options.segment_bytes;
        let needed = staged.indivisible(together);
        if needed + BLANK_LEN > segment {
            return Err(AppendError::TooLargeForSegment { len: needed, segment });
        }
        loop {
            let mut head = self.head();
            self.admit(&head, needed, gate)?;
            let missing = match self.room(&mut head, needed) {
                Ok(room) => {
                    head.accepting |= gate == Gate::Opening;
                    let taken = head.take(&mut staged, room, now);
                    let place = self.place(&mut head, &taken, by);
                    let (epoch, store_ms) = (head.epoch, head.store_ms);
                    drop(head);
                    let rest = staged.split_off(taken.records, taken.len);
                    return Ok(Reservation { place, records: staged, rest, epoch, store_ms });
                }
                Err(start) => start,
            };
            drop(head);
            self.create_segment(missing)?;
        }
    }

    /// The way that what was taken goes to the writer.
    fn place(&self, head: &mut Head, taken: &Taken, by: By) -> Place {
        if by == By::Writer && head.slots.is_empty() {
            // It is filled and written before anything behind it is.
            self.marks.appended(head.end);
            let segment = head.segment.clone().expect("room was found there");
            return Place::InHand { start: taken.start, segment };
        }
        head.slots.push_back(Slot { start: taken.start, len: taken.len, published: None });
        head.staged += taken.len;
        Place::Slot(head.first_slot + head.slots.len() as u64 - 1)
    }

    /// Hands a filled reservation to the writer.
    pub(crate) fn publish(&self, reservation: Reservation) {
        let Place::Slot(slot) = reservation.place else {
            unreachable!("what is in the writer's hand needs no publishing");
        };
        let mut head = self.head();
        let index = usize::try_from(slot - head.first_slot).expect("a reserved slot is still there");
        head.slots[index].published = Some(reservation.records);
        let end = head.extend_published();
        // Under the lock of the head, so that the mark never moves backwards.
        self.marks.appended(end);
    }

    /// Makes sure that the segment after the current one exists. For the background step, so that
    /// no append waits for it.
    pub(crate) fn prepare_next_segment(&self) -> Result<(), AppendError> {
        let end = self.head().end;
        let last = self.segments.last_end();
        let current = end.0 / self.options.segment_bytes * self.options.segment_bytes;
        let next = PhysicalOffset(current + self.options.segment_bytes);
        match last {
            None => self.create_segment(PhysicalOffset(current)),
            Some(last) if last <= end => self.create_segment(last),
            Some(last) if last <= next && end.0 - current > self.options.segment_bytes / 2 => {
                self.create_segment(last)
            }
            Some(_) => Ok(()),
        }
    }

    fn admit(&self, head: &Head, needed: u64, gate: Gate) -> Result<(), AppendError> {
        if let Some(failure) = self.failure() {
            return Err(AppendError::Failed(failure.clone()));
        }
        let closed = !head.accepting && gate == Gate::AsItIs;
        if closed && !crate::planted::planted("append-past-fence") {
            return Err(AppendError::Fenced { epoch: head.epoch });
        }
        // A single record above the limit is still taken when nothing else waits.
        if head.staged > 0 && head.staged + needed > self.options.staged_bytes_max {
            return Err(AppendError::Busy { staged: head.staged });
        }
        Ok(())
    }

    /// Bytes that may be reserved in the current segment, after a roll if `needed` bytes and the
    /// blank that must fit behind them do not. `Err`: the segment that starts there is missing.
    fn room(&self, head: &mut Head, needed: u64) -> Result<u64, PhysicalOffset> {
        let segment = self.options.segment_bytes;
        let left = segment - head.end.0 % segment;
        let fits = needed + BLANK_LEN <= left;
        let start = if fits { head.end } else { head.end.after(left) };
        if head.segment_of(start).is_none() {
            let found = self.segments.find(start);
            head.segment = Some(found.ok_or(PhysicalOffset(start.0 / segment * segment))?);
        }
        if fits {
            return Ok(left - BLANK_LEN);
        }
        let blank = blank::encode(u32::try_from(left).expect("a segment has less than 4 GiB"));
        let slot = Slot { start: head.end, len: left, published: Some(Staged::raw(blank.to_vec())) };
        head.slots.push_back(slot);
        head.staged += left.min(BLANK_LEN);
        head.end = start;
        Ok(segment - BLANK_LEN)
    }

    pub(super) fn create_segment(&self, start: PhysicalOffset) -> Result<(), AppendError> {
        let _one = self.rolling.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let no_segment = |error| AppendError::NoSegment { start, error: Arc::new(error) };
        if let Some(segment) = self.segments.find(start) {
            // A file that somebody made shorter under us would be asked for again and again.
            let whole = segment.file.len() == self.options.segment_bytes;
            return if whole { Ok(()) } else { Err(no_segment(std::io::ErrorKind::UnexpectedEof.into())) };
        }
        self.segments.create(start).map_err(no_segment)
    }
}

impl Staged {
    /// Bytes that must stand in one segment: all, or the first record.
    fn indivisible(&self, together: bool) -> u64 {
        let first = self.records.first().map_or(0, |record| u64::from(record.encoded.len()));
        if together { self.bytes.len() as u64 } else { first }
    }

    /// Keeps the first `records`, which take `len` bytes, and returns what stands behind them, if
    /// anything does.
    fn split_off(&mut self, records: usize, len: u64) -> Option<Box<Self>> {
        if records == self.records.len() {
            return None;
        }
        let bytes = self.bytes.split_off(usize::try_from(len).expect("staged in memory"));
        Some(Box::new(Self { bytes, records: self.records.split_off(records), queues: self.queues.clone() }))
    }
}

/// What [`Head::take`] numbered.
struct Taken {
    start: PhysicalOffset,
    records: usize,
    len: u64,
}

impl Head {
    /// Numbers the longest prefix of the staged records that fits into `room` bytes.
    fn take(&mut self, staged: &mut Staged, room: u64, now: i64) -> Taken {
        self.store_ms = self.store_ms.max(now);
        let start = self.end;
        let limit = start.after(room);
        let mut records = 0;
        for record in &mut staged.records {
            let size = record.encoded.len();
            let end = self.end.after(size.into());
            if end > limit {
                break;
            }
            record.start = self.end;
            if let Some(queue) = record.queue {
                let queue = Arc::clone(&staged.queues[queue]);
                let messages = record.messages;
                record.queue_offset = queue.take_numbers(messages.into());
                let (physical, offset) = (record.start, record.queue_offset);
                let tags_code = record.tags.at(self.store_ms);
                let entry = QueueEntry { physical, size, tags_code, offset, messages };
                self.facts.push(DispatchFact { queue, entry, store_ms: self.store_ms });
            }
            self.end = end;
            records += 1;
        }
        Taken { start, records, len: self.end.0 - start.0 }
    }

    /// The newest segment, if it holds the byte at `at`.
    pub(super) fn segment_of(&self, at: PhysicalOffset) -> Option<&Segment> {
        self.segment.as_ref().filter(|segment| segment.holds(at))
    }

    /// Counts the slots that can be written now and gives the end of the last one.
    pub(super) fn extend_published(&mut self) -> PhysicalOffset {
        while self.slots.get(self.published).is_some_and(|slot| slot.published.is_some()) {
            self.published += 1;
        }
        self.slots.get(self.published).map_or(self.end, |open| open.start)
    }
}
