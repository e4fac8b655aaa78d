//! Whole clusters under random plans of faults: safety while they last, progress afterwards.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use staticfire::broker::Broker;
use staticfire::client::{PushConsumer, PushConsumerOptions, StartFrom};
use staticfire::protocol::codes::{request, response};
use staticfire::reached;
use staticfire::replication::Mode;
use staticfire::sim::{
    Cluster, FaultKind, Ledger, Node, Outcome, Plan, Progress, Running, Violation, cases, reached, requests,
};
use staticfire::storage::Durability;
use staticfire::transport::Command;

const TOPIC: &str = "orders";
/// Messages that are sent all at once where there are too many.
const FLOOD: u32 = 1000;
/// Seeds of a run, unless `STATICFIRE_SEEDS` says otherwise.
const SEEDS: u64 = 48;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What a seed runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// Two brokers that know nothing of each other.
    Alone(Durability),
    /// A group of so many that elects.
    Electing(u8),
    /// A master with two slaves, and what OK means.
    Copying(&'static str),
}

impl Shape {
    fn of(seed: u64) -> Self {
        match seed % 8 {
            0 => Self::Alone(Durability::Flushed),
            1 => Self::Alone(Durability::Written),
            2 => Self::Electing(5),
            3 if (seed / 8).is_multiple_of(2) => Self::Copying("replicated 1 flushed"),
            3 => Self::Copying("flushed"),
            _ => Self::Electing(3),
        }
    }

    /// A commit that was acknowledged survives: only a group writes it down before it says so.
    fn keeps_offsets(self) -> bool {
        !matches!(self, Self::Alone(_))
    }

    fn cluster(self, seed: u64) -> Cluster {
        let cluster = Cluster::seeded(seed).name_servers(2);
        match self {
            Self::Alone(durability) => cluster.brokers(2).durability(durability),
            Self::Electing(members) => cluster.members(members).electing(),
            Self::Copying(mode) => cluster.members(3).copying(mode.parse::<Mode>().expect("a mode")),
        }
    }
}

/// The clients of a run.
struct Clients {
    ledger: Ledger,
    progress: Progress,
    consumer: PushConsumer,
}

impl Clients {
    /// Two producers, a consumer, and somebody who commits offsets; more than the cluster can take now
    /// and then.
    fn start(cluster: &Running, shape: Shape, seed: u64) -> Self {
        let (ledger, progress) = (Ledger::of(TOPIC), Progress::of("watchers", TOPIC));
        let options = PushConsumerOptions { start: StartFrom::Earliest, ..PushConsumerOptions::default() };
        let subscriptions = [(TOPIC, "*")];
        let consumer =
            cluster.push_consumer(3, "readers", options, &subscriptions, ledger.listener("reader"));
        for number in [1, 2] {
            let (node, pause) = (Node::Client(number), ms(40));
            let sending = ledger.clone().keep_sending(cluster.producer(number), cluster.host(node), pause);
            cluster.spawn(node, sending);
        }
        if seed % 5 == 4 {
            // More than the cluster can take, and a consumer that stands still all the while.
            reached!("overload");
            cluster.host(Node::Client(3)).pause();
            let producer = cluster.producer(6);
            for _ in 0..FLOOD {
                let (ledger, producer) = (ledger.clone(), producer.clone());
                cluster.spawn(Node::Client(6), async move { drop(ledger.send(&producer).await) });
            }
        }
        if shape.keeps_offsets() {
            let watching =
                progress.clone().keep_committing(cluster.host(Node::Client(4)), cluster.brokers_of(0));
            cluster.spawn(Node::Client(4), watching);
        }
        Self { ledger, progress, consumer }
    }
}

/// One run; how many virtual milliseconds it took.
fn survive(seed: u64) -> u64 {
    let shape = Shape::of(seed);
    let cluster = shape.cluster(seed);
    // Another plan for the same seed, to find out which of its faults matter.
    let plan = match std::env::var("STATICFIRE_PLAN") {
        Ok(plan) => plan.parse().unwrap_or_else(|error| panic!("{error}")),
        Err(_) => Plan::seeded(seed, &cluster),
    };
    let mut cluster = cluster.start();
    cluster.network().keep_log(false);
    cluster.create_topic(TOPIC, 4);
    let clients = Clients::start(&cluster, shape, seed);
    let told = |violation| panic!("{shape:?}: {violation}");
    cluster.run(&plan).unwrap_or_else(told);
    clients.progress.check().unwrap_or_else(|violation| told(cluster.in_context(violation)));
    go_on(&mut cluster, &clients, shape);
    for client in [1, 2, 4, 6] {
        cluster.kill(Node::Client(client));
    }
    cluster.settle().unwrap_or_else(told);
    // What they sent last may still be under way.
    cluster.run_for(ms(10_000));
    woken(&cluster, &clients.ledger);
    cluster.settle().unwrap_or_else(told);
    cluster.check(&clients.ledger).unwrap_or_else(told);
    clients.progress.check().unwrap_or_else(|violation| told(cluster.in_context(violation)));
    if shape != Shape::Alone(Durability::Written) {
        let delivered = |_: &Running| clients.ledger.check_delivered(&["reader"]).is_ok();
        cluster.run_until(ms(120_000), delivered);
        let delivered = clients.ledger.check_delivered(&["reader"]);
        delivered.unwrap_or_else(|violation| told(cluster.in_context(violation)));
    }
    drop(clients.consumer);
    cluster.now().since_start().as_millis() as u64
}

