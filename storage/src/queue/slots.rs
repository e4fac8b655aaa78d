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
use std::sync::{Arc, OnceLock};

use super::entry::Layout;
use super::{QueueEntry, QueueError};
use crate::QueueOffset;
use crate::disk::{Directory, SegmentFile, write_all_at};

/// The tail is written when it covers this many bytes.
const BLOCK: usize = 4096;
/// With a disk that takes nothing the tail grows to this many bytes; then entries are refused.
const TAIL_MAX: usize = 16 * BLOCK;

#[derive(Debug)]
pub(super) struct Slots {
    directory: Arc<dyn Directory>,
    folder: String,
    pub(super) layout: Layout,
    per_file: u64,
    /// By first slot.
    files: BTreeMap<u64, SlotFile>,
    written: u64,
    tail: Vec<u8>,
    /// The folder has a new or a removed name that was not synced.
    names_dirty: bool,
}

#[derive(Debug, Default)]
struct SlotFile {
    opened: OnceLock<Arc<dyn SegmentFile>>,
    dirty: bool,
}

/// What has to be synced to make a queue durable.
#[derive(Debug, Default)]
pub(super) struct Unsynced {
    /// Files with their paths.
    pub(super) files: Vec<(String, Arc<dyn SegmentFile>)>,
    /// Folders whose names changed.
    pub(super) folders: Vec<String>,
}

