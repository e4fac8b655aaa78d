//! What a disk was asked to change, as data: recorded on any disk, replayed on a simulated one.
//!
//! ```text
//! store ── RecordingDirectory ── RealDirectory        store ── SimulatedDisk
//!                │                                                  ▲
//!                └──────────── Trace ───────── replay ──────────────┘
//! ```
//! What the real file system did with real threads, in whatever order they came, can so be crashed at each of
//! its steps, and looked at in every state that a power cut could have left.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::simulated::{SimulatedDisk, SyncTicket};
use super::{
    Directory, DirectoryEntry, DirectoryLock, DiskSpace, OnRead, OnSynced, SegmentFile, SyncSite,
    write_all_at,
};

/// One change, or one end of a sync. Files are numbered as they were created or opened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "named after the operations of the traits and their arguments")]
pub enum TraceOperation {
    Create {
        file: u64,
        path: String,
        len: u64,
    },
    Open {
        file: u64,
        path: String,
    },
    MakeDirectory(String),
    Rename {
        from: String,
        to: String,
    },
    Link {
        from: String,
        to: String,
    },
    Remove(String),
    Lock(String),
    /// What was written, which may be less than was asked for.
    Write {
        file: u64,
        at: u64,
        bytes: Bytes,
    },
    Allocate {
        file: u64,
        range: Range<u64>,
    },
    Zero {
        file: u64,
        range: Range<u64>,
    },
    /// A sync of a file was asked for.
    StartSync {
        sync: u64,
        file: u64,
    },
    /// A sync of a directory was asked for.
    StartSyncDirectory {
        sync: u64,
        path: String,
    },
    /// The sync with this number ended.
    EndSync {
        sync: u64,
        failed: bool,
    },
    /// What the user noted: see [`RecordingDirectory::mark`].
    Mark(u64),
}

/// Everything that changed a disk, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// Oldest first.
    pub operations: Vec<TraceOperation>,
}

impl Trace {
    /// Does all of it on `disk`, which is empty at first, and says how many operations were done: all, or
    /// those before the one at which the disk died (see [`SimulatedDisk::crash_at_step`]).
    ///
    /// # Errors
    /// That of the first operation which the disk refuses although it lives.
    pub fn replay(&self, disk: &SimulatedDisk) -> io::Result<usize> {
        let mut player = Player {
            disk,
            directory: disk.directory(),
            files: BTreeMap::new(),
            syncs: BTreeMap::new(),
            locks: Vec::new(),
        };
        for (done, operation) in self.operations.iter().enumerate() {
            let played = player.play(operation);
            if disk.is_gone() {
                return Ok(done);
            }
            played.map_err(|error| io::Error::new(error.kind(), format!("{operation:?}: {error}")))?;
        }
        Ok(self.operations.len())
    }
}

struct Player<'a> {
    disk: &'a SimulatedDisk,
    directory: Arc<dyn Directory>,
    files: BTreeMap<u64, Arc<dyn SegmentFile>>,
    syncs: BTreeMap<u64, SyncTicket>,
    locks: Vec<DirectoryLock>,
}

impl Player<'_> {
    fn play(&mut self, operation: &TraceOperation) -> io::Result<()> {
        match operation {
            TraceOperation::Create { file, path, len } => {
                self.files.insert(*file, self.directory.create(path, *len)?);
            }
            TraceOperation::Open { file, path } => {
                self.files.insert(*file, self.directory.open(path)?);
            }
            TraceOperation::MakeDirectory(path) => self.directory.make_directory(path)?,
            TraceOperation::Rename { from, to } => self.directory.rename(from, to)?,
            TraceOperation::Link { from, to } => self.directory.link(from, to)?,
            TraceOperation::Remove(path) => self.directory.remove(path)?,
            TraceOperation::Lock(path) => {
                // Its holder is gone by now, or it could not have been taken again.
                self.locks.clear();
                self.locks.push(self.directory.lock(path)?);
            }
            TraceOperation::Write { file, at, bytes } => write_all_at(&**self.file(*file)?, *at, bytes)?,
            TraceOperation::Allocate { file, range } => self.file(*file)?.allocate(range.clone())?,
            TraceOperation::Zero { file, range } => self.file(*file)?.zero(range.clone())?,
            TraceOperation::StartSync { sync, file } => {
                self.file(*file)?.start_sync(Box::new(|_| ()));
                self.started(*sync);
            }
            TraceOperation::StartSyncDirectory { sync, path } => {
                self.directory.start_sync(path, Box::new(|_| ()));
                self.started(*sync);
            }
            TraceOperation::EndSync { sync, failed } => {
                let ticket = self.syncs.remove(sync);
                let _ = ticket.map(|it| if *failed { self.disk.fail(it) } else { self.disk.complete(it) });
            }
            TraceOperation::Mark(_) => {}
        }
        Ok(())
    }

    fn file(&self, file: u64) -> io::Result<&Arc<dyn SegmentFile>> {
        self.files.get(&file).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no such file"))
    }

    fn started(&mut self, sync: u64) {
        let newest = self.disk.pending_syncs().into_iter().map(|pending| pending.ticket).next_back();
        self.syncs.extend(newest.map(|ticket| (sync, ticket)));
    }
}

