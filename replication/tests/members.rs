//! Groups of nodes with real stores on simulated disks, in virtual time.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use staticfire_replication::{
    Failover, Group, Member, MemberObserver, MemberOptions, NodeId, Role, Settings, control_topic,
};
use staticfire_storage::disk::SimulatedDisk;
use staticfire_storage::{
    Clock, Durability, Message, Outcome, PhysicalOffset, QueueId, Receipt, Store, StoreOptions, TopicName,
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
struct Heard(Mutex<Vec<String>>);

impl MemberObserver for Heard {
    fn cut(&self, to: PhysicalOffset, end: PhysicalOffset) {
        self.0.lock().unwrap().push(format!("cut {}", end.0 - to.0));
    }

    fn failed(&self, what: &str) {
        self.0.lock().unwrap().push(what.to_owned());
    }
}

struct Node {
    host: Host,
    disk: SimulatedDisk,
    store: Store,
    member: Member,
    heard: Arc<Heard>,
}

struct Cluster {
    network: Network,
    disks: Arc<Disks>,
    nodes: Vec<Option<Node>>,
    failover: Vec<Failover>,
}

fn ip(index: usize) -> IpAddr {
    IpAddr::from([10, 0, 0, u8::try_from(index).unwrap()])
}

fn address(index: usize) -> SocketAddr {
    SocketAddr::new(ip(index), 10912)
}

fn message(body: &str) -> Message {
    Message::new(TopicName::new("orders").unwrap(), QueueId(0), body.to_owned())
}

impl Cluster {
    fn start(seed: u64, failover: Vec<Failover>) -> Self {
        let network = Network::seeded(seed);
        let disks = Arc::new(Disks::default());
        network.add_source(Arc::clone(&disks) as _);
        let mut cluster = Self { network, disks, nodes: Vec::new(), failover };
        for index in 0..cluster.failover.len() {
            cluster.nodes.push(None);
            let disk = SimulatedDisk::new(seed + index as u64);
            cluster.boot(index, disk);
        }
        cluster
    }

    fn boot(&mut self, index: usize, disk: SimulatedDisk) {
        let host = self.network.host(ip(index));
        let clock = host.clone();
        let micros = |at: Monotonic| u64::try_from(at.since_start().as_micros()).unwrap();
        disk.set_clock(move || (micros(clock.now()), clock.wall_ms()));
        self.disks.0.lock().unwrap().push(disk.clone());
        let mut options = StoreOptions::on(disk.directory(), Arc::new(HostClock(host.clone())));
        (options.segment_bytes, options.queue_file_entries) = (64 << 10, 100);
        options.durability = Durability::Confirmed;
        options.rules.system_topic = Some(control_topic());
        let store = Store::open(options).unwrap();
        let members: Vec<NodeId> = (0..self.failover.len()).map(|n| NodeId(n as u32 + 1)).collect();
        let peers: BTreeMap<_, _> = members.iter().map(|id| (*id, address(id.0 as usize - 1))).collect();
        let group = Group::new(members.clone(), members[index]).unwrap();
        let mut settings = Settings::new(group, self.failover[index]);
        settings.fetch_max = 32 << 10;
        let options = MemberOptions {
            cluster: "DefaultCluster".into(),
            name: "broker-a".into(),
            listen: address(index),
            peers,
            settings,
        };
        let (transport, runtime) = (Arc::new(host.clone()), Arc::new(host.clone()));
        let heard = Arc::new(Heard::default());
        let member =
            Member::start(transport, runtime, store.clone(), options, Arc::clone(&heard) as _).unwrap();
        self.nodes[index] = Some(Node { host, disk, store, member, heard });
    }

    fn run(&self, ms: u64) {
        self.network.run_for(Duration::from_millis(ms));
    }

    /// Disks stall now and then, so nothing has a fixed time.
    fn run_until(&self, done: impl Fn() -> bool) {
        for _ in 0..500 {
            if done() {
                return;
            }
            self.run(10);
        }
    }

    fn node(&self, index: usize) -> &Node {
        self.nodes[index].as_ref().unwrap()
    }

    fn leader(&self) -> Option<usize> {
        (0..self.nodes.len())
            .filter(|index| self.nodes[*index].as_ref().is_some_and(|node| node.member.role().serves()))
            .max_by_key(|index| self.node(*index).member.status().epoch)
    }

    fn elect(&self) -> usize {
        for _ in 0..500 {
            self.run(10);
            if let Some(leader) = self.leader() {
                return leader;
            }
        }
        panic!("nobody leads after 5 s: {:?}", self.statuses());
    }

    fn statuses(&self) -> Vec<String> {
        let status = |node: &Option<Node>| {
            node.as_ref().map(|node| format!("{:?} {:?}", node.member.status(), node.heard.0))
        };
        self.nodes.iter().map(|node| format!("{:?}", status(node))).collect()
    }

    fn kill(&mut self, index: usize, power: bool) -> SimulatedDisk {
        let node = self.nodes[index].take().unwrap();
        if power {
            node.host.power_off()
        } else {
            node.host.kill()
        }
        if power { node.disk.crash() } else { node.disk.kill() }
    }

    fn outcome(&self, receipt: &Receipt, index: usize) -> Arc<Mutex<Option<Outcome>>> {
        let told = Arc::new(Mutex::new(None));
        let tell = Arc::clone(&told);
        let told_later = Box::new(move |outcome| *tell.lock().unwrap() = Some(outcome));
        self.node(index).store.when(Durability::Confirmed, receipt.position(), told_later);
        told
    }

    fn bodies(&self, index: usize) -> Vec<String> {
        let Some(queue) = self.node(index).store.queue("orders", QueueId(0)) else { return Vec::new() };
        let records = queue.read(queue.min(), 10_000).unwrap();
        records.iter().map(|record| String::from_utf8(record.body().to_vec()).unwrap()).collect()
    }
}

const RAFT: [Failover; 3] = [Failover::Raft; 3];

/// proves: M5, M36, M37, M40, I34, I39: what was OK is there after the leader died, byte for byte
#[test]
fn a_group_elects_copies_and_survives_its_leader() {
    let cases = std::env::var("STATICFIRE_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1_u64);
    for seed in 0..20 * cases {
        let mut cluster = Cluster::start(seed, RAFT.to_vec());
        let first = cluster.elect();
        let mut sent = Vec::new();
        for n in 0..100 {
            let body = format!("{n}: {}", "x".repeat(1000));
            let receipt = cluster.node(first).store.append(&message(&body)).unwrap();
            sent.push((body, cluster.outcome(&receipt, first)));
            cluster.run(1);
        }
        // The last ones are under way, acknowledged or not, when the leader dies.
        let count = || sent.iter().filter(|(_, told)| told.lock().unwrap().is_some()).count();
        cluster.run_until(|| count() > 50);
        let disk = cluster.kill(first, seed % 2 == 0);
        let acked: Vec<String> = sent
            .iter()
            .filter(|(_, told)| *told.lock().unwrap() == Some(Outcome::Reached))
            .map(|(body, _)| body.clone())
            .collect();
        assert!(acked.len() > 50, "seed {seed}: {} of 100 acknowledged", acked.len());
        let second = cluster.elect();
        assert_ne!(first, second);
        let found = cluster.bodies(second);
        assert!(
            found.starts_with(&acked),
            "seed {seed}: {} of {}: {:?}",
            found.len(),
            acked.len(),
            cluster.statuses()
        );
        let receipt = cluster.node(second).store.append(&message("after")).unwrap();
        let told = cluster.outcome(&receipt, second);
        cluster.run_until(|| told.lock().unwrap().is_some());
        let told = *told.lock().unwrap();
        assert_eq!(told, Some(Outcome::Reached), "seed {seed}: {:?}", cluster.statuses());
        cluster.boot(first, disk);
        cluster.run(2000);
        let whole = |index: usize| {
            let store = &cluster.node(index).store;
            store.slices(PhysicalOffset(0), store.marks().written).unwrap().concat()
        };
        let bodies = cluster.bodies(second);
        assert_eq!(bodies.last().map(String::as_str), Some("after"));
        for index in 0..3 {
            assert!(whole(index) == whole(second), "seed {seed}: {:?}", cluster.statuses());
            assert_eq!(cluster.bodies(index), bodies, "seed {seed}");
        }
    }
}

/// proves: M32: in 30 minutes without a master, no slave becomes one
#[test]
fn no_slave_promotes_itself() {
    let failover = vec![Failover::Master { generation: 1 }, Failover::Slave, Failover::Slave];
    let mut cluster = Cluster::start(7, failover);
    assert_eq!(cluster.elect(), 0);
    drop(cluster.kill(0, false));
    for _ in 0..1800 {
        cluster.run(1000);
        assert_eq!(cluster.leader(), None);
    }
    assert!(matches!(cluster.node(1).member.role(), Role::Follower { leader: None, .. }));
}

/// proves: M20, M34, I28: what the old master alone had is cut, kept, and reported when it comes back
#[test]
fn a_promoted_slave_takes_over_and_the_old_master_follows() {
    let failover = vec![Failover::Master { generation: 1 }, Failover::Slave];
    let mut cluster = Cluster::start(3, failover);
    assert_eq!(cluster.elect(), 0);
    for n in 0..10 {
        cluster.node(0).store.append(&message(&format!("{n}"))).unwrap();
    }
    cluster.run(200);
    assert_eq!(cluster.bodies(1).len(), 10);
    cluster.network.partition(&[ip(0)], &[ip(1)]);
    cluster.node(0).store.append(&message("nobody has it")).unwrap();
    cluster.run(200);
    assert_eq!(cluster.bodies(0).len(), 11, "OK meant flushed on the master alone");
    let old = cluster.kill(0, false);
    let slave = cluster.kill(1, false);
    cluster.network.heal();
    cluster.failover = vec![Failover::Slave, Failover::Master { generation: 2 }];
    cluster.boot(1, slave);
    assert_eq!(cluster.elect(), 1);
    let receipt = cluster.node(1).store.append(&message("new")).unwrap();
    cluster.run(200);
    assert_eq!(receipt.queue_offset().0, 10, "numbers go on");
    cluster.boot(0, old);
    cluster.run(2000);
    assert_eq!(cluster.bodies(0), cluster.bodies(1), "{:?}", cluster.statuses());
    let heard = cluster.node(0).heard.0.lock().unwrap().clone();
    assert!(heard.iter().any(|what| what.starts_with("cut ")), "{heard:?}");
}

/// proves: I1, I22, I25, I31, I34, I39, F1, F2, F26: through kills, power cuts and partitions, everything
/// acknowledged stays, once, and in the end all logs are the same
#[test]
fn nothing_acknowledged_is_lost_through_rounds_of_trouble() {
    let cases = std::env::var("STATICFIRE_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1_u64);
    for seed in 0..30 * cases {
        let mut draw = staticfire_replication::Draw::new(seed);
        let mut cluster = Cluster::start(seed, RAFT.to_vec());
        let mut sent: Vec<(String, Arc<Mutex<Option<Outcome>>>)> = Vec::new();
        for round in 0..8 {
            let leader = cluster.elect();
            for n in 0..10 {
                let body = format!("{round}.{n}");
                // The role may have been lost meanwhile.
                if let Ok(receipt) = cluster.node(leader).store.append(&message(&body)) {
                    sent.push((body, cluster.outcome(&receipt, leader)));
                }
                cluster.run(draw.next() % 4);
            }
            let victim = (draw.next() % 3) as usize;
            match draw.next() % 3 {
                0 => {
                    let others: Vec<IpAddr> = (0..3).filter(|node| *node != victim).map(ip).collect();
                    cluster.network.partition(&[ip(victim)], &others);
                    cluster.run(draw.next() % 3000);
                    cluster.network.heal();
                }
                way => {
                    let disk = cluster.kill(victim, way == 1);
                    cluster.run(draw.next() % 3000);
                    cluster.boot(victim, disk);
                }
            }
        }
        let leader = cluster.elect();
        let receipt = cluster.node(leader).store.append(&message("last")).unwrap();
        sent.push(("last".to_owned(), cluster.outcome(&receipt, leader)));
        let ends = |cluster: &Cluster| -> Vec<PhysicalOffset> {
            (0..3).map(|node| cluster.node(node).store.marks().dispatched).collect()
        };
        cluster.run_until(|| {
            let ends = ends(&cluster);
            ends.iter().all(|end| *end >= receipt.position().end)
        });
        let bodies = cluster.bodies(leader);
        for (body, told) in &sent {
            let count = bodies.iter().filter(|found| *found == body).count();
            let wanted = if *told.lock().unwrap() == Some(Outcome::Reached) { 1..=1 } else { 0..=1 };
            assert!(wanted.contains(&count), "seed {seed}: {count} times {body}, {:?}", cluster.statuses());
        }
        for node in 0..3 {
            assert_eq!(cluster.bodies(node), bodies, "seed {seed}, node {node}: {:?}", cluster.statuses());
        }
    }
}

/// proves: I44: the leader can say that it still is one, after asking a majority; nobody else can
#[test]
fn only_a_leader_with_a_majority_answers_reads() {
    let cluster = Cluster::start(5, RAFT.to_vec());
    let leader = cluster.elect();
    cluster.run(500);
    let read = |node: usize| {
        cluster.network.block_on(cluster.node(node).member.read_index(), Duration::from_secs(5)).unwrap()
    };
    let before = cluster.network.now();
    assert!(read(leader));
    assert!(
        cluster.network.now().since(before) < Duration::from_millis(20),
        "one round, no heartbeat waited for"
    );
    assert!(!read((leader + 1) % 3), "a follower cannot say");
    let others: Vec<IpAddr> = (0..3).filter(|node| *node != leader).map(ip).collect();
    cluster.network.partition(&[ip(leader)], &others);
    assert!(!read(leader), "cut off from the others it learns that it leads no more");
}

/// proves: M36, I49: a planned hand-over takes a few round trips, and nothing that was under way is lost
#[test]
fn leadership_is_handed_over() {
    for seed in 0..20 {
        let cluster = Cluster::start(seed, RAFT.to_vec());
        let leader = cluster.elect();
        cluster.run(1000);
        let receipt = cluster.node(leader).store.append(&message("under way")).unwrap();
        let told = cluster.outcome(&receipt, leader);
        let next = (leader + 1) % 3;
        cluster.node(leader).member.transfer(Some(NodeId(next as u32 + 1)));
        assert!(!cluster.node(leader).member.role().accepts(), "it takes no more messages");
        cluster.run_until(|| cluster.leader() == Some(next));
        assert_eq!(cluster.leader(), Some(next), "seed {seed}: {:?}", cluster.statuses());
        assert_eq!(*told.lock().unwrap(), Some(Outcome::Reached), "seed {seed}");
        assert_eq!(cluster.bodies(next), ["under way"], "seed {seed}");
    }
}
