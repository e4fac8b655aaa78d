//! Started syncs: queued until the owner of the disk, or its virtual time, completes them.

use std::io;
use std::sync::{Arc, MutexGuard};

use super::SimulatedDisk;
use super::faults::{DiskOperation, FaultEffect, io_error};
use super::image::Inode;
use super::inspect::SyncSiteCount;
use super::state::{State, Verdict};
use crate::disk::{OnSynced, SyncSite};

/// Names a started sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SyncTicket(pub u64);

/// A started sync that has not completed.
#[derive(Clone, Debug)]
pub struct PendingSync {
    /// Its name; later ones are larger.
    pub ticket: SyncTicket,
    /// The directory, or the path by which the file was opened.
    pub path: Arc<str>,
    /// True for a directory.
    pub directory: bool,
    /// Virtual microseconds at which [`SimulatedDisk::run_due`] completes it; `None` for never.
    pub due_us: Option<u64>,
}

/// What a sync makes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) inode: Inode,
    pub(super) directory: bool,
}

pub(super) struct Started {
    target: Target,
    path: Arc<str>,
    /// It covers what has a number up to this, whatever is written meanwhile.
    upto: u64,
    due_us: Option<u64>,
    outcome: Outcome,
    done: OnSynced,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Durable,
    Ignored,
    Failed,
}

impl SimulatedDisk {
    /// The started syncs that have not completed, oldest first.
    #[must_use]
    pub fn pending_syncs(&self) -> Vec<PendingSync> {
        let view = |(ticket, started): (&u64, &Started)| PendingSync {
            ticket: SyncTicket(*ticket),
            path: Arc::clone(&started.path),
            directory: started.target.directory,
            due_us: started.due_us,
        };
        self.lock().started.iter().map(view).collect()
    }

    /// Completes one sync and calls its `done`. False when there is no such sync, when it is one
    /// that never completes, or when the machine is gone.
    pub fn complete(&self, ticket: SyncTicket) -> bool {
        self.finish(ticket, None)
    }

    /// Completes one sync with `EIO`: what it covers is clean and not durable.
    pub fn fail(&self, ticket: SyncTicket) -> bool {
        self.finish(ticket, Some(Outcome::Failed))
    }

    /// Completes the oldest sync. False when there is none.
    pub fn complete_next(&self) -> bool {
        self.complete_chosen(|_| 0)
    }

    /// Completes the sync that `choose` picks from 0 up to the number of syncs. False when there is
    /// none.
    pub fn complete_chosen(&self, choose: impl FnOnce(usize) -> usize) -> bool {
        let able: Vec<SyncTicket> = self.able().map(|(ticket, _)| ticket).collect();
        !able.is_empty() && self.complete(able[choose(able.len()) % able.len()])
    }

    /// Completes syncs, oldest first, until none is left, and says how many. What completions start
    /// is completed too.
    pub fn complete_all(&self) -> usize {
        let mut count = 0;
        while self.complete_next() {
            count += 1;
        }
        count
    }

    /// The virtual time, in microseconds, at which the next sync is due.
    #[must_use]
    pub fn next_due(&self) -> Option<u64> {
        self.able().map(|(_, due_us)| due_us).min()
    }

    /// Moves the virtual time to `now_us`, completes in order what is due, and says how many.
    pub fn run_due(&self, now_us: u64) -> usize {
        let mut count = 0;
        while let Some((ticket, due_us)) = self.able().min_by_key(|(ticket, due_us)| (*due_us, *ticket)) {
            if due_us > now_us || !self.advance_to(due_us).complete(ticket) {
                break;
            }
            count += 1;
        }
        self.advance_to(now_us);
        count
    }

    fn advance_to(&self, now_us: u64) -> &Self {
        let mut state = self.lock();
        let passed_us = now_us.saturating_sub(state.now_us);
        state.now_us += passed_us;
        drop(state);
        self
    }

    fn able(&self) -> impl Iterator<Item = (SyncTicket, u64)> {
        let able = |(ticket, started): (&u64, &Started)| Some((SyncTicket(*ticket), started.due_us?));
        let able: Vec<_> = self.lock().started.iter().filter_map(able).collect();
        able.into_iter()
    }

    /// Starts a sync on behalf of `site`.
    pub(super) fn start(&self, site: SyncSite, target: io::Result<Target>, path: &Arc<str>, done: OnSynced) {
        let mut state = self.lock();
        let started = target.and_then(|target| state.begin_sync(site, target, path).map(|how| (target, how)));
        let (target, verdict) = match started {
            Ok(started) => started,
            Err(e) => {
                let gone = state.gone;
                drop(state);
                // A machine that is gone calls nobody.
                return if gone { self.abandon_syncs() } else { done(Err(e)) };
            }
        };
        let (outcome, late_us) = match verdict {
            Verdict::Struck(FaultEffect::Io) => (Outcome::Failed, Some(0)),
            Verdict::Struck(FaultEffect::Ignored) => (Outcome::Ignored, Some(0)),
            Verdict::Struck(FaultEffect::Never) => (Outcome::Durable, None),
            Verdict::Struck(FaultEffect::Late(us)) => (Outcome::Durable, Some(us)),
            _ => (Outcome::Durable, Some(0)),
        };
        self.begun(state, (target, path), (outcome, late_us), done);
    }

