//! One name server, one broker on a simulated disk, and bare clients, on one thread in virtual
//! time.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use staticfire::broker::{Broker, BrokerOptions};
use staticfire::name_server::{NameServer, NameServerOptions};
use staticfire::protocol::codes::request;
use staticfire::protocol::headers::SendRequest;
use staticfire::storage::disk::SimulatedDisk;
use staticfire::storage::{Clock, Durability, StoreOptions};
use staticfire::transport::memory::{EventSource, Host, Network};
use staticfire::transport::{Call, CallError, Command, Connection, Monotonic, Runtime, Service, Transport};

const NAME_SERVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 9));
const BROKER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

/// More virtual time than anything here takes.
pub const LONG: Duration = Duration::from_secs(120);

#[derive(Debug)]
struct HostClock(Host);

impl Clock for HostClock {
    fn wall_ms(&self) -> i64 {
        self.0.wall_ms()
    }
}

/// Completes the disk's syncs when they are due.
struct Pump(SimulatedDisk);

impl EventSource for Pump {
    fn next_due(&self) -> Option<Monotonic> {
        self.0.next_due().map(|us| Monotonic::new(Duration::from_micros(us)))
    }

    fn run_due(&self, now: Monotonic) {
        self.0.run_due(u64::try_from(now.since_start().as_micros()).unwrap());
    }
}

pub struct World {
    pub network: Network,
    pub disk: SimulatedDisk,
    pub broker_host: Host,
    pub broker: Option<Broker>,
    pub options: BrokerOptions,
    pub durability: Durability,
    name_server: Option<NameServer>,
    clients: u8,
}

impl World {
    /// Everything started, with the default settings.
    pub fn new(seed: u64) -> Self {
        Self::with(seed, |_| {})
    }

    pub fn with(seed: u64, change: impl FnOnce(&mut BrokerOptions)) -> Self {
        println!("seed {seed}");
        let network = Network::seeded(seed);
        let disk = SimulatedDisk::new(seed);
        network.add_source(Arc::new(Pump(disk.clone())));
        let name_server = name_server(&network);
        let mut options = BrokerOptions {
            listen: (BROKER, 10911).into(),
            name_servers: vec![name_server.address().into()],
            ..BrokerOptions::default()
        };
        change(&mut options);
        let broker_host = network.host(BROKER);
        let durability = Durability::Flushed;
        let mut world = Self {
            network,
            disk,
            broker_host,
            broker: None,
            options,
            durability,
            name_server: Some(name_server),
            clients: 0,
        };
        world.start();
        world
    }

    pub fn start(&mut self) {
        self.broker_host = self.network.host(BROKER);
        let host = self.broker_host.clone();
        let clock = Arc::new(HostClock(host.clone()));
        let mut store = StoreOptions::on(self.disk.directory(), clock);
        store.durability = self.durability;
        let starting = Broker::start(Arc::new(host.clone()), Arc::new(host), self.options.clone(), store);
        let started = self.network.block_on(starting, LONG).expect("in time");
        self.broker = Some(started.unwrap());
    }

    /// Clean shutdown, then a start on what the disk holds.
    pub fn restart(&mut self) {
        let stopping = self.broker.take().unwrap().stop();
        self.network.block_on(stopping, LONG).expect("in time").unwrap();
        self.start();
    }

    /// The process dies; what the system had stays.
    pub fn kill(&mut self) {
        self.disk = self.disk.kill();
        self.network.add_source(Arc::new(Pump(self.disk.clone())));
        self.broker_host.kill();
        drop(self.broker.take());
        self.start();
    }

    /// The name server dies and starts again, knowing nothing.
    pub fn restart_name_server(&mut self) {
        self.network.host(NAME_SERVER).kill();
        drop(self.name_server.take());
        self.name_server = Some(name_server(&self.network));
    }

    pub fn broker(&self) -> &Broker {
        self.broker.as_ref().unwrap()
    }

    pub fn client(&mut self) -> Client {
        let to = self.broker().address();
        self.client_of(to)
    }

    pub fn client_of(&mut self, to: SocketAddr) -> Client {
        self.clients += 1;
        let host = self.network.host(IpAddr::from([10, 0, 1, self.clients]));
        let inbox = Arc::new(Inbox::default());
        let connecting = host.connect(to, Arc::clone(&inbox) as Arc<dyn Service>);
        let connection = self.network.block_on(connecting, LONG).expect("in time").unwrap();
        Client { network: self.network.clone(), connection, inbox, _host: host }
    }

    pub fn name_server(&mut self) -> Client {
        self.client_of((NAME_SERVER, 9876).into())
    }
}

fn name_server(network: &Network) -> NameServer {
    let host = network.host(NAME_SERVER);
    let options = NameServerOptions { listen: (NAME_SERVER, 9876).into(), ..NameServerOptions::default() };
    NameServer::start(&host, Arc::new(host.clone()), options).unwrap()
}

/// What a broker says of its own accord.
#[derive(Default)]
struct Inbox(Mutex<VecDeque<Command>>);

impl Service for Inbox {
    fn turn(&self, _connection: &Connection, requests: &mut Vec<Command>) {
        self.0.lock().unwrap().extend(requests.drain(..));
    }
}

pub struct Client {
    network: Network,
    pub connection: Connection,
    inbox: Arc<Inbox>,
    _host: Host,
}

impl Client {
    /// Asks and waits.
    pub fn ask(&self, request: Command) -> Command {
        let call = self.start(request);
        self.wait(call)
    }

    /// Asks; the answer is awaited later.
    pub fn start(&self, request: Command) -> Call {
        self.connection.call(request, LONG)
    }

    pub fn wait(&self, call: Call) -> Command {
        self.try_wait(call).unwrap()
    }

    pub fn try_wait(&self, call: Call) -> Result<Command, CallError> {
        self.network.block_on(call, LONG).expect("in time")
    }

    /// The answer, if it is there after `time`.
    pub fn poll(&self, call: &mut Call, time: Duration) -> Option<Command> {
        self.network.block_on(call, time).map(Result::unwrap)
    }

    pub fn tell(&self, request: Command) {
        self.connection.send(request).unwrap();
    }

    pub fn run(&self, time: Duration) {
        self.network.run_for(time);
    }

    /// Codes of what the broker said since the last call.
    pub fn heard(&self) -> Vec<i32> {
        self.network.run_for(Duration::from_millis(50));
        self.inbox.0.lock().unwrap().drain(..).map(|command| command.code).collect()
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
