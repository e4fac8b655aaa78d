//! What copying costs: groups of brokers against a broker alone, beside as many plain logs on the same
//! device as there are slaves.
//!
//! ```text
//! cargo bench -p staticfire-benches --bench replication [-- link slave quorum catch-up table]
//! ```
//! Sizes: `STATICFIRE_BENCH_ROUNDS` (31), `STATICFIRE_BENCH_SENDS` (5,000 a round), `STATICFIRE_BENCH_FLUSHED_SENDS`
//! (1,500), `STATICFIRE_BENCH_SINGLES` (60), `STATICFIRE_BENCH_PACED` (1,000 sends, one each ms),
//! `STATICFIRE_BENCH_HISTORY` (200,000 messages to catch up with), `STATICFIRE_BENCH_BODY` (1024 bytes). Many short
//! rounds, because a machine with other work changes its mind several times a second.
//!
//! A link of 20 ms is a relay that keeps what a node sends for 10 ms, each way. How long nobody is acknowledged
//! while a leader hands over or dies is measured with real clients by `tests/processes`.

#![allow(clippy::disallowed_methods, reason = "it stands outside, with files and processes")]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use staticfire::protocol::body::NodeStatus;
use staticfire::protocol::codes::request::GET_NODE_STATUS;
use staticfire_benches::beside::Beside;
use staticfire_benches::load::{Generator, Load};
use staticfire_benches::measure::{Goal, median, now, percentile_us, report, seconds_since, setting};
use staticfire_benches::relay::{Weather, relay};
use staticfire_benches::server::{Kind, Member, Server, serve_if_asked};
use staticfire_transport::tcp::{Tcp, TcpOptions};
use staticfire_transport::{Command, Connection, Runtime, Service, Transport};

/// Each way, in ms.
const LINK: u32 = 10;
/// Bytes of a record besides its body, as `write_throughput` has them.
const RECORD: usize = 173;
/// An open loop's time between two sends.
const EVERY: Duration = Duration::from_millis(1);

fn main() {
    serve_if_asked();
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for the logs");
    let bench = Bench {
        tcp: Tcp::start(TcpOptions::default()).expect("threads"),
        directory: directory.path().to_owned(),
    };
    // Named on the command line, or all.
    let parts: [(&str, Part); 5] = [
        ("link", Bench::behind_a_link),
        ("slave", Bench::one_slave),
        ("quorum", Bench::quorum),
        ("catch-up", Bench::catching_up),
        ("table", Bench::table),
    ];
    let named: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    for (name, part) in parts {
        if named.is_empty() || named.iter().any(|word| word == name) {
            part(&bench);
            // Many brokers have many files.
            std::fs::remove_dir_all(&bench.directory).expect("its own directory");
        }
    }
}

type Part = fn(&Bench);

struct Bench {
    tcp: Tcp,
    directory: PathBuf,
}

/// A broker, alone or the first of its group, and connections to it.
struct Side {
    many: Generator,
    one: Generator,
    /// The others of its group.
    others: Vec<Server>,
    server: Server,
}

impl Side {
    fn of(server: Server, others: Vec<Server>, in_flight: u64) -> Self {
        let body_len = usize::try_from(setting("BODY", 1024)).expect("the length of a body");
        let load = Load { connections: 16, in_flight, body_len };
        let connect = |load| Generator::connect(server.address, load).expect("a server accepts connections");
        let mut many = connect(load);
        // The topic comes to be, and the first pages are written.
        many.closed_loop(500).expect("sends to warm up");
        Self { many, one: connect(Load { connections: 1, ..load }), others, server }
    }

    /// Sends a second, while the plain logs get as much.
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    fn per_second(&mut self, sends: u64, beside: &Beside) -> f64 {
        let each = usize::try_from(setting("BODY", 1024)).expect("a length") + RECORD;
        let answered = |count: u64| beside.add(usize::try_from(count).unwrap_or(0) * each);
        sends as f64 / self.many.closed_loop_beside(sends, answered).expect("pipelined sends")
    }

    /// And the server's CPU seconds.
    fn per_second_and_cpu(&mut self, sends: u64, beside: &Beside) -> (f64, f64) {
        let before = self.server.cpu_seconds();
        let per_second = self.per_second(sends, beside);
        (per_second, self.server.cpu_seconds() - before)
    }

