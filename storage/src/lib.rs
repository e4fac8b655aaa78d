//! One zero-copy commit log shared by all topics, and consume queues derived from it.

#![deny(unsafe_code)]

pub mod batch;
pub mod blank;
pub mod checksum;
pub mod clock;
pub mod disk;
pub mod dispatch;
pub mod message;
pub mod message_id;
pub mod name;
pub mod position;
pub mod properties;
pub mod queue;
pub mod record;
pub mod tag;

pub use clock::{Clock, SystemClock};
pub use dispatch::{
    Arrival, DelayLevels, DispatchError, DispatchFact, DispatchRules, Dispatcher, LogItem, LogRecords,
    Observer,
};
pub use message::{Message, MessageError};
pub use message_id::MessageId;
pub use name::{NameError, TopicName};
pub use position::{Epoch, PhysicalOffset, Position, QueueId, QueueOffset};
pub use queue::{Boundary, ConsumeQueue, QueueEntry, QueueError, QueueOptions, QueueTable};
pub use record::{Record, RecordCrc, RecordError};
