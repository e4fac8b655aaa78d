//! What a user may rely on in the name server's table: pure, so time is just an argument.

use std::time::Duration;

use proptest::prelude::*;
use staticfire::name_server::{NotRegistered, RegisterError, RouteTable, TableLimits};
use staticfire::protocol::body::{DataVersion, TopicConfig, TopicRouteData, TopicTable, permission};
use staticfire::protocol::headers::{BrokerHeartbeatRequest, BrokerRequest, RegisterBrokerRequest};
use staticfire::protocol::names::ORDER_TOPIC_NAMESPACE;
use staticfire::transport::{ConnectionId, Monotonic};

/// Milliseconds after the start.
fn at(ms: u64) -> Monotonic {
    Monotonic::new(Duration::from_millis(ms))
}

fn second(seconds: u64) -> Monotonic {
    at(seconds * 1000)
}

fn broker(name: &str, id: i64, address: &str) -> RegisterBrokerRequest {
    RegisterBrokerRequest {
        broker_name: name.into(),
        broker_address: address.into(),
        cluster_name: "DefaultCluster".into(),
        ha_address: format!("{address}1"),
        broker_id: id,
        heartbeat_timeout_ms: None,
        acting_master: Some(false),
        compressed: false,
        body_crc: 0,
        zone: None,
    }
}

fn named(request: &RegisterBrokerRequest) -> BrokerRequest {
    BrokerRequest {
        broker_name: request.broker_name.clone(),
        broker_address: request.broker_address.clone(),
        cluster_name: request.cluster_name.clone(),
        broker_id: request.broker_id,
    }
}

fn beat(request: &RegisterBrokerRequest) -> BrokerHeartbeatRequest {
    BrokerHeartbeatRequest {
        cluster_name: request.cluster_name.clone(),
        broker_address: request.broker_address.clone(),
        broker_name: request.broker_name.clone(),
        broker_id: Some(request.broker_id),
        heartbeat_timeout_ms: None,
    }
}

fn version(counter: i64) -> DataVersion {
    DataVersion { counter, state_version: 0, timestamp: 1_700_000_000_000 }
}

fn topics(counter: i64, names: &[&str]) -> TopicTable {
    let config = |name: &&str| ((*name).to_owned(), TopicConfig::new(*name, 4, 6));
    TopicTable {
        data_version: version(counter),
        topic_config_table: names.iter().map(config).collect(),
        ..TopicTable::default()
    }
}

const A: ConnectionId = ConnectionId(1);
const B: ConnectionId = ConnectionId(2);
const TWO: &[&str] = &["TBW102", "orders"];

/// A table with master broker-a registered over connection A at time 0.
fn one_master() -> (RouteTable, RegisterBrokerRequest) {
    let mut table = RouteTable::new(TableLimits::default());
    let master = broker("broker-a", 0, "10.0.0.1:10911");
    table.register(second(0), A, &master, topics(1, TWO)).expect("a first registration with two topics");
    (table, master)
}

fn route(table: &RouteTable, topic: &str) -> Option<TopicRouteData> {
    table.check_invariants();
    table.route(topic, false, false)
}

/// proves: M1
#[test]
fn the_table_names_every_broker_of_every_group_with_its_role_and_topics() {
    let mut table = RouteTable::new(TableLimits::default());
    for group in 0..3 {
        for id in 0..3 {
            let connection = ConnectionId(group * 3 + id);
            let id = i64::try_from(id).unwrap();
            let request = broker(&format!("broker-{group}"), id, &format!("10.0.{group}.{id}:10911"));
            table.register(second(0), connection, &request, topics(1, TWO)).unwrap();
        }
    }
    let brokers = table.brokers(second(1));
    assert_eq!(brokers.len(), 9);
    assert!(brokers.iter().all(|broker| broker.age == Duration::from_secs(1)));
    let route = route(&table, "orders").unwrap();
    assert_eq!(route.queue_datas.len(), 3);
    assert_eq!(route.broker("broker-2").unwrap().broker_addrs[&1], "10.0.2.1:10911");
    assert_eq!(route.broker("broker-2").unwrap().master(), Some("10.0.2.0:10911"));
    assert_eq!(table.cluster_info().cluster_addr_table["DefaultCluster"].len(), 3);
}

/// At 120 s of silence it is there; a moment later it is not.
/// proves: M15, I52
#[test]
fn a_broker_is_dropped_after_more_than_120_seconds_of_silence() {
    let (mut table, _) = one_master();
    assert!(table.scan(second(120)).is_empty());
    assert!(route(&table, "orders").is_some());
    assert_eq!(table.scan(at(120_001)).len(), 1);
    assert!(route(&table, "orders").is_none());
    assert!(table.scan(at(120_001)).is_empty(), "dropping is done once");
}

