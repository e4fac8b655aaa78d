//! What one connection may cost.

use std::time::Duration;

/// Limits of one connection. The defaults are those of a server that clients of RocketMQ use.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Closed after so long without anything read or written. Default 120 s, as clients do.
    pub idle: Duration,
    /// A frame is complete so long after its first byte, or the connection closes. Default 15 s.
    pub frame: Duration,
    /// A connection attempt ends after this. Default 3 s.
    pub connect: Duration,
    /// Bytes sent but not taken by the network, above which the next frame is refused and the
    /// connection closed. Default 16 MiB.
    pub unsent_bytes: usize,
    /// Bytes of unsent answers above which nothing more is read from the peer, until it has read
    /// them. Default 4 MiB.
    pub unsent_answer_bytes: usize,
    /// Requests without an answer, above which nothing more is read. Default 8,192.
    pub unanswered_requests: usize,
    /// Bytes of requests without an answer (estimated by their average), above which nothing more
    /// is read. Default 64 MiB.
    pub unanswered_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(120),
            frame: Duration::from_secs(15),
            connect: Duration::from_secs(3),
            unsent_bytes: 16 << 20,
            unsent_answer_bytes: 4 << 20,
            unanswered_requests: 8192,
            unanswered_bytes: 64 << 20,
        }
    }
}
