//! A hostile world of real processes: three nodes that elect, under load, and one fault after the other.
//!
//! ```text
//! cargo test --test processes -- --ignored --nocapture hostile
//! ```
//! A cycle is one fault, drawn from the seed; `STATICFIRE_HOSTILE_CYCLES` of them (20) from
//! `STATICFIRE_HOSTILE_SEED` (drawn). As root in network namespaces, else on loopback and without full disks
//! ([`Network`]). What cannot be done here is said with `SKIPPED`, and fails where `CI` is set.
//!
//! In the end everything acknowledged must be where its receipt says, once, in the order of its queue
//! ([`Ledger`]); the consumer's offsets never behind its last acknowledged commit, nor ahead of the log; all
//! three stores sound, and equal byte for byte as far as they are confirmed. After each fault the group must
//! acknowledge again.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use staticfire::client::{
    Client, Producer, ProducerOptions, PullConsumer, PullConsumerOptions, ReceivedMessage,
};
use staticfire::protocol::body::MessageQueue;
use staticfire::protocol::names::GroupName;
use staticfire::sim::{Found, Ledger, Place, Promise};
use staticfire::storage::PhysicalOffset;
use staticfire::transport::tcp::{Tcp, TcpOptions};
use staticfire::transport::{Monotonic, Runtime};

use super::group::{Group, NODES};
use super::load::{TOPIC, read_back};
use super::network::Network;
use super::relay::splitmix;
use super::server::{command, run};

/// Set for the process that is in namespaces of its own.
const INSIDE: &str = "STATICFIRE_HOSTILE_INSIDE";
/// Whatever was done to it, a group acknowledges again after this time.
const RECOVERY: Duration = Duration::from_secs(30);
const SENDERS: usize = 4;
/// Between two messages of a sender.
const PAUSE: Duration = Duration::from_millis(3);

/// What is done to a node for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// `kill -9`, and a new process.
    Kill,
    /// SIGSTOP, for longer than anybody waits for a leader, and SIGCONT.
    Pause,
    /// Nothing that it sends reaches one other node.
    CutOneWay,
    /// Nothing that it sends reaches anybody; it still hears.
    Mute,
    /// What it sends arrives late.
    Delay,
    /// Of what it sends, much is lost.
    Loss,
    /// Its disk is full.
    FullDisk,
}

const FAULTS: [Fault; 7] =
    [Fault::Kill, Fault::Pause, Fault::CutOneWay, Fault::Mute, Fault::Delay, Fault::Loss, Fault::FullDisk];

/// Says what is not shown here. Where everything must be, that is a failure.
fn skipped(why: &str) {
    println!("SKIPPED ({why})");
    assert!(std::env::var_os("CI").is_none(), "nothing is skipped in CI: {why}");
}

fn setting(name: &str) -> Option<u64> {
    Some(std::env::var(format!("STATICFIRE_HOSTILE_{name}")).ok()?.parse().expect("a number"))
}

/// proves: M36, M37, I1, I14, I35, I42, I51, I54, I64 on real processes, sockets and disks (F20–F25)
#[test]
#[ignore = "minutes; a step of its own in .ci/run"]
fn hostile_world_takes_nothing_acknowledged() {
    let tcp = Tcp::start(TcpOptions::default()).unwrap();
    let inside = std::env::var_os(INSIDE).is_some();
    if !inside && rustix::process::getuid().is_root() {
        let unshare = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
        if run("unshare", &[&unshare[..], &["ip", "link", "show"]].concat()).is_ok() {
            // Whatever is made in there is gone with the process, however that ends.
            let this = std::env::current_exe().unwrap();
            let mut again = Command::new("unshare");
            again.args(unshare).arg(this).args(["--ignored", "--nocapture", "hostile_world"]);
            assert!(again.env(INSIDE, "1").status().unwrap().success(), "see above");
            return;
        }
    }
    if !inside {
        skipped("network namespaces and full disks: they need root, unshare and ip");
    }
    let folder = tempfile::tempdir().unwrap();
    let (network, sites) = Network::make(&tcp, inside, folder.path());
    let seed = setting("SEED").unwrap_or_else(|| tcp.random());
    println!("STATICFIRE_HOSTILE_SEED={seed}; {}", network.words());
    let group = Group::start(sites, &network.name_servers_at());
    let mut world = World::new(tcp, network, group, seed);
    for cycle in 0..setting("CYCLES").unwrap_or(20) {
        world.cycle(cycle, inside);
    }
    world.examine(folder.path());
}

struct World {
    tcp: Tcp,
    network: Network,
    group: Group,
    client: Client,
    ledger: Ledger,
    commits: Arc<Commits>,
    draws: u64,
    /// How often each fault was met.
    met: BTreeMap<String, usize>,
}

