//! Everything behind one lock: the image, the faults, the clocks and counters.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::blocks::BLOCK;
use super::faults::{DiskFaults, DiskOperation, FaultEffect, io_error};
use super::image::{Image, Inode};
use super::inspect::{MachineGone, SyncSiteCount};
use super::random::{Random, mix};
use super::syncs::Started;

/// Operations remembered for the report of a failure.
const OPERATIONS_MAX: usize = 4096;
/// Bytes of a disk that has no limit.
const PLENTY: u64 = 1 << 50;

pub(super) struct State {
    pub(super) seed: u64,
    pub(super) image: Image,
    pub(super) faults: DiskFaults,
    /// Completes started syncs within the call that starts them.
    pub(super) at_once: bool,
    /// True once the power failed or the process was killed: every operation fails from then on.
    pub(super) gone: bool,
    pub(super) crash_at: Option<u64>,
    pub(super) steps: u64,
    pub(super) started: BTreeMap<u64, Started>,
    pub(super) next_ticket: u64,
    pub(super) now_us: u64,
    pub(super) wall_ms: i64,
    /// Where both times come from, if not from whoever pumps the disk.
    pub(super) clock: Option<DiskClock>,
    pub(super) locks: BTreeSet<Inode>,
    /// Open handles of each file.
    pub(super) open: BTreeMap<Inode, usize>,
    pub(super) leases: BTreeMap<Inode, Lease>,
    pub(super) operations: VecDeque<OperationRecord>,
    pub(super) sites: BTreeMap<String, SyncSiteCount>,
    pub(super) bytes_read: u64,
    pub(super) trace: u64,
    /// Disks made from this one so far; each gets a seed of its own.
    pub(super) children: u64,
    random: Streams,
}

/// A stream of random numbers for each purpose.
struct Streams {
    write_back: Random,
    short: Random,
    delay: Random,
}

/// What slices of a file may be out; see the same numbers of a real file.
#[derive(Debug, Default)]
pub(super) struct Lease {
    /// Bytes before this never change.
    pub(super) settled: u64,
    /// End of the furthest temporary slice.
    pub(super) frozen: u64,
    /// Shared with every temporary slice.
    pub(super) temporary: Arc<()>,
    /// Shared with every slice.
    pub(super) any: Arc<()>,
}

/// Virtual microseconds and the wall clock in milliseconds since the Unix epoch.
pub(super) type DiskClock = Arc<dyn Fn() -> (u64, i64) + Send + Sync>;

/// One operation that the disk was asked for.
#[derive(Clone, Debug)]
pub struct OperationRecord {
    /// Steps before it.
    pub step: u64,
    /// What it was.
    pub operation: DiskOperation,
    /// The path it was asked for; of an open file, the path it was opened by.
    pub path: Arc<str>,
    /// The bytes concerned, when it was about a range of a file.
    pub range: Range<u64>,
}

impl fmt::Display for OperationRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>6} {:?} {:?}", self.step, self.operation, self.path)?;
        if !self.range.is_empty() {
            write!(f, " {}..{}", self.range.start, self.range.end)?;
        }
        Ok(())
    }
}

/// How an operation goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Proceed,
    Struck(FaultEffect),
    /// The machine dies in the middle of it.
    Dies,
}

impl State {
    pub(super) fn new(seed: u64) -> Self {
        Self::with_image(seed, Image::empty(), DiskFaults::default())
    }

    pub(super) fn with_image(seed: u64, image: Image, faults: DiskFaults) -> Self {
        let random = Streams {
            write_back: Random::stream(seed, "write back"),
            short: Random::stream(seed, "short writes"),
            delay: Random::stream(seed, "sync delay"),
        };
        Self {
            seed,
            image,
            faults,
            at_once: false,
            gone: false,
            crash_at: None,
            steps: 0,
            started: BTreeMap::new(),
            next_ticket: 0,
            now_us: 0,
            wall_ms: 0,
            clock: None,
            locks: BTreeSet::new(),
            open: BTreeMap::new(),
            leases: BTreeMap::new(),
            operations: VecDeque::new(),
            sites: BTreeMap::new(),
            bytes_read: 0,
            trace: 0,
            children: 0,
            random,
        }
    }

    /// The state of a disk that goes on from `image` after this one.
    pub(super) fn child(&self, seed: u64, image: Image) -> Self {
        let mut child = Self::with_image(seed, image, self.faults.clone());
        (child.at_once, child.wall_ms) = (self.at_once, self.wall_ms);
        child
    }

