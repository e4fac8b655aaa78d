//! The simulated disk: see [`SimulatedDisk`].

mod access;
mod blocks;
mod content;
mod crash;
mod faults;
mod image;
mod inspect;
mod random;
mod state;
mod syncs;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use crash::CrashImages;
pub use faults::{DiskFaults, DiskOperation, FaultEffect, FaultRule, Reread};
pub use inspect::{Rot, SyncSiteCount, is_machine_gone};
pub use state::OperationRecord;
pub use syncs::{PendingSync, SyncTicket};

use super::Directory;
use content::{SECTOR, SECTOR_MAX};
use state::State;

/// A disk in memory that does to its user what real disks do, decided by a seed.
///
/// It keeps what the medium holds apart from what the cache shows. [`SimulatedDisk::crash`] cuts the
/// power: of every sector not synced one of its versions remains, or a torn mixture; of every name
/// not synced the old or the new; of every length likewise. [`SimulatedDisk::kill`] ends the process
/// and keeps the cache. Started syncs complete when the owner says so, in any order, late, with an
/// error, or never.
///
/// Every change is a step: run a workload once to count its steps, then once more for each step with
/// [`SimulatedDisk::crash_at_step`], and look at each of the [`SimulatedDisk::crash_images`].
///
/// ```
/// use staticfire_storage::disk::{SimulatedDisk, write_all_at};
///
/// let disk = SimulatedDisk::new(42);
/// let directory = disk.directory();
/// let file = directory.create("log", 1 << 30)?;   // sparse: costs what is written
/// write_all_at(&*file, 0, b"kept")?;
/// file.sync()?;
/// directory.sync("")?;
/// write_all_at(&*file, 4096, b"perhaps")?;
///
/// for image in disk.crash_images(100) {
///     let file = image.directory().open("log")?;
///     assert_eq!(&file.read(0..4)?[..], b"kept");
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// Cloning shares the disk.
#[derive(Clone)]
pub struct SimulatedDisk {
    state: Arc<Mutex<State>>,
}

impl SimulatedDisk {
    /// An empty disk. The same seed and the same calls give the same outcome, byte for byte.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::of(State::new(seed))
    }

    fn of(state: State) -> Self {
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Replaces what the disk does to its user. Rules count from now on.
    #[must_use]
    pub fn with_faults(self, faults: DiskFaults) -> Self {
        self.set_faults(faults);
        self
    }

    /// Makes the sectors, which a power cut keeps or loses, `bytes` long: 512, as they are without this,
    /// to 4096.
    ///
    /// # Panics
    /// When the disk is not empty, or for another length, or one that is no power of two.
    #[must_use]
    pub fn with_sector_bytes(self, bytes: usize) -> Self {
        assert!(
            bytes.is_power_of_two() && (SECTOR..=SECTOR_MAX).contains(&bytes),
            "sectors of {bytes} bytes"
        );
        let mut state = self.lock();
        assert!(state.image.files().next().is_none(), "a disk with files keeps its sectors");
        state.image.sector_bytes = bytes;
        drop(state);
        self
    }

    /// Completes every started sync before the call that starts it returns, for users that pump
    /// nothing.
    #[must_use]
    pub fn completing_at_once(self) -> Self {
        self.lock().at_once = true;
        self
    }

    /// Replaces what the disk does to its user, from now on.
    pub fn set_faults(&self, faults: DiskFaults) {
        self.lock().faults = faults;
    }

    /// The disk as the trait object that the store takes.
    #[must_use]
    pub fn directory(&self) -> Arc<dyn Directory> {
        Arc::new(self.clone())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SimulatedDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        let (steps, gone) = (state.steps, state.gone);
        f.debug_struct("SimulatedDisk")
            .field("seed", &state.seed)
            .field("steps", &steps)
            .field("gone", &gone)
            .finish()
    }
}
