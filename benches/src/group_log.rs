//! The least that can be called a log with group commit: whoever finds nobody flushing writes and
//! flushes for all who wait. No numbers, no checksums, no queues.

#![expect(clippy::disallowed_types, reason = "the floor is made of plain files")]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::FallocateFlags;

/// A new file at `path`, with `len` bytes allocated.
///
/// # Errors
/// The system's.
pub fn allocated_file(path: &Path, len: u64) -> io::Result<File> {
    let file = File::options().read(true).write(true).create_new(true).open(path)?;
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, len)?;
    file.sync_all()?;
    Ok(file)
}

/// The log.
#[derive(Debug)]
pub struct GroupLog {
    file: File,
    state: Mutex<State>,
    flushed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    staged: Vec<u8>,
    spare: Vec<u8>,
    appended: u64,
    flushed: u64,
    flushing: bool,
}

impl GroupLog {
    /// An empty log in `file`.
    #[must_use]
    pub fn new(file: File) -> Self {
        Self { file, state: Mutex::default(), flushed: Condvar::new() }
    }

    /// Appends `record` and waits until it is flushed.
    ///
    /// # Errors
    /// The system's.
    pub fn append(&self, record: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        state.staged.extend_from_slice(record);
        state.appended += record.len() as u64;
        let end = state.appended;
        while state.flushed < end {
            if state.flushing {
                state = self.flushed.wait(state).unwrap_or_else(PoisonError::into_inner);
            } else {
                state = self.flush(state)?;
            }
        }
        Ok(())
    }

    fn flush<'a>(&'a self, mut state: MutexGuard<'a, State>) -> io::Result<MutexGuard<'a, State>> {
        state.flushing = true;
        let empty = std::mem::take(&mut state.spare);
        let mut bytes = std::mem::replace(&mut state.staged, empty);
        let (from, to) = (state.flushed, state.appended);
        drop(state);
        self.file.write_all_at(&bytes, from)?;
        self.file.sync_data()?;
        bytes.clear();
        let mut state = self.lock();
        (state.spare, state.flushed, state.flushing) = (bytes, to, false);
        self.flushed.notify_all();
        Ok(state)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
