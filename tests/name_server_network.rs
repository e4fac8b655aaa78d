//! Name servers over the simulated network: what brokers, clients and tools see of them.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use staticfire::name_server::{NameServer, NameServerOptions};
use staticfire::protocol::body::{
    ClusterInfo, DataVersion, KvTable, MemberGroupBody, RegisterBrokerBody, TopicConfig, TopicList,
    TopicRouteData, TopicTable,
};
use staticfire::protocol::codes::{request as code, response};
use staticfire::protocol::header::Header;
use staticfire::protocol::headers::{BrokerRequest, PutSettingRequest, RegisterBrokerRequest};
use staticfire::protocol::json;
use staticfire::transport::memory::{Event, Host, Network};
use staticfire::transport::{Command, Connection, HeaderEncoding, Service, Transport};

const SECOND: Duration = Duration::from_secs(1);
const NAME_SERVER: [u8; 4] = [10, 0, 0, 1];

/// A peer that only asks.
struct Silent;

impl Service for Silent {
    fn turn(&self, _: &Connection, requests: &mut Vec<Command>) {
        requests.clear();
    }
}

fn name_server(network: &Network, ip: [u8; 4]) -> NameServer {
    let host = network.host(IpAddr::from(ip));
    let listen = SocketAddr::from((ip, 9876));
    NameServer::start(
        &host,
        Arc::new(host.clone()),
        NameServerOptions { listen, ..NameServerOptions::default() },
    )
    .expect("the port is free")
}

struct Peer {
    network: Network,
    connection: Connection,
}

impl Peer {
    fn connect(network: &Network, from: u8, to: SocketAddr) -> Self {
        let host: Host = network.host(IpAddr::from([10, 0, 0, from]));
        let dialled = network.block_on(host.connect(to, Arc::new(Silent)), SECOND);
        Self { network: network.clone(), connection: dialled.expect("in time").expect("a connection") }
    }

    fn ask(&self, request: Command) -> Command {
        let answer = self.network.block_on(self.connection.call(request, SECOND), SECOND);
        answer.expect("in time").expect("an answer")
    }

    fn register(&self, topics: &[&str], counter: i64) -> Command {
        self.ask(registration(topics, counter))
    }

