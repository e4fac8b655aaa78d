//! OK means what it says: flushes that are late, failing or lost.

use std::time::Duration;

use staticfire::protocol::codes::{request, response};
use staticfire::storage::disk::{DiskFaults, DiskOperation, FaultEffect};
use staticfire::transport::Command;

use crate::world::{World, number, pull, send};

const SECOND: Duration = Duration::from_secs(1);

/// A broker with one message in `orders`, whose log's flushes go as `effect` says from now on.
fn with_flushes(seed: u64, effect: FaultEffect) -> World {
    let mut world = World::new(seed);
    world.client().ask(send("orders", 0, "first"));
    world.disk().set_faults(DiskFaults::calm().on_path(DiskOperation::SyncFile, "commitlog", effect));
    world
}

/// proves: I1, I62
#[test]
fn nobody_hears_ok_and_no_consumer_sees_a_message_before_the_flush() {
    let mut world = with_flushes(1, FaultEffect::Late(3_000_000));
    let (producer, consumer) = (world.client(), world.client());
    let mut held = consumer.start(pull("orders", 0, 1, "*", 20));
    let at = world.broker().store().marks().written;
    let mut sent = producer.start(send("orders", 0, "x"));
    assert!(producer.poll(&mut sent, 2 * SECOND).is_none(), "not flushed");
    assert!(consumer.poll(&mut held, SECOND / 2).is_none(), "not visible");
    // Nor to who knows where it stands: it may be gone after a power cut, or cut off by another leader.
    let view = || Command::request(request::VIEW_MESSAGE_BY_ID).with_ext("offset", at);
    let back = Command::request(request::CONSUMER_SEND_MSG_BACK)
        .with_ext("group", "C")
        .with_ext("offset", at)
        .with_ext("delayLevel", 1);
    assert!(world.broker().store().record(at).is_ok(), "it is written");
    assert_eq!(consumer.ask(view()).code, response::SYSTEM_ERROR);
    assert_eq!(consumer.ask(back).code, response::SYSTEM_ERROR);
    assert_eq!(producer.poll(&mut sent, 2 * SECOND).expect("flushed").code, 0);
    assert_eq!(consumer.poll(&mut held, SECOND).expect("visible").code, 0);
    assert_eq!(consumer.ask(view()).code, 0);
}

/// A flush that takes too long: stored, and the status says so; never OK.
#[test]
fn a_late_flush_is_a_status_of_its_own() {
    let mut world = with_flushes(2, FaultEffect::Never);
    let producer = world.client();
    let mut sent = producer.start(send("orders", 0, "x"));
    assert!(producer.poll(&mut sent, 4 * SECOND).is_none());
    let answer = producer.poll(&mut sent, 3 * SECOND).expect("after 5 s");
    assert_eq!(answer.code, response::FLUSH_DISK_TIMEOUT);
    assert_eq!(number(&answer, "queueOffset"), 1, "the answer is complete");
    assert!(answer.ext.get("msgId").is_some());
}

/// proves: I1
#[test]
fn a_failed_flush_is_never_ok_and_nothing_is_taken_afterwards() {
    let mut world = with_flushes(3, FaultEffect::Io);
    let producer = world.client();
    assert_eq!(producer.ask(send("orders", 0, "x")).code, response::SYSTEM_ERROR);
    assert_eq!(producer.ask(send("orders", 0, "y")).code, response::SERVICE_NOT_AVAILABLE);
    assert_eq!(world.cluster.network().stray_answers(), 0);
}

/// A topic that cannot be written to disk is not acknowledged, nor is what was sent to it.
#[test]
fn a_topic_that_is_not_on_disk_is_not_acknowledged() {
    let mut world = World::new(4);
    world.disk().set_faults(DiskFaults::calm().on_path(
        DiskOperation::SyncFile,
        "topics.json",
        FaultEffect::Io,
    ));
    let producer = world.client();
    assert_eq!(producer.ask(send("orders", 0, "x")).code, response::SYSTEM_ERROR);
    world.disk().set_faults(DiskFaults::calm());
    producer.run(3 * SECOND);
    assert_eq!(producer.ask(send("orders", 0, "x")).code, 0, "tried again");
}
