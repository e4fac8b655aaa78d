//! What the owner of a simulated disk may look at and damage. None of it counts as a step.

use std::fmt;
use std::io;
use std::sync::Arc;

use super::SimulatedDisk;
use super::content::Content;
use super::state::{OperationRecord, State};
use crate::disk::components;

/// Why a disk refuses everything: its machine lost power or its process was killed.
#[derive(Clone, Copy, Debug)]
pub(super) struct MachineGone;

impl fmt::Display for MachineGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the simulated machine is gone")
    }
}

impl std::error::Error for MachineGone {}

impl From<MachineGone> for io::Error {
    fn from(gone: MachineGone) -> Self {
        Self::new(io::ErrorKind::NotConnected, gone)
    }
}

/// True for the error of every operation on a disk after its crash.
#[must_use]
pub fn is_machine_gone(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<MachineGone>())
}

/// A line of code that asks for syncs, and how often it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncSiteCount {
    /// `file:line:column`, as [`super::DiskFaults::ignoring_syncs_at`] takes it.
    pub site: String,
    /// Syncs of files from there.
    pub files: u64,
    /// Syncs of directories from there.
    pub directories: u64,
}

/// How a byte, or the sector around it, goes bad (fault F14).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rot {
    /// This bit of the byte (0 to 7, the lowest is 0) is flipped.
    Bit(u8),
    /// The byte and up to three behind it in the sector are inverted.
    Burst,
    /// The sector reads as zeros.
    Zeros,
    /// The sector reads as ones.
    Ones,
}

impl Rot {
    fn spoil(self, sector: &mut [u8], at: usize) {
        match self {
            Self::Bit(bit) => sector[at] ^= 1 << (bit % 8),
            Self::Burst => sector[at..].iter_mut().take(4).for_each(|byte| *byte = !*byte),
            Self::Zeros => sector.fill(0),
            Self::Ones => sector.fill(0xff),
        }
    }
}

