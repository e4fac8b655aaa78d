//! Delay, send-back and dead letters, remoting-protocol §10.

use std::time::Duration;

use staticfire::protocol::codes::request;
use staticfire::storage::{QueueId, Record};
use staticfire::transport::Command;

use crate::world::{Client, World, number, pull, send, send_with};

const SECOND: Duration = Duration::from_secs(1);

fn record(answer: &Command) -> Record {
    Record::unverified(answer.body.to_bytes()).unwrap()
}

fn send_back(client: &Client, record: &Record, level: i32, max: i32) -> i32 {
    let command = Command::request(request::CONSUMER_SEND_MSG_BACK)
        .with_ext("offset", record.physical())
        .with_ext("group", "G")
        .with_ext("delayLevel", level)
        .with_ext("maxReconsumeTimes", max);
    client.ask(command).code
}

/// proves: I68, M16
#[test]
fn a_delayed_message_comes_when_its_time_has_passed_and_not_before() {
    let mut world = World::new(1);
    let client = world.client();
    client.ask(send("orders", 0, "first"));
    let sent = client.ask(send_with("orders", 3, "later", "DELAY\u{1}2\u{2}TAGS\u{1}t\u{2}", |_| {}));
    assert_eq!((sent.code, number(&sent, "queueId")), (0, 3), "the queue it was sent to");
    let mut held = client.start(pull("orders", 3, 0, "t", 15));
    assert!(client.poll(&mut held, Duration::from_millis(4900)).is_none(), "level 2 is 5 s");
    let found = client.poll(&mut held, Duration::from_millis(400)).expect("after 5 s");
    let late = record(&found);
    assert_eq!((&late.body()[..], late.topic(), late.queue()), (&b"later"[..], "orders", QueueId(3)));
    assert_eq!((late.property("DELAY"), late.property("REAL_TOPIC")), (None, None));
}

/// proves: I68
#[test]
fn a_delayed_message_survives_restart_and_kill() {
    let mut world = World::new(2);
    let client = world.client();
    client.ask(send("orders", 0, "first"));
    client.ask(send_with("orders", 0, "later", "DELAY\u{1}3\u{2}", |_| {}));
    world.restart();
    world.client().run(4 * SECOND);
    world.kill();
    let client = world.client();
    let mut held = client.start(pull("orders", 0, 1, "*", 20));
    assert!(client.poll(&mut held, 5 * SECOND).is_none());
    assert_eq!(&record(&client.poll(&mut held, 6 * SECOND).expect("after 10 s")).body()[..], b"later");
    client.run(15 * SECOND);
    assert_eq!(client.ask(pull("orders", 0, 2, "*", 0)).code, 19, "once");
    world.restart();
    let client = world.client();
    client.run(3 * SECOND);
    assert_eq!(client.ask(pull("orders", 0, 2, "*", 0)).code, 19, "progress is known after a restart");
}

/// proves: I67
#[test]
fn what_a_consumer_sends_back_comes_again_and_ends_as_a_dead_letter() {
    let mut world = World::new(3);
    let client = world.client();
    client.ask(send_with("orders", 0, "hard", "KEYS\u{1}k\u{2}UNIQ_KEY\u{1}U\u{2}", |_| {}));
    let first = record(&client.ask(pull("orders", 0, 0, "*", 0)));
    assert_eq!(send_back(&client, &first, 1, 1), 0);
    let again = record(&client.ask(pull("%RETRY%G", 0, 0, "*", 10)));
    assert_eq!((again.reconsume_times(), again.topic()), (1, "%RETRY%G"));
    assert_eq!(again.property("RETRY_TOPIC"), Some("orders"));
    assert_eq!(again.property("ORIGIN_MESSAGE_ID"), Some(first.message_id().to_string().as_str()));
    assert_eq!((again.property("UNIQ_KEY"), again.property("KEYS")), (Some("U"), Some("k")));
    assert_eq!((again.born_ms(), again.body()), (first.born_ms(), first.body()));

    assert_eq!(send_back(&client, &again, 1, 1), 0, "tried once, which was the limit");
    let dead = record(&client.ask(pull("%DLQ%G", 0, 0, "*", 10)));
    assert_eq!((dead.reconsume_times(), dead.property("RETRY_TOPIC")), (2, Some("orders")));
    assert_eq!(dead.property("ORIGIN_MESSAGE_ID"), Some(first.message_id().to_string().as_str()));
}

