//! Lets a cluster suffer what a plan says, or a test asks for.

use std::collections::BTreeMap;
use std::time::Duration;

use staticfire_storage::disk::{DiskFaults, DiskOperation, FaultEffect, Rot, SimulatedDisk};
use staticfire_transport::Monotonic;
use staticfire_transport::memory::Link;

use super::ledger::Promise;
use super::running::Death;
use super::{Fault, FaultKind, Ledger, Node, Plan, Running, Violation, queues, reached};
use staticfire_storage::Durability;

/// The longest that a proper end may take.
const STOP: Duration = Duration::from_secs(5);
/// After a plan everything must be well again within this virtual time.
const CALM: Duration = Duration::from_secs(120);

/// What is wrong at present.
#[derive(Debug, Default)]
pub(super) struct Weather {
    /// How many faults cut each way.
    cuts: BTreeMap<(Node, Node), usize>,
    /// Faults of disks and links that are on.
    on: Vec<Fault>,
}

#[derive(Clone, Copy)]
enum Action {
    Begin(Fault),
    End(Fault),
}

impl Running {
    /// Nothing gets from one node to another, either way.
    pub fn partition(&mut self, this: Node, that: Node) {
        self.cut(this, that);
        self.cut(that, this);
    }

    /// Nothing gets from one node to another; the way back stays open.
    pub fn cut(&mut self, from: Node, to: Node) {
        *self.weather.cuts.entry((from, to)).or_default() += 1;
        self.network.cut(from.ip(), to.ip());
    }

    /// Undoes one [`Self::cut`].
    pub fn join(&mut self, from: Node, to: Node) {
        let Some(count) = self.weather.cuts.get_mut(&(from, to)) else { return };
        *count -= 1;
        if *count == 0 {
            self.weather.cuts.remove(&(from, to));
            self.network.join(from.ip(), to.ip());
        }
    }

    /// Undoes everything that is wrong with the network and the disks. Nodes that are down stay so.
    pub fn heal(&mut self) {
        self.weather = Weather::default();
        self.network.heal();
        self.apply_weather();
    }

    /// Suffers a plan while everything goes on, then heals, starts what is down, and waits until all
    /// nodes serve.
    ///
    /// # Errors
    /// A promise about logs or queues was broken, or a node does not come back.
    pub fn run(&mut self, plan: &Plan) -> Result<(), Violation> {
        self.plan = Some(plan.clone());
        let start = self.now();
        let mut actions = Vec::new();
        for fault in plan.faults.iter().flat_map(|fault| self.parts(fault)) {
            actions.push((start + fault.at, Action::Begin(fault)));
            actions.push((start + fault.at + fault.lasts, Action::End(fault)));
        }
        actions.sort_by_key(|(at, _)| *at);
        for (at, action) in actions {
            self.pass(at);
            match action {
                Action::Begin(fault) => self.begin_fault(&fault),
                Action::End(fault) => self.end_fault(&fault),
            }
        }
        self.pass(start + plan.lasts);
        self.recover_all()
    }

    /// Runs until `at`.
    fn pass(&mut self, at: Monotonic) {
        self.run_for(at.since(self.now()));
        self.attend();
    }

    /// What strikes all brokers, as a fault for each.
    fn parts(&self, fault: &Fault) -> Vec<Fault> {
        let kind = match fault.kind {
            FaultKind::Blackout => FaultKind::PowerCut,
            FaultKind::Storm => FaultKind::Restart,
            _ => return vec![*fault],
        };
        reached::note(fault.kind.name(), "");
        let each = Duration::from_millis(fault.amount.unsigned_abs());
        let brokers = self.cluster.nodes().into_iter().filter(|node| matches!(node, Node::Broker { .. }));
        let part = |(index, node)| Fault { kind, node, at: fault.at + each * index, amount: 0, ..*fault };
        (0..).zip(brokers).map(part).collect()
    }

    fn begin_fault(&mut self, fault: &Fault) {
        self.note(fault.to_string());
        self.reach(fault.kind.name(), fault.node);
        let amount = fault.amount.unsigned_abs();
        match fault.kind {
            FaultKind::Kill => self.end(fault.node, Death::Kill),
            FaultKind::PowerCut => self.end(fault.node, Death::PowerCut),
            FaultKind::PowerCutAtStep => self.power_cut_at_step(fault.node, amount),
            FaultKind::RecoveryCut => {
                self.end(fault.node, Death::Kill);
                self.begin(fault.node);
                self.power_cut_at_step(fault.node, amount);
            }
            FaultKind::Restart => self.stop_or_kill(fault.node),
            FaultKind::Transfer => self.hand_over(fault.node),
            FaultKind::LostDisk => self.lose_disk(fault.node),
            FaultKind::Rot => {
                self.end(fault.node, Death::Kill);
                self.rot(fault.node, amount);
            }
            FaultKind::Pause => self.host(fault.node).pause(),
            FaultKind::Cut | FaultKind::Partition | FaultKind::Isolate | FaultKind::Bridge => {
                for (from, to) in self.ways(fault) {
                    self.cut(from, to);
                }
            }
            FaultKind::ClockJump => self.host(fault.node).shift_wall(fault.amount),
            FaultKind::ClockDrift => self.host(fault.node).drift_wall(fault.amount),
            _ => {
                self.weather.on.push(*fault);
                self.apply_weather();
            }
        }
    }