fn shape_status(cluster: &Running) -> String {
    let nodes = cluster.cluster().nodes().into_iter().filter_map(|node| Some((node, cluster.broker(node)?)));
    let status = |(node, broker): (Node, &Broker)| {
        format!("{node}: {:?} {:?}", broker.group_status(), broker.store().failure())
    };
    nodes.map(status).collect::<Vec<_>>().join("\n")
}

/// A pull waits at the end of a queue, and is woken by the next message long before its time is over.
/// proves: I70
fn woken(cluster: &Running, ledger: &Ledger) {
    let leader = cluster.leader(0);
    let peer = cluster.peer(5, leader.address()).expect("it listens");
    let end = || Command::request(request::GET_MAX_OFFSET).with_ext("topic", TOPIC).with_ext("queueId", 0);
    let end = peer.ask(end()).ext.get("offset").and_then(|end| end.parse().ok()).expect("it has an end");
    let mut pull = peer.start(requests::pull(TOPIC, end, 20_000));
    let early = peer.poll(&mut pull, ms(1_000));
    assert!(early.is_none(), "there is nothing yet at {end}: {early:?}");
    let (number, body) = ledger.begin();
    let sent = peer.ask(requests::send(TOPIC, 0, body));
    assert_eq!(sent.code, response::SUCCESS, "{sent:?}");
    ledger.settle(number, Outcome::Unknown);
    let found = peer.poll(&mut pull, ms(1_000)).expect("it is woken").expect("it is answered");
    assert_eq!(found.code, response::SUCCESS, "{found:?}");
    peer.connection.close();
}

/// Nothing is wrong any more: messages are taken, offsets move, and a pull that waits is woken.
fn go_on(cluster: &mut Running, clients: &Clients, shape: Shape) {
    cluster.host(Node::Client(3)).resume();
    let before = (clients.ledger.counts().ok, clients.progress.steps());
    let goes_on = |_: &Running| {
        clients.ledger.counts().ok > before.0
            && (clients.progress.steps() > before.1 || !shape.keeps_offsets())
    };
    if !cluster.run_until(ms(40_000), goes_on) {
        let status = (clients.ledger.counts(), clients.progress.steps());
        panic!(
            "{shape:?}: nothing goes on: {before:?} and {status:?}\n{}",
            cluster.in_context(Violation::new("I49", shape_status(cluster)))
        );
    }
}

/// proves: I1, I2, I3, I4, I5, I13, I14, I15, I22, I25, I28, I29, I30, I31, I33, I34, I35, I36, I38, I40,
/// I42, I48, I49, I50, I51, I54, I55, I58, I60, I61, I62, I64, I65, I70, M36, M37; F1, F2, F3, F4, F5, F6, F7, F8,
/// F10, F11, F12, F13, F18, F20, F21, F22, F23, F24, F25, F26, F27, F28, F29, F30, F31, F32, F33, F35
#[test]
#[allow(clippy::disallowed_methods, reason = "says how much faster than real time it was")]
fn what_was_acknowledged_survives_any_plan() {
    let seeds = std::env::var("STATICFIRE_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    let (begun, lived) = (Instant::now(), AtomicU64::new(0));
    cases(seeds.unwrap_or(SEEDS), |seed| {
        lived.fetch_add(survive(seed), Ordering::Relaxed);
    });
    let reached = reached::report();
    println!("{} virtual seconds in {:?}\n{reached}", lived.into_inner() / 1000, begun.elapsed());
    if std::env::var_os("STATICFIRE_SEED").is_some() {
        return;
    }
    for kind in FaultKind::ALL {
        assert!(reached.count(kind.name()) > 0, "{kind:?} never happened:\n{reached}");
    }
}