/// A directory that writes down what succeeded of everything that changes it. One change at a time, so
/// that the order written down is the order in which it happened.
///
/// ```
/// use std::sync::Arc;
/// use staticfire_storage::disk::{Directory, RecordingDirectory, SimulatedDisk};
///
/// let recording = RecordingDirectory::new(SimulatedDisk::new(1).directory()); // or a `RealDirectory`
/// let directory: Arc<dyn Directory> = recording.directory();
/// directory.create("log", 8)?.write_at(0, b"kept")?;
///
/// let disk = SimulatedDisk::new(2);
/// recording.trace().replay(&disk)?;
/// assert_eq!(disk.contents("log")?, b"kept\0\0\0\0");
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// Cloning shares.
#[derive(Clone, Debug)]
pub struct RecordingDirectory {
    inner: Arc<dyn Directory>,
    recorder: Recorder,
}

#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Recorded>>);

#[derive(Default)]
struct Recorded {
    trace: Trace,
    /// Numbers given to files and syncs.
    numbers: u64,
}

impl Recorded {
    fn next_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn note(&mut self, operation: TraceOperation) {
        self.trace.operations.push(operation);
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} operations", self.lock().trace.operations.len())
    }
}

impl Recorder {
    fn lock(&self) -> MutexGuard<'_, Recorded> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a change and notes it if it was made.
    fn change(&self, change: impl FnOnce() -> io::Result<()>, noted: TraceOperation) -> io::Result<()> {
        let mut recorded = self.lock();
        change()?;
        recorded.note(noted);
        Ok(())
    }

    /// Notes the start of a sync: what is written from now on need not be covered by it.
    fn start(&self, noted: impl FnOnce(u64) -> TraceOperation) -> u64 {
        let mut recorded = self.lock();
        let sync = recorded.next_number();
        recorded.note(noted(sync));
        sync
    }

    fn end(&self, sync: u64, failed: bool) {
        self.lock().note(TraceOperation::EndSync { sync, failed });
    }

    /// Notes the end of `sync` before anybody hears of it.
    fn noting_end(&self, sync: u64, done: OnSynced) -> OnSynced {
        let recorder = self.clone();
        Box::new(move |result| {
            recorder.end(sync, result.is_err());
            done(result);
        })
    }
}

impl RecordingDirectory {
    /// Records what changes `inner` from now on. Replaying takes an empty disk, so that is what it should
    /// be.
    #[must_use]
    pub fn new(inner: Arc<dyn Directory>) -> Self {
        Self { inner, recorder: Recorder::default() }
    }

    /// The directory as the trait object that the store takes.
    #[must_use]
    pub fn directory(&self) -> Arc<dyn Directory> {
        Arc::new(self.clone())
    }

    /// Notes a number in the trace: that a message was acknowledged, say. Whoever replays the trace up to a
    /// crash finds out what had happened by then.
    pub fn mark(&self, number: u64) {
        self.recorder.lock().note(TraceOperation::Mark(number));
    }

    /// Everything recorded so far.
    #[must_use]
    pub fn trace(&self) -> Trace {
        self.recorder.lock().trace.clone()
    }

    fn file(
        &self,
        open: impl FnOnce() -> io::Result<Arc<dyn SegmentFile>>,
        noted: impl FnOnce(u64) -> TraceOperation,
    ) -> io::Result<Arc<dyn SegmentFile>> {
        let mut recorded = self.recorder.lock();
        let inner = open()?;
        let number = recorded.next_number();
        recorded.note(noted(number));
        Ok(Arc::new(RecordingFile { inner, number, recorder: self.recorder.clone() }))
    }
}

