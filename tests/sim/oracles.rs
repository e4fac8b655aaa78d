//! The oracles notice what they are there for.

use std::time::Duration;

use bytes::Bytes;
use staticfire::sim::{Cluster, Found, Ledger, Node, Outcome, Place, Plan, Promise, Violation};
use staticfire::storage::PhysicalOffset;
use staticfire::storage::disk::DiskFaults;

fn place(offset: i64) -> Place {
    Place { broker: "broker-0".into(), queue: 0, offset }
}

fn found(offset: i64, body: &Bytes) -> Found {
    Found { place: place(offset), physical: PhysicalOffset(0), body: body.clone() }
}

/// What the ledger says of a queue with these bodies.
fn judged(ledger: &Ledger, queue: &[&Bytes], promise: Promise) -> Result<(), &'static str> {
    let queue: Vec<_> = (0..).zip(queue).map(|(offset, body)| found(offset, body)).collect();
    ledger.check(&queue, |_| promise).map_err(|Violation { invariant, .. }| invariant)
}

/// proves: I1, I51, I62
#[test]
fn a_ledger_sees_what_is_lost_invented_repeated_or_misplaced() {
    let ledger = Ledger::of("orders");
    let attempts: Vec<_> = (0..4).map(|_| ledger.begin()).collect();
    let [a, b, c, d] = [0, 1, 2, 3].map(|index: usize| &attempts[index].1);
    ledger.settle(0, Outcome::Ok(place(0)));
    ledger.settle(1, Outcome::Rejected);
    ledger.settle(2, Outcome::Unknown);
    let judged = |queue: &[&Bytes]| judged(&ledger, queue, Promise::Everything);
    for right in [vec![a], vec![a, c], vec![a, c, d], vec![a, d]] {
        assert_eq!(judged(&right), Ok(()));
    }
    assert_eq!(judged(&[]), Err("I1"), "lost");
    assert_eq!(judged(&[c, a]), Err("I1"), "not where the answer said");
    assert_eq!(judged(&[a, b]), Err("I62"), "refused and stored");
    assert_eq!(judged(&[a, c, c]), Err("I51"), "stored twice");
    assert_eq!(judged(&[a, &Bytes::from("a-ff")]), Err("I62"), "nobody sent it");
}

/// proves: I14
#[test]
fn a_ledger_sees_a_queue_out_of_order() {
    let ledger = Ledger::of("orders");
    let (first, a) = ledger.begin();
    ledger.settle(first, Outcome::Ok(place(1)));
    let (_, b) = ledger.begin();
    assert_eq!(judged(&ledger, &[&b, &a], Promise::Everything), Err("I14"), "b was sent after a's answer");
}

/// A power cut may take the end of a queue in `written` mode, and nothing else.
/// proves: I3
#[test]
fn a_ledger_lets_go_of_an_end_only() {
    let ledger = Ledger::of("orders");
    let bodies: Vec<_> = (0..3)
        .map(|offset| {
            let (number, body) = ledger.begin();
            ledger.settle(number, Outcome::Ok(place(offset)));
            body
        })
        .collect();
    let judged = |queue: &[&Bytes]| judged(&ledger, queue, Promise::AllButTheEnd);
    assert_eq!(judged(&[]), Ok(()));
    assert_eq!(judged(&[&bodies[0]]), Ok(()));
    let (number, later) = ledger.begin();
    ledger.settle(number, Outcome::Ok(place(1)));
    assert_eq!(judged(&[&bodies[0], &later]), Ok(()), "another message took its place");
    let hole = [found(0, &bodies[0]), found(2, &bodies[2])];
    assert!(ledger.check(&hole, |_| Promise::AllButTheEnd).is_err(), "a hole is no end");
}

/// The same as a line of text, which nobody draws: after it no promise can be kept.
/// proves: I1, F9
#[test]
fn a_plan_can_say_that_a_disk_lies() {
    let plan: Plan =
        "for 2000ms: 0ms ignored-sync b0.0 5000ms; 500ms power-cut b0.0 100ms".parse().expect("a plan");
    let broken = (0..8).filter(|seed| {
        let mut cluster = Cluster::seeded(*seed).start();
        cluster.create_topic("orders", 1);
        let (ledger, client) = (Ledger::of("orders"), cluster.host(Node::Client(1)));
        let sending = ledger.clone().keep_sending(cluster.producer(1), client, Duration::from_millis(5));
        cluster.spawn(Node::Client(1), sending);
        cluster.run(&plan).and_then(|()| cluster.check(&ledger)).is_err()
    });
    assert!(broken.count() >= 4);
}

/// A disk that lies about syncs loses what was acknowledged, and the kit says so with everything
/// needed to see it again. On an honest disk the same story is sound.
/// proves: I1, F9
#[test]
fn a_disk_that_ignores_syncs_is_found_out() {
    let story = |seed: u64, faults: DiskFaults| {
        let mut cluster = Cluster::seeded(seed).disks(faults).start();
        cluster.create_topic("orders", 1);
        let (ledger, client) = (Ledger::of("orders"), cluster.host(Node::Client(1)));
        let sending = ledger.clone().keep_sending(cluster.producer(1), client, Duration::from_millis(1));
        cluster.spawn(Node::Client(1), sending);
        cluster.run_for(Duration::from_millis(200));
        cluster.power_cut(Node::master(0));
        cluster.try_restart(Node::master(0)).map_err(|refusal| format!("refuses to open: {refusal}"))?;
        cluster.check(&ledger).map_err(|violation| violation.to_string())
    };
    assert!((0..5).all(|seed| story(seed, DiskFaults::default()).is_ok()));
    let lying = DiskFaults::default().ignoring_syncs_at("");
    let found: Vec<_> = (0..5).filter_map(|seed| story(seed, lying.clone()).err()).collect();
    assert!(found.len() >= 4, "{found:?}");
    let report = found.iter().find(|report| report.starts_with("I1 is broken"));
    let report = report.unwrap_or_else(|| panic!("{found:?}"));
    for part in ["seed ", "of virtual time", "trace ", "PowerCut b0.0"] {
        assert!(report.contains(part), "{report}");
    }
}
