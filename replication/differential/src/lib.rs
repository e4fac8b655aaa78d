//! Only its test: `tests/schedules.rs` runs the same schedules on our replicas and on the `raft` crate.