    /// Something about `path` that takes the disk as long as a sync, and changes nothing.
    pub(super) fn complete_later(&self, target: Target, path: &Arc<str>, done: OnSynced) {
        self.begun(self.lock(), (target, path), (Outcome::Ignored, Some(0)), done);
    }

    fn begun(
        &self,
        mut state: MutexGuard<'_, State>,
        (target, path): (Target, &Arc<str>),
        (outcome, late_us): (Outcome, Option<u64>),
        done: OnSynced,
    ) {
        let due_us = late_us.map(|late_us| state.now_us + state.delay_us() + late_us);
        let (ticket, upto) = (state.next_ticket, state.image.written);
        state.next_ticket += 1;
        let path = Arc::clone(path);
        state.started.insert(ticket, Started { target, path, upto, due_us, outcome, done });
        let at_once = state.at_once;
        drop(state);
        if at_once {
            self.complete(SyncTicket(ticket));
        }
    }

    /// Syncs before returning.
    pub(super) fn sync_now(
        &self,
        site: SyncSite,
        target: io::Result<Target>,
        path: &Arc<str>,
    ) -> io::Result<()> {
        let mut state = self.lock();
        let target = target?;
        let verdict = state.begin_sync(site, target, path);
        if state.gone {
            drop(state);
            self.abandon_syncs();
            return verdict.map(|_| ());
        }
        let outcome = match verdict? {
            _ if state.has_failed_unheard(target) => Outcome::Failed,
            Verdict::Struck(FaultEffect::Io) => Outcome::Failed,
            Verdict::Struck(FaultEffect::Ignored) => Outcome::Ignored,
            _ => Outcome::Durable,
        };
        let upto = state.image.written;
        state.apply_sync(target, upto, outcome)
    }

    fn finish(&self, ticket: SyncTicket, forced: Option<Outcome>) -> bool {
        let mut state = self.lock();
        let able = state.started.get(&ticket.0).is_some_and(|started| started.due_us.is_some());
        if !able {
            return false;
        }
        let Some(started) = state.started.remove(&ticket.0) else { return false };
        let begun = state.begin(DiskOperation::CompleteSync, &started.path, 0..0, "");
        if state.gone || begun.is_err() {
            drop(state);
            self.abandon_syncs();
            return false;
        }
        let result = state.apply_sync(started.target, started.upto, forced.unwrap_or(started.outcome));
        drop(state);
        (started.done)(result);
        true
    }

    /// Drops the started syncs of a machine that is gone, outside the lock: what they hold may be
    /// files of this disk.
    pub(super) fn abandon_syncs(&self) {
        let abandoned = std::mem::take(&mut self.lock().started);
        drop(abandoned);
    }
}

impl State {
    fn begin_sync(&mut self, site: SyncSite, target: Target, path: &Arc<str>) -> io::Result<Verdict> {
        let site = site.to_string();
        let count = self.sites.entry(site.clone()).or_insert_with(|| SyncSiteCount {
            site: site.clone(),
            files: 0,
            directories: 0,
        });
        let operation = if target.directory {
            count.directories += 1;
            DiskOperation::SyncDirectory
        } else {
            count.files += 1;
            DiskOperation::SyncFile
        };
        match self.begin(operation, path, 0..0, &site)? {
            Verdict::Dies => Err(super::inspect::MachineGone.into()),
            Verdict::Struck(FaultEffect::StorageFull) => Err(io::ErrorKind::StorageFull.into()),
            verdict => Ok(verdict),
        }
    }

    /// A sync that was started earlier has failed, and nobody was told yet.
    fn has_failed_unheard(&self, target: Target) -> bool {
        let fails = |started: &Started| started.outcome == Outcome::Failed && started.target == target;
        self.started.values().any(fails)
    }

    fn apply_sync(&mut self, target: Target, upto: u64, outcome: Outcome) -> io::Result<()> {
        match (outcome, target.directory) {
            (Outcome::Ignored, _) => {}
            (Outcome::Durable, true) => {
                self.image.sync_directory(target.inode, upto);
                self.sweep();
            }
            (Outcome::Durable, false) => {
                if let Some(content) = self.image.content_mut(target.inode) {
                    content.sync(upto);
                }
            }
            (Outcome::Failed, true) => self.image.fail_sync_directory(target.inode, upto),
            (Outcome::Failed, false) => self.image.fail_sync_file(target.inode, upto, self.faults.reread),
        }
        if outcome == Outcome::Failed { Err(io_error()) } else { Ok(()) }
    }
}
