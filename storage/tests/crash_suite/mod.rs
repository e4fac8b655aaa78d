//! Short workloads on the simulated disk, crashed at every step; what the next process finds is held
//! against what was appended and acknowledged.
//!
//! A workload is a list of [`Op`]s. It runs once to count its disk steps, then once for each step
//! with the machine dying there. What the disk then holds is recovered in several versions: the
//! process was killed (the cache survives) and the power was cut (any subset of what was not
//! synced). After each recovery the invariants are checked, the store is used on, and crashed again.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "every test crate uses its part")]

pub mod model;
pub mod workload;

use std::collections::HashSet;
use std::sync::Arc;

use staticfire_storage::disk::{DiskFaults, DiskOperation, FaultEffect, Reread, SimulatedDisk};
use staticfire_storage::{Clock, Store, StoreOptions};

use model::{Loss, Model, Violation};
#[allow(unused_imports, reason = "every test crate uses its part")]
pub use workload::Op;
pub use workload::Workload;

/// Segments of 1 KiB take three or four small records, so that every workload can roll.
pub const SEGMENT_BYTES: u64 = 1024;

/// How much to look at.
#[derive(Clone, Debug)]
pub struct Effort {
    /// Images looked at for each power cut.
    pub images: usize,
    /// Recoveries that are crashed themselves: one in so many.
    pub nested_one_in: u64,
    /// Messages appended to what was recovered, before it crashes again.
    pub appends: u64,
    /// What the disk does besides losing power.
    pub faults: DiskFaults,
    /// Bytes of its sectors.
    pub sector_bytes: usize,
    pub seed: u64,
}

impl Effort {
    /// An empty disk that does `faults` to its user.
    fn disk(&self, faults: DiskFaults) -> SimulatedDisk {
        SimulatedDisk::new(self.seed).with_sector_bytes(self.sector_bytes).with_faults(faults)
    }
}

impl Default for Effort {
    fn default() -> Self {
        Self {
            images: 6,
            nested_one_in: 16,
            appends: 2,
            faults: DiskFaults::calm(),
            sector_bytes: 512,
            seed: 1,
        }
    }
}

/// What was looked at.
#[derive(Debug, Default)]
pub struct Seen {
    /// Recoveries checked.
    pub recoveries: u64,
    /// Different contents of the disk that were recovered.
    pub states: HashSet<u64>,
    /// What was recovered, with what had been promised and how it was lost: once is enough.
    checked: HashSet<(u64, u64, Loss)>,
    /// Lines of code that asked for syncs.
    pub sync_sites: std::collections::BTreeSet<String>,
}

impl Seen {
    /// Counts a recovery, unless the same disk was recovered with the same promises before.
    fn is_new(&mut self, image: &SimulatedDisk, model: &Model, loss: Loss) -> bool {
        let fingerprint = image.fingerprint();
        let new = self.checked.insert((fingerprint, model.digest(), loss));
        if new {
            self.recoveries += 1;
            self.states.insert(fingerprint);
        }
        new
    }
}

pub const NOW_MS: i64 = 1_700_000_000_000;

/// A clock that stands still: store times come from the order of the log alone.
#[derive(Debug)]
pub struct StoppedClock;

impl Clock for StoppedClock {
    fn wall_ms(&self) -> i64 {
        NOW_MS
    }
}

pub fn options(disk: &SimulatedDisk, workload: &Workload) -> StoreOptions {
    let mut options = StoreOptions::on(disk.directory(), Arc::new(StoppedClock));
    options.segment_bytes = SEGMENT_BYTES;
    options.queue_file_entries = 8;
    options.durability = workload.durability;
    options.background = staticfire_storage::Background::Steps;
    options.retention.age_ms = None;
    options.retention.bytes = Some(2 * SEGMENT_BYTES);
    options
}

/// Crashes `workload` at every step and checks what is found.
pub fn explore(workload: &Workload, effort: &Effort, seen: &mut Seen) -> Result<(), Violation> {
    let disk = effort.disk(effort.faults.clone());
    let whole = workload.run(&disk);
    seen.sync_sites.extend(disk.sync_sites().into_iter().map(|site| site.site));
    let steps = disk.steps();
    recover(&disk, &whole, workload, effort, seen).map_err(|violation| violation.at(workload, steps))?;
    for step in 0..steps {
        let disk = effort.disk(effort.faults.clone());
        disk.crash_at_step(step);
        let model = workload.run(&disk);
        recover(&disk, &model, workload, effort, seen).map_err(|violation| violation.at(workload, step))?;
    }
    Ok(())
}

/// Lets each sync of a file in turn fail, runs `workload` to its end nevertheless, and checks what is
/// found.
///
/// Syncs of directories are left out: file systems stop when they cannot write their journal, and
/// names that a sync could not make durable cannot be made so by another.
pub fn explore_failing_syncs(workload: &Workload, effort: &Effort, seen: &mut Seen) -> Result<(), Violation> {
    let disk = effort.disk(effort.faults.clone());
    workload.run(&disk);
    let syncs = disk.sync_sites().iter().map(|site| site.files).sum();
    for nth in 1..=syncs {
        let faults = effort.faults.clone().on_nth(DiskOperation::SyncFile, nth, FaultEffect::Io);
        let disk = effort.disk(faults);
        let model = workload.run(&disk);
        let failed = |violation: Violation| violation.at(workload, disk.steps());
        recover(&disk, &model, workload, effort, seen).map_err(failed)?;
    }
    Ok(())
}

