//! Only its test: `tests/exhaust.rs` searches all states of a small group of real replicas.
