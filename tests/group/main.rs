//! Broker groups: brokers that copy and elect, with producers and consumers, in virtual time.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod advising;
mod electing;
mod manual;
mod metrics;
mod raising;
mod state;
mod world;
