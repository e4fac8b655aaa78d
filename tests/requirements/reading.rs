//! Who is read from and who is written to (M24 to M26, M30).

use std::time::Duration;

use staticfire::client::{ProducerOptions, PullConsumerOptions};
use staticfire::protocol::body::MessageQueue;
use staticfire::protocol::codes::{request as code, response};
use staticfire::replication::Mode;
use staticfire::sim::{Cluster, Node, requests};
use staticfire::transport::Command;

use crate::scripted::{Answer, Scripted};
use crate::seen::{Seen, earliest, message, numbered, second};

const MASTER: Node = Node::master(0);
const SLAVE: Node = Node::Broker { group: 0, id: 1 };

/// A send straight to a slave is refused in words and writes nothing.
/// proves: M24
#[test]
fn m24_a_slave_refuses_a_write() {
    let cluster = Cluster::seeded(24).members(2).start();
    let send = requests::send("orders", 0, "x");
    let end = |node| cluster.store(node).expect("it serves").marks().appended;
    let back = Command::request(code::CONSUMER_SEND_MSG_BACK).with_ext("group", "C").with_ext("offset", 0);
    let back = back.with_ext("delayLevel", 3);
    let ask = |node: Node, request: &Command| {
        cluster.peer(1, node.address()).expect("it listens").ask(request.clone())
    };
    for request in [&send, &back] {
        let refused = ask(SLAVE, request);
        assert_eq!(refused.code, response::SERVICE_NOT_AVAILABLE);
        assert!(refused.remark.as_deref().is_some_and(|it| it.contains("slave")), "{:?}", refused.remark);
    }
    assert_eq!(end(SLAVE).0, 0);
    assert_eq!(ask(MASTER, &send).code, 0);
    assert!(end(MASTER).0 > 0);
}

/// A slave serves the bytes that it copied.
/// proves: M25
#[test]
fn m25_master_and_slave_serve_the_same_bytes() {
    let cluster = Cluster::seeded(25).members(2).copying(Mode::Flushed).start();
    let producer = cluster.producer_with(1, ProducerOptions::default());
    for number in 0..20 {
        cluster.wait(producer.send(message("orders", format!("m{number}")))).expect("stored");
    }
    cluster.run_for(second(2));
    let pull = |node: Node, queue: i32| {
        let request = Command::request(code::PULL_MESSAGE)
            .with_ext("consumerGroup", "C")
            .with_ext("topic", "orders")
            .with_ext("queueId", queue)
            .with_ext("queueOffset", 0)
            .with_ext("maxMsgNums", 32)
            .with_ext("sysFlag", 4)
            .with_ext("commitOffset", 0)
            .with_ext("suspendTimeoutMillis", 0)
            .with_ext("subscription", "*")
            .with_ext("subVersion", 0);
        let answer = cluster.peer(1, node.address()).expect("it listens").ask(request);
        assert_eq!(answer.code, 0, "{:?}", answer.remark);
        answer.body.to_bytes()
    };
    // A round of the producer's: each queue has some.
    for queue in 0..4 {
        assert_eq!(pull(MASTER, queue), pull(SLAVE, queue), "queue {queue}");
    }
}

/// With a slave in the route, a consumer that has no advice yet asks the master.
/// proves: M26
#[test]
fn m26_the_first_pull_goes_to_the_master() {
    for seed in 0..4 {
        let cluster = Cluster::seeded(seed).members(3).copying(Mode::Flushed).start();
        let producer = cluster.producer_with(1, ProducerOptions::default());
        cluster.wait(producer.send(message("orders", "m0"))).expect("stored");
        let seen = Seen::default();
        cluster.network().clear_log();
        let _consumer = cluster.push_consumer(2, "pushed", earliest(), &[("orders", "*")], seen.listener());
        cluster.run_for(second(5));
        assert_eq!(seen.distinct(), numbered(1));
        let pulls = cluster.network().log().into_iter().filter(|it| {
            it.host.ip() == Node::Client(2).ip() && it.event.sent_request() == Some(code::PULL_MESSAGE)
        });
        let asked: Vec<_> = pulls.map(|it| it.peer).collect();
        assert!(!asked.is_empty() && asked.iter().all(|it| *it == MASTER.address()), "{asked:?}");
    }
}

/// The advice of each answer decides the next pull, and a failure leads back to the master.
/// proves: M26, M30
#[test]
fn m30_a_consumer_follows_the_advice_and_comes_back() {
    let scripted = Scripted::new(vec![Answer::Stored]);
    scripted.advise(vec![1, 1, 0]);
    let cluster = scripted.cluster(30);
    let options = PullConsumerOptions { hold: Duration::ZERO, ..PullConsumerOptions::default() };
    let mut consumer = cluster.pull_consumer(1, "pullers", options);
    cluster.wait(consumer.assign([MessageQueue::new("orders", "broker-0", 0)])).expect("an offset");
    for _ in 0..5 {
        let _ = cluster.wait(consumer.poll(Duration::from_millis(100)));
        if scripted.pulled_from().len() >= 4 {
            break;
        }
    }
    assert_eq!(scripted.pulled_from()[..4], [0, 1, 1, 0]);
}