impl SimulatedDisk {
    /// Changes so far, which numbers the points at which [`Self::crash_at_step`] can strike.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.lock().steps
    }

    /// The last operations, oldest first, at most 4096.
    #[must_use]
    pub fn operations(&self) -> Vec<OperationRecord> {
        self.lock().operations.iter().cloned().collect()
    }

    /// The lines of code that asked for syncs.
    #[must_use]
    pub fn sync_sites(&self) -> Vec<SyncSiteCount> {
        self.lock().sites.values().cloned().collect()
    }

    /// The virtual time of the disk in microseconds: what it was told, or later, while slow reads keep it
    /// busy.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        self.lock().now_us
    }

    /// Bytes read so far.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.lock().bytes_read
    }

    /// A hash of every operation so far: equal for equal runs.
    #[must_use]
    pub fn trace(&self) -> u64 {
        self.lock().trace
    }

    /// A number that differs when the names, lengths or bytes of two disks differ, on the medium or in the
    /// cache.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        self.lock().image.fingerprint()
    }

    /// The paths of all files, sorted.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        self.lock().image.paths().into_iter().map(|(path, _)| path).collect()
    }

    /// The bytes of a file as the cache shows them.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn contents(&self, path: &str) -> io::Result<Vec<u8>> {
        let state = self.lock();
        let content = file(&state, path)?;
        let mut bytes = vec![0; content.len as usize];
        content.copy_written(0, &mut bytes);
        Ok(bytes)
    }

    /// Puts a durable file with these bytes at `path`, in place of what was there, with its
    /// directories. For golden files, and for damage of any kind while nobody has the file open.
    ///
    /// # Errors
    /// `NotADirectory` when a file is in the way.
    pub fn put(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let parts = components(path)?;
        let mut state = self.lock();
        let image = &mut state.image;
        for depth in 1..parts.len() {
            let (parent, name, there) = image.find_entry(&parts[..depth])?;
            if there.is_none() {
                let directory = image.add_directory();
                image.change(&[(parent, name, Some(directory))]);
                image.sync_directory(parent, u64::MAX - 1);
            }
        }
        let (parent, name, _) = image.find_entry(&parts)?;
        let inode = image.add_file(Content::durable(image.sector_bytes, bytes));
        image.change(&[(parent, name, Some(inode))]);
        image.sync_directory(parent, u64::MAX - 1);
        Ok(())
    }

    /// Changes the bytes of a file on the medium, its length too: rot, garbage, a cut.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn edit(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut bytes = self.contents(path)?;
        change(&mut bytes);
        self.put(path, &bytes)
    }

    /// Flips one bit of a file on the medium, counted from the lowest bit of the first byte.
    ///
    /// # Errors
    /// `NotFound`, or `UnexpectedEof` for a bit past the end.
    pub fn flip_bit(&self, path: &str, bit: u64) -> io::Result<()> {
        self.rot(path, bit / 8, Rot::Bit((bit % 8) as u8))
    }

    /// Lets the byte at `at` of a file rot on the medium, or the whole sector around it. Who has the file open
    /// reads it so from now on; a power cut changes nothing about it.
    ///
    /// # Errors
    /// `NotFound`, or `UnexpectedEof` for a byte past the end.
    pub fn rot(&self, path: &str, at: u64, rot: Rot) -> io::Result<()> {
        let mut state = self.lock();
        let (inode, sector) = (state.image.find(&components(path)?)?, state.image.sector_bytes as u64);
        let content = state.image.content_mut(inode).ok_or(io::ErrorKind::NotFound)?;
        if at >= content.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        content.alter(at / sector, |bytes| rot.spoil(bytes, (at % sector) as usize));
        Ok(())
    }

    /// Lets something rot that rests on the medium in a file whose path begins with `prefix`: of all sectors
    /// that hold anything and are not about to be written, `choice` picks one, and a byte in it. Says
    /// which byte of which file it was; `None` where there is no such sector.
    #[must_use]
    pub fn rot_somewhere(&self, prefix: &str, choice: u64, rot: Rot) -> Option<(String, u64)> {
        let state = self.lock();
        let sector = state.image.sector_bytes as u64;
        let files = state.image.paths().into_iter().filter(|(path, _)| path.starts_with(prefix));
        let places = files.flat_map(|(path, inode)| {
            let content = state.image.content(inode).into_iter();
            let places =
                content.flat_map(|content| content.resting_sectors().map(|n| (n * sector, content.len)));
            places.map(move |(start, len)| (path.clone(), start, sector.min(len - start))).collect::<Vec<_>>()
        });
        let mut places: Vec<_> = places.collect();
        drop(state);
        let chosen = (choice % places.len().max(1) as u64) as usize;
        let (path, start, len) = (chosen < places.len()).then(|| places.swap_remove(chosen))?;
        let at = start + super::random::mix(choice) % len;
        self.rot(&path, at, rot).ok()?;
        Some((path, at))
    }

    /// True when a power cut now would change nothing: all bytes and names are durable.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.lock().image.is_settled()
    }

    /// Sets what the disk takes for the wall clock, in milliseconds since the Unix epoch; it stamps
    /// the modification times of files.
    pub fn set_wall_ms(&self, wall_ms: i64) {
        self.lock().wall_ms = wall_ms;
    }

    /// Takes both times from `clock` from now on, so that a sync that starts after a long rest is not
    /// due at once: virtual microseconds, as in [`Self::run_due`], and the wall clock as in
    /// [`Self::set_wall_ms`]. It is asked before each operation, and must not use the disk.
    pub fn set_clock(&self, clock: impl Fn() -> (u64, i64) + Send + Sync + 'static) {
        self.lock().clock = Some(Arc::new(clock));
    }
}

fn file<'a>(state: &'a State, path: &str) -> io::Result<&'a Content> {
    let inode = state.image.find(&components(path)?)?;
    state.image.content(inode).ok_or_else(|| io::ErrorKind::NotFound.into())
}
