//! Noticing a dead broker (M13 to M17).

use std::time::Duration;

use staticfire::client::ProducerOptions;
use staticfire::protocol::body::{RegisterBrokerBody, TopicConfig, TopicTable};
use staticfire::protocol::codes::request as code;
use staticfire::protocol::header::Header;
use staticfire::protocol::headers::RegisterBrokerRequest;
use staticfire::protocol::json;
use staticfire::sim::{Cluster, Node, Peer, Running, cases};
use staticfire::transport::Command;

use crate::seen::{message, minute, second, start};

/// Milliseconds until 1 ms after a sign of life grew older than 120 s.
const SILENCE_MS: u64 = 120_000;

/// Registers a made-up broker; a sign of life each time.
fn register(peer: &Peer) {
    let header = RegisterBrokerRequest {
        broker_name: "made-up".into(),
        broker_address: "10.9.9.9:10911".into(),
        cluster_name: "DefaultCluster".into(),
        ha_address: "10.9.9.9:10912".into(),
        broker_id: 0,
        heartbeat_timeout_ms: None,
        acting_master: None,
        compressed: false,
        body_crc: 0,
        zone: None,
    };
    let topics = ["TBW102", "orders"].map(|name| (name.to_owned(), TopicConfig::new(name, 4, 6)));
    let table = TopicTable { topic_config_table: topics.into(), ..TopicTable::default() };
    let body = RegisterBrokerBody { topic_config_serialize_wrapper: table, ..RegisterBrokerBody::default() };
    let request = header.on(Command::request(code::REGISTER_BROKER)).with_body(json::to_bytes(&body));
    assert_eq!(peer.ask(request).code, 0);
}

/// Keeps a connection from being idle without being a sign of life, until the broker is dropped.
/// The times since the last registration at which it was still there, and at which it was gone.
fn watch(cluster: &Running, peer: &Peer) -> (Duration, Duration) {
    let from = cluster.now();
    let mut there = Duration::ZERO;
    loop {
        let now = cluster.now().since(from);
        if cluster.name_server(0).expect("it serves").brokers().is_empty() {
            return (there, now);
        }
        there = now;
        if now.as_millis().is_multiple_of(1000) && peer.connection.is_open() {
            let ask = Command::one_way(code::GET_ROUTEINFO_BY_TOPIC).with_ext("topic", "orders");
            peer.connection.send(ask).expect("it is open");
        }
        cluster.run_for(Duration::from_millis(1));
    }
}

/// proves: M13
#[test]
fn m13_a_heartbeat_counts_at_the_name_server_that_hears_it() {
    let mut cluster = start(13, 2, 1);
    cluster.partition(Node::master(0), Node::NameServer(1));
    cluster.run_for(second(150));
    let known = [0, 1].map(|number| cluster.name_server(number).expect("it serves").brokers());
    assert_eq!(known.each_ref().map(Vec::len), [1, 0]);
    assert!(known[0][0].age <= second(30), "{known:?}");
    cluster.join(Node::master(0), Node::NameServer(1));
    cluster.join(Node::NameServer(1), Node::master(0));
    cluster.run_for(second(40));
    assert_eq!(cluster.name_server(1).expect("it serves").brokers().len(), 1, "it found its way back");
}

/// Silent brokers vanish at whole periods of the scan: 10 s by default, 3 s where that is set.
/// proves: M14
#[test]
fn m14_the_table_is_scanned_every_ten_seconds() {
    for (seed, period) in [(14, None), (15, Some(second(3))), (16, None)] {
        let cluster = Cluster::seeded(seed).brokers(0);
        let cluster = match period {
            Some(period) => cluster.name_server_options(move |_, options| options.scan_interval = period),
            None => cluster,
        };
        let cluster = cluster.start();
        let peer = cluster.peer(1, Node::NameServer(0).address()).expect("it listens");
        cluster.run_for(Duration::from_millis(seed * 7_919 % 10_000));
        register(&peer);
        let registered_at = cluster.now().since_start();
        let (there, gone) = watch(&cluster, &peer);
        let period_ms = period.unwrap_or(second(10)).as_millis();
        // The name server started at 0, so it scans at whole periods.
        let (before, after) = ((registered_at + there).as_millis(), (registered_at + gone).as_millis());
        assert_ne!(before / period_ms, after / period_ms, "between {before} and {after} ms is no scan");
    }
}

/// Whatever the times of its heartbeats: at 120 s of silence it is there, by 130 s it is gone.
/// proves: M15, I52
#[test]
fn m15_a_broker_silent_for_more_than_120_seconds_is_dropped() {
    cases(4, |seed| {
        let cluster = Cluster::seeded(seed).brokers(0).start();
        let peer = cluster.peer(1, Node::NameServer(0).address()).expect("it listens");
        for heartbeat in 0..1 + seed % 3 {
            cluster.run_for(Duration::from_millis((seed * 31_337 + heartbeat * 17_389) % 60_000));
            register(&peer);
        }
        let (there, gone) = watch(&cluster, &peer);
        // What was registered is a journey of at most half a millisecond older.
        assert!(there.as_millis() + 1 >= u128::from(SILENCE_MS), "seed {seed}: gone after {gone:?}");
        assert!(gone <= second(130), "seed {seed}: there for {gone:?}");
    });
}

/// One broker of two dies. Whoever polls learns it; whoever does not keeps the dead route for ever;
/// nobody is told.
/// proves: M16
#[test]
fn m16_clients_learn_of_a_death_only_by_their_own_polling() {
    let mut cluster = start(16, 1, 2);
    let polling = cluster.client(1);
    let deaf = cluster.client_with(2, |options| options.route_interval = minute(1_000_000));
    let producer = cluster.producer_with(3, ProducerOptions::default());
    cluster.create_topic("orders", 4);
    cluster.wait(producer.send(message("orders", "m0"))).expect("stored");
    for client in [&polling, &deaf] {
        assert_eq!(cluster.wait(client.route("orders")).expect("a route").queue_datas.len(), 2);
    }
    cluster.power_cut(Node::master(1));
    cluster.run_for(second(160));
    assert_eq!(cluster.wait(polling.route("orders")).expect("a route").queue_datas.len(), 1);
    cluster.run_for(minute(60));
    assert_eq!(cluster.wait(deaf.route("orders")).expect("a route").queue_datas.len(), 2);
    assert_eq!(cluster.requests_of(Node::NameServer(0)), Vec::<i32>::new(), "the name server told somebody");
}

/// Expiry 120 s, a scan within 10 s, a poll within 30 s: 160 s at most, and not much less.
/// proves: M17
#[test]
fn m17_a_client_knows_of_a_death_within_160_seconds() {
    cases(60, |seed| {
        let mut cluster = start(seed, 1, 2);
        cluster.create_topic("orders", 4);
        let client = cluster.client(1);
        cluster.run_for(Duration::from_millis(seed * 7_919 % 60_000));
        let queues =
            |cluster: &Running| cluster.wait(client.route("orders")).expect("a route").queue_datas.len();
        assert_eq!(queues(&cluster), 2);
        cluster.power_cut(Node::master(1));
        let died_at = cluster.now();
        while queues(&cluster) == 2 {
            cluster.run_for(Duration::from_millis(100));
        }
        let took = cluster.now().since(died_at);
        assert!(took > second(80) && took <= second(160), "seed {seed}: {took:?}");
    });
}
