//! The vocabulary of replication: what an acknowledgement promises.
//!
//! Copying, read advice and failover come later; the modes are fixed now because every waiter in
//! the broker is written against them.

pub use staticfire_storage as storage;
