//! The files of the commit log: `commitlog/<20-digit start offset>`, all of one length
//! (store-format §1.1, §2).

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

use crate::PhysicalOffset;
use crate::disk::{Directory, SegmentFile};
use crate::planted::planted;

/// The folder of the commit log.
pub(crate) const FOLDER: &str = "commitlog";

/// One file of the log.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) start: PhysicalOffset,
    pub(crate) file: Arc<dyn SegmentFile>,
}

impl Segment {
    pub(crate) fn end(&self) -> PhysicalOffset {
        self.start.after(self.file.len())
    }

    pub(crate) fn holds(&self, at: PhysicalOffset) -> bool {
        self.start <= at && at < self.end()
    }
}

/// All files of the log, by start offset.
#[derive(Debug)]
pub(crate) struct Segments {
    directory: Arc<dyn Directory>,
    segment_bytes: u64,
    files: RwLock<BTreeMap<u64, Segment>>,
}

impl Segments {
    pub(crate) fn new(directory: Arc<dyn Directory>, segment_bytes: u64, found: Vec<Segment>) -> Self {
        let files = found.into_iter().map(|segment| (segment.start.0, segment)).collect();
        Self { directory, segment_bytes, files: RwLock::new(files) }
    }

    /// The segment that holds the byte at `at`.
    pub(crate) fn find(&self, at: PhysicalOffset) -> Option<Segment> {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        let (_, segment) = files.range(..=at.0).next_back()?;
        (at < segment.end()).then(|| segment.clone())
    }

    pub(crate) fn all(&self) -> Vec<Segment> {
        self.files.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(crate) fn last_end(&self) -> Option<PhysicalOffset> {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        files.values().next_back().map(Segment::end)
    }

    /// Bytes of the log; `None` when no single segment holds the whole range.
    pub(crate) fn read(&self, range: Range<u64>) -> Option<io::Result<Bytes>> {
        let segment = self.find(PhysicalOffset(range.start))?;
        let (from, to) = (range.start - segment.start.0, range.end - segment.start.0);
        (to <= segment.file.len()).then(|| segment.file.read(from..to))
    }

    /// Creates the segment that starts at `start`, with blocks of its own and a durable name, so
    /// that nothing written into it later can fail for want of space or vanish with its file.
    pub(crate) fn create(&self, start: PhysicalOffset) -> io::Result<()> {
        let path = path(start);
        let file = self.directory.create(&path, self.segment_bytes)?;
        // Length and blocks become durable with the first flush of what is written there.
        let named = || if planted("Z12") { Ok(()) } else { self.directory.sync(FOLDER) };
        let ready = file.allocate(0..self.segment_bytes).and_then(|()| named());
        if let Err(error) = ready {
            // Not used yet, so nothing is lost; a half-made file must not be found at the next open.
            drop(self.directory.remove(&path));
            return Err(error);
        }
        self.insert(Segment { start, file });
        Ok(())
    }

    pub(crate) fn insert(&self, segment: Segment) {
        self.files.write().unwrap_or_else(PoisonError::into_inner).insert(segment.start.0, segment);
    }

    /// Forgets the segment that starts at `start`; slices read from it stay valid.
    pub(crate) fn forget(&self, start: PhysicalOffset) {
        self.files.write().unwrap_or_else(PoisonError::into_inner).remove(&start.0);
    }
}

pub(crate) fn path(start: PhysicalOffset) -> String {
    format!("{FOLDER}/{start:020}", start = start.0)
}
