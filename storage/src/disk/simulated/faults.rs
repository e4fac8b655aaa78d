//! What a simulated disk does to its user, as data: printable, cloneable, the same every time.

use std::io;
use std::ops::Range;

use rustix::io::Errno;

/// How hostile a [`SimulatedDisk`](super::SimulatedDisk) is.
///
/// The default writes back early and writes short, as any disk may; [`DiskFaults::calm`] does
/// neither. Rules for single operations come on top:
///
/// ```
/// use staticfire_storage::disk::{DiskFaults, DiskOperation, FaultEffect, SimulatedDisk};
///
/// let faults = DiskFaults::default()
///     .with_space(1 << 20)
///     .on_nth(DiskOperation::SyncFile, 3, FaultEffect::Io);
/// let disk = SimulatedDisk::new(42).with_faults(faults);
/// ```
#[derive(Clone, Debug)]
pub struct DiskFaults {
    /// Bytes of the disk, given out in blocks of 4 KiB; `None` for plenty.
    pub space_bytes: Option<u64>,
    /// Before one step in so many, some dirty sectors or directory changes become durable without
    /// any sync. 0 for never.
    pub early_write_back_one_in: u32,
    /// One write in so many writes only a prefix, or is interrupted before it wrote. 0 for never.
    pub short_write_one_in: u32,
    /// Nothing stays in memory: every look at the bytes of a file would wait for the device
    /// ([`crate::disk::SegmentFile::is_cold`]), and a started read takes as long as a sync.
    pub cold: bool,
    /// What a read shows after a failed sync, until the power fails.
    pub reread: Reread,
    /// Microseconds of virtual time that a started sync takes. One in 16 takes ten times as long,
    /// one in 256 a hundred times.
    pub sync_delay_us: Range<u64>,
    /// Faults of single operations; the first rule that applies counts.
    pub rules: Vec<FaultRule>,
}

/// What the cache shows of sectors that a failed sync marked clean. File systems differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reread {
    /// The new bytes, though they will never be durable.
    New,
    /// The bytes of the medium.
    Old,
}

/// One kind of fault, and when it strikes.
#[derive(Clone, Debug)]
pub struct FaultRule {
    /// The operation that it strikes.
    pub operation: DiskOperation,
    /// Strikes only where the path contains this text.
    pub path: String,
    /// Strikes only syncs whose [`site`](super::SyncSiteCount::site) contains this text.
    pub site: String,
    /// Strikes at the n-th matching operation (1 is the first) alone; at each when `None`.
    pub nth: Option<u64>,
    /// What happens.
    pub effect: FaultEffect,
    /// Matching operations so far.
    pub seen: u64,
}

/// What happens instead of what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultEffect {
    /// `EIO`. A write may have written a prefix; a sync marks the sectors clean without writing them.
    Io,
    /// `StorageFull`.
    StorageFull,
    /// A sync reports success and makes nothing durable; a write shows up when read, and no sync
    /// makes it durable.
    Ignored,
    /// A write goes to the sector behind the right one (before it, at the end of the file) and
    /// reports success.
    Misdirected,
    /// A started sync never completes.
    Never,
    /// A started sync, or a read, takes this many microseconds more.
    Late(u64),
    /// A read that hands out a slice finds no room to map the file (`OutOfMemory`); one into a buffer
    /// does not mind.
    NotMapped,
}

/// What a disk is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "named after the operations of the traits")]
pub enum DiskOperation {
    Create,
    Open,
    List,
    MakeDirectory,
    Rename,
    Link,
    Remove,
    Lock,
    Read,
    Write,
    Allocate,
    SyncFile,
    SyncDirectory,
    /// The end of a started sync.
    CompleteSync,
}

impl DiskOperation {
    /// True for what changes the disk or will. These are counted as steps.
    #[must_use]
    pub fn is_step(self) -> bool {
        !matches!(self, Self::Open | Self::List | Self::Read)
    }
}

impl Default for DiskFaults {
    fn default() -> Self {
        Self { early_write_back_one_in: 16, short_write_one_in: 16, ..Self::calm() }
    }
}

impl DiskFaults {
    /// Nothing but the power fails.
    #[must_use]
    pub fn calm() -> Self {
        Self {
            space_bytes: None,
            early_write_back_one_in: 0,
            short_write_one_in: 0,
            cold: false,
            reread: Reread::New,
            sync_delay_us: 200..2000,
            rules: Vec::new(),
        }
    }

    /// Limits the disk to `bytes`.
    #[must_use]
    pub fn with_space(mut self, bytes: u64) -> Self {
        self.space_bytes = Some(bytes);
        self
    }

    /// Sets what a read shows after a failed sync.
    #[must_use]
    pub fn with_reread(mut self, reread: Reread) -> Self {
        self.reread = reread;
        self
    }

    /// Adds a rule.
    #[must_use]
    pub fn with_rule(mut self, rule: FaultRule) -> Self {
        self.rules.push(rule);
        self
    }

    /// Strikes the n-th `operation` (1 is the first).
    #[must_use]
    pub fn on_nth(self, operation: DiskOperation, nth: u64, effect: FaultEffect) -> Self {
        self.with_rule(FaultRule { nth: Some(nth), ..FaultRule::on(operation, effect) })
    }

    /// Makes every sync ineffective whose site (`file:line:column`) contains `site`, of files and of
    /// directories: as if that line of code were missing.
    #[must_use]
    pub fn ignoring_syncs_at(self, site: &str) -> Self {
        let rule =
            |operation| FaultRule { site: site.to_owned(), ..FaultRule::on(operation, FaultEffect::Ignored) };
        self.with_rule(rule(DiskOperation::SyncFile)).with_rule(rule(DiskOperation::SyncDirectory))
    }

    /// Strikes every `operation` whose path contains `path`.
    #[must_use]
    pub fn on_path(self, operation: DiskOperation, path: &str, effect: FaultEffect) -> Self {
        self.with_rule(FaultRule { path: path.to_owned(), ..FaultRule::on(operation, effect) })
    }

    /// Counts the operation and finds the fault that strikes it.
    pub(super) fn strike(&mut self, operation: DiskOperation, path: &str, site: &str) -> Option<FaultEffect> {
        let mut struck = None;
        for rule in &mut self.rules {
            if rule.operation == operation && path.contains(&rule.path) && site.contains(&rule.site) {
                rule.seen += 1;
                if rule.nth.is_none_or(|nth| nth == rule.seen) {
                    struck = struck.or(Some(rule.effect));
                }
            }
        }
        struck
    }
}

impl FaultRule {
    /// Strikes every `operation`.
    #[must_use]
    pub fn on(operation: DiskOperation, effect: FaultEffect) -> Self {
        Self { operation, path: String::new(), site: String::new(), nth: None, effect, seen: 0 }
    }
}

/// The error that a broken medium gives.
pub(super) fn io_error() -> io::Error {
    Errno::IO.into()
}
