//! What brokers are and have done, as Prometheus reads it: the text format, version 0.0.4.
//!
//! All names begin with `staticfire_`; all lines say `cluster`, `broker` and `node` (0: not in a group).
//! Counters count since the start of the process. Bytes are positions in the commit log or their
//! differences.
//!
//! | metric | more labels | unit | meaning |
//! |---|---|---|---|
//! | `leads` | | 0, 1 | leads its group and answers, or is alone |
//! | `accepts` | | 0, 1 | takes messages: leads, and does not hand over just now |
//! | `stopped` | | 0, 1 | takes part in nothing until it is started again |
//! | `trouble` | | 0, 1 | something failed; standard error says what |
//! | `poisoned` | | 0, 1 | a write or flush failed, and the store takes nothing until it is opened again |
//! | `epoch` | | | the newest leadership period known |
//! | `log_min_bytes`, `log_end_bytes` | | bytes | where the log begins and ends |
//! | `log_flushed_bytes` | | bytes | on stable storage up to here |
//! | `log_confirmed_bytes` | | bytes | shown to consumers, and kept through any failover, up to here |
//! | `unconfirmed_bytes`, `unconfirmed_messages` | | bytes, messages | would be lost if this node were, now |
//! | `slave_lag_bytes`, `slave_lag_messages` | `slave` | bytes, messages | of the leader's log, what a slave does not have |
//! | `slave_parked_fetches` | `slave` | requests | a slave's fetches that wait for something new |
//! | `slave_catching_up` | `slave` | 0, 1 | it is far behind, is copied to at the rate the options allow, and is not in sync |
//! | `held_pulls` | | requests | consumers' pulls that wait for something new |
//! | `busy_reading` | | 0, 1 | consumers take more than its options call busy: slaves are advised for what they show |
//! | `messages` | | messages | in all queues: confirmed, and not yet removed |
//! | `messages_put_total`, `messages_got_total` | | messages | taken from producers; handed to consumers |
//! | `in_sync_slaves` | | nodes | slaves that count now |
//! | `acknowledgement_seconds` | `mode`, `le` | seconds | histogram: from the arrival of a send to its OK |
//! | `acknowledgements_late_total` | `mode` | sends | stored, and not as safe in time as the mode promises: not OK |
//! | `elections_total` | `why` | | stood for election: `silence` (no leader heard of), `handover` (the leader asked it to); made master: `operator` |
//! | `leaderships_total`, `leaderships_lost_total` | | | began to lead; led, and does no more |
//! | `fences_total` | | | closed the log to the producers of an epoch that ended |
//! | `truncated_bytes_total` | | bytes | cut from this log, and kept as orphans |
//! | `log_cuts_total` | `why` | | `diverged`: a newer leader did not have it; `retracted`: the operator's master did not; `anew`: the leader's log began later; `torn`: a crash had left the end incomplete |
//! | `advised_pulls_total` | `slave` | pulls | told the consumer to ask this slave next |
//!
//! Messages of a lag are counted up to 10,000 and estimated from their bytes beyond.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use staticfire_replication::{Failover, Load};
use staticfire_storage::orphans::CutReason;
use staticfire_storage::{PhysicalOffset, Store};

use super::latency::{BOUNDS_US, Latencies};
use super::node::NodeView;
use super::shared::{Shared, lock};
use crate::protocol::body::{NodeStatus, OtherNode};

/// Messages of a lag that are counted; what is longer is estimated.
const COUNTED_MAX: u64 = 10_000;