impl World {
    fn new(tcp: Tcp, network: Network, group: Group, seed: u64) -> Self {
        group.leader(&tcp);
        let (client, ledger) = (group.client(&tcp), Ledger::of(TOPIC));
        for _ in 0..SENDERS {
            // Nothing is tried twice, so that nothing may be there twice.
            let options = ProducerOptions { retries: 0, ..ProducerOptions::default() };
            let producer = Producer::new(&client, GroupName::new("writers").unwrap(), options);
            tcp.spawn(Box::pin(ledger.clone().keep_sending(producer, tcp.clone(), PAUSE)));
        }
        let commits = Arc::<Commits>::default();
        tcp.spawn(Box::pin(Arc::clone(&commits).keep_consuming(client.clone(), tcp.clone())));
        let world = Self { tcp, network, group, client, ledger, commits, draws: seed, met: BTreeMap::new() };
        world.wait_until("it begins", |world| world.ledger.counts().ok > 100);
        world
    }

    fn draw(&mut self, below: usize) -> usize {
        self.draws = splitmix(self.draws);
        usize::try_from(self.draws >> 33).unwrap() % below
    }

    fn sleep(&self, ms: u64) {
        self.tcp.block_on(self.tcp.sleep(Duration::from_millis(ms)));
    }

    fn wait_until(&self, what: &str, reached: impl Fn(&Self) -> bool) -> Duration {
        let began = self.tcp.now();
        while !reached(self) {
            let waited = self.tcp.now().since(began);
            assert!(waited < RECOVERY, "{what}: not after {waited:?}; {:#?}", self.statuses());
            self.sleep(20);
        }
        self.tcp.now().since(began)
    }

    fn statuses(&self) -> Vec<Option<Value>> {
        (0..NODES).map(|node| self.group.status(node)).collect()
    }

    /// One fault: done, borne for a while, taken back; and then the group goes on.
    fn cycle(&mut self, number: u64, namespaces: bool) {
        let faults = if namespaces { FAULTS.len() } else { FAULTS.len() - 1 };
        let fault = FAULTS[self.draw(faults)];
        let leader = self.group.leader(&self.tcp);
        // Half of what happens happens to the leader.
        let mut node = (leader + self.draw(2) * (1 + self.draw(NODES - 1))) % NODES;
        if fault == Fault::FullDisk {
            node = 0;
        }
        let other = (node + 1 + self.draw(NODES - 1)) % NODES;
        let lasts = 700 + self.draw(2500) as u64;
        let role = if node == leader { "leader" } else { "follower" };
        let before = self.ledger.counts();
        self.begin(fault, node, other);
        self.sleep(lasts);
        let during = self.ledger.counts().ok - before.ok;
        self.end(fault, node, other);
        let mark = self.ledger.counts().ok;
        let healed = self.wait_until("acknowledgements after the fault", |world| {
            world.ledger.counts().ok > mark + 20 && world.group.leader_now().is_some()
        });
        let commits = self.check_commits();
        let unknown = self.ledger.counts().unknown - before.unknown;
        println!(
            "cycle {number}: {fault:?} of node {} ({role}) for {lasts} ms, {during} acknowledged meanwhile; goes on \
             {} ms later, {unknown} of unknown outcome; {commits}",
            node + 1,
            healed.as_millis()
        );
        *self.met.entry(format!("{fault:?} of a {role}")).or_default() += 1;
    }

    fn begin(&mut self, fault: Fault, node: usize, other: usize) {
        match fault {
            Fault::Kill => self.group.kill(node),
            Fault::Pause => self.group.signal(node, Signal::STOP),
            Fault::CutOneWay => self.network.cut(node, other, true),
            Fault::Mute => self.network.mute(node, true),
            Fault::Delay => self.network.set_weather(node, 150, 0),
            Fault::Loss => self.network.set_weather(node, 2, 200),
            Fault::FullDisk => fill(&self.group.sites[node].data),
        }
    }

    fn end(&mut self, fault: Fault, node: usize, other: usize) {
        match fault {
            Fault::Kill => self.group.boot(node),
            Fault::Pause => self.group.signal(node, Signal::CONT),
            Fault::CutOneWay => self.network.cut(node, other, false),
            Fault::Mute => self.network.mute(node, false),
            Fault::Delay | Fault::Loss => self.network.set_weather(node, 0, 0),
            Fault::FullDisk => {
                std::fs::remove_file(self.group.sites[node].data.join(BALLAST)).unwrap();
            }
        }
    }

    /// The group's offsets in the queues hold against what was acknowledged to its consumer.
    fn check_commits(&self) -> String {
        let consumer = consumer(&self.client);
        let acknowledged = self.commits.acknowledged.lock().unwrap().clone();
        let (mut behind, mut total) = (0, 0);
        for (queue, least) in acknowledged {
            let deadline = self.tcp.now() + RECOVERY;
            let found = self.ask(deadline, || consumer.committed(&queue)).unwrap_or(-1);
            let end = self.ask(deadline, || consumer.max_offset(&queue));
            assert!(found >= least, "{queue:?}: committed at {least}, and now at {found}");
            assert!(found <= end, "{queue:?}: committed at {found}, and the queue ends at {end}");
            (behind, total) = (behind + end - found, total + found);
        }
        format!("committed {total}, {behind} before the end")
    }

