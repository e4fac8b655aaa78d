//! A file written by system calls and read through one shared read-only mapping.
//!
//! ```text
//! 0                    frozen                     writing                  len
//! +----------------------+--------------------------+------------------------+
//! | slices may be out    | written, not yet read    | being written          |
//! +----------------------+--------------------------+------------------------+
//! ```
//! Slices of the mapping are plain `&[u8]` for whoever holds them, so the bytes below them must not
//! change. Two numbers see to it: reads raise `frozen`, writes announce `writing`, and each looks at
//! the other's number after setting its own, so at least one of two that overlap notices. The loser
//! is refused. A write below `frozen` goes ahead only when no slice is left.

#![allow(unsafe_code, reason = "mapping a file; the block carries its proof")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "this is the disk seam")]

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use bytes::Bytes;
use memmap2::{Mmap, MmapOptions};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::lock::{FileId, file_id};
use super::syncs::{self, Scope, SyncThread};
use super::{file_len, not_a_file};
use crate::disk::{OnSynced, SegmentFile, SyncSite, busy, check_readable, check_writable};

/// The most buffers that one vectored write may have on any system we know.
const PARTS_MAX: usize = 1024;

/// The open files of this process. One file opened twice is one value, since two of them would not
/// know of each other's slices.
static OPEN: Mutex<BTreeMap<(FileId, bool), Weak<RealFile>>> = Mutex::new(BTreeMap::new());

#[derive(Debug)]
pub(super) struct RealFile {
    fd: Arc<OwnedFd>,
    len: u64,
    syncs: Arc<SyncThread>,
    key: (FileId, bool),
    view: RwLock<View>,
    /// End of the furthest range handed out, for as long as a slice may live. Reset under the
    /// exclusive lock of `view`.
    frozen: AtomicU64,
    /// Start of the write under way; `u64::MAX` when there is none. Stored under `writer`.
    writing: AtomicU64,
    writer: Mutex<()>,
}

/// The mapping, made by the first read.
#[derive(Debug, Default)]
struct View {
    mapping: Option<Arc<Mmap>>,
    /// Every slice is cut from this, so that reading allocates nothing.
    whole: Option<Bytes>,
}

/// What keeps the mapping alive behind the slices.
struct Mapped(Arc<Mmap>);

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl RealFile {
    /// Takes the open file `fd`, or the value that this process already has for the same file.
    pub(super) fn from_fd(fd: OwnedFd, syncs: &Arc<SyncThread>, read_only: bool) -> io::Result<Arc<Self>> {
        let stat = rustix::fs::fstat(&fd)?;
        if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
            return Err(not_a_file());
        }
        let (key, len) = ((file_id(&stat), read_only), file_len(&stat)?);
        // Declared before the guard, so that dropping it (which locks) comes after.
        let known;
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        known = open.get(&key).and_then(Weak::upgrade);
        if let Some(file) = known.as_ref().filter(|file| file.len == len) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(Self {
            fd: Arc::new(fd),
            len,
            syncs: Arc::clone(syncs),
            key,
            view: RwLock::default(),
            frozen: AtomicU64::new(0),
            writing: AtomicU64::new(u64::MAX),
            writer: Mutex::new(()),
        });
        open.insert(key, Arc::downgrade(&file));
        Ok(file)
    }

    /// Runs `write`, which writes from `at` on, unless a slice may lie there.
    fn write_from(&self, at: u64, write: impl FnOnce() -> rustix::io::Result<usize>) -> io::Result<usize> {
        let _one_at_a_time = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.writing.store(at, Ordering::SeqCst);
        let frozen = self.frozen.load(Ordering::SeqCst);
        let clear = if frozen > at { self.thaw() } else { Ok(()) };
        let result = clear.and_then(|()| Ok(write()?));
        self.writing.store(u64::MAX, Ordering::SeqCst);
        result
    }

    /// Forgets what was read, if no slice of it is left.
    fn thaw(&self) -> io::Result<()> {
        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
        view.whole = None;
        if let Some(mapping) = &mut view.mapping
            && Arc::get_mut(mapping).is_none()
        {
            return Err(busy("a slice handed out by an earlier read may lie where this write goes"));
        }
        self.frozen.store(0, Ordering::SeqCst);
        Ok(())
    }

    /// Maps the file, unless another read did so meanwhile.
    fn map(&self) -> io::Result<()> {
        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
        if view.whole.is_some() {
            return Ok(());
        }
        let mapping = match &view.mapping {
            Some(mapping) => Arc::clone(mapping),
            None => Arc::new(self.map_shared()?),
        };
        view.mapping = Some(Arc::clone(&mapping));
        view.whole = Some(Bytes::from_owner(Mapped(mapping)));
        Ok(())
    }

    fn map_shared(&self) -> io::Result<Mmap> {
        let len = usize::try_from(self.len).map_err(|_| {
            io::Error::new(io::ErrorKind::OutOfMemory, "the file is larger than the address space")
        })?;
        // SAFETY: a mapping is sound as long as no byte seen through a `&[u8]` changes or goes away.
        // - Seen are only the slices made by `read`; `whole` is cut, never looked into.
        // - Changed by this value: `write_from` announces its start in `writing` before it looks at
        //   `frozen`, `read` raises `frozen` before it looks at `writing`, all sequentially
        //   consistent, so of two that overlap at least one is refused. Below `frozen` a write goes
        //   ahead only after `thaw` saw, exclusively, that nobody but `view` holds the mapping.
        // - Changed by another value of this process: `OPEN` makes one file one value. A read-only
        //   directory has values of its own; it is for stores that nobody writes to meanwhile.
        // - Changed or cut short by another process: excluded by the lock on the store directory,
        //   which every writer of this format takes, and by the mode 0600 of the files. We never
        //   shorten a file: a cut replaces it.
        // - Unmapped: the mapping lives in the `Mapped` behind every slice.
        unsafe { MmapOptions::new().len(len).map(&*self.fd) }
    }
}

