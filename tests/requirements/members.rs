//! Members of a consumer group, and consuming in order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use staticfire::client::{
    ConsumeResult, ProducerOptions, PushConsumer, PushConsumerOptions, ReceivedMessage, async_listener,
};
use staticfire::protocol::body::MessageQueue;
use staticfire::protocol::codes::request as code;
use staticfire::sim::Node;
use staticfire::transport::Runtime;

use crate::seen::{Seen, cases, earliest, message, numbered, requests, second, start};

/// Two members share; one leaves and the other has all, within seconds because the broker says so.
#[test]
fn queues_are_divided_anew_when_a_member_joins_or_leaves() {
    let cluster = start(50, 1, 2);
    cluster.create_topic("orders", 4);
    let producer = cluster.producer_with(1, ProducerOptions::default());
    let (seen_a, seen_b) = (Seen::default(), Seen::default());
    let subscriptions = [("orders", "*")];
    let a = cluster.push_consumer(2, "pushed", earliest(), &subscriptions, seen_a.listener());
    cluster.run_for(second(5));
    let all: BTreeSet<_> = a.queues().into_iter().collect();
    assert_eq!(all.len(), 10, "four and a retry queue at each of two brokers");
    let b = cluster.push_consumer(3, "pushed", earliest(), &subscriptions, seen_b.listener());
    cluster.run_for(second(5));
    let (of_a, of_b): (BTreeSet<_>, BTreeSet<_>) =
        (a.queues().into_iter().collect(), b.queues().into_iter().collect());
    assert!(of_a.is_disjoint(&of_b) && of_a.len() == of_b.len(), "{of_a:?} {of_b:?}");
    assert_eq!(of_a.union(&of_b).cloned().collect::<BTreeSet<_>>(), all);
    for number in 0..40 {
        cluster.wait(producer.send(message("orders", format!("m{number}")))).expect("stored");
    }
    cluster.run_for(second(1));
    assert_eq!(seen_a.bodies().len() + seen_b.bodies().len(), 40, "each exactly once in quiet times");
    assert!(!seen_a.bodies().is_empty() && !seen_b.bodies().is_empty());
    cluster.wait(b.close(second(1)));
    cluster.run_for(second(5));
    assert_eq!(a.queues().into_iter().collect::<BTreeSet<_>>(), all);
}

/// Members come and go at random while messages are sent: nothing is missed.
/// proves: I61
#[test]
fn every_message_reaches_the_group_while_members_come_and_go() {
    for seed in 0..u64::from(cases(4)) {
        let cluster = start(1000 + seed, 1, 2);
        cluster.create_topic("orders", 4);
        let producer = cluster.producer_with(1, ProducerOptions::default());
        let seen = Seen::default();
        let mut members: BTreeMap<u8, PushConsumer> = BTreeMap::new();
        let mut sent = 0;
        for round in 0..12_u64 {
            let random = cluster.host(Node::Client(1)).random();
            let who = 2 + u8::try_from(random % 3).expect("below 3");
            match members.remove(&who) {
                Some(member) if random & 8 == 0 => cluster.wait(member.close(second(1))),
                Some(member) => drop(member),
                None => {
                    let member =
                        cluster.push_consumer(who, "pushed", earliest(), &[("orders", "*")], seen.listener());
                    members.insert(who, member);
                }
            }
            for _ in 0..5 {
                cluster.wait(producer.send(message("orders", format!("m{sent}")))).expect("stored");
                sent += 1;
            }
            cluster.run_for(Duration::from_millis(random % 7_000 + round));
        }
        if members.is_empty() {
            members.insert(
                2,
                cluster.push_consumer(2, "pushed", earliest(), &[("orders", "*")], seen.listener()),
            );
        }
        // A member that was dropped without a word is forgotten after 120 s of silence.
        cluster.run_for(second(300));
        assert_eq!(seen.distinct(), numbered(sent), "seed {seed}");
    }
}

