use std::net::SocketAddr;
use std::sync::Mutex;

use super::*;
use crate::{BoxFuture, CallError, CloseReason, Command, Connection, Runtime, Service, Transport};

const SECOND: Duration = Duration::from_secs(1);
const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

fn port(ip: IpAddr) -> SocketAddr {
    SocketAddr::new(ip, 9876)
}

/// Answers with what it got, and remembers how connections ended.
#[derive(Default)]
struct Echo {
    closed: Mutex<Vec<CloseReason>>,
    codes: Mutex<Vec<i32>>,
}

impl Service for Echo {
    fn turn(&self, connection: &Connection, requests: &mut Vec<Command>) {
        for request in requests.drain(..) {
            self.codes.lock().unwrap().push(request.code);
            let _ = connection.send(request.answer(0).with_body(request.body.clone()));
        }
    }

    fn closed(&self, _connection: &Connection, reason: &CloseReason) {
        self.closed.lock().unwrap().push(reason.clone());
    }
}

/// Two hosts, a listener on the first and a connection from the second.
struct Pair {
    network: Network,
    server: Host,
    client: Host,
    served: Arc<Echo>,
    dialled: Arc<Echo>,
    connection: Connection,
    _listener: crate::Listener,
}

fn pair(network: Network) -> Pair {
    let (server, client) = (network.host(A), network.host(B));
    let (served, dialled) = (Arc::new(Echo::default()), Arc::new(Echo::default()));
    let listener = server.listen(port(A), Arc::clone(&served) as Arc<_>).unwrap();
    let connect = client.connect(port(A), Arc::clone(&dialled) as Arc<_>);
    let connection = network.block_on(connect, 4 * SECOND).expect("in time").unwrap();
    Pair { network, server, client, served, dialled, connection, _listener: listener }
}

impl Pair {
    fn call(&self, code: i32, limit: Duration) -> Result<Command, CallError> {
        let request = Command::request(code).with_body(vec![7; 100]);
        self.network.block_on(self.connection.call(request, limit), 1000 * SECOND).expect("calls end")
    }
}

fn rough() -> Link {
    Link { slow_per_million: 20_000, loss_per_million: 50_000, ..Link::default() }
}

/// A busy minute of four hosts; returns its trace.
fn busy(seed: u64) -> (u64, u64) {
    let network = Network::seeded(seed);
    network.set_links(Link { reset_per_million: 200, ..rough() });
    let server = network.host(A);
    let _listener = server.listen(port(A), Arc::new(Echo::default())).unwrap();
    for last in 2..5 {
        let host = network.host(IpAddr::from([10, 0, 0, last]));
        let task = clone_calls(host.clone());
        host.spawn(task);
    }
    network.run_for(60 * SECOND);
    (network.trace(), network.steps())
}

fn clone_calls(host: Host) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        loop {
            let Ok(connection) = host.connect(port(A), Arc::new(Echo::default())).await else { continue };
            for code in 0.. {
                let size = (host.random() % 3000) as usize;
                let call = connection.call(Command::request(code).with_body(vec![1; size]), SECOND);
                if call.await == Err(CallError::Closed) {
                    break;
                }
                host.sleep(Duration::from_millis(host.random() % 20)).await;
            }
        }
    })
}

#[test]
fn equal_seeds_give_equal_runs() {
    let (first, steps) = busy(1);
    assert_eq!(busy(1), (first, steps));
    assert_ne!(busy(2).0, first);
    assert!(steps > 5_000, "{steps} steps");
}

/// The same in another process: no address, no hash order and no clock gets into a run.
#[test]
fn equal_seeds_give_equal_runs_in_two_processes() {
    const ASK: &str = "STATICFIRE_TRACE_OF";
    if std::env::var(ASK).is_ok() {
        println!("trace={:016x}", busy(3).0);
        return;
    }
    let name = "memory::tests::equal_seeds_give_equal_runs_in_two_processes";
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(ASK, "3")
        .output()
        .unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    assert!(output.contains(&format!("trace={:016x}", busy(3).0)), "{output}");
}

