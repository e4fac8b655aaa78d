//! staticfire is RocketMQ's storage idea as a Rust library.

pub use staticfire_storage as storage;
pub use staticfire_transport as transport;

pub mod broker;
pub mod client;
pub mod name_server;
pub mod protocol;
