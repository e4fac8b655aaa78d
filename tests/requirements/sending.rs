//! Sending: and waiting, with callbacks, one way (M43 to M45).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use staticfire::client::{ClientError, MessageFault, ProducerOptions, SendStatus};
use staticfire::protocol::codes::{request as code, response};
use staticfire::sim::Node;
use staticfire::transport::memory::Event;

use crate::scripted::{Answer, Scripted};
use crate::seen::{Seen, bodies, cases, earliest, message, numbered, second, start};

/// The answer is there when the future is, and not before; the topic came to be by the send.
/// proves: M43
#[test]
fn m43_a_send_returns_after_the_brokers_answer() {
    let cluster = start(43, 1, 1);
    let producer = cluster.producer_with(1, ProducerOptions::default());
    cluster.network().clear_log();
    let sent =
        cluster.wait(producer.send(message("orders", "paid").tag("eu").key("o-7"))).expect("an answer");
    assert_eq!((sent.status, sent.queue_offset), (SendStatus::Ok, 0));
    assert_eq!(sent.queue.broker_name, "broker-0");
    assert_eq!((sent.offset_id.len(), sent.unique_key.len()), (32, 32));
    let answered = cluster.network().log().into_iter().filter(|entry| {
        entry.host.ip() == Node::Client(1).ip()
            && matches!(entry.event, Event::Arrived { code: 0, flag: 1, .. })
    });
    assert!(answered.count() >= 2, "the route and the send");
}

/// The two next to each other: a success and a failure.
/// proves: M44
#[test]
fn m44_exactly_one_callback_is_called() {
    let mut cluster = start(44, 1, 1);
    let producer = cluster.producer_with(1, ProducerOptions::default());
    let calls = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
    let send = |body: &str| {
        let (on_success, on_failure) = (Arc::clone(&calls), Arc::clone(&calls));
        producer.send_with(
            message("orders", body),
            move |_| {
                on_success.0.fetch_add(1, Ordering::Relaxed);
            },
            move |_| {
                on_failure.1.fetch_add(1, Ordering::Relaxed);
            },
        );
    };
    let counts = || (calls.0.load(Ordering::Relaxed), calls.1.load(Ordering::Relaxed));
    send("stored");
    cluster.run_for(second(1));
    assert_eq!(counts(), (1, 0));
    send("");
    cluster.run_for(second(1));
    assert_eq!(counts(), (1, 1), "an unacceptable message");
    cluster.power_cut(Node::master(0));
    send("nobody answers");
    cluster.run_for(second(10));
    assert_eq!(counts(), (1, 2));
    send("and then our own runtime stops");
    cluster.host(Node::Client(1)).kill();
    assert_eq!(counts(), (1, 3));
}

fn any_answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        3 => Just(Answer::Stored),
        1 => Just(Answer::Refused(response::SYSTEM_BUSY)),
        1 => Just(Answer::Refused(response::MESSAGE_ILLEGAL)),
        1 => Just(Answer::Nonsense),
        1 => Just(Answer::Never),
        1 => Just(Answer::Disconnect),
        2 => (0..8_000_u64).prop_map(|ms| Answer::Late(Duration::from_millis(ms))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(64)))]

    /// Time-outs, disconnects, late answers, refusals: in whatever order.
    /// proves: M44, B26, B27
    #[test]
    fn m44_one_callback_once_whatever_the_broker_does(
        seed in any::<u64>(),
        answers in prop::collection::vec(any_answer(), 1..12),
        sends in 1..8_usize,
    ) {
        let scripted = Scripted::new(answers);
        let cluster = scripted.cluster(seed);
        let producer = cluster.producer_with(1, ProducerOptions::default());
        let called: Arc<Mutex<BTreeMap<usize, Vec<bool>>>> = Arc::default();
        for number in 0..sends {
            let (success, failure) = (Arc::clone(&called), Arc::clone(&called));
            producer.send_with(
                message("orders", format!("m{number}")),
                move |_| success.lock().expect("whole").entry(number).or_default().push(true),
                move |_| failure.lock().expect("whole").entry(number).or_default().push(false),
            );
        }
        cluster.run_for(second(30));
        let called = called.lock().expect("whole").clone();
        prop_assert_eq!(called.len(), sends);
        prop_assert!(called.values().all(|calls| calls.len() == 1), "{:?}", called);
    }
}

