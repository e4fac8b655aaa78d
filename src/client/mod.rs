//! Producers and consumers, on any transport.
//!
//! ```text
//!   Producer   PullConsumer   PushConsumer
//!       └───────────┼──────────────┘
//!                 Client      routes every 30 s, heartbeats every 30 s, one connection per peer
//!            ┌──────┴──────┐
//!        name servers    brokers
//! ```
//!
//! Everything is an async function or a task of the [`Runtime`](crate::transport::Runtime); no thread
//! is blocked, and all time and randomness come from the runtime, so that a simulated one runs a
//! whole cluster in virtual time.

mod error;
mod kept_offsets;
mod message;
mod packing;
mod peers;
mod producer;
mod pull;
mod pull_consumer;
mod push;
mod route;
mod shared;
mod unique_key;
mod wait;

pub mod allocate;

pub use error::{ClientError, MessageFault};
pub use kept_offsets::{DirectoryOffsets, KeptOffsets, MemoryOffsets, OffsetStore};
pub use message::{Message, ReceivedMessage};
pub use packing::UNPACKED_MAX;
pub use producer::{Producer, ProducerOptions, SendResult, SendStatus};
pub use pull::{PullStatus, Pulled};
pub use pull_consumer::{PullConsumer, PullConsumerOptions};
pub use push::{
    ConsumeResult, FlowLimits, Listener, PushConsumer, PushConsumerOptions, StartFrom, async_listener,
    listener,
};
pub use shared::{Client, ClientOptions};