    fn end_fault(&mut self, fault: &Fault) {
        self.note(format!("end of {fault}"));
        match fault.kind {
            FaultKind::Kill
            | FaultKind::PowerCut
            | FaultKind::PowerCutAtStep
            | FaultKind::RecoveryCut
            | FaultKind::Restart
            | FaultKind::LostDisk
            | FaultKind::Rot => self.begin_if_down(fault.node),
            FaultKind::Pause => self.host(fault.node).resume(),
            FaultKind::Cut | FaultKind::Partition | FaultKind::Isolate | FaultKind::Bridge => {
                for (from, to) in self.ways(fault) {
                    self.join(from, to);
                }
            }
            FaultKind::ClockJump | FaultKind::Transfer => {}
            FaultKind::ClockDrift => self.host(fault.node).drift_wall(0),
            _ => {
                if let Some(at) = self.weather.on.iter().position(|on| on == fault) {
                    self.weather.on.remove(at);
                }
                self.apply_weather();
            }
        }
        // After these a store takes nothing more until it is opened again.
        if matches!(fault.kind, FaultKind::FailedSync | FaultKind::LostSync | FaultKind::FailedWrite) {
            self.end(fault.node, Death::Kill);
            self.begin(fault.node);
        }
    }

    fn begin_if_down(&mut self, node: Node) {
        if self.is_dead(node) {
            self.end(node, Death::Kill);
            self.begin(node);
        }
    }

    /// The proper end, if the node serves and is done in time.
    fn stop_or_kill(&mut self, node: Node) {
        if self.is_up(node) && self.stop_within(node, STOP).is_ok() {
            return;
        }
        self.end(node, Death::Kill);
    }

    fn hand_over(&self, node: Node) {
        let Node::Broker { group, .. } = node else { return };
        for id in 0..self.cluster.members {
            if let Some(broker) = self.broker(Node::Broker { group, id }) {
                broker.transfer(None);
            }
        }
    }

    /// A node's disk is gone, if none was before.
    fn lose_disk(&mut self, node: Node) {
        self.end(node, Death::PowerCut);
        if !self.lost_disk {
            self.lost_disk = true;
            let seed = self.cluster.seed ^ node.number() << 40 ^ u64::MAX;
            self.replace_disk(node, SimulatedDisk::new(seed));
            self.reach("a disk was lost", node);
        }
    }

    /// Flips a bit of a file that can be built again.
    fn rot(&mut self, node: Node, which: u64) {
        let rotten = self.disks.of(node).and_then(|disk| {
            let rot = match which % 4 {
                0 => Rot::Bit((which >> 8 & 7) as u8),
                1 => Rot::Burst,
                2 => Rot::Zeros,
                _ => Rot::Ones,
            };
            let folder = if which >> 2 & 1 == 0 { "consumequeue/" } else { "staticfire/queuesums/" };
            disk.rot_somewhere(folder, which >> 16, rot)
        });
        if let Some((path, at)) = rotten {
            self.note(format!("byte {at} of {path} rots"));
            self.reach("a byte rotted", node);
        }
    }

    /// The ways that a fault cuts.
    fn ways(&self, fault: &Fault) -> Vec<(Node, Node)> {
        match (fault.kind, fault.to) {
            (FaultKind::Cut, Some(to)) => vec![(fault.node, to)],
            (FaultKind::Partition, Some(to)) => vec![(fault.node, to), (to, fault.node)],
            (FaultKind::Bridge, _) => {
                let Node::Broker { group, id: bridge } = fault.node else { return Vec::new() };
                let others: Vec<_> = (0..self.cluster.members).filter(|id| *id != bridge).collect();
                let (these, those) = others.split_at(others.len() / 2);
                let pairs = these.iter().flat_map(|this| those.iter().map(move |that| (*this, *that)));
                let member = |id| Node::Broker { group, id };
                pairs
                    .flat_map(|(this, that)| [(this, that), (that, this)])
                    .map(|(a, b)| (member(a), member(b)))
                    .collect()
            }
            _ => {
                let clients = (1..=9).map(Node::Client);
                let others = self.cluster.nodes().into_iter().chain(clients).filter(|it| *it != fault.node);
                others.flat_map(|other| [(fault.node, other), (other, fault.node)]).collect()
            }
        }
    }

