//! The transport of staticfire: connections that carry remoting frames, as a trait with two
//! implementations, and the frame codecs.
//!
//! ```text
//!   bytes ──> FrameDecoder ──> Command ──> Service::turn ──> Connection::send ──> vectored write
//!                                 └──────> the Call that waits for this opaque
//! ```
//!
//! * [`tcp`]: sockets; tokio stays inside.
//! * [`memory`]: a network of simulated hosts in virtual time, with delay, loss, reordering and
//!   partitions drawn from a seed.
//!
//! Both are streams of bytes under one driver of connections, and both pass the public suite in
//! [`contract`]. What is written against [`Transport`], [`Service`] and [`Runtime`] runs on either.

mod calls;
pub mod command;
pub mod connection;
pub mod contract;
mod driver;
mod end;
mod endpoint;
mod ext_fields;
pub mod frame;
mod limits;
pub mod memory;
mod outbox;
pub mod runtime;
#[cfg(feature = "tcp")]
pub mod tcp;

pub use command::{Body, Command, ExtFields, HeaderEncoding, Language};
pub use connection::{
    Call, CallError, CloseReason, Connection, ConnectionEnd, ConnectionId, Listener, SendError, Service,
    Transport,
};
pub use endpoint::{Endpoint, EndpointError};
pub use frame::{FrameDecoder, FrameError};
pub use limits::Limits;
pub use runtime::{BoxFuture, Monotonic, Runtime};
