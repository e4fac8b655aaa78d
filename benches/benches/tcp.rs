//! A broker over TCP against the floor: what an official client's sends cost the server. And what pulls
//! cost it, for which there is no floor.
//!
//! ```text
//! cargo bench -p staticfire-benches --bench tcp
//! ```
//! Sizes: `STATICFIRE_BENCH_ROUNDS` (9), `STATICFIRE_BENCH_SENDS` (20,000 a round),
//! `STATICFIRE_BENCH_FLUSHED_SENDS` (5,000), `STATICFIRE_BENCH_SINGLES` (500), `STATICFIRE_BENCH_PACED` (2,500),
//! `STATICFIRE_BENCH_PULLS` (100,000 messages a round), `STATICFIRE_BENCH_BODY` (1024 bytes). With
//! `STATICFIRE_BENCH_STRACE=0` system calls are not counted.
//!
//! Sends that travel alone are measured with server and load generator on one processor, where they cost
//! what they make the server do, and on two, where a sleeping processor has to be woken for each.

#![allow(clippy::disallowed_methods, reason = "a folder for the log")]

use std::path::Path;
use std::time::Duration;

use staticfire_benches::load::{Generator, Load};
use staticfire_benches::measure::{Goal, median, percentile_us, report, setting};
use staticfire_benches::placement;
use staticfire_benches::pull::{PULLED, Pullers};
use staticfire_benches::server::{Kind, Server, serve_if_asked};

const CONNECTIONS: usize = 16;
const IN_FLIGHT: u64 = 16;

/// The rounds of one server in one mode.
#[derive(Default)]
struct Rounds {
    cpu_us: Vec<f64>,
    per_second: Vec<f64>,
    p50_together_us: Vec<f64>,
    p50_apart_us: Vec<f64>,
    p999_us: Vec<f64>,
}

/// A server with its connections.
struct Side {
    server: Server,
    many: Generator,
    one: Generator,
    rounds: Rounds,
}

fn main() {
    serve_if_asked();
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for the logs");
    measure("written", setting("SENDS", 20_000), directory.path());
    measure("flushed", setting("FLUSHED_SENDS", 5_000), directory.path());
}

fn measure(mode: &str, sends: u64, directory: &Path) {
    let rounds = setting("ROUNDS", 9);
    let flushed = mode == "flushed";
    let mut floor = Side::start(Kind::Floor, flushed, &directory.join(format!("floor-{mode}")));
    let mut ours = Side::start(Kind::Broker, flushed, &directory.join(format!("broker-{mode}")));
    println!(
        "{CONNECTIONS} connections, {} in flight, {sends} sends a round",
        CONNECTIONS as u64 * IN_FLIGHT
    );
    for _ in 0..rounds {
        floor.round(sends, flushed);
        ours.round(sends, flushed);
    }
    floor.print(mode, "floor");
    ours.print(mode, "broker");
    let (ours_had, floor_had) = (&ours.rounds, &floor.rounds);
    let cpu = if flushed { 3.0 } else { 2.5 };
    compare(
        "CPU of the server, broker / floor",
        mode,
        &ours_had.cpu_us,
        &floor_had.cpu_us,
        Goal::AtMost(cpu),
    );
    let (mine, theirs) = (&ours_had.per_second, &floor_had.per_second);
    compare("throughput, broker / floor", mode, mine, theirs, Goal::AtLeast(0.5));
    let what = "one connection, one in flight, one processor: p50, broker / floor";
    compare(what, mode, &ours_had.p50_together_us, &floor_had.p50_together_us, Goal::AtMost(1.5));
    let what = "one connection, one in flight, two processors: p50, broker / floor";
    compare(what, mode, &ours_had.p50_apart_us, &floor_had.p50_apart_us, Goal::AtMost(1.5));
    let what = "one connection, paced 5 k/s: p99.9, broker / floor";
    compare(what, mode, &ours_had.p999_us, &floor_had.p999_us, Goal::AtMost(3.0));
    pull(mode, &ours.server, rounds);
    if setting("STRACE", 1) != 0 {
        calls(mode, "floor", &mut floor, sends / 4, None);
        calls(mode, "broker", &mut ours, sends / 4, Some(Goal::AtMost(0.4)));
    }
}

