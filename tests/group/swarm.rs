//! Groups that elect, under random plans of faults.

use staticfire::client::{PushConsumerOptions, StartFrom};
use staticfire::replication::{Failover, Mode};
use staticfire::sim::{Ledger, Node, Plan, Promise, Running, cases};

use crate::world::{TOPIC, cluster, leader, ms, node, started, stored};

fn status(cluster: &Running, id: u8) -> String {
    let broker = cluster.broker(node(id));
    broker.map_or("down".to_owned(), |broker| {
        format!("{:?} {:?}", broker.group_status(), broker.store().failure())
    })
}

/// Two producers and a consumer, three nodes, two name servers, and a plan. Whatever happens, nothing that
/// was acknowledged is lost or stored twice; afterwards somebody leads, takes new messages, and
/// everything is delivered.
/// proves: M36, M37, I1, I14, I35, I40, I51, I61, I62
#[test]
fn what_a_group_acknowledged_survives_any_plan() {
    cases(10, |seed| {
        let cluster = cluster(seed, |_| Failover::Raft, Mode::Quorum);
        let plan = Plan::seeded(seed, &cluster);
        let (mut cluster, ledger) = (started(cluster), Ledger::of(TOPIC));
        let options = PushConsumerOptions { start: StartFrom::Earliest, ..PushConsumerOptions::default() };
        let consumer =
            cluster.push_consumer(3, "readers", options, &[(TOPIC, "*")], ledger.listener("reader"));
        for number in [1, 2] {
            let sending = ledger.clone().keep_sending(
                cluster.producer(number),
                cluster.host(Node::Client(number)),
                ms(40),
            );
            cluster.spawn(Node::Client(number), sending);
        }
        cluster.run(&plan).unwrap_or_else(|violation| panic!("{violation}"));
        let before = ledger.counts().ok;
        cluster.run_for(ms(40_000));
        let statuses = || -> Vec<_> { (0..3).map(|id| status(&cluster, id)).collect() };
        assert!(
            ledger.counts().ok > before,
            "seed {seed}, plan {plan}: nothing new is accepted: {ledger:?} {:?}",
            statuses()
        );
        cluster.kill(Node::Client(1));
        cluster.kill(Node::Client(2));
        cluster.run_for(ms(120_000));
        let leading = leader(&cluster);
        let wrong = |violation| panic!("seed {seed}, plan {plan}: {violation}");
        cluster.violation().unwrap_or_else(wrong);
        ledger.check(&stored(&cluster, leading), |_| Promise::Everything).unwrap_or_else(wrong);
        ledger.check_delivered(&["reader"]).unwrap_or_else(wrong);
        for id in 0..3 {
            let (found, known) = (stored(&cluster, node(id)), stored(&cluster, leading));
            assert_eq!(found.len(), known.len(), "seed {seed}, plan {plan}: node {id} has all of it");
        }
        drop(consumer);
    });
}
