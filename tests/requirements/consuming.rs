//! Consuming by pull and by push (M46, M47).

use std::collections::BTreeSet;
use std::time::Duration;

use staticfire::client::{
    ProducerOptions, PullConsumerOptions, PullStatus, PushConsumerOptions, async_listener,
};
use staticfire::protocol::body::{MessageModel, MessageQueue};
use staticfire::protocol::codes::request as code;
use staticfire::sim::Node;
use staticfire::transport::Runtime;

use crate::seen::{Seen, earliest, message, numbered, requests, second, start};

/// Single pulls, bounds, seeking by time, assignment, committed offsets.
/// proves: M46, M26
#[test]
fn m46_the_application_asks() {
    let cluster = start(46, 1, 1);
    let producer = cluster.producer_with(1, ProducerOptions::default());
    let queue = MessageQueue::new("orders", "broker-0", 0);
    cluster.wait(producer.queues("orders")).expect("queues");
    for number in 0..3 {
        cluster.wait(producer.send_to(message("orders", format!("m{number}")), &queue)).expect("stored");
        cluster.run_for(second(60));
    }
    let consumer = || cluster.pull_consumer(2, "pullers", PullConsumerOptions::default());
    let mut consumer_1 = consumer();
    assert_eq!(cluster.wait(consumer_1.queues("orders")).expect("queues").len(), 4);
    let pulled = cluster.wait(consumer_1.pull(&queue, 1, 10, Duration::ZERO)).expect("an answer");
    assert_eq!(
        (pulled.messages.len(), pulled.next_offset, pulled.min_offset, pulled.max_offset),
        (2, 3, 0, 3)
    );
    let empty = cluster.wait(consumer_1.pull(&queue, 3, 10, Duration::ZERO)).expect("an answer");
    assert_eq!(empty.status, PullStatus::NoNewMessage);
    let outside = cluster.wait(consumer_1.pull(&queue, 99, 10, Duration::ZERO)).expect("an answer");
    assert_eq!((outside.status, outside.next_offset), (PullStatus::OffsetOutside, 3));

    cluster.wait(consumer_1.assign([queue.clone()])).expect("an offset");
    let polled = cluster.wait(consumer_1.poll(second(1))).expect("messages");
    assert_eq!((polled.len(), consumer_1.position(&queue)), (3, Some(3)));
    assert!(cluster.wait(consumer_1.poll(second(1))).expect("none").is_empty());
    let second_ms = polled[1].store_ms();
    assert_eq!(cluster.wait(consumer_1.seek_to_time(&queue, second_ms)), Ok(1));
    assert_eq!(cluster.wait(consumer_1.poll(second(1))).expect("messages").len(), 2);
    consumer_1.seek(&queue, 2);
    cluster.wait(consumer_1.commit()).expect("stored");
    cluster.wait(consumer_1.close());
    let mut consumer_2 = consumer();
    cluster.wait(consumer_2.assign([queue.clone()])).expect("an offset");
    assert_eq!(consumer_2.position(&queue), Some(2), "where the first one committed");
}

/// A poll that waits gets a message as soon as it is sent.
#[test]
fn a_waiting_poll_gets_a_message_at_once() {
    let cluster = start(47, 1, 1);
    let producer = cluster.producer_with(1, ProducerOptions::default());
    cluster.wait(producer.send(message("orders", "m0"))).expect("stored");
    let options = PullConsumerOptions::default();
    let mut consumer = cluster.pull_consumer(2, "pullers", options);
    let queues = cluster.wait(consumer.queues("orders")).expect("queues");
    cluster.wait(consumer.assign(queues)).expect("offsets");
    assert_eq!(cluster.wait(consumer.poll(second(1))).expect("a message").len(), 1);
    let sent_at = cluster.now() + second(7);
    let (later, runtime) = (producer.clone(), cluster.host(Node::Client(1)));
    cluster.host(Node::Client(1)).spawn(Box::pin(async move {
        runtime.sleep_until(sent_at).await;
        later.send(message("orders", "m1")).await.expect("stored");
    }));
    assert_eq!(cluster.wait(consumer.poll(second(30))).expect("a message").len(), 1);
    assert!(cluster.now().since(sent_at) < Duration::from_millis(10), "{:?}", cluster.now());
}

/// The listener is called, and every request on the wire comes from the consumer; the broker's only
/// word is the notice that the group changed.
/// proves: M47, M26
#[test]
fn m47_push_is_pulled_underneath() {
    let cluster = start(48, 1, 1);
    let producer = cluster.producer_with(1, ProducerOptions::default());
    cluster.wait(producer.send(message("orders", "m0"))).expect("stored");
    cluster.network().clear_log();
    let seen = Seen::default();
    let consumer = cluster.push_consumer(2, "pushed", earliest(), &[("orders", "*")], seen.listener());
    cluster.run_for(second(3));
    let before = cluster.now();
    cluster.wait(producer.send(message("orders", "m1"))).expect("stored");
    cluster.run_for(Duration::from_millis(10));
    assert_eq!(seen.distinct(), numbered(2), "within 10 ms of {before:?}");
    let by_broker: BTreeSet<_> = cluster
        .network()
        .log()
        .into_iter()
        .filter(|entry| entry.peer.ip() == Node::Client(2).ip())
        .filter_map(|entry| entry.event.sent_request())
        .collect();
    assert_eq!(by_broker, BTreeSet::from([code::NOTIFY_CONSUMER_IDS_CHANGED]));
    assert!(requests(&cluster, 2, code::PULL_MESSAGE) >= 4);
    assert_eq!(consumer.queues().len(), 5, "four of the topic, one of the retry topic");
}

