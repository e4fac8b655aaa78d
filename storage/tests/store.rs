//! What a user of the store may rely on, on real files.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a test waits for the real disk")]

use std::sync::mpsc;
use std::time::Duration;

use staticfire_storage::{
    Durability, Message, Outcome, QueueId, QueueOffset, Store, StoreOptions, TopicName,
};

fn options(folder: &tempfile::TempDir) -> StoreOptions {
    let mut options = StoreOptions::at(folder.path());
    options.segment_bytes = 64 << 10;
    options.queue_file_entries = 100;
    options
}

fn message(n: usize) -> Message {
    let topic = TopicName::new("orders").unwrap();
    Message::new(topic, QueueId(n as u32 % 3), format!("message {n}").repeat(10))
}

/// proves: C2, I13, I14
#[test]
fn what_was_appended_is_read_back_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(options(&folder)).unwrap();
    let mut last = None;
    for n in 0..1000 {
        let receipt = store.append(&message(n)).unwrap();
        assert_eq!(receipt.queue_offset(), QueueOffset(n as u64 / 3));
        last = Some(receipt);
    }
    last.unwrap().wait(Durability::Flushed).unwrap();
    let (done, dispatched) = mpsc::channel();
    store.when(
        Durability::Confirmed,
        staticfire_storage::Position { epoch: store.marks().epoch, end: store.marks().appended },
        Box::new(move |outcome| done.send(outcome).unwrap()),
    );
    let reached = dispatched.recv_timeout(Duration::from_secs(30));
    assert_eq!(reached, Ok(Outcome::Reached));
    for queue in 0..3 {
        let queue = store.queue("orders", QueueId(queue)).unwrap();
        let mut next = queue.min();
        while next < queue.max() {
            for record in queue.read(next, 32).unwrap() {
                let n = next.0 as usize * 3 + queue.id().0 as usize;
                assert_eq!(record.body(), message(n).body);
                assert_eq!(record.queue_offset(), next);
                next = next.after(1);
            }
        }
    }
    store.close().unwrap();
}