/// A broker at one moment.
#[derive(Debug, Default)]
pub(super) struct Seen {
    status: NodeStatus,
    poisoned: bool,
    held_pulls: usize,
    /// With consumers.
    busy: bool,
    unconfirmed_messages: u64,
    /// By slave.
    lag_messages: BTreeMap<u32, u64>,
    /// By slave.
    advised: BTreeMap<i64, u64>,
    latencies: Latencies,
    /// By why.
    elections: [(&'static str, u64); 3],
    /// By reason.
    cuts: BTreeMap<&'static str, u64>,
    leaderships_lost: u64,
    fences: u64,
}

/// A metric: name, kind, what it says, and its value for a broker.
type Metric = (&'static str, &'static str, &'static str, fn(&Seen) -> u64);

const OF_BROKER: [Metric; 22] = [
    ("leads", "gauge", "1 for the broker that leads its group and answers; 1 for one that is alone.", |s| {
        u64::from(s.status.serves || s.status.role == "alone")
    }),
    ("accepts", "gauge", "1 while messages are taken.", |s| {
        u64::from(s.status.accepts || s.status.role == "alone")
    }),
    ("stopped", "gauge", "1 for a node that takes part in nothing until it is started again.", |s| {
        u64::from(s.status.role == "stopped")
    }),
    ("trouble", "gauge", "1 after something failed; the standard error of the broker says what.", |s| {
        u64::from(s.status.trouble.is_some())
    }),
    ("poisoned", "gauge", "1 after a write or flush failed, until the store is opened again.", |s| {
        u64::from(s.poisoned)
    }),
    ("epoch", "gauge", "The newest epoch known.", |s| s.status.epoch),
    ("log_min_bytes", "gauge", "Where the log begins.", |s| s.status.min),
    ("log_end_bytes", "gauge", "Where the log ends.", |s| s.status.end),
    ("log_flushed_bytes", "gauge", "On stable storage up to here.", |s| s.status.flushed),
    ("log_confirmed_bytes", "gauge", "Can no longer be taken back up to here.", |s| s.status.confirmed),
    ("unconfirmed_bytes", "gauge", "Would be lost if this node were.", |s| {
        s.status.end.saturating_sub(s.status.confirmed)
    }),
    ("unconfirmed_messages", "gauge", "Messages that would be lost if this node were.", |s| {
        s.unconfirmed_messages
    }),
    ("busy_reading", "gauge", "1 while consumers take more than its options call busy.", |s| {
        u64::from(s.busy)
    }),
    ("held_pulls", "gauge", "Pulls that wait for something new.", |s| s.held_pulls as u64),
    ("messages", "gauge", "Messages in all queues.", |s| s.status.messages),
    ("in_sync_slaves", "gauge", "Slaves that count now.", |s| s.status.in_sync as u64),
    ("leaderships_total", "counter", "How often this node began to lead since it started.", |s| {
        s.status.leaderships
    }),
    ("leaderships_lost_total", "counter", "How often it led and then did no more.", |s| s.leaderships_lost),
    ("fences_total", "counter", "How often the log was closed to an epoch that ended.", |s| s.fences),
    ("truncated_bytes_total", "counter", "Bytes cut from this log, and kept as orphans.", |s| {
        s.status.truncated_bytes
    }),
    ("messages_put_total", "counter", "Messages taken from producers since the start.", |s| s.status.put),
    ("messages_got_total", "counter", "Messages handed to consumers since the start.", |s| s.status.got),
];

/// The metrics of these brokers, those that are gone left out.
#[must_use]
pub fn prometheus(brokers: &[NodeView]) -> String {
    render(&brokers.iter().filter_map(NodeView::seen).collect::<Vec<_>>())
}

impl Shared {
    /// What there is to be said of this broker now. Reads the part of the log that slaves lack.
    pub(super) fn seen(&self) -> Seen {
        let status = self.node_status();
        let counted = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut seen = Seen {
            poisoned: self.store.failure().is_some(),
            held_pulls: lock(&self.polls).len(),
            busy: self.read_load.load() == Load::Busy,
            unconfirmed_messages: messages_from(&self.store, status.confirmed),
            advised: lock(&self.counters.advised_slaves).clone(),
            latencies: self.latency.counted(),
            ..Seen::default()
        };
        if self.store.report().log.tail.is_some() {
            seen.cuts.insert(CutReason::Torn.name(), 1);
        }
        if let Some(node) = &self.node {
            seen.cuts.extend(&lock(&node.cuts).times);
            let elects = node.options.failover == Failover::Raft;
            seen.elections = [
                ("silence", counted(&node.turns.silence)),
                ("handover", counted(&node.turns.handed)),
                ("operator", if elects { 0 } else { status.leaderships }),
            ];
            (seen.leaderships_lost, seen.fences) = (counted(&node.turns.lost), counted(&node.turns.fences));
        }
        let lag = |slave: &OtherNode| (slave.node, messages_from(&self.store, slave.matched.max(status.min)));
        seen.lag_messages = status.others.iter().map(lag).collect();
        Seen { status, ..seen }
    }
}

/// How many messages stand from `start` to the end of the log; 0 when that cannot be read.
fn messages_from(store: &Store, start: u64) -> u64 {
    let end = store.marks().written.0;
    let mut messages = 0;
    for record in store.records(PhysicalOffset(start)).map_while(Result::ok) {
        messages += 1;
        if messages == COUNTED_MAX {
            let read = record.physical().after(record.len().into()).0;
            let estimate =
                u128::from(messages) * u128::from(end.max(read) - start) / u128::from(read - start);
            return u64::try_from(estimate).unwrap_or(u64::MAX);
        }
    }
    messages
}

fn render(brokers: &[Seen]) -> String {
    let mut text = String::new();
    for (name, kind, help, value) in OF_BROKER {
        head(&mut text, name, kind, help);
        for seen in brokers {
            let _ = writeln!(text, "staticfire_{name}{{{}}} {}", labels(&seen.status), value(seen));
        }
    }
    let slaves = |value: fn(&Seen, &OtherNode) -> u64| {
        move |seen: &Seen| {
            let row = |slave: &OtherNode| (slave.node.to_string(), value(seen, slave));
            seen.status.others.iter().map(row).collect()
        }
    };
    let bytes = slaves(|_, slave| slave.lag_bytes);
    by(
        &mut text,
        brokers,
        "slave_lag_bytes",
        "gauge",
        ("slave", "Of the leader's log, what it lacks."),
        bytes,
    );
    let messages = slaves(|seen, slave| seen.lag_messages.get(&slave.node).copied().unwrap_or(0));
    by(&mut text, brokers, "slave_lag_messages", "gauge", ("slave", "The same, in messages."), messages);
    let far = slaves(|_, slave| slave.catching_up.into());
    by(
        &mut text,
        brokers,
        "slave_catching_up",
        "gauge",
        ("slave", "1 while it is far behind since it came."),
        far,
    );
    let parked = slaves(|_, slave| slave.parked as u64);
    let help = "Its fetches that wait for something new.";
    by(&mut text, brokers, "slave_parked_fetches", "gauge", ("slave", help), parked);
    let help = "Pulls whose consumer was told to ask this slave next.";
    by(&mut text, brokers, "advised_pulls_total", "counter", ("slave", help), |seen| {
        seen.advised.iter().map(|(slave, pulls)| (slave.to_string(), *pulls)).collect()
    });
    let help = "How often it stood for election, or was made master.";
    by(&mut text, brokers, "elections_total", "counter", ("why", help), |seen| {
        let known = seen.elections.iter().filter(|(why, _)| !why.is_empty());
        known.map(|(why, times)| ((*why).to_owned(), *times)).collect()
    });
    let help = "How often something was cut off the log.";
    by(&mut text, brokers, "log_cuts_total", "counter", ("why", help), |seen| {
        seen.cuts.iter().map(|(why, times)| ((*why).to_owned(), *times)).collect()
    });
    let help = "Sends that were stored, and not safe in time.";
    by(&mut text, brokers, "acknowledgements_late_total", "counter", ("mode", help), |seen| {
        vec![(seen.status.mode.clone(), seen.latencies.late)]
    });
    latencies(&mut text, brokers);
    text
}

/// A metric with one more label: a line for each of its values.
fn by(
    text: &mut String,
    brokers: &[Seen],
    name: &str,
    kind: &str,
    (label, help): (&str, &str),
    rows: impl Fn(&Seen) -> Vec<(String, u64)>,
) {
    head(text, name, kind, help);
    for seen in brokers {
        for (value, number) in rows(seen) {
            let labels = labels(&seen.status);
            let _ = writeln!(text, "staticfire_{name}{{{labels},{label}=\"{value}\"}} {number}");
        }
    }
}

fn latencies(text: &mut String, brokers: &[Seen]) {
    let name = "acknowledgement_seconds";
    head(text, name, "histogram", "From the arrival of a send to its OK.");
    for Seen { status, latencies, .. } in brokers {
        let labels = format!("{},mode=\"{}\"", labels(status), status.mode);
        let mut below = 0;
        for (bound, count) in BOUNDS_US.iter().zip(latencies.buckets) {
            below += count;
            let bound = *bound as f64 / 1e6;
            let _ = writeln!(text, "staticfire_{name}_bucket{{{labels},le=\"{bound}\"}} {below}");
        }
        let all: u64 = latencies.buckets.iter().sum();
        let sum = latencies.sum_us as f64 / 1e6;
        let _ = writeln!(text, "staticfire_{name}_bucket{{{labels},le=\"+Inf\"}} {all}");
        let _ = writeln!(text, "staticfire_{name}_sum{{{labels}}} {sum}");
        let _ = writeln!(text, "staticfire_{name}_count{{{labels}}} {all}");
    }
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

    #[test]
    fn each_metric_is_described_once_and_has_a_line_for_each_broker() {
        let other = OtherNode { node: 2, lag_bytes: 17, ..OtherNode::default() };
        let leader = NodeStatus {
            cluster: "c".into(),
            broker_name: "b\"".into(),
            node: 1,
            serves: true,
            mode: "quorum".into(),
            epoch: 3,
            others: vec![other],
            ..NodeStatus::default()
        };
        let mut latencies = Latencies { sum_us: 2_500_000, late: 1, ..Latencies::default() };
        (latencies.buckets[0], latencies.buckets[15]) = (3, 1);
        let leader = Seen {
            status: leader,
            latencies,
            lag_messages: [(2, 5)].into(),
            advised: [(2, 8)].into(),
            elections: [("silence", 2), ("handover", 1), ("operator", 0)],
            ..Seen::default()
        };
        let other = Seen { status: NodeStatus { node: 2, ..NodeStatus::default() }, ..Seen::default() };
        let text = render(&[leader, other]);
        assert_eq!(text.matches("# TYPE staticfire_epoch gauge").count(), 1);
        for line in [
            "staticfire_leads{cluster=\"c\",broker=\"b_\",node=\"1\"} 1",
            "staticfire_leads{cluster=\"\",broker=\"\",node=\"2\"} 0",
            "staticfire_epoch{cluster=\"c\",broker=\"b_\",node=\"1\"} 3",
            "staticfire_slave_lag_bytes{cluster=\"c\",broker=\"b_\",node=\"1\",slave=\"2\"} 17",
            "staticfire_slave_lag_messages{cluster=\"c\",broker=\"b_\",node=\"1\",slave=\"2\"} 5",
            "staticfire_advised_pulls_total{cluster=\"c\",broker=\"b_\",node=\"1\",slave=\"2\"} 8",
            "staticfire_elections_total{cluster=\"c\",broker=\"b_\",node=\"1\",why=\"silence\"} 2",
            "staticfire_acknowledgement_seconds_bucket{cluster=\"c\",broker=\"b_\",node=\"1\",mode=\"quorum\",le=\"0.0001\"} 3",
            "staticfire_acknowledgement_seconds_bucket{cluster=\"c\",broker=\"b_\",node=\"1\",mode=\"quorum\",le=\"5\"} 3",
            "staticfire_acknowledgement_seconds_bucket{cluster=\"c\",broker=\"b_\",node=\"1\",mode=\"quorum\",le=\"+Inf\"} 4",
            "staticfire_acknowledgement_seconds_sum{cluster=\"c\",broker=\"b_\",node=\"1\",mode=\"quorum\"} 2.5",
            "staticfire_acknowledgements_late_total{cluster=\"c\",broker=\"b_\",node=\"1\",mode=\"quorum\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }

    /// Whoever adds a metric describes it for who reads the table.
    #[test]
    fn the_table_names_every_metric() {
        let text = render(&[]);
        let table = include_str!("metrics.rs").split("\nuse ").next().unwrap();
        let mut named: Vec<_> = table.split('`').skip(1).step_by(2).collect();
        named.retain(|word| table.contains(&format!("| `{word}`")) || table.contains(&format!(", `{word}`")));
        let metrics: Vec<_> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE staticfire_")).collect();
        assert!(metrics.len() > 25, "they were found: {metrics:?}");
        for metric in metrics {
            let name = metric.split(' ').next().unwrap();
            assert!(named.contains(&name), "{name} is not in the table");
        }
    }
}
