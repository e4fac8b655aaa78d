//! Pulls and offsets, remoting-protocol §8 and §9.6.

use std::time::Duration;

use staticfire::protocol::codes::{request, response};
use staticfire::storage::disk::{DiskFaults, DiskOperation, FaultEffect};
use staticfire::transport::Command;

use crate::world::{World, number, pull, send, send_with};

const SECOND: Duration = Duration::from_secs(1);

fn offset(code: i32, topic: &str) -> Command {
    Command::request(code).with_ext("consumerGroup", "C").with_ext("topic", topic).with_ext("queueId", 0)
}

/// proves: I70
#[test]
fn a_held_pull_gets_a_message_as_soon_as_it_is_there() {
    let mut world = World::new(1);
    let (consumer, producer) = (world.client(), world.client());
    producer.ask(send("orders", 1, "other queue"));
    let mut held = consumer.start(pull("orders", 0, 0, "*", 15));
    assert!(consumer.poll(&mut held, 5 * SECOND).is_none(), "nothing is there");
    producer.ask(send("orders", 0, "now"));
    let answer = consumer.poll(&mut held, SECOND).expect("at once");
    assert_eq!((answer.code, number(&answer, "nextBeginOffset")), (0, 1));
}

#[test]
fn a_held_pull_ends_without_a_message_when_its_time_is_up() {
    let mut world = World::new(2);
    let client = world.client();
    client.ask(send("orders", 0, "x"));
    let mut held = client.start(pull("orders", 0, 1, "*", 15));
    assert!(client.poll(&mut held, 14 * SECOND).is_none());
    let answer = client.poll(&mut held, 3 * SECOND).expect("after 15 s");
    assert_eq!(
        (answer.code, answer.remark.as_deref()),
        (response::PULL_NOT_FOUND, Some("OFFSET_OVERFLOW_ONE"))
    );
    assert_eq!((number(&answer, "nextBeginOffset"), number(&answer, "suggestWhichBrokerId")), (1, 0));
}

/// proves: I63
#[test]
fn a_tag_filter_passes_its_tags_and_the_offset_moves_on_over_the_others() {
    let mut world = World::new(3);
    let client = world.client();
    for tag in ["red", "blue", "red", "green"] {
        client.ask(send_with("orders", 0, tag, &format!("TAGS\u{1}{tag}\u{2}"), |_| {}));
    }
    client.ask(send("orders", 0, "no tag"));
    let found = client.ask(pull("orders", 0, 0, "red || green", 0));
    let bodies: Vec<u8> = found.body.to_bytes().to_vec();
    let has = |text: &[u8]| bodies.windows(text.len()).any(|window| window == text);
    assert_eq!((found.code, number(&found, "nextBeginOffset")), (0, 5));
    assert!(has(b"red") && has(b"green") && !has(b"blue") && !has(b"no tag"));
    let nothing = client.ask(pull("orders", 0, 0, "yellow", 15));
    assert_eq!((nothing.code, number(&nothing, "nextBeginOffset")), (response::PULL_RETRY_IMMEDIATELY, 5));

    // held beside messages for others: told within the sweep how far it has come
    let mut held = client.start(pull("orders", 0, 5, "yellow", 15));
    assert!(client.poll(&mut held, SECOND).is_none());
    client.ask(send("orders", 0, "still none"));
    let answer = client.poll(&mut held, 6 * SECOND).expect("within 5 s");
    assert_eq!((answer.code, number(&answer, "nextBeginOffset")), (response::PULL_RETRY_IMMEDIATELY, 6));
}

