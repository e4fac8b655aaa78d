//! Brokers and their name servers: one connection each, registration, heartbeats (M5 to M7, M10 to M12).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use staticfire::broker::{Broker, BrokerOptions};
use staticfire::name_server::{NameServer, NameServerOptions};
use staticfire::protocol::codes::request as code;
use staticfire::replication::Mode;
use staticfire::sim::{Cluster, Failure, Machine, Node, Running};
use staticfire::storage::disk::SimulatedDisk;
use staticfire::storage::{StoreOptions, SystemClock};
use staticfire::transport::memory::{Entry, Event};
use staticfire::transport::tcp::{Tcp, TcpOptions};
use staticfire::transport::{Command, Connection, Runtime, Service, Transport};

use crate::seen::{message, minute, second, start};

/// The registrations that a broker sent to a name server.
fn registrations(cluster: &Running, broker: Node, server: Node) -> Vec<Entry> {
    let log = cluster.network().log().into_iter();
    let between = log.filter(|it| it.host.ip() == broker.ip() && it.peer.ip() == server.ip());
    between.filter(|it| it.event.sent_request() == Some(code::REGISTER_BROKER)).collect()
}

fn dials(cluster: &Running, broker: Node, server: Node) -> usize {
    let log = cluster.network().log().into_iter();
    log.filter(|it| it.host.ip() == broker.ip() && it.peer.ip() == server.ip() && it.event == Event::Dialled)
        .count()
}

/// A master and two slaves are one group to everybody, and have the same log, byte for byte.
/// proves: M5
#[test]
fn m05_a_group_is_a_master_and_slaves_with_a_copy_each() {
    let cluster = Cluster::seeded(5).members(3).copying(Mode::Flushed).start();
    cluster.create_topic("orders", 4);
    let producer = cluster.producer(1);
    for number in 0..50 {
        cluster.wait(producer.send(message("orders", format!("m{number}")))).expect("stored");
    }
    cluster.run_for(second(2));
    let members = [0, 1, 2].map(|id| Node::Broker { group: 0, id });
    let logs = members.map(|node| {
        let end = cluster.store(node).expect("it serves").marks().written.0;
        let mut log = cluster.disk(node).contents("commitlog/00000000000000000000").expect("the log");
        log.truncate(usize::try_from(end).expect("less than a segment"));
        log
    });
    assert!(logs[0].len() > 50 * 100 && logs[1] == logs[0] && logs[2] == logs[0]);
    let route = cluster.wait(cluster.client(1).route("orders")).expect("a route");
    assert_eq!(route.broker_datas.len(), 1);
    // A slave registers under the number of its node.
    let ids: Vec<_> = route.broker_datas[0].broker_addrs.keys().copied().collect();
    assert_eq!(ids, [0, 2, 3]);
    assert_eq!(route.queue_datas.len(), 1, "the queues are the group's, not the members'");
}

/// A broker says that it has started when every name server has it, master or slave.
/// proves: M6
#[test]
fn m06_every_broker_registers_with_every_name_server_before_it_is_ready() {
    for seed in 0..5 {
        let servers = Cluster::seeded(seed).brokers(0).name_servers(3).start();
        let known = |number| servers.name_server(number).expect("it serves").brokers();
        let mut brokers = Vec::new();
        for id in [0, 1] {
            let node = Node::Broker { group: 0, id };
            let host = Arc::new(servers.host(node));
            let (id, listen, name_servers) = (i64::from(id), node.address(), servers.name_servers());
            let options = BrokerOptions {
                id,
                listen,
                name_servers: name_servers.into_iter().map(Into::into).collect(),
                ..BrokerOptions::default()
            };
            let disk = SimulatedDisk::new(seed).completing_at_once();
            let store = StoreOptions::on(disk.directory(), Arc::new(SystemClock));
            brokers.push(servers.wait(Broker::start(host.clone(), host, options, store)).expect("it starts"));
            for number in 0..3 {
                let known = known(number).iter().any(|it| it.broker_id == id);
                assert!(known, "seed {seed}: n{number} does not know member {id}, which is ready");
            }
        }
    }
}