#[test]
fn a_stream_keeps_order_and_loses_nothing_on_a_rough_link() {
    for seed in 0..20 {
        let network = Network::seeded(seed);
        let pair = pair(network);
        pair.network.set_links(rough());
        for code in 0..200 {
            let _ = pair.connection.send(Command::one_way(code).with_body(vec![1; 3000]));
        }
        pair.network.run_for(110 * SECOND);
        assert_eq!(*pair.served.codes.lock().unwrap(), (0..200).collect::<Vec<_>>(), "seed {seed}");
    }
}

#[test]
fn connections_overtake_each_other() {
    let first_wins = |seed| {
        let network = Network::seeded(seed);
        let pair = pair(network);
        let other = pair.client.connect(port(A), Arc::new(Echo::default()));
        let other = pair.network.block_on(other, SECOND).unwrap().unwrap();
        let _ = pair.connection.send(Command::one_way(1));
        let _ = other.send(Command::one_way(2));
        pair.network.run_for(SECOND);
        let codes = pair.served.codes.lock().unwrap();
        assert_eq!(codes.len(), 2);
        codes[0] == 1
    };
    let wins = (0..40).filter(|seed| first_wins(*seed)).count();
    assert!((5..35).contains(&wins), "{wins} of 40");
}

/// proves: F27, B27
#[test]
fn a_one_way_cut_lets_the_request_through_and_holds_the_answer() {
    let pair = pair(Network::seeded(1));
    pair.network.cut(A, B);
    assert_eq!(pair.call(5, 3 * SECOND), Err(CallError::TimedOut));
    assert_eq!(*pair.served.codes.lock().unwrap(), [5]);
    assert_eq!(pair.network.stray_answers(), 0);
    pair.network.heal();
    pair.network.run_for(6 * SECOND);
    assert_eq!(pair.network.stray_answers(), 1, "the late answer is counted and ignored");
    assert!(pair.call(6, SECOND).is_ok(), "the connection survives");
}

#[test]
fn a_partition_holds_everything_and_idle_ends_both_ends() {
    let pair = pair(Network::seeded(2));
    pair.network.partition(&[A], &[B]);
    assert_eq!(pair.call(5, 3 * SECOND), Err(CallError::TimedOut));
    assert!(pair.served.codes.lock().unwrap().is_empty());
    pair.network.run_for(121 * SECOND);
    assert_eq!(*pair.served.closed.lock().unwrap(), [CloseReason::Idle]);
    assert_eq!(*pair.dialled.closed.lock().unwrap(), [CloseReason::Idle]);
}

#[test]
fn a_sender_without_a_way_gives_up_after_a_quarter_of_an_hour() {
    let pair = pair(Network::seeded(2));
    pair.network.partition(&[A], &[B]);
    for _ in 0..20 {
        let _ = pair.connection.send(Command::one_way(1));
        pair.network.run_for(60 * SECOND);
    }
    assert_eq!(*pair.dialled.closed.lock().unwrap(), [CloseReason::Io(std::io::ErrorKind::TimedOut)]);
}

#[test]
fn a_killed_process_ends_its_connections_and_all_it_had() {
    let pair = pair(Network::seeded(3));
    let owned = Arc::new(());
    let held = Arc::clone(&owned);
    let host = pair.server.clone();
    pair.server.spawn(Box::pin(async move {
        host.sleep(1000 * SECOND).await;
        drop(held);
    }));
    pair.network.run_for(SECOND);
    pair.server.kill();
    assert_eq!(Arc::strong_count(&owned), 1, "its tasks are dropped at once");
    assert_eq!(pair.call(1, SECOND), Err(CallError::Closed));
    assert_eq!(*pair.dialled.closed.lock().unwrap(), [CloseReason::Peer]);
    assert!(pair.served.closed.lock().unwrap().is_empty(), "the dead do not speak");
    assert!(!pair.server.is_up());
    assert!(pair.server.listen(port(A), Arc::new(Echo::default())).is_err());

    let again = pair.network.host(A);
    assert!(again.is_up() && !pair.server.is_up());
    let _listener = again.listen(port(A), Arc::new(Echo::default())).unwrap();
    let connect = pair.client.connect(port(A), Arc::new(Echo::default()));
    assert!(pair.network.block_on(connect, SECOND).unwrap().is_ok());
}

