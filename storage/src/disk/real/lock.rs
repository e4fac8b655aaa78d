//! The exclusive lock on a store directory, the same that RocketMQ takes.
//!
//! RocketMQ locks byte 0 of the file `lock` with Java's `FileChannel.tryLock`, a POSIX record lock,
//! and writes the four bytes `lock` into it. A record lock of the whole file meets it, so the two
//! programs exclude each other. Such locks belong to the *process*: a second one in the same process
//! is granted, and closing any handle of the file gives the lock up. Hence the list of what this
//! process holds, asked before the file is opened a second time.

#![allow(clippy::disallowed_methods, reason = "this is the disk seam")]

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, FlockOperation, OFlags, Stat};
use rustix::io::Errno;

use super::{FILE_MODE, not_a_file};
use crate::disk::LockHeld;

/// Every lock file that this process has locked.
static HELD: Mutex<BTreeSet<FileId>> = Mutex::new(BTreeSet::new());

/// Device and inode: which file it is, whatever its names.
pub(super) type FileId = (u64, u64);

#[allow(clippy::unnecessary_cast, reason = "the types differ between systems")]
pub(super) fn file_id(stat: &Stat) -> FileId {
    (stat.st_dev as u64, stat.st_ino as u64)
}

#[derive(Debug)]
pub(super) struct Lock {
    /// Taken only by the drop.
    fd: Option<OwnedFd>,
    id: FileId,
}

impl LockHeld for Lock {}

impl Drop for Lock {
    fn drop(&mut self) {
        let mut held = held();
        // Closed before anybody else may try: closing later would give up their lock.
        drop(self.fd.take());
        held.remove(&self.id);
    }
}

/// Locks the file `name`, creating it when missing.
///
/// # Errors
/// `WouldBlock` when this or another process holds the lock; `InvalidInput` when something else
/// than a file has the name.
pub(super) fn take(parent: &OwnedFd, name: &str) -> io::Result<Lock> {
    let mut held = held();
    refuse_held(&held, parent, name)?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = rustix::fs::openat(parent, name, flags, FILE_MODE)?;
    let stat = rustix::fs::fstat(&fd)?;
    if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
        return Err(not_a_file());
    }
    match rustix::fs::fcntl_lock(&fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::AGAIN | Errno::ACCESS) => return Err(in_use("another process")),
        Err(e) => return Err(e.into()),
    }
    rustix::io::pwrite(&fd, b"lock", 0)?;
    held.insert(file_id(&stat));
    Ok(Lock { fd: Some(fd), id: file_id(&stat) })
}

/// `WouldBlock` when this process holds its lock on the file `name`: opening and closing it would
/// give the lock up.
pub(super) fn check_not_held(parent: &OwnedFd, name: &str) -> io::Result<()> {
    refuse_held(&held(), parent, name)
}

fn refuse_held(held: &BTreeSet<FileId>, parent: &OwnedFd, name: &str) -> io::Result<()> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if held.contains(&file_id(&stat)) => Err(in_use("this process")),
        Ok(_) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn held() -> MutexGuard<'static, BTreeSet<FileId>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

fn in_use(by: &str) -> io::Error {
    io::Error::new(io::ErrorKind::WouldBlock, format!("{by} holds the lock on this directory"))
}
