//! Brokers that elect their leader.

use std::collections::BTreeSet;

use staticfire::client::PushConsumerOptions;
use staticfire::protocol::codes::{request, response};
use staticfire::sim::{Ledger, Node, Promise, cases};
use staticfire::transport::Command;

use crate::world::{TOPIC, leader, ms, node, pull, raft, registered, send, stored};

/// Producer and consumer go on through the death of leaders, and what was acknowledged is there.
/// proves: M36, M37, M40, I1, I51, I61
#[test]
fn a_killed_leader_takes_nothing_acknowledged_with_it() {
    cases(4, |seed| {
        let mut cluster = raft(seed);
        let ledger = Ledger::of(TOPIC);
        let host = cluster.host(Node::Client(1));
        cluster.spawn(Node::Client(1), ledger.clone().keep_sending(cluster.producer(1), host, ms(10)));
        let listener = ledger.listener("consumer");
        let consumer =
            cluster.push_consumer(2, "group", PushConsumerOptions::default(), &[(TOPIC, "*")], listener);
        let mut lost_power = false;
        for _ in 0..2 {
            cluster.run_for(ms(1500));
            let (old, before) = (leader(&mut cluster), ledger.counts().ok);
            if lost_power {
                cluster.power_cut(old)
            } else {
                cluster.kill(old)
            }
            let new = leader(&mut cluster);
            assert_ne!(new, old);
            cluster.run_for(ms(5000));
            assert!(ledger.counts().ok > before, "the producer went on: {:?}", ledger.counts());
            ledger.check(&stored(&cluster, new), |_| Promise::Everything).unwrap();
            cluster.restart(old);
            lost_power = true;
        }
        cluster.run_for(ms(10_000));
        cluster.violation().unwrap();
        ledger.check_delivered(&["consumer"]).unwrap();
        drop(consumer);
    });
}

/// The leader is id 0 at both name servers, the others their node numbers, and nobody else ever is 0.
/// proves: M36, M37, M41
#[test]
fn name_servers_learn_at_once_who_leads() {
    let mut cluster = raft(1);
    let mut old = leader(&mut cluster);
    for round in 0..2 {
        cluster.run_for(ms(200));
        for name_server in 0..2 {
            let others = (0..3).filter(|id| node(*id) != old && (round == 0 || cluster.is_up(node(*id))));
            let mut want: Vec<_> =
                others.map(|id| (i64::from(id) + 1, node(id).address().to_string())).collect();
            want.insert(0, (0, old.address().to_string()));
            assert_eq!(registered(&cluster, name_server), want);
        }
        if round == 0 {
            // It is still there, and is no leader any more.
            cluster.broker(old).unwrap().transfer(None);
            cluster.run_for(ms(300));
        } else {
            cluster.kill(old);
        }
        old = leader(&mut cluster);
    }
}

/// proves: M24, M25, M26
#[test]
fn only_the_leader_takes_messages_and_everybody_hands_them_out() {
    let mut cluster = raft(2);
    let leading = leader(&mut cluster);
    let peer = cluster.peer(1, leading.address()).unwrap();
    for number in 0..3 {
        let answer = peer.ask(send(&format!("message {number}")));
        assert_eq!(answer.code, response::SUCCESS, "{answer:?}");
    }
    cluster.run_for(ms(300));
    let bodies = |node| stored(&cluster, node).into_iter().map(|found| found.body).collect::<Vec<_>>();
    for id in (0..3).filter(|id| node(*id) != leading) {
        let end = cluster.store(node(id)).unwrap().marks().appended;
        let peer = cluster.peer(1, node(id).address()).unwrap();
        let refused = peer.ask(send("to a slave"));
        assert_eq!(refused.code, response::SERVICE_NOT_AVAILABLE, "{refused:?}");
        assert!(refused.remark.unwrap().contains("leads"));
        assert_eq!(cluster.store(node(id)).unwrap().marks().appended, end, "nothing was written");
        assert_eq!(bodies(node(id)), bodies(leading));
        let ask = |code: i32| {
            Command::request(code)
                .with_ext("topic", TOPIC)
                .with_ext("queueId", 0)
                .with_ext("consumerGroup", "C")
        };
        for code in [request::GET_MAX_OFFSET, request::QUERY_CONSUMER_OFFSET, request::LOCK_BATCH_MQ] {
            assert_eq!(peer.ask(ask(code)).code, response::SERVICE_NOT_AVAILABLE);
        }
        // Nothing there: the master may have more, so no offset is wrong.
        for offset in [3, 1000] {
            let answer = peer.ask(pull(offset, 0));
            assert!(
                [response::PULL_RETRY_IMMEDIATELY, response::TOPIC_NOT_EXIST].contains(&answer.code),
                "{answer:?}"
            );
        }
    }
    let answer =
        peer.ask(Command::request(request::GET_MAX_OFFSET).with_ext("topic", TOPIC).with_ext("queueId", 0));
    assert_eq!((answer.code, answer.ext.get("offset")), (0, Some("3")));
    assert_eq!(peer.ask(pull(1000, 0)).code, response::PULL_OFFSET_MOVED, "the leader knows");
    let distinct: BTreeSet<_> = bodies(leading).into_iter().collect();
    assert_eq!(distinct.len(), 3);
}