/// proves: F29
#[test]
fn a_host_without_power_is_silent_and_its_next_life_resets_old_connections() {
    let pair = pair(Network::seeded(4));
    pair.server.power_off();
    assert_eq!(pair.call(1, 3 * SECOND), Err(CallError::TimedOut));
    assert!(pair.connection.is_open(), "half open");
    let connect = pair.client.connect(port(A), Arc::new(Echo::default()));
    let failed = pair.network.block_on(connect, 4 * SECOND).unwrap().unwrap_err();
    assert_eq!(failed.kind(), std::io::ErrorKind::TimedOut);
    let _again = pair.network.host(A);
    assert_eq!(pair.call(2, 10 * SECOND), Err(CallError::Closed));
    assert_eq!(*pair.dialled.closed.lock().unwrap(), [CloseReason::Io(std::io::ErrorKind::ConnectionReset)]);
}

/// proves: F30
#[test]
fn a_paused_host_answers_when_it_goes_on() {
    let pair = pair(Network::seeded(5));
    pair.server.pause();
    assert_eq!(pair.call(1, 3 * SECOND), Err(CallError::TimedOut));
    assert!(pair.served.codes.lock().unwrap().is_empty());
    pair.server.resume();
    pair.network.run_for(SECOND);
    assert_eq!(*pair.served.codes.lock().unwrap(), [1]);
    assert_eq!(pair.network.stray_answers(), 1);
}

/// proves: F31
#[test]
fn wall_clocks_jump_for_one_host_and_monotonic_ones_do_not() {
    let network = Network::seeded(6);
    let (a, b) = (network.host(A), network.host(B));
    let (wall, now) = (a.wall_ms(), a.now());
    a.shift_wall(-3_600_000);
    network.run_for(SECOND);
    assert_eq!((a.wall_ms(), b.wall_ms()), (wall - 3_599_000, wall + 1000));
    assert_eq!(a.now(), now + SECOND);
}

#[test]
fn dialling_is_refused_or_times_out() {
    let network = Network::seeded(7);
    let (_a, b) = (network.host(A), network.host(B));
    let dial = |to: SocketAddr| {
        let started = network.now();
        let failed =
            network.block_on(b.connect(to, Arc::new(Echo::default())), 4 * SECOND).unwrap().unwrap_err();
        (failed.kind(), network.now().since(started))
    };
    let (kind, took) = dial(port(A));
    assert_eq!(kind, std::io::ErrorKind::ConnectionRefused);
    assert!(took < Duration::from_millis(2));
    assert_eq!(dial("10.0.0.99:1".parse().unwrap()), (std::io::ErrorKind::TimedOut, 3 * SECOND));
    network.cut(A, B);
    assert_eq!(dial(port(A)), (std::io::ErrorKind::TimedOut, 3 * SECOND));
}

#[test]
fn loopback_is_the_host_itself_and_closed_to_others() {
    let network = Network::seeded(8);
    let (a, b) = (network.host(A), network.host(B));
    let listener = a.listen("127.0.0.1:9876".parse().unwrap(), Arc::new(Echo::default())).unwrap();
    let connect =
        |host: &Host, to| network.block_on(host.connect(to, Arc::new(Echo::default())), SECOND).unwrap();
    assert!(connect(&a, listener.address()).is_ok());
    assert!(connect(&b, port(A)).is_err());
    drop(listener);
    assert!(connect(&a, "127.0.0.1:9876".parse().unwrap()).is_err());
}

#[test]
fn tasks_that_are_ready_together_run_in_an_order_drawn_from_the_seed() {
    let order = |seed| {
        let network = Network::seeded(seed);
        let host = network.host(A);
        let ran = Arc::new(Mutex::new(Vec::new()));
        for task in 0..5 {
            let ran = Arc::clone(&ran);
            host.spawn(Box::pin(async move { ran.lock().unwrap().push(task) }));
        }
        network.run_for(SECOND);
        ran.lock().unwrap().clone()
    };
    let orders: std::collections::BTreeSet<Vec<i32>> = (0..60).map(order).collect();
    assert!(orders.len() > 30, "{} orders of 120 in 60 seeds", orders.len());
    assert_eq!(order(5), order(5));
}

