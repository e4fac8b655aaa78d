//! Files of the operating system below one root.
//!
//! Every path is walked from a handle on the root, one component at a time and never through a
//! symbolic link, so a name cannot leave the directory. Files are created with mode 0600,
//! directories with 0700.

#![allow(clippy::disallowed_methods, reason = "this is the disk seam")]

mod file;
mod lock;
mod reads;
#[cfg(all(feature = "io-uring", target_os = "linux"))]
mod ring;
mod syncs;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{
    Directory, DirectoryEntry, DirectoryLock, DiskSpace, EntryKind, OnSynced, SegmentFile, SyncSite,
    components, parent,
};
use file::RealFile;
use reads::ReadThreads;
use syncs::SyncThreads;

const FILE_MODE: Mode = Mode::from_raw_mode(0o600);
const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o700);

/// A directory of the file system.
///
/// Started syncs run on a thread for each top-level folder, one after the other, which exists from
/// the first of them until the directory and the files of the folder are dropped. Cloning shares.
#[derive(Clone, Debug)]
pub struct RealDirectory {
    root: Arc<OwnedFd>,
    syncs: Arc<SyncThreads>,
    reads: Arc<ReadThreads>,
    read_only: bool,
}

impl RealDirectory {
    /// Opens the directory `path`, creating it (and its missing parents) when there is none.
    ///
    /// # Errors
    /// The system's error, such as `PermissionDenied`.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        make_root(path)?;
        Self::on(path, false)
    }

    /// Opens the existing directory `path` for reading: whatever would change it answers
    /// `ReadOnlyFilesystem`. For looking at a store that nobody writes to meanwhile.
    ///
    /// # Errors
    /// `NotFound` or the system's error.
    pub fn open_read_only(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::on(path.as_ref(), true)
    }

    fn on(path: &Path, read_only: bool) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self { root: Arc::new(root), syncs: Arc::default(), reads: Arc::default(), read_only })
    }

    /// A handle on the directory `path`.
    fn directory(&self, path: &[&str]) -> io::Result<Arc<OwnedFd>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut at = Arc::clone(&self.root);
        for name in path {
            at = Arc::new(rustix::fs::openat(&*at, *name, flags, Mode::empty())?);
        }
        Ok(at)
    }

    /// A handle on the directory that holds the entry `path`, and the entry's name there.
    fn entry<'a>(&self, path: &'a str) -> io::Result<(Arc<OwnedFd>, &'a str)> {
        let parts = components(path)?;
        let Some((name, parents)) = parts.split_last() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the root itself has no entry"));
        };
        Ok((self.directory(parents)?, name))
    }

    /// As [`Self::entry`], for a change.
    fn entry_to_change<'a>(&self, path: &'a str) -> io::Result<(Arc<OwnedFd>, &'a str)> {
        self.check_writable()?;
        self.entry(path)
    }

    fn file(&self, fd: OwnedFd, path: &str) -> io::Result<Arc<RealFile>> {
        let threads = (self.syncs.thread(parent(path)), Arc::clone(&self.reads));
        RealFile::from_fd(fd, threads, self.read_only)
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        Ok(())
    }

    fn directory_to_sync(&self, path: &str) -> io::Result<Arc<OwnedFd>> {
        self.check_writable()?;
        self.directory(&components(path)?)
    }
}

impl Directory for RealDirectory {
    fn create(&self, path: &str, len: u64) -> io::Result<Arc<dyn SegmentFile>> {
        let (folder, name) = self.entry_to_change(path)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&*folder, name, flags, FILE_MODE)?;
        let sized = rustix::fs::ftruncate(&fd, len).map_err(io::Error::from);
        match sized.and_then(|()| self.file(fd, path)) {
            Ok(file) => Ok(file),
            Err(e) => {
                // A file of the wrong length must not be taken for the one that was asked for.
                let _ = rustix::fs::unlinkat(&*folder, name, AtFlags::empty());
                Err(e)
            }
        }
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn SegmentFile>> {
        let (folder, name) = self.entry(path)?;
        lock::check_not_held(&folder, name)?;
        let access = if self.read_only { OFlags::RDONLY } else { OFlags::RDWR };
        // NONBLOCK: a pipe in the place of a file is refused, not waited for.
        let flags = access | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        match rustix::fs::openat(&*folder, name, flags, Mode::empty()) {
            Ok(fd) => Ok(self.file(fd, path)?),
            Err(Errno::LOOP | Errno::ISDIR | Errno::NXIO) => Err(not_a_file()),
            Err(e) => Err(e.into()),
        }
    }

