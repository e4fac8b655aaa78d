//! A file written by system calls and read through one shared read-only mapping.
//!
//! ```text
//! 0                       settled                                            len
//! +--------------------------+-------------------------------------------------+
//! | never changes: slices    | may change: slices are temporary, and a write   |
//! | may live for ever        | below the furthest of them waits for their end  |
//! +--------------------------+-------------------------------------------------+
//! ```
//! Slices of the mapping are plain `&[u8]` for whoever holds them, so the bytes below them must not
//! change. Behind `settled` two numbers see to it: reads raise `frozen`, writes announce `writing`,
//! and each looks at the other's number after setting its own, so at least one of two that overlap
//! notices. The loser is refused.

#![allow(unsafe_code, reason = "mapping a file; the block carries its proof")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "this is the disk seam")]

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};

use bytes::Bytes;
use memmap2::{Mmap, MmapOptions};
use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

use super::lock::{FileId, file_id};
use super::reads::{self, ReadThreads};
use super::syncs::{Scope, SyncOrder, SyncThread};
use super::{file_len, not_a_file};
use crate::disk::{OnRead, OnSynced, SegmentFile, SyncSite, busy, check_readable, check_writable};

/// The most buffers that one vectored write may have on any system we know.
const PARTS_MAX: usize = 1024;
/// Behind the end of every read.
const NO_WRITE: u64 = u64::MAX;

/// The files of this process that are open or still have slices. One file opened twice is one value,
/// since two of them would not know of each other's slices.
static KNOWN: Mutex<BTreeMap<Key, Known>> = Mutex::new(BTreeMap::new());

/// Which file, and whether it is open for reading only.
type Key = (FileId, bool);

#[derive(Debug, Default)]
struct Known {
    file: Weak<RealFile>,
    mapping: Weak<Mapping>,
}

#[derive(Debug)]
pub(super) struct RealFile {
    fd: Arc<OwnedFd>,
    syncs: Arc<SyncThread>,
    order: Arc<SyncOrder>,
    reads: Arc<ReadThreads>,
    mapping: Arc<Mapping>,
    /// What slices are cut from, so that reading allocates nothing; made by the first read.
    masters: RwLock<Option<Masters>>,
    /// Start of the write under way, of which there is one at a time; [`NO_WRITE`] when there is none.
    writing: AtomicU64,
}

/// The mapping and what is known about slices of it. Lives as long as the last slice.
#[derive(Debug)]
struct Mapping {
    key: Key,
    len: u64,
    /// Bytes before this never change.
    settled: AtomicU64,
    /// End of the furthest temporary slice, as long as one may live. Reset by [`RealFile::thaw`].
    frozen: AtomicU64,
    /// Shared with every temporary slice.
    temporary: Mutex<Arc<()>>,
    mapped: OnceLock<Mmap>,
}

/// The whole file, for slices of two kinds.
#[derive(Debug)]
struct Masters {
    settled: Bytes,
    temporary: Bytes,
}

/// Whether what is written settles.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Settle {
    Nothing,
    Written,
}

/// A write under way.
struct Announced<'a>(&'a AtomicU64);

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        // Nobody may be let in by mistake but by the announcement: whoever reads this too late is
        // refused, so it need not be ordered with what others store.
        self.0.store(NO_WRITE, Ordering::Release);
    }
}

/// What keeps the mapping behind a slice alive.
struct Mapped {
    mapping: Arc<Mapping>,
    _temporary: Option<Arc<()>>,
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        self.mapping.mapped.get().map_or(&[], |mapped| mapped)
    }
}

