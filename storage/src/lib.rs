//! One zero-copy commit log shared by all topics, and consume queues derived from it.

#![deny(unsafe_code)]

pub mod batch;
pub mod blank;
pub mod checkpoint;
pub mod checksum;
mod chores;
pub mod clock;
mod combine;
pub mod disk;
pub mod dispatch;
mod epochs;
mod error;
mod log;
mod marks;
pub mod message;
pub mod message_id;
pub mod name;
mod open;
mod options;
pub mod orphans;
mod planted;
pub mod position;
pub mod properties;
pub mod queue;
mod receipt;
pub mod record;
mod recovery;
pub mod small_file;
mod sparse;
mod state;
mod stepwise;
mod store;
mod subscription;
pub mod tag;
mod threads;
pub mod verify;

pub use clock::{Clock, SystemClock};
pub use dispatch::{
    Arrival, DelayLevels, DispatchError, DispatchFact, DispatchRules, Dispatcher, LogItem, LogRecords,
    Observer,
};
pub use epochs::{CutError, LeadError};
pub use error::{Failure, ReadError};
pub use log::AppendError;
pub use log::cold::ReadDone;
pub use log::retention::KeptFor;
pub use marks::{Durability, Marks, Outcome, Waiter};
pub use message::{Message, MessageError};
pub use message_id::MessageId;
pub use name::{NameError, TopicName};
pub use open::{OpenError, RecoveryReport};
pub use options::{Background, Retention, StoreOptions};
#[cfg(feature = "planted-bugs")]
pub use planted::plant;
pub use position::{Epoch, PhysicalOffset, Position, QueueId, QueueOffset};
pub use queue::{Boundary, ConsumeQueue, QueueEntry, QueueError, QueueOptions, QueueTable};
pub use receipt::{NotReached, Reached, Receipt};
pub use record::{Record, RecordCrc, RecordError};
pub use recovery::{Damage, LogRecovery, TailCut, WhatIsWrong};
#[doc(hidden)]
pub use stepwise::StoppedProducer;
pub use store::{CloseError, Queue, Records, Step, Store};
pub use subscription::Subscription;
pub use verify::{VerifyError, VerifyReport, verify};
