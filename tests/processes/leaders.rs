//! The leader is killed, hands over, and is asked to stop, under the load of our client.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::Signal;
use staticfire::transport::tcp::{Tcp, TcpOptions};

use super::group::Group;
use super::load::{Acknowledged, read_back};

/// Runs with so many kills hold their times against the goals.
const KILLS_TO_JUDGE: usize = 100;

/// The time that `share` of all do not exceed.
fn percentile(times: &mut [Duration], share: f64) -> Duration {
    times.sort_unstable();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let index = ((times.len() as f64 * share).ceil() as usize).clamp(1, times.len()) - 1;
    times[index]
}

fn print_silences(what: &str, silences: &mut [Duration]) -> [Duration; 3] {
    let [p50, p99, most] = [0.5, 0.99, 1.0].map(|share| percentile(silences, share));
    let count = silences.len();
    println!("{count} {what}: nobody was acknowledged for p50 {p50:?}, p99 {p99:?}, maximum {most:?}");
    [p50, p99, most]
}

fn cases() -> usize {
    std::env::var("STATICFIRE_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1)
}

fn everything_is_there(tcp: &Tcp, group: &Group, acknowledged: &Acknowledged) {
    let messages = read_back(tcp, &group.client(tcp));
    let body = |message: &staticfire::client::ReceivedMessage| message.body().to_vec();
    let stored: BTreeSet<String> =
        messages.iter().map(|message| String::from_utf8(body(message)).unwrap()).collect();
    let wanted = acknowledged.bodies.lock().unwrap();
    let lost: Vec<_> = wanted.difference(&stored).take(10).collect();
    let failed = acknowledged.failed();
    println!("{} acknowledged, {failed} sends failed, {} read back", wanted.len(), stored.len());
    assert!(lost.is_empty(), "acknowledged and gone: {lost:?}");
}

/// `kill -9` of one leader after the other: every acknowledged message is there, and the producer goes on.
/// proves: M36, M37, M41, I1 on real processes, files and sockets
#[test]
fn killed_leaders_take_no_acknowledged_message_with_them() {
    let kills = 2 * cases();
    let (tcp, folder) = (Tcp::start(TcpOptions::default()).unwrap(), tempfile::tempdir().unwrap());
    let mut group = Group::on_loopback(&tcp, folder.path());
    group.leader(&tcp);
    let client = group.client(&tcp);
    let acknowledged = Acknowledged::by_senders(&tcp, &client);
    acknowledged.wait_for_more(&tcp, 500);
    let mut silences = Vec::new();
    for kill in 0..kills {
        let leader = group.leader(&tcp);
        acknowledged.longest_silence();
        group.kill(leader);
        acknowledged.wait_for_more(&tcp, 500);
        let silence = acknowledged.longest_silence();
        println!("kill {kill} of node {}: no acknowledgement for {silence:?}", leader + 1);
        silences.push(silence);
        group.boot(leader);
    }
    acknowledged.stop(&tcp);
    everything_is_there(&tcp, &group, &acknowledged);
    let [p50, p99, most] = print_silences("kills", &mut silences);
    if kills >= KILLS_TO_JUDGE {
        let goals = [(p50, 500), (p99, 1000), (most, 3000)];
        assert!(goals.iter().all(|(time, ms)| time.as_millis() <= *ms), "p50 0.5 s, p99 1 s, maximum 3 s");
    }
}

/// Planned transfers, and leaders asked to end by SIGTERM one after the other: each hands over first, and not
/// one send fails.
/// proves: M37 on real processes: whoever leaves hands over first
#[test]
fn a_leader_that_leaves_fails_no_send() {
    let (tcp, folder) = (Tcp::start(TcpOptions::default()).unwrap(), tempfile::tempdir().unwrap());
    let mut group = Group::on_loopback(&tcp, folder.path());
    group.leader(&tcp);
    let client = group.client(&tcp);
    let acknowledged = Acknowledged::by_senders(&tcp, &client);
    acknowledged.wait_for_more(&tcp, 500);
    let mut silences = Vec::new();
    for _ in 0..3 * cases() {
        let old = group.leader(&tcp);
        acknowledged.longest_silence();
        assert_eq!(group.transfer()["from"], old + 1);
        acknowledged.wait_for_more(&tcp, 200);
        silences.push(acknowledged.longest_silence());
    }
    print_silences("transfers", &mut silences);
    silences.clear();
    for _ in 0..3 * cases() {
        let leader = group.leader(&tcp);
        acknowledged.longest_silence();
        let stopped = group.nodes[leader].take().unwrap().end(Signal::TERM);
        assert_eq!(stopped, Some(0));
        acknowledged.wait_for_more(&tcp, 200);
        silences.push(acknowledged.longest_silence());
        assert_ne!(group.leader(&tcp), leader, "another node leads");
        group.boot(leader);
    }
    print_silences("leaders stopped by SIGTERM", &mut silences);
    acknowledged.stop(&tcp);
    assert_eq!(acknowledged.failed(), 0, "who hands over fails no send");
    everything_is_there(&tcp, &group, &acknowledged);
}
