//! What the files hold behind the end of a queue that is being built: looked at, then overwritten or
//! zeroed.

use std::ops::Range;

use super::durable::unsettle;
use super::{AT_ONCE, Slots, read_range};
use crate::queue::sums;
use crate::queue::{QueueEntry, QueueError};

impl Slots {
    /// What the files hold in `slots`, at or behind the end: written by others, or before a crash.
    /// Shorter where files end; nothing is checked.
    pub(in crate::queue) fn leftovers(
        &self,
        slots: Range<u64>,
    ) -> Result<Vec<Option<QueueEntry>>, QueueError> {
        let start = self.start_of(slots.start);
        let to = slots.end.min(start + self.per_file);
        if !self.files.contains_key(&start) {
            return Ok(Vec::new());
        }
        let bytes = self.raw(start, slots.start..to)?;
        let entries = bytes.chunks_exact(self.layout.width()).zip(slots.start..);
        Ok(entries.map(|(bytes, slot)| self.layout.decode(bytes, slot)).collect())
    }

    /// Starts over at `slot`: the files in front of it go, its own is padded up to it, and what
    /// stands behind is leftovers.
    pub(in crate::queue) fn restart(&mut self, slot: u64) -> Result<(), QueueError> {
        let start = self.start_of(slot);
        let old: Vec<u64> = self.files.range(..start).map(|(start, _)| *start).collect();
        for start in old {
            self.remove(start)?;
        }
        if self.files.contains_key(&start) && slot > start {
            let file = self.file_for_writing(start, slot)?;
            self.pad(&*file, slot - start).map_err(|error| self.io(start, error))?;
            let blocks = ((slot - start) * self.width()).div_ceil(sums::BLOCK);
            let unknown = vec![0; usize::try_from(blocks).expect("blocks of a file")];
            self.store_sums(start, 0, &unknown)?;
        }
        self.set_end(slot);
        Ok(())
    }

    /// Zeroes and removes what the files hold behind the end; returns how many entries that were.
    pub(in crate::queue) fn clear_rest(&mut self) -> Result<u64, QueueError> {
        let mut dropped = 0;
        let starts: Vec<u64> =
            self.files.range(self.start_of(self.written)..).map(|(start, _)| *start).collect();
        for start in starts {
            let from = start.max(self.written);
            let mut extent = from;
            let mut slot = from;
            while let Some(data) = self.next_data(start, slot)? {
                let to = (start + self.per_file).min(data + AT_ONCE);
                let bytes = self.raw(start, data..to)?;
                for (bytes, n) in bytes.chunks_exact(self.layout.width()).zip(data..) {
                    if bytes.iter().any(|byte| *byte != 0) {
                        extent = n + 1;
                        dropped += u64::from(self.layout.decode(bytes, n).is_some_and(|e| !e.is_padding()));
                    }
                }
                slot = to;
            }
            let is_kept = start < self.written || Some(start) == self.first();
            if !is_kept || extent > from {
                unsettle(&*self.directory)?;
            }
            // The others are removed as a whole.
            if is_kept {
                self.zero(start, from..extent)?;
                self.clear_sums(start, ((from - start) * self.width()).div_ceil(sums::BLOCK))?;
            }
        }
        self.drop_files_from(self.written)?;
        Ok(dropped)
    }

    /// The first slot from `slot` on, in the file that starts at `start`, that may hold anything but
    /// zeros.
    pub(super) fn next_data(&self, start: u64, slot: u64) -> Result<Option<u64>, QueueError> {
        if slot >= start + self.per_file {
            return Ok(None);
        }
        let found = self.opened(start)?.next_data((slot - start) * self.width());
        let found = found.map_err(|error| self.io(start, error))?;
        Ok(found.map(|at| (start + at / self.width()).max(slot)))
    }

    /// The bytes of `slots` of the file that starts at `start`; nothing is checked.
    pub(super) fn raw(&self, start: u64, slots: Range<u64>) -> Result<Vec<u8>, QueueError> {
        let range = (slots.start - start) * self.width()..(slots.end - start) * self.width();
        read_range(&*self.opened(start)?, range).map_err(|error| self.io(start, error))
    }
}
