//! Appends and reads alone, to count instructions: unlike times they do not depend on what else the
//! machine does.
//!
//! ```text
//! cargo build --release -p staticfire-benches --example append_load
//! valgrind --tool=callgrind --toggle-collect='*append_load::measured*' append_load WHAT [COUNT]
//! ```
//! `WHAT` is `one`, `batch` or `read`; printed is the number of records, to divide by.

use std::hint::black_box;

use staticfire_storage::{Durability, Message, QueueId, QueueOffset, Store, StoreOptions, TopicName};

const BATCH: usize = 32;

fn main() {
    let what = std::env::args().nth(1).expect("one, batch or read");
    let count = std::env::args().nth(2).map_or(3200, |count| count.parse().expect("a number of records"));
    let directory = tempfile::tempdir().expect("a directory for the log");
    let mut options = StoreOptions::at(directory.path().join("store"));
    options.durability = Durability::Written;
    options.segment_bytes = 256 << 20;
    let store = Store::open(options).expect("an empty directory opens");
    let messages: Vec<Message> = (0..4).cycle().take(BATCH).map(message).collect();
    // Whatever happens only once has happened then.
    for _ in 0..20 {
        appended(&store, &messages, 1);
        appended(&store, &messages, BATCH);
    }
    match what.as_str() {
        "one" => measured(|| (0..count).for_each(|_| appended(&store, &messages, 1))),
        "batch" => measured(|| (0..count / BATCH).for_each(|_| appended(&store, &messages, BATCH))),
        _ => {
            (0..count / BATCH * 4).for_each(|_| appended(&store, &messages, BATCH));
            measured(|| read(&store, count));
        }
    }
    println!("{what}: {count} records");
    store.close().expect("an orderly end");
}

#[inline(never)]
fn measured(work: impl FnOnce()) {
    work();
}

/// 1 KiB, with the properties of a Java client's message.
fn message(queue: u32) -> Message {
    let topic = TopicName::new("BenchTopic").expect("a valid name");
    Message::new(topic, QueueId(queue), vec![b'x'; 1024])
        .with_property("UNIQ_KEY", "7F000001000100000000000000000000")
        .with_property("WAIT", "true")
}

fn appended(store: &Store, messages: &[Message], count: usize) {
    match messages {
        [one, ..] if count == 1 => drop(black_box(store.append(one).expect("an append"))),
        many => drop(black_box(store.append_each(many))),
    }
}

fn read(store: &Store, count: usize) {
    let queue = store.queue("BenchTopic", QueueId(0)).expect("messages were sent to it");
    for from in (0..count / BATCH * BATCH).step_by(BATCH) {
        let records = queue.read(QueueOffset(from as u64), BATCH).expect("what was appended");
        assert_eq!(black_box(records).len(), BATCH);
    }
}
