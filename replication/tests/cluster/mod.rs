//! A group of nodes with real stores on simulated disks, in virtual time.

#![allow(dead_code, reason = "each test that includes this uses a part of it")]
#![allow(
    clippy::unwrap_used,
    missing_docs,
    unreachable_pub,
    reason = "a test fails by panicking, and has no users"
)]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use staticfire_replication::{
    Failover, Group, LogCut, Member, MemberError, MemberObserver, MemberOptions, NodeId, Settings,
    control_topic,
};
use staticfire_storage::disk::SimulatedDisk;
use staticfire_storage::{
    Clock, Durability, Message, OpenError, Outcome, PhysicalOffset, Position, QueueId, Receipt, Retention,
    Store, StoreOptions, TopicName,
};
use staticfire_transport::memory::{EventSource, Host, Network};
use staticfire_transport::{Monotonic, Runtime};

#[derive(Debug)]
struct HostClock(Host);

impl Clock for HostClock {
    fn wall_ms(&self) -> i64 {
        self.0.wall_ms()
    }
}

/// Disks whose syncs take a millisecond of the network's time.
#[derive(Default)]
struct Disks(Mutex<Vec<SimulatedDisk>>);

impl EventSource for Disks {
    fn next_due(&self) -> Option<Monotonic> {
        let disks = self.0.lock().unwrap();
        disks
            .iter()
            .filter_map(SimulatedDisk::next_due)
            .min()
            .map(|us| Monotonic::new(Duration::from_micros(us)))
    }

    fn run_due(&self, now: Monotonic) {
        let disks = self.0.lock().unwrap().clone();
        let now = u64::try_from(now.since_start().as_micros()).unwrap();
        for disk in disks {
            disk.run_due(now);
        }
    }
}

#[derive(Default)]
pub struct Heard(pub Mutex<Vec<String>>);

impl MemberObserver for Heard {
    fn cut(&self, cut: &LogCut) {
        self.0.lock().unwrap().push(cut.to_string());
    }

    fn restarted(&self, base: Position) {
        self.0.lock().unwrap().push(format!("restarted at {}", base.end));
    }

    fn failed(&self, what: &str) {
        self.0.lock().unwrap().push(what.to_owned());
    }
}

/// Retention keeps so many bytes, if somebody asks for it.
const KEPT: u64 = 64 << 10;

pub struct Node {
    pub host: Host,
    pub disk: SimulatedDisk,
    pub store: Store,
    pub member: Member,
    pub heard: Arc<Heard>,
}

pub struct Cluster {
    pub network: Network,
    disks: Arc<Disks>,
    pub nodes: Vec<Option<Node>>,
    pub failover: Vec<Failover>,
    /// Bytes a second for nodes that catch up.
    pub catch_up_rate: Option<NonZeroU64>,
}

pub fn ip(index: usize) -> IpAddr {
    IpAddr::from([10, 0, 0, u8::try_from(index).unwrap()])
}

pub fn address(index: usize) -> SocketAddr {
    SocketAddr::new(ip(index), 10912)
}

pub fn message(body: &str) -> Message {
    Message::new(TopicName::new("orders").unwrap(), QueueId(0), body.to_owned())
}

impl Cluster {
    pub fn start(seed: u64, failover: Vec<Failover>) -> Self {
        Self::try_start(seed, failover).unwrap()
    }

    pub fn try_start(seed: u64, failover: Vec<Failover>) -> Result<Self, MemberError> {
        Self::start_with(seed, failover, None)
    }

    /// The same; those who catch up get no more than `catch_up_rate` bytes a second.
    pub fn start_with(
        seed: u64,
        failover: Vec<Failover>,
        catch_up_rate: Option<NonZeroU64>,
    ) -> Result<Self, MemberError> {
        let network = Network::seeded(seed);
        let disks = Arc::new(Disks::default());
        network.add_source(Arc::clone(&disks) as _);
        let mut cluster = Self { network, disks, nodes: Vec::new(), failover, catch_up_rate };
        for index in 0..cluster.failover.len() {
            cluster.nodes.push(None);
            let disk = SimulatedDisk::new(seed + index as u64);
            cluster.try_boot(index, disk)?;
        }
        Ok(cluster)
    }

    pub fn boot(&mut self, index: usize, disk: SimulatedDisk) {
        self.try_boot(index, disk).unwrap();
    }

    /// Starts a node whose disk may fail while it starts.
    pub fn boot_if_whole(&mut self, index: usize, disk: SimulatedDisk) {
        match self.open(index, &disk) {
            Ok(store) => drop(self.join(index, disk, store)),
            Err(error) => assert!(disk.is_gone(), "{error}"),
        }
    }

