//! Appending: reserve, fill, publish (DESIGN §4.2).

use std::fmt;
use std::sync::Arc;

use super::{CommitLog, Head, Slot};
use crate::blank::{self, BLANK_LEN_MIN};
use crate::dispatch::{DispatchFact, DispatchRules, TagsCode, messages_in};
use crate::error::Failure;
use crate::message::{Message, MessageError};
use crate::queue::{ConsumeQueue, Layout, QueueEntry};
use crate::record::{self, Encoded};
use crate::{Epoch, PhysicalOffset, Position, QueueOffset};

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

/// Records with their queues, encoded and not yet numbered.
#[derive(Default)]
pub(crate) struct Staged {
    bytes: Vec<u8>,
    records: Vec<StagedRecord>,
}

struct StagedRecord {
    encoded: Encoded,
    queue: Arc<ConsumeQueue>,
    /// `None` for control records and prepared or rolled-back transactions: no number and no entry.
    entry: Option<EntryFacts>,
}

/// What a queue entry says besides where the record came to stand.
#[derive(Clone, Copy)]
struct EntryFacts {
    tags: TagsCode,
    /// Messages in the record: more than one for an inner batch.
    messages: u16,
}

/// A numbered range that was not published yet.
pub(crate) struct Reservation {
    slot: u64,
    records: Vec<Reserved>,
    bytes: Vec<u8>,
    store_ms: i64,
}

struct Reserved {
    encoded: Encoded,
    placed: Placed,
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
        self.records.iter().map(|reserved| reserved.placed)
    }

    /// Patches the numbers into the records and seals each with its checksum.
    pub(crate) fn fill(&mut self) {
        let mut rest = self.bytes.as_mut_slice();
        for Reserved { encoded, placed } in &self.records {
            let (record, after) = rest.split_at_mut(encoded.len() as usize);
            record::seal(record, *encoded, placed.queue_offset, placed.start, self.store_ms);
            rest = after;
        }
    }
}

impl Staged {
    pub(crate) fn in_buffer(bytes: Vec<u8>) -> Self {
        Self { bytes, records: Vec::new() }
    }

    fn push(
        &mut self,
        message: &Message,
        store_host: std::net::SocketAddr,
        rules: &DispatchRules,
        queue: Arc<ConsumeQueue>,
    ) -> Result<(), MessageError> {
        // The sender sets the flag; stored in an ordinary queue it would take numbers without entries.
        let messages = messages_in(message.sys_flag, message.properties());
        if messages > 1 && queue.layout() == Layout::Single {
            return Err(MessageError::InnerBatch { messages });
        }
        let encoded = record::encode(message, store_host, &mut self.bytes)?;
        let queued = message.transaction().is_queued() && !rules.is_system(message.topic.as_str());
        let entry = queued.then(|| EntryFacts {
            tags: TagsCode::of(message.topic.as_str(), message.properties(), &rules.delay_levels),
            messages,
        });
        self.records.push(StagedRecord { encoded, queue, entry });
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

/// Whether a reservation waits outside of a closed gate, or is the one that opens it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    AsItIs,
    Opening,
}

impl CommitLog {
    /// A buffer to encode into; it comes back to the log when its bytes were written.
    pub(crate) fn staging(&self) -> Staged {
        Staged::in_buffer(self.buffers.pop().unwrap_or_default())
    }

    /// Encodes `message`, which goes to `queue`, behind what is staged already.
    pub(crate) fn stage(
        &self,
        staged: &mut Staged,
        message: &Message,
        queue: Arc<ConsumeQueue>,
    ) -> Result<(), MessageError> {
        staged.push(message, self.options.store_host, &self.options.rules, queue)
    }

    /// Reserves, fills and publishes `staged`; nothing is written yet. With `together` all records
    /// stand in one segment or none is accepted; without, a prefix of them may have been accepted
    /// when an error comes: `placed` says which.
    pub(crate) fn append(
        &self,
        mut staged: Staged,
        together: bool,
        placed: &mut Vec<Placed>,
    ) -> Result<(), AppendError> {
        while !staged.is_empty() {
            let mut reservation = self.reserve(&mut staged, together)?;
            reservation.fill();
            placed.extend(reservation.placed());
            self.publish(reservation);
        }
        Ok(())
    }

