//! What tools ask, remoting-protocol §15, and requests that nobody serves.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use staticfire::protocol::body::{
    BrokerConsumeStats, ConsumeStats, KvTable, ProducerTable, QueueEntries, QueueTimeSpans, TopicConfig,
    TopicList, TopicStatsTable,
};
use staticfire::protocol::codes::{request, response};
use staticfire::protocol::json;
use staticfire::transport::Command;

use crate::world::{World, number, pull, send};

/// Asks for a topic with this many queues.
pub fn create(topic: &str, queues: i32) -> Command {
    Command::request(request::UPDATE_AND_CREATE_TOPIC)
        .with_ext("topic", topic)
        .with_ext("defaultTopic", "TBW102")
        .with_ext("readQueueNums", queues)
        .with_ext("writeQueueNums", queues)
        .with_ext("perm", 6)
        .with_ext("topicFilterType", "SINGLE_TAG")
        .with_ext("topicSysFlag", 0)
        .with_ext("order", false)
}

fn topic(code: i32, name: &str) -> Command {
    Command::request(code).with_ext("topic", name)
}

fn commit(group: &str, queue: i32, offset: i64) -> Command {
    let commit = topic(request::UPDATE_CONSUMER_OFFSET, "orders").with_ext("consumerGroup", group);
    commit.with_ext("queueId", queue).with_ext("commitOffset", offset)
}

fn position(group: &str, queue: i32) -> Command {
    topic(request::QUERY_CONSUMER_OFFSET, "orders")
        .with_ext("consumerGroup", group)
        .with_ext("queueId", queue)
}

