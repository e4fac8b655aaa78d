//! A broadcasting consumer keeps its offsets itself, and goes on where it was.

use std::sync::Arc;

use staticfire::client::{
    ClientError, DirectoryOffsets, Producer, ProducerOptions, PushConsumer, PushConsumerOptions,
};
use staticfire::protocol::body::MessageModel;
use staticfire::protocol::names::GroupName;
use staticfire::sim::{Node, Running};
use staticfire::storage::disk::SimulatedDisk;

use crate::seen::{Seen, earliest, message, second, start};

fn broadcasting(disk: &SimulatedDisk) -> PushConsumerOptions {
    PushConsumerOptions {
        model: MessageModel::Broadcasting,
        offsets: Arc::new(DirectoryOffsets::on(disk.directory())),
        ..earliest()
    }
}

fn send(cluster: &Running, producer: &Producer, bodies: &[&'static str]) {
    for body in bodies {
        cluster.wait(producer.send(message("orders", *body))).expect("stored");
    }
}

fn consumer(cluster: &Running, host: u8, disk: &SimulatedDisk, seen: &Seen) -> PushConsumer {
    cluster.push_consumer(host, "all", broadcasting(disk), &[("orders", "*")], seen.listener())
}

#[test]
fn a_closed_consumer_gets_only_what_is_new() {
    let cluster = start(61, 1, 1);
    let producer = cluster.producer_with(1, ProducerOptions::default());
    send(&cluster, &producer, &["m0", "m1", "m2"]);
    let (mine, others) = (SimulatedDisk::new(1), SimulatedDisk::new(2));
    let (mine, others) = (mine.completing_at_once(), others.completing_at_once());
    let seen = Seen::default();
    let first = consumer(&cluster, 2, &mine, &seen);
    cluster.run_for(second(2));
    assert_eq!(seen.take(), ["m0", "m1", "m2"]);
    cluster.wait(first.close(second(1)));
    send(&cluster, &producer, &["m3", "m4"]);

    let again = consumer(&cluster, 3, &mine, &seen);
    cluster.run_for(second(2));
    assert_eq!(seen.take(), ["m3", "m4"]);
    let other = consumer(&cluster, 4, &others, &seen);
    cluster.run_for(second(2));
    assert_eq!(seen.take(), ["m0", "m1", "m2", "m3", "m4"], "every member has offsets of its own");
    drop((again, other));
}

/// Offsets are stored every five seconds.
#[test]
fn a_killed_consumer_repeats_only_what_it_had_not_stored() {
    let mut cluster = start(62, 1, 1);
    let producer = cluster.producer_with(1, ProducerOptions::default());
    let disk = SimulatedDisk::new(1).completing_at_once();
    let seen = Seen::default();
    send(&cluster, &producer, &["m0"]);
    let first = consumer(&cluster, 2, &disk, &seen);
    cluster.run_for(second(6));
    send(&cluster, &producer, &["m1"]);
    cluster.run_for(second(1));
    assert_eq!(seen.take(), ["m0", "m1"]);
    cluster.kill(Node::Client(2));
    drop(first);
    let _again = consumer(&cluster, 3, &disk.crash(), &seen);
    cluster.run_for(second(2));
    assert_eq!(seen.take(), ["m1"]);
}

/// A start that guessed would skip or repeat everything.
#[test]
fn offsets_that_cannot_be_read_are_an_error_of_the_start() {
    let cluster = start(63, 1, 1);
    let disk = SimulatedDisk::new(1).completing_at_once();
    disk.directory().make_directory("all").expect("an empty disk");
    disk.put("all/offsets.json", b"{\"offsetTable\":{").expect("an empty disk");
    let client = cluster.client(2);
    let seen = Seen::default();
    let group = GroupName::new("all").expect("a group's name");
    let starting =
        PushConsumer::start(&client, group, broadcasting(&disk), [("orders", "*")], seen.listener());
    let error = cluster.wait(starting).expect_err("half a file");
    assert!(matches!(error, ClientError::KeptOffsets { .. }), "{error}");
    assert!(error.to_string().contains("all/offsets.json"), "{error}");
}
