//! The transport of staticfire: connections that carry remoting frames, and the frame codecs.

pub mod runtime;

pub use runtime::{BoxFuture, Monotonic, Runtime};