/// It returns with the broker dead, and nothing waits for an answer that will not come.
/// proves: M45
#[test]
fn m45_one_way_hands_over_and_goes_on() {
    let mut cluster = start(45, 1, 1);
    let producer = cluster.producer_with(1, ProducerOptions::default());
    cluster.wait(producer.send(message("orders", "first"))).expect("an answer");
    cluster.network().clear_log();
    producer.send_one_way(message("orders", "second")).expect("handed over");
    cluster.run_for(second(1));
    let log = cluster.network().log();
    let frames = |code| log.iter().filter(move |entry| entry.event.sent_request() == Some(code));
    assert_eq!(frames(code::SEND_MESSAGE_V2).count(), 1);
    assert!(frames(code::SEND_MESSAGE_V2).all(|entry| matches!(entry.event, Event::Sent { flag: 2, .. })));
    let answers = log.iter().filter(|entry| matches!(entry.event, Event::Sent { flag: 1, .. }));
    assert_eq!(answers.count(), 0, "a one-way request is not answered");
    assert_eq!(bodies(&cluster, "orders"), ["first", "second"].map(str::to_owned).into());
    cluster.power_cut(Node::master(0));
    producer.send_one_way(message("orders", "third")).expect("handed over all the same");
    cluster.run_for(second(1));
    assert_eq!(cluster.network().stray_answers(), 0);
}

/// All of a batch lie next to each other; messages that do not belong together are refused.
#[test]
fn a_batch_is_stored_together() {
    let cluster = start(61, 1, 1);
    let producer = cluster.producer_with(1, ProducerOptions::default());
    let batch = (0..5).map(|number| message("orders", format!("m{number}"))).collect();
    let sent = cluster.wait(producer.send_batch(batch)).expect("stored");
    assert_eq!((sent.queue_offset, sent.unique_key.split(',').count()), (0, 5));
    assert_eq!(bodies(&cluster, "orders"), numbered(5));
    for bad in [
        vec![],
        vec![message("orders", "a"), message("other", "b")],
        vec![message("orders", "a").delay_level(1)],
        vec![message("%RETRY%g", "a")],
    ] {
        assert_eq!(cluster.wait(producer.send_batch(bad)), Err(ClientError::Message(MessageFault::Batch)));
    }
}

/// Packed on the way and in the store, unpacked for the listener.
#[test]
fn large_bodies_are_packed_where_that_is_asked_for() {
    let cluster = start(62, 1, 1);
    let producer =
        cluster.producer_with(1, ProducerOptions { pack_from: Some(4096), ..ProducerOptions::default() });
    let body = "staticfire ".repeat(1000);
    cluster.wait(producer.send(message("orders", body.clone()))).expect("stored");
    let seen = Seen::default();
    let _consumer = cluster.push_consumer(2, "pushed", earliest(), &[("orders", "*")], seen.listener());
    cluster.run_for(second(2));
    let received = seen.messages();
    assert_eq!(received[0].body(), &body);
    assert!(received[0].record().body().len() < 1000 && received[0].record().sys_flag() & 0x301 == 0x301);
}

/// The first broker is dead: the send goes to the other one.
#[test]
fn a_send_avoids_the_broker_that_failed() {
    let mut cluster = start(63, 1, 2);
    cluster.create_topic("orders", 4);
    let producer = cluster.producer_with(1, ProducerOptions::default());
    cluster.wait(producer.send(message("orders", "m0"))).expect("stored");
    cluster.kill(Node::master(0));
    for number in 1..9 {
        let sent = cluster.wait(producer.send(message("orders", format!("m{number}")))).expect("stored");
        assert_eq!(sent.queue.broker_name, "broker-1");
    }
}

