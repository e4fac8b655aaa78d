//! Followers that end below what their leader keeps.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use cluster::{Cluster, RAFT, message};
use staticfire_replication::{Draw, Failover};
use staticfire_storage::disk::SimulatedDisk;
use staticfire_storage::{PhysicalOffset, QueueId};

/// The leader writes several segments, and keeps only the last one.
fn fill_and_forget(cluster: &Cluster, leader: usize) {
    for n in 0..400 {
        cluster.node(leader).store.append(&message(&format!("{n}: {}", "x".repeat(1000)))).unwrap();
        cluster.run(2);
    }
    cluster.run(200);
    // The first time it waits until the epochs are noted of what shall go.
    cluster.node(leader).store.retain().unwrap();
    assert_eq!(cluster.node(leader).store.marks().min, PhysicalOffset(0));
    cluster.run(200);
    cluster.node(leader).store.retain().unwrap();
    assert!(cluster.node(leader).store.marks().min > PhysicalOffset(3 * (64 << 10)));
}

/// `node` has the leader's log, as far as that goes, and its queue.
fn assert_same(cluster: &Cluster, node: usize, leader: usize) {
    let end = cluster.node(leader).store.marks().dispatched;
    cluster.run_until(|| cluster.node(node).store.marks().dispatched >= end);
    assert_eq!(cluster.log(node), cluster.log(leader), "{:?}", cluster.statuses());
    assert_eq!(cluster.bodies(node), cluster.bodies(leader));
    let queue = |index: usize| cluster.node(index).store.queue("orders", QueueId(0)).unwrap();
    assert_eq!((queue(node).min(), queue(node).max()), (queue(leader).min(), queue(leader).max()));
}

fn restarted(cluster: &Cluster, node: usize) -> bool {
    cluster.node(node).heard.0.lock().unwrap().iter().any(|what| what.starts_with("restarted"))
}

/// proves: I30, I34, I47: a follower that was away for longer than the leader keeps, and one whose disk is
/// new, begin where the leader's log begins; then they can lead
#[test]
fn who_was_away_too_long_begins_where_the_leader_does() {
    for empty in [false, true] {
        let mut cluster = Cluster::start(21, RAFT.to_vec());
        let leader = cluster.elect();
        cluster.node(leader).store.append(&message("before")).unwrap();
        cluster.run(500);
        let (away, third) = ((leader + 1) % 3, (leader + 2) % 3);
        let disk = cluster.kill(away, true);
        fill_and_forget(&cluster, leader);
        let back = if empty { SimulatedDisk::new(99) } else { disk };
        cluster.boot(away, back);
        cluster.run(2000);
        assert!(restarted(&cluster, away), "{:?}", cluster.statuses());
        let heard = cluster.node(away).heard.0.lock().unwrap().clone();
        let said = |what: &&String| what.starts_with("event=log-cut reason=anew from=0 ");
        assert_eq!(heard.iter().filter(said).count(), 1, "I76: {heard:?}");
        assert_same(&cluster, away, leader);

        // The one with the whole log is gone, and so is the leader when the other has come back.
        let disk = cluster.kill(third, false);
        let last = cluster.node(leader).store.append(&message("last")).unwrap();
        let told = cluster.outcome(&last, leader);
        cluster.run_until(|| told.lock().unwrap().is_some());
        drop(cluster.kill(leader, true));
        cluster.boot(third, disk);
        assert_eq!(cluster.elect(), away, "only it has the last message");
        let number = cluster.node(away).store.append(&message("new")).unwrap().queue_offset();
        assert_eq!(number.0, last.queue_offset().0 + 1);
        cluster.run(1000);
        let bodies = cluster.bodies(away);
        assert!(bodies.ends_with(&["last".into(), "new".into()]) && cluster.bodies(third).ends_with(&bodies));
    }
}

/// proves: M20, I30: a slave is brought up in the same way when the operator decides
#[test]
fn a_slave_begins_where_its_master_does() {
    let mut cluster = Cluster::start(22, vec![Failover::Master { generation: 1 }, Failover::Slave]);
    assert_eq!(cluster.elect(), 0);
    drop(cluster.kill(1, false));
    fill_and_forget(&cluster, 0);
    cluster.boot(1, SimulatedDisk::new(98));
    cluster.run(1000);
    assert_same(&cluster, 1, 0);
}

/// proves: I4, I17, I36: a power cut at any time of it, and the node begins once more
#[test]
fn a_node_that_fails_while_it_begins_anew_does_so_again() {
    let mut restarts = 0;
    for seed in 0..40 {
        let mut draw = Draw::new(seed);
        let mut cluster = Cluster::start(seed, RAFT.to_vec());
        let leader = cluster.elect();
        for n in 0..draw.next() % 90 {
            cluster.node(leader).store.append(&message(&format!("{n}: {}", "y".repeat(1000)))).unwrap();
            cluster.run(2);
        }
        cluster.run(500);
        let away = (leader + 1) % 3;
        let mut disk = cluster.kill(away, true);
        fill_and_forget(&cluster, leader);
        for _ in 0..3 {
            disk.crash_at_step(disk.steps() + draw.next() % 120);
            cluster.boot_if_whole(away, disk.clone());
            cluster.run(draw.next() % 500);
            disk = match &cluster.nodes[away] {
                Some(_) => cluster.kill(away, true),
                None => disk.crash(),
            };
        }
        cluster.boot(away, disk);
        cluster.run(2000);
        restarts += usize::from(restarted(&cluster, away));
        assert_same(&cluster, away, leader);
    }
    println!("{restarts} of 40 began anew in their last life");
}

/// proves: I14, DESIGN §7 rules 2 and 3: what retention removed was noted before, so all nodes that keep
/// only the newest segment start again and know in which epochs their logs begin
#[test]
fn a_whole_group_starts_again_after_retention() {
    let mut cluster = Cluster::start(23, RAFT.to_vec());
    let leader = cluster.elect();
    fill_and_forget(&cluster, leader);
    for node in 0..3 {
        cluster.node(node).store.retain().unwrap();
        cluster.run(200);
        cluster.node(node).store.retain().unwrap();
        assert!(cluster.node(node).store.marks().min > PhysicalOffset(3 * (64 << 10)));
    }
    let disks: Vec<_> = (0..3).map(|node| cluster.kill(node, true)).collect();
    disks.into_iter().enumerate().for_each(|(node, disk)| cluster.boot(node, disk));
    let leader = cluster.elect();
    cluster.node(leader).store.append(&message("after")).unwrap();
    cluster.run(500);
    for node in 0..3 {
        assert!(cluster.bodies(node).ends_with(&["after".into()]), "{:?}", cluster.statuses());
    }
}
