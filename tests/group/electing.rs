//! Brokers that elect their leader.

use std::collections::BTreeSet;
use std::net::IpAddr;

use staticfire::client::PushConsumerOptions;
use staticfire::protocol::codes::{request, response};
use staticfire::replication::{Failover, Mode};
use staticfire::sim::{Ledger, Node, Promise, cases};
use staticfire::storage::disk::SimulatedDisk;
use staticfire::transport::Command;

use crate::world::{TOPIC, cluster, leader, ms, node, pull, raft, registered, send, started, stored};

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
            let (old, before) = (leader(&cluster), ledger.counts().ok);
            if lost_power {
                cluster.power_cut(old)
            } else {
                cluster.kill(old)
            }
            let new = leader(&cluster);
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

/// When the process of a leader dies, its connections say so: the others do not wait until it has been silent for
/// long enough, which takes 300 ms at least.
/// proves: M36
#[test]
fn the_death_of_a_leader_is_heard_of_by_its_connections() {
    let outage = |seed| {
        let mut cluster = raft(seed);
        cluster.run_for(ms(1000));
        let (old, died) = (leader(&cluster), cluster.now());
        cluster.kill(old);
        assert_ne!(leader(&cluster), old);
        cluster.now().since(died)
    };
    // Votes may be split now and then.
    let mut outages: Vec<_> = (0..9).map(outage).collect();
    outages.sort_unstable();
    assert!(outages[4] < ms(280), "{outages:?}");
}

/// A leader dies and its disk with it: the others have what was acknowledged, and so has the empty disk in the end.
/// proves: M36, I1, I47
#[test]
fn a_lost_disk_takes_nothing_acknowledged_with_it() {
    let mut cluster = raft(6);
    let ledger = Ledger::of(TOPIC);
    let host = cluster.host(Node::Client(1));
    cluster.spawn(Node::Client(1), ledger.clone().keep_sending(cluster.producer(1), host, ms(10)));
    cluster.run_for(ms(1000));
    let old = leader(&cluster);
    cluster.kill(old);
    cluster.replace_disk(old, SimulatedDisk::new(99));
    let new = leader(&cluster);
    ledger.check(&stored(&cluster, new), |_| Promise::Everything).unwrap();
    cluster.run_for(ms(4000));
    cluster.restart(old);
    cluster.run_for(ms(3000));
    cluster.kill(Node::Client(1));
    cluster.run_for(ms(1000));
    assert!(cluster.broker(old).unwrap().group_status().unwrap().voter, "it counts again");
    assert_eq!(stored(&cluster, old).len(), stored(&cluster, new).len());
    // It carries the group: with the one that has copied to it gone, nothing is missing.
    cluster.kill(new);
    let last = leader(&cluster);
    ledger.check(&stored(&cluster, last), |_| Promise::Everything).unwrap();
}

/// The leader is id 0 at both name servers, the others their node numbers, and nobody else ever is 0.
/// proves: M36, M37, M41
#[test]
fn name_servers_learn_at_once_who_leads() {
    let mut cluster = raft(1);
    let mut old = leader(&cluster);
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
        old = leader(&cluster);
    }
}

/// The election is the group's own: two groups, no name server left, and nobody asks outside for a vote.
/// proves: M39, M41, M42
#[test]
fn nobody_outside_of_a_group_has_a_say_in_its_election() {
    let cluster = cluster(3, |_| Failover::Raft, Mode::Quorum).groups(2);
    let mut cluster = started(cluster);
    cluster.network().keep_log(true);
    cluster.kill(Node::NameServer(0));
    cluster.kill(Node::NameServer(1));
    let old = leader(&cluster);
    cluster.kill(old);
    assert_ne!(leader(&cluster), old);
    cluster.run_for(ms(2000));
    let replication: Vec<_> = cluster
        .network()
        .log()
        .into_iter()
        .filter(|entry| entry.host.port() == 10912 || entry.peer.port() == 10912)
        .map(|entry| (entry.host.ip(), entry.peer.ip()))
        .collect();
    let group_of =
        |ip: IpAddr| (0..2).find(|group| (0..3).any(|id| Node::Broker { group: *group, id }.ip() == ip));
    assert!(replication.len() > 100);
    for (this, that) in replication {
        assert!(group_of(this).is_some() && group_of(this) == group_of(that), "{this} spoke to {that}");
    }
}

/// A leader that is cut off from the others, but not from its clients, says nothing that the others may have
/// made untrue.
/// proves: I44, I48, M24
#[test]
fn a_leader_that_was_replaced_unawares_answers_nothing() {
    let mut cluster = raft(4);
    let old = leader(&cluster);
    let peer = cluster.peer(1, old.address()).unwrap();
    assert_eq!(peer.ask(send("known to all")).code, response::SUCCESS);
    let others: Vec<_> = (0..3).map(node).filter(|node| *node != old).collect();
    for other in &others {
        cluster.partition(old, *other);
    }
    let bound = Command::request(request::GET_MAX_OFFSET).with_ext("topic", TOPIC).with_ext("queueId", 0);
    let (mut sent, mut asked) = (peer.start(send("only here")), peer.start(bound.clone()));
    let mut overtaken = peer.start(pull(7, 0));
    cluster.run_for(ms(3000));
    let now = |call| peer.poll(call, ms(1)).expect("answered by now").unwrap();
    let sent = now(&mut sent);
    assert_eq!(sent.code, response::SYSTEM_ERROR, "nobody knows what becomes of it: {sent:?}");
    assert_eq!(now(&mut asked).code, response::SERVICE_NOT_AVAILABLE);
    assert_eq!(now(&mut overtaken).code, response::PULL_RETRY_IMMEDIATELY, "the offset may be right");
    assert_eq!(peer.ask(send("later")).code, response::SERVICE_NOT_AVAILABLE);
    assert_eq!(peer.ask(bound).code, response::SERVICE_NOT_AVAILABLE);
    assert_eq!(peer.ask(pull(0, 0)).code, response::SUCCESS, "what is confirmed is for everybody");
    let new = leader(&cluster);
    assert!(others.contains(&new));
    for name_server in 0..2 {
        let known = registered(&cluster, name_server);
        assert_eq!(known.iter().find(|(id, _)| *id == 0), Some(&(0, new.address().to_string())), "{known:?}");
    }
    cluster.heal();
    cluster.run_for(ms(1000));
    assert_eq!(stored(&cluster, old).len(), 1, "what was only there is gone");
    cluster.violation().unwrap();
}

/// proves: M24, M25, M26
#[test]
fn only_the_leader_takes_messages_and_everybody_hands_them_out() {
    let cluster = raft(2);
    let leading = leader(&cluster);
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
            assert_eq!(answer.code, response::PULL_RETRY_IMMEDIATELY, "{answer:?}");
        }
    }
    let answer =
        peer.ask(Command::request(request::GET_MAX_OFFSET).with_ext("topic", TOPIC).with_ext("queueId", 0));
    assert_eq!((answer.code, answer.ext.get("offset")), (0, Some("3")));
    assert_eq!(peer.ask(pull(1000, 0)).code, response::PULL_OFFSET_MOVED, "the leader knows");
    let distinct: BTreeSet<_> = bodies(leading).into_iter().collect();
    assert_eq!(distinct.len(), 3);
}