impl RealFile {
    /// Takes the open file `fd`, or the value that this process already has for the same file.
    pub(super) fn from_fd(
        fd: OwnedFd,
        (syncs, reads): (Arc<SyncThread>, Arc<ReadThreads>),
        read_only: bool,
    ) -> io::Result<Arc<Self>> {
        let stat = rustix::fs::fstat(&fd)?;
        if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
            return Err(not_a_file());
        }
        let (key, len) = ((file_id(&stat), read_only), file_len(&stat)?);
        // Declared before the guard, so that dropping them (which locks) comes after.
        let (open, mapping);
        let mut known = lock(&KNOWN);
        let entry = known.entry(key).or_default();
        (open, mapping) = (entry.file.upgrade(), entry.mapping.upgrade());
        if let Some(open) = open.as_ref().filter(|open| open.mapping.len == len) {
            return Ok(Arc::clone(open));
        }
        let mapping = mapping.as_ref().filter(|mapping| mapping.len == len).cloned().unwrap_or_else(|| {
            Arc::new(Mapping {
                key,
                len,
                settled: AtomicU64::new(0),
                frozen: AtomicU64::new(0),
                temporary: Mutex::default(),
                mapped: OnceLock::new(),
            })
        });
        entry.mapping = Arc::downgrade(&mapping);
        let file = Arc::new(Self {
            fd: Arc::new(fd),
            syncs,
            order: Arc::default(),
            reads,
            mapping,
            masters: RwLock::new(None),
            writing: AtomicU64::new(NO_WRITE),
        });
        entry.file = Arc::downgrade(&file);
        Ok(file)
    }

    /// Runs `write`, which writes from `at` on, unless that changes settled bytes or a slice may lie
    /// there. `same` compares the settled bytes from `at` on with what is to be written. Settles what
    /// was written, if asked to.
    fn write_from(
        &self,
        at: u64,
        settle: Settle,
        same: impl FnOnce(&[u8]) -> bool,
        write: impl FnOnce() -> rustix::io::Result<usize>,
    ) -> io::Result<usize> {
        let _announced = self.announce(at);
        let settled = self.mapping.settled.load(Ordering::Acquire);
        if at < settled {
            self.map()?;
            let mapped = self.mapping.mapped.get().map_or(&[][..], |mapped| mapped);
            if !same(&mapped[at as usize..settled as usize]) {
                return Err(busy("the bytes where this write goes are settled"));
            }
        }
        if self.mapping.frozen.load(Ordering::SeqCst) > at.max(settled) {
            self.thaw()?;
        }
        let written = write()?;
        if settle == Settle::Written {
            self.mapping.settled.store(settled.max(at + written as u64), Ordering::Release);
        }
        Ok(written)
    }

    /// Lets nobody else write, and everybody who reads see where a write starts.
    fn announce(&self, at: u64) -> Announced<'_> {
        while self.writing.compare_exchange(NO_WRITE, at, Ordering::SeqCst, Ordering::Relaxed).is_err() {
            // Whoever writes to one file takes turns before coming here.
            std::thread::yield_now();
        }
        Announced(&self.writing)
    }

    fn write_parts(&self, at: u64, parts: &[io::IoSlice<'_>], settle: Settle) -> io::Result<usize> {
        let parts = &parts[..parts.len().min(PARTS_MAX)];
        check_writable(at, parts.iter().map(|part| part.len() as u64).sum(), self.len())?;
        let bytes = || parts.iter().flat_map(|part| part.iter());
        let same = |there: &[u8]| there.iter().zip(bytes()).all(|(old, new)| old == new);
        self.write_from(at, settle, same, || match parts {
            // The system has less to look at.
            [one] => rustix::io::pwrite(&*self.fd, one, at),
            _ => rustix::io::pwritev(&*self.fd, parts, at),
        })
    }

    /// Forgets the temporary slices, if none is left.
    fn thaw(&self) -> io::Result<()> {
        let mut masters = self.masters.write().unwrap_or_else(PoisonError::into_inner);
        *masters = None;
        if Arc::get_mut(&mut lock(&self.mapping.temporary)).is_none() {
            return Err(busy("a slice handed out by an earlier read may lie where this write goes"));
        }
        self.mapping.frozen.store(0, Ordering::SeqCst);
        Ok(())
    }

    /// Maps the file, unless that was done.
    fn map(&self) -> io::Result<()> {
        let mut masters = self.masters.write().unwrap_or_else(PoisonError::into_inner);
        if masters.is_some() {
            return Ok(());
        }
        if self.mapping.mapped.get().is_none() {
            let len = usize::try_from(self.mapping.len).map_err(|_| too_large())?;
            // SAFETY: a mapping is sound as long as no byte seen through a `&[u8]` changes or goes
            // away.
            // - Seen are only the slices made by `read`, and by `write_from` before it writes; the
            //   masters are cut, never looked into.
            // - Changed by this value: bytes before `settled` are only overwritten by what they are.
            //   `settled` only moves while the mover holds the announcement, of which there is one:
            //   no write is under way then, or the one whose end it moves to is over.
            //   For those behind, `write_from` announces its start in `writing` before it looks at
            //   `frozen`, `read` raises `frozen` before it looks at `writing`, all sequentially
            //   consistent, so of two that overlap at least one is refused. Below `frozen` a write
            //   goes ahead only after `thaw` saw, exclusively, that no temporary slice is left.
            // - Changed by another value of this process: `KNOWN` makes one file one value, and one
            //   whose slices are left keeps its numbers when it is opened again. A read-only directory
            //   has values of its own; it is for stores that nobody writes to meanwhile.
            // - Changed or cut short by another process: excluded by the lock on the store directory,
            //   which every writer of this format takes, and by the mode 0600 of the files. We never
            //   shorten a file: a cut replaces it.
            // - Unmapped: the mapping lives in the `Mapped` behind every slice.
            let mapped = unsafe { MmapOptions::new().len(len).map(&*self.fd) }?;
            drop(self.mapping.mapped.set(mapped));
        }
        let master =
            |temporary| Bytes::from_owner(Mapped { mapping: self.mapping.clone(), _temporary: temporary });
        let token = Arc::clone(&lock(&self.mapping.temporary));
        *masters = Some(Masters { settled: master(None), temporary: master(Some(token)) });
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::OutOfMemory, "the file is larger than the address space")
}

