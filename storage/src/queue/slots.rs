//! The files of one queue as a single array of fixed-width slots, and its unwritten end in memory.
//!
//! ```text
//!  slot 0            per_file           2 x per_file     written          end
//!  +-----------------+------------------+----------------+--- - - - - - - -+
//!  | file 0          | file per_file x width             |  tail (memory)  |
//!  +-----------------+------------------+----------------+--- - - - - - - -+
//! ```
//! A file is named by its first byte in the queue (20 digits), has its full length from the start
//! and is sparse. The first file need not be file 0. Behind `written` the files hold zeros, except
//! while a queue is being rebuilt: then they hold what was there before, which is overwritten.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::entry::Layout;
use super::handles::{Handle, Handles};
use super::sums::{self, Sums};
use super::{QueueEntry, QueueError};
use crate::QueueOffset;
use crate::disk::{Directory, SegmentFile, parent, write_all_at};

/// The tail is written when it covers this many bytes.
const BLOCK: usize = sums::BLOCK as usize;
/// With a disk that takes nothing the tail grows to this many bytes; then entries are refused.
const TAIL_MAX: usize = 16 * BLOCK;
/// Slots that are read or padded at a time.
const AT_ONCE: u64 = 4096;
/// Sums that wait in memory, at most.
const SUMS_MAX: usize = 1024;

#[derive(Debug)]
pub(super) struct Slots {
    directory: Arc<dyn Directory>,
    handles: Handles,
    folder: String,
    pub(super) layout: Layout,
    per_file: u64,
    /// By first slot.
    files: BTreeMap<u64, SlotFile>,
    written: u64,
    tail: Vec<u8>,
    /// CRC of the block in which `written` lies, up to there; `None` when it has to be read.
    crc: Option<crc32fast::Hasher>,
    /// Sums of blocks that were written: first slot of the file, block, sum.
    sums: Vec<(u64, u64, u32)>,
    /// Slots were written behind the last sum.
    sum_dirty: bool,
    /// The folder has a new or a removed name that was not synced.
    names_dirty: bool,
    /// The same for the folder of the sums.
    sum_names_dirty: bool,
}

#[derive(Debug)]
struct SlotFile {
    handle: Handle,
    sums: Sums,
    dirty: bool,
}

/// What has to be synced to make a queue durable.
#[derive(Debug, Default)]
pub(super) struct Unsynced {
    files: Vec<String>,
    /// Folders whose names changed.
    folders: Vec<String>,
}

impl Unsynced {
    /// Takes what `more` has; a folder is synced once however many queues changed it.
    pub(super) fn add(&mut self, more: Self) {
        self.files.extend(more.files);
        self.folders.extend(more.folders);
        self.folders.sort_unstable();
        self.folders.dedup();
    }

    /// Makes all of it durable; what was removed meanwhile is passed over.
    pub(super) fn sync(self, directory: &dyn Directory) -> Result<(), QueueError> {
        for path in self.files {
            ignore_missing(&path, directory.open(&path).and_then(|file| file.sync()))?;
        }
        for path in self.folders {
            ignore_missing(&path, directory.sync(&path))?;
        }
        Ok(())
    }
}

impl Slots {
    pub(super) fn new(
        directory: Arc<dyn Directory>,
        handles: Handles,
        folder: String,
        layout: Layout,
        per_file: u64,
    ) -> Self {
        Self {
            directory,
            handles,
            folder,
            layout,
            per_file,
            files: BTreeMap::new(),
            written: 0,
            tail: Vec::new(),
            crc: None,
            sums: Vec::new(),
            sum_dirty: false,
            names_dirty: false,
            sum_names_dirty: false,
        }
    }

    pub(super) fn width(&self) -> u64 {
        self.layout.width() as u64
    }

    /// One past the last slot.
    pub(super) fn end(&self) -> u64 {
        self.written + self.tail.len() as u64 / self.width()
    }

    /// True when the queue has neither files nor entries.
    pub(super) fn is_fresh(&self) -> bool {
        self.files.is_empty() && self.tail.is_empty() && self.written == 0
    }