impl Directory for RecordingDirectory {
    fn create(&self, path: &str, len: u64) -> io::Result<Arc<dyn SegmentFile>> {
        let noted = |file| TraceOperation::Create { file, path: path.to_owned(), len };
        self.file(|| self.inner.create(path, len), noted)
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn SegmentFile>> {
        self.file(|| self.inner.open(path), |file| TraceOperation::Open { file, path: path.to_owned() })
    }

    fn list(&self, path: &str) -> io::Result<Vec<DirectoryEntry>> {
        self.inner.list(path)
    }

    fn make_directory(&self, path: &str) -> io::Result<()> {
        let noted = TraceOperation::MakeDirectory(path.to_owned());
        self.recorder.change(|| self.inner.make_directory(path), noted)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let noted = TraceOperation::Rename { from: from.to_owned(), to: to.to_owned() };
        self.recorder.change(|| self.inner.rename(from, to), noted)
    }

    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        let noted = TraceOperation::Link { from: from.to_owned(), to: to.to_owned() };
        self.recorder.change(|| self.inner.link(from, to), noted)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.recorder.change(|| self.inner.remove(path), TraceOperation::Remove(path.to_owned()))
    }

    fn start_sync_from(&self, site: SyncSite, path: &str, done: OnSynced) {
        let noted = |sync| TraceOperation::StartSyncDirectory { sync, path: path.to_owned() };
        let sync = self.recorder.start(noted);
        self.inner.start_sync_from(site, path, self.recorder.noting_end(sync, done));
    }

    fn sync_from(&self, site: SyncSite, path: &str) -> io::Result<()> {
        let noted = |sync| TraceOperation::StartSyncDirectory { sync, path: path.to_owned() };
        let sync = self.recorder.start(noted);
        let synced = self.inner.sync_from(site, path);
        self.recorder.end(sync, synced.is_err());
        synced
    }

    fn lock(&self, path: &str) -> io::Result<DirectoryLock> {
        let mut recorded = self.recorder.lock();
        let lock = self.inner.lock(path)?;
        recorded.note(TraceOperation::Lock(path.to_owned()));
        Ok(lock)
    }

    fn space(&self) -> io::Result<DiskSpace> {
        self.inner.space()
    }
}

#[derive(Debug)]
struct RecordingFile {
    inner: Arc<dyn SegmentFile>,
    number: u64,
    recorder: Recorder,
}

impl SegmentFile for RecordingFile {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored_at(at, &[io::IoSlice::new(bytes)])
    }

    fn write_vectored_at(&self, at: u64, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
        let mut recorded = self.recorder.lock();
        let written = self.inner.write_vectored_at(at, parts)?;
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter()).take(written).copied().collect();
        recorded.note(TraceOperation::Write { file: self.number, at, bytes: bytes.into() });
        Ok(written)
    }

    fn settle(&self, upto: u64) {
        self.inner.settle(upto);
    }

    fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        self.inner.read(range)
    }

    fn read_into(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.inner.read_into(at, buffer)
    }

    fn is_cold(&self, range: Range<u64>) -> bool {
        self.inner.is_cold(range)
    }

    fn start_read(&self, range: Range<u64>, done: OnRead) {
        self.inner.start_read(range, done);
    }

    fn next_data(&self, at: u64) -> io::Result<Option<u64>> {
        self.inner.next_data(at)
    }

    fn next_hole(&self, at: u64) -> io::Result<u64> {
        self.inner.next_hole(at)
    }

    fn allocate(&self, range: Range<u64>) -> io::Result<()> {
        let noted = TraceOperation::Allocate { file: self.number, range: range.clone() };
        self.recorder.change(|| self.inner.allocate(range), noted)
    }

    fn zero(&self, range: Range<u64>) -> io::Result<()> {
        let noted = TraceOperation::Zero { file: self.number, range: range.clone() };
        self.recorder.change(|| self.inner.zero(range), noted)
    }

    fn start_sync_from(&self, site: SyncSite, done: OnSynced) {
        let sync = self.recorder.start(|sync| TraceOperation::StartSync { sync, file: self.number });
        self.inner.start_sync_from(site, self.recorder.noting_end(sync, done));
    }

    fn sync_from(&self, site: SyncSite) -> io::Result<()> {
        let sync = self.recorder.start(|sync| TraceOperation::StartSync { sync, file: self.number });
        let synced = self.inner.sync_from(site);
        self.recorder.end(sync, synced.is_err());
        synced
    }

    fn modified_ms(&self) -> io::Result<i64> {
        self.inner.modified_ms()
    }
}
