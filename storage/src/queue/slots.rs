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
//!
//! Files are read by copying, not through a mapping: a store may have a hundred thousand queues, and
//! a cut writes zeros where readers have been.

mod blocks;
mod durable;
mod leftovers;

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::entry::Layout;
use super::handles::{Handle, Handles};
use super::sums::{self, Sums};
use super::{QueueEntry, QueueError};
use crate::QueueOffset;
use crate::disk::{Directory, SegmentFile, write_all_at};

pub(super) use durable::{Unsynced, is_unsettled, settle, unsettle};

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

    /// Sets the end. What the files hold behind it is overwritten by what is appended, or zeroed by
    /// [`Slots::clear_rest`].
    pub(super) fn set_end(&mut self, slot: u64) {
        self.tail.clear();
        self.written = slot;
        (self.crc, self.sum_dirty) = (None, false);
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

fn path_of(folder: &str, start: u64, layout: Layout) -> String {
    format!("{folder}/{:020}", start * layout.width() as u64)
}
