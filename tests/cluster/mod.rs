//! A cluster on the simulated network for tests of clients: name servers at 10.0.1.x, brokers at
//! 10.0.2.x, clients at 10.0.3.x; and a scripted broker whose answers a test chooses.

mod scripted;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use staticfire::broker::{Broker, BrokerOptions};
use staticfire::client::{
    Client, ClientOptions, Listener, Producer, ProducerOptions, PushConsumer, PushConsumerOptions,
};
use staticfire::name_server::{NameServer, NameServerOptions};
use staticfire::protocol::codes::request as code;
use staticfire::protocol::header::Header;
use staticfire::protocol::headers::CreateTopicRequest;
use staticfire::protocol::names::GroupName;
use staticfire::storage::disk::SimulatedDisk;
use staticfire::storage::{Clock, QueueId, QueueOffset, StoreOptions};
use staticfire::transport::memory::{Host, Network};
use staticfire::transport::{Command, Connection, Runtime, Service, Transport};

pub use scripted::{Answer, Scripted};

pub fn second(count: u64) -> Duration {
    Duration::from_secs(count)
}

pub fn minute(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

pub fn group(name: &str) -> GroupName {
    GroupName::new(name).expect("a group's name")
}

/// The host's wall clock, for its store.
#[derive(Debug)]
struct HostClock(Host);

impl Clock for HostClock {
    fn wall_ms(&self) -> i64 {
        Runtime::wall_ms(&self.0)
    }
}

/// A peer that only asks.
struct Silent;

impl Service for Silent {
    fn turn(&self, _: &Connection, requests: &mut Vec<Command>) {
        requests.clear();
    }
}

pub struct Cluster {
    pub network: Network,
    name_servers: Vec<NameServer>,
    brokers: Vec<Broker>,
}

const NAME_SERVERS: u8 = 1;
const BROKERS: u8 = 2;
const CLIENTS: u8 = 3;

fn ip(net: u8, number: u8) -> IpAddr {
    IpAddr::from([10, 0, net, number])
}

impl Cluster {
    /// Name servers, and brokers with a store on a simulated disk, all up and registered.
    pub fn start(seed: u64, name_servers: u8, brokers: u8) -> Self {
        let mut cluster = Self::without_brokers(seed, name_servers);
        for number in 0..brokers {
            let host = cluster.network.host(ip(BROKERS, number));
            let options = BrokerOptions {
                name: format!("broker-{number}"),
                listen: SocketAddr::new(host.ip(), 10911),
                name_servers: cluster.name_server_addresses(),
                ..BrokerOptions::default()
            };
            let disk = SimulatedDisk::new(seed).completing_at_once();
            let mut store = StoreOptions::on(disk.directory(), Arc::new(HostClock(host.clone())));
            (store.segment_bytes, store.queue_file_entries) = (8 << 20, 1000);
            let starting = Broker::start(Arc::new(host.clone()), Arc::new(host), options, store);
            let broker = cluster.wait_for(second(10), starting);
            cluster.brokers.push(broker.expect("a fresh store opens"));
        }
        cluster
    }

    /// One name server, and a scripted broker group `broker-0` with a master and a slave.
    pub fn scripted(seed: u64, scripted: &Scripted) -> Self {
        let cluster = Self::without_brokers(seed, 1);
        for id in 0..2 {
            let host = cluster.network.host(ip(BROKERS, id));
            scripted.start(&cluster.network, &host, i64::from(id), cluster.name_servers[0].address());
        }
        cluster
    }

    fn without_brokers(seed: u64, name_servers: u8) -> Self {
        let network = Network::seeded(seed);
        let mut cluster = Self { network, name_servers: Vec::new(), brokers: Vec::new() };
        cluster.name_servers = (0..name_servers).map(|number| cluster.name_server(number)).collect();
        cluster
    }

    /// Starts an empty name server.
    pub fn name_server(&self, number: u8) -> NameServer {
        let host = self.name_server_host(number);
        let listen = SocketAddr::new(host.ip(), 9876);
        let options = NameServerOptions { listen, ..NameServerOptions::default() };
        NameServer::start(&host, Arc::new(host.clone()), options).expect("the port is free")
    }

    fn name_server_addresses(&self) -> Vec<SocketAddr> {
        self.name_servers.iter().map(NameServer::address).collect()
    }

    /// Runs the network until the future is ready, for at most ten seconds.
    pub fn wait<F: Future>(&self, future: F) -> F::Output {
        self.wait_for(second(10), future)
    }

    /// Runs the network until the future is ready.
    pub fn wait_for<F: Future>(&self, limit: Duration, future: F) -> F::Output {
        self.network.block_on(future, limit).expect("ready in time")
    }

    pub fn client_ip(&self, number: u8) -> IpAddr {
        ip(CLIENTS, number)
    }

    pub fn client_host(&self, number: u8) -> Host {
        self.network.host(ip(CLIENTS, number))
    }

    pub fn broker_host(&self, number: u8) -> Host {
        self.network.host(ip(BROKERS, number))
    }

    pub fn name_server_host(&self, number: u8) -> Host {
        self.network.host(ip(NAME_SERVERS, number))
    }

    pub fn client(&self, number: u8) -> Client {
        self.client_with(number, |_| {})
    }

    pub fn client_with(&self, number: u8, change: impl FnOnce(&mut ClientOptions)) -> Client {
        let host = self.client_host(number);
        let mut options = ClientOptions::new(self.name_server_addresses());
        change(&mut options);
        Client::new(Arc::new(host.clone()), Arc::new(host), options)
    }

    pub fn producer(&self, number: u8, options: ProducerOptions) -> Producer {
        Producer::new(&self.client(number), group("producers"), options)
    }

    pub fn push(
        &self,
        number: u8,
        name: &str,
        options: PushConsumerOptions,
        subscriptions: &[(&str, &str)],
        listener: Arc<dyn Listener>,
    ) -> PushConsumer {
        let client = self.client(number);
        let starting =
            PushConsumer::start(&client, group(name), options, subscriptions.iter().copied(), listener);
        self.wait_for(second(30), starting).expect("names and expressions are right")
    }

    /// Creates a topic with four queues at every broker.
    pub fn create_topic(&self, topic: &str) {
        let header = CreateTopicRequest {
            topic: topic.to_owned(),
            default_topic: Some("TBW102".to_owned()),
            read_queues: 4,
            write_queues: 4,
            permission: 6,
            filter_type: None,
            sys_flag: 0,
            order: false,
            attributes: None,
        };
        let host = self.network.host(ip(CLIENTS, 200));
        for broker in &self.brokers {
            let connection = self.wait(host.connect(broker.address(), Arc::new(Silent))).expect("a broker");
            let request = header.on(Command::request(code::UPDATE_AND_CREATE_TOPIC));
            let answer = self.wait(connection.call(request, second(5))).expect("an answer");
            assert_eq!(answer.code, 0, "{:?}", answer.remark);
        }
    }

    /// The bodies of all messages in a topic's queues.
    pub fn stored(&self, topic: &str) -> BTreeSet<String> {
        let mut bodies = BTreeSet::new();
        for broker in &self.brokers {
            for id in 0..16 {
                let Some(queue) = broker.store().queue(topic, QueueId(id)) else { continue };
                let entries = queue.entries(QueueOffset(0), 10_000).expect("readable entries");
                for entry in entries {
                    let record = broker.store().record(entry.physical).expect("a readable record");
                    bodies.insert(String::from_utf8_lossy(&record.body()).into_owned());
                }
            }
        }
        bodies
    }

    /// How many requests with this code a client sent since the log was cleared.
    pub fn requests(&self, client: u8, code: i32) -> usize {
        self.sent_requests(client).into_iter().filter(|sent| *sent == code).count()
    }

    /// The codes of all requests a client sent since the log was cleared.
    pub fn sent_requests(&self, client: u8) -> Vec<i32> {
        let from = ip(CLIENTS, client);
        let log = self.network.log().into_iter().filter(|entry| entry.host.ip() == from);
        log.filter_map(|entry| entry.event.sent_request()).collect()
    }
}
