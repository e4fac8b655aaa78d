//! Name servers: a set of equal peers that clients ask on a timer (M1 to M4, M8, M9).

use std::collections::BTreeSet;

use staticfire::client::{Producer, ProducerOptions};
use staticfire::protocol::codes::request as code;
use staticfire::protocol::names::GroupName;
use staticfire::sim::{Cluster, Node};
use staticfire::transport::memory::Event;

use crate::seen::{Seen, earliest, message, minute, numbered, requests, second, start};

/// proves: M1
#[test]
fn m01_a_name_server_records_every_broker_of_every_group() {
    let cluster = Cluster::seeded(1).groups(3).members(3).start();
    cluster.create_topic("orders", 4);
    let records = cluster.name_server(0).expect("it serves").brokers();
    let found: BTreeSet<_> = records
        .iter()
        .map(|it| (it.cluster.clone(), it.broker_name.clone(), it.broker_id, it.address.clone()))
        .collect();
    let members = (0..3).flat_map(|group| (0..3).map(move |id| (group, id)));
    let expected: BTreeSet<_> = members
        .map(|(group, id)| {
            let address = Node::Broker { group, id }.address().to_string();
            ("DefaultCluster".to_owned(), format!("broker-{group}"), i64::from(id), address)
        })
        .collect();
    assert_eq!(found, expected);
    let route = cluster.wait(cluster.client(1).route("orders")).expect("a route");
    assert_eq!(route.queue_datas.len(), 3, "every group has the topic");
    for group in 0..3 {
        let broker = route.broker(&format!("broker-{group}")).expect("a group");
        assert_eq!(broker.broker_addrs.len(), 3);
        assert_eq!(broker.master(), Some(Node::master(group).address().to_string().as_str()), "id 0");
    }
}

/// Two of three name servers die, whichever one a client uses; sending, consuming and learning new
/// routes go on.
/// proves: M2
#[test]
fn m02_one_name_server_of_three_is_enough() {
    for survivor in 0..3_u8 {
        let mut cluster = start(2, 3, 1);
        let producer = cluster.producer_with(1, ProducerOptions::default());
        cluster.wait(producer.send(message("orders", "m0"))).expect("stored");
        let seen = Seen::default();
        let _consumer = cluster.push_consumer(2, "pushed", earliest(), &[("orders", "*")], seen.listener());
        cluster.kill(Node::NameServer((survivor + 1) % 3));
        cluster.power_cut(Node::NameServer((survivor + 2) % 3));
        cluster.wait(producer.send(message("orders", "m1"))).expect("stored");
        // The first send to a new topic may run out of time while dead servers are tried.
        let sends = (0..3).map(|_| cluster.wait(producer.send(message("new-topic", "x"))));
        assert!(sends.into_iter().any(|sent| sent.is_ok()), "name server {survivor} is left");
        cluster.run_for(second(40));
        assert_eq!(seen.distinct(), numbered(2), "name server {survivor} is left");
    }
}

/// The name server is given by its host's name; it moves, and brokers and clients find it again.
/// proves: M2
#[test]
fn m02_a_name_server_that_moved_is_found_by_its_name() {
    let named = || vec!["names.example:9876".parse().expect("an endpoint")];
    let mut cluster = Cluster::seeded(3).name_servers(2);
    cluster = cluster.broker_options(move |_, options| options.name_servers = named());
    let mut cluster = cluster.start();
    let at = |number| [Node::NameServer(number).address().ip()];
    assert!(cluster.name_server(0).expect("it serves").brokers().is_empty(), "nobody knows the name");
    // What is first is not there; what follows is.
    let wrong = [Node::Broker { group: 9, id: 9 }.address().ip()];
    cluster.network().set_name("names.example", wrong.into_iter().chain(at(0)));
    cluster.run_for(minute(1));
    let client = cluster.client_with(1, |options| options.name_servers = named());
    let producer =
        Producer::new(&client, GroupName::new("producers").expect("a name"), ProducerOptions::default());
    cluster.wait(producer.send(message("orders", "m0"))).expect("stored");
    cluster.network().set_name("names.example", at(1));
    cluster.kill(Node::NameServer(0));
    cluster.run_for(minute(1));
    cluster.wait(producer.send(message("new-topic", "m1"))).expect("stored");
    assert_eq!(cluster.name_server(1).expect("it serves").brokers().len(), 1);
}

