//! The test kit itself: that a seed is a run, that plans are data, and that its oracles see what they
//! are there for.

mod failing;
mod oracles;
mod plans;
mod swarm;