impl Drop for RealFile {
    fn drop(&mut self) {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        // Another value may have taken the place meanwhile.
        if open.get(&self.key).is_some_and(|file| file.strong_count() == 0) {
            open.remove(&self.key);
        }
    }
}

impl SegmentFile for RealFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<usize> {
        check_writable(at, bytes.len() as u64, self.len)?;
        self.write_from(at, || rustix::io::pwrite(&*self.fd, bytes, at))
    }

    fn write_vectored_at(&self, at: u64, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
        let parts = &parts[..parts.len().min(PARTS_MAX)];
        check_writable(at, parts.iter().map(|part| part.len() as u64).sum(), self.len)?;
        self.write_from(at, || rustix::io::pwritev(&*self.fd, parts, at))
    }

    fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        check_readable(range.start, range.end.saturating_sub(range.start), self.len)?;
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        loop {
            let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
            let Some(whole) = &view.whole else {
                drop(view);
                self.map()?;
                continue;
            };
            if self.frozen.load(Ordering::SeqCst) < range.end {
                self.frozen.fetch_max(range.end, Ordering::SeqCst);
            }
            if self.writing.load(Ordering::SeqCst) < range.end {
                return Err(busy("the range is being written to"));
            }
            // Both fit: the mapping has the length of the file, and the range lies within it.
            return Ok(whole.slice(range.start as usize..range.end as usize));
        }
    }

    fn read_into(&self, mut at: u64, mut buffer: &mut [u8]) -> io::Result<()> {
        check_readable(at, buffer.len() as u64, self.len)?;
        while !buffer.is_empty() {
            match rustix::io::pread(&*self.fd, &mut *buffer, at) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    at += count as u64;
                    buffer = &mut buffer[count..];
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn allocate(&self, range: Range<u64>) -> io::Result<()> {
        let len = range.end.saturating_sub(range.start);
        check_writable(range.start, len, self.len)?;
        if len == 0 {
            return Ok(());
        }
        let allocate = || rustix::fs::fallocate(&*self.fd, FallocateFlags::KEEP_SIZE, range.start, len);
        match rustix::io::retry_on_intr(allocate) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn zero(&self, range: Range<u64>) -> io::Result<()> {
        let len = range.end.saturating_sub(range.start);
        check_writable(range.start, len, self.len)?;
        if len == 0 {
            return Ok(());
        }
        let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        let zero = || rustix::io::retry_on_intr(|| rustix::fs::fallocate(&*self.fd, flags, range.start, len));
        match self.write_from(range.start, || zero().map(|()| 0)) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => self.write_zeros(range),
            zeroed => zeroed.map(|_| ()),
        }
    }

    fn start_sync_from(&self, _site: SyncSite, done: OnSynced) {
        self.syncs.start(Arc::clone(&self.fd), Scope::Bytes, done);
    }

    fn sync_from(&self, _site: SyncSite) -> io::Result<()> {
        syncs::sync(&self.fd, Scope::Bytes)
    }

    fn modified_ms(&self) -> io::Result<i64> {
        let stat = rustix::fs::fstat(&*self.fd)?;
        Ok(stat.st_mtime.saturating_mul(1000).saturating_add(stat.st_mtime_nsec as i64 / 1_000_000))
    }
}
