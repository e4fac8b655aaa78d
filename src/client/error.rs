//! Why something asked of a name server or broker did not happen.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use staticfire_storage::NameError;
use staticfire_storage::properties::PropertyError;
use staticfire_transport::CallError;

use crate::protocol::codes::response;
use crate::protocol::filter::FilterError;

/// Why something asked of a name server or broker did not happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientError {
    /// A name is not acceptable.
    Name(NameError),
    /// A tag expression is not acceptable.
    Filter(FilterError),
    /// A message is not acceptable.
    Message(MessageFault),
    /// No name server is configured, or none answered.
    NameServers,
    /// The name servers know no broker for this topic.
    NoRoute {
        /// The topic.
        topic: String,
    },
    /// The topic has no queue that may be written or read.
    NoQueue {
        /// The topic.
        topic: String,
    },
    /// A name server or a broker of a route whose address is not `ip:port`, and no `host:port` that was found.
    Address {
        /// The text.
        found: String,
    },
    /// No connection could be made.
    Unreachable {
        /// To whom.
        peer: SocketAddr,
        /// The system's reason.
        kind: io::ErrorKind,
    },
    /// There is no answer. After anything but a refused send, the peer may have done what was asked.
    NoAnswer {
        /// Of whom.
        peer: SocketAddr,
        /// Why.
        error: CallError,
    },
    /// The peer answered with an error.
    Refused {
        /// Who.
        peer: SocketAddr,
        /// The code, see [`response`].
        code: i32,
        /// The peer's words.
        remark: String,
    },
    /// The peer's answer is not understood.
    Answer {
        /// Who.
        peer: SocketAddr,
        /// What is wrong with it.
        message: String,
    },
    /// The offsets of a broadcasting group, which are kept here and not at brokers, cannot be read.
    KeptOffsets {
        /// The group.
        group: String,
        /// What is wrong.
        message: String,
    },
    /// There was not enough time.
    TimedOut,
    /// The client was closed.
    Closed,
}

/// Why a message cannot be sent, by whatever broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageFault {
    /// A property cannot be encoded.
    Property(PropertyError),
    /// The body is empty.
    EmptyBody,
    /// The body, or the batch, has more bytes than [`ProducerOptions`](super::ProducerOptions) allow.
    TooLarge {
        /// Bytes there are.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// A batch holds messages of several topics, delayed ones, ones for a retry topic, or none.
    Batch,
}

impl ClientError {
    /// May the peer have done what was asked, although this is an error?
    #[must_use]
    pub const fn is_outcome_unknown(&self) -> bool {
        matches!(
            self,
            Self::NoAnswer { error: CallError::Closed | CallError::TimedOut, .. }
                | Self::Answer { .. }
                | Self::TimedOut
                // Brokers say so too of what they stored and cannot vouch for.
                | Self::Refused { code: response::SYSTEM_ERROR, .. }
        )
    }

    /// The code a peer refused with.
    #[must_use]
    pub const fn refused_code(&self) -> Option<i32> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(error) => error.fmt(f),
            Self::Filter(error) => error.fmt(f),
            Self::Message(fault) => fault.fmt(f),
            Self::NameServers => f.write_str("no name server answered; check their addresses"),
            Self::NoRoute { topic } => write!(
                f,
                "no broker has topic {topic}: create it, or let a broker create topics on the first send"
            ),
            Self::NoQueue { topic } => {
                write!(
                    f,
                    "no queue of topic {topic} permits this now: its brokers have no master or forbid it"
                )
            }
            Self::Address { found } => {
                write!(f, "{found:?} is no ip:port, and no host:port that can be found")
            }
            Self::Unreachable { peer, kind } => write!(f, "no connection to {peer}: {kind}"),
            Self::NoAnswer { peer, error } => write!(f, "{peer}: {error}"),
            Self::Refused { peer, code, remark } => {
                write!(f, "{peer} refused: {} ({code}) {remark}", response::name(*code).unwrap_or("code"))
            }
            Self::Answer { peer, message } => write!(f, "the answer of {peer} is not understood: {message}"),
            Self::KeptOffsets { group, message } => {
                write!(f, "the offsets of group {group} cannot be read: {message}")
            }
            Self::TimedOut => f.write_str("it took too long"),
            Self::Closed => f.write_str("the client is closed"),
        }
    }
}

impl std::error::Error for ClientError {}

impl fmt::Display for MessageFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Property(error) => error.fmt(f),
            Self::EmptyBody => f.write_str("a message needs a body"),
            Self::TooLarge { len, max } => write!(f, "{len} bytes are to be sent, at most {max} are allowed"),
            Self::Batch => f.write_str(
                "a batch holds messages of one topic, without delay, and not for a retry topic; at least one",
            ),
        }
    }
}

impl From<NameError> for ClientError {
    fn from(error: NameError) -> Self {
        Self::Name(error)
    }
}

impl From<FilterError> for ClientError {
    fn from(error: FilterError) -> Self {
        Self::Filter(error)
    }
}

impl From<MessageFault> for ClientError {
    fn from(fault: MessageFault) -> Self {
        Self::Message(fault)
    }
}

impl From<PropertyError> for MessageFault {
    fn from(error: PropertyError) -> Self {
        Self::Property(error)
    }
}
