//! The simulated disk behind the traits of the seam.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::SimulatedDisk;
use super::content::Content;
use super::faults::{DiskOperation, FaultEffect, io_error};
use super::image::Inode;
use super::inspect::MachineGone;
use super::state::{Lease, State, Verdict};
use super::syncs::Target;
use crate::disk::{
    Directory, DirectoryEntry, DirectoryLock, DiskSpace, EntryKind, LockHeld, OnRead, OnSynced, SegmentFile,
    SyncSite, busy, check_readable, check_writable, components,
};

impl SimulatedDisk {
    /// Runs an operation that happens as a whole or not at all.
    fn whole<T>(
        &self,
        operation: DiskOperation,
        path: &str,
        run: impl FnOnce(&mut State, &[&str]) -> io::Result<T>,
    ) -> io::Result<T> {
        let parts = components(path)?;
        let mut state = self.lock();
        let result = state.begin_whole(operation, &Arc::from(path)).and_then(|()| run(&mut state, &parts));
        let gone = state.gone;
        drop(state);
        if gone {
            self.abandon_syncs();
        }
        result
    }

    fn file(&self, state: &mut State, inode: Inode, path: &str, len: u64) -> Arc<dyn SegmentFile> {
        *state.open.entry(inode).or_default() += 1;
        Arc::new(SimulatedFile { disk: self.clone(), inode, path: Arc::from(path), len })
    }

    fn directory_target(&self, path: &str) -> io::Result<Target> {
        let inode = self.lock().image.find(&components(path)?)?;
        Ok(Target { inode, directory: true })
    }
}

