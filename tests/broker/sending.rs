//! Sends, remoting-protocol §7.

use staticfire::protocol::codes::{request, response};
use staticfire::storage::batch::{self, BatchPart};
use staticfire::storage::{PhysicalOffset, Record};
use staticfire::transport::Command;

use crate::world::{World, number, pull, send, send_with};

fn records(answer: &Command) -> Vec<Record> {
    let slices = answer.body.slices();
    slices.iter().map(|slice| Record::unverified(slice.clone()).unwrap()).collect()
}

fn records_of(bytes: &Command) -> Vec<Record> {
    let mut rest = bytes.body.to_bytes();
    let mut all = Vec::new();
    while !rest.is_empty() {
        let len = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
        all.push(Record::unverified(rest.split_to(len)).unwrap());
    }
    all
}

/// proves: M15
#[test]
fn a_message_comes_back_as_it_was_sent() {
    let mut world = World::new(1);
    let client = world.client();
    let properties = "TAGS\u{1}red\u{2}KEYS\u{1}k1 k2\u{2}UNIQ_KEY\u{1}U1\u{2}WAIT\u{1}false\u{2}";
    let sent = client.ask(send_with("orders", 2, "paid", properties, |head| {
        head.flag = 7;
        head.born_ms = 1234;
    }));
    assert_eq!((sent.code, number(&sent, "queueId"), number(&sent, "queueOffset")), (0, 2, 0));
    assert_eq!(sent.ext.get("transactionId"), Some("U1"));
    assert_eq!((sent.ext.get("MSG_REGION"), sent.ext.get("TRACE_ON")), (Some("DefaultRegion"), Some("true")));

    let found = client.ask(pull("orders", 2, 0, "*", 0));
    assert_eq!((found.code, found.remark.as_deref()), (0, Some("FOUND")));
    assert_eq!(
        (number(&found, "nextBeginOffset"), number(&found, "minOffset"), number(&found, "maxOffset")),
        (1, 0, 1)
    );
    let record = &records_of(&found)[0];
    assert_eq!((&record.body()[..], record.flag(), record.born_ms()), (&b"paid"[..], 7, 1234));
    for (name, value) in
        [("TAGS", "red"), ("KEYS", "k1 k2"), ("UNIQ_KEY", "U1"), ("CLUSTER", "DefaultCluster")]
    {
        assert_eq!(record.property(name), Some(value));
    }
    assert_eq!(sent.ext.get("msgId"), Some(record.message_id().to_string().as_str()));
    assert_eq!(record.store_host(), world.broker().address());

    let view = Command::request(request::VIEW_MESSAGE_BY_ID).with_ext("offset", record.physical());
    assert_eq!(records(&client.ask(view))[0].bytes(), record.bytes());
    let nowhere = Command::request(request::VIEW_MESSAGE_BY_ID).with_ext("offset", record.physical().0 + 1);
    assert_eq!(client.ask(nowhere).code, response::SYSTEM_ERROR);
}

#[test]
fn the_old_header_means_the_same_and_one_way_has_no_answer() {
    let mut world = World::new(2);
    let client = world.client();
    let v1 = Command::request(request::SEND_MESSAGE)
        .with_ext("producerGroup", "P")
        .with_ext("topic", "orders")
        .with_ext("defaultTopic", "TBW102")
        .with_ext("defaultTopicQueueNums", 4)
        .with_ext("queueId", 0)
        .with_ext("sysFlag", 0)
        .with_ext("bornTimestamp", 5)
        .with_ext("flag", 0)
        .with_ext("unitMode", 0)
        .with_body("old");
    assert_eq!(client.ask(v1).code, 0);
    let mut one_way = send("orders", 0, "one way");
    one_way.flag = 2;
    client.tell(one_way);
    let found = client.ask(pull("orders", 0, 1, "*", 5));
    assert_eq!(&records_of(&found)[0].body()[..], b"one way");
    assert_eq!(world.cluster.network().stray_answers(), 0);
}

#[test]
fn the_broker_chooses_a_queue_when_asked_to() {
    let mut world = World::new(3);
    let client = world.client();
    let queues: std::collections::BTreeSet<i64> =
        (0..64).map(|_| number(&client.ask(send("orders", -1, "x")), "queueId")).collect();
    assert_eq!(queues, (0..4).collect());
}

/// The answer to the send that created a topic comes when the name server knows it.
#[test]
fn a_new_topic_is_known_everywhere_when_its_first_send_is_answered() {
    let mut world = World::new(4);
    let (client, names) = (world.client(), world.name_server());
    let route = || Command::request(request::GET_ROUTEINFO_BY_TOPIC).with_ext("topic", "fresh");
    assert_eq!(names.ask(route()).code, response::TOPIC_NOT_EXIST);
    assert_eq!(client.ask(send("fresh", 0, "first")).code, 0);
    assert_eq!(names.ask(route()).code, 0);
    world.kill();
    let client = world.client();
    assert_eq!(client.ask(pull("fresh", 0, 0, "*", 0)).code, 0, "neither topic nor message is forgotten");
}

