//! What brokers are and have done, as Prometheus reads it: the text format, version 0.0.4.

use std::fmt::Write;

use super::node::NodeView;
use crate::protocol::body::NodeStatus;

/// A metric: name, kind, what it says, and its value for a broker.
type Metric = (&'static str, &'static str, &'static str, fn(&NodeStatus) -> u64);

const OF_BROKER: [Metric; 16] = [
    ("leads", "gauge", "1 for the broker that leads its group and answers; 1 for one that is alone.", |s| {
        u64::from(s.serves || s.role == "alone")
    }),
    ("accepts", "gauge", "1 while messages are taken.", |s| u64::from(s.accepts || s.role == "alone")),
    ("stopped", "gauge", "1 for a node that takes part in nothing until it is started again.", |s| {
        u64::from(s.role == "stopped")
    }),
    ("trouble", "gauge", "1 after something failed; the standard error of the broker says what.", |s| {
        u64::from(s.trouble.is_some())
    }),
    ("epoch", "gauge", "The newest epoch known.", |s| s.epoch),
    ("log_min_bytes", "gauge", "Where the log begins.", |s| s.min),
    ("log_end_bytes", "gauge", "Where the log ends.", |s| s.end),
    ("log_flushed_bytes", "gauge", "On stable storage up to here.", |s| s.flushed),
    ("log_confirmed_bytes", "gauge", "Can no longer be taken back up to here.", |s| s.confirmed),
    ("unconfirmed_bytes", "gauge", "Would be lost if this node were.", |s| s.end.saturating_sub(s.confirmed)),
    ("messages", "gauge", "Messages in all queues.", |s| s.messages),
    ("in_sync_slaves", "gauge", "Slaves that count now.", |s| s.in_sync as u64),
    ("leaderships_total", "counter", "How often this node began to lead since it started.", |s| {
        s.leaderships
    }),
    ("truncated_bytes_total", "counter", "Bytes cut from this log, and kept as orphans.", |s| {
        s.truncated_bytes
    }),
    ("messages_put_total", "counter", "Messages taken from producers since the start.", |s| s.put),
    ("messages_got_total", "counter", "Messages handed to consumers since the start.", |s| s.got),
];

/// The metrics of these brokers, those that are gone left out.
#[must_use]
pub fn prometheus(brokers: &[NodeView]) -> String {
    render(&brokers.iter().filter_map(NodeView::status).collect::<Vec<_>>())
}

fn render(brokers: &[NodeStatus]) -> String {
    let mut text = String::new();
    for (name, kind, help, value) in OF_BROKER {
        head(&mut text, name, kind, help);
        for status in brokers {
            let _ = writeln!(text, "staticfire_{name}{{{}}} {}", labels(status), value(status));
        }
    }
    head(&mut text, "slave_lag_bytes", "gauge", "Bytes of the leader's log that a slave does not have.");
    for (status, slave) in slaves(brokers) {
        let (labels, lag) = (labels(status), slave.lag_bytes);
        let _ = writeln!(text, "staticfire_slave_lag_bytes{{{labels},slave=\"{}\"}} {lag}", slave.node);
    }
    head(&mut text, "slave_parked_fetches", "gauge", "Fetches of a slave that wait for something new.");
    for (status, slave) in slaves(brokers) {
        let (labels, parked) = (labels(status), slave.parked);
        let _ =
            writeln!(text, "staticfire_slave_parked_fetches{{{labels},slave=\"{}\"}} {parked}", slave.node);
    }
    text
}

fn slaves(brokers: &[NodeStatus]) -> impl Iterator<Item = (&NodeStatus, &crate::protocol::body::OtherNode)> {
    brokers.iter().flat_map(|status| status.others.iter().map(move |other| (status, other)))
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP staticfire_{name} {help}\n# TYPE staticfire_{name} {kind}");
}

/// Names of clusters and brokers hold nothing that would have to be escaped but what a library user
/// gave them.
fn labels(status: &NodeStatus) -> String {
    let plain = |text: &str| text.replace(['\\', '"', '\n'], "_");
    let NodeStatus { cluster, broker_name, node, .. } = status;
    format!("cluster=\"{}\",broker=\"{}\",node=\"{node}\"", plain(cluster), plain(broker_name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::body::OtherNode;

    #[test]
    fn each_metric_is_described_once_and_has_a_line_for_each_broker() {
        let other = OtherNode { node: 2, lag_bytes: 17, ..OtherNode::default() };
        let leader = NodeStatus {
            cluster: "c".into(),
            broker_name: "b\"".into(),
            node: 1,
            serves: true,
            epoch: 3,
            others: vec![other],
            ..NodeStatus::default()
        };
        let text = render(&[leader, NodeStatus { node: 2, ..NodeStatus::default() }]);
        assert_eq!(text.matches("# TYPE staticfire_epoch gauge").count(), 1);
        for line in [
            "staticfire_leads{cluster=\"c\",broker=\"b_\",node=\"1\"} 1",
            "staticfire_leads{cluster=\"\",broker=\"\",node=\"2\"} 0",
            "staticfire_epoch{cluster=\"c\",broker=\"b_\",node=\"1\"} 3",
            "staticfire_slave_lag_bytes{cluster=\"c\",broker=\"b_\",node=\"1\",slave=\"2\"} 17",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }
}
