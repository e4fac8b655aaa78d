//! The sums of blocks: made as slots are written, compared as they are read.

use std::io;
use std::ops::Range;

use super::{BLOCK, Slots, read_range};
use crate::disk::SegmentFile;
use crate::queue::QueueError;
use crate::queue::sums;

impl Slots {
    /// Takes the first `len` bytes of the tail, which were written at `at`, into the sums.
    pub(super) fn add_sums(
        &mut self,
        file: &dyn SegmentFile,
        start: u64,
        at: u64,
        len: usize,
    ) -> io::Result<()> {
        let mut crc = match self.crc.take() {
            Some(crc) => crc,
            None => crc_of(file, at / sums::BLOCK * sums::BLOCK..at)?,
        };
        let file_len = self.per_file * self.width();
        let (mut at, mut rest) = (at, &self.tail[..len]);
        while !rest.is_empty() {
            let block = at / sums::BLOCK;
            let block_end = ((block + 1) * sums::BLOCK).min(file_len);
            let part = rest.len().min(usize::try_from(block_end - at).expect("at most a block"));
            crc.update(&rest[..part]);
            (at, rest) = (at + part as u64, &rest[part..]);
            self.sum_dirty = at < block_end;
            if at == block_end {
                let full = std::mem::take(&mut crc);
                self.sums.push((start, block, sums::sum(full.finalize())));
                self.files[&start].sums.trust(block);
            }
        }
        self.crc = Some(crc);
        Ok(())
    }

    /// Writes the sums that wait, and that of the block that is not full yet: one system call for
    /// consecutive blocks of a file.
    pub(super) fn write_sums(&mut self) -> Result<(), QueueError> {
        if std::mem::take(&mut self.sum_dirty) {
            let start = self.start_of(self.written);
            let at = (self.written - start) * self.width();
            let block = at / sums::BLOCK;
            let block_end = ((block + 1) * sums::BLOCK).min(self.per_file * self.width());
            let rest = usize::try_from(block_end - at).expect("at most a block");
            let mut crc = self.crc.clone().expect("slots were written in this block");
            crc.update(&[0; BLOCK][..rest]);
            self.sums.push((start, block, sums::sum(crc.finalize())));
        }
        let waiting = std::mem::take(&mut self.sums);
        let follows = |a: &(u64, u64, u32), b: &(u64, u64, u32)| a.0 == b.0 && a.1 + 1 == b.1;
        for run in waiting.chunk_by(follows) {
            let (start, block, _) = run[0];
            let sums: Vec<u32> = run.iter().map(|(_, _, sum)| *sum).collect();
            self.store_sums(start, block, &sums)?;
        }
        Ok(())
    }

    pub(super) fn store_sums(&mut self, start: u64, block: u64, sums: &[u32]) -> Result<(), QueueError> {
        let Some(file) = self.files.get_mut(&start) else { return Ok(()) };
        let stored = file.sums.store(&*self.directory, block, sums);
        self.sum_names_dirty |= stored.map_err(|error| self.io(start, error))?;
        Ok(())
    }

    /// Compares the full blocks that `range` touches with their sums, each once.
    pub(super) fn check_blocks(
        &self,
        file: &dyn SegmentFile,
        start: u64,
        range: &Range<u64>,
    ) -> Result<(), QueueError> {
        let full = self.written.min(start + self.per_file) - start;
        let full_end = full * self.width();
        for block in range.start / sums::BLOCK..range.end.div_ceil(sums::BLOCK) {
            let block_end = ((block + 1) * sums::BLOCK).min(file.len());
            if block_end <= full_end && !self.files[&start].sums.is_trusted(block) {
                self.check_block(file, start, block)?;
            }
        }
        Ok(())
    }

    /// Compares a block of the file that starts at slot `start` with its sum; true when it has one.
    pub(super) fn check_block(
        &self,
        file: &dyn SegmentFile,
        start: u64,
        block: u64,
    ) -> Result<bool, QueueError> {
        let at = block * sums::BLOCK;
        let sums = &self.files[&start].sums;
        let stored = sums.stored(&*self.directory, block).map_err(|error| self.io(start, error))?;
        if let Some(stored) = stored {
            let crc = crc_of(file, at..(at + sums::BLOCK).min(file.len()));
            if sums::sum(crc.map_err(|error| self.io(start, error))?.finalize()) != stored {
                return Err(QueueError::Damaged { path: self.path(start), at });
            }
        }
        sums.trust(block);
        Ok(stored.is_some())
    }

    /// True when the block with the last byte of `slot` has a sum, `Damaged` when it differs from the
    /// block.
    pub(in crate::queue) fn check_block_of(&self, slot: u64) -> Result<bool, QueueError> {
        let start = self.start_of(slot);
        let last = (slot - start + 1) * self.width() - 1;
        self.check_block(&*self.opened(start)?, start, last / sums::BLOCK)
    }

    /// Path of the file and first byte of the block with the last byte of `slot`.
    pub(in crate::queue) fn block_at(&self, slot: u64) -> (String, u64) {
        let start = self.start_of(slot);
        let block = ((slot - start + 1) * self.width() - 1) / sums::BLOCK;
        (self.path(start), block * sums::BLOCK)
    }

    /// The first slot that has a byte in the block with the last byte of `slot`.
    pub(in crate::queue) fn block_start(&self, slot: u64) -> u64 {
        let start = self.start_of(slot);
        let block = ((slot - start + 1) * self.width() - 1) / sums::BLOCK;
        start + block * sums::BLOCK / self.width()
    }

    /// The first slot that has a byte in the block at byte `at` of the file `path`.
    pub(in crate::queue) fn slot_at(&self, path: &str, at: u64) -> Option<u64> {
        let start = self.starts().find(|start| self.path(*start) == path)?;
        Some(start + at / self.width())
    }

    /// Gives the last block its sum: every block that is noted as durable has one.
    pub(in crate::queue) fn seal_last_block(&mut self) -> Result<(), QueueError> {
        let Some(last) = self.written.checked_sub(1) else { return Ok(()) };
        let start = self.start_of(last);
        if !self.files.contains_key(&start) {
            return Ok(());
        }
        let (_, at) = self.block_at(last);
        let file = self.opened(start)?;
        let crc = crc_of(&*file, at..(at + sums::BLOCK).min(file.len()));
        let sum = sums::sum(crc.map_err(|error| self.io(start, error))?.finalize());
        let sums = &self.files[&start].sums;
        let known = sums.stored(&*self.directory, at / sums::BLOCK).map_err(|error| self.io(start, error))?;
        if known == Some(sum) { Ok(()) } else { self.store_sums(start, at / sums::BLOCK, &[sum]) }
    }

    /// Forgets the sums of a file from `block` on.
    pub(super) fn clear_sums(&mut self, start: u64, block: u64) -> Result<(), QueueError> {
        let blocks = (self.per_file * self.width()).div_ceil(sums::BLOCK);
        let known = self.files[&start].sums.all(&*self.directory).map_err(|error| self.io(start, error))?;
        match usize::try_from(block).ok().and_then(|block| known.get(block..)) {
            Some(rest) if rest.iter().any(|sum| *sum != 0) => {
                let none = vec![0; usize::try_from(blocks - block).expect("blocks of a file")];
                self.store_sums(start, block, &none)
            }
            _ => Ok(()),
        }
    }
}

/// The CRC of a range of at most a block.
pub(super) fn crc_of(file: &dyn SegmentFile, range: Range<u64>) -> io::Result<crc32fast::Hasher> {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&read_range(file, range)?);
    Ok(crc)
}
