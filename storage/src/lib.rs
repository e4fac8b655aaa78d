//! One zero-copy commit log shared by all topics, and consume queues derived from it.

pub mod clock;
pub mod name;
pub mod position;

pub use clock::{Clock, SystemClock};
pub use name::{NameError, TopicName};
pub use position::{Epoch, PhysicalOffset, Position, QueueOffset};
