//! The disk seam: everything the store asks of a file system, and nothing more.
//!
//! Two implementations: [`RealDirectory`] (files, `pwrite`, read-only maps, threads that run
//! syncs) and [`SimulatedDisk`] (a durable image, un-synced sectors, faults drawn from a seed).
//! One conformance suite, [`conformance`], runs on both; whoever writes a third can run it too.
//! [`RecordingDirectory`] writes down what changes one, and the [`Trace`] replays on a simulated disk.
//!
//! Paths are relative to the root of the directory, components joined by `/`; components are
//! built from validated names and numbers only, so no path leaves the root.

use std::fmt;
use std::io;
use std::ops::Range;
use std::panic::Location;
use std::sync::Arc;

use bytes::Bytes;

pub mod conformance;
mod real;
mod recorded;
pub mod simulated;

pub use real::RealDirectory;
pub use recorded::{RecordingDirectory, Trace, TraceOperation};
pub use simulated::{
    CrashImages, DiskFaults, DiskOperation, FaultEffect, FaultRule, OperationRecord, PendingSync, Reread,
    Rot, SimulatedDisk, SyncSiteCount, SyncTicket, is_machine_gone,
};

/// Called once with the result of a started sync, on whatever thread or step runs completions.
pub type OnSynced = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Called once with the result of a started read, on whatever thread or step runs completions.
pub type OnRead = Box<dyn FnOnce(io::Result<()>) + Send>;

/// The line of code that asked for a sync. A simulated disk can make one of them ineffective, which
/// shows whether a test would notice if that line were missing.
pub type SyncSite = &'static Location<'static>;

/// A tree of files under one root.
///
/// Creations, renames, links and removals survive a power cut only after the *containing*
/// directory was synced (`start_sync` or `sync` of the directory); the bytes and the length of a file
/// only after a sync of the file completed. The two are independent.
pub trait Directory: fmt::Debug + Send + Sync {
    /// Creates a file of `len` zero bytes. Nothing is allocated: holes read as zeros.
    ///
    /// # Errors
    /// `AlreadyExists`, `NotFound` (no such parent), or the system's error.
    fn create(&self, path: &str, len: u64) -> io::Result<Arc<dyn SegmentFile>>;

    /// Opens a regular file for reading and writing. Symbolic links are refused.
    ///
    /// # Errors
    /// `NotFound`, `InvalidInput` (not a regular file), or the system's error.
    fn open(&self, path: &str) -> io::Result<Arc<dyn SegmentFile>>;

    /// The entries of a directory, sorted by name. `path` may be empty: the root.
    ///
    /// # Errors
    /// `NotFound` or the system's error.
    fn list(&self, path: &str) -> io::Result<Vec<DirectoryEntry>>;

    /// Creates a directory with its missing parents; succeeds when it exists. Not durable until
    /// each parent was synced.
    ///
    /// # Errors
    /// The system's error.
    fn make_directory(&self, path: &str) -> io::Result<()>;

    /// Renames a file or directory, replacing a file that has the new name.
    ///
    /// # Errors
    /// `NotFound` or the system's error.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Gives the file `from` a second name.
    ///
    /// # Errors
    /// `NotFound`, `AlreadyExists`, or the system's error.
    fn link(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file or an empty directory. Open files and the slices read from them stay valid.
    ///
    /// # Errors
    /// `NotFound`, `DirectoryNotEmpty`, or the system's error.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// What `start_sync` does, on behalf of `site`. Implementations provide it, callers use
    /// `start_sync`, which knows its caller.
    fn start_sync_from(&self, site: SyncSite, path: &str, done: OnSynced);

    /// What `sync` does, on behalf of `site`.
    ///
    /// # Errors
    /// `NotFound` or the system's error.
    fn sync_from(&self, site: SyncSite, path: &str) -> io::Result<()>;

    /// Takes the exclusive lock on the file `path`, creating it when missing. The lock lives as
    /// long as the returned value, and ends with the process.
    ///
    /// # Errors
    /// `WouldBlock` when another holder lives, or the system's error.
    fn lock(&self, path: &str) -> io::Result<DirectoryLock>;

    /// Free and total bytes of the file system.
    ///
    /// # Errors
    /// The system's error.
    fn space(&self) -> io::Result<DiskSpace>;
}

impl dyn Directory + '_ {
    /// Starts making the entries of the directory `path` durable; `done` gets the result later,
    /// perhaps before this returns, perhaps never (a simulated disk that died).
    #[track_caller]
    pub fn start_sync(&self, path: &str, done: OnSynced) {
        self.start_sync_from(Location::caller(), path, done);
    }

