//! Store directories written by RocketMQ 5.4.0, read here (see `tests/fixtures/README.md`).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "unpacking archives needs real files"
)]

mod fixture;
mod open;
mod queues;
mod records;
mod torn;
mod verify;