    /// Counts and logs an operation and decides how it goes.
    pub(super) fn begin(
        &mut self,
        operation: DiskOperation,
        path: &Arc<str>,
        range: Range<u64>,
        site: &str,
    ) -> io::Result<Verdict> {
        if self.gone {
            return Err(MachineGone.into());
        }
        if let Some(clock) = &self.clock {
            let (now_us, wall_ms) = clock();
            (self.now_us, self.wall_ms) = (self.now_us.max(now_us), wall_ms);
        }
        if self.operations.len() == OPERATIONS_MAX {
            self.operations.pop_front();
        }
        self.trace =
            path.bytes().fold(mix(self.trace ^ operation as u64), |sum, byte| mix(sum ^ u64::from(byte)));
        self.trace = mix(mix(self.trace ^ range.start) ^ range.end);
        self.operations.push_back(OperationRecord {
            step: self.steps,
            operation,
            path: Arc::clone(path),
            range,
        });
        if operation.is_step() {
            if self.crash_at == Some(self.steps) {
                self.gone = true;
                return Ok(Verdict::Dies);
            }
            self.steps += 1;
            self.write_back_early();
        }
        Ok(match self.faults.strike(operation, path, site) {
            Some(effect) => Verdict::Struck(effect),
            None => Verdict::Proceed,
        })
    }

    /// As [`Self::begin`], for what happens as a whole or not at all.
    pub(super) fn begin_whole(&mut self, operation: DiskOperation, path: &Arc<str>) -> io::Result<()> {
        match self.begin(operation, path, 0..0, "")? {
            Verdict::Struck(FaultEffect::Io) => Err(io_error()),
            Verdict::Struck(FaultEffect::StorageFull) => Err(io::ErrorKind::StorageFull.into()),
            Verdict::Dies => Err(MachineGone.into()),
            Verdict::Proceed | Verdict::Struck(_) => Ok(()),
        }
    }

    /// Makes something durable that nobody asked for.
    fn write_back_early(&mut self) {
        let random = &mut self.random.write_back;
        if !random.one_in(self.faults.early_write_back_one_in) {
            return;
        }
        if !self.image.changes.is_empty() && random.one_in(4) {
            let index = random.index(self.image.changes.len());
            return self.image.write_back_change(index);
        }
        let dirty = |(inode, content): (Inode, &super::content::Content)| {
            let last = content.pending.last_key_value().map(|(sector, _)| *sector);
            last.map(|last| (inode, last))
        };
        let dirty: Vec<(Inode, u64)> = self.image.files().filter_map(dirty).collect();
        if dirty.is_empty() {
            return;
        }
        let (inode, last) = dirty[random.index(dirty.len())];
        // Near the end more often than anywhere: that is where a log is written.
        let from =
            if random.one_in(2) { last.saturating_sub(random.below(8)) } else { random.below(last + 1) };
        let count = 1 + random.index(8);
        if let Some(content) = self.image.content_mut(inode) {
            content.write_back(from, count);
        }
    }

    /// How many of `len` bytes a write takes: all, fewer, or none because it was interrupted.
    pub(super) fn shorten(&mut self, len: usize) -> usize {
        let random = &mut self.random.short;
        if len > 1 && random.one_in(self.faults.short_write_one_in) {
            return if random.one_in(4) { 0 } else { 1 + random.index(len - 1) };
        }
        len
    }

    /// A prefix of a write that failed half-way.
    pub(super) fn part_of(&mut self, len: usize) -> usize {
        self.random.short.index(len + 1)
    }

    /// Microseconds that a sync takes, with a heavy tail.
    pub(super) fn delay_us(&mut self) -> u64 {
        let range = self.faults.sync_delay_us.clone();
        let random = &mut self.random.delay;
        let usual = range.start + random.below((range.end.saturating_sub(range.start)).max(1));
        let factor = if random.one_in(256) {
            100
        } else if random.one_in(16) {
            10
        } else {
            1
        };
        usual.saturating_mul(factor).max(1)
    }

    /// Bytes that can still be allocated.
    pub(super) fn free_bytes(&self) -> u64 {
        self.total_bytes().saturating_sub(self.used_bytes())
    }

    pub(super) fn total_bytes(&self) -> u64 {
        self.faults.space_bytes.unwrap_or(PLENTY)
    }

    fn used_bytes(&self) -> u64 {
        let named = self.image.named();
        let counts = |inode: &Inode| named.contains(inode) || self.open.contains_key(inode);
        self.image.files().filter(|(inode, _)| counts(inode)).map(|(_, content)| content.blocks.bytes()).sum()
    }

    /// How many bytes from the start of `range` there is space for.
    pub(super) fn fitting(&self, inode: Inode, range: &Range<u64>) -> u64 {
        let len = range.end - range.start;
        let Some(content) = self.image.content(inode) else { return len };
        if self.faults.space_bytes.is_none() || content.blocks.missing(range.clone()) == 0 {
            return len;
        }
        let free = self.free_bytes() / BLOCK;
        let mut end = range.end;
        while end > range.start && content.blocks.missing(range.start..end) > free {
            end = (end - 1) / BLOCK * BLOCK;
        }
        end.saturating_sub(range.start)
    }

    /// Forgets files that nothing leads to any more.
    pub(super) fn sweep(&mut self) {
        let open: BTreeSet<Inode> = self.open.keys().copied().collect();
        self.image.forget_unnamed(&open);
    }
}