    /// Makes the entries of the directory `path` durable before returning. For recovery and other
    /// places that have nothing else to do meanwhile.
    ///
    /// # Errors
    /// `NotFound` or the system's error.
    #[track_caller]
    pub fn sync(&self, path: &str) -> io::Result<()> {
        self.sync_from(Location::caller(), path)
    }
}

/// One file of fixed length, written by position and read through a mapping.
pub trait SegmentFile: fmt::Debug + Send + Sync {
    /// Length in bytes, fixed while the file is open.
    fn len(&self) -> u64;

    /// True when the file has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes some prefix of `bytes` at `at` and returns how many bytes were written (at least 1
    /// unless `bytes` is empty). Use [`write_all_at`] unless a short write is of interest.
    ///
    /// # Errors
    /// `InvalidInput` past the end of the file, `ResourceBusy` where bytes are settled or a slice
    /// handed out by [`SegmentFile::read`] may lie, or the system's error (`StorageFull`, `EIO`, …); part of the
    /// bytes may then have been written.
    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<usize>;

    /// Writes some prefix of the concatenation of `parts` at `at` with one system call.
    ///
    /// # Errors
    /// As [`SegmentFile::write_at`].
    fn write_vectored_at(&self, at: u64, parts: &[io::IoSlice<'_>]) -> io::Result<usize>;

    /// Writes as [`SegmentFile::write_vectored_at`] and settles what was written: `upto` is its end.
    ///
    /// # Errors
    /// As [`SegmentFile::write_at`]; nothing is settled then.
    fn append_at(&self, at: u64, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
        let written = self.write_vectored_at(at, parts)?;
        self.settle(at + written as u64);
        Ok(written)
    }

    /// Declares that the bytes before `upto` stay as they are for the life of the file: a write
    /// there is refused unless it writes what is there. Slices of them may be held for ever.
    fn settle(&self, upto: u64);

    /// The bytes of `range`, inside the mapping: nothing is copied, and the mapping lives until
    /// the last slice drops, even when the file was removed.
    ///
    /// Bytes handed out never change. Of a settled range ([`SegmentFile::settle`]) that is clear; a
    /// slice that reaches further is for the moment: as long as one lives, a write that starts below
    /// the end of the furthest is refused. [`SegmentFile::read_into`] is in nobody's way.
    ///
    /// # Errors
    /// `UnexpectedEof` when the range passes the end of the file, `ResourceBusy` when it is not
    /// settled and a write that starts before its end is under way, or the system's error.
    fn read(&self, range: Range<u64>) -> io::Result<Bytes>;

    /// Copies the bytes from `at` on into the whole of `buffer`. For what may still be written to:
    /// the tail that recovery looks at, slots that are overwritten.
    ///
    /// # Errors
    /// `UnexpectedEof` when the range passes the end of the file, or the system's error.
    fn read_into(&self, at: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Whether looking at the range through the mapping would wait for the device. The system's guess of
    /// the moment; who cannot tell answers no.
    fn is_cold(&self, _range: Range<u64>) -> bool {
        false
    }

    /// Starts bringing the range into memory, where slices of it are looked at without waiting; `done` gets
    /// the result later. A range that the device cannot read is an error here, and behind a mapping a
    /// signal that ends the process.
    fn start_read(&self, range: Range<u64>, done: OnRead) {
        done(self.read_through(range));
    }

    /// Reads the range and keeps nothing of it.
    ///
    /// # Errors
    /// As [`SegmentFile::read_into`].
    fn read_through(&self, range: Range<u64>) -> io::Result<()> {
        let mut part = vec![0; range.end.saturating_sub(range.start).min(1 << 16) as usize];
        let mut starts = range.clone().step_by(part.len().max(1));
        starts.try_for_each(|at| self.read_into(at, &mut part[..(range.end - at).min(1 << 16) as usize]))
    }

    /// The first position at or behind `at` where anything but zeros may stand; `None` when only zeros
    /// follow. For the long holes of sparse files; who cannot tell answers `at`, which is right too.
    ///
    /// # Errors
    /// The system's error.
    fn next_data(&self, at: u64) -> io::Result<Option<u64>> {
        Ok(Some(at).filter(|at| *at < self.len()))
    }

    /// The first position behind `at` where nothing but zeros may stand without taking space: where a
    /// hole begins, at the latest the end of the file. Who cannot tell answers with the end.
    ///
    /// # Errors
    /// The system's error.
    fn next_hole(&self, _at: u64) -> io::Result<u64> {
        Ok(self.len())
    }

    /// Gives the range blocks of its own, so that writing there cannot run out of space.
    ///
    /// # Errors
    /// `StorageFull`, or the system's error. `Unsupported` file systems succeed without effect.
    fn allocate(&self, range: Range<u64>) -> io::Result<()>;

    /// Makes the range read as zeros; as durable as a write of zeros, and cheap for long ranges.
    ///
    /// # Errors
    /// As [`SegmentFile::write_at`].
    fn zero(&self, range: Range<u64>) -> io::Result<()> {
        self.write_zeros(range)
    }

    /// Writes zeros to the whole range: what `zero` does where the system knows nothing better.
    ///
    /// # Errors
    /// As [`SegmentFile::write_at`].
    fn write_zeros(&self, range: Range<u64>) -> io::Result<()> {
        static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
        let mut at = range.start;
        while at < range.end {
            let len = (range.end - at).min(ZEROS.len() as u64);
            match self.write_at(at, &ZEROS[..len as usize]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => at += written as u64,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// What `start_sync` does, on behalf of `site`. Implementations provide it, callers use
    /// `start_sync`, which knows its caller.
    fn start_sync_from(&self, site: SyncSite, done: OnSynced);

    /// What `sync` does, on behalf of `site`.
    ///
    /// # Errors
    /// The system's error. The bytes may then be lost, and a later success proves nothing about them.
    fn sync_from(&self, site: SyncSite) -> io::Result<()>;

    /// When the content was last changed, in milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// The system's error.
    fn modified_ms(&self) -> io::Result<i64>;
}

impl dyn SegmentFile + '_ {
    /// Starts making everything written so far (length included) durable; `done` gets the result
    /// later. After an error the bytes may be lost and a later success proves nothing about them.
    #[track_caller]
    pub fn start_sync(&self, done: OnSynced) {
        self.start_sync_from(Location::caller(), done);
    }

    /// Makes everything written so far (length included) durable before returning. Fails, too, when a sync
    /// started earlier has failed and its `done` has not returned: the system may report that once.
    ///
    /// # Errors
    /// The system's error. The bytes may then be lost, and a later success proves nothing about them.
    #[track_caller]
    pub fn sync(&self) -> io::Result<()> {
        self.sync_from(Location::caller())
    }
}

/// Writes all of `bytes` at `at`, going on after short writes.
///
/// # Errors
/// As [`SegmentFile::write_at`]; `WriteZero` when the file takes nothing.
pub fn write_all_at(file: &dyn SegmentFile, mut at: u64, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_at(at, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                at += n as u64;
                bytes = &bytes[n..];
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// The last component of its path.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
    /// Length in bytes; 0 for anything but a file.
    pub len: u64,
}

/// What a directory entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// Anything else (symbolic link, socket, …): the store does not touch it.
    Other,
}

/// The exclusive lock on a store directory; dropping it releases the lock.
#[derive(Debug)]
pub struct DirectoryLock(#[allow(dead_code, reason = "held for its drop")] Box<dyn LockHeld>);

impl DirectoryLock {
    /// Wraps what releases the lock when dropped.
    pub fn new(held: impl LockHeld + 'static) -> Self {
        Self(Box::new(held))
    }
}

/// Something whose drop releases a lock.
pub trait LockHeld: fmt::Debug + Send + Sync {}

/// Bytes of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// Bytes that can still be written.
    pub free: u64,
    /// Bytes in all.
    pub total: u64,
}

/// The directory that contains `path`; empty for an entry of the root.
#[must_use]
pub fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// The components of a relative path; none for the root itself.
///
/// # Errors
/// `InvalidInput` for a path that could leave the root or name nothing: an empty component (so an
/// absolute path too), `.`, `..`, or a NUL byte.
fn components(path: &str) -> io::Result<Vec<&str>> {
    if path.is_empty() {
        return Ok(Vec::new());
    }
    let parts: Vec<&str> = path.split('/').collect();
    if parts.iter().any(|part| matches!(*part, "" | "." | "..") || part.contains('\0')) {
        let message = format!("{path:?} is not a path below the root of the directory");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    Ok(parts)
}

/// `UnexpectedEof` unless `at..at + len` lies within a file of `file_len` bytes.
fn check_readable(at: u64, len: u64, file_len: u64) -> io::Result<()> {
    if at.checked_add(len).is_some_and(|end| end <= file_len) {
        return Ok(());
    }
    let message = format!("{len} bytes at {at} pass the end of a file of {file_len} bytes");
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, message))
}

/// `InvalidInput` unless `at..at + len` lies within a file of `file_len` bytes.
fn check_writable(at: u64, len: u64, file_len: u64) -> io::Result<()> {
    check_readable(at, len, file_len).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e.to_string()))
}

/// The refusal that keeps bytes from changing under a reader.
fn busy(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::ResourceBusy, what.to_owned())
}
