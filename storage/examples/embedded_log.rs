//! A log inside a program: append, read, follow, lose the power, open again.
//!
//! ```sh
//! cargo run -p staticfire-storage --example embedded_log
//! ```

use std::sync::Arc;

use staticfire_storage::disk::SimulatedDisk;
use staticfire_storage::{
    Durability, Message, QueueId, QueueOffset, Store, StoreOptions, SystemClock, TopicName,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let disk = SimulatedDisk::new(42).completing_at_once(); // on a real one: StoreOptions::at("data")
    let open = |disk: &SimulatedDisk| Store::open(StoreOptions::on(disk.directory(), Arc::new(SystemClock)));
    let (topic, queue) = (TopicName::new("orders")?, QueueId(0));

    let store = open(&disk)?;
    for body in ["paid", "packed", "sent"] {
        store.append(&Message::new(topic.clone(), queue, body))?.wait(Durability::Flushed)?;
    }
    let orders = store.queue("orders", queue).ok_or("no such queue")?;
    for record in orders.read(QueueOffset(0), 32)? {
        println!("{:?} at {}", record.body(), record.physical()); // slices of the log, nothing is copied
    }
    let mut tail = store.subscribe(&topic, queue, orders.max());
    store.append(&Message::new(topic, queue, "received"))?;
    println!("{:?} is new", tail.next().ok_or("closed")??.body()); // waits for what is not there yet

    let store = open(&disk.crash())?; // the power went, and nobody closed anything
    print!("{}", store.report());
    assert_eq!(store.queue("orders", queue).map(|orders| orders.max()), Some(QueueOffset(4)));
    Ok(())
}