    fn apply_weather(&mut self) {
        let nodes = self.cluster.nodes();
        for node in &nodes {
            if let Some(disk) = self.disks.of(*node) {
                disk.set_faults(self.disk_faults(*node));
            }
        }
        let link = self.link();
        // Only what servers say to each other may come twice, and only what members of a group say
        // to each other has a checksum of its own.
        for (from, to) in nodes.iter().flat_map(|from| nodes.iter().map(move |to| (*from, *to))) {
            let mut link =
                Link { duplicate_per_million: self.strongest(FaultKind::Duplicate), ..link.clone() };
            if from.group().is_some() && from.group() == to.group() {
                link.corrupt_per_million = self.strongest(FaultKind::Corrupt);
            }
            self.network.set_link(from.ip(), to.ip(), link);
        }
        self.network.set_links(link);
    }

    /// What the disk of a node does at present.
    pub(super) fn disk_faults(&self, node: Node) -> DiskFaults {
        let mut faults = self.cluster.disk_faults.clone();
        let log = |faults: DiskFaults, operation, effect| faults.on_path(operation, "commitlog/", effect);
        for fault in self.weather.on.iter().filter(|fault| fault.node == node) {
            faults = match fault.kind {
                FaultKind::SlowDisk => {
                    let more = u64::try_from(fault.amount).unwrap_or(0);
                    faults.sync_delay_us.start += more;
                    faults.sync_delay_us.end += more;
                    faults
                }
                FaultKind::FailedSync => log(faults, DiskOperation::SyncFile, FaultEffect::Io),
                FaultKind::IgnoredSync => faults.ignoring_syncs_at(""),
                FaultKind::LostSync => log(faults, DiskOperation::SyncFile, FaultEffect::Never),
                FaultKind::FailedWrite => log(faults, DiskOperation::Write, FaultEffect::Io),
                FaultKind::FailedRead => log(faults, DiskOperation::Read, FaultEffect::Io),
                FaultKind::FullDisk => faults.with_space(0),
                _ => faults,
            };
        }
        faults
    }

    fn link(&self) -> Link {
        let mut link = self.cluster.link.clone();
        link.loss_per_million = link.loss_per_million.max(self.strongest(FaultKind::Loss));
        link.slow_per_million = link.slow_per_million.max(self.strongest(FaultKind::Delay));
        link.reset_per_million = link.reset_per_million.max(self.strongest(FaultKind::Reset));
        link
    }

    /// The largest amount of a kind of fault that is on.
    fn strongest(&self, kind: FaultKind) -> u32 {
        let on = self.weather.on.iter().filter(|fault| fault.kind == kind);
        on.filter_map(|fault| u32::try_from(fault.amount).ok()).max().unwrap_or(0)
    }

    /// The end of all faults: everything that is down or failed is started again.
    fn recover_all(&mut self) -> Result<(), Violation> {
        self.heal();
        let nodes = self.cluster.nodes();
        for node in &nodes {
            let host = self.host(*node);
            host.resume();
            host.drift_wall(0);
            // A power cut that waits for its step would come later.
            if let Some(disk) = self.disks.of(*node) {
                disk.crash_at_step(u64::MAX);
            }
        }
        for node in &nodes {
            let failed = self.store(*node).is_some_and(|store| store.failure().is_some());
            if failed || self.is_dead(*node) {
                self.end(*node, Death::Kill);
                self.begin(*node);
            }
        }
        let all_up = |running: &Self| nodes.iter().all(|node| running.is_up(*node));
        self.run_until(CALM, all_up);
        self.violation()?;
        match nodes.iter().find(|node| !self.is_up(**node)) {
            Some(node) => {
                let what =
                    format!("it does not serve {CALM:?} after the last fault: {}", self.complaint(*node));
                Err(Violation::new("I49", what).on(*node).within(self.context()))
            }
            None => Ok(()),
        }
    }

    /// Holds the queues of all masters, and what their logs were after each crash, against the
    /// ledger and against each other.
    ///
    /// # Errors
    /// The first promise that was broken, with the seed and the plan that show it again.
    pub fn check(&mut self, ledger: &Ledger) -> Result<(), Violation> {
        self.attend();
        self.violation()?;
        for master in self.masters() {
            if let Some(store) = self.store(master) {
                queues::check(store).map_err(|found| found.on(master).within(self.context()))?;
            }
        }
        let promise = |broker: &str| self.promise(broker);
        ledger.check(&self.stored(ledger.topic()), promise).map_err(|found| found.within(self.context()))
    }

    /// What a broker owes after what happened to it.
    fn promise(&self, broker: &str) -> Promise {
        let named = |node: &&Node| broker == self.broker_name(**node);
        let blacked_out = self.blacked_out.iter().any(|node| named(&node));
        if self.cluster.durability == Durability::Written && blacked_out {
            Promise::AllButTheEnd
        } else {
            Promise::Everything
        }
    }
}
