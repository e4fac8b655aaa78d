//! Heartbeats, members and locks, remoting-protocol §9.

use std::time::Duration;

use staticfire::protocol::codes::{request, response};
use staticfire::transport::Command;

use crate::world::{Client, World, pull, send};

const SECOND: Duration = Duration::from_secs(1);

fn beat(client_id: &str, topics: &str) -> Command {
    let subscription = |topic: &str| format!(r#"{{"subString":"*","subVersion":"5","topic":"{topic}"}}"#);
    let subscriptions: Vec<String> = topics.split_whitespace().map(subscription).collect();
    // as the C++ client writes it: ordinals, numbers in quotes, a line break at the end
    let body = format!(
        r#"{{"clientID":"{client_id}","consumerDataSet":[{{"consumeFromWhere":0,"consumeType":1,"groupName":"G","messageModel":1,"subscriptionDataSet":[{}]}}],"producerDataSet":[{{"groupName":"P"}}]}}{}"#,
        subscriptions.join(","),
        "\n"
    );
    Command::request(request::HEART_BEAT).with_body(body)
}

fn members(client: &Client) -> Command {
    client.ask(Command::request(request::GET_CONSUMER_LIST_BY_GROUP).with_ext("consumerGroup", "G"))
}

#[test]
fn joining_and_leaving_is_told_to_every_member_and_the_newcomer() {
    let mut world = World::new(1);
    let (a, b) = (world.client(), world.client());
    assert_eq!(members(&a).code, response::SYSTEM_ERROR, "nobody is there");
    assert_eq!(a.ask(beat("a", "orders %RETRY%G")).code, 0);
    assert_eq!(a.heard(), [request::NOTIFY_CONSUMER_IDS_CHANGED], "lite pull waits for it");
    assert_eq!(b.ask(beat("b", "orders %RETRY%G")).code, 0);
    assert_eq!((a.heard(), b.heard()), (vec![40], vec![40]));
    assert_eq!(members(&a).body.to_bytes(), r#"{"consumerIdList":["a","b"]}"#);
    a.ask(beat("a", "orders %RETRY%G"));
    assert!(a.heard().is_empty() && b.heard().is_empty(), "a mere heartbeat");

    b.connection.close();
    assert_eq!(a.heard(), [40]);
    assert_eq!(members(&a).body.to_bytes(), r#"{"consumerIdList":["a"]}"#);
    let leave = Command::request(request::UNREGISTER_CLIENT)
        .with_ext("clientID", "a")
        .with_ext("producerGroup", "")
        .with_ext("consumerGroup", "G");
    assert_eq!(a.ask(leave).code, 0);
    assert_eq!(members(&a).code, response::SYSTEM_ERROR);
}

/// Members are told when the retry topic can be found, so that its queue joins the first round.
#[test]
fn the_retry_topic_is_known_when_the_heartbeat_is_answered() {
    let mut world = World::new(2);
    let (client, names) = (world.client(), world.name_server());
    assert_eq!(client.ask(beat("a", "orders")).code, 0);
    let route = Command::request(request::GET_ROUTEINFO_BY_TOPIC).with_ext("topic", "%RETRY%G");
    assert_eq!(names.ask(route).code, 0);
}

#[test]
fn a_silent_member_is_struck_off_after_two_minutes() {
    let mut world = World::new(3);
    let (a, b) = (world.client(), world.client());
    a.ask(beat("a", "orders"));
    b.ask(beat("b", "orders"));
    for _ in 0..5 {
        a.heard();
        b.heard();
        a.run(30 * SECOND);
        a.ask(beat("a", "orders"));
        // b's connection lives, its heartbeat does not
        b.ask(Command::request(request::GET_BROKER_CONFIG));
    }
    assert_eq!(members(&a).body.to_bytes(), r#"{"consumerIdList":["a"]}"#);
}

/// The subscription of the heartbeat decides when the pull has none.
#[test]
fn pulls_follow_the_subscription_of_the_heartbeat() {
    let mut world = World::new(4);
    let client = world.client();
    client.ask(send("orders", 0, "x"));
    client.ask(send("other", 0, "x"));
    client.ask(beat("a", "orders"));
    let by_heartbeat = |topic: &str, version: i64| {
        let mut command =
            pull(topic, 0, 0, "", 0).with_ext("consumerGroup", "G").with_ext("subVersion", version);
        command.ext.push("sysFlag", 0);
        client.ask(command).code
    };
    assert_eq!(by_heartbeat("orders", 5), 0);
    assert_eq!(by_heartbeat("orders", 6), response::SUBSCRIPTION_NOT_LATEST);
    assert_eq!(by_heartbeat("other", 0), response::SUBSCRIPTION_NOT_EXIST);
}

/// proves: B40
#[test]
fn senseless_heartbeats_are_refused() {
    let mut world = World::new(5);
    let client = world.client();
    let check = |body: String| {
        let answer = client.ask(Command::request(request::HEART_BEAT).with_body(body));
        assert_eq!(answer.code, response::INVALID_PARAMETER);
    };
    check("{".to_owned());
    check(r#"{"clientID":""}"#.to_owned());
    check(format!(r#"{{"clientID":"{}"}}"#, "c".repeat(1 << 20)));
    check(r#"{"clientID":"c","producerDataSet":[{"groupName":"../p"}]}"#.to_owned());
    let many: Vec<String> = (0..100_000).map(|i| format!(r#"{{"groupName":"p{i}"}}"#)).collect();
    check(format!(r#"{{"clientID":"c","producerDataSet":[{}]}}"#, many.join(",")));
}

/// proves: B33
#[test]
fn what_is_no_queue_is_not_locked() {
    let mut world = World::new(9);
    let client = world.client();
    client.ask(send("t", 0, "x"));
    let lock = |topic: &str, queue: i64| {
        let queue = format!(r#"{{"brokerName":"broker-a","queueId":{queue},"topic":"{topic}"}}"#);
        let body = format!(r#"{{"clientId":"a","consumerGroup":"G","mqSet":[{queue}]}}"#);
        let answer = client.ask(Command::request(request::LOCK_BATCH_MQ).with_body(body)).body.to_bytes();
        answer == format!(r#"{{"lockOKMQSet":[{queue}]}}"#)
    };
    assert!(lock("t", 0) && lock("t", 3));
    let wrong = [("t", 4), ("t", -1), ("t", i32::MIN.into()), ("t", i32::MAX.into()), ("u", 0)];
    assert!(!wrong.into_iter().any(|(topic, queue)| lock(topic, queue)));
}

/// proves: I66, B41
#[test]
fn one_member_holds_the_lock_on_a_queue() {
    let mut world = World::new(6);
    let client = world.client();
    client.ask(send("t", 0, "x"));
    let lock = |code: i32, id: &str| {
        let body = format!(
            r#"{{"clientId":"{id}","consumerGroup":"G","mqSet":[{{"brokerName":"broker-a","queueId":0,"topic":"t"}}]}}"#
        );
        client.ask(Command::request(code).with_body(body)).body.to_bytes()
    };
    let granted = r#"{"lockOKMQSet":[{"brokerName":"broker-a","queueId":0,"topic":"t"}]}"#;
    let denied = r#"{"lockOKMQSet":[]}"#;
    assert_eq!(lock(request::LOCK_BATCH_MQ, "a"), granted);
    assert_eq!(lock(request::LOCK_BATCH_MQ, "b"), denied);
    lock(request::UNLOCK_BATCH_MQ, "b");
    assert_eq!(lock(request::LOCK_BATCH_MQ, "b"), denied);
    client.run(61 * SECOND);
    assert_eq!(lock(request::LOCK_BATCH_MQ, "b"), granted, "not renewed for a minute");
}

/// What the admin client's `getConsumeStatus` asks: each member is asked, and who does not answer is left out.
#[test]
fn members_say_of_themselves_how_far_they_are() {
    let mut world = World::new(9);
    let (a, b, tool) = (world.client(), world.client(), world.client());
    let status = |client: &str| {
        let ask = Command::request(request::INVOKE_BROKER_TO_GET_CONSUMER_STATUS);
        tool.start(ask.with_ext("topic", "orders").with_ext("group", "G").with_ext("clientAddr", client))
    };
    assert_eq!(tool.wait(status("")).code, response::SYSTEM_ERROR, "nobody is there");
    for (client, id) in [(&a, "a"), (&b, "b")] {
        client.ask(Command { version: 493, ..beat(id, "orders") });
        client.heard();
    }
    a.heard();
    let answer = |client: &Client, next: i64| {
        client.run(Duration::from_millis(20));
        let [question] = &(**client).heard()[..] else { panic!("one question") };
        assert_eq!(question.code, request::GET_CONSUMER_STATUS_FROM_CLIENT);
        assert_eq!((question.ext.get("topic"), question.ext.get("group")), (Some("orders"), Some("G")));
        // as Java's client writes it
        let body = format!(
            r#"{{"consumerTable":{{}},"messageQueueTable":{{{{"brokerName":"broker-a","queueId":0,"topic":"orders"}}:{next}}}}}"#
        );
        client.tell(question.answer(response::SUCCESS).with_body(body));
    };
    let of = |id: &str, next: i64| {
        format!(r#""{id}":{{{{"brokerName":"broker-a","queueId":0,"topic":"orders"}}:{next}}}"#)
    };
    let both = status("");
    answer(&a, 7);
    answer(&b, 9);
    let said = tool.wait(both).body.to_bytes();
    assert_eq!(said, format!(r#"{{"consumerTable":{{{},{}}}}}"#, of("a", 7), of("b", 9)));
    let one = status("b");
    answer(&b, 10);
    assert_eq!(tool.wait(one).body.to_bytes(), format!(r#"{{"consumerTable":{{{}}}}}"#, of("b", 10)));
    let silent = status("");
    answer(&a, 8);
    let said = tool.wait(silent).body.to_bytes();
    assert_eq!(said, format!(r#"{{"consumerTable":{{{}}}}}"#, of("a", 8)), "b said nothing");
}
