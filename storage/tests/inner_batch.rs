//! A sender can flag a message as an inner batch; only batch queues may take it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use staticfire_storage::disk::SimulatedDisk;
use staticfire_storage::message::sys_flag;
use staticfire_storage::{
    AppendError, Background, Durability, Message, MessageError, QueueId, QueueOffset, Store, StoreOptions,
    SystemClock, TopicName,
};

fn message() -> Message {
    Message::new(TopicName::new("orders").unwrap(), QueueId(0), "body")
}

/// proves: store-format 10.1 rule 4, I14: nobody can make the queues stop behind a false batch
#[test]
fn an_inner_batch_is_refused_by_an_ordinary_queue() {
    let disk = SimulatedDisk::new(1).completing_at_once();
    let mut options = StoreOptions::on(disk.directory(), std::sync::Arc::new(SystemClock));
    (options.segment_bytes, options.background) = (1 << 16, Background::Caller);
    let store = Store::open(options).unwrap();
    let mut batch = message().with_property("INNER_NUM", "5");
    batch.sys_flag |= sys_flag::INNER_BATCH;
    for n in 0..3 {
        let refused = store.append(&batch).map(|_| ());
        let as_expected =
            matches!(refused, Err(AppendError::Message(MessageError::InnerBatch { messages: 5 })));
        assert!(as_expected, "{refused:?}");
        store.append(&message()).unwrap().wait(Durability::Flushed).unwrap();
        assert_eq!(store.queue("orders", QueueId(0)).unwrap().max(), QueueOffset(n + 1));
    }
}