    fn list(&self, path: &str) -> io::Result<Vec<DirectoryEntry>> {
        let directory = self.directory(&components(path)?)?;
        let mut entries = Vec::new();
        for entry in rustix::fs::Dir::read_from(&*directory)? {
            let entry = entry?;
            if matches!(entry.file_name().to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = match rustix::fs::statat(&*directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(e.into()),
            };
            let kind = match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => EntryKind::File,
                FileType::Directory => EntryKind::Directory,
                _ => EntryKind::Other,
            };
            let len = if kind == EntryKind::File { file_len(&stat)? } else { 0 };
            entries.push(DirectoryEntry {
                name: entry.file_name().to_string_lossy().into_owned(),
                kind,
                len,
            });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn make_directory(&self, path: &str) -> io::Result<()> {
        self.check_writable()?;
        let parts = components(path)?;
        for depth in 0..parts.len() {
            let parent = self.directory(&parts[..depth])?;
            match rustix::fs::mkdirat(&*parent, parts[depth], DIRECTORY_MODE) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(e.into()),
            }
        }
        // What exists may be something else than a directory.
        self.directory(&parts).map(drop)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let ((old, old_name), (new, new_name)) = (self.entry_to_change(from)?, self.entry_to_change(to)?);
        Ok(rustix::fs::renameat(&*old, old_name, &*new, new_name)?)
    }

    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        let ((old, old_name), (new, new_name)) = (self.entry_to_change(from)?, self.entry_to_change(to)?);
        Ok(rustix::fs::linkat(&*old, old_name, &*new, new_name, AtFlags::empty())?)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let (folder, name) = self.entry_to_change(path)?;
        match rustix::fs::unlinkat(&*folder, name, AtFlags::empty()) {
            // A directory: Linux says ISDIR, POSIX allows PERM.
            Err(Errno::ISDIR | Errno::PERM) => Ok(rustix::fs::unlinkat(&*folder, name, AtFlags::REMOVEDIR)?),
            other => Ok(other?),
        }
    }

    fn start_sync_from(&self, _site: SyncSite, path: &str, done: OnSynced) {
        match self.directory_to_sync(path) {
            Ok(directory) => {
                let order = Arc::default();
                self.syncs.thread(path).start(directory, syncs::Scope::Everything, order, done);
            }
            Err(e) => done(Err(e)),
        }
    }

    fn sync_from(&self, _site: SyncSite, path: &str) -> io::Result<()> {
        syncs::sync(&*self.directory_to_sync(path)?, syncs::Scope::Everything)
    }

    fn lock(&self, path: &str) -> io::Result<DirectoryLock> {
        let (folder, name) = self.entry_to_change(path)?;
        lock::take(&folder, name).map(DirectoryLock::new)
    }

    fn space(&self) -> io::Result<DiskSpace> {
        let stat = rustix::fs::fstatvfs(&*self.root)?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(DiskSpace { free: bytes(stat.f_bavail), total: bytes(stat.f_blocks) })
    }
}

/// Creates the root with its missing parents, each durable in the one above.
fn make_root(path: &Path) -> io::Result<()> {
    match rustix::fs::mkdir(path, DIRECTORY_MODE) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(()),
        Err(Errno::NOENT) => {
            make_root(containing(path).ok_or(io::ErrorKind::NotFound)?)?;
            rustix::fs::mkdir(path, DIRECTORY_MODE)?;
        }
        Err(e) => return Err(e.into()),
    }
    let Some(parent) = containing(path) else { return Ok(()) };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    syncs::sync(&rustix::fs::open(parent, flags, Mode::empty())?, syncs::Scope::Everything)
}

/// The directory above `path`, which for a single relative name is the working directory.
fn containing(path: &Path) -> Option<&Path> {
    path.parent().map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent })
}

fn file_len(stat: &rustix::fs::Stat) -> io::Result<u64> {
    u64::try_from(stat.st_size)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "negative file length"))
}

fn not_a_file() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")
}