/// Forgets the file once it is neither open nor seen.
fn forget(key: Key) {
    let mut known = lock(&KNOWN);
    let gone = |entry: &Known| entry.file.strong_count() == 0 && entry.mapping.strong_count() == 0;
    if known.get(&key).is_some_and(gone) {
        known.remove(&key);
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        forget(self.key);
    }
}

impl SegmentFile for RealFile {
    fn len(&self) -> u64 {
        self.mapping.len
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<usize> {
        check_writable(at, bytes.len() as u64, self.len())?;
        let same = |there: &[u8]| there.iter().zip(bytes).all(|(old, new)| old == new);
        self.write_from(at, Settle::Nothing, same, || rustix::io::pwrite(&*self.fd, bytes, at))
    }

    fn write_vectored_at(&self, at: u64, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.write_parts(at, parts, Settle::Nothing)
    }

    fn append_at(&self, at: u64, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.write_parts(at, parts, Settle::Written)
    }

    fn settle(&self, upto: u64) {
        // No write is under way, and nobody else settles.
        let _announced = self.announce(self.len());
        let settled = self.mapping.settled.load(Ordering::Relaxed).max(upto.min(self.len()));
        self.mapping.settled.store(settled, Ordering::Release);
    }

    fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        check_readable(range.start, range.end.saturating_sub(range.start), self.len())?;
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        loop {
            let masters = self.masters.read().unwrap_or_else(PoisonError::into_inner);
            let Some(whole) = &*masters else {
                drop(masters);
                self.map()?;
                continue;
            };
            // Both fit: the mapping has the length of the file, and the range lies within it.
            let slice = range.start as usize..range.end as usize;
            if range.end <= self.mapping.settled.load(Ordering::Acquire) {
                return Ok(whole.settled.slice(slice));
            }
            self.mapping.frozen.fetch_max(range.end, Ordering::SeqCst);
            if self.writing.load(Ordering::SeqCst) < range.end {
                return Err(busy("the range is being written to"));
            }
            return Ok(whole.temporary.slice(slice));
        }
    }

    fn read_into(&self, mut at: u64, mut buffer: &mut [u8]) -> io::Result<()> {
        check_readable(at, buffer.len() as u64, self.len())?;
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

    fn is_cold(&self, range: Range<u64>) -> bool {
        reads::is_cold(&self.fd, range)
    }

    fn start_read(&self, range: Range<u64>, done: OnRead) {
        self.reads.start(Arc::clone(&self.fd), range, done);
    }

    fn next_data(&self, at: u64) -> io::Result<Option<u64>> {
        // Every other access names its position, so moving the descriptor's is in nobody's way.
        match rustix::fs::seek(&*self.fd, SeekFrom::Data(at)) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NXIO) => Ok(None),
            Err(Errno::INVAL) => Ok(Some(at).filter(|at| *at < self.len())),
            Err(e) => Err(e.into()),
        }
    }

    fn next_hole(&self, at: u64) -> io::Result<u64> {
        match rustix::fs::seek(&*self.fd, SeekFrom::Hole(at)) {
            Ok(found) => Ok(found),
            Err(Errno::NXIO | Errno::INVAL) => Ok(self.len()),
            Err(e) => Err(e.into()),
        }
    }

    fn allocate(&self, range: Range<u64>) -> io::Result<()> {
        let len = range.end.saturating_sub(range.start);
        check_writable(range.start, len, self.len())?;
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
        check_writable(range.start, len, self.len())?;
        if len == 0 {
            return Ok(());
        }
        let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        let zero = || rustix::io::retry_on_intr(|| rustix::fs::fallocate(&*self.fd, flags, range.start, len));
        let same = |there: &[u8]| there.iter().take(len as usize).all(|byte| *byte == 0);
        match self.write_from(range.start, Settle::Nothing, same, || zero().map(|()| 0)) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => self.write_zeros(range),
            zeroed => zeroed.map(|_| ()),
        }
    }

    fn start_sync_from(&self, _site: SyncSite, done: OnSynced) {
        self.syncs.start(Arc::clone(&self.fd), Scope::Bytes, Arc::clone(&self.order), done);
    }

    fn sync_from(&self, _site: SyncSite) -> io::Result<()> {
        self.order.sync(&self.fd, Scope::Bytes)
    }

    fn modified_ms(&self) -> io::Result<i64> {
        let stat = rustix::fs::fstat(&*self.fd)?;
        Ok(stat.st_mtime.saturating_mul(1000).saturating_add(stat.st_mtime_nsec as i64 / 1_000_000))
    }
}