impl Slots {
    pub(super) fn new(directory: Arc<dyn Directory>, folder: String, layout: Layout, per_file: u64) -> Self {
        let (files, tail) = (BTreeMap::new(), Vec::new());
        Self { directory, folder, layout, per_file, files, written: 0, tail, names_dirty: false }
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

    /// Sets the end. Whatever the files hold behind it is overwritten by what is appended, or
    /// zeroed by [`Slots::clear_rest`].
    pub(super) fn set_end(&mut self, slot: u64) {
        self.tail.clear();
        self.written = slot;
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

    /// Writes the tail and gives its memory back: an idle queue costs none.
    pub(super) fn write_out(&mut self) -> Result<(), QueueError> {
        self.write_tail()?;
        self.tail = Vec::new();
        Ok(())
    }

    /// Writes the tail: one system call, or one for each file that it reaches.
    pub(super) fn write_tail(&mut self) -> Result<(), QueueError> {
        while !self.tail.is_empty() {
            let slot = self.written;
            let start = self.start_of(slot);
            let room = (start + self.per_file - slot) * self.width();
            let len = self.tail.len().min(usize::try_from(room).unwrap_or(usize::MAX));
            let file = self.file_for_writing(start, slot)?;
            let at = (slot - start) * self.width();
            write_all_at(&*file, at, &self.tail[..len]).map_err(|error| self.io(start, error))?;
            self.tail.drain(..len);
            self.written += len as u64 / self.width();
        }
        Ok(())
    }

    /// The file that starts at slot `start`, created when missing; slots of a new file before
    /// `slot` become padding.
    fn file_for_writing(&mut self, start: u64, slot: u64) -> Result<Arc<dyn SegmentFile>, QueueError> {
        if !self.files.contains_key(&start) {
            let made = self.create(start, slot).map_err(|error| self.io(start, error))?;
            let file = SlotFile { opened: OnceLock::from(made), dirty: true };
            self.files.insert(start, file);
            self.names_dirty = true;
        }
        let file = self.opened(start)?;
        self.files.get_mut(&start).expect("it is there").dirty = true;
        Ok(file)
    }

    fn create(&self, start: u64, slot: u64) -> io::Result<Arc<dyn SegmentFile>> {
        self.directory.make_directory(&self.folder)?;
        let path = self.path(start);
        let file = self.directory.create(&path, self.per_file * self.width())?;
        let padded = self.pad(&*file, slot - start);
        if padded.is_err() {
            drop(self.directory.remove(&path));
        }
        padded.map(|()| file)
    }

    fn pad(&self, file: &dyn SegmentFile, slots: u64) -> io::Result<()> {
        const AT_ONCE: u64 = 4096;
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

    fn read_file(&self, start: u64, slots: Range<u64>) -> Result<bytes::Bytes, QueueError> {
        let bytes = (slots.start - start) * self.width()..(slots.end - start) * self.width();
        self.opened(start)?.read(bytes).map_err(|error| self.io(start, error))
    }

    /// Drops all slots from `slot` on, durably: what was written there is zero afterwards, so that
    /// no later crash brings it back.
    pub(super) fn cut(&mut self, slot: u64) -> Result<(), QueueError> {
        if slot >= self.written {
            let keep = usize::try_from((slot - self.written) * self.width()).expect("the tail is small");
            self.tail.truncate(keep);
            return Ok(());
        }
        let extent = std::mem::replace(&mut self.written, slot);
        self.tail.clear();
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
        self.directory.remove(&self.path(start)).map_err(|error| self.io(start, error))?;
        self.files.remove(&start);
        self.names_dirty = true;
        Ok(())
    }

    /// Removes all files and the folders that are empty then.
    pub(super) fn remove_all(&mut self) -> Result<(), QueueError> {
        let starts: Vec<u64> = self.files.keys().copied().collect();
        for start in starts {
            self.remove(start)?;
        }
        self.tail = Vec::new();
        let mut folder = self.folder.as_str();
        // The queue's own folder and the topic's, which may hold other queues.
        for _ in 0..2 {
            match self.directory.remove(folder) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => break,
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(QueueError::io(folder, error));
                }
                _ => folder = folder.rsplit_once('/').map_or("", |(above, _)| above),
            }
        }
        self.names_dirty = false;
        if folder.is_empty() {
            Ok(())
        } else {
            self.directory.sync(folder).or_else(|error| ignore_missing(folder, error))
        }
    }

    /// Writes zeros into `slots` of the file that starts at slot `start`.
    fn zero(&mut self, start: u64, slots: Range<u64>) -> Result<(), QueueError> {
        static ZEROS: [u8; 16 * BLOCK] = [0; 16 * BLOCK];
        if slots.is_empty() {
            return Ok(());
        }
        let file = self.file_for_writing(start, slots.start)?;
        let (mut at, end) = ((slots.start - start) * self.width(), (slots.end - start) * self.width());
        while at < end {
            let len = (end - at).min(ZEROS.len() as u64);
            let part = &ZEROS[..usize::try_from(len).expect("at most the length of the array")];
            write_all_at(&*file, at, part).map_err(|error| self.io(start, error))?;
            at += len;
        }
        Ok(())
    }

    /// Makes everything written durable before returning.
    pub(super) fn sync(&mut self) -> Result<(), QueueError> {
        let unsynced = self.take_unsynced()?;
        for (path, file) in unsynced.files {
            file.sync().map_err(|error| QueueError::io(&path, error))?;
        }
        for folder in unsynced.folders {
            self.directory.sync(&folder).map_err(|error| QueueError::io(&folder, error))?;
        }
        Ok(())
    }

    /// What was written since the last call and has to be synced.
    pub(super) fn take_unsynced(&mut self) -> Result<Unsynced, QueueError> {
        let dirty: Vec<u64> =
            self.files.iter().filter(|(_, file)| file.dirty).map(|(start, _)| *start).collect();
        let mut files = Vec::with_capacity(dirty.len());
        for start in dirty {
            files.push((self.path(start), self.opened(start)?));
            self.files.get_mut(&start).expect("just seen").dirty = false;
        }
        let names = std::mem::take(&mut self.names_dirty);
        let folders = if names { folders_above(&self.folder) } else { Vec::new() };
        Ok(Unsynced { files, folders })
    }

    fn opened(&self, start: u64) -> Result<Arc<dyn SegmentFile>, QueueError> {
        let gone = || self.io(start, io::ErrorKind::NotFound.into());
        let known = self.files.get(&start).ok_or_else(gone)?;
        if let Some(file) = known.opened.get() {
            return Ok(Arc::clone(file));
        }
        let file = self.directory.open(&self.path(start)).map_err(|error| self.io(start, error))?;
        Ok(Arc::clone(known.opened.get_or_init(|| file)))
    }

    pub(super) fn start_of(&self, slot: u64) -> u64 {
        slot / self.per_file * self.per_file
    }

    pub(super) fn folder(&self) -> &str {
        &self.folder
    }

    pub(super) fn path(&self, start: u64) -> String {
        format!("{}/{:020}", self.folder, start * self.width())
    }

    fn io(&self, start: u64, error: io::Error) -> QueueError {
        QueueError::io(&self.path(start), error)
    }
}

fn ignore_missing(path: &str, error: io::Error) -> Result<(), QueueError> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(QueueError::io(path, error)) }
}

/// The folder and all folders above it, innermost first; the root is the empty path.
fn folders_above(folder: &str) -> Vec<String> {
    let mut all = vec![folder.to_owned()];
    let mut rest = folder;
    while let Some((above, _)) = rest.rsplit_once('/') {
        all.push(above.to_owned());
        rest = above;
    }
    all.push(String::new());
    all
}
