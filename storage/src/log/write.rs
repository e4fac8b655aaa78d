//! Writing by combining: whoever finds the writer idle writes everything published.
//!
//! A lull writes one record, a burst up to 1 MiB with one system call (DESIGN D5). An append that
//! finds the writer busy leaves a note; the writer looks once more before it goes idle, so nothing
//! published is ever left behind.

use std::io::{self, IoSlice};

use super::segments::{Segment, Segments};
use super::{AppendError, CommitLog, Head, Placed, Slot, Staged};
use crate::PhysicalOffset;
use crate::disk::SegmentFile;
use crate::error::Failure;
use crate::planted::planted;

/// Slots written with one call, at most; the system takes no more parts.
const PARTS_MAX: usize = 1024;
/// Bytes written with one call, unless a single slot is larger.
const BYTES_MAX: u64 = 1 << 20;

impl CommitLog {
    /// Writes everything published, unless somebody else is writing: then that one does.
    pub(crate) fn write(&self) {
        self.writer.run(|| self.write_once());
    }

    /// As [`CommitLog::append`], and writes everything published. Who finds the writer idle is the
    /// writer from before it reserves, and most often needs no slot then.
    pub(crate) fn append_and_write(
        &self,
        staged: Box<Staged>,
        together: bool,
        mut placed: impl FnMut(Placed),
    ) -> Result<(), AppendError> {
        let mut next = Some(staged).filter(|staged| !staged.is_empty());
        let mut appended = Ok(());
        self.writer.run(|| {
            let Some(staged) = next.take() else { return self.write_once() };
            // Whoever publishes meanwhile leaves a note.
            match self.append_as_writer(staged, together, &mut placed) {
                Ok(rest) => next = rest,
                Err(error) => appended = Err(error),
            }
            next.is_some()
        });
        if let Some(staged) = next {
            appended = self.append(staged, together, placed);
            self.write();
        }
        appended
    }

    /// Accepts nothing more, writes everything that was published without a gap, and nothing after
    /// that: a producer that was stopped in the middle must not write into a store that somebody else
    /// has opened by then.
    pub(crate) fn halt(&self) {
        self.head().accepting = false;
        self.writer.halt(|| self.write_once());
    }

    /// Writes one system call's worth of what is published. True when there is more.
    pub(super) fn write_once(&self) -> bool {
        let mut head = self.head();
        if self.failure().is_some() {
            return false;
        }
        let Some(taken) = head.take_published(&self.segments, self.options.segment_bytes) else {
            return false;
        };
        drop(head);
        let more = taken.more;
        self.write_taken(taken) && more
    }

    /// Writes what was reserved by the writer itself.
    pub(super) fn write_in_hand(&self, start: PhysicalOffset, segment: Segment, records: Box<Staged>) {
        let first = Slot { start, len: records.bytes().len() as u64, published: Some(records) };
        self.write_taken(Taken { segment, first, rest: Vec::new(), more: false });
    }

    /// False when it failed.
    fn write_taken(&self, taken: Taken) -> bool {
        let Taken { segment, first, rest, .. } = taken;
        let (start, end) = (first.start.0 - segment.start.0, rest.last().unwrap_or(&first).end());
        let written = write_slots(&*segment.file, start, &first, &rest);
        self.recycle(first);
        rest.into_iter().for_each(|slot| self.recycle(slot));
        match written {
            Ok(upto) => {
                if upto < end.0 - segment.start.0 {
                    // Zeros that belong to a blank.
                    segment.file.settle(end.0 - segment.start.0);
                }
                self.marks.advance_written(end);
                true
            }
            Err(error) => {
                self.fail(Failure::write(super::segments::path(segment.start), start, error));
                false
            }
        }
    }

    fn recycle(&self, slot: Slot) {
        if let Some(room) = slot.published.and_then(Staged::recycled) {
            // A full pool drops it.
            drop(self.buffers.push(room));
        }
    }
}

/// Published slots that go to `segment` with one system call.
struct Taken {
    segment: Segment,
    first: Slot,
    /// Most often none, which takes no memory.
    rest: Vec<Slot>,
    /// Others are published already.
    more: bool,
}

impl Slot {
    fn end(&self) -> PhysicalOffset {
        self.start.after(self.len)
    }

    fn bytes(&self) -> &[u8] {
        self.published.as_ref().map_or(&[], |published| published.bytes())
    }
}

impl Head {
    /// Takes published slots of one segment.
    fn take_published(&mut self, segments: &Segments, segment_bytes: u64) -> Option<Taken> {
        let count = self.slots_at_once(segment_bytes);
        let first = if count > 0 { self.slots.pop_front() } else { None }?;
        let rest: Vec<Slot> = if count > 1 { self.slots.drain(..count - 1).collect() } else { Vec::new() };
        self.published -= count;
        self.first_slot += count as u64;
        self.staged -= first.bytes().len() as u64;
        self.staged -= rest.iter().map(|slot| slot.bytes().len() as u64).sum::<u64>();
        let segment = self.segment_of(first.start).cloned().or_else(|| segments.find(first.start));
        let Some(segment) = segment else {
            unreachable!("a reserved range lies in a segment that exists: {}", first.start);
        };
        Some(Taken { segment, first, rest, more: self.published > 0 })
    }

    /// Published slots from the front that one call may write: of one segment, and not too many.
    fn slots_at_once(&self, segment_bytes: u64) -> usize {
        let Some(first) = self.slots.front() else { return 0 };
        let segment_end = (first.start.0 / segment_bytes + 1) * segment_bytes;
        let mut bytes = 0;
        let fits = |slot: &&Slot| {
            bytes += slot.bytes().len() as u64;
            slot.start.0 < segment_end && (bytes <= BYTES_MAX || bytes == slot.len)
        };
        self.slots.iter().take(self.published.min(PARTS_MAX)).take_while(fits).count()
    }
}

/// Writes neighbouring slots, going on after short writes, and returns where what was written ends.
fn write_slots(file: &dyn SegmentFile, mut at: u64, first: &Slot, rest: &[Slot]) -> io::Result<u64> {
    let (mut one, mut many) = ([IoSlice::new(first.bytes())], Vec::new());
    let mut parts = one.as_mut_slice();
    if !rest.is_empty() {
        many.extend(std::iter::once(first).chain(rest).map(|slot| IoSlice::new(slot.bytes())));
        parts = many.as_mut_slice();
    }
    while !parts.is_empty() {
        let written = match file.append_at(at, parts) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        at += written as u64;
        if planted("Z42") {
            return Ok(at);
        }
        IoSlice::advance_slices(&mut parts, written);
    }
    Ok(at)
}