/// proves: M7
#[test]
fn m07_a_broker_holds_one_connection_to_each_name_server() {
    let cluster = Cluster::seeded(7).name_servers(2).members(2).start();
    cluster.run_for(minute(10));
    for broker in [0, 1].map(|id| Node::Broker { group: 0, id }) {
        for server in [0, 1].map(Node::NameServer) {
            assert_eq!(dials(&cluster, broker, server), 1, "{broker} to {server}");
        }
    }
}

/// The same on sockets, as the system counts them.
/// proves: M7
#[test]
#[cfg(target_os = "linux")]
#[allow(clippy::disallowed_methods, reason = "the table is the system's")]
fn m07_one_connection_to_each_name_server_on_sockets() {
    let tcp = Tcp::start(TcpOptions::default()).expect("threads start");
    let (transport, runtime): (Arc<dyn Transport>, Arc<dyn Runtime>) =
        (Arc::new(tcp.clone()), Arc::new(tcp.clone()));
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let options = NameServerOptions { listen, ..NameServerOptions::default() };
    let servers =
        [0, 1].map(|_| NameServer::start(&tcp, Arc::clone(&runtime), options).expect("a free port"));
    let directory = tempfile::tempdir().expect("a folder");
    let mut store = StoreOptions::at(directory.path());
    store.segment_bytes = 8 << 20;
    let name_servers = servers.iter().map(|server| server.address().into()).collect();
    let options = BrokerOptions { listen, name_servers, ..BrokerOptions::default() };
    let broker = tcp.block_on(Broker::start(transport, runtime, options, store)).expect("it starts");
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the system's table of sockets");
    for server in &servers {
        // The columns: number, local, remote, state; 01 is ESTABLISHED.
        let remote = format!("0100007F:{:04X}", server.address().port());
        let established = table.lines().filter(|line| {
            let columns: Vec<_> = line.split_whitespace().collect();
            columns.get(2) == Some(&remote.as_str()) && columns.get(3) == Some(&"01")
        });
        assert_eq!(established.count(), 1, "connections to {remote}");
    }
    tcp.block_on(broker.stop()).expect("a clean stop");
}

/// proves: M10
#[test]
fn m10_heartbeats_go_to_all_name_servers_alike() {
    let cluster = start(10, 3, 2);
    cluster.run_for(second(17));
    cluster.network().clear_log();
    cluster.run_for(minute(10));
    for broker in [0, 1].map(Node::master) {
        let counts = [0, 1, 2].map(|number| registrations(&cluster, broker, Node::NameServer(number)).len());
        assert!(counts.iter().all(|count| count.abs_diff(counts[0]) <= 1), "{broker}: {counts:?}");
        assert!((19..=21).contains(&counts[0]), "every 30 s: {counts:?}");
    }
}

/// All on one connection; when it broke, all on the next one, beginning with a registration.
/// proves: M11
#[test]
fn m11_heartbeats_travel_on_the_connection_of_the_registration() {
    let mut cluster = start(11, 1, 1);
    let (broker, server) = (Node::master(0), Node::NameServer(0));
    let connections = |cluster: &Running| -> BTreeSet<u64> {
        registrations(cluster, broker, server).iter().map(|entry| entry.connection).collect()
    };
    cluster.run_for(minute(5));
    let first = connections(&cluster);
    assert_eq!(first.len(), 1);
    assert!(registrations(&cluster, broker, server).len() >= 10);
    cluster.kill(server);
    cluster.restart(server);
    cluster.network().clear_log();
    cluster.run_for(minute(5));
    let second = connections(&cluster);
    assert_eq!(second.len(), 1);
    assert!(second.is_disjoint(&first), "another connection");
    assert_eq!(cluster.requests_of(broker)[0], code::REGISTER_BROKER);
}