/// proves: B34
#[test]
fn offsets_outside_of_the_queue_are_corrected() {
    let mut world = World::new(4);
    let client = world.client();
    client.ask(send("orders", 0, "x"));
    for (queue, offset, code, status, next) in [
        (1, 0, 19, "NO_MATCHED_LOGIC_QUEUE", 0),
        (1, 7, 21, "NO_MATCHED_LOGIC_QUEUE", 0),
        (0, 1, 19, "OFFSET_OVERFLOW_ONE", 1),
        (0, 2, 21, "OFFSET_OVERFLOW_BADLY", 1),
        (0, i64::MAX, 21, "OFFSET_OVERFLOW_BADLY", 1),
        (0, -1, 21, "OFFSET_TOO_SMALL", 0),
    ] {
        let answer = client.ask(pull("orders", queue, offset, "*", 0));
        assert_eq!((answer.code, answer.remark.as_deref()), (code, Some(status)), "{queue} {offset}");
        assert_eq!(number(&answer, "nextBeginOffset"), next);
        for field in ["suggestWhichBrokerId", "minOffset", "maxOffset"] {
            number(&answer, field);
        }
    }
    assert_eq!(client.ask(pull("unknown", 0, 0, "*", 0)).code, response::TOPIC_NOT_EXIST);
    assert_eq!(client.ask(pull("orders", 4, 0, "*", 0)).code, response::INVALID_PARAMETER);
    assert_eq!(client.ask(pull("orders", -1, 0, "*", 0)).code, response::INVALID_PARAMETER);
    assert_eq!(client.ask(pull("orders", 0, 0, "||", 0)).code, response::SUBSCRIPTION_PARSE_FAILED);
    let sql = pull("orders", 0, 0, "a > 1", 0).with_ext("expressionType", "SQL92");
    assert_eq!(client.ask(sql).code, response::SYSTEM_ERROR);
    let mut heartbeat_only = pull("orders", 0, 0, "*", 0);
    heartbeat_only.ext.push("sysFlag", 2);
    assert_eq!(client.ask(heartbeat_only).code, response::SUBSCRIPTION_NOT_EXIST);
}

/// 32 messages or 256 KiB an answer, and at least one message.
#[test]
fn an_answer_is_bounded_and_never_empty() {
    let mut world = World::new(5);
    let client = world.client();
    for _ in 0..40 {
        client.ask(send("small", 0, "x"));
    }
    let mut all = pull("small", 0, 0, "*", 0);
    all.ext.push("maxMsgNums", i32::MAX);
    assert_eq!(number(&client.ask(all), "nextBeginOffset"), 32);
    for _ in 0..3 {
        client.ask(send_with("large", 0, vec![1; 200_000], "", |_| {}));
    }
    assert_eq!(number(&client.ask(pull("large", 0, 0, "*", 0)), "nextBeginOffset"), 1);
    let mut none = pull("small", 0, 0, "*", 0);
    none.ext.push("maxMsgNums", -5);
    none.ext.push("maxMsgBytes", 0);
    assert_eq!(number(&client.ask(none), "nextBeginOffset"), 1);
}

/// proves: I64, B42
#[test]
fn committed_offsets_are_found_again_after_a_restart() {
    let mut world = World::new(6);
    let client = world.client();
    for _ in 0..5 {
        client.ask(send("orders", 0, "x"));
    }
    let commit = |to: i64| offset(request::UPDATE_CONSUMER_OFFSET, "orders").with_ext("commitOffset", to);
    assert_eq!(client.ask(commit(3)).code, response::SUBSCRIPTION_GROUP_NOT_EXIST, "nobody knows the group");
    client.ask(pull("orders", 0, 0, "*", 0));
    assert_eq!(
        number(&client.ask(offset(request::QUERY_CONSUMER_OFFSET, "orders")), "offset"),
        0,
        "young queue"
    );
    assert_eq!(client.ask(commit(-1)).code, 0);
    let mut one_way = commit(3);
    one_way.flag = 2;
    // committed and asked for in one turn
    client.tell(one_way);
    assert_eq!(number(&client.ask(offset(request::QUERY_CONSUMER_OFFSET, "orders")), "offset"), 3);
    client.ask(commit(99));
    assert_eq!(number(&client.ask(offset(request::QUERY_CONSUMER_OFFSET, "orders")), "offset"), 5, "the end");

    world.restart();
    let client = world.client();
    assert_eq!(number(&client.ask(offset(request::QUERY_CONSUMER_OFFSET, "orders")), "offset"), 5);
    assert_eq!(client.ask(commit(4)).code, 0);
    client.run(6 * SECOND);
    world.kill();
    let client = world.client();
    assert_eq!(
        number(&client.ask(offset(request::QUERY_CONSUMER_OFFSET, "orders")), "offset"),
        4,
        "written every 5 s"
    );
}

