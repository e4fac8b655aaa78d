//! A group of three brokers with two name servers.

use std::time::Duration;

use staticfire::broker::{BrokerOptions, GroupOptions};
use staticfire::protocol::body::MemberGroupBody;
use staticfire::protocol::codes::request;
use staticfire::protocol::header::Header;
use staticfire::protocol::headers::SendRequest;
use staticfire::replication::{Failover, Mode, NodeId};
use staticfire::sim::{Cluster, Found, Node, Running};
use staticfire::transport::Command;

pub const TOPIC: &str = "orders";

/// Member `id` of the group; its node number is one more.
pub const fn node(id: u8) -> Node {
    Node::Broker { group: 0, id }
}

pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Three brokers that elect.
pub fn raft(seed: u64) -> Running {
    started(cluster(seed, |_| Failover::Raft, Mode::Quorum))
}

/// A master, which is member 0, and two slaves.
pub fn manual(seed: u64, mode: &str) -> Running {
    let failover = |id| if id == 0 { Failover::Master { generation: 1 } } else { Failover::Slave };
    started(cluster(seed, failover, mode.parse().unwrap()))
}

pub fn cluster(seed: u64, failover: fn(u8) -> Failover, mode: Mode) -> Cluster {
    cluster_with(seed, failover, mode, |_| {})
}

/// The same, with other options of the brokers.
pub fn cluster_with(
    seed: u64,
    failover: fn(u8) -> Failover,
    mode: Mode,
    change: fn(&mut BrokerOptions),
) -> Cluster {
    println!("seed {seed}");
    Cluster::seeded(seed).members(3).name_servers(2).broker_options(move |node, options| {
        let Node::Broker { group, id } = node else { return };
        options.replication = Some(group_options(group, id, failover(id), mode));
        change(options);
    })
}

pub fn group_options(group: u8, id: u8, failover: Failover, mode: Mode) -> GroupOptions {
    let number = |id: u8| NodeId(u32::from(id) + 1);
    let peers = (0..3).map(|id| (number(id), (Node::Broker { group, id }.ip(), 10912).into())).collect();
    GroupOptions { mode, ..GroupOptions::new(number(id), peers, failover) }
}

pub fn started(cluster: Cluster) -> Running {
    let running = cluster.start();
    leader(&running);
    running
}

/// Who leads and serves, after waiting for it.
pub fn leader(running: &Running) -> Node {
    running.leader(0)
}

/// All messages of the topic that a broker shows.
pub fn stored(running: &Running, node: Node) -> Vec<Found> {
    running.stored_at(node, TOPIC)
}

/// The ids and addresses of the group, as a name server knows them.
pub fn registered(running: &Running, name_server: u8) -> Vec<(i64, String)> {
    let peer = running.peer(200, Node::NameServer(name_server).address()).unwrap();
    let ask = Command::request(request::GET_BROKER_MEMBER_GROUP)
        .with_ext("clusterName", "DefaultCluster")
        .with_ext("brokerName", "broker-0");
    let answer = peer.ask(ask);
    let found: MemberGroupBody =
        staticfire::protocol::json::from_slice_tolerant(&answer.body.to_bytes()).unwrap();
    peer.connection.close();
    found.broker_member_group.unwrap().broker_addrs.into_iter().collect()
}

pub fn send(body: &str) -> Command {
    let head = SendRequest {
        producer_group: "P",
        topic: TOPIC,
        default_topic: "TBW102",
        default_topic_queues: 4,
        queue_id: 0,
        sys_flag: 0,
        born_ms: 1000,
        flag: 0,
        properties: "",
        reconsume_times: 0,
        unit_mode: false,
        reconsume_times_max: None,
        batch: false,
        broker_name: None,
    };
    let mut command = Command::request(request::SEND_MESSAGE_V2).with_body(body.to_owned());
    head.write(request::SEND_MESSAGE_V2, &mut command.ext);
    command
}

/// A pull of queue 0, which names its subscription; `hold` in ms.
pub fn pull(offset: i64, hold: i64) -> Command {
    staticfire::protocol::headers::PullRequest {
        consumer_group: "C".into(),
        topic: TOPIC.into(),
        queue_id: 0,
        queue_offset: offset,
        messages_max: 32,
        sys_flag: if hold > 0 { 6 } else { 4 },
        commit_offset: 0,
        suspend_ms: hold,
        subscription: Some("*".into()),
        subscription_version: 0,
        expression_type: None,
        bytes_max: None,
    }
    .on(Command::request(request::PULL_MESSAGE))
}