    /// How long after they were due sends were answered, in an open loop.
    fn paced(&mut self) -> Vec<Duration> {
        let count = u32::try_from(setting("PACED", 1_000)).expect("a number of sends");
        self.one.paced(count, EVERY).expect("paced sends")
    }

    fn p50_us(&mut self, beside: &Beside) -> f64 {
        let each = usize::try_from(setting("BODY", 1024)).expect("a length") + RECORD;
        let mut taken =
            self.one.one_by_one_beside(setting("SINGLES", 60), || beside.add(each)).expect("single sends");
        percentile_us(&mut taken, 0.5)
    }
}

impl Bench {
    fn folder(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn beside(&self, count: usize, flushed: bool, name: &str) -> Beside {
        Beside::start(count, flushed, &self.folder(name)).expect("plain logs")
    }

    fn alone(&self, mode: &str, in_flight: u64, name: &str) -> Side {
        let folder = self.folder(name);
        std::fs::create_dir_all(&folder).expect("a directory for the log");
        Side::of(Server::start(Kind::Broker, mode == "flushed", &folder), Vec::new(), in_flight)
    }

    /// A group whose nodes are so far from each other: a master with its slaves, or one that elects.
    fn group(&self, nodes: usize, mode: &'static str, link_ms: u32, in_flight: u64, name: &str) -> Side {
        let (first, others) = self.members(nodes, mode, link_ms, name);
        Side::of(first, others, in_flight)
    }

    fn members(&self, nodes: usize, mode: &'static str, link_ms: u32, name: &str) -> (Server, Vec<Server>) {
        let at = self.free(nodes);
        let weather: Vec<Arc<Weather>> = at.iter().map(|_| Arc::default()).collect();
        weather.iter().for_each(|weather| weather.delay_ms.store(link_ms, Ordering::Relaxed));
        let mut servers: Vec<Server> = (0..nodes)
            .map(|node| {
                let peer = |to: usize| {
                    if to == node || link_ms == 0 {
                        at[to]
                    } else {
                        relay(node, to, at[to], &weather).expect("a relay")
                    }
                };
                let peers = (1..).zip(0..nodes).map(|(number, to)| (number, peer(to))).collect();
                let role = match (mode, node) {
                    ("quorum", _) => "raft",
                    (_, 0) => "master",
                    _ => "slave",
                };
                let number = u32::try_from(node + 1).expect("a few nodes");
                let folder = self.folder(&format!("{name}-{number}"));
                // A slave flushes if its own mode says so.
                let mode = match (role, mode) {
                    ("slave", "written") => "written",
                    ("slave", _) => "flushed",
                    _ => mode,
                };
                Server::start_member(&Member { number, peers, role, mode }, &folder)
            })
            .collect();
        let leader = self.wait_for(|| servers.iter().position(|server| self.status(server).serves));
        servers.swap(0, leader);
        let others = servers.split_off(1);
        let leader = servers.remove(0);
        let copies = || {
            (self.status(&leader).others.iter().filter(|other| other.matched > 0).count() == nodes - 1)
                .then_some(())
        };
        self.wait_for(copies);
        (leader, others)
    }

    fn free(&self, count: usize) -> Vec<SocketAddr> {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listeners: Vec<_> =
            (0..count).map(|_| self.tcp.listen(any, Arc::new(Nobody)).expect("a port")).collect();
        listeners.iter().map(staticfire_transport::Listener::address).collect()
    }

    fn wait_for<T>(&self, look: impl Fn() -> Option<T>) -> T {
        for _ in 0..60_000 {
            if let Some(found) = look() {
                return found;
            }
            self.tcp.block_on(self.tcp.sleep(Duration::from_millis(1)));
        }
        panic!("a group is not what it should be after a minute");
    }

    fn status(&self, server: &Server) -> NodeStatus {
        let connecting = self.tcp.connect(server.address, Arc::new(Nobody));
        let connection = self.tcp.block_on(connecting).expect("a broker accepts connections");
        let answer = connection.call(Command::request(GET_NODE_STATUS), Duration::from_secs(10));
        let answer = self.tcp.block_on(answer).expect("a broker answers");
        connection.close();
        serde_json::from_slice(&answer.body.to_bytes()).expect("a status")
    }

    /// A slave behind a link costs those nothing who do not wait for it.
    fn behind_a_link(&self) {
        for mode in ["written", "flushed"] {
            let mut alone = self.alone(mode, 16, &format!("link-alone-{mode}"));
            let mut master = self.group(2, mode, LINK, 16, &format!("link-{mode}"));
            let ratios = rounds(|| {
                let mut without = alone.paced();
                let mut with = master.paced();
                percentile_us(&mut with, 0.99) / percentile_us(&mut without, 0.99)
            });
            let what = "a slave behind 20 ms, paced 1 k/s: p99, with / without";
            report(what, mode, &ratios, Goal::AtMost(1.1));
        }
    }

    /// A master with one slave against none.
    fn one_slave(&self) {
        self.one_slave_in("written", setting("SENDS", 5_000));
        self.one_slave_in("flushed", setting("FLUSHED_SENDS", 1_500));
    }

    fn one_slave_in(&self, mode: &'static str, sends: u64) {
        let mut alone = self.alone(mode, 16, &format!("one-alone-{mode}"));
        let mut master = self.group(2, mode, 0, 16, &format!("one-{mode}"));
        let (none, one) =
            (self.beside(0, false, "none"), self.beside(1, mode == "flushed", &format!("one-beside-{mode}")));
        let (mut bare, mut fair, mut cpu, mut slave) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..setting("ROUNDS", 31) {
            let (without, alone_s) = alone.per_second_and_cpu(sends, &none);
            let beside = alone.per_second(sends, &one);
            let slave_before = master.others[0].cpu_seconds();
            let (with, master_s) = master.per_second_and_cpu(sends, &none);
            bare.push(with / without);
            fair.push(with / beside);
            cpu.push(master_s / alone_s);
            slave.push((master.others[0].cpu_seconds() - slave_before) / alone_s);
        }
        one.stop().expect("a plain log");
        report("throughput with one slave / alone beside a plain log", mode, &fair, Goal::AtLeast(0.85));
        println!(
            "{mode:<9} against alone with nothing beside it {:.2}; CPU of the master {:.2}, of the slave {:.2} times \
             that of the broker alone",
            median(bare),
            median(cpu),
            median(slave)
        );
    }

    /// A majority's flush against one's own.
    fn quorum(&self) {
        let sends = setting("FLUSHED_SENDS", 1_500);
        let mode = "quorum";
        let two = self.beside(2, true, "quorum-beside");
        let none = self.beside(0, false, "quorum-none");
        let mut near = self.alone("written", 4, "quorum-near");
        let mut alone = self.alone("flushed", 4, "quorum-alone");
        let mut group = self.group(3, mode, 0, 4, "quorum");
        let ratios = rounds(|| {
            let (round_trip, flush) = (near.p50_us(&none), alone.p50_us(&two));
            group.p50_us(&none) / (round_trip + flush)
        });
        let what = "one by one: p50, three nodes / (round trip + flush beside two plain logs)";
        report(what, mode, &ratios, Goal::AtMost(1.3));
        let ratios = rounds(|| group.per_second(sends, &none) / alone.per_second(sends, &two));
        let what = "64 in flight: throughput, three nodes / one, flushed, beside two plain logs";
        report(what, mode, &ratios, Goal::AtLeast(0.6));
        drop(group);
        let mut far = self.group(3, mode, LINK, 4, "quorum-far");
        let link = f64::from(2 * LINK) * 1000.0;
        let ratios = rounds(|| far.p50_us(&none) / (link + alone.p50_us(&two)));
        report("the same with 20 ms between the nodes", mode, &ratios, Goal::AtMost(1.3));
        two.stop().expect("plain logs");
    }

    /// A new slave gets the history of a master under load.
    fn catching_up(&self) {
        let mode = "written";
        let body = setting("BODY", 1024);
        let sends = setting("HISTORY", 200_000);
        let (mut shares, mut slower) = (Vec::new(), Vec::new());
        let mut history = 0.0;
        for round in 0..setting("ROUNDS", 31).min(3) {
            let at = self.free(2);
            let peers: Vec<_> = (1..).zip(at).collect();
            let member = |number, role| Member { number, peers: peers.clone(), role, mode };
            let folder = |what| self.folder(&format!("catch-up-{round}-{what}"));
            let master = Server::start_member(&member(1, "master"), &folder("master"));
            self.wait_for(|| self.status(&master).serves.then_some(()));
            let mut master = Side::of(master, Vec::new(), 16);
            master.many.closed_loop(sends).expect("history");
            let mut without = master.paced();
            let end = self.status(&master.server).end;
            let began = now();
            let slave = Server::start_member(&member(2, "slave"), &folder("slave"));
            let mut with = Vec::new();
            // In pieces, so that the end is not missed by much.
            let caught_up = std::thread::scope(|threads| {
                let copies = threads.spawn(|| {
                    self.wait_for(|| (self.status(&slave).end >= end).then(|| seconds_since(began)))
                });
                while !copies.is_finished() {
                    with.extend(master.one.paced(100, EVERY).expect("paced sends"));
                }
                copies.join().expect("it catches up")
            });
            let floor = staticfire_benches::beside::copied(&folder("floor"), end).expect("a plain copy");
            shares.push(floor / caught_up);
            slower.push(percentile_us(&mut with, 0.99) / percentile_us(&mut without, 0.99));
            #[expect(clippy::cast_precision_loss, reason = "bytes far below 2^52")]
            let mib = end as f64 / f64::from(1 << 20);
            history = mib;
            println!(
                "{mode:<9} {mib:.0} MiB of history in {caught_up:.2} s, {:.0} MiB/s; a plain copy in {floor:.2} s",
                mib / caught_up
            );
        }
        let what = format!("catching up with {history:.0} MiB: speed, of loopback and disk together");
        report(&what, mode, &shares, Goal::AtLeast(0.7));
        let what = format!("paced 1 k/s of {body} bytes meanwhile: p99, with / without");
        report(&what, mode, &slower, Goal::AtMost(1.5));
    }

    /// M23: asynchronous and synchronous copying side by side.
    fn table(&self) {
        println!(
            "\n| one slave on loopback | sends/s, 256 in flight | paced 1 k/s: p50 | p99 | p99.9 |\n|---|---|---|---|---|"
        );
        let sends = setting("FLUSHED_SENDS", 1_500);
        let none = self.beside(0, false, "table-none");
        let modes = [
            ("asynchronous, `written`", 2, "written"),
            ("asynchronous, `flushed`", 2, "flushed"),
            ("synchronous, `replicated 1`", 2, "replicated 1"),
            ("synchronous, `replicated 1 flushed`", 2, "replicated 1 flushed"),
            ("three that elect, `quorum`", 3, "quorum"),
        ];
        let mut sides: Vec<Side> = modes
            .iter()
            .map(|(_, nodes, mode)| {
                self.group(*nodes, mode, 0, 16, &format!("table-{}", mode.replace(' ', "-")))
            })
            .collect();
        let mut measured: Vec<[Vec<f64>; 4]> = modes.iter().map(|_| Default::default()).collect();
        for _ in 0..setting("ROUNDS", 31) {
            for (side, numbers) in sides.iter_mut().zip(&mut measured) {
                numbers[0].push(side.per_second(sends, &none));
                let mut taken = side.paced();
                for (numbers, share) in numbers[1..].iter_mut().zip([0.5, 0.99, 0.999]) {
                    numbers.push(percentile_us(&mut taken, share));
                }
            }
        }
        for ((name, ..), numbers) in modes.iter().zip(measured) {
            let [rate, p50, p99, p999] = numbers.map(median);
            println!("| {name} | {rate:.0} | {p50:.0} µs | {p99:.0} µs | {p999:.0} µs |");
        }
    }
}

fn rounds(mut ratio: impl FnMut() -> f64) -> Vec<f64> {
    (0..setting("ROUNDS", 31)).map(|_| ratio()).collect()
}

struct Nobody;

impl Service for Nobody {
    fn turn(&self, _: &Connection, requests: &mut Vec<Command>) {
        requests.clear();
    }
}