/// A name server comes back empty and is complete after one round of heartbeats. What it knows it
/// has from the brokers: its disk was never used.
/// proves: M3, I58, I60
#[test]
fn m03_an_empty_name_server_becomes_complete_from_registrations_alone() {
    let mut cluster = start(3, 2, 2);
    cluster.create_topic("orders", 4);
    cluster.kill(Node::NameServer(1));
    cluster.run_for(second(5));
    cluster.restart(Node::NameServer(1));
    assert!(cluster.name_server(1).expect("it serves").brokers().is_empty());
    cluster.run_for(second(30));
    let routes = [0, 1].map(|number| {
        let only = vec![Node::NameServer(number).address().into()];
        let client = cluster.client_with(number + 1, |options| options.name_servers = only);
        cluster.wait(client.route("orders")).expect("a route")
    });
    assert_eq!(routes[0], routes[1]);
    assert_eq!(routes[0].queue_datas.len(), 2);
    for number in [0, 1] {
        assert_eq!(cluster.disk(Node::NameServer(number)).operations().len(), 0, "n{number} used its disk");
    }
}

/// Whatever dies and comes back, no name server ever dials anybody, nor asks anything of those who
/// dialled it.
/// proves: M4, M16
#[test]
fn m04_name_servers_never_talk_to_each_other() {
    let mut cluster = start(4, 3, 2);
    let producer = cluster.producer_with(1, ProducerOptions::default());
    let _consumer =
        cluster.push_consumer(2, "pushed", earliest(), &[("orders", "*")], Seen::default().listener());
    cluster.wait(producer.send(message("orders", "m0"))).expect("stored");
    cluster.kill(Node::NameServer(1));
    cluster.power_cut(Node::master(1));
    cluster.run_for(minute(3));
    cluster.restart(Node::NameServer(1));
    cluster.restart(Node::master(1));
    cluster.run_for(minute(3));
    for server in [0, 1, 2].map(Node::NameServer) {
        let log = cluster.network().log();
        let dialled = log.iter().filter(|it| it.host.ip() == server.ip() && it.event == Event::Dialled);
        assert_eq!(dialled.count(), 0, "{server} dialled somebody");
        assert_eq!(cluster.requests_of(server), Vec::<i32>::new(), "{server} asked somebody");
        let heard = log.iter().filter(|it| it.host.ip() == server.ip() && it.event == Event::Accepted);
        assert!(heard.count() > 0, "{server} was dialled");
    }
}

/// proves: M8
#[test]
fn m08_a_producer_asks_for_routes_every_30_seconds() {
    let cluster = start(8, 1, 1);
    let producer = cluster.producer_with(1, ProducerOptions::default());
    cluster.wait(producer.send(message("orders", "m0"))).expect("stored");
    cluster.network().clear_log();
    cluster.run_for(minute(5));
    let asked = requests(&cluster, 1, code::GET_ROUTEINFO_BY_TOPIC);
    assert!((9..=11).contains(&asked), "{asked}");
}

/// Two topics (its own and the retry topic), each every 30 s.
/// proves: M9
#[test]
fn m09_a_consumer_asks_for_routes_every_30_seconds() {
    let cluster = start(9, 1, 1);
    let producer = cluster.producer_with(1, ProducerOptions::default());
    cluster.wait(producer.send(message("orders", "m0"))).expect("stored");
    let _consumer =
        cluster.push_consumer(2, "pushed", earliest(), &[("orders", "*")], Seen::default().listener());
    cluster.run_for(second(10));
    cluster.network().clear_log();
    cluster.run_for(minute(5));
    let asked = requests(&cluster, 2, code::GET_ROUTEINFO_BY_TOPIC);
    assert!((18..=22).contains(&asked), "{asked}");
}
