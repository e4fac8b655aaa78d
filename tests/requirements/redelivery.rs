//! Messages that a listener could not consume.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use staticfire::client::{ConsumeResult, ProducerOptions, PushConsumerOptions, listener};
use staticfire::protocol::codes::response;

use crate::scripted::{Answer, Scripted};
use crate::seen::{bodies, earliest, message, minute, second, start};

/// A failed message comes again after 10 s with its own topic, and other messages meanwhile; after
/// the last attempt it is a dead letter.
/// proves: I67, Z39
#[test]
fn a_failed_message_comes_again_later_and_finally_becomes_a_dead_letter() {
    let cluster = start(57, 1, 1);
    let producer = cluster.producer_with(1, ProducerOptions::default());
    cluster.wait(producer.send(message("orders", "bad").key("k"))).expect("stored");
    cluster.wait(producer.send(message("orders", "good"))).expect("stored");
    type Delivery = (String, String, i32, Duration);
    let times: Arc<Mutex<Vec<Delivery>>> = Arc::default();
    let (log, clock) = (Arc::clone(&times), cluster.network().clone());
    let failing = listener(move |messages| {
        let text = String::from_utf8_lossy(messages[0].body()).into_owned();
        let result = if text == "bad" { ConsumeResult::Later } else { ConsumeResult::Consumed };
        let entry =
            (text, messages[0].topic().to_owned(), messages[0].reconsume_times(), clock.now().since_start());
        log.lock().expect("whole").push(entry);
        result
    });
    let options = PushConsumerOptions { redeliveries_max: Some(2), ..earliest() };
    let _consumer = cluster.push_consumer(2, "pushed", options, &[("orders", "*")], failing);
    cluster.run_for(minute(3));
    let times = times.lock().expect("whole").clone();
    let bad: Vec<_> = times.iter().filter(|(body, ..)| body == "bad").collect();
    assert!(bad.iter().all(|(_, topic, ..)| topic == "orders"));
    assert_eq!(bad.iter().map(|(_, _, attempt, _)| *attempt).collect::<Vec<_>>(), [0, 1, 2]);
    let waits: Vec<_> = bad.windows(2).map(|pair| (pair[1].3 - pair[0].3).as_secs_f64().round()).collect();
    assert_eq!(waits, [10.0, 30.0], "levels 3 and 4");
    assert_eq!(times.iter().filter(|(body, ..)| body == "good").count(), 1);
    assert_eq!(bodies(&cluster, "%DLQ%pushed"), ["bad".to_owned()].into());
}

/// The broker refuses the send-back: a copy goes to the retry topic instead, and only then is the
/// original done with.
/// proves: I67
#[test]
fn a_refused_send_back_becomes_a_plain_send_to_the_retry_topic() {
    let scripted = Scripted::new(vec![Answer::Stored]);
    scripted.hold_message("orders", "bad");
    let cluster = scripted.cluster(58);
    let failing = listener(|_| ConsumeResult::LaterAtLevel(5));
    let _consumer = cluster.push_consumer(1, "pushed", earliest(), &[("orders", "*")], failing);
    cluster.run_for(second(3));
    let sent = scripted.sent();
    assert_eq!(sent.len(), 1, "{sent:?}");
    let (topic, properties, reconsumed) = &sent[0];
    assert_eq!((topic.as_str(), *reconsumed), ("%RETRY%pushed", 1));
    for part in ["RETRY_TOPIC\u{1}orders\u{2}", "DELAY\u{1}5\u{2}", "ORIGIN_MESSAGE_ID\u{1}"] {
        assert!(properties.contains(part), "{properties:?}");
    }
    cluster.run_for(second(10));
    assert_eq!(scripted.committed(), Some(1), "and the offset moved on");
}

/// Neither the send-back nor the copy is taken: the message is not done with, its offset stays, and
/// the listener gets it again.
/// proves: I67, Z39
#[test]
fn a_message_that_cannot_be_stored_for_later_stays_unconsumed() {
    let scripted = Scripted::new(vec![Answer::Refused(response::MESSAGE_ILLEGAL)]);
    scripted.hold_message("orders", "bad");
    let cluster = scripted.cluster(67);
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let failing = listener(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        ConsumeResult::Later
    });
    let _consumer = cluster.push_consumer(1, "pushed", earliest(), &[("orders", "*")], failing);
    cluster.run_for(second(20));
    assert!(calls.load(Ordering::Relaxed) >= 3, "{calls:?}");
    assert!(scripted.committed().is_none_or(|offset| offset == 0), "{:?}", scripted.committed());
}

/// A panic in a listener is a failure of that message, not of the consumer.
#[test]
fn a_listener_that_panics_gets_the_message_again() {
    let cluster = start(59, 1, 1);
    let producer = cluster.producer_with(1, ProducerOptions::default());
    cluster.wait(producer.send(message("orders", "m0"))).expect("stored");
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let panicking = listener(move |_| {
        assert!(counted.fetch_add(1, Ordering::Relaxed) > 0, "the first call fails on purpose");
        ConsumeResult::Consumed
    });
    let _consumer = cluster.push_consumer(2, "pushed", earliest(), &[("orders", "*")], panicking);
    cluster.run_for(second(20));
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}
