//! What a test may know about who talked to whom.

use std::net::SocketAddr;

use crate::{CloseReason, Command, Monotonic};

/// One line of the network's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When.
    pub at: Monotonic,
    /// The connection's number: both ends have the same, a reconnect has another.
    pub connection: u64,
    /// Whose event it is: who dialled, sent, received or closed.
    pub host: SocketAddr,
    /// The other end.
    pub peer: SocketAddr,
    /// What happened.
    pub event: Event,
}

/// What happened on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "a frame's fields are those of its command")]
pub enum Event {
    /// `host` began to connect to `peer`.
    Dialled,
    /// `host` accepted a connection that `peer` dialled.
    Accepted,
    /// `host` could not connect to `peer`.
    Failed(std::io::ErrorKind),
    /// `host` queued a frame.
    Sent { code: i32, opaque: i32, flag: i32 },
    /// A frame arrived at `host` and was decoded.
    Arrived { code: i32, opaque: i32, flag: i32 },
    /// The end at `host` closed.
    Closed(CloseReason),
}

impl Event {
    pub(super) const fn sent(command: &Command) -> Self {
        Self::Sent { code: command.code, opaque: command.opaque, flag: command.flag }
    }

    pub(super) const fn arrived(command: &Command) -> Self {
        Self::Arrived { code: command.code, opaque: command.opaque, flag: command.flag }
    }

    /// The code of the request in a frame that `host` sent; `None` for all else.
    #[must_use]
    pub const fn sent_request(&self) -> Option<i32> {
        match self {
            Self::Sent { code, flag, .. } if *flag & crate::command::RESPONSE == 0 => Some(*code),
            _ => None,
        }
    }

    /// A number for the trace.
    pub(super) fn digest(&self) -> u64 {
        match self {
            Self::Dialled => 1,
            Self::Accepted => 2,
            Self::Failed(_) => 3,
            Self::Sent { code, opaque, flag } => 4 + frame(*code, *opaque, *flag),
            Self::Arrived { code, opaque, flag } => 5 + frame(*code, *opaque, *flag),
            Self::Closed(_) => 6,
        }
    }
}

fn frame(code: i32, opaque: i32, flag: i32) -> u64 {
    let wide = |number: i32| u64::from(number.cast_unsigned());
    wide(code) << 3 ^ wide(opaque) << 24 ^ wide(flag) << 50
}