    /// Asks again until there is an answer.
    fn ask<T, F>(&self, deadline: Monotonic, question: impl Fn() -> F) -> T
    where
        F: Future<Output = Result<T, staticfire::client::ClientError>>,
    {
        loop {
            match self.tcp.block_on(question()) {
                Ok(answer) => return answer,
                Err(error) => assert!(self.tcp.now() < deadline, "{error}"),
            }
            self.sleep(50);
        }
    }

    /// The end: everything is held against everything.
    fn examine(mut self, folder: &Path) {
        self.commits.stop.store(true, Ordering::Relaxed);
        let open = |world: &Self| world.ledger.counts();
        self.client.close();
        self.sleep(4000);
        println!("{:?}; {:?}", open(&self), self.met);
        let settled = |world: &Self| {
            let all: Vec<_> = world.statuses().into_iter().flatten().collect();
            let end = all.first().map(|status| status["end"].clone());
            let is_at_end = |status: &Value| {
                Some(&status["end"]) == end.as_ref() && Some(&status["confirmed"]) == end.as_ref()
            };
            all.len() == NODES && all.iter().all(is_at_end) && world.group.leader_now().is_some()
        };
        self.wait_until("all nodes have everything", settled);
        let client = self.group.client(&self.tcp);
        let found: Vec<Found> = read_back(&self.tcp, &client).iter().map(found).collect();
        self.ledger.check(&found, |_| Promise::Everything).unwrap();
        self.client = client;
        println!("{} messages, each where its receipt says; {}", found.len(), self.check_commits());
        let confirmed = self.group.status(0).unwrap()["confirmed"].as_u64().unwrap();
        for node in self.group.nodes.iter_mut().map(|node| node.take().unwrap()) {
            assert_eq!(node.end(Signal::TERM), Some(0), "a clean end");
        }
        let folders: Vec<_> = (1..=NODES).map(|node| folder.join(node.to_string())).collect();
        for folder in &folders {
            let verified = command(&[]).args(["store", "verify", "--json"]).arg(folder).output().unwrap();
            let report: Value = serde_json::from_slice(&verified.stdout).unwrap();
            assert!(report["sound"] == true && report["closed"] == true, "{report:#}");
        }
        let first = log(&folders[0], confirmed);
        for folder in &folders[1..] {
            let other = log(folder, confirmed);
            let differ = first.iter().zip(&other).position(|(one, two)| one != two);
            assert_eq!((differ, first.len()), (None, other.len()), "{}", folder.display());
        }
        println!("three sound stores, equal in all {confirmed} bytes that are confirmed");
    }
}

fn found(message: &ReceivedMessage) -> Found {
    let place = Place {
        broker: message.broker_name().to_owned(),
        queue: message.queue_id(),
        offset: message.queue_offset(),
    };
    Found { place, physical: PhysicalOffset(0), body: message.body().clone() }
}

/// The first bytes of a log that begins at 0.
fn log(folder: &Path, len: u64) -> Vec<u8> {
    let segments = std::fs::read_dir(folder.join("commitlog")).unwrap();
    let mut segments: Vec<_> = segments.map(|segment| segment.unwrap().path()).collect();
    segments.sort();
    let mut bytes: Vec<u8> = segments.iter().flat_map(|segment| std::fs::read(segment).unwrap()).collect();
    bytes.truncate(usize::try_from(len).unwrap());
    bytes
}

const BALLAST: &str = "ballast";

/// Takes all the room there is.
fn fill(folder: &Path) {
    let into = format!("of={}", folder.join(BALLAST).display());
    run("dd", &["if=/dev/zero", &into, "bs=64k"]).expect_err("it ends when nothing fits any more");
}

fn consumer(client: &Client) -> PullConsumer {
    let group = GroupName::new("followers").unwrap();
    PullConsumer::new(client, group, PullConsumerOptions::default()).unwrap()
}

/// A consumer, and how far brokers acknowledged that it is.
#[derive(Default)]
struct Commits {
    acknowledged: Mutex<BTreeMap<MessageQueue, i64>>,
    stop: AtomicBool,
}

impl Commits {
    async fn keep_consuming(self: Arc<Self>, client: Client, tcp: Tcp) {
        let mut consumer = consumer(&client);
        let mut queues = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            if queues.is_empty() {
                queues = consumer.queues(TOPIC).await.unwrap_or_default();
                if consumer.assign(queues.clone()).await.is_err() {
                    queues.clear();
                }
            }
            let polled = consumer.poll(Duration::from_millis(500)).await;
            let position = |queue: &MessageQueue| Some((queue.clone(), consumer.position(queue)?));
            let positions: Vec<_> = queues.iter().filter_map(position).collect();
            match polled {
                Ok(messages) if messages.is_empty() => {}
                Ok(_) => {
                    if consumer.commit().await.is_ok() {
                        self.acknowledged.lock().unwrap().extend(positions);
                    }
                }
                Err(_) => tcp.sleep(Duration::from_millis(20)).await,
            }
        }
    }
}