    /// Opens the gate of a fenced log with the first record of its epoch: nobody gets in before it.
    pub(crate) fn append_first(
        &self,
        mut staged: Staged,
        placed: &mut Vec<Placed>,
    ) -> Result<(), AppendError> {
        let mut reservation = self.reserve_at(&mut staged, true, Gate::Opening)?;
        reservation.fill();
        placed.extend(reservation.placed());
        self.publish(reservation);
        Ok(())
    }

    /// Numbers as many of the staged records as the current segment takes (at least one), rolling
    /// to the next segment first when the first one does not fit.
    pub(crate) fn reserve(&self, staged: &mut Staged, together: bool) -> Result<Reservation, AppendError> {
        self.reserve_at(staged, together, Gate::AsItIs)
    }

    fn reserve_at(
        &self,
        staged: &mut Staged,
        together: bool,
        gate: Gate,
    ) -> Result<Reservation, AppendError> {
        let now = self.clock.wall_ms();
        loop {
            let needed = staged.indivisible(together);
            let segment = self.options.segment_bytes;
            if needed + BLANK_LEN > segment {
                return Err(AppendError::TooLargeForSegment { len: needed, segment });
            }
            let missing = {
                let mut head = self.head();
                self.admit(&head, needed, gate)?;
                match self.room(&mut head, needed) {
                    Ok(room) => {
                        head.accepting |= gate == Gate::Opening;
                        return Ok(head.take(staged, room, now));
                    }
                    Err(start) => start,
                }
            };
            self.create_segment(missing)?;
        }
    }

    /// Hands a filled reservation to the writer.
    pub(crate) fn publish(&self, reservation: Reservation) {
        let mut head = self.head();
        let index =
            usize::try_from(reservation.slot - head.first_slot).expect("a reserved slot is still there");
        head.slots[index].bytes = Some(reservation.bytes);
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
        if self.segments.find(start).is_none() {
            return Err(PhysicalOffset(start.0 / segment * segment));
        }
        if fits {
            return Ok(left - BLANK_LEN);
        }
        let blank = blank::encode(u32::try_from(left).expect("a segment has less than 4 GiB"));
        head.slots.push_back(Slot {
            start: head.end,
            len: left,
            bytes: Some(blank.to_vec()),
            facts: Some(Vec::new()),
        });
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

    /// Records from the front that fit into `room` bytes together.
    fn fitting(&self, room: u64) -> usize {
        let mut left = room;
        let fits = |record: &&StagedRecord| match left.checked_sub(record.encoded.len().into()) {
            Some(rest) => {
                left = rest;
                true
            }
            None => false,
        };
        self.records.iter().take_while(fits).count()
    }
}

impl Head {
    /// Numbers the longest prefix of the staged records that fits into `room` bytes.
    fn take(&mut self, staged: &mut Staged, room: u64, now: i64) -> Reservation {
        self.store_ms = self.store_ms.max(now);
        let start = self.end;
        let fitting = staged.fitting(room);
        let mut records = Vec::with_capacity(fitting);
        let mut facts = Vec::with_capacity(fitting);
        for StagedRecord { encoded, queue, entry } in staged.records.drain(..fitting) {
            let (start, size) = (self.end, encoded.len());
            let queue_offset = match entry {
                None => QueueOffset(0),
                Some(entry) => queue.take_numbers(entry.messages.into()),
            };
            self.end = start.after(size.into());
            let position = Position { epoch: self.epoch, end: self.end };
            let placed = Placed { position, start, queue_offset, store_ms: self.store_ms };
            records.push(Reserved { encoded, placed });
            facts.extend(entry.map(|EntryFacts { tags, messages }| {
                let tags_code = tags.at(self.store_ms);
                let entry = QueueEntry { physical: start, size, tags_code, offset: queue_offset, messages };
                DispatchFact { queue, entry, store_ms: self.store_ms }
            }));
        }
        let used = self.end.0 - start.0;
        let rest = staged.bytes.split_off(usize::try_from(used).expect("staged in memory"));
        let bytes = std::mem::replace(&mut staged.bytes, rest);
        self.slots.push_back(Slot { start, len: used, bytes: None, facts: Some(facts) });
        self.staged += used;
        let slot = self.first_slot + self.slots.len() as u64 - 1;
        Reservation { slot, records, bytes, store_ms: self.store_ms }
    }

    /// Counts the slots that can be written now and gives the end of the last one.
    pub(super) fn extend_published(&mut self) -> PhysicalOffset {
        let more = self.slots.iter().skip(self.published).take_while(|slot| slot.bytes.is_some()).count();
        self.published += more;
        self.slots.get(self.published).map_or(self.end, |open| open.start)
    }
}