/// A message stored between the question and the first pull of a new group is consumed.
#[test]
fn a_new_group_starts_at_zero_on_a_queue_that_never_held_a_message() {
    let mut world = World::new(7);
    let client = world.client();
    client.ask(send("orders", 1, "another queue"));
    let ask = offset(request::QUERY_CONSUMER_OFFSET, "orders");
    assert_eq!(number(&client.ask(ask.clone()), "offset"), 0);
    let found_only = ask.with_ext("setZeroIfNotFound", "false");
    assert_eq!(client.ask(found_only).code, response::QUERY_NOT_FOUND);
}

#[test]
fn bounds_and_times_of_a_queue() {
    let mut world = World::new(8);
    let client = world.client();
    for _ in 0..3 {
        client.ask(send("orders", 0, "x"));
        client.run(SECOND);
    }
    let ask = |code| number(&client.ask(offset(code, "orders")), "offset");
    assert_eq!((ask(request::GET_MIN_OFFSET), ask(request::GET_MAX_OFFSET)), (0, 3));
    assert_eq!(number(&client.ask(offset(request::GET_MAX_OFFSET, "unknown")), "offset"), 0);
    let first = number(&client.ask(offset(request::GET_EARLIEST_MSG_STORE_TIME, "orders")), "timestamp");
    let search = |ms: i64, boundary: &str| {
        let command = offset(request::SEARCH_OFFSET_BY_TIMESTAMP, "orders");
        number(&client.ask(command.with_ext("timestamp", ms).with_ext("boundaryType", boundary)), "offset")
    };
    assert_eq!((search(first, "LOWER"), search(first + 1, "lower"), search(i64::MAX, "LOWER")), (0, 1, 3));
    assert_eq!((search(first + 1, "UPPER"), search(0, "UPPER")), (0, 0));
}

/// proves: I73
#[test]
fn too_many_held_pulls_are_refused_and_a_closed_connection_frees_them() {
    let mut world = World::with(9, |options| options.polls.total = 2);
    let (client, other) = (world.client(), world.client());
    client.ask(send("orders", 0, "x"));
    let _held = [client.start(pull("orders", 0, 1, "*", 15)), client.start(pull("orders", 0, 1, "*", 15))];
    client.run(SECOND);
    assert_eq!(other.ask(pull("orders", 0, 1, "*", 15)).code, response::SYSTEM_BUSY);
    client.connection.close();
    other.run(SECOND);
    let mut held = other.start(pull("orders", 0, 1, "*", 15));
    assert!(other.poll(&mut held, SECOND).is_none());
}

/// Messages that are only on the device arrive once it has read them, each pull with what it waited for;
/// what it cannot read is a refusal, and the next pull asks it again.
#[test]
fn a_pull_waits_for_the_device_without_looking_through_the_mapping() {
    let mut world = World::with(31, |options| options.hot_bytes = 0);
    let client = world.client();
    for body in ["first", "second", "third"] {
        client.ask(send("orders", 0, body));
    }
    let cold = DiskFaults { cold: true, ..DiskFaults::calm() };
    world.disk().set_faults(cold.clone().on_nth(DiskOperation::Read, 1, FaultEffect::Io));
    let refused = client.ask(pull("orders", 0, 0, "*", 0));
    assert_eq!(
        (refused.code, refused.remark.as_deref()),
        (response::SYSTEM_ERROR, Some("the message cannot be read"))
    );
    for (offset, body) in ["first", "second", "third"].into_iter().enumerate() {
        let found = client.ask(pull("orders", 0, offset as i64, "*", 0));
        assert_eq!((found.code, number(&found, "nextBeginOffset")), (0, offset as i64 + 1));
        let bytes = found.body.to_bytes();
        assert!(bytes.windows(body.len()).any(|window| window == body.as_bytes()), "{body}");
    }
    world.disk().set_faults(DiskFaults::calm());
    let found = client.ask(pull("orders", 0, 0, "*", 0));
    assert_eq!(number(&found, "nextBeginOffset"), 3, "all at once when they are in memory");
    assert_eq!(world.cluster.network().stray_answers(), 0);
}