/// A broker that never answers costs the time a send may take, and not more.
#[test]
fn a_send_without_an_answer_ends_in_time() {
    let cluster = Scripted::new(vec![Answer::Never]).cluster(67);
    for timeout in [Duration::from_millis(200), second(3)] {
        let producer = cluster.producer_with(1, ProducerOptions { timeout, ..ProducerOptions::default() });
        let began = cluster.now();
        let failed = cluster.wait(producer.send(message("orders", "m0"))).expect_err("nobody answers");
        let took = cluster.now().since(began);
        assert!(failed.is_outcome_unknown(), "it may be stored: {failed}");
        assert!((timeout..timeout + Duration::from_millis(10)).contains(&took), "{timeout:?}: {took:?}");
    }
}

/// A host that is gone answers no attempt to connect: that leaves time for another broker, and ends in time
/// where there is none.
#[test]
fn a_send_to_a_host_that_is_gone_leaves_time_for_another() {
    let mut cluster = start(68, 1, 2);
    cluster.create_topic("orders", 4);
    cluster.partition(Node::Client(1), Node::master(0));
    for attempt in 0..8 {
        let producer = cluster.producer_with(1, ProducerOptions::default());
        let began = cluster.now();
        let sent = cluster.wait(producer.send(message("orders", "m"))).expect("stored");
        assert_eq!(sent.queue.broker_name, "broker-1");
        assert!(cluster.now().since(began) < second(3), "attempt {attempt}");
    }
    cluster.partition(Node::Client(1), Node::master(1));
    let producer = cluster.producer_with(1, ProducerOptions::default());
    let began = cluster.now();
    let failed = cluster.wait(producer.send(message("orders", "m"))).expect_err("nobody is there");
    let took = cluster.now().since(began);
    assert!(took <= second(3) + Duration::from_millis(10), "{failed} after {took:?}");
}

/// Every level waits as long as RocketMQ's, up to two hours.
#[test]
fn each_delay_level_has_its_time() {
    let seconds = [1, 5, 10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1200, 1800, 3600, 7200];
    let cluster = start(69, 1, 1);
    cluster.create_topic("orders", 1);
    let producer = cluster.producer_with(1, ProducerOptions::default());
    let seen = Seen::default();
    let _consumer = cluster.push_consumer(2, "pushed", earliest(), &[("orders", "*")], seen.listener());
    cluster.run_for(second(2));
    let sent = cluster.now();
    for level in 1..=seconds.len() {
        let message =
            message("orders", format!("m{level}")).delay_level(i32::try_from(level).expect("below 19"));
        cluster.wait(producer.send(message)).expect("stored");
    }
    for (index, after) in seconds.into_iter().enumerate() {
        let due = sent + second(after);
        cluster.run_for(due.since(cluster.now()));
        assert_eq!(seen.bodies().len(), index, "level {} comes not before {after} s", index + 1);
        cluster.run_for(Duration::from_millis(900));
        assert_eq!(seen.bodies().last(), Some(&format!("m{}", index + 1)), "after {after} s");
    }
}

/// A message whose delay is over arrives; not before.
#[test]
fn a_delayed_message_arrives_after_its_delay() {
    let cluster = start(66, 1, 1);
    let producer = cluster.producer_with(1, ProducerOptions::default());
    let seen = Seen::default();
    cluster.wait(producer.send(message("orders", "m0"))).expect("stored");
    let _consumer = cluster.push_consumer(2, "pushed", earliest(), &[("orders", "*")], seen.listener());
    cluster.run_for(second(2));
    cluster.wait(producer.send(message("orders", "m1").delay_level(2))).expect("stored");
    cluster.run_for(Duration::from_millis(4_900));
    assert_eq!(seen.distinct(), numbered(1));
    cluster.run_for(Duration::from_millis(1_500));
    assert_eq!(seen.distinct(), numbered(2));
}
