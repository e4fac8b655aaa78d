//! Groups of nodes with real stores on simulated disks, in virtual time.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cluster::{Cluster, RAFT, ip, message};
use staticfire_replication::{Failover, MemberError, NodeId, Role};
use staticfire_storage::disk::{DiskFaults, DiskOperation, FaultEffect};
use staticfire_storage::{Outcome, PhysicalOffset};

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
    assert!(heard.iter().any(|what| what.starts_with("event=log-cut reason=retracted from=")), "{heard:?}");
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

/// proves: M35, B49: an epoch of such a generation would not fit
#[test]
fn a_generation_that_fits_no_epoch_is_refused() {
    for generation in [0, 32_768, u16::MAX] {
        let started = Cluster::try_start(1, vec![Failover::Master { generation }, Failover::Slave]);
        let refused = started.map(drop).unwrap_err();
        assert!(matches!(refused, MemberError::Generation(it) if it == generation), "{refused}");
    }
    let cluster = Cluster::start(1, vec![Failover::Master { generation: 32_767 }, Failover::Slave]);
    assert_eq!(cluster.elect(), 0);
}

/// proves: D2, I34, I48: the last records of an old leader, published only while it was being fenced,
/// belong to its log as the replica knows it: it is cut and copies on
#[test]
#[allow(clippy::disallowed_methods, reason = "a producer that is in the middle of an append needs a thread")]
fn a_fence_tells_of_what_producers_finish_meanwhile() {
    let cluster = Cluster::start(4, RAFT.to_vec());
    let old = cluster.elect();
    cluster.run(1000);
    let store = cluster.node(old).store.clone();
    let stopped = store.reserve(&[message("late")]).unwrap();
    let epoch = store.marks().epoch;
    let producer = std::thread::spawn(move || {
        while store.marks().epoch == epoch {
            std::thread::yield_now();
        }
        stopped.publish().remove(0).position()
    });
    let others: Vec<IpAddr> = (0..3).filter(|node| *node != old).map(ip).collect();
    cluster.network.partition(&[ip(old)], &others);
    cluster.run(3000);
    let late = producer.join().unwrap();
    assert_eq!(late.epoch, epoch);
    assert_eq!(cluster.node(old).member.status().last.end, late.end, "the replica knows of it");
    let new = cluster.elect();
    assert_ne!(new, old);
    let receipt = cluster.node(new).store.append(&message("new")).unwrap();
    cluster.network.heal();
    cluster.run_until(|| cluster.node(old).store.marks().dispatched >= receipt.position().end);
    assert_eq!(cluster.bodies(old), ["new"], "{:?}", cluster.statuses());
}

/// What left the leader's memory is read by threads of the disk before it is shipped, in whatever order these
/// end; it is shipped in the order of the log, and each byte once.
#[test]
fn a_slave_gets_history_that_left_the_memory() {
    for seed in 9..19 {
        let failover = vec![Failover::Master { generation: 1 }, Failover::Slave, Failover::Slave];
        let mut cluster = Cluster::start(seed, failover);
        assert_eq!(cluster.elect(), 0);
        let disks = [cluster.kill(1, false), cluster.kill(2, false)];
        for n in 0..400 {
            cluster.node(0).store.append(&message(&format!("{n}: {}", "x".repeat(1000)))).unwrap();
        }
        cluster.run(1000);
        let before = cluster.node(0).disk.bytes_read();
        cluster.node(0).disk.set_faults(DiskFaults { cold: true, ..DiskFaults::calm() });
        let [first, second] = disks;
        cluster.boot(1, first);
        cluster.boot(2, second);
        let end = cluster.node(0).store.marks().written;
        cluster.run_until(|| (1..3).all(|slave| cluster.node(slave).store.marks().written == end));
        // For each slave a slice, and the read before somebody looks at it; the first answers go out twice.
        let read = cluster.node(0).disk.bytes_read() - before;
        assert!(read < 4 * end.0 + (256 << 10), "seed {seed}: {read} bytes read to ship {end} twice");
        for slave in 1..3 {
            assert!(cluster.log(slave) == cluster.log(0), "seed {seed}: {:?}", cluster.statuses());
        }
    }
}

/// A slave whose history the leader's disk could not read asks again.
#[test]
fn history_that_could_not_be_read_is_asked_for_again() {
    let failover = vec![Failover::Master { generation: 1 }, Failover::Slave, Failover::Slave];
    let mut cluster = Cluster::start(9, failover);
    assert_eq!(cluster.elect(), 0);
    let disk = cluster.kill(1, false);
    for n in 0..40 {
        cluster.node(0).store.append(&message(&format!("{n}: {}", "x".repeat(1000)))).unwrap();
    }
    cluster.run(1000);
    // The first read takes the slices, which looks at nothing.
    let cold = DiskFaults { cold: true, ..DiskFaults::calm() };
    cluster.node(0).disk.set_faults(cold.on_nth(DiskOperation::Read, 2, FaultEffect::Io));
    cluster.boot(1, disk);
    cluster.run_until(|| cluster.node(1).store.marks().written == cluster.node(0).store.marks().written);
    assert!(cluster.log(1) == cluster.log(0), "{:?}", cluster.statuses());
    assert_eq!(cluster.bodies(1).len(), 40);
}