    /// First slot of the oldest file.
    pub(super) fn first(&self) -> Option<u64> {
        self.files.keys().next().copied()
    }

    /// First slots of all files, in order.
    pub(super) fn starts(&self) -> impl DoubleEndedIterator<Item = u64> + '_ {
        self.files.keys().copied()
    }

    /// Takes a file that exists.
    pub(super) fn adopt(&mut self, start: u64) {
        let sums = Sums::of(&self.path(start), self.per_file * self.width());
        self.files.insert(start, SlotFile { handle: Handle::default(), sums, dirty: false });
    }

    /// Removes the sums of all files: whoever wrote to the files since did not keep them.
    pub(super) fn forget_sums(&mut self) -> Result<(), QueueError> {
        for (start, file) in &self.files {
            file.sums.remove(&*self.directory).map_err(|error| self.io(*start, error))?;
        }
        Ok(())
    }

    /// Has names and the end of the queue synced once more: a process that was killed may have made,
    /// removed, written or zeroed what only the cache of the system knows.
    pub(super) fn doubt(&mut self) -> Result<(), QueueError> {
        (self.names_dirty, self.sum_names_dirty) = (true, true);
        let starts = [self.start_of(self.written), self.start_of(self.written.saturating_sub(1))];
        for start in starts {
            let Some(file) = self.files.get_mut(&start) else { continue };
            file.dirty = true;
            file.sums.doubt(&*self.directory).map_err(|error| QueueError::io(&self.folder, error))?;
        }
        Ok(())
    }

    /// Sets the end. What the files hold behind it is overwritten by what is appended, or zeroed by
    /// [`Slots::clear_rest`].
    pub(super) fn set_end(&mut self, slot: u64) {
        self.tail.clear();
        self.written = slot;
        (self.crc, self.sum_dirty) = (None, false);
    }

    /// Starts over at `slot`: the files in front of it go, its own is padded up to it, and what
    /// stands behind is leftovers.
    pub(super) fn restart(&mut self, slot: u64) -> Result<(), QueueError> {
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

    /// Appends an entry to the tail, and writes the tail when a block of it is full.
    pub(super) fn append(&mut self, entry: &QueueEntry, store_ms: i64) -> Result<(), QueueError> {
        if self.tail.len() >= TAIL_MAX {
            self.write_tail()?;
        }
        self.layout.encode(entry, store_ms, &mut self.tail);
        if self.tail.len() >= BLOCK && self.tail.len() % BLOCK < self.layout.width() {
            // An entry is readable from the tail as well; the error comes back when it must.
            drop(self.write_tail());
        }
        Ok(())
    }

    /// Writes the tail and the sums, and gives their memory back: an idle queue costs none.
    pub(super) fn write_out(&mut self) -> Result<(), QueueError> {
        if self.tail.is_empty() && self.sums.is_empty() && !self.sum_dirty {
            // Nothing came since the last call.
            self.files.values_mut().filter(|file| file.handle.is_open()).for_each(|file| file.handle.close());
            return Ok(());
        }
        self.write_tail()?;
        self.tail = Vec::new();
        self.write_sums()?;
        self.sums = Vec::new();
        Ok(())
    }

    /// Writes the tail: one system call, or one for each file that it reaches.
    fn write_tail(&mut self) -> Result<(), QueueError> {
        while !self.tail.is_empty() {
            let slot = self.written;
            let start = self.start_of(slot);
            let room = (start + self.per_file - slot) * self.width();
            let len = self.tail.len().min(usize::try_from(room).unwrap_or(usize::MAX));
            let file = self.file_for_writing(start, slot)?;
            let at = (slot - start) * self.width();
            write_all_at(&*file, at, &self.tail[..len]).map_err(|error| self.io(start, error))?;
            self.add_sums(&*file, start, at, len).map_err(|error| self.io(start, error))?;
            self.tail.drain(..len);
            self.written += len as u64 / self.width();
        }
        if self.sums.len() > SUMS_MAX { self.write_sums() } else { Ok(()) }
    }

    /// Takes the first `len` bytes of the tail, which were written at `at`, into the sums.
    fn add_sums(&mut self, file: &dyn SegmentFile, start: u64, at: u64, len: usize) -> io::Result<()> {
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
    fn write_sums(&mut self) -> Result<(), QueueError> {
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

    fn store_sums(&mut self, start: u64, block: u64, sums: &[u32]) -> Result<(), QueueError> {
        let Some(file) = self.files.get_mut(&start) else { return Ok(()) };
        let stored = file.sums.store(&*self.directory, block, sums);
        self.sum_names_dirty |= stored.map_err(|error| self.io(start, error))?;
        Ok(())
    }

    /// The file that starts at slot `start`, created when missing; slots of a new file before
    /// `slot` become padding.
    fn file_for_writing(&mut self, start: u64, slot: u64) -> Result<Arc<dyn SegmentFile>, QueueError> {
        if !self.files.contains_key(&start) {
            self.create(start, slot).map_err(|error| self.io(start, error))?;
            self.adopt(start);
            self.names_dirty = true;
            self.crc = None;
        }
        let file = self.opened(start)?;
        self.files.get_mut(&start).expect("it is there").dirty = true;
        Ok(file)
    }

    fn create(&self, start: u64, slot: u64) -> io::Result<()> {
        self.directory.make_directory(&self.folder)?;
        let path = self.path(start);
        let file = self.directory.create(&path, self.per_file * self.width())?;
        let padded = self.pad(&*file, slot - start);
        if padded.is_err() {
            drop(self.directory.remove(&path));
        }
        padded
    }

    fn pad(&self, file: &dyn SegmentFile, slots: u64) -> io::Result<()> {
        let mut bytes = Vec::new();
        let padding = QueueEntry::padding(QueueOffset(0));
        (0..slots.min(AT_ONCE)).for_each(|_| self.layout.encode(&padding, 0, &mut bytes));
        let mut done = 0;
        while done < slots {
            let len = (slots - done).min(AT_ONCE);
            let part = usize::try_from(len * self.width()).expect("a few thousand entries");
            write_all_at(file, done * self.width(), &bytes[..part])?;
            done += len;
        }
        Ok(())
    }

    /// Calls `each` with the number and the bytes of every slot in `range`, which ends at or before
    /// [`Slots::end`].
    pub(super) fn read(&self, range: Range<u64>, mut each: impl FnMut(u64, &[u8])) -> Result<(), QueueError> {
        let width = self.layout.width();
        let mut slot = range.start;
        while slot < range.end.min(self.written) {
            let start = self.start_of(slot);
            let to = range.end.min(self.written).min(start + self.per_file);
            let bytes = self.read_file(start, slot..to)?;
            for (n, entry) in (slot..to).zip(bytes.chunks_exact(width)) {
                each(n, entry);
            }
            slot = to;
        }
        if slot < range.end {
            let from = usize::try_from(slot - self.written).expect("the tail is small") * width;
            for (n, entry) in (slot..range.end).zip(self.tail[from..].chunks_exact(width)) {
                each(n, entry);
            }
        }
        Ok(())
    }

    /// The entry in `slot`; `None` when none was written there.
    pub(super) fn entry(&self, slot: u64) -> Result<Option<QueueEntry>, QueueError> {
        let mut found = None;
        self.read(slot..slot + 1, |n, bytes| found = self.layout.decode(bytes, n))?;
        Ok(found)
    }

    /// The entry and the store time kept with it.
    pub(super) fn timed_entry(&self, slot: u64) -> Result<(Option<QueueEntry>, Option<i64>), QueueError> {
        let mut found = (None, None);
        let layout = self.layout;
        self.read(slot..slot + 1, |n, bytes| found = (layout.decode(bytes, n), layout.store_ms(bytes)))?;
        Ok(found)
    }

    fn read_file(&self, start: u64, slots: Range<u64>) -> Result<Vec<u8>, QueueError> {
        let range = (slots.start - start) * self.width()..(slots.end - start) * self.width();
        let file = self.opened(start)?;
        self.check_blocks(&*file, start, &range)?;
        read_range(&*file, range).map_err(|error| self.io(start, error))
    }

    /// Compares the full blocks that `range` touches with their sums, each once.
    fn check_blocks(&self, file: &dyn SegmentFile, start: u64, range: &Range<u64>) -> Result<(), QueueError> {
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
    fn check_block(&self, file: &dyn SegmentFile, start: u64, block: u64) -> Result<bool, QueueError> {
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

    /// Drops all slots from `slot` on, durably: what was written there is zero afterwards, so that
    /// no later crash brings it back.
    pub(super) fn cut(&mut self, slot: u64) -> Result<(), QueueError> {
        if slot >= self.written {
            let keep = usize::try_from((slot - self.written) * self.width()).expect("the tail is small");
            self.tail.truncate(keep);
            return Ok(());
        }
        let extent = self.written;
        let (width, file_len) = (self.width(), self.per_file * self.width());
        self.sums.retain(|(start, block, _)| {
            start * width + ((block + 1) * sums::BLOCK).min(file_len) <= slot * width
        });
        self.set_end(slot);
        self.drop_files_from(slot)?;
        let start = self.start_of(slot);
        if self.files.contains_key(&start) {
            self.zero(start, slot..extent.min(start + self.per_file))?;
        }
        self.sync()
    }

    /// Removes all files that start at or behind `slot`, newest first, but never the oldest file:
    /// its name holds the numbering.
    pub(super) fn drop_files_from(&mut self, slot: u64) -> Result<(), QueueError> {
        let oldest = self.first();
        let newest_first: Vec<u64> = self.files.range(slot..).rev().map(|(start, _)| *start).collect();
        for start in newest_first {
            if Some(start) != oldest {
                self.remove(start)?;
            }
        }
        Ok(())
    }

    /// Removes the file that starts at slot `start`.
    pub(super) fn remove(&mut self, start: u64) -> Result<(), QueueError> {
        // Sums without their file would tell that the file was lost, so they go first.
        let Some(file) = self.files.get(&start) else { return Ok(()) };
        file.sums.remove(&*self.directory).map_err(|error| self.io(start, error))?;
        self.directory.remove(&self.path(start)).map_err(|error| self.io(start, error))?;
        self.files.remove(&start);
        // Sums that are gone for us may be there on the disk.
        (self.names_dirty, self.sum_names_dirty) = (true, true);
        Ok(())
    }

    /// Removes all files and the folders that are empty then, durably.
    pub(super) fn remove_all(&mut self) -> Result<(), QueueError> {
        let starts: Vec<u64> = self.files.keys().copied().collect();
        for file in self.files.values() {
            file.sums.remove(&*self.directory).map_err(|error| QueueError::io(&self.folder, error))?;
        }
        self.remove_folders(sums::path(&self.folder))?;
        for start in starts {
            self.directory.remove(&self.path(start)).map_err(|error| self.io(start, error))?;
        }
        self.files.clear();
        self.tail = Vec::new();
        (self.names_dirty, self.sum_names_dirty) = (false, false);
        self.remove_folders(self.folder.clone())
    }

    /// Removes a queue's folder and then the topic's, unless it holds other queues, and makes it
    /// durable.
    fn remove_folders(&self, mut folder: String) -> Result<(), QueueError> {
        for _ in 0..2 {
            match self.directory.remove(&folder) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => break,
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(QueueError::io(&folder, error));
                }
                _ => folder = parent(&folder).to_owned(),
            }
        }
        ignore_missing(&folder, self.directory.sync(&folder))
    }

    /// Writes zeros into `slots` of the file that starts at slot `start`; nothing but zeros stands
    /// behind them.
    fn zero(&mut self, start: u64, slots: Range<u64>) -> Result<(), QueueError> {
        if slots.is_empty() {
            return Ok(());
        }
        let file = self.file_for_writing(start, slots.start)?;
        let (from, end) = ((slots.start - start) * self.width(), (slots.end - start) * self.width());
        file.zero(from..end).map_err(|error| self.io(start, error))?;
        let first = from / sums::BLOCK;
        let mut sums = vec![0; usize::try_from(end.div_ceil(sums::BLOCK) - first).expect("blocks of a file")];
        if from > first * sums::BLOCK {
            let block = first * sums::BLOCK..((first + 1) * sums::BLOCK).min(file.len());
            sums[0] = sums::sum(crc_of(&*file, block).map_err(|error| self.io(start, error))?.finalize());
        }
        self.store_sums(start, first, &sums)
    }

    /// Makes everything written durable before returning.
    pub(super) fn sync(&mut self) -> Result<(), QueueError> {
        let unsynced = self.take_unsynced();
        unsynced.sync(&*self.directory)
    }

    /// What was written since the last call and has to be synced.
    pub(super) fn take_unsynced(&mut self) -> Unsynced {
        let mut unsynced = Unsynced::default();
        let Self { files, folder, layout, .. } = self;
        for (start, file) in files {
            if std::mem::take(&mut file.dirty) {
                unsynced.files.push(path_of(folder, *start, *layout));
            }
            unsynced.files.extend(file.sums.take_unsynced());
        }
        if std::mem::take(&mut self.names_dirty) {
            unsynced.folders.extend(folders_above(&self.folder));
        }
        if std::mem::take(&mut self.sum_names_dirty) {
            unsynced.folders.extend(folders_above(&sums::path(&self.folder)));
        }
        unsynced
    }

    /// What the files hold in `slots`, at or behind the end: written by others, or before a crash.
    /// Shorter where files end; nothing is checked.
    pub(super) fn leftovers(&self, slots: Range<u64>) -> Result<Vec<Option<QueueEntry>>, QueueError> {
        let start = self.start_of(slots.start);
        let to = slots.end.min(start + self.per_file);
        if !self.files.contains_key(&start) {
            return Ok(Vec::new());
        }
        let bytes = self.raw(start, slots.start..to)?;
        let entries = bytes.chunks_exact(self.layout.width()).zip(slots.start..);
        Ok(entries.map(|(bytes, slot)| self.layout.decode(bytes, slot)).collect())
    }

    /// True when the block with the last byte of `slot` has a sum, `Damaged` when it differs from the
    /// block.
    pub(super) fn check_block_of(&self, slot: u64) -> Result<bool, QueueError> {
        let start = self.start_of(slot);
        let last = (slot - start + 1) * self.width() - 1;
        self.check_block(&*self.opened(start)?, start, last / sums::BLOCK)
    }

    /// Path of the file and first byte of the block with the last byte of `slot`.
    pub(super) fn block_at(&self, slot: u64) -> (String, u64) {
        let start = self.start_of(slot);
        let block = ((slot - start + 1) * self.width() - 1) / sums::BLOCK;
        (self.path(start), block * sums::BLOCK)
    }

    /// Gives the last block its sum: every block that is noted as durable has one.
    pub(super) fn seal_last_block(&mut self) -> Result<(), QueueError> {
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

    /// The first slot that starts in the block at byte `at` of the file `path`.
    pub(super) fn slot_at(&self, path: &str, at: u64) -> Option<u64> {
        let start = self.starts().find(|start| self.path(*start) == path)?;
        Some(start + at.div_ceil(self.width()))
    }

    /// The first slot that starts in the block with the last byte of `slot`.
    pub(super) fn block_start(&self, slot: u64) -> u64 {
        let start = self.start_of(slot);
        let block = ((slot - start + 1) * self.width() - 1) / sums::BLOCK;
        start + (block * sums::BLOCK).div_ceil(self.width())
    }

    /// Zeroes and removes what the files hold behind the end; returns how many entries that were.
    pub(super) fn clear_rest(&mut self) -> Result<u64, QueueError> {
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
    fn next_data(&self, start: u64, slot: u64) -> Result<Option<u64>, QueueError> {
        if slot >= start + self.per_file {
            return Ok(None);
        }
        let found = self.opened(start)?.next_data((slot - start) * self.width());
        let found = found.map_err(|error| self.io(start, error))?;
        Ok(found.map(|at| (start + at / self.width()).max(slot)))
    }

    /// The bytes of `slots` of the file that starts at `start`; nothing is checked.
    fn raw(&self, start: u64, slots: Range<u64>) -> Result<Vec<u8>, QueueError> {
        let range = (slots.start - start) * self.width()..(slots.end - start) * self.width();
        read_range(&*self.opened(start)?, range).map_err(|error| self.io(start, error))
    }

    /// Forgets the sums of a file from `block` on.
    fn clear_sums(&mut self, start: u64, block: u64) -> Result<(), QueueError> {
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

    fn opened(&self, start: u64) -> Result<Arc<dyn SegmentFile>, QueueError> {
        let gone = || self.io(start, io::ErrorKind::NotFound.into());
        let known = self.files.get(&start).ok_or_else(gone)?;
        let opened = known.handle.open(&self.handles, &*self.directory, || self.path(start));
        opened.map_err(|error| self.io(start, error))
    }

    pub(super) fn start_of(&self, slot: u64) -> u64 {
        slot / self.per_file * self.per_file
    }

    pub(super) fn per_file(&self) -> u64 {
        self.per_file
    }

    pub(super) fn folder(&self) -> &str {
        &self.folder
    }

    pub(super) fn path(&self, start: u64) -> String {
        path_of(&self.folder, start, self.layout)
    }

    fn io(&self, start: u64, error: io::Error) -> QueueError {
        QueueError::io(&self.path(start), error)
    }
}

fn read_range(file: &dyn SegmentFile, range: Range<u64>) -> io::Result<Vec<u8>> {
    let len = usize::try_from(range.end - range.start).map_err(|_| io::ErrorKind::OutOfMemory)?;
    let mut bytes = vec![0; len];
    file.read_into(range.start, &mut bytes)?;
    Ok(bytes)
}

/// The CRC of a range of at most a block.
fn crc_of(file: &dyn SegmentFile, range: Range<u64>) -> io::Result<crc32fast::Hasher> {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&read_range(file, range)?);
    Ok(crc)
}

/// Exists while entries are being zeroed and files removed. When a process is killed then, the next
/// one sees what the cache of the system has, and must not take it for durable.
const UNSETTLED: &str = "staticfire/queues-unsettled";

/// To be called before anything is zeroed or removed that was written.
pub(super) fn unsettle(directory: &dyn Directory) -> Result<(), QueueError> {
    let made = directory.make_directory(parent(UNSETTLED)).and_then(|()| directory.create(UNSETTLED, 0));
    match made {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(QueueError::io(UNSETTLED, error)),
        _ => Ok(()),
    }
}

/// Everything zeroed or removed is durable.
pub(super) fn settle(directory: &dyn Directory) -> Result<(), QueueError> {
    ignore_missing(UNSETTLED, directory.remove(UNSETTLED))
}

/// Whether a process was killed while it zeroed or removed something.
pub(super) fn is_unsettled(directory: &dyn Directory) -> Result<bool, QueueError> {
    match directory.open(UNSETTLED) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        opened => opened.map(|_| true).map_err(|error| QueueError::io(UNSETTLED, error)),
    }
}

/// The result of syncing or removing `path`, which may be gone already.
pub(super) fn ignore_missing(path: &str, synced: io::Result<()>) -> Result<(), QueueError> {
    match synced {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(QueueError::io(path, error)),
        _ => Ok(()),
    }
}

fn path_of(folder: &str, start: u64, layout: Layout) -> String {
    format!("{folder}/{:020}", start * layout.width() as u64)
}

/// The folder and all folders above it, innermost first; the root is the empty path.
fn folders_above(folder: &str) -> Vec<String> {
    let mut all = vec![folder.to_owned()];
    let mut rest = folder;
    while !rest.is_empty() {
        rest = parent(rest);
        all.push(rest.to_owned());
    }
    all
}