/// A heartbeat, a version query and a registration are signs of life, each for its broker only.
/// proves: M13, Z37
#[test]
fn a_sign_of_life_refreshes_its_own_broker_only() {
    let (mut table, a) = one_master();
    let b = broker("broker-b", 0, "10.0.0.2:10911");
    table.register(second(0), B, &b, topics(1, TWO)).unwrap();
    table.heartbeat(second(100), A, &beat(&a)).unwrap();
    assert_eq!(table.scan(second(121)).len(), 1);
    assert!(route(&table, "orders").unwrap().broker("broker-a").is_some());
    table.query_version(second(200), A, &named(&a), version(1));
    assert!(table.scan(second(320)).is_empty());
    table.register(second(320), A, &a, topics(1, TWO)).unwrap();
    assert!(table.scan(second(440)).is_empty());
    assert_eq!(table.scan(second(441)).len(), 1);
}

/// proves: I59, B43
#[test]
fn time_outs_named_by_brokers_are_clamped() {
    for (named, effective_s) in [
        (Some(0), 1),
        (Some(-1), 1),
        (Some(i64::MIN), 1),
        (Some(10_000), 10),
        (Some(i64::MAX), 120),
        (None, 120),
    ] {
        let mut table = RouteTable::new(TableLimits::default());
        let mut request = broker("broker-a", 0, "10.0.0.1:10911");
        request.heartbeat_timeout_ms = named;
        table.register(second(0), A, &request, topics(1, TWO)).unwrap();
        assert!(table.scan(second(effective_s)).is_empty(), "{named:?}");
        assert_eq!(table.scan(at(effective_s * 1000 + 1)).len(), 1, "{named:?}");
    }
}

/// The old connection's end arrives after the broker is back on a new one.
/// proves: I54, Z35
#[test]
fn the_end_of_an_old_connection_does_not_remove_a_newer_registration() {
    let (mut table, master) = one_master();
    table.register(second(10), B, &master, topics(1, TWO)).unwrap();
    assert_eq!(table.closed(A), 0);
    assert!(route(&table, "orders").is_some());
    assert_eq!(table.closed(B), 1);
    assert!(route(&table, "orders").is_none());
    assert_eq!(table.closed(B), 0, "both are idempotent");
}

/// Decided at 121 s, carried out after the broker came back: over a new connection, and over the
/// same one.
/// proves: I54, Z35
#[test]
fn a_late_eviction_does_not_remove_a_newer_registration() {
    let (mut table, master) = one_master();
    let decided = table.overdue(second(121));
    table.register(second(121), B, &master, topics(1, TWO)).unwrap();
    assert!(!table.evict(&decided[0]));
    let decided = table.overdue(second(242));
    table.heartbeat(second(242), B, &beat(&master)).unwrap();
    assert!(!table.evict(&decided[0]));
    assert!(route(&table, "orders").is_some());
}

/// proves: B44, I56
#[test]
fn only_the_registering_connection_unregisters_a_broker() {
    let (mut table, master) = one_master();
    assert_eq!(table.unregister(B, &named(&master)), Err(NotRegistered::OtherConnection));
    assert_eq!(table.heartbeat(second(60), B, &beat(&master)), Err(NotRegistered::OtherConnection));
    assert!(route(&table, "orders").is_some());
    assert_eq!(table.unregister(A, &named(&master)), Ok(()));
    assert!(route(&table, "orders").is_none());
    assert_eq!(table.unregister(A, &named(&master)), Ok(()), "twice is fine");
    assert_eq!(table.heartbeat(second(60), A, &beat(&master)), Err(NotRegistered::Unknown));
}

/// nameserver.md §3.4 item 4 and §12 item 1.
#[test]
fn a_first_registration_with_one_topic_is_refused_and_with_none_or_two_taken() {
    let mut table = RouteTable::new(TableLimits::default());
    let request = broker("broker-r", 0, "10.0.0.1:10911");
    assert_eq!(table.register(second(0), A, &request, topics(1, &["T"])), Err(RegisterError::IncrementFirst));
    assert!(table.brokers(second(0)).is_empty());
    assert!(table.register(second(0), A, &request, topics(1, &[])).is_ok());
    assert!(table.register(second(0), A, &request, topics(2, &["T"])).is_ok(), "now it is an increment");
}

