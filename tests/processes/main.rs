//! Broker groups of real processes: leaders that are killed or asked to stop under load, and a hostile world
//! (`hostile.rs`, which says how it is run).
#![cfg(all(unix, feature = "cli"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "it stands outside, with files and processes")]

mod group;
#[cfg(target_os = "linux")]
mod hostile;
mod leaders;
mod load;
#[cfg(target_os = "linux")]
mod network;
#[cfg(target_os = "linux")]
mod relay;
mod server;
mod stopping;