/// Offsets are stored: a new member goes on where the last one stopped.
/// proves: I64
#[test]
fn a_group_resumes_where_it_stopped() {
    let cluster = start(51, 1, 1);
    let producer = cluster.producer_with(1, ProducerOptions::default());
    let send = |body: &str| cluster.wait(producer.send(message("orders", body))).expect("stored");
    send("m0");
    let first = Seen::default();
    let consumer = cluster.push_consumer(2, "pushed", earliest(), &[("orders", "*")], first.listener());
    cluster.run_for(second(2));
    cluster.wait(consumer.close(second(1)));
    send("m1");
    let second_seen = Seen::default();
    let _consumer =
        cluster.push_consumer(3, "pushed", earliest(), &[("orders", "*")], second_seen.listener());
    cluster.run_for(second(2));
    assert_eq!((first.bodies(), second_seen.bodies()), (vec!["m0".to_owned()], vec!["m1".to_owned()]));
}

/// A crash of the consumer between two commits: delivered again, not lost.
#[test]
fn what_was_consumed_and_not_committed_comes_again() {
    let cluster = start(52, 1, 1);
    let producer = cluster.producer_with(1, ProducerOptions::default());
    cluster.wait(producer.send(message("orders", "m0"))).expect("stored");
    let seen = Seen::default();
    let consumer = cluster.push_consumer(2, "pushed", earliest(), &[("orders", "*")], seen.listener());
    cluster.run_for(second(1));
    assert_eq!(seen.bodies(), ["m0"]);
    cluster.host(Node::Client(2)).kill();
    drop(consumer);
    let _consumer = cluster.push_consumer(3, "pushed", earliest(), &[("orders", "*")], seen.listener());
    cluster.run_for(second(5));
    assert_eq!(seen.bodies(), ["m0", "m0"]);
}

/// Every member gets everything.
#[test]
fn broadcasting_gives_every_member_every_message() {
    let cluster = start(53, 1, 1);
    let producer = cluster.producer_with(1, ProducerOptions::default());
    cluster.wait(producer.send(message("orders", "m0"))).expect("stored");
    let options = PushConsumerOptions { model: MessageModel::Broadcasting, ..earliest() };
    let seen = [Seen::default(), Seen::default()];
    let _members: Vec<_> = (2..4_u8)
        .zip(&seen)
        .map(|(host, seen)| {
            cluster.push_consumer(host, "all", options.clone(), &[("orders", "*")], seen.listener())
        })
        .collect();
    cluster.run_for(second(2));
    cluster.wait(producer.send(message("orders", "m1"))).expect("stored");
    cluster.run_for(second(2));
    assert!(seen.iter().all(|seen| seen.distinct() == numbered(2) && seen.bodies().len() == 2));
    let asked = |code| requests(&cluster, 2, code) + requests(&cluster, 3, code);
    assert_eq!(
        asked(code::QUERY_CONSUMER_OFFSET) + asked(code::UPDATE_CONSUMER_OFFSET),
        0,
        "no stored offsets"
    );
}

/// The broker filters by hash and the consumer by text: a colliding tag is not delivered.
#[test]
fn only_messages_with_the_wanted_tags_arrive() {
    let cluster = start(54, 1, 1);
    let producer = cluster.producer_with(1, ProducerOptions::default());
    for (tag, body) in [("Aa", "m0"), ("BB", "collides"), ("C", "other"), ("D", "m1")] {
        cluster.wait(producer.send(message("orders", body).tag(tag))).expect("stored");
    }
    cluster.wait(producer.send(message("orders", "untagged"))).expect("stored");
    let seen = Seen::default();
    let consumer = cluster.push_consumer(2, "pushed", earliest(), &[("orders", "Aa || D")], seen.listener());
    cluster.run_for(second(10));
    assert_eq!(seen.distinct(), numbered(2));
    cluster.wait(consumer.close(second(1)));
    let seen = Seen::default();
    let _all = cluster.push_consumer(3, "pushed", earliest(), &[("orders", "*")], seen.listener());
    cluster.run_for(second(5));
    assert!(seen.bodies().is_empty(), "what was filtered out counts as consumed: {:?}", seen.bodies());
}

/// A listener that does not return holds back the puller, so memory stays bounded.
#[test]
fn pulling_pauses_while_too_much_is_unfinished() {
    let cluster = start(60, 1, 1);
    let producer = cluster.producer_with(1, ProducerOptions::default());
    cluster.wait(producer.queues("orders")).expect("queues");
    let queue = MessageQueue::new("orders", "broker-0", 0);
    for _ in 0..4 {
        let batch = (0..50).map(|number| message("orders", format!("m{number}"))).collect();
        cluster.wait(producer.send_batch(batch)).expect("stored");
    }
    for number in 0..200 {
        cluster.wait(producer.send_to(message("orders", format!("m{number}")), &queue)).expect("stored");
    }
    let stuck = async_listener(|_| std::future::pending());
    let mut options = earliest();
    options.flow.messages = 64;
    let _consumer = cluster.push_consumer(2, "pushed", options, &[("orders", "*")], stuck);
    cluster.run_for(second(5));
    cluster.network().clear_log();
    cluster.run_for(second(5));
    // Only queues below their limit pull: the others are held or paused.
    assert!(requests(&cluster, 2, code::PULL_MESSAGE) <= 4, "{}", requests(&cluster, 2, code::PULL_MESSAGE));
}
