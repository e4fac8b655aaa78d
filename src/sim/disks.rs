//! All disks of a cluster, whose syncs complete in its time.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use staticfire_storage::disk::SimulatedDisk;
use staticfire_transport::memory::{EventSource, Host};
use staticfire_transport::{Monotonic, Runtime};

use super::{Machine, Node};

/// The disks, each with the host that runs on it now.
#[derive(Default)]
pub(super) struct Disks(Mutex<BTreeMap<Node, (SimulatedDisk, Option<Host>)>>);

impl Disks {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Node, (SimulatedDisk, Option<Host>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk of a node, in whatever state its last life left it.
    pub(super) fn of(&self, node: Node) -> Option<SimulatedDisk> {
        self.lock().get(&node).map(|(disk, _)| disk.clone())
    }

    /// Replaces what a life ended with by what the next one finds.
    pub(super) fn put(&self, node: Node, disk: SimulatedDisk) {
        self.lock().insert(node, (disk, None));
    }

    /// A machine starts on its disk: the disk follows the clocks of the host.
    pub(super) fn mount(&self, machine: &Machine) {
        let host = machine.host.clone();
        let micros = |at: Monotonic| u64::try_from(at.since_start().as_micros()).unwrap_or(u64::MAX);
        machine.disk.set_clock(move || (micros(host.now()), host.wall_ms()));
        self.lock().insert(machine.node, (machine.disk.clone(), Some(machine.host.clone())));
    }

    /// The traces of all disks.
    pub(super) fn traces(&self) -> Vec<u64> {
        self.lock().values().map(|(disk, _)| disk.trace()).collect()
    }

    /// Hosts whose disk died under them.
    fn widows(&self) -> Vec<Host> {
        let disks = self.lock();
        let widow = |(disk, host): &(SimulatedDisk, Option<Host>)| {
            host.clone().filter(|host| disk.is_gone() && host.is_up())
        };
        disks.values().filter_map(widow).collect()
    }

    fn all(&self) -> Vec<SimulatedDisk> {
        self.lock().values().map(|(disk, _)| disk.clone()).collect()
    }
}

impl EventSource for Disks {
    fn next_due(&self) -> Option<Monotonic> {
        if !self.widows().is_empty() {
            return Some(Monotonic::default());
        }
        let due = self.all().iter().filter_map(SimulatedDisk::next_due).min();
        due.map(|us| Monotonic::new(Duration::from_micros(us)))
    }

    fn run_due(&self, now: Monotonic) {
        // A power cut in the middle of a disk operation takes the host too.
        self.widows().iter().for_each(Host::power_off);
        let now_us = u64::try_from(now.since_start().as_micros()).unwrap_or(u64::MAX);
        for disk in self.all() {
            disk.run_due(now_us);
        }
    }
}
