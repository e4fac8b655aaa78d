//! Writing by combining: whoever finds the writer idle writes everything published.
//!
//! A lull writes one record, a burst up to 1 MiB with one system call (DESIGN D5). An append that
//! finds the writer busy leaves a note; the writer looks once more before it goes idle, so nothing
//! published is ever left behind.

use std::io::{self, IoSlice};

use super::{CommitLog, Slot};
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
        let (slots, more) = self.take_published();
        let (Some(first), Some(last)) = (slots.first(), slots.last()) else { return false };
        let (start, end) = (first.start, last.start.after(last.len));
        let Some(segment) = self.segments.find(start) else {
            unreachable!("a reserved range lies in a segment that exists: {start}");
        };
        let written = write_slots(&*segment.file, start.0 - segment.start.0, &slots);
        slots.into_iter().filter_map(|slot| slot.bytes).for_each(|bytes| self.keep_buffer(bytes));
        match written {
            Ok(()) => {
                segment.file.settle(end.0 - segment.start.0);
                self.marks.advance_written(end);
                more
            }
            Err(error) => {
                let file = super::segments::path(segment.start);
                self.fail(Failure::write(file, start.0 - segment.start.0, error));
                false
            }
        }
    }

    /// Takes published slots of one segment off the head, and tells whether others are left.
    fn take_published(&self) -> (Vec<Slot>, bool) {
        let mut head = self.head();
        let Some(first) = head.slots.front().filter(|_| head.published > 0) else {
            return (Vec::new(), false);
        };
        let segment_end = (first.start.0 / self.options.segment_bytes + 1) * self.options.segment_bytes;
        let mut bytes = 0;
        let fits = |slot: &&Slot| {
            bytes += slot.bytes.as_ref().map_or(0, Vec::len) as u64;
            slot.start.0 < segment_end && (bytes <= BYTES_MAX || bytes == slot.len)
        };
        let count = head.slots.iter().take(head.published.min(PARTS_MAX)).take_while(fits).count();
        let taken: Vec<Slot> = head.slots.drain(..count).collect();
        head.published -= count;
        head.first_slot += count as u64;
        head.staged -= taken.iter().map(|slot| slot.bytes.as_ref().map_or(0, Vec::len) as u64).sum::<u64>();
        (taken, head.published > 0)
    }

    fn keep_buffer(&self, mut bytes: Vec<u8>) {
        if bytes.capacity() <= BUFFER_KEPT_MAX {
            bytes.clear();
            // A full pool drops the buffer.
            drop(self.buffers.push(bytes));
        }
    }
}

/// Writes neighbouring slots, going on after short writes.
fn write_slots(file: &dyn SegmentFile, mut at: u64, slots: &[Slot]) -> io::Result<()> {
    if let [Slot { bytes: Some(bytes), .. }] = slots
        && !planted("Z42")
    {
        return write_all_at(file, at, bytes);
    }
    let parts = slots.iter().filter_map(|slot| slot.bytes.as_deref());
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