impl State {
    /// New names need space, however little.
    fn check_space(&self) -> io::Result<()> {
        if self.faults.space_bytes.is_some() && self.free_bytes() == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

impl Directory for SimulatedDisk {
    fn create(&self, path: &str, len: u64) -> io::Result<Arc<dyn SegmentFile>> {
        self.whole(DiskOperation::Create, path, |state, parts| {
            let (parent, name, there) = state.image.find_entry(parts)?;
            if there.is_some() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            state.check_space()?;
            let mut content = Content::zeros(state.image.sector_bytes, len, state.image.next_written());
            content.modified_ms = state.wall_ms;
            let inode = state.image.add_file(content);
            state.image.change(&[(parent, name, Some(inode))]);
            Ok(self.file(state, inode, path, len))
        })
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn SegmentFile>> {
        self.whole(DiskOperation::Open, path, |state, parts| {
            let inode = state.image.find(parts)?;
            let Some(content) = state.image.content(inode) else {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
            };
            if state.locks.contains(&inode) {
                return Err(locked());
            }
            let len = content.len;
            Ok(self.file(state, inode, path, len))
        })
    }

    fn list(&self, path: &str) -> io::Result<Vec<DirectoryEntry>> {
        self.whole(DiskOperation::List, path, |state, parts| {
            let inode = state.image.find(parts)?;
            let names = state.image.names(inode).ok_or(io::ErrorKind::NotADirectory)?;
            let entry = |(name, inode): (&Arc<str>, &Inode)| {
                let content = state.image.content(*inode);
                let kind = if content.is_some() { EntryKind::File } else { EntryKind::Directory };
                DirectoryEntry { name: name.to_string(), kind, len: content.map_or(0, |content| content.len) }
            };
            Ok(names.cache.iter().map(entry).collect())
        })
    }

    fn make_directory(&self, path: &str) -> io::Result<()> {
        self.whole(DiskOperation::MakeDirectory, path, |state, parts| {
            for depth in 1..=parts.len() {
                let (parent, name, there) = state.image.find_entry(&parts[..depth])?;
                if there.is_none() {
                    state.check_space()?;
                    let directory = state.image.add_directory();
                    state.image.change(&[(parent, name, Some(directory))]);
                }
            }
            let inode = state.image.find(parts)?;
            state.image.names(inode).map(|_| ()).ok_or_else(|| io::ErrorKind::NotADirectory.into())
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let new = components(to)?;
        self.whole(DiskOperation::Rename, from, |state, old| {
            let image = &state.image;
            let (old_parent, old_name, source) = image.find_entry(old)?;
            let source = source.ok_or(io::ErrorKind::NotFound)?;
            let (new_parent, new_name, target) = image.find_entry(&new)?;
            match (image.names(source), target.map(|target| (target, image.names(target)))) {
                // Two names of one file: nothing happens, both stay.
                (_, Some((target, _))) if target == source => return Ok(()),
                (Some(_), _) if new.starts_with(old) => return Err(io::ErrorKind::InvalidInput.into()),
                (Some(_), Some((_, None))) => return Err(io::ErrorKind::NotADirectory.into()),
                (None, Some((_, Some(_)))) => return Err(io::ErrorKind::IsADirectory.into()),
                (Some(_), Some((_, Some(names)))) if !names.cache.is_empty() => {
                    return Err(io::ErrorKind::DirectoryNotEmpty.into());
                }
                _ => {}
            }
            state.check_space()?;
            state.image.change(&[(old_parent, old_name, None), (new_parent, new_name, Some(source))]);
            Ok(())
        })
    }

    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        let new = components(to)?;
        self.whole(DiskOperation::Link, from, |state, old| {
            let inode = state.image.find(old)?;
            let (parent, name, there) = state.image.find_entry(&new)?;
            if there.is_some() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            if state.image.content(inode).is_none() {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            state.check_space()?;
            state.image.change(&[(parent, name, Some(inode))]);
            Ok(())
        })
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.whole(DiskOperation::Remove, path, |state, parts| {
            let (parent, name, there) = state.image.find_entry(parts)?;
            let inode = there.ok_or(io::ErrorKind::NotFound)?;
            if state.image.names(inode).is_some_and(|names| !names.cache.is_empty()) {
                return Err(io::ErrorKind::DirectoryNotEmpty.into());
            }
            state.image.change(&[(parent, name, None)]);
            Ok(())
        })
    }

    fn start_sync_from(&self, site: SyncSite, path: &str, done: OnSynced) {
        self.start(site, self.directory_target(path), &Arc::from(path), done);
    }

    fn sync_from(&self, site: SyncSite, path: &str) -> io::Result<()> {
        self.sync_now(site, self.directory_target(path), &Arc::from(path))
    }

    fn lock(&self, path: &str) -> io::Result<DirectoryLock> {
        self.whole(DiskOperation::Lock, path, |state, parts| {
            let (parent, name, there) = state.image.find_entry(parts)?;
            let inode = there.unwrap_or_else(|| {
                let written = state.image.next_written();
                let mut content = Content::zeros(state.image.sector_bytes, 4, written);
                content.write(0, b"lock", written, false);
                let inode = state.image.add_file(content);
                state.image.change(&[(parent, name, Some(inode))]);
                inode
            });
            if !state.locks.insert(inode) {
                return Err(locked());
            }
            Ok(DirectoryLock::new(SimulatedLock { disk: self.clone(), inode }))
        })
    }

    fn space(&self) -> io::Result<DiskSpace> {
        let state = self.lock();
        if state.gone {
            return Err(MachineGone.into());
        }
        Ok(DiskSpace { free: state.free_bytes(), total: state.total_bytes() })
    }
}

fn locked() -> io::Error {
    io::Error::new(io::ErrorKind::WouldBlock, "this process holds the lock on this directory")
}

#[derive(Debug)]
struct SimulatedLock {
    disk: SimulatedDisk,
    inode: Inode,
}

impl LockHeld for SimulatedLock {}

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        self.disk.lock().locks.remove(&self.inode);
    }
}

struct SimulatedFile {
    disk: SimulatedDisk,
    inode: Inode,
    /// The name it was opened by.
    path: Arc<str>,
    len: u64,
}

/// Bytes that were read, and the sign that they still are looked at.
struct Slice {
    bytes: Vec<u8>,
    _any: Arc<()>,
    _temporary: Option<Arc<()>>,
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for SimulatedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedFile")
            .field("path", &self.path)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl Drop for SimulatedFile {
    fn drop(&mut self) {
        let mut state = self.disk.lock();
        if let Some(handles) = state.open.get_mut(&self.inode) {
            *handles -= 1;
            if *handles == 0 {
                state.open.remove(&self.inode);
            }
        }
        let unseen = |lease: &Lease| Arc::strong_count(&lease.any) == 1;
        if !state.open.contains_key(&self.inode) && state.leases.get(&self.inode).is_some_and(unseen) {
            state.leases.remove(&self.inode);
        }
    }
}

impl SimulatedFile {
    fn write_parts(&self, at: u64, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        check_writable(at, len as u64, self.len)?;
        let mut state = self.disk.lock();
        let result = self.write_locked(&mut state, at, parts, len);
        let gone = state.gone;
        drop(state);
        if gone {
            self.disk.abandon_syncs();
        }
        result
    }

    fn write_locked(
        &self,
        state: &mut State,
        at: u64,
        parts: &[io::IoSlice<'_>],
        len: usize,
    ) -> io::Result<usize> {
        let verdict = state.begin(DiskOperation::Write, &self.path, at..at + len as u64, "")?;
        self.check_not_held(state, at, parts)?;
        let fitting = state.fitting(self.inode, &(at..at + len as u64)) as usize;
        let (taken, lost, error) = match verdict {
            Verdict::Proceed
            | Verdict::Struck(FaultEffect::Never | FaultEffect::Late(_) | FaultEffect::NotMapped) => {
                (state.shorten(fitting), false, None)
            }
            Verdict::Struck(FaultEffect::Ignored) => (fitting, true, None),
            Verdict::Struck(FaultEffect::Misdirected) => {
                let sector = state.image.sector_bytes as u64;
                self.apply(state, self.beside(sector, at, len), parts, len, false);
                return Ok(len);
            }
            Verdict::Struck(FaultEffect::StorageFull) => (0, false, Some(io::ErrorKind::StorageFull.into())),
            Verdict::Struck(FaultEffect::Io) => (state.part_of(fitting), false, Some(io_error())),
            Verdict::Dies => (state.part_of(fitting), false, Some(MachineGone.into())),
        };
        self.apply(state, at, parts, taken, lost);
        match error {
            Some(error) => Err(error),
            None if taken == 0 && len > 0 && fitting == 0 => Err(io::ErrorKind::StorageFull.into()),
            None if taken == 0 && len > 0 => Err(io::ErrorKind::Interrupted.into()),
            None => Ok(taken),
        }
    }

    /// Where a misdirected write goes.
    fn beside(&self, sector: u64, at: u64, len: usize) -> u64 {
        let behind = at + sector;
        if behind + len as u64 <= self.len { behind } else { at.saturating_sub(sector) }
    }

    fn apply(&self, state: &mut State, mut at: u64, parts: &[io::IoSlice<'_>], mut left: usize, lost: bool) {
        let (written, wall_ms) = (state.image.next_written(), state.wall_ms);
        let Some(content) = state.image.content_mut(self.inode) else { return };
        content.modified_ms = wall_ms;
        for part in parts {
            let part = &part[..part.len().min(left)];
            content.write(at, part, written, lost);
            at += part.len() as u64;
            left -= part.len();
        }
    }

    /// The same rule as for a mapped file: bytes that were handed out do not change.
    fn check_not_held(&self, state: &mut State, at: u64, parts: &[io::IoSlice<'_>]) -> io::Result<()> {
        let Some(lease) = state.leases.get_mut(&self.inode) else { return Ok(()) };
        if at < lease.settled {
            let mut there = vec![0; (lease.settled - at) as usize];
            state.image.content(self.inode).into_iter().for_each(|content| content.read(at, &mut there));
            if parts.iter().flat_map(|part| part.iter()).zip(&there).any(|(new, old)| new != old) {
                return Err(busy("the bytes where this write goes are settled"));
            }
        }
        if lease.frozen > at.max(lease.settled) {
            if Arc::strong_count(&lease.temporary) > 1 {
                return Err(busy("a slice handed out by an earlier read may lie where this write goes"));
            }
            lease.frozen = 0;
        }
        Ok(())
    }

    fn begin_read<'a>(
        &self,
        state: &'a mut State,
        range: Range<u64>,
        mapped: bool,
    ) -> io::Result<&'a Content> {
        check_readable(range.start, range.end.saturating_sub(range.start), self.len)?;
        let len = range.end.saturating_sub(range.start);
        match state.begin(DiskOperation::Read, &self.path, range, "")? {
            Verdict::Struck(FaultEffect::Io) => return Err(io_error()),
            Verdict::Struck(FaultEffect::NotMapped) if mapped => {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            Verdict::Struck(FaultEffect::Late(us)) => state.now_us = state.now_us.saturating_add(us),
            _ => {}
        }
        state.bytes_read += len;
        state.image.content(self.inode).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl SegmentFile for SimulatedFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<usize> {
        self.write_parts(at, &[io::IoSlice::new(bytes)])
    }

    fn write_vectored_at(&self, at: u64, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.write_parts(at, parts)
    }

    fn settle(&self, upto: u64) {
        let mut state = self.disk.lock();
        let lease = state.leases.entry(self.inode).or_default();
        lease.settled = lease.settled.max(upto.min(self.len));
    }

    fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        let mut state = self.disk.lock();
        let content = self.begin_read(&mut state, range.clone(), true)?;
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let mut bytes = vec![0; (range.end - range.start) as usize];
        content.copy_written(range.start, &mut bytes);
        let lease = state.leases.entry(self.inode).or_default();
        let temporary = (range.end > lease.settled).then(|| Arc::clone(&lease.temporary));
        if temporary.is_some() {
            lease.frozen = lease.frozen.max(range.end);
        }
        Ok(Bytes::from_owner(Slice { bytes, _any: Arc::clone(&lease.any), _temporary: temporary }))
    }

    fn read_into(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut state = self.disk.lock();
        let end = at.saturating_add(buffer.len() as u64);
        self.begin_read(&mut state, at..end, false)?.read(at, buffer);
        Ok(())
    }

    fn is_cold(&self, _range: Range<u64>) -> bool {
        self.disk.lock().faults.cold
    }

    fn start_read(&self, range: Range<u64>, done: OnRead) {
        let read = self.read_through(range);
        if !self.disk.lock().faults.cold {
            return done(read);
        }
        let target = Target { inode: self.inode, directory: false };
        self.disk.complete_later(target, &self.path, Box::new(move |_| done(read)));
    }

    fn allocate(&self, range: Range<u64>) -> io::Result<()> {
        let len = range.end.saturating_sub(range.start);
        check_writable(range.start, len, self.len)?;
        self.disk.whole(DiskOperation::Allocate, &self.path, |state, _| {
            if state.fitting(self.inode, &(range.start..range.start + len)) < len {
                return Err(io::ErrorKind::StorageFull.into());
            }
            if let Some(content) = state.image.content_mut(self.inode) {
                content.blocks.insert(range.start..range.start + len);
            }
            Ok(())
        })
    }

    fn zero(&self, range: Range<u64>) -> io::Result<()> {
        let len = range.end.saturating_sub(range.start);
        check_writable(range.start, len, self.len)?;
        let state = self.disk.lock();
        let written = state.image.content(self.inode).map_or(0, Content::written_end);
        let sector = state.image.sector_bytes as u64;
        drop(state);
        // What was never written is zeros already.
        let end = (range.start + len).min(written.next_multiple_of(sector));
        if range.start < end { self.write_zeros(range.start..end) } else { Ok(()) }
    }

    fn start_sync_from(&self, site: SyncSite, done: OnSynced) {
        self.disk.start(site, Ok(Target { inode: self.inode, directory: false }), &self.path, done);
    }

    fn sync_from(&self, site: SyncSite) -> io::Result<()> {
        self.disk.sync_now(site, Ok(Target { inode: self.inode, directory: false }), &self.path)
    }

    fn modified_ms(&self) -> io::Result<i64> {
        let state = self.disk.lock();
        if state.gone {
            return Err(MachineGone.into());
        }
        state
            .image
            .content(self.inode)
            .map(|content| content.modified_ms)
            .ok_or(io::ErrorKind::NotFound.into())
    }
}