/// Recovers from a power cut, in several versions, and from a kill.
fn recover(
    disk: &SimulatedDisk,
    model: &Model,
    workload: &Workload,
    effort: &Effort,
    seen: &mut Seen,
) -> Result<(), Violation> {
    if let Some(violation) = &model.broken {
        return Err(violation.clone());
    }
    // What a mere kill takes comes first: it blames the write, where a power cut would blame the flush.
    check_image(&disk.kill(), model, loss_by_kill(model, effort), workload, effort, seen)?;
    let mut images = disk.crash_images(effort.images);
    images.try_for_each(|image| check_image(&image, model, Loss::Power, workload, effort, seen))
}

/// A killed process loses nothing that it wrote, unless a flush failed before: where the cache then shows
/// what the medium holds, the kill loses what a power cut would, and no more.
fn loss_by_kill(model: &Model, effort: &Effort) -> Loss {
    let forgets = model.failed.is_some() && effort.faults.reread == Reread::Old;
    if forgets { Loss::KillAfterFailure } else { Loss::Kill }
}

fn check_image(
    image: &SimulatedDisk,
    model: &Model,
    loss: Loss,
    workload: &Workload,
    effort: &Effort,
    seen: &mut Seen,
) -> Result<(), Violation> {
    if !seen.is_new(image, model, loss) {
        return Ok(());
    }
    model.check_marks(image)?;
    image.set_faults(effort.faults.clone());
    let before = image.snapshot();
    let store = open(image, workload, model)?;
    seen.sync_sites.extend(image.sync_sites().into_iter().map(|site| site.site));
    let steps = image.steps();
    let found = model.check(&store, loss)?;
    if loss != Loss::Power {
        close_unused(&before.snapshot(), &found, workload, seen)?;
    }
    // Every recovery is crashed at one of its steps, some at all of them.
    let all = seen.recoveries.is_multiple_of(effort.nested_one_in);
    let one = seen.recoveries % steps.max(1);
    for step in if all { 0..steps } else { one..one + 1 } {
        nested(&before, step, (model, &found), loss, workload, effort, seen)?;
    }
    use_on(image, store, found, workload, effort, seen)
}

/// Opens what a killed process left and closes it again: that makes all of it durable.
fn close_unused(
    image: &SimulatedDisk,
    found: &Model,
    workload: &Workload,
    seen: &mut Seen,
) -> Result<(), Violation> {
    let store = open(image, workload, found)?;
    let min = store.marks().min;
    let closed = store.close();
    closed.map_err(|error| Violation::new("I74", format!("a recovered store does not close: {error}")))?;
    let found = Model { closed: true, ..found.clone() };
    for image in image.crash_images(2) {
        if seen.is_new(&image, &found, Loss::Power) {
            found.check_queue_files(&image, min)?;
            found.check(&open(&image, workload, &found)?, Loss::Power)?;
        }
    }
    Ok(())
}

/// Crashes the recovery itself at a step. The next one must find the same: what was found once is
/// durable before anything depends on it. Only where the process was killed may the power take
/// what it had written and not flushed, as if it had failed at once.
fn nested(
    before: &SimulatedDisk,
    step: u64,
    (model, found): (&Model, &Model),
    loss: Loss,
    workload: &Workload,
    effort: &Effort,
    seen: &mut Seen,
) -> Result<(), Violation> {
    // Whoever opens a closed store has it open.
    let model = Model { closed: false, ..model.clone() };
    let disk = before.snapshot();
    disk.set_faults(effort.faults.clone());
    disk.crash_at_step(step);
    drop(Store::open(options(&disk, workload)));
    let cuts = disk.crash_images(2).map(|image| (image, Loss::Power));
    for (image, end) in cuts.chain([(disk.kill(), Loss::Kill)]) {
        if loss != Loss::Power && end == Loss::Power {
            if seen.is_new(&image, &model, end) {
                model.check(&open(&image, workload, &model)?, end)?;
            }
        } else if seen.is_new(&image, found, end) {
            found.check_same(&open(&image, workload, found)?, loss, step)?;
        }
    }
    Ok(())
}

/// Appends to what was recovered, and loses power once more: nothing stale may come back.
fn use_on(
    image: &SimulatedDisk,
    store: Store,
    mut found: Model,
    workload: &Workload,
    effort: &Effort,
    seen: &mut Seen,
) -> Result<(), Violation> {
    for number in 0..effort.appends {
        workload::append_and_flush(image, &store, number, &mut found)?;
        found.check(&store, Loss::Nothing)?;
        let image = image.snapshot();
        if number + 1 < effort.appends && seen.is_new(&image, &found, Loss::Kill) {
            found.check(&open(&image, workload, &found)?, Loss::Kill)?;
        }
    }
    // Every other one is closed before the power goes.
    found.closed = seen.recoveries.is_multiple_of(2) && store.clone().close().is_ok();
    let min = store.marks().min;
    drop(store);
    for image in image.crash_images(2) {
        if seen.is_new(&image, &found, Loss::Power) {
            if found.closed {
                found.check_queue_files(&image, min)?;
            }
            image.set_faults(effort.faults.clone());
            found.check(&open(&image, workload, &found)?, Loss::Power)?;
        }
    }
    let killed = image.kill();
    if seen.is_new(&killed, &found, Loss::Kill) {
        found.check(&open(&killed, workload, &found)?, Loss::Kill)?;
    }
    Ok(())
}

/// Opens what a crash left of the history `model`.
fn open(disk: &SimulatedDisk, workload: &Workload, model: &Model) -> Result<Store, Violation> {
    model.check_names(disk)?;
    Store::open(options(disk, workload))
        .map_err(|error| Violation::new("I17", format!("a crashed store does not open: {error}")))
}
