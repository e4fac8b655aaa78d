//! RocketMQ's architecture as a Rust library: name server, broker, producer and consumers, written
//! against the seams of [`storage`] and [`transport`] alone, so that the same code runs on disks and
//! sockets and on simulated ones.

pub use staticfire_replication as replication;
pub use staticfire_storage as storage;
pub use staticfire_transport as transport;

pub mod broker;
pub mod client;
pub mod name_server;
pub mod protocol;
#[cfg(feature = "sim")]
pub mod sim;

/// Runs the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