    fn route(&self, topic: &str) -> Option<TopicRouteData> {
        let answer = self.ask(Command::request(code::GET_ROUTEINFO_BY_TOPIC).with_ext("topic", topic));
        match answer.code {
            response::TOPIC_NOT_EXIST => None,
            _ => Some(json::from_slice_tolerant(&answer.body.to_bytes()).expect("a route")),
        }
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
    let network = Network::seeded(1);
    let server = name_server(&network, NAME_SERVER);
    let (broker, client) =
        (Peer::connect(&network, 2, server.address()), Peer::connect(&network, 3, server.address()));
    // 1. One topic first, a wrong CRC, two topics.
    assert_eq!(broker.register(&["A"], 1).code, response::SYSTEM_ERROR);
    let wrong = broker.ask(registration(TWO, 1).with_ext("bodyCrc32", 12));
    assert_eq!((wrong.code, wrong.remark.as_deref()), (response::SYSTEM_ERROR, Some("crc32 not match")));
    assert_eq!(broker.register(TWO, 1).code, response::SUCCESS);
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
    broker.register(&["B"], 1);
    assert!(client.route("B").is_some());
    broker.register(TWO, 2);
    assert!(client.route("B").is_some());
    // 5. Order settings come back with a registration.
    let put = PutSettingRequest {
        namespace: "ORDER_TOPIC_CONFIG".into(),
        key: "A".into(),
        value: "broker-r:4".into(),
    };
    assert_eq!(client.ask(put.on(Command::request(code::PUT_KV_CONFIG))).code, response::SUCCESS);
    assert_eq!(broker.register(TWO, 2).body.to_bytes(), r#"{"table":{"A":"broker-r:4"}}"#);
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
    assert_eq!(client.route("A"), None);
    broker.register(TWO, 3);
    assert!(client.route("A").is_some());
    broker.connection.close();
    network.run_for(SECOND);
    assert_eq!(client.route("A"), None);
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
    let network = Network::seeded(2);
    let server = name_server(&network, NAME_SERVER);
    let (broker, tool) =
        (Peer::connect(&network, 2, server.address()), Peer::connect(&network, 3, server.address()));
    broker.register(TWO, 1);
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
    assert_eq!(tool.route("A"), None);
    let queues = br#"{"queueDatas":[{"brokerName":"broker-r","perm":6,"readQueueNums":2,"writeQueueNums":2},{"brokerName":"unknown","perm":6,"readQueueNums":1,"writeQueueNums":1}]}"#;
    let registered =
        Command::request(code::REGISTER_TOPIC_IN_NAME_SERVER).with_ext("topic", "A").with_body(&queues[..]);
    assert_eq!(tool.ask(registered).code, response::SUCCESS);
    assert_eq!(tool.route("A").unwrap().queue_datas.len(), 1);
}

/// proves: B46
#[test]
fn the_configuration_is_read_from_a_list_and_never_written() {
    let network = Network::seeded(3);
    let server = name_server(&network, NAME_SERVER);
    let tool = Peer::connect(&network, 3, server.address());
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
    let network = Network::seeded(4);
    let server = name_server(&network, NAME_SERVER);
    let broker = Peer::connect(&network, 2, server.address());
    network.run_for(Duration::from_millis(3_500));
    broker.register(TWO, 1);
    let registered_at = network.now();
    // The transport drops idle connections after 120 s; asking keeps this one busy, and is no
    // sign of life of the broker.
    while network.now().since(registered_at) < Duration::from_secs(120) {
        assert_eq!(server.brokers().len(), 1, "silent for {:?}", network.now().since(registered_at));
        broker.route("A");
        network.run_for(Duration::from_secs(5));
    }
    network.run_until(registered_at + Duration::from_secs(130));
    assert_eq!(server.brokers().len(), 0);
    assert!(!broker.connection.is_open());
}

/// The broker is cut from one of two name servers: only that one lets it age.
/// proves: M13
#[test]
fn each_name_server_ages_a_broker_by_what_it_hears_itself() {
    let network = Network::seeded(5);
    let servers = [name_server(&network, NAME_SERVER), name_server(&network, [10, 0, 0, 9])];
    let brokers = servers.each_ref().map(|server| Peer::connect(&network, 2, server.address()));
    brokers.iter().for_each(|broker| drop(broker.register(TWO, 1)));
    network.partition(&[IpAddr::from([10, 0, 0, 2])], &[IpAddr::from([10, 0, 0, 9])]);
    for _ in 0..5 {
        network.run_for(Duration::from_secs(30));
        brokers[0].register(TWO, 1);
    }
    assert_eq!((servers[0].brokers().len(), servers[1].brokers().len()), (1, 0));
}

/// A wall clock that jumps by hours changes nothing.
/// proves: I53, Z34
#[test]
fn the_wall_clock_does_not_matter() {
    let network = Network::seeded(6);
    let server = name_server(&network, NAME_SERVER);
    let broker = Peer::connect(&network, 2, server.address());
    broker.register(TWO, 1);
    let host = network.host(IpAddr::from(NAME_SERVER));
    for jump in [7_200_000, -86_400_000] {
        host.shift_wall(jump);
        network.run_for(Duration::from_secs(20));
        assert_eq!(server.brokers().len(), 1);
    }
}

/// proves: I56
#[test]
fn a_broker_whose_connection_ends_is_gone_within_a_second() {
    let network = Network::seeded(7);
    let server = name_server(&network, NAME_SERVER);
    let broker = Peer::connect(&network, 2, server.address());
    broker.register(TWO, 1);
    network.host(IpAddr::from([10, 0, 0, 2])).kill();
    network.run_for(SECOND);
    assert!(server.brokers().is_empty());
}

/// Neither the log of a run nor the module's source shows a connection that a name server opened.
/// proves: M3, M4, M16
#[test]
fn a_name_server_connects_to_nobody_and_keeps_no_file() {
    let network = Network::seeded(8);
    let servers: Vec<_> = (0..3_u8).map(|index| name_server(&network, [10, 0, 1, index])).collect();
    let broker_ip = 2;
    let brokers: Vec<_> =
        servers.iter().map(|server| Peer::connect(&network, broker_ip, server.address())).collect();
    brokers.iter().for_each(|broker| assert_eq!(broker.register(TWO, 1).code, response::SUCCESS));
    network.run_for(Duration::from_secs(300));
    let dialled = network.log().into_iter().filter(|entry| entry.event == Event::Dialled);
    assert!(dialled.into_iter().all(|entry| entry.host.ip() == IpAddr::from([10, 0, 0, broker_ip])));
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
    let network = Network::seeded(9);
    let server = name_server(&network, NAME_SERVER);
    let peer = Peer::connect(&network, 2, server.address());
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
    assert!(server.brokers().is_empty());
    let one_way = Command::one_way(code::GET_BROKER_CLUSTER_INFO);
    peer.connection.send(one_way).unwrap();
    network.run_for(SECOND);
    assert!(peer.connection.is_open());
}
