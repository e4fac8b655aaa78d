//! Writing by combining: whoever finds the writer idle writes everything published.
//!
//! A lull writes one record, a burst up to 1 MiB with one system call (DESIGN D5). An append that
//! finds the writer busy leaves a note; the writer looks once more before it goes idle, so nothing
//! published is ever left behind.

use std::io::{self, IoSlice};

use super::segments::Segment;
use super::{CommitLog, Head, Slot};
use crate::PhysicalOffset;
use crate::disk::{SegmentFile, write_all_at};
use crate::error::Failure;
use crate::planted::planted;

/// Slots written with one call, at most; the system takes no more parts.
const PARTS_MAX: usize = 1024;
/// Bytes written with one call, unless a single slot is larger.
const BYTES_MAX: u64 = 1 << 20;
/// A buffer above this size is not kept for the next append.
const BUFFER_KEPT_MAX: usize = 256 << 10;

impl CommitLog {
    /// Writes everything published, unless somebody else is writing: then that one does.
    pub(crate) fn write(&self) {
        self.writer.run(|| self.write_once());
    }

    /// Accepts nothing more, writes everything that was published without a gap, and nothing after
    /// that: a producer that was stopped in the middle must not write into a store that somebody else
    /// has opened by then.
    pub(crate) fn halt(&self) {
        self.head().accepting = false;
        self.writer.halt(|| self.write_once());
    }

    /// One system call's worth. True when more is published already.
    pub(super) fn write_once(&self) -> bool {
        if self.failure().is_some() {
            return false;
        }
        let Some(Taken { segment, first, rest, more }) = self.take_published() else { return false };
        let (start, end) = (first.start.0 - segment.start.0, rest.last().unwrap_or(&first).end());
        let written = write_slots(&*segment.file, start, &first, &rest);
        let slots = std::iter::once(first).chain(rest);
        slots.filter_map(|slot| slot.bytes).for_each(|bytes| self.keep_buffer(bytes));
        match written {
            Ok(()) => {
                segment.file.settle(end.0 - segment.start.0);
                self.marks.advance_written(end);
                more
            }
            Err(error) => {
                self.fail(Failure::write(super::segments::path(segment.start), start, error));
                false
            }
        }
    }

    /// Takes published slots of one segment off the head.
    fn take_published(&self) -> Option<Taken> {
        let mut head = self.head();
        let count = head.slots_at_once(self.options.segment_bytes);
        let first = if count > 0 { head.slots.pop_front() } else { None }?;
        let rest: Vec<Slot> = head.slots.drain(..count - 1).collect();
        head.published -= count;
        head.first_slot += count as u64;
        head.staged -= first.staged() + rest.iter().map(Slot::staged).sum::<u64>();
        let segment = head.segment_of(first.start).cloned().or_else(|| self.segments.find(first.start));
        let Some(segment) = segment else {
            unreachable!("a reserved range lies in a segment that exists: {}", first.start);
        };
        Some(Taken { segment, first, rest, more: head.published > 0 })
    }

    fn keep_buffer(&self, mut bytes: Vec<u8>) {
        if bytes.capacity() <= BUFFER_KEPT_MAX {
            bytes.clear();
            // A full pool drops the buffer.
            drop(self.buffers.push(bytes));
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

    fn staged(&self) -> u64 {
        self.bytes.as_ref().map_or(0, Vec::len) as u64
    }
}

impl Head {
    /// Published slots from the front that one call may write: of one segment, and not too many.
    fn slots_at_once(&self, segment_bytes: u64) -> usize {
        let Some(first) = self.slots.front() else { return 0 };
        let segment_end = (first.start.0 / segment_bytes + 1) * segment_bytes;
        let mut bytes = 0;
        let fits = |slot: &&Slot| {
            bytes += slot.staged();
            slot.start.0 < segment_end && (bytes <= BYTES_MAX || bytes == slot.len)
        };
        self.slots.iter().take(self.published.min(PARTS_MAX)).take_while(fits).count()
    }
}

/// Writes neighbouring slots, going on after short writes.
fn write_slots(file: &dyn SegmentFile, mut at: u64, first: &Slot, rest: &[Slot]) -> io::Result<()> {
    if let ([], Some(bytes)) = (rest, &first.bytes)
        && !planted("Z42")
    {
        return write_all_at(file, at, bytes);
    }
    let parts = std::iter::once(first).chain(rest).filter_map(|slot| slot.bytes.as_deref());
    let mut parts: Vec<IoSlice<'_>> = parts.map(IoSlice::new).collect();
    let mut rest = parts.as_mut_slice();
    while !rest.is_empty() {
        let written = match file.write_vectored_at(at, rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if planted("Z42") {
            return Ok(());
        }
        IoSlice::advance_slices(&mut rest, written);
        at += written as u64;
    }
    Ok(())
}
