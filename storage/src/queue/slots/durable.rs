//! Making slots durable, or making them go.

use std::io;
use std::ops::Range;

use super::blocks::crc_of;
use super::{Slots, path_of};
use crate::disk::{Directory, parent};
use crate::queue::QueueError;
use crate::queue::sums;

/// What has to be synced to make a queue durable.
#[derive(Debug, Default)]
pub(in crate::queue) struct Unsynced {
    files: Vec<String>,
    /// Folders whose names changed.
    folders: Vec<String>,
}

impl Unsynced {
    /// Takes what `more` has; a folder is synced once however many queues changed it.
    pub(in crate::queue) fn add(&mut self, more: Self) {
        self.files.extend(more.files);
        self.folders.extend(more.folders);
        self.folders.sort_unstable();
        self.folders.dedup();
    }

    /// Makes all of it durable; what was removed meanwhile is passed over.
    pub(in crate::queue) fn sync(self, directory: &dyn Directory) -> Result<(), QueueError> {
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
    /// Drops all slots from `slot` on, durably: what was written there is zero afterwards, so that
    /// no later crash brings it back.
    pub(in crate::queue) fn cut(&mut self, slot: u64) -> Result<(), QueueError> {
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
    pub(in crate::queue) fn drop_files_from(&mut self, slot: u64) -> Result<(), QueueError> {
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
    pub(in crate::queue) fn remove(&mut self, start: u64) -> Result<(), QueueError> {
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
    pub(in crate::queue) fn remove_all(&mut self) -> Result<(), QueueError> {
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
    pub(super) fn remove_folders(&self, mut folder: String) -> Result<(), QueueError> {
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
    pub(super) fn zero(&mut self, start: u64, slots: Range<u64>) -> Result<(), QueueError> {
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
    pub(in crate::queue) fn sync(&mut self) -> Result<(), QueueError> {
        let unsynced = self.take_unsynced();
        unsynced.sync(&*self.directory)
    }

    /// What was written since the last call and has to be synced.
    pub(in crate::queue) fn take_unsynced(&mut self) -> Unsynced {
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

    /// Has names and the end of the queue synced once more: a process that was killed may have made,
    /// removed, written or zeroed what only the cache of the system knows.
    pub(in crate::queue) fn doubt(&mut self) -> Result<(), QueueError> {
        (self.names_dirty, self.sum_names_dirty) = (true, true);
        let starts = [self.start_of(self.written), self.start_of(self.written.saturating_sub(1))];
        for start in starts {
            let Some(file) = self.files.get_mut(&start) else { continue };
            file.dirty = true;
            file.sums.doubt(&*self.directory).map_err(|error| QueueError::io(&self.folder, error))?;
        }
        Ok(())
    }

    /// Removes the sums of all files: whoever wrote to the files since did not keep them.
    pub(in crate::queue) fn forget_sums(&mut self) -> Result<(), QueueError> {
        for (start, file) in &self.files {
            file.sums.remove(&*self.directory).map_err(|error| self.io(*start, error))?;
        }
        Ok(())
    }
}

/// Exists while entries are being zeroed and files removed. When a process is killed then, the next
/// one sees what the cache of the system has, and must not take it for durable.
const UNSETTLED: &str = "staticfire/queues-unsettled";

/// To be called before anything is zeroed or removed that was written.
pub(in crate::queue) fn unsettle(directory: &dyn Directory) -> Result<(), QueueError> {
    let made = directory.make_directory(parent(UNSETTLED)).and_then(|()| directory.create(UNSETTLED, 0));
    match made {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(QueueError::io(UNSETTLED, error)),
        _ => Ok(()),
    }
}

/// Everything zeroed or removed is durable.
pub(in crate::queue) fn settle(directory: &dyn Directory) -> Result<(), QueueError> {
    ignore_missing(UNSETTLED, directory.remove(UNSETTLED))
}

/// Whether a process was killed while it zeroed or removed something.
pub(in crate::queue) fn is_unsettled(directory: &dyn Directory) -> Result<bool, QueueError> {
    match directory.open(UNSETTLED) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        opened => opened.map(|_| true).map_err(|error| QueueError::io(UNSETTLED, error)),
    }
}

/// The result of syncing or removing `path`, which may be gone already.
pub(in crate::queue) fn ignore_missing(path: &str, synced: io::Result<()>) -> Result<(), QueueError> {
    match synced {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(QueueError::io(path, error)),
        _ => Ok(()),
    }
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