/// proves: B36
#[test]
fn a_batch_is_stored_together_or_not_at_all() {
    let mut world = World::new(5);
    let client = world.client();
    let body = |delayed: bool| {
        let mut out = Vec::new();
        for i in 0..3 {
            let properties = if delayed && i == 2 { "DELAY\u{1}1\u{2}" } else { "KEYS\u{1}k\u{2}" };
            let part = BatchPart { flag: i, body: format!("m{i}").into(), properties: properties.into() };
            batch::append(&mut out, &part).unwrap();
        }
        out
    };
    let batch = |body: Vec<u8>| send_with("orders", 1, body, "", |head| head.batch = true);
    assert_eq!(client.ask(batch(body(true))).code, response::MESSAGE_ILLEGAL);
    let mut torn = body(false);
    torn.pop();
    assert_eq!(client.ask(batch(torn)).code, response::MESSAGE_ILLEGAL);

    client.ask(send("orders", 1, "before"));
    let sent = client.ask(batch(body(false)));
    assert_eq!((sent.code, number(&sent, "queueOffset")), (0, 1));
    let ids: Vec<&str> = sent.ext.get("msgId").unwrap().split(',').collect();
    let found = records_of(&client.ask(pull("orders", 1, 1, "*", 0)));
    let seen: Vec<(String, i32)> = found.iter().map(|r| (r.message_id().to_string(), r.flag())).collect();
    assert_eq!(seen, [(ids[0].to_owned(), 0), (ids[1].to_owned(), 1), (ids[2].to_owned(), 2)]);
}

/// proves: B29, B30, B32, B33
#[test]
fn what_cannot_be_stored_is_refused_in_words_and_nothing_is_stored() {
    let mut world = World::new(6);
    let client = world.client();
    client.ask(send("orders", 0, "first"));
    let end = |world: &World| world.broker().store().marks().appended;
    let before = end(&world);
    let check = |command: Command, code: i32| {
        let answer = client.ask(command);
        assert_eq!(answer.code, code, "{answer:?}");
        assert!(answer.remark.is_some_and(|remark| !remark.is_empty()));
        assert_eq!(answer.ext.get("MSG_REGION"), Some("DefaultRegion"));
    };
    for bad in ["", "..", "../x", "/x", "a b", "a\n", "😀", "%2e%2e/"] {
        check(send(bad, 0, "x"), response::INVALID_PARAMETER);
    }
    check(send("SCHEDULE_TOPIC_XXXX", 0, "x"), response::NO_PERMISSION);
    check(send("rmq_sys_x", 0, "x"), response::NO_PERMISSION);
    check(send("orders", 4, "x"), response::INVALID_PARAMETER);
    check(send("orders", i32::MAX, "x"), response::INVALID_PARAMETER);
    check(send_with("unknown", 0, "x", "", |head| head.default_topic = "orders"), response::TOPIC_NOT_EXIST);
    let large = vec![7; (4 << 20) + 1];
    check(send_with("orders", 0, large, "", |_| {}), response::MESSAGE_ILLEGAL);
    let long = format!("k\u{1}{}\u{2}", "v".repeat(32_750));
    check(send_with("orders", 0, "x", &long, |_| {}), response::MESSAGE_ILLEGAL);
    check(
        send_with("orders", 0, "x", "TRAN_MSG\u{1}true\u{2}", |head| head.sys_flag = 4),
        response::NO_PERMISSION,
    );
    check(send_with("orders", 0, "x", "TIMER_DELAY_SEC\u{1}9\u{2}", |_| {}), response::SYSTEM_ERROR);
    assert_eq!(end(&world), before);
    assert_eq!(client.ask(send_with("orders", 0, vec![7; 4 << 20], "", |_| {})).code, 0, "exactly the limit");
}

/// proves: B30
///
/// The alphabet keeps a name inside its directory; what it means elsewhere does not matter.
#[test]
fn names_that_mean_something_elsewhere_are_names() {
    let mut world = World::new(8);
    let client = world.client();
    for name in ["CON", "%2e%2e", "%2F", "~", "NUL.", "%2e."] {
        let allowed = ["CON", "%2e%2e", "%2F"].contains(&name);
        let answer = client.ask(send(name, 0, name));
        assert_eq!(answer.code == 0, allowed, "{name}: {answer:?}");
        if allowed {
            let found = records_of(&client.ask(pull(name, 0, 0, "*", 0)));
            assert_eq!((found.len(), &found[0].body()[..]), (1, name.as_bytes()));
        }
    }
    world.restart();
    let folders = world.broker().store().directory().list("consumequeue").unwrap();
    for name in ["CON", "%2e%2e", "%2F"] {
        assert!(folders.iter().any(|folder| folder.name == name), "{name} is not in {folders:?}");
    }
}

/// Many sends of one turn: each has its own answer, and refusals do not disturb the others.
#[test]
fn a_turn_of_many_sends_is_answered_one_by_one() {
    let mut world = World::new(7);
    let client = world.client();
    client.ask(send("orders", 0, "first"));
    let calls: Vec<_> = (0..100)
        .map(|i| (i, client.start(send("orders", if i % 10 == 9 { 99 } else { 0 }, &format!("m{i}")))))
        .collect();
    let mut next = 1;
    for (i, call) in calls {
        let answer = client.wait(call);
        if i % 10 == 9 {
            assert_eq!(answer.code, response::INVALID_PARAMETER);
        } else {
            assert_eq!((answer.code, number(&answer, "queueOffset")), (0, next), "in the order sent");
            next += 1;
        }
    }
    let marks = world.broker().store().marks();
    assert!(marks.min == PhysicalOffset(0) && marks.confirmed == marks.appended);
}
