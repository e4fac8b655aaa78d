//! A broker group of real processes on loopback, whose leader is killed under load.
#![cfg(all(unix, feature = "cli"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use staticfire::client::{
    Client, ClientOptions, Message, Producer, ProducerOptions, PullConsumer, PullConsumerOptions, PullStatus,
    SendStatus,
};
use staticfire::protocol::names::GroupName;
use staticfire::transport::tcp::{Tcp, TcpOptions};
use staticfire::transport::{self, Connection, Monotonic, Runtime, Service, Transport};

const BIN: &str = env!("CARGO_BIN_EXE_staticfire");
const TOPIC: &str = "orders";
/// Messages on their way at a time.
const SENDERS: usize = 16;

/// A server that announced itself. Killed when dropped, which no process can prevent.
struct Server {
    child: Child,
    line: Value,
    _stdout: BufReader<ChildStdout>,
}

impl Server {
    fn start(arguments: &[String]) -> Self {
        let mut command = Command::new(BIN);
        command.args(arguments).arg("--json").stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let line = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
        Self { child, line, _stdout: stdout }
    }

    /// Asks it to end, and waits for that.
    fn stop(mut self) -> Option<i32> {
        let kill = format!("kill -TERM {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Nobody;

impl Service for Nobody {
    fn turn(&self, _: &Connection, requests: &mut Vec<transport::Command>) {
        requests.clear();
    }
}

/// Three nodes that elect, and two name servers.
struct Group<'a> {
    data: &'a Path,
    peers: Vec<String>,
    name_servers: Vec<Server>,
    nodes: Vec<Option<Server>>,
}

impl<'a> Group<'a> {
    fn start(tcp: &Tcp, data: &'a Path) -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listeners: Vec<_> = (0..3).map(|_| tcp.listen(any, Arc::new(Nobody)).unwrap()).collect();
        let peer = |(number, at): (usize, &transport::Listener)| format!("{}={}", number + 1, at.address());
        let peers = listeners.iter().enumerate().map(peer).collect();
        drop(listeners);
        let server = |_| Server::start(&["name-server", "--listen", "127.0.0.1:0"].map(str::to_owned));
        let mut group =
            Self { data, peers, name_servers: (0..2).map(server).collect(), nodes: vec![None, None, None] };
        (0..3).for_each(|index| group.boot(index));
        group
    }

    fn boot(&mut self, index: usize) {
        let number = (index + 1).to_string();
        let data = self.data.join(&number).display().to_string();
        let peers = self.peers.join(",");
        let name_servers = self.name_server_addresses().join(",");
        let arguments = [
            "broker",
            "--failover",
            "raft",
            "--node",
            &number,
            "--peer",
            &peers,
            "--data",
            &data,
            "--listen",
            "127.0.0.1:0",
            "--segment-bytes",
            "8388608",
            "--name-server",
            &name_servers,
        ];
        self.nodes[index] = Some(Server::start(&arguments.map(str::to_owned)));
    }

    fn name_server_addresses(&self) -> Vec<String> {
        self.name_servers
            .iter()
            .map(|server| server.line["name_server"].as_str().unwrap().to_owned())
            .collect()
    }

    fn client(&self, tcp: &Tcp) -> Client {
        let addresses: Vec<SocketAddr> =
            self.name_server_addresses().iter().map(|address| address.parse().unwrap()).collect();
        Client::new(Arc::new(tcp.clone()), Arc::new(tcp.clone()), ClientOptions::new(addresses))
    }

    fn admin(&self, what: &str) -> Value {
        let nodes: Vec<_> =
            self.nodes.iter().flatten().map(|node| node.line["broker"].as_str().unwrap()).collect();
        let nodes = nodes.join(",");
        let answer = Command::new(BIN).args(["admin", what, "--json", "--broker", &nodes]).output();
        serde_json::from_slice(&answer.unwrap().stdout).unwrap()
    }

    /// Whom its nodes take for the leader that serves.
    fn leader(&self, tcp: &Tcp) -> usize {
        for _ in 0..200 {
            let status = self.admin("status");
            let serves = |node: &&Value| node["serves"] == true;
            if let Some(leader) = status["nodes"].as_array().unwrap().iter().find(serves) {
                return usize::try_from(leader["node"].as_u64().unwrap()).unwrap() - 1;
            }
            tcp.block_on(tcp.sleep(Duration::from_millis(50)));
        }
        panic!("nobody leads after 10 s");
    }
}

/// What was acknowledged, and when that happened last.
#[derive(Default)]
struct Acknowledged {
    bodies: Mutex<BTreeSet<String>>,
    failed: AtomicUsize,
    last: Mutex<Monotonic>,
    /// The longest time without an acknowledgement since it was last asked for.
    silence: Mutex<Duration>,
    stop: AtomicBool,
}

impl Acknowledged {
    fn note(&self, body: String, now: Monotonic) {
        self.bodies.lock().unwrap().insert(body);
        let last = std::mem::replace(&mut *self.last.lock().unwrap(), now);
        let mut silence = self.silence.lock().unwrap();
        *silence = (*silence).max(now.since(last));
    }

    fn count(&self) -> usize {
        self.bodies.lock().unwrap().len()
    }
}

async fn keep_sending(sender: usize, producer: Producer, tcp: Tcp, acknowledged: Arc<Acknowledged>) {
    for number in 0.. {
        if acknowledged.stop.load(Ordering::Relaxed) {
            return;
        }
        let body = format!("{sender}-{number}");
        match producer.send(Message::new(TOPIC, body.clone()).unwrap()).await {
            Ok(sent) if sent.status == SendStatus::Ok => acknowledged.note(body, tcp.now()),
            _ => drop(acknowledged.failed.fetch_add(1, Ordering::Relaxed)),
        }
        // A dead leader refuses at once; nobody is hurried by that.
        tcp.sleep(Duration::from_millis(1)).await;
    }
}

/// All bodies of the topic.
fn read_back(tcp: &Tcp, client: &Client) -> BTreeSet<String> {
    let group = GroupName::new("readers").unwrap();
    let consumer = PullConsumer::new(client, group, PullConsumerOptions::default()).unwrap();
    let mut bodies = BTreeSet::new();
    for queue in tcp.block_on(consumer.queues(TOPIC)).unwrap() {
        let mut at = 0;
        loop {
            let pulled = tcp.block_on(consumer.pull(&queue, at, 32, Duration::ZERO)).unwrap();
            let body = |message: &staticfire::client::ReceivedMessage| {
                String::from_utf8(message.body().to_vec()).unwrap()
            };
            bodies.extend(pulled.messages.iter().map(body));
            if pulled.status == PullStatus::NoNewMessage {
                break;
            }
            at = pulled.next_offset;
        }
    }
    bodies
}

/// `kill -9` of one leader after the other: every acknowledged message is there, and the producer goes on.
/// proves: M36, M37, M41, I1 on real processes, files and sockets
#[test]
fn killed_leaders_take_no_acknowledged_message_with_them() {
    let kills = 2 * std::env::var("STATICFIRE_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let (tcp, folder) = (Tcp::start(TcpOptions::default()).unwrap(), tempfile::tempdir().unwrap());
    let mut group = Group::start(&tcp, folder.path());
    group.leader(&tcp);
    let (client, acknowledged) = (group.client(&tcp), Arc::new(Acknowledged::default()));
    let name = GroupName::new("writers").unwrap();
    let producer = Producer::new(&client, name, ProducerOptions::default());
    for sender in 0..SENDERS {
        let sending = keep_sending(sender, producer.clone(), tcp.clone(), Arc::clone(&acknowledged));
        tcp.spawn(Box::pin(sending));
    }
    let more_than = |count: usize| {
        let until = tcp.now() + Duration::from_secs(20);
        while acknowledged.count() <= count {
            assert!(tcp.now() < until, "nothing more is acknowledged after {count}");
            tcp.block_on(tcp.sleep(Duration::from_millis(20)));
        }
    };
    more_than(500);
    let old = group.leader(&tcp);
    *acknowledged.silence.lock().unwrap() = Duration::ZERO;
    let line = group.admin("transfer");
    assert_eq!(line["from"], old + 1);
    more_than(acknowledged.count() + 100);
    let silence = *acknowledged.silence.lock().unwrap();
    assert_eq!(acknowledged.failed.load(Ordering::Relaxed), 0, "a planned transfer fails no send");
    println!("transfer in {} ms, no acknowledgement for {silence:?}", line["ms"]);
    for kill in 0..kills {
        let leader = group.leader(&tcp);
        *acknowledged.silence.lock().unwrap() = Duration::ZERO;
        group.nodes[leader] = None;
        more_than(acknowledged.count() + 500);
        let silence = *acknowledged.silence.lock().unwrap();
        println!("kill {kill} of node {}: no acknowledgement for {silence:?}", leader + 1);
        group.boot(leader);
    }
    acknowledged.stop.store(true, Ordering::Relaxed);
    tcp.block_on(tcp.sleep(Duration::from_millis(300)));
    let (stored, wanted) = (read_back(&tcp, &client), acknowledged.bodies.lock().unwrap());
    let lost: Vec<_> = wanted.difference(&stored).take(10).collect();
    let failed = acknowledged.failed.load(Ordering::Relaxed);
    println!("{} acknowledged, {failed} sends failed, {} read back", wanted.len(), stored.len());
    assert!(lost.is_empty(), "acknowledged and gone: {lost:?}");

    // Asked to stop, a leader hands over first; the others are asked afterwards.
    let leader = group.leader(&tcp);
    let stopped = group.nodes[leader].take().unwrap().stop();
    assert_eq!(stopped, Some(0));
    assert_ne!(group.leader(&tcp), leader);
}
