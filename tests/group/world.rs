//! A group of three brokers with two name servers.

use std::time::Duration;

use staticfire::broker::{BrokerOptions, GroupOptions};
use staticfire::protocol::body::MemberGroupBody;
use staticfire::protocol::codes::request;
use staticfire::replication::{Failover, Mode, NodeId};
use staticfire::sim::{Cluster, Found, Node, Running, requests};
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
    let cluster = Cluster::seeded(seed).members(3).name_servers(2);
    let cluster = if mode == Mode::Quorum { cluster.electing() } else { cluster.copying(mode) };
    cluster.broker_options(move |node, options| {
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
    requests::send(TOPIC, 0, body.to_owned())
}

/// A pull of queue 0; `hold` in ms.
pub fn pull(offset: i64, hold: i64) -> Command {
    requests::pull(TOPIC, offset, hold)
}
