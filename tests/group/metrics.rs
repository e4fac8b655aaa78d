//! What Prometheus is told of a group.

use staticfire::broker::prometheus;
use staticfire::protocol::codes::response;
use staticfire::replication::{Failover, Mode};
use staticfire::sim::{Node, Running};
use staticfire::storage::disk::{DiskFaults, DiskOperation, FaultEffect};

use crate::world::{cluster_with, leader, manual, ms, node, pull, raft, send, started};

/// The value of a metric of this broker; `labels` as they are written, those that all lines have left out.
fn metric(running: &Running, broker: Node, name: &str, labels: &str) -> Option<f64> {
    let text = prometheus(&[running.broker(broker).unwrap().node_view()]);
    text.lines().find_map(|line| {
        let (found, rest) = line.strip_prefix("staticfire_")?.split_once('{')?;
        let (all, value) = rest.split_once("} ")?;
        let own = all.split(',').skip(3).collect::<Vec<_>>().join(",");
        (found == name && own == labels).then(|| value.parse().unwrap())
    })
}

#[track_caller]
fn says(running: &Running, broker: Node, name: &str, labels: &str, value: f64) {
    assert_eq!(metric(running, broker, name, labels), Some(value), "{name} of {broker}");
}

/// proves: I75: acknowledgements and how long they took, elections and why, marks and fences
#[test]
fn a_group_tells_what_it_has_done() {
    let mut running = raft(31);
    let first = leader(&running);
    let peer = running.peer(1, first.address()).unwrap();
    for number in 0..7 {
        assert_eq!(peer.ask(send(&format!("message {number}"))).code, response::SUCCESS);
    }
    running.run_for(ms(300));
    says(&running, first, "acknowledgement_seconds_count", "mode=\"quorum\"", 7.0);
    says(&running, first, "acknowledgement_seconds_bucket", "mode=\"quorum\",le=\"+Inf\"", 7.0);
    assert!(metric(&running, first, "acknowledgement_seconds_sum", "mode=\"quorum\"").unwrap() > 0.0);
    says(&running, first, "acknowledgements_late_total", "mode=\"quorum\"", 0.0);
    for (name, value) in [("leads", 1.0), ("poisoned", 0.0), ("leaderships_total", 1.0)] {
        says(&running, first, name, "", value);
    }
    // The group's own, in its system topics, count too.
    assert!(metric(&running, first, "messages", "").unwrap() >= 7.0);
    says(&running, first, "unconfirmed_messages", "", 0.0);
    assert!(metric(&running, first, "elections_total", "why=\"silence\"").unwrap() >= 1.0);
    running.broker(first).unwrap().transfer(None);
    running.run_for(ms(500));
    let second = leader(&running);
    assert_ne!(second, first);
    says(&running, second, "elections_total", "why=\"handover\"", 1.0);
    says(&running, first, "leaderships_lost_total", "", 1.0);
    assert!(metric(&running, first, "fences_total", "").unwrap() >= 1.0);
    running.kill(second);
    let third = leader(&running);
    assert!(metric(&running, third, "elections_total", "why=\"silence\"").unwrap() >= 1.0);
}

/// proves: I75: lag and would-be loss in bytes and messages, late acknowledgements, parked fetches
#[test]
fn a_master_tells_what_slaves_lack() {
    let mut running = manual(32, "replicated 1");
    let peer = running.peer(1, node(0).address()).unwrap();
    assert_eq!(peer.ask(send("copied")).code, response::SUCCESS);
    running.run_for(ms(300));
    says(&running, node(0), "slave_lag_messages", "slave=\"2\"", 0.0);
    // How many a slave has under way is its own affair.
    assert!(metric(&running, node(0), "slave_parked_fetches", "slave=\"2\"").unwrap() >= 1.0);
    says(&running, node(0), "elections_total", "why=\"operator\"", 1.0);
    [1, 2].into_iter().for_each(|slave| running.partition(node(0), node(slave)));
    let late = peer.ask(send("here alone"));
    assert_eq!(late.code, response::SLAVE_NOT_AVAILABLE, "{late:?}");
    says(&running, node(0), "acknowledgements_late_total", "mode=\"replicated 1\"", 1.0);
    says(&running, node(0), "acknowledgement_seconds_count", "mode=\"replicated 1\"", 1.0);
    for slave in ["slave=\"2\"", "slave=\"3\""] {
        says(&running, node(0), "slave_lag_messages", slave, 1.0);
        assert!(metric(&running, node(0), "slave_lag_bytes", slave).unwrap() > 0.0);
    }
    says(&running, node(0), "unconfirmed_messages", "", 1.0);
    assert!(metric(&running, node(0), "unconfirmed_bytes", "").unwrap() > 0.0);
}

/// proves: I75, M27: whom consumers were told to ask next
#[test]
fn a_busy_master_tells_whom_it_advised() {
    let busy = |options: &mut staticfire::broker::BrokerOptions| options.busy_reading = 0..=0;
    let running = started(cluster_with(33, |_| Failover::Raft, Mode::Quorum, busy));
    let leading = leader(&running);
    let master = running.peer(1, leading.address()).unwrap();
    for number in 0..70 {
        assert_eq!(master.ask(send(&format!("message {number}"))).code, response::SUCCESS);
    }
    running.run_for(ms(300));
    let advised = master.ask(pull(0, 0)).ext.get("suggestWhichBrokerId").unwrap().to_owned();
    says(&running, leading, "busy_reading", "", 1.0);
    says(&running, leading, "advised_pulls_total", &format!("slave=\"{advised}\""), 1.0);
}

/// proves: I75, I5: a failed flush shows
#[test]
fn a_failed_flush_shows() {
    let running = manual(34, "flushed");
    says(&running, node(0), "poisoned", "", 0.0);
    let fails = DiskFaults::calm().on_path(DiskOperation::SyncFile, "commitlog", FaultEffect::Io);
    running.disk(node(0)).set_faults(fails);
    let peer = running.peer(1, node(0).address()).unwrap();
    assert_ne!(peer.ask(send("lost?")).code, response::SUCCESS);
    says(&running, node(0), "poisoned", "", 1.0);
}
