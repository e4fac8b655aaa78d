//! Whole clusters under random plans of faults.

use std::time::Duration;

use staticfire::client::{PushConsumerOptions, StartFrom};
use staticfire::sim::{Cluster, FaultKind, Ledger, Node, Phase, Plan, cases, reached};
use staticfire::storage::Durability;

const SECOND: Duration = Duration::from_secs(1);

/// Two producers and a consumer, two brokers, two name servers, and a plan. Safety throughout; after
/// the plan everything serves again, takes new messages, and all that was acknowledged is delivered.
fn survive(seed: u64, durability: Durability) {
    let cluster = Cluster::seeded(seed).brokers(2).name_servers(2).durability(durability);
    let plan = Plan::seeded(seed, &cluster);
    let (mut cluster, ledger) = (cluster.start(), Ledger::of("orders"));
    cluster.create_topic("orders", 4);
    let options = PushConsumerOptions { start: StartFrom::Earliest, ..PushConsumerOptions::default() };
    let consumer =
        cluster.push_consumer(3, "readers", options, &[("orders", "*")], ledger.listener("reader"));
    for number in [1, 2] {
        let (node, pause) = (Node::Client(number), Duration::from_millis(40));
        let sending = ledger.clone().keep_sending(cluster.producer(number), cluster.host(node), pause);
        cluster.spawn(node, sending);
    }
    cluster.run(&plan).unwrap_or_else(|violation| panic!("{violation}"));
    let before = ledger.counts().ok;
    cluster.run_for(40 * SECOND);
    assert!(ledger.counts().ok > before, "seed {seed}, plan {plan}: nothing new is accepted: {ledger:?}");
    cluster.kill(Node::Client(1));
    cluster.kill(Node::Client(2));
    cluster.run_for(120 * SECOND);
    cluster.check(&ledger).unwrap_or_else(|violation| panic!("{violation}"));
    if durability == Durability::Flushed {
        let delivered = ledger.check_delivered(&["reader"]);
        delivered.unwrap_or_else(|violation| panic!("seed {seed}, plan {plan}: {violation}"));
    }
    drop(consumer);
}

/// proves: I1, I2, I3, I4, I5, I13, I14, I15, I51, I58, I61, I62; F1, F2, F4, F5, F6, F8, F10, F11, F12,
/// F13, F18, F21, F22, F26, F27, F29, F30, F31
#[test]
fn what_was_acknowledged_survives_any_plan() {
    cases(16, |seed| survive(seed, Durability::Flushed));
    cases(8, |seed| survive(seed + 1_000_000, Durability::Written));
    let reached = reached::report();
    println!("{reached}");
    for kind in FaultKind::ALL {
        assert!(reached.count(kind.name()) > 0, "{kind:?} never happened:\n{reached}");
    }
    assert!(reached.count_in("power-cut-at-step", Phase::Serving) > 0, "{reached}");
}