/// Messages of one queue arrive in order, one at a time, also when one fails; the queue is locked.
/// proves: I66
#[test]
fn ordered_consumption_keeps_the_order_of_each_queue() {
    let cluster = start(55, 1, 1);
    let producer = cluster.producer_with(1, ProducerOptions::default());
    cluster.wait(producer.queues("orders")).expect("queues");
    let queues: Vec<_> = (0..2).map(|id| MessageQueue::new("orders", "broker-0", id)).collect();
    for number in 0..10 {
        for queue in &queues {
            let body = format!("q{}-{number}", queue.queue_id);
            cluster.wait(producer.send_to(message("orders", body), queue)).expect("stored");
        }
    }
    let seen = Seen::default();
    let (log, running) = (seen.clone(), Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]));
    let (failures, runtime) = (Arc::new(AtomicUsize::new(0)), cluster.host(Node::Client(2)));
    let ordered = PushConsumerOptions { ordered: true, ..earliest() };
    let slowly = async_listener(move |messages: Vec<ReceivedMessage>| {
        let (log, running, failures, runtime) =
            (log.clone(), Arc::clone(&running), Arc::clone(&failures), runtime.clone());
        async move {
            let queue = usize::try_from(messages[0].queue_id()).expect("0 or 1");
            assert_eq!(running[queue].fetch_add(1, Ordering::SeqCst), 0, "two at a time");
            runtime.sleep(Duration::from_millis(20)).await;
            running[queue].fetch_sub(1, Ordering::SeqCst);
            if messages[0].queue_offset() == 3 && failures.fetch_add(1, Ordering::SeqCst) < 3 {
                return ConsumeResult::Later;
            }
            log.0.lock().expect("whole").extend(messages);
            ConsumeResult::Consumed
        }
    });
    let _consumer = cluster.push_consumer(2, "ordered", ordered, &[("orders", "*")], slowly);
    cluster.run_for(second(10));
    assert!(requests(&cluster, 2, code::LOCK_BATCH_MQ) >= 1);
    for queue in 0..2 {
        let of_queue: Vec<_> =
            seen.bodies().into_iter().filter(|body| body.starts_with(&format!("q{queue}"))).collect();
        let expected: Vec<_> = (0..10).map(|number| format!("q{queue}-{number}")).collect();
        assert_eq!(of_queue, expected);
    }
}

/// Two ordered members: at no time do both consume from one queue.
/// proves: I66
#[test]
fn a_locked_queue_has_one_consumer_while_members_change() {
    let cluster = start(56, 1, 1);
    let producer = cluster.producer_with(1, ProducerOptions::default());
    cluster.wait(producer.send(message("orders", "m0"))).expect("stored");
    let holders: Arc<Mutex<BTreeMap<i32, usize>>> = Arc::default();
    let seen = Seen::default();
    let member = |host: u8| {
        let (holders, seen, runtime) = (Arc::clone(&holders), seen.clone(), cluster.host(Node::Client(host)));
        let exclusive = async_listener(move |messages: Vec<ReceivedMessage>| {
            let (holders, seen, runtime) = (Arc::clone(&holders), seen.clone(), runtime.clone());
            async move {
                let queue = messages[0].queue_id();
                let before = {
                    let mut holders = holders.lock().expect("whole");
                    let count = holders.entry(queue).or_default();
                    *count += 1;
                    *count
                };
                assert_eq!(before, 1, "queue {queue} has two consumers");
                runtime.sleep(Duration::from_millis(300)).await;
                *holders.lock().expect("whole").entry(queue).or_default() -= 1;
                seen.0.lock().expect("whole").extend(messages);
                ConsumeResult::Consumed
            }
        });
        let ordered = PushConsumerOptions { ordered: true, ..earliest() };
        cluster.push_consumer(host, "ordered", ordered, &[("orders", "*")], exclusive)
    };
    let first = member(2);
    for number in 1..60 {
        cluster.wait(producer.send(message("orders", format!("m{number}")))).expect("stored");
    }
    cluster.run_for(second(2));
    let _other = member(3);
    cluster.run_for(second(3));
    cluster.wait(first.close(second(5)));
    cluster.run_for(second(40));
    assert_eq!(seen.distinct(), numbered(60));
}
