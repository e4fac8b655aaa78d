//! One name server, one broker and bare clients, in a simulated cluster.

use std::ops::Deref;
use std::time::Duration;

use staticfire::broker::{Broker, BrokerOptions};
use staticfire::protocol::codes::request;
use staticfire::protocol::headers::SendRequest;
use staticfire::sim::{Cluster, Node, Peer, Running};
use staticfire::storage::disk::SimulatedDisk;
use staticfire::transport::memory::Network;
use staticfire::transport::{Call, CallError, Command};

const BROKER: Node = Node::master(0);
const NAME_SERVER: Node = Node::NameServer(0);

pub struct World {
    pub cluster: Running,
    clients: u8,
}

impl World {
    /// Everything started, with the default settings.
    pub fn new(seed: u64) -> Self {
        Self::with(seed, |_| {})
    }

    /// `change` is asked at each start of the broker.
    pub fn with(seed: u64, change: impl Fn(&mut BrokerOptions) + Send + Sync + 'static) -> Self {
        println!("seed {seed}");
        let cluster = Cluster::seeded(seed).broker_options(move |_, options| {
            options.name = "broker-a".into();
            change(options);
        });
        Self { cluster: cluster.start(), clients: 0 }
    }

    /// Clean shutdown, then a start on what the disk holds.
    pub fn restart(&mut self) {
        self.stop();
        self.cluster.restart(BROKER);
    }

    pub fn stop(&mut self) {
        self.cluster.stop(BROKER).unwrap();
    }

    /// The process dies, what the system had stays, and it starts again.
    pub fn kill(&mut self) {
        self.cluster.restart(BROKER);
    }

    /// The name server dies and starts again, knowing nothing.
    pub fn restart_name_server(&mut self) {
        self.cluster.restart(NAME_SERVER);
    }

    pub fn broker(&self) -> &Broker {
        self.cluster.broker(BROKER).unwrap()
    }

    pub fn disk(&self) -> SimulatedDisk {
        self.cluster.disk(BROKER)
    }

    pub fn client(&mut self) -> Client {
        self.client_of(BROKER)
    }

    pub fn name_server(&mut self) -> Client {
        self.client_of(NAME_SERVER)
    }

    fn client_of(&mut self, node: Node) -> Client {
        self.clients += 1;
        let peer = self.cluster.peer(self.clients, node.address()).unwrap();
        Client { peer, network: self.cluster.network().clone() }
    }
}

/// A connection of a host of its own.
pub struct Client {
    peer: Peer,
    network: Network,
}

impl Deref for Client {
    type Target = Peer;

    fn deref(&self) -> &Peer {
        &self.peer
    }
}

impl Client {
    pub fn wait(&self, call: Call) -> Command {
        self.try_wait(call).unwrap()
    }

    pub fn try_wait(&self, call: Call) -> Result<Command, CallError> {
        self.peer.wait(call)
    }

    /// The answer, if it is there after `time`.
    pub fn poll(&self, call: &mut Call, time: Duration) -> Option<Command> {
        self.peer.poll(call, time).map(Result::unwrap)
    }

    pub fn run(&self, time: Duration) {
        self.network.run_for(time);
    }

    /// Codes of what the broker said since the last call.
    pub fn heard(&self) -> Vec<i32> {
        self.run(Duration::from_millis(50));
        self.peer.heard().into_iter().map(|command| command.code).collect()
    }
}

/// A send of `body` to queue `queue` of `topic`.
pub fn send(topic: &str, queue: i32, body: &str) -> Command {
    send_with(topic, queue, body.to_owned(), "", |_| {})
}

pub fn send_with(
    topic: &str,
    queue: i32,
    body: impl Into<staticfire::transport::Body>,
    properties: &str,
    change: impl FnOnce(&mut SendRequest<'_>),
) -> Command {
    let mut head = SendRequest {
        producer_group: "P",
        topic,
        default_topic: "TBW102",
        default_topic_queues: 4,
        queue_id: queue,
        sys_flag: 0,
        born_ms: 1000,
        flag: 0,
        properties,
        reconsume_times: 0,
        unit_mode: false,
        reconsume_times_max: None,
        batch: false,
        broker_name: None,
    };
    change(&mut head);
    let mut command = Command::request(request::SEND_MESSAGE_V2).with_body(body);
    head.write(request::SEND_MESSAGE_V2, &mut command.ext);
    command
}

/// A pull with the subscription in it; `suspend` in seconds, 0 for none.
pub fn pull(topic: &str, queue: i32, offset: i64, tags: &str, suspend: u64) -> Command {
    Command::request(request::PULL_MESSAGE)
        .with_ext("consumerGroup", "C")
        .with_ext("topic", topic)
        .with_ext("queueId", queue)
        .with_ext("queueOffset", offset)
        .with_ext("maxMsgNums", 32)
        .with_ext("sysFlag", if suspend > 0 { 6 } else { 4 })
        .with_ext("commitOffset", 0)
        .with_ext("suspendTimeoutMillis", suspend * 1000)
        .with_ext("subscription", tags)
        .with_ext("subVersion", 0)
}

/// A number in the header of an answer.
pub fn number(answer: &Command, field: &str) -> i64 {
    answer.ext.get(field).unwrap_or_else(|| panic!("no {field} in {answer:?}")).parse().unwrap()
}