    fn try_boot(&mut self, index: usize, disk: SimulatedDisk) -> Result<(), MemberError> {
        let store = self.open(index, &disk).unwrap();
        self.join(index, disk, store)
    }

    fn open(&self, index: usize, disk: &SimulatedDisk) -> Result<Store, OpenError> {
        let host = self.network.host(ip(index));
        let clock = host.clone();
        let micros = |at: Monotonic| u64::try_from(at.since_start().as_micros()).unwrap();
        disk.set_clock(move || (micros(clock.now()), clock.wall_ms()));
        self.disks.0.lock().unwrap().push(disk.clone());
        let mut options = StoreOptions::on(disk.directory(), Arc::new(HostClock(host)));
        (options.segment_bytes, options.queue_file_entries) = (64 << 10, 100);
        options.durability = Durability::Confirmed;
        options.rules.system_topic = Some(control_topic());
        options.retention = Retention { age_ms: None, bytes: Some(KEPT) };
        Store::open(options)
    }

    fn join(&mut self, index: usize, disk: SimulatedDisk, store: Store) -> Result<(), MemberError> {
        let host = self.network.host(ip(index));
        let members: Vec<NodeId> = (0..self.failover.len()).map(|n| NodeId(n as u32 + 1)).collect();
        let peers: BTreeMap<_, _> = members.iter().map(|id| (*id, address(id.0 as usize - 1))).collect();
        let group = Group::new(members.clone(), members[index]).unwrap();
        let mut settings = Settings::new(group, self.failover[index]);
        settings.fetch_max = 32 << 10;
        settings.catch_up_rate = self.catch_up_rate;
        let options = MemberOptions {
            cluster: "DefaultCluster".into(),
            name: "broker-a".into(),
            listen: address(index),
            peers,
            settings,
            hot_bytes: 0,
        };
        let (transport, runtime) = (Arc::new(host.clone()), Arc::new(host.clone()));
        let heard = Arc::new(Heard::default());
        let member = Member::start(transport, runtime, store.clone(), options, Arc::clone(&heard) as _)?;
        self.nodes[index] = Some(Node { host, disk, store, member, heard });
        Ok(())
    }

    pub fn run(&self, ms: u64) {
        self.network.run_for(Duration::from_millis(ms));
    }

    /// Disks stall now and then, so nothing has a fixed time.
    pub fn run_until(&self, done: impl Fn() -> bool) {
        for _ in 0..500 {
            if done() {
                return;
            }
            self.run(10);
        }
    }

    pub fn node(&self, index: usize) -> &Node {
        self.nodes[index].as_ref().unwrap()
    }

    pub fn leader(&self) -> Option<usize> {
        (0..self.nodes.len())
            .filter(|index| self.nodes[*index].as_ref().is_some_and(|node| node.member.role().serves()))
            .max_by_key(|index| self.node(*index).member.status().epoch)
    }

    pub fn elect(&self) -> usize {
        for _ in 0..500 {
            self.run(10);
            if let Some(leader) = self.leader() {
                return leader;
            }
        }
        panic!("nobody leads after 5 s: {:?}", self.statuses());
    }

    pub fn statuses(&self) -> Vec<String> {
        let status = |node: &Option<Node>| {
            node.as_ref().map(|node| format!("{:?} {:?}", node.member.status(), node.heard.0))
        };
        self.nodes.iter().map(|node| format!("{:?}", status(node))).collect()
    }

    pub fn kill(&mut self, index: usize, power: bool) -> SimulatedDisk {
        let node = self.nodes[index].take().unwrap();
        if power {
            node.host.power_off()
        } else {
            node.host.kill()
        }
        if power { node.disk.crash() } else { node.disk.kill() }
    }

    pub fn outcome(&self, receipt: &Receipt, index: usize) -> Arc<Mutex<Option<Outcome>>> {
        let told = Arc::new(Mutex::new(None));
        let tell = Arc::clone(&told);
        let told_later = Box::new(move |outcome| *tell.lock().unwrap() = Some(outcome));
        self.node(index).store.when(Durability::Confirmed, receipt.position(), told_later);
        told
    }

    /// Everything that a node keeps of its log, and where that begins.
    pub fn log(&self, index: usize) -> (PhysicalOffset, Vec<u8>) {
        let store = &self.node(index).store;
        let marks = store.marks();
        (marks.min, store.slices(marks.min, marks.written).unwrap().concat())
    }

    pub fn bodies(&self, index: usize) -> Vec<String> {
        let Some(queue) = self.node(index).store.queue("orders", QueueId(0)) else { return Vec::new() };
        let records = queue.read(queue.min(), 10_000).unwrap();
        records.iter().map(|record| String::from_utf8(record.body().to_vec()).unwrap()).collect()
    }
}

pub const RAFT: [Failover; 3] = [Failover::Raft; 3];
