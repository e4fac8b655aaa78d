//! A broadcasting consumer keeps its offsets itself, and goes on where it was.

#[allow(dead_code, unused_imports, reason = "other tests need the rest")]
mod cluster;

use std::sync::{Arc, Mutex};

use cluster::{Cluster, second};
use staticfire::client::{
    ClientError, ConsumeResult, DirectoryOffsets, Listener, Message, Producer, ProducerOptions, PushConsumer,
    PushConsumerOptions, StartFrom, listener,
};
use staticfire::protocol::body::MessageModel;
use staticfire::storage::disk::SimulatedDisk;

/// The bodies a listener saw.
type Seen = Arc<Mutex<Vec<String>>>;

fn noting(seen: &Seen) -> Arc<dyn Listener> {
    let seen = Arc::clone(seen);
    listener(move |messages| {
        let bodies = messages.iter().map(|message| String::from_utf8_lossy(message.body()).into_owned());
        seen.lock().expect("no listener panics").extend(bodies);
        ConsumeResult::Consumed
    })
}

fn take(seen: &Seen) -> Vec<String> {
    let mut bodies = std::mem::take(&mut *seen.lock().expect("no listener panics"));
    bodies.sort();
    bodies
}

fn broadcasting(disk: &SimulatedDisk) -> PushConsumerOptions {
    PushConsumerOptions {
        model: MessageModel::Broadcasting,
        start: StartFrom::Earliest,
        offsets: Arc::new(DirectoryOffsets::on(disk.directory())),
        ..PushConsumerOptions::default()
    }
}

fn send(cluster: &Cluster, producer: &Producer, bodies: &[&'static str]) {
    for body in bodies {
        let message = Message::new("orders", *body).expect("a topic's name");
        cluster.wait(producer.send(message)).expect("stored");
    }
}

fn start(cluster: &Cluster, host: u8, disk: &SimulatedDisk, seen: &Seen) -> PushConsumer {
    cluster.push(host, "all", broadcasting(disk), &[("orders", "*")], noting(seen))
}

#[test]
fn a_closed_consumer_gets_only_what_is_new() {
    let cluster = Cluster::start(61, 1, 1);
    let producer = cluster.producer(1, ProducerOptions::default());
    send(&cluster, &producer, &["m0", "m1", "m2"]);
    let (mine, others) = (SimulatedDisk::new(1), SimulatedDisk::new(2));
    let (mine, others) = (mine.completing_at_once(), others.completing_at_once());
    let seen = Seen::default();
    let consumer = start(&cluster, 2, &mine, &seen);
    cluster.network.run_for(second(2));
    assert_eq!(take(&seen), ["m0", "m1", "m2"]);
    cluster.wait(consumer.close(second(1)));
    send(&cluster, &producer, &["m3", "m4"]);

    let again = start(&cluster, 3, &mine, &seen);
    cluster.network.run_for(second(2));
    assert_eq!(take(&seen), ["m3", "m4"]);
    let other = start(&cluster, 4, &others, &seen);
    cluster.network.run_for(second(2));
    assert_eq!(take(&seen), ["m0", "m1", "m2", "m3", "m4"], "every member has offsets of its own");
    drop((again, other));
}

/// Offsets are stored every five seconds.
#[test]
fn a_killed_consumer_repeats_only_what_it_had_not_stored() {
    let cluster = Cluster::start(62, 1, 1);
    let producer = cluster.producer(1, ProducerOptions::default());
    let disk = SimulatedDisk::new(1).completing_at_once();
    let seen = Seen::default();
    send(&cluster, &producer, &["m0"]);
    let consumer = start(&cluster, 2, &disk, &seen);
    cluster.network.run_for(second(6));
    send(&cluster, &producer, &["m1"]);
    cluster.network.run_for(second(1));
    assert_eq!(take(&seen), ["m0", "m1"]);
    cluster.client_host(2).kill();
    drop(consumer);
    let _again = start(&cluster, 3, &disk.crash(), &seen);
    cluster.network.run_for(second(2));
    assert_eq!(take(&seen), ["m1"]);
}

/// A start that guessed would skip or repeat everything.
#[test]
fn offsets_that_cannot_be_read_are_an_error_of_the_start() {
    let cluster = Cluster::start(63, 1, 1);
    let disk = SimulatedDisk::new(1).completing_at_once();
    disk.directory().make_directory("all").expect("an empty disk");
    disk.put("all/offsets.json", b"{\"offsetTable\":{").expect("an empty disk");
    let client = cluster.client(2);
    let seen = Seen::default();
    let starting = PushConsumer::start(
        &client,
        cluster::group("all"),
        broadcasting(&disk),
        [("orders", "*")],
        noting(&seen),
    );
    let error = cluster.wait(starting).expect_err("half a file");
    assert!(matches!(error, ClientError::KeptOffsets { .. }), "{error}");
    assert!(error.to_string().contains("all/offsets.json"), "{error}");
}