/// Reads what was sent, again and again.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn pull(mode: &str, server: &Server, rounds: u64) {
    let mut pullers = Pullers::connect(server.address).expect("a server accepts connections");
    let mut cpu_us = Vec::new();
    for _ in 0..rounds {
        let before = server.cpu_seconds();
        let pulled = pullers.pull(setting("PULLS", 100_000)).expect("pulls");
        cpu_us.push((server.cpu_seconds() - before) / pulled as f64 * 1e6);
    }
    let what = format!("pull of {PULLED} a time: CPU-seconds per million, broker");
    report(&what, mode, &cpu_us, Goal::AtMost(2.0));
}

fn compare(what: &str, mode: &str, ours: &[f64], floor: &[f64], goal: Goal) {
    let ratios: Vec<f64> = ours.iter().zip(floor).map(|(ours, floor)| ours / floor).collect();
    report(what, mode, &ratios, goal);
}

/// Tracing slows the server down, so this is no part of the other measurements.
fn calls(mode: &str, name: &str, side: &mut Side, sends: u64, goal: Option<Goal>) {
    let Side { server, many, .. } = side;
    let counted = server.system_calls(|| {
        many.closed_loop(sends).expect("sends under strace");
    });
    match (counted, goal) {
        (None, _) => println!("{mode:<9} {name}: system calls not counted, strace cannot attach"),
        #[expect(clippy::cast_precision_loss, reason = "a ratio is shown with two digits")]
        (Some(counted), goal) => {
            let each = counted as f64 / sends as f64;
            match goal {
                Some(goal) => report("system calls per message", mode, &[each], goal),
                None => println!("{mode:<9} {name}: {each:.2} system calls per message"),
            }
        }
    }
}

impl Side {
    fn start(kind: Kind, flushed: bool, directory: &Path) -> Self {
        std::fs::create_dir_all(directory).expect("a directory for the log");
        let server = Server::start(kind, flushed, directory);
        let body_len = usize::try_from(setting("BODY", 1024)).expect("the length of a body");
        let load = Load { connections: CONNECTIONS, in_flight: IN_FLIGHT, body_len };
        let connect = |load| Generator::connect(server.address, load).expect("a server accepts connections");
        let mut many = connect(load);
        let one = connect(Load { connections: 1, ..load });
        // The topic comes to be, and the first pages are written.
        many.closed_loop(1000).expect("sends to warm up");
        Self { server, many, one, rounds: Rounds::default() }
    }

    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    fn round(&mut self, sends: u64, flushed: bool) {
        let before = self.server.cpu_seconds();
        let seconds = self.many.closed_loop(sends).expect("pipelined sends");
        self.rounds.cpu_us.push((self.server.cpu_seconds() - before) / sends as f64 * 1e6);
        self.rounds.per_second.push(sends as f64 / seconds);
        let cpus = placement::allowed();
        let (mine, others) = (&cpus[..1], &cpus[cpus.len() - 1..]);
        placement::pin_this_thread(mine);
        self.server.pin(mine);
        let together = self.p50_us(flushed);
        self.server.pin(others);
        let apart = self.p50_us(flushed);
        self.rounds.p50_together_us.push(together);
        self.rounds.p50_apart_us.push(apart);
        let count = u32::try_from(setting("PACED", 2500)).expect("a number of sends");
        let mut each = self.one.paced(count, Duration::from_micros(200)).expect("paced sends");
        self.rounds.p999_us.push(percentile_us(&mut each, 0.999));
        placement::pin_this_thread(&cpus);
        self.server.pin(&cpus);
    }

    fn p50_us(&mut self, flushed: bool) -> f64 {
        let count = setting("SINGLES", if flushed { 100 } else { 500 });
        let mut each = self.one.one_by_one(count).expect("single sends");
        percentile_us(&mut each, 0.5)
    }

    fn print(&self, mode: &str, name: &str) {
        let Rounds { cpu_us, per_second, p50_together_us, p50_apart_us, p999_us } = &self.rounds;
        println!(
            "{mode:<9} {name}: {:.2} CPU-seconds per million, {:.0} sends/s; alone p50 {:.1} us on one processor, {:.1} us on two; paced 5 k/s p99.9 {:.0} us",
            median(cpu_us.clone()),
            median(per_second.clone()),
            median(p50_together_us.clone()),
            median(p50_apart_us.clone()),
            median(p999_us.clone()),
        );
    }
}
