//! Name servers over the simulated network: what brokers, clients and tools see of them.

use std::time::Duration;

use staticfire::protocol::body::{
    ClusterInfo, DataVersion, KvTable, MemberGroupBody, RegisterBrokerBody, TopicConfig, TopicList,
    TopicRouteData, TopicTable,
};
use staticfire::protocol::codes::{request as code, response};
use staticfire::protocol::header::Header;
use staticfire::protocol::headers::{BrokerRequest, PutSettingRequest, RegisterBrokerRequest};
use staticfire::protocol::json;
use staticfire::sim::{Cluster, Node, Peer, Running};
use staticfire::transport::memory::Event;
use staticfire::transport::{Command, HeaderEncoding};

const SECOND: Duration = Duration::from_secs(1);
/// The host that registers, as a broker does.
const BROKER: u8 = 2;

/// So many name servers and nothing else.
fn name_servers(seed: u64, count: u8) -> Running {
    Cluster::seeded(seed).brokers(0).name_servers(count).start()
}

fn connect(cluster: &Running, from: u8, name_server: u8) -> Peer {
    cluster.peer(from, Node::NameServer(name_server).address()).expect("it listens")
}

/// How many brokers a name server knows.
fn known(cluster: &Running, name_server: u8) -> usize {
    cluster.name_server(name_server).expect("it serves").brokers().len()
}

fn register(broker: &Peer, topics: &[&str], counter: i64) -> Command {
    broker.ask(registration(topics, counter))
}

fn route(peer: &Peer, topic: &str) -> Option<TopicRouteData> {
    let answer = peer.ask(Command::request(code::GET_ROUTEINFO_BY_TOPIC).with_ext("topic", topic));
    match answer.code {
        response::TOPIC_NOT_EXIST => None,
        _ => Some(json::from_slice_tolerant(&answer.body.to_bytes()).expect("a route")),
    }
}

fn body(topics: &[&str], counter: i64) -> RegisterBrokerBody {
    let table = topics.iter().map(|name| ((*name).to_owned(), TopicConfig::new(*name, 4, 6))).collect();
    RegisterBrokerBody {
        topic_config_serialize_wrapper: TopicTable {
            data_version: DataVersion { counter, state_version: 0, timestamp: 17 },
            topic_config_table: table,
            ..TopicTable::default()
        },
        ..RegisterBrokerBody::default()
    }
}

fn registration(topics: &[&str], counter: i64) -> Command {
    let header = RegisterBrokerRequest {
        broker_name: "broker-r".into(),
        broker_address: "10.0.0.2:10911".into(),
        cluster_name: "DefaultCluster".into(),
        ha_address: "10.0.0.2:10912".into(),
        broker_id: 0,
        heartbeat_timeout_ms: None,
        acting_master: None,
        compressed: false,
        body_crc: 0,
        zone: None,
    };
    header.on(Command::request(code::REGISTER_BROKER)).with_body(json::to_bytes(&body(topics, counter)))
}

fn this_broker() -> BrokerRequest {
    BrokerRequest {
        broker_name: "broker-r".into(),
        broker_address: "10.0.0.2:10911".into(),
        cluster_name: "DefaultCluster".into(),
        broker_id: 0,
    }
}

const TWO: &[&str] = &["TBW102", "A"];

