//! How many queue files stay open: a store may have a hundred thousand.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use crate::disk::{Directory, SegmentFile};

/// The right to keep files open, shared by all queues of a store.
#[derive(Clone, Debug)]
pub(super) struct Handles(Arc<AtomicUsize>);

/// A file that stays open if there is room for it.
#[derive(Debug, Default)]
pub(super) struct Handle(OnceLock<Kept>);

#[derive(Debug)]
struct Kept {
    file: Arc<dyn SegmentFile>,
    handles: Handles,
}

impl Handles {
    pub(super) fn new(most: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(most)))
    }

    fn keep(&self, file: &Arc<dyn SegmentFile>) -> Option<Kept> {
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        taken.ok().map(|_| Kept { file: Arc::clone(file), handles: self.clone() })
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.handles.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Handle {
    /// The file, opened when it is not open.
    pub(super) fn open(
        &self,
        handles: &Handles,
        directory: &dyn Directory,
        path: impl FnOnce() -> String,
    ) -> io::Result<Arc<dyn SegmentFile>> {
        if let Some(kept) = self.0.get() {
            return Ok(Arc::clone(&kept.file));
        }
        let file = directory.open(&path())?;
        if let Some(kept) = handles.keep(&file) {
            drop(self.0.set(kept));
        }
        Ok(file)
    }

    pub(super) fn is_open(&self) -> bool {
        self.0.get().is_some()
    }

    /// Lets go of the file until it is used again.
    pub(super) fn close(&mut self) {
        self.0.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimulatedDisk;

    /// proves: I73
    #[test]
    fn no_more_files_stay_open_than_allowed() {
        let directory = SimulatedDisk::new(1).directory();
        let handles = Handles::new(2);
        let mut files: Vec<_> = (0..5).map(|n| (n.to_string(), Handle::default())).collect();
        let open = |files: &[(String, Handle)]| files.iter().filter(|(_, handle)| handle.is_open()).count();
        for (path, handle) in &files {
            directory.create(path, 10).unwrap();
            assert_eq!(handle.open(&handles, &*directory, || path.clone()).unwrap().len(), 10);
        }
        assert_eq!(open(&files), 2);
        files[0].1.close();
        files.remove(1);
        for (path, handle) in &files {
            handle.open(&handles, &*directory, || path.clone()).unwrap();
        }
        assert_eq!(open(&files), 2, "a closed and a dropped one made room");
    }
}
