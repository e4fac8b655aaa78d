//! Nodes whose disks have no room, or fail to sync, for a while.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use cluster::{Cluster, RAFT, message};
use staticfire_replication::{Failover, Role};
use staticfire_storage::PhysicalOffset;
use staticfire_storage::disk::{DiskFaults, DiskOperation, FaultEffect};

fn strike(cluster: &Cluster, index: usize, operation: DiskOperation, path: &str, effect: FaultEffect) {
    cluster.node(index).disk.set_faults(DiskFaults::default().on_path(operation, path, effect));
}

fn heal(cluster: &Cluster) {
    (0..3).for_each(|index| cluster.node(index).disk.set_faults(DiskFaults::default()));
}

fn assert_nobody_stopped(cluster: &Cluster) {
    let stopped = |index: &usize| matches!(cluster.node(*index).member.role(), Role::Stopped);
    assert_eq!((0..3).find(stopped), None, "{:?}", cluster.statuses());
}

/// All logs are the same, and new messages are acknowledged.
fn assert_alive(cluster: &Cluster) {
    let leader = cluster.elect();
    let end = cluster.node(leader).store.append(&message("alive")).unwrap().position().end;
    let dispatched = |index| cluster.node(index).store.marks().dispatched;
    cluster.run_until(|| (0..3).all(|index| dispatched(index) >= end));
    let log = |index: usize| {
        let store = &cluster.node(index).store;
        store.slices(PhysicalOffset(0), store.marks().written).unwrap().concat()
    };
    assert!((0..3).all(|index| log(index) == log(leader)), "{:?}", cluster.statuses());
    assert_eq!(cluster.bodies(leader).last().map(String::as_str), Some("alive"));
}

/// proves: I36, F10, F12: a promise that cannot be written is not given, and is given once it can be
#[test]
fn a_node_that_cannot_write_its_promise_does_not_vote_until_it_can() {
    let ways = [
        (DiskOperation::Create, FaultEffect::StorageFull),
        (DiskOperation::Write, FaultEffect::StorageFull),
        (DiskOperation::SyncFile, FaultEffect::Io),
        (DiskOperation::Rename, FaultEffect::Io),
    ];
    for (operation, effect) in ways {
        let mut cluster = Cluster::start(5, RAFT.to_vec());
        let first = cluster.elect();
        cluster.run(1000);
        for index in (0..3).filter(|index| *index != first) {
            strike(&cluster, index, operation, "staticfire/promise", effect);
        }
        let epoch = cluster.node(first).member.status().epoch;
        let disk = cluster.kill(first, true);
        cluster.run(3000);
        assert_eq!(cluster.leader(), None, "{operation:?}: {:?}", cluster.statuses());
        cluster.boot(first, disk);
        cluster.run(3000);
        assert_nobody_stopped(&cluster);
        assert_eq!(cluster.leader(), None, "one vote of three: {:?}", cluster.statuses());
        heal(&cluster);
        assert_alive(&cluster);
        let leader = cluster.elect();
        assert!(cluster.node(leader).member.status().epoch > epoch, "the vote was an old one");
        let heard: Vec<String> =
            (0..3).flat_map(|index| cluster.node(index).heard.0.lock().unwrap().clone()).collect();
        assert!(heard.iter().any(|what| what.ends_with("trying again")), "{operation:?}: {heard:?}");
    }
}

/// proves: I36, Z3: nothing that depends on a promise leaves while its sync is under way
#[test]
fn a_vote_waits_for_the_sync_of_its_promise() {
    let mut cluster = Cluster::start(6, RAFT.to_vec());
    let first = cluster.elect();
    cluster.run(1000);
    for index in (0..3).filter(|index| *index != first) {
        strike(&cluster, index, DiskOperation::SyncFile, "staticfire/promise", FaultEffect::Never);
    }
    drop(cluster.kill(first, true));
    cluster.run(10_000);
    assert_eq!(cluster.leader(), None, "{:?}", cluster.statuses());
}

/// proves: F10, I49: who cannot begin its epoch for want of room leaves it to others, or, where the
/// operator chose it, tries again
#[test]
fn a_leader_without_room_for_its_barrier_goes_on_later() {
    let master = vec![Failover::Master { generation: 1 }, Failover::Slave, Failover::Slave];
    for failover in [RAFT.to_vec(), master] {
        let cluster = Cluster::start(7, failover);
        for index in 0..3 {
            strike(&cluster, index, DiskOperation::Create, "commitlog", FaultEffect::StorageFull);
        }
        cluster.run(5000);
        assert_eq!(cluster.leader(), None);
        assert_nobody_stopped(&cluster);
        let refused = |what: &String| what.contains("cannot begin");
        let heard = |index: usize| cluster.node(index).heard.0.lock().unwrap().iter().any(refused);
        assert!((0..3).any(heard), "{:?}", cluster.statuses());
        heal(&cluster);
        assert_alive(&cluster);
    }
}

/// proves: F10, I32, I34: a follower without room copies on once it has some, and delays nobody
#[test]
fn a_follower_without_room_copies_on_later() {
    let cluster = Cluster::start(8, RAFT.to_vec());
    let leader = cluster.elect();
    let poor = (leader + 1) % 3;
    strike(&cluster, poor, DiskOperation::Create, "commitlog", FaultEffect::StorageFull);
    for n in 0..200 {
        cluster.node(leader).store.append(&message(&format!("{n}: {}", "x".repeat(1000)))).unwrap();
        cluster.run(5);
    }
    cluster.run(200);
    let marks = cluster.node(leader).store.marks();
    assert_eq!(marks.confirmed, marks.appended, "two of three are enough");
    assert!(cluster.node(poor).store.marks().written < marks.written);
    assert_nobody_stopped(&cluster);
    heal(&cluster);
    assert_alive(&cluster);
    assert_eq!(cluster.elect(), leader, "nobody was disturbed");
}