/// Level 0 asks for 10 s, then 30 s, …
#[test]
fn without_a_level_the_wait_grows_with_the_attempts() {
    let mut world = World::new(4);
    let client = world.client();
    client.ask(send("orders", 0, "x"));
    let first = record(&client.ask(pull("orders", 0, 0, "*", 0)));
    assert_eq!(send_back(&client, &first, 0, 16), 0);
    let mut held = client.start(pull("%RETRY%G", 0, 0, "*", 15));
    assert!(client.poll(&mut held, 9 * SECOND).is_none());
    let again = record(&client.poll(&mut held, 2 * SECOND).expect("after 10 s"));
    assert_eq!(send_back(&client, &again, 0, 16), 0);
    let mut held = client.start(pull("%RETRY%G", 0, 1, "*", 40));
    assert!(client.poll(&mut held, 29 * SECOND).is_none());
    assert!(client.poll(&mut held, 2 * SECOND).is_some(), "after 30 s");
}

#[test]
fn nothing_to_send_back_is_an_error() {
    let mut world = World::new(5);
    let client = world.client();
    client.ask(send("orders", 0, "x"));
    let first = record(&client.ask(pull("orders", 0, 0, "*", 0)));
    for offset in [-1, i64::MAX, first.physical().0.cast_signed() + 1] {
        let command = Command::request(request::CONSUMER_SEND_MSG_BACK)
            .with_ext("offset", offset)
            .with_ext("group", "G")
            .with_ext("delayLevel", 0);
        assert_eq!(client.ask(command).code, 1, "{offset}");
    }
}

/// A consumer that cannot send back sends to the retry topic by itself.
#[test]
fn a_send_to_the_retry_topic_ends_as_a_dead_letter_after_the_limit() {
    let mut world = World::new(6);
    let client = world.client();
    let retry = |times: i32| {
        send_with("%RETRY%G", 0, "x", "DELAY\u{1}1\u{2}RETRY_TOPIC\u{1}orders\u{2}", |head| {
            head.reconsume_times = times;
            head.reconsume_times_max = Some(2);
        })
    };
    assert_eq!(client.ask(retry(2)).code, 0);
    assert_eq!(client.ask(retry(3)).code, 0);
    let dead = client.ask(pull("%DLQ%G", 0, 0, "*", 0));
    assert_eq!((dead.code, record(&dead).reconsume_times()), (0, 3));
    let again = client.ask(pull("%RETRY%G", 0, 0, "*", 10));
    assert_eq!(record(&again).reconsume_times(), 2);
}

/// Neither delivered nor skipped; the other levels go on, and so does everything else.
#[test]
fn a_damaged_delayed_message_holds_back_its_level_alone() {
    let mut world = World::new(7);
    let client = world.client();
    client.ask(send("orders", 0, "first"));
    let sent = client.ask(send_with("orders", 0, "damaged", "DELAY\u{1}1\u{2}", |_| {}));
    client.ask(send_with("orders", 0, "sound", "DELAY\u{1}2\u{2}", |_| {}));
    let id: staticfire::storage::MessageId = sent.ext.get("msgId").unwrap().parse().unwrap();
    let in_body = id.physical.0 + 88;
    world.disk().flip_bit("commitlog/00000000000000000000", in_body * 8).unwrap();
    let found = client.ask(pull("orders", 0, 1, "*", 10));
    assert_eq!(&record(&found).body()[..], b"sound");
}