/// nameserver.md §3.4 item 6 and §12 item 4.
#[test]
fn an_unseen_topic_is_taken_at_the_same_version_and_a_missing_one_is_kept() {
    let (mut table, master) = one_master();
    table.register(second(1), A, &master, topics(1, &["payments"])).unwrap();
    assert!(route(&table, "payments").is_some());
    table.register(second(2), A, &master, topics(2, TWO)).unwrap();
    assert!(route(&table, "payments").is_some());
    table.delete_topic("payments", None);
    assert!(route(&table, "payments").is_none());
}

/// Equal version: a known topic does not change; another version: it does.
#[test]
fn topics_change_only_with_the_data_version() {
    let (mut table, master) = one_master();
    let mut wider = topics(1, TWO);
    wider.topic_config_table.get_mut("orders").unwrap().write_queue_nums = 8;
    table.register(second(1), A, &master, wider.clone()).unwrap();
    assert_eq!(route(&table, "orders").unwrap().queue_datas[0].write_queue_nums, 4);
    wider.data_version = version(2);
    table.register(second(2), A, &master, wider).unwrap();
    assert_eq!(route(&table, "orders").unwrap().queue_datas[0].write_queue_nums, 8);
}

/// nameserver.md §12 item 3.
#[test]
fn a_version_query_tells_whether_to_register() {
    let (mut table, master) = one_master();
    assert_eq!(table.query_version(second(1), A, &named(&master), version(1)), (false, Some(version(1))));
    assert_eq!(table.query_version(second(1), A, &named(&master), version(2)), (true, Some(version(1))));
    let stranger = named(&broker("broker-x", 0, "10.0.0.9:1"));
    assert_eq!(table.query_version(second(1), A, &stranger, version(1)), (true, None));
}

/// A newer leadership period wins, then the count of changes; the loser changes nothing.
/// proves: I55
#[test]
fn another_address_with_older_data_does_not_take_a_live_brokers_place() {
    let (mut table, old) = one_master();
    table.register(second(1), A, &old, topics(5, TWO)).unwrap();
    let new = broker("broker-a", 0, "10.0.0.7:10911");
    assert!(table.register(second(2), B, &new, topics(4, TWO)).unwrap().outdated);
    assert_eq!(route(&table, "orders").unwrap().broker_datas[0].master(), Some("10.0.0.1:10911"));
    let mut promoted = topics(1, TWO);
    promoted.data_version.state_version = 1;
    assert!(!table.register(second(3), B, &new, promoted).unwrap().outdated);
    assert_eq!(route(&table, "orders").unwrap().broker_datas[0].master(), Some("10.0.0.7:10911"));
    assert_eq!(table.closed(A), 0);
    assert!(route(&table, "orders").is_some());
}

/// nameserver.md §3.4 item 2: the address moves from id 1 to id 0.
#[test]
fn a_promoted_slave_is_listed_once() {
    let (mut table, _) = one_master();
    let slave = broker("broker-a", 1, "10.0.0.2:10911");
    table.register(second(0), B, &slave, topics(1, TWO)).unwrap();
    table.closed(A);
    let promoted = broker("broker-a", 0, "10.0.0.2:10911");
    table.register(second(1), B, &promoted, topics(2, TWO)).unwrap();
    let group = route(&table, "orders").unwrap().broker_datas.remove(0);
    assert_eq!(group.broker_addrs, [(0, "10.0.0.2:10911".to_owned())].into());
}

/// proves: I57
#[test]
fn a_group_without_master_is_listed_without_one_and_a_slave_learns_its_master() {
    let (mut table, _) = one_master();
    let slave = broker("broker-a", 1, "10.0.0.2:10911");
    let answer = table.register(second(0), B, &slave, topics(9, &["slave-only", "x"])).unwrap();
    assert_eq!(answer.master, Some(("10.0.0.1:10911".into(), "10.0.0.1:109111".into())));
    assert!(route(&table, "slave-only").is_none(), "a slave's topics are not taken");
    table.closed(A);
    let group = route(&table, "orders").unwrap().broker_datas.remove(0);
    assert_eq!(group.master(), None);
    assert_eq!(group.broker_addrs.len(), 1);
    assert_eq!(table.register(second(1), B, &slave, topics(9, TWO)).unwrap().master, None);
}

/// nameserver.md §5, last paragraph: only where asked for.
#[test]
fn a_slave_stands_in_for_a_missing_master_where_that_is_enabled() {
    let mut table = RouteTable::new(TableLimits::default());
    let mut master = broker("broker-a", 0, "10.0.0.1:10911");
    let mut slave = broker("broker-a", 1, "10.0.0.2:10911");
    (master.acting_master, slave.acting_master) = (Some(true), Some(true));
    table.register(second(0), A, &master, topics(1, TWO)).unwrap();
    table.register(second(0), B, &slave, topics(1, TWO)).unwrap();
    table.closed(A);
    assert_eq!(table.route("orders", false, false).unwrap().broker_datas[0].master(), None);
    let acting = table.route("orders", false, true).unwrap();
    assert_eq!(acting.broker_datas[0].master(), Some("10.0.0.2:10911"));
    assert!(!acting.queue_datas[0].writable());
}