/// A source whose single event spawns a task.
struct Once {
    at: Mutex<Option<Monotonic>>,
    host: Host,
    done: Arc<AtomicBool>,
}

impl EventSource for Once {
    fn next_due(&self) -> Option<Monotonic> {
        *self.at.lock().unwrap()
    }

    fn run_due(&self, now: Monotonic) {
        assert_eq!(self.at.lock().unwrap().take(), Some(now));
        let done = Arc::clone(&self.done);
        self.host.spawn(Box::pin(async move { done.store(true, Ordering::Relaxed) }));
    }
}

#[test]
fn events_from_outside_happen_in_their_time() {
    let network = Network::seeded(9);
    let at = Monotonic::new(5 * SECOND);
    let done = Arc::new(AtomicBool::new(false));
    network.add_source(Arc::new(Once {
        at: Mutex::new(Some(at)),
        host: network.host(A),
        done: Arc::clone(&done),
    }));
    network.run_until(Monotonic::new(5 * SECOND - Duration::from_nanos(1)));
    assert!(!done.load(Ordering::Relaxed));
    assert!(network.run_until_idle(10 * SECOND));
    assert!(done.load(Ordering::Relaxed));
    assert_eq!(network.now(), at);
}

/// proves: M4, M7, M18 can be read from the log
#[test]
fn the_log_tells_who_dialled_whom_and_every_frame() {
    let pair = pair(Network::seeded(10));
    pair.call(103, SECOND).unwrap();
    pair.connection.close();
    pair.network.run_for(SECOND);
    let log = pair.network.log();
    let of = |host| log.iter().filter(move |entry| entry.host.ip() == host).map(|entry| entry.event.clone());
    let frame =
        |code, flag| (Event::Sent { code, opaque: 0, flag }, Event::Arrived { code, opaque: 0, flag });
    let ((sent, arrived), (answered, back)) = (frame(103, 0), frame(0, 1));
    assert_eq!(of(B).collect::<Vec<_>>(), [Event::Dialled, sent, back, Event::Closed(CloseReason::Local)]);
    assert_eq!(
        of(A).collect::<Vec<_>>(),
        [Event::Accepted, arrived, answered, Event::Closed(CloseReason::Peer)]
    );
    assert!(log.iter().all(|entry| entry.connection == log[0].connection));
    assert_eq!(log.iter().filter_map(|entry| entry.event.sent_request()).collect::<Vec<_>>(), [103]);
}

#[test]
fn a_network_ends_with_its_last_handle() {
    let owned = Arc::new(Echo::default());
    let network = Network::seeded(11);
    let host = network.host(A);
    let _listener = host.listen(port(A), Arc::clone(&owned) as Arc<_>).unwrap();
    let (task, mine) = (host.clone(), Arc::clone(&owned));
    host.spawn(Box::pin(async move {
        let _kept = task.connect(port(A), mine).await;
        task.sleep(1000 * SECOND).await;
    }));
    network.run_for(SECOND);
    assert!(Arc::strong_count(&owned) > 2);
    drop(network);
    assert_eq!(Arc::strong_count(&owned), 1);
}

struct Panics;

impl Service for Panics {
    fn turn(&self, _connection: &Connection, _requests: &mut Vec<Command>) {
        panic!("as planned");
    }
}

#[test]
#[should_panic(expected = "as planned")]
fn a_panic_of_a_service_ends_the_run() {
    let network = Network::seeded(12);
    let (a, b) = (network.host(A), network.host(B));
    let _listener = a.listen(port(A), Arc::new(Panics)).unwrap();
    let connection = network.block_on(b.connect(port(A), Arc::new(Panics)), SECOND).unwrap().unwrap();
    let _ = network.block_on(connection.call(Command::request(1), SECOND), SECOND);
}