/// proves: B33
#[test]
fn no_progress_is_kept_of_what_is_no_queue() {
    let mut world = World::new(18);
    let client = world.client();
    client.ask(send("orders", 1, "x"));
    client.ask(pull("orders", 1, 0, "*", 0));
    assert_eq!(client.ask(commit("C", 3, 0)).code, response::SUCCESS);
    for queue in [4, i32::MAX, -1, i32::MIN] {
        assert_eq!(client.ask(commit("C", queue, 1)).code, response::INVALID_PARAMETER, "{queue}");
    }
    let all = client.ask(Command::request(request::GET_ALL_CONSUMER_OFFSET)).body.to_bytes();
    let all = String::from_utf8_lossy(&all);
    assert!(all.contains(r#""offsetTable":{"orders@C":{"3":0}}"#), "{all}");
}

/// proves: B33
///
/// RocketMQ 5.4.0 was asked the same: its answers for what is no queue are those for an empty one. Only
/// numbers below 0 it takes, too.
#[test]
fn what_is_no_queue_has_the_bounds_of_an_empty_one_and_is_not_made_by_asking() {
    let mut world = World::new(19);
    let client = world.client();
    client.ask(send("orders", 0, "x"));
    let ask = |code, name: &str, queue: i32| {
        client.ask(topic(code, name).with_ext("queueId", queue).with_ext("timestamp", 0))
    };
    let bounds = [request::GET_MAX_OFFSET, request::GET_MIN_OFFSET, request::SEARCH_OFFSET_BY_TIMESTAMP];
    for (name, queue) in [("orders", 1), ("orders", 4), ("orders", i32::MAX), ("nothing", 0)] {
        for code in bounds {
            let answer = ask(code, name, queue);
            assert_eq!((answer.code, number(&answer, "offset")), (0, 0), "{code} {name} {queue}");
        }
        let answer = ask(request::GET_EARLIEST_MSG_STORE_TIME, name, queue);
        assert_eq!((answer.code, number(&answer, "timestamp")), (0, -1), "{name} {queue}");
    }
    for queue in [-1, i32::MIN] {
        for code in bounds.into_iter().chain([request::GET_EARLIEST_MSG_STORE_TIME]) {
            assert_eq!(ask(code, "orders", queue).code, response::INVALID_PARAMETER, "{code} {queue}");
        }
    }
    let queues = world.broker().store().queues_of("orders");
    assert_eq!(queues.iter().map(|queue| queue.id().0).collect::<Vec<_>>(), [0]);
    assert!(world.broker().store().queues_of("nothing").is_empty());
}

/// What `mqadmin producer`, `cleanExpiredCQ` and `deleteExpiredCommitLog` ask.
#[test]
fn tools_see_all_producers_and_let_go_what_is_expired() {
    let mut world = World::new(20);
    let client = world.client();
    client.ask(send("orders", 0, "x"));
    let none = client.ask(Command::request(request::GET_ALL_PRODUCER_INFO));
    assert_eq!(none.body.to_bytes(), r#"{"data":{}}"#);
    let beat =
        r#"{"clientID":"a","consumerDataSet":[],"producerDataSet":[{"groupName":"P"},{"groupName":"Q"}]}"#;
    assert_eq!(client.ask(Command::request(request::HEART_BEAT).with_body(beat)).code, 0);
    let table = client.ask(Command::request(request::GET_ALL_PRODUCER_INFO)).body.to_bytes();
    let table: ProducerTable = json::from_slice_tolerant(&table).unwrap();
    assert_eq!(table.data.keys().collect::<Vec<_>>(), ["P", "Q"]);
    let info = &table.data["P"][0];
    assert_eq!((info.client_id.as_str(), info.language.as_str()), ("a", "JAVA"));
    assert!(info.remote_ip.contains(':') && info.last_update_timestamp > 0, "{info:?}");

    for code in [request::CLEAN_EXPIRED_CONSUME_QUEUE, request::DELETE_EXPIRED_COMMIT_LOG] {
        assert_eq!(client.ask(Command::request(code)).code, 0);
    }
    assert_eq!(client.ask(pull("orders", 0, 0, "*", 0)).code, 0, "nothing was expired");
}

#[test]
fn a_topic_is_created_changed_and_deleted() {
    let mut world = World::new(1);
    let (client, names) = (world.client(), world.name_server());
    let route = || names.ask(topic(request::GET_ROUTEINFO_BY_TOPIC, "orders"));
    assert_eq!(client.ask(create("orders", 3)).code, 0);
    assert_eq!(route().code, 0, "known when the creation is answered");
    world.kill();
    let client = world.client();
    let config = client.ask(topic(request::GET_TOPIC_CONFIG, "orders"));
    let config: TopicConfig = json::from_slice_tolerant(&config.body.to_bytes()).unwrap();
    assert_eq!(config.read_queue_nums, 3, "and after a kill");
    client.ask(send("orders", 0, "x"));
    assert_eq!(client.ask(topic(request::DELETE_TOPIC_IN_BROKER, "orders")).code, 0);
    assert_eq!(client.ask(topic(request::GET_TOPIC_CONFIG, "orders")).code, response::TOPIC_NOT_EXIST);
    assert_eq!(client.ask(topic(request::DELETE_TOPIC_IN_BROKER, "orders")).code, 0);
    client.ask(create("orders", 1));
    assert_eq!(client.ask(pull("orders", 0, 0, "*", 0)).code, 19, "its messages are gone");
}

/// proves: B30, B32, B33
#[test]
fn senseless_topics_are_refused() {
    let mut world = World::new(2);
    let client = world.client();
    for (name, queues) in
        [("../x", 1), ("", 1), ("TBW102", 1), ("SCHEDULE_TOPIC_XXXX", 1), ("t", -1), ("t", i32::MAX)]
    {
        assert_eq!(client.ask(create(name, queues)).code, response::INVALID_PARAMETER, "{name} {queues}");
    }
    assert_eq!(
        client.ask(topic(request::DELETE_TOPIC_IN_BROKER, "TBW102")).code,
        response::INVALID_PARAMETER
    );
}

#[test]
fn statistics_have_the_shape_that_tools_read() {
    let mut world = World::new(3);
    let client = world.client();
    client.ask(send("orders", 1, "x"));
    let stats = client.ask(topic(request::GET_TOPIC_STATS_INFO, "orders")).body.to_bytes();
    assert!(
        stats.starts_with(br#"{"offsetTable":{{"brokerName":"broker-a","queueId":0,"topic":"orders"}:{"#)
    );
    let stats: TopicStatsTable = json::from_slice_tolerant(&stats).unwrap();
    assert_eq!(
        stats.offset_table.iter().map(|(_, bounds)| bounds.max_offset).collect::<Vec<_>>(),
        [0, 1, 0, 0]
    );

    client.ask(pull("orders", 1, 0, "*", 0));
    let commit = topic(request::UPDATE_CONSUMER_OFFSET, "orders").with_ext("consumerGroup", "C");
    client.ask(commit.with_ext("queueId", 1).with_ext("commitOffset", 1));
    client.ask(send("orders", 1, "y"));
    let ask = Command::request(request::GET_CONSUME_STATS).with_ext("consumerGroup", "C");
    let stats: ConsumeStats = json::from_slice_tolerant(&client.ask(ask).body.to_bytes()).unwrap();
    let behind: i64 = stats.offset_table.iter().map(|(_, row)| row.broker_offset - row.consumer_offset).sum();
    assert_eq!(behind, 1);

    let info = client.ask(Command::request(request::GET_BROKER_RUNTIME_INFO)).body.to_bytes();
    let info: KvTable = json::from_slice_tolerant(&info).unwrap();
    for key in
        ["putTps", "getTransferedTps", "getTransferredTps", "earliestMessageTimeStamp", "commitLogDiskRatio"]
    {
        assert!(info.table.contains_key(key), "{key}");
    }
    let groups = client.ask(topic(request::QUERY_TOPIC_CONSUME_BY_WHO, "orders"));
    assert_eq!(groups.body.to_bytes(), r#"{"groupList":["C"]}"#);
}

#[test]
fn a_reset_waits_for_the_consumers_next_pull() {
    let mut world = World::new(4);
    let client = world.client();
    for _ in 0..3 {
        client.ask(send("orders", 0, "x"));
    }
    client.ask(pull("orders", 0, 0, "*", 0));
    let reset = topic(request::INVOKE_BROKER_TO_RESET_OFFSET, "orders")
        .with_ext("group", "C")
        .with_ext("timestamp", -1)
        .with_ext("isForce", true)
        .with_ext("queueId", 0)
        .with_ext("offset", 2);
    assert_eq!(client.ask(reset).code, 0);
    let moved = client.ask(pull("orders", 0, 0, "*", 15));
    assert_eq!((moved.code, moved.remark.as_deref()), (response::PULL_OFFSET_MOVED, Some("OFFSET_RESET")));
    assert_eq!(number(&moved, "nextBeginOffset"), 2);
    assert_eq!(client.ask(pull("orders", 0, 2, "*", 0)).code, 0);
}

/// A reset is an offset like any other to a broker that ends before anybody pulls.
#[test]
fn a_reset_outlives_the_broker() {
    let mut world = World::new(14);
    let client = world.client();
    for _ in 0..3 {
        client.ask(send("orders", 0, "x"));
    }
    client.ask(pull("orders", 0, 0, "*", 0));
    client.ask(commit("C", 0, 3));
    let reset = topic(request::INVOKE_BROKER_TO_RESET_OFFSET, "orders")
        .with_ext("group", "C")
        .with_ext("timestamp", 0)
        .with_ext("isForce", true);
    assert_eq!(client.ask(reset).code, 0);
    assert_eq!(client.ask(commit("C", 0, 3)).code, 0, "from a consumer that does not know of it yet");
    world.restart();
    let client = world.client();
    assert_eq!(number(&client.ask(position("C", 0)), "offset"), 0);
    assert_eq!(client.ask(pull("orders", 0, 0, "*", 0)).code, 0, "and nobody is told again");
}

/// What `mqadmin brokerConsumeStats`, `queryCq` and consoles ask.
#[test]
fn tools_see_how_far_groups_are() {
    let mut world = World::new(15);
    let client = world.client();
    for body in ["x", "y", "z"] {
        client.ask(send("orders", 1, body));
        client.run(Duration::from_millis(100));
    }
    client.ask(pull("orders", 1, 0, "*", 0));
    client.ask(commit("C", 1, 2));

    let stats = client.ask(Command::request(request::GET_BROKER_CONSUME_STATS).with_ext("isOrder", false));
    let text = stats.body.to_bytes();
    let stats: BrokerConsumeStats = json::from_slice_tolerant(&text).unwrap();
    assert_eq!((stats.total_diff, stats.total_inflight_diff), (1, 0));
    let of_group = stats.consume_stats_list.iter().find_map(|groups| groups.get("C")).unwrap();
    assert_eq!(
        of_group[0].offset_table.iter().map(|(_, row)| row.consumer_offset).collect::<Vec<_>>(),
        [0, 2, 0, 0]
    );
    let keys = br#""offsetTable":{{"brokerName":"broker-a","queueId":0,"topic":"orders"}:{"#;
    assert!(text.windows(keys.len()).any(|at| at == keys), "clients of 5.4 read no other keys");
    let ordered = client.ask(Command::request(request::GET_BROKER_CONSUME_STATS).with_ext("isOrder", true));
    let ordered: BrokerConsumeStats = json::from_slice_tolerant(&ordered.body.to_bytes()).unwrap();
    assert_eq!(ordered.total_diff, 0, "no topic is ordered");

    let span = client.ask(topic(request::QUERY_CONSUME_TIME_SPAN, "orders").with_ext("group", "C"));
    let spans: QueueTimeSpans = json::from_slice_tolerant(&span.body.to_bytes()).unwrap();
    let span = &spans.consume_time_span_set[1];
    let times = [span.min_time_stamp, span.consume_time_stamp, span.max_time_stamp];
    assert!(times[0] < times[1] && times[1] < times[2] && span.delay_time > 0, "{span:?}");
    assert_eq!((spans.consume_time_span_set[0].max_time_stamp, spans.consume_time_span_set.len()), (-1, 4));
    let missing = topic(request::QUERY_CONSUME_TIME_SPAN, "nothing").with_ext("group", "C");
    assert_eq!(client.ask(missing).code, response::TOPIC_NOT_EXIST);

    let topics = client.ask(Command::request(request::QUERY_TOPICS_BY_CONSUMER).with_ext("group", "C"));
    let topics: TopicList = json::from_slice_tolerant(&topics.body.to_bytes()).unwrap();
    assert_eq!(topics.topic_list, ["orders"]);
    let wants =
        |group| client.ask(topic(request::QUERY_SUBSCRIPTION_BY_CONSUMER, "orders").with_ext("group", group));
    assert_eq!(wants("nobody").body.to_bytes(), r#"{"group":"nobody","topic":"orders"}"#);
}

/// proves: B34
#[test]
fn tools_see_the_entries_of_a_queue() {
    let mut world = World::new(16);
    let client = world.client();
    for body in ["x", "y", "z"] {
        client.ask(send("orders", 1, body));
    }
    let entries = |index: i64, count: i32| {
        let ask = topic(request::QUERY_CONSUME_QUEUE, "orders").with_ext("queueId", 1);
        let answer =
            client.ask(ask.with_ext("index", index).with_ext("count", count).with_ext("consumerGroup", "C"));
        assert_eq!(answer.code, 0);
        json::from_slice_tolerant::<QueueEntries>(&answer.body.to_bytes()).unwrap()
    };
    let shown = entries(1, 10);
    assert_eq!((shown.min_queue_index, shown.max_queue_index, shown.queue_data.len()), (0, 3, 2));
    assert_eq!(shown.filter_data.as_deref(), Some("C@orders is not online!"));
    let [first, second] = &shown.queue_data[..] else { panic!("two entries") };
    assert_eq!(first.physic_offset + i64::from(first.physic_size), second.physic_offset);
    for (index, count) in [(-1, 1), (4, 1), (i64::MAX, i32::MAX), (0, -1), (0, 0), (i64::MIN, 1)] {
        assert_eq!(entries(index, count).queue_data, [], "{index} {count}");
    }
    assert_eq!(entries(0, i32::MAX).queue_data.len(), 3);
    let none = topic(request::QUERY_CONSUME_QUEUE, "orders").with_ext("queueId", 9).with_ext("index", 0);
    assert_eq!(client.ask(none.with_ext("count", 1)).code, response::SYSTEM_ERROR);
}

#[test]
fn offsets_are_copied_to_a_group_which_comes_to_be_where_groups_may() {
    for auto_create_groups in [true, false] {
        let starts = AtomicUsize::new(0);
        let mut world = World::with(17, move |options| {
            options.auto_create_groups = starts.fetch_add(1, Ordering::Relaxed) == 0 || auto_create_groups;
        });
        let client = world.client();
        client.ask(send("orders", 1, "x"));
        client.ask(pull("orders", 1, 0, "*", 0));
        client.ask(commit("C", 1, 1));
        world.restart();
        let client = world.client();
        let copy = || {
            Command::request(request::CLONE_GROUP_OFFSET).with_ext("srcGroup", "C").with_ext("destGroup", "D")
        };
        if !auto_create_groups {
            assert_eq!(client.ask(copy()).code, response::SUBSCRIPTION_GROUP_NOT_EXIST);
            let group = br#"{"groupName":"D"}"#;
            let create =
                Command::request(request::UPDATE_AND_CREATE_SUBSCRIPTION_GROUP).with_body(&group[..]);
            assert_eq!(client.ask(create).code, 0);
        }
        assert_eq!(client.ask(copy().with_ext("topic", "orders")).code, 0);
        assert_eq!(number(&client.ask(position("D", 1)), "offset"), 1);
    }
}

/// proves: B46
#[test]
fn configuration_is_read_in_part_and_never_written() {
    let mut world = World::new(5);
    let client = world.client();
    let config = client.ask(Command::request(request::GET_BROKER_CONFIG));
    let text = String::from_utf8(config.body.to_bytes().to_vec()).unwrap();
    assert!(text.contains("brokerName=broker-a\n") && !text.contains("10.0.0."), "{text}");
    let write = Command::request(request::UPDATE_BROKER_CONFIG).with_body("brokerPermission=4");
    assert_eq!(client.ask(write).code, response::NO_PERMISSION);
}

#[test]
fn unknown_requests_are_answered_and_one_way_ones_are_not() {
    let mut world = World::new(6);
    let client = world.client();
    let answer = client.ask(Command::request(9999));
    assert_eq!((answer.code, answer.remark.as_deref()), (3, Some(" request type 9999 not supported")));
    // A client with clientRebalance=false divides the queues itself then. It asks one broker only, and
    // no broker knows the queues of the others.
    assert_eq!(client.ask(Command::request(request::QUERY_ASSIGNMENT)).code, 3);
    // Rates by topic, queues of unknown topics, topics forbidden to a group, and offsets as other groups have
    // them, which no tool of RocketMQ asks: see the README's "Left out".
    for code in [request::VIEW_BROKER_STATS_DATA, request::CLEAN_UNUSED_TOPIC, 353, 308] {
        assert_eq!(client.ask(Command::request(code)).code, response::REQUEST_CODE_NOT_SUPPORTED, "{code}");
    }
    for code in [9999, request::GET_BROKER_CONFIG, request::HEART_BEAT, request::UPDATE_AND_CREATE_TOPIC] {
        client.tell(Command::one_way(code));
    }
    client.run(Duration::from_secs(1));
    assert_eq!(world.cluster.network().stray_answers(), 0);
    assert_eq!(client.ask(Command::request(request::QUERY_MESSAGE)).code, response::QUERY_NOT_FOUND);
}