/// nameserver.md §9 and §12 item 6.
#[test]
fn write_permission_is_taken_and_given_back_until_the_next_changed_registration() {
    let (mut table, master) = one_master();
    let perm = |table: &RouteTable| route(table, "orders").unwrap().queue_datas[0].perm;
    assert_eq!(table.set_writable("broker-a", false), 2);
    assert_eq!(perm(&table), permission::READ);
    table.register(second(1), A, &master, topics(1, TWO)).unwrap();
    assert_eq!(perm(&table), permission::READ, "the same version changes nothing");
    assert_eq!(table.set_writable("broker-a", true), 2);
    assert_eq!(perm(&table), permission::READ_WRITE);
    table.set_writable("broker-a", false);
    table.register(second(2), A, &master, topics(2, TWO)).unwrap();
    assert_eq!(perm(&table), permission::READ_WRITE);
    assert_eq!(table.set_writable("unknown", false), 0);
}

#[test]
fn order_settings_are_part_of_routes_where_asked_for() {
    let (mut table, _) = one_master();
    table.settings.put(ORDER_TOPIC_NAMESPACE.into(), "orders".into(), "broker-a:4".into()).unwrap();
    assert_eq!(table.route("orders", false, false).unwrap().order_topic_conf, None);
    assert_eq!(table.route("orders", true, false).unwrap().order_topic_conf.as_deref(), Some("broker-a:4"));
}

/// proves: B43, I59
#[test]
fn strange_registrations_are_refused_and_tables_are_bounded() {
    let limits = TableLimits { brokers: 2, topics: 3 };
    let mut table = RouteTable::new(limits);
    for (name, id, address) in
        [("", 0, "h:1"), ("a b", 0, "h:1"), ("a", -1, "h:1"), ("a", 0, ""), ("a", 0, "h\n:1")]
    {
        let refused = table.register(second(0), A, &broker(name, id, address), topics(1, TWO));
        assert!(matches!(refused, Err(RegisterError::Field { .. })), "{name:?} {id} {address:?}");
    }
    let mut strange = topics(1, &["ok", "../x", "", "b", "c", "d"]);
    strange.topic_config_table.get_mut("b").unwrap().read_queue_nums = i32::MAX;
    strange.topic_config_table.get_mut("c").unwrap().write_queue_nums = -1;
    let registered = table.register(second(0), A, &broker("broker-a", 0, "h:1"), strange).unwrap();
    assert_eq!(registered.topics_skipped, 4);
    assert_eq!(table.topics(), ["d", "ok"]);
    let more = topics(2, &["e", "f", "g"]);
    assert_eq!(table.register(second(0), A, &broker("broker-a", 0, "h:1"), more).unwrap().topics_skipped, 2);
    table.register(second(0), B, &broker("broker-b", 0, "h:2"), topics(1, TWO)).unwrap();
    let third = table.register(second(0), B, &broker("broker-c", 0, "h:3"), topics(1, TWO));
    assert_eq!(third, Err(RegisterError::Full { brokers: 2 }));
    let mut impostor = broker("broker-a", 1, "h:4");
    impostor.cluster_name = "Other".into();
    let refused = table.register(second(0), B, &impostor, topics(1, TWO));
    assert_eq!(refused, Err(RegisterError::OtherCluster { cluster: "DefaultCluster".into() }));
    table.check_invariants();
}

/// One address, another broker name: the old name goes.
#[test]
fn a_renamed_broker_leaves_no_trace_of_its_old_name() {
    let (mut table, _) = one_master();
    table.register(second(1), A, &broker("broker-z", 0, "10.0.0.1:10911"), topics(1, TWO)).unwrap();
    let route = route(&table, "orders").unwrap();
    assert!(route.broker("broker-a").is_none() && route.broker("broker-z").is_some());
}

/// Peers that hear the same brokers give the same routes, whatever the order.
/// proves: M3, I58, I60
#[test]
fn an_empty_name_server_equals_its_peers_after_one_round_of_registrations() {
    let (mut old, a) = one_master();
    let b = broker("broker-b", 0, "10.0.0.2:10911");
    old.register(second(0), B, &b, topics(1, &["payments", "orders"])).unwrap();
    let mut fresh = RouteTable::new(TableLimits::default());
    fresh.register(second(30), B, &b, topics(1, &["payments", "orders"])).unwrap();
    fresh.register(second(30), A, &a, topics(1, TWO)).unwrap();
    assert_eq!(old.cluster_info(), fresh.cluster_info());
    for topic in old.topics() {
        assert_eq!(route(&old, &topic), route(&fresh, &topic));
    }
    assert_eq!(old.topics(), fresh.topics());
}