/// A topic that the name server forgot is back with the next heartbeat, which is nothing but a
/// registration.
/// proves: M12
#[test]
fn m12_a_heartbeat_carries_the_brokers_topics() {
    let cluster = start(12, 1, 1);
    cluster.create_topic("orders", 4);
    let tool = cluster.peer(1, Node::NameServer(0).address()).expect("it listens");
    let route = || tool.ask(Command::request(code::GET_ROUTEINFO_BY_TOPIC).with_ext("topic", "orders")).code;
    assert_eq!(route(), 0);
    let forget = Command::request(code::DELETE_TOPIC_IN_NAME_SERVER).with_ext("topic", "orders");
    assert_eq!(tool.ask(forget).code, 0);
    assert_ne!(route(), 0);
    cluster.network().clear_log();
    cluster.run_for(second(30));
    assert_eq!(route(), 0);
    assert_eq!(cluster.requests_of(Node::master(0)), [code::REGISTER_BROKER]);
}

/// A name server that takes down what it is told.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<Command>>>);

impl Service for Notes {
    fn turn(&self, connection: &Connection, requests: &mut Vec<Command>) {
        for request in requests.drain(..) {
            connection.send(request.answer(0)).expect("the broker is there");
            self.0.lock().expect("whole").push(request);
        }
    }
}

/// The second registration, the first that is a heartbeat, word by word.
/// proves: M12
#[test]
fn m12_a_heartbeat_on_the_wire() {
    let notes = Notes::default();
    let heard = notes.clone();
    let role = move |machine: Machine| {
        let notes: Arc<dyn Service> = Arc::new(notes.clone());
        async move {
            let host = Arc::new(machine.host().clone());
            let listener = host.listen(SocketAddr::new(host.ip(), 9876), notes)?;
            let options = BrokerOptions {
                listen: machine.address(),
                name_servers: vec![listener.address().into()],
                ..BrokerOptions::default()
            };
            let broker = Broker::start(host.clone(), host, options, machine.store_options()).await?;
            Ok::<_, Failure>((broker, listener))
        }
    };
    let cluster = Cluster::seeded(12).name_servers(0).own_brokers(role).start();
    cluster.create_topic("orders", 4);
    heard.0.lock().expect("whole").clear();
    cluster.run_for(Duration::from_secs(31));
    let heard = heard.0.lock().expect("whole");
    let [heartbeat] = &heard[..] else { panic!("one heartbeat: {heard:?}") };
    assert_eq!((heartbeat.code, heartbeat.flag & 1), (103, 0));
    let mut fields: Vec<_> = heartbeat.ext.iter().map(|(name, value)| format!("{name}={value}")).collect();
    fields.sort();
    assert_eq!(fields, HEARTBEAT_FIELDS);
    let body = String::from_utf8_lossy(&heartbeat.body.to_bytes()).into_owned();
    // Between the two stand the system topics, which come before "orders".
    assert!(body.starts_with(HEARTBEAT_BEGIN), "{body}");
    assert!(body.ends_with(HEARTBEAT_END), "{body}");
}

const HEARTBEAT_FIELDS: [&str; 8] = [
    "bodyCrc32=0",
    "brokerAddr=10.1.0.0:10911",
    "brokerId=0",
    "brokerName=broker-a",
    "clusterName=DefaultCluster",
    "compressed=false",
    "enableActingMaster=false",
    "haServerAddr=10.1.0.0:10912",
];
const HEARTBEAT_BEGIN: &str = concat!(
    r#"{"filterServerList":[],"topicConfigSerializeWrapper":{"#,
    r#""dataVersion":{"counter":2,"stateVersion":0,"timestamp":1700000000001},"#,
    r#""mappingDataVersion":{"counter":0,"stateVersion":0,"timestamp":0},"topicConfigTable":{""#,
);
const HEARTBEAT_END: &str = concat!(
    r#","orders":{"attributes":{},"order":false,"perm":6,"readQueueNums":4,"topicFilterType":"SINGLE_TAG","#,
    r#""topicName":"orders","topicSysFlag":0,"writeQueueNums":4}},"#,
    r#""topicQueueMappingDetailMap":{},"topicQueueMappingInfoMap":{}}}"#,
);