/// nameserver.md §12 items 1 to 8, in its order.
#[test]
fn the_registration_conformance_list() {
    let cluster = name_servers(1, 1);
    let (broker, client) = (connect(&cluster, BROKER, 0), connect(&cluster, 3, 0));
    // 1. One topic first, a wrong CRC, two topics.
    assert_eq!(register(&broker, &["A"], 1).code, response::SYSTEM_ERROR);
    let wrong = broker.ask(registration(TWO, 1).with_ext("bodyCrc32", 12));
    assert_eq!((wrong.code, wrong.remark.as_deref()), (response::SYSTEM_ERROR, Some("crc32 not match")));
    assert_eq!(register(&broker, TWO, 1).code, response::SUCCESS);
    // 2. Keys are quoted, whatever the client's version.
    for version in [479, 393, 63] {
        let mut request = Command::request(code::GET_ROUTEINFO_BY_TOPIC).with_ext("topic", "A");
        request.version = version;
        let text = String::from_utf8(client.ask(request).body.to_bytes().to_vec()).unwrap();
        assert!(text.contains(r#""brokerAddrs":{"0":"10.0.0.2:10911"}"#), "{text}");
    }
    // 3. The same data version, another one.
    for (counter, changed) in [(1, "false"), (2, "true")] {
        let version = body(&[], counter).topic_config_serialize_wrapper.data_version;
        let asked =
            this_broker().on(Command::request(code::QUERY_DATA_VERSION)).with_body(json::to_bytes(&version));
        let answer = broker.ask(asked);
        assert_eq!(answer.ext.get("changed"), Some(changed));
        let known: DataVersion = json::from_slice_tolerant(&answer.body.to_bytes()).unwrap();
        assert_eq!(known.counter, 1);
    }
    // 4. An unseen topic at the same version; a full list without it.
    register(&broker, &["B"], 1);
    assert!(route(&client, "B").is_some());
    register(&broker, TWO, 2);
    assert!(route(&client, "B").is_some());
    // 5. Order settings come back with a registration.
    let put = PutSettingRequest {
        namespace: "ORDER_TOPIC_CONFIG".into(),
        key: "A".into(),
        value: "broker-r:4".into(),
    };
    assert_eq!(client.ask(put.on(Command::request(code::PUT_KV_CONFIG))).code, response::SUCCESS);
    assert_eq!(register(&broker, TWO, 2).body.to_bytes(), r#"{"table":{"A":"broker-r:4"}}"#);
    // 6. Write permission; goodbye; the connection closes.
    let wiped =
        client.ask(Command::request(code::WIPE_WRITE_PERM_OF_BROKER).with_ext("brokerName", "broker-r"));
    assert_eq!(wiped.ext.get("wipeTopicCount"), Some("3"));
    assert_eq!(
        client.ask(this_broker().on(Command::request(code::UNREGISTER_BROKER))).code,
        response::NO_PERMISSION
    );
    assert_eq!(
        broker.ask(this_broker().on(Command::request(code::UNREGISTER_BROKER))).code,
        response::SUCCESS
    );
    assert_eq!(route(&client, "A"), None);
    register(&broker, TWO, 3);
    assert!(route(&client, "A").is_some());
    broker.connection.close();
    cluster.run_for(SECOND);
    assert_eq!(route(&client, "A"), None);
    // 7. A binary request; here the answer is binary too, which clients that send binary read.
    let mut request = Command::request(code::GET_ROUTEINFO_BY_TOPIC).with_ext("topic", "A");
    request.encoding = HeaderEncoding::Binary;
    assert_eq!(client.ask(request).code, response::TOPIC_NOT_EXIST);
    // 8. An unknown code. (Frames over the limit: the transport's own tests.)
    let unknown = client.ask(Command::request(9999));
    assert_eq!(unknown.code, response::REQUEST_CODE_NOT_SUPPORTED);
    assert_eq!(unknown.remark.as_deref(), Some(" request type 9999 not supported"));
}

/// The rest of nameserver.md §1: what tools ask.
#[test]
fn tools_get_their_lists_and_settings() {
    let cluster = name_servers(2, 1);
    let (broker, tool) = (connect(&cluster, BROKER, 0), connect(&cluster, 3, 0));
    register(&broker, TWO, 1);
    let list = |request: Command| -> TopicList {
        json::from_slice_tolerant(&tool.ask(request).body.to_bytes()).expect("a list of topics")
    };
    assert_eq!(list(Command::request(code::GET_ALL_TOPIC_LIST_FROM_NAME_SERVER)).topic_list, ["A", "TBW102"]);
    let of = |cluster: &str| list(Command::request(code::GET_TOPICS_BY_CLUSTER).with_ext("cluster", cluster));
    assert_eq!((of("DefaultCluster").topic_list.len(), of("Other").topic_list.len()), (2, 0));
    let system = list(Command::request(code::GET_SYSTEM_TOPIC_LIST_FROM_NAME_SERVER));
    assert_eq!(system.topic_list, ["DefaultCluster", "broker-r"]);
    assert_eq!(system.broker_addr.as_deref(), Some("10.0.0.2:10911"));
    assert!(list(Command::request(code::GET_UNIT_TOPIC_LIST)).topic_list.is_empty());

    let info = tool.ask(Command::request(code::GET_BROKER_CLUSTER_INFO)).body.to_bytes();
    let info: ClusterInfo = json::from_slice_tolerant(&info).unwrap();
    assert_eq!(info.broker_addr_table["broker-r"].master(), Some("10.0.0.2:10911"));
    let members = Command::request(code::GET_BROKER_MEMBER_GROUP)
        .with_ext("clusterName", "DefaultCluster")
        .with_ext("brokerName", "broker-r");
    let members: MemberGroupBody = json::from_slice_tolerant(&tool.ask(members).body.to_bytes()).unwrap();
    assert_eq!(members.broker_member_group.unwrap().broker_addrs.len(), 1);

    let named = |code| Command::request(code).with_ext("namespace", "n").with_ext("key", "k");
    assert_eq!(tool.ask(named(code::GET_KV_CONFIG)).code, response::QUERY_NOT_FOUND);
    assert_eq!(tool.ask(named(code::PUT_KV_CONFIG).with_ext("value", "v")).code, response::SUCCESS);
    assert_eq!(tool.ask(named(code::GET_KV_CONFIG)).ext.get("value"), Some("v"));
    let table = tool.ask(Command::request(code::GET_KV_LIST_BY_NAMESPACE).with_ext("namespace", "n"));
    let table: KvTable = json::from_slice_tolerant(&table.body.to_bytes()).unwrap();
    assert_eq!(table.table["k"], "v");
    assert_eq!(tool.ask(named(code::DELETE_KV_CONFIG)).code, response::SUCCESS);
    assert_eq!(tool.ask(named(code::GET_KV_CONFIG)).code, response::QUERY_NOT_FOUND);

    let deleted = Command::request(code::DELETE_TOPIC_IN_NAME_SERVER).with_ext("topic", "A");
    assert_eq!(tool.ask(deleted.clone()).code, response::SUCCESS);
    assert_eq!(tool.ask(deleted).code, response::SUCCESS, "an absent topic too");
    assert_eq!(route(&tool, "A"), None);
    let queues = br#"{"queueDatas":[{"brokerName":"broker-r","perm":6,"readQueueNums":2,"writeQueueNums":2},{"brokerName":"unknown","perm":6,"readQueueNums":1,"writeQueueNums":1}]}"#;
    let registered =
        Command::request(code::REGISTER_TOPIC_IN_NAME_SERVER).with_ext("topic", "A").with_body(&queues[..]);
    assert_eq!(tool.ask(registered).code, response::SUCCESS);
    assert_eq!(route(&tool, "A").unwrap().queue_datas.len(), 1);
}

/// proves: B46
#[test]
fn the_configuration_is_read_from_a_list_and_never_written() {
    let cluster = name_servers(3, 1);
    let tool = connect(&cluster, 3, 0);
    let refused = tool.ask(Command::request(code::UPDATE_NAME_SERVER_CONFIG).with_body("listenPort=1"));
    assert_eq!(refused.code, response::NO_PERMISSION);
    let read = tool.ask(Command::request(code::GET_NAME_SERVER_CONFIG)).body.to_bytes();
    let text = std::str::from_utf8(&read).unwrap();
    assert!(text.contains("scanNotActiveBrokerInterval=10000\n") && !text.contains('/'), "{text}");
}

/// A silent broker stays for 120 s and is gone by the scan after them; its connection is closed.
/// proves: M14, M15, M16, I52
#[test]
fn a_silent_broker_is_dropped_by_the_scan_after_120_seconds_and_its_connection_closed() {
    let cluster = name_servers(4, 1);
    let broker = connect(&cluster, BROKER, 0);
    cluster.run_for(Duration::from_millis(3_500));
    register(&broker, TWO, 1);
    let registered_at = cluster.now();
    // The transport drops idle connections after 120 s; asking keeps this one busy, and is no
    // sign of life of the broker.
    while cluster.now().since(registered_at) < Duration::from_secs(120) {
        assert_eq!(known(&cluster, 0), 1, "silent for {:?}", cluster.now().since(registered_at));
        route(&broker, "A");
        cluster.run_for(Duration::from_secs(5));
    }
    cluster.run_for((registered_at + Duration::from_secs(130)).since(cluster.now()));
    assert_eq!(known(&cluster, 0), 0);
    assert!(!broker.connection.is_open());
}

/// The broker is cut from one of two name servers: only that one lets it age.
/// proves: M13
#[test]
fn each_name_server_ages_a_broker_by_what_it_hears_itself() {
    let mut cluster = name_servers(5, 2);
    let brokers = [0, 1].map(|name_server| connect(&cluster, BROKER, name_server));
    brokers.iter().for_each(|broker| drop(register(broker, TWO, 1)));
    cluster.partition(Node::Client(BROKER), Node::NameServer(1));
    for _ in 0..5 {
        cluster.run_for(Duration::from_secs(30));
        register(&brokers[0], TWO, 1);
    }
    assert_eq!((known(&cluster, 0), known(&cluster, 1)), (1, 0));
}

/// A wall clock that jumps by hours changes nothing.
/// proves: I53, Z34
#[test]
fn the_wall_clock_does_not_matter() {
    let cluster = name_servers(6, 1);
    let broker = connect(&cluster, BROKER, 0);
    register(&broker, TWO, 1);
    let host = cluster.host(Node::NameServer(0));
    for jump in [7_200_000, -86_400_000] {
        host.shift_wall(jump);
        cluster.run_for(Duration::from_secs(20));
        assert_eq!(known(&cluster, 0), 1);
    }
}

/// proves: B45
#[test]
fn topics_that_cannot_be_are_not_found_and_not_remembered() {
    let cluster = name_servers(21, 1);
    let peer = connect(&cluster, BROKER, 0);
    assert_eq!(register(&peer, &["TBW102", "orders"], 1).code, response::SUCCESS);
    let long = "x".repeat(10_000);
    let names = ["unknown", "%RETRY%", "../orders", "orders ", "", long.as_str()];
    for name in names {
        let answer = peer.ask(Command::request(code::GET_ROUTEINFO_BY_TOPIC).with_ext("topic", name));
        assert_eq!(answer.code, response::TOPIC_NOT_EXIST, "{:.20}", name);
        assert!(answer.remark.is_some_and(|remark| remark.len() < 1000), "{:.20}", name);
    }
    // The codec refuses a NUL, and so ends the connection that brought one.
    let hostile = connect(&cluster, 3, 0);
    let nul = Command::request(code::GET_ROUTEINFO_BY_TOPIC).with_ext("topic", "orders\0");
    assert!(hostile.wait(hostile.start(nul)).is_err());
    let nameless = peer.ask(Command::request(code::GET_ROUTEINFO_BY_TOPIC));
    assert_ne!(nameless.code, response::SUCCESS);
    assert!(route(&peer, "orders").is_some());
    let all = peer.ask(Command::request(code::GET_ALL_TOPIC_LIST_FROM_NAME_SERVER));
    let all: TopicList = json::from_slice_tolerant(&all.body.to_bytes()).expect("a list");
    assert_eq!(all.topic_list.into_iter().collect::<Vec<_>>(), ["TBW102", "orders"]);
}

/// proves: I56
#[test]
fn a_broker_whose_connection_ends_is_gone_within_a_second() {
    let mut cluster = name_servers(7, 1);
    let broker = connect(&cluster, BROKER, 0);
    register(&broker, TWO, 1);
    cluster.kill(Node::Client(BROKER));
    cluster.run_for(SECOND);
    assert!(known(&cluster, 0) == 0);
}

/// Neither the log of a run nor the module's source shows a connection that a name server opened.
/// proves: M3, M4, M16
#[test]
fn a_name_server_connects_to_nobody_and_keeps_no_file() {
    let cluster = name_servers(8, 3);
    let brokers = [0, 1, 2].map(|name_server| connect(&cluster, BROKER, name_server));
    brokers.iter().for_each(|broker| assert_eq!(register(broker, TWO, 1).code, response::SUCCESS));
    cluster.run_for(Duration::from_secs(300));
    let dialled = cluster.network().log().into_iter().filter(|entry| entry.event == Event::Dialled);
    assert!(dialled.into_iter().all(|entry| entry.host.ip() == Node::Client(BROKER).ip()));
    let sources = [
        include_str!("../src/name_server/service.rs"),
        include_str!("../src/name_server/handlers.rs"),
        include_str!("../src/name_server/table.rs"),
        include_str!("../src/name_server/views.rs"),
        include_str!("../src/name_server/settings.rs"),
    ];
    for forbidden in [".connect(", "Directory", "std::fs", "SegmentFile"] {
        assert!(sources.iter().all(|source| !source.contains(forbidden)), "{forbidden}");
    }
}

/// proves: B13, B25, B43
#[test]
fn nonsense_is_answered_with_an_error_and_changes_nothing() {
    let cluster = name_servers(9, 1);
    let peer = connect(&cluster, BROKER, 0);
    for code in 0..1000 {
        let answer = peer.ask(Command::request(code).with_body("{\"topicConfigSerializeWrapper\":[}"));
        assert!(answer.is_response(), "code {code}");
    }
    let torn =
        registration(TWO, 1).with_body("{\"topicConfigSerializeWrapper\":{\"topicConfigTable\":{\"A\":");
    assert_eq!(peer.ask(torn).code, response::SYSTEM_ERROR);
    let no_header = Command::request(code::REGISTER_BROKER);
    let answer = peer.ask(no_header);
    assert_eq!(answer.remark.as_deref(), Some("the field `brokerName` is missing"));
    assert!(known(&cluster, 0) == 0);
    let one_way = Command::one_way(code::GET_BROKER_CLUSTER_INFO);
    peer.tell(one_way);
    cluster.run_for(SECOND);
    assert!(peer.connection.is_open());
}