fn cases() -> u32 {
    let factor = std::env::var("STATICFIRE_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    256 * factor
}

#[derive(Clone, Debug)]
enum Step {
    Register { broker: usize, connection: u64, counter: i64 },
    Heartbeat { broker: usize, connection: u64 },
    Unregister { broker: usize, connection: u64 },
    Closed { connection: u64 },
    Wait { ms: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let who = || (0..4_usize, 0..6_u64);
    prop_oneof![
        4 => (who(), 0..4_i64).prop_map(|((broker, connection), counter)| Step::Register { broker, connection, counter }),
        3 => who().prop_map(|(broker, connection)| Step::Heartbeat { broker, connection }),
        1 => who().prop_map(|(broker, connection)| Step::Unregister { broker, connection }),
        1 => (0..6_u64).prop_map(|connection| Step::Closed { connection }),
        4 => (0..70_000_u64).prop_map(|ms| Step::Wait { ms }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    /// proves: M14, M15, I52
    #[test]
    fn never_dropped_within_120_seconds_and_always_by_130(
        silences in prop::collection::vec(0..140_000_u64, 1..20),
        start in 0..10_000_u64,
    ) {
        let mut table = RouteTable::new(TableLimits::default());
        let master = broker("broker-a", 0, "10.0.0.1:10911");
        let (mut now, mut scan_at) = (start, 10_000);
        table.register(at(now), A, &master, topics(1, TWO)).unwrap();
        for silence in silences {
            let (heard, next) = (now, now + silence);
            while scan_at <= next {
                let gone = !table.scan(at(scan_at)).is_empty();
                let silent = scan_at - heard;
                prop_assert!(!gone || silent > 120_000, "dropped after {silent} ms");
                prop_assert!(silent < 130_000 || route(&table, "orders").is_none(), "there after {silent} ms");
                scan_at += 10_000;
            }
            now = next;
            table.register(at(now), A, &master, topics(1, TWO)).unwrap();
        }
    }

    /// Against a model that is obviously right: a list of (broker, connection, last seen).
    /// proves: I54, I57
    #[test]
    fn the_table_holds_exactly_what_the_last_incarnations_registered(steps in prop::collection::vec(step(), 1..80)) {
        // Brokers 0 and 1 are one group, 2 and 3 masters of their own.
        let brokers = [
            broker("broker-a", 0, "h:1"), broker("broker-a", 1, "h:2"), broker("broker-b", 0, "h:3"), broker("broker-c", 0, "h:4"),
        ];
        let mut table = RouteTable::new(TableLimits::default());
        let mut model: [Option<(u64, u64)>; 4] = [None; 4];
        let mut now = 0;
        for step in &steps {
            match *step {
                Step::Register { broker, connection, counter } => {
                    table.register(at(now), ConnectionId(connection), &brokers[broker], topics(counter, TWO)).unwrap();
                    model[broker] = Some((connection, now));
                }
                Step::Heartbeat { broker, connection } => {
                    let heard = table.heartbeat(at(now), ConnectionId(connection), &beat(&brokers[broker])).is_ok();
                    let known = model[broker].as_mut().filter(|known| known.0 == connection);
                    prop_assert_eq!(heard, known.is_some());
                    known.into_iter().for_each(|known| known.1 = now);
                }
                Step::Unregister { broker, connection } => {
                    let _ = table.unregister(ConnectionId(connection), &named(&brokers[broker]));
                    model[broker] = model[broker].filter(|known| known.0 != connection);
                }
                Step::Closed { connection } => {
                    table.closed(ConnectionId(connection));
                    model.iter_mut().for_each(|known| *known = known.filter(|known| known.0 != connection));
                }
                Step::Wait { ms } => {
                    now += ms;
                    table.scan(at(now));
                    model.iter_mut().for_each(|known| *known = known.filter(|known| now - known.1 <= 120_000));
                }
            }
            table.check_invariants();
            let listed: Vec<_> = table.brokers(at(now)).into_iter().map(|entry| entry.address).collect();
            let expected: Vec<_> = (0..4).filter(|index| model[*index].is_some())
                .map(|index| brokers[index].broker_address.clone()).collect();
            prop_assert_eq!(listed, expected, "after {:?}", step);
        }
    }
}
