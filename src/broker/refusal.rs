//! Why a request was refused, as the peer gets to hear it: a code and a sentence without paths,
//! addresses or versions.

use staticfire_storage::{AppendError, NameError, ReadError};
use staticfire_transport::Command;

use super::settling::NotPersisted;
use super::topics::TopicError;
use crate::protocol::codes::response;
use crate::protocol::header::HeaderError;
use crate::protocol::json::BodyError;

/// A code other than success, and its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// One of [`response`].
    pub code: i32,
    /// The reason.
    pub remark: String,
}

impl Refusal {
    /// Refuses with `code` for this reason.
    pub fn new(code: i32, remark: impl Into<String>) -> Self {
        Self { code, remark: remark.into() }
    }

    /// The topic does not exist.
    pub fn no_topic(topic: &str) -> Self {
        Self::new(response::TOPIC_NOT_EXIST, format!("topic[{topic}] not exist, apply first please!"))
    }

    /// The consumer group does not exist.
    pub fn no_group(group: &str) -> Self {
        Self::new(
            response::SUBSCRIPTION_GROUP_NOT_EXIST,
            format!("subscription group [{group}] does not exist"),
        )
    }

    /// Refuses a parameter.
    pub fn parameter(remark: impl Into<String>) -> Self {
        Self::new(response::INVALID_PARAMETER, remark)
    }

    /// Something failed here.
    pub fn system(remark: impl Into<String>) -> Self {
        Self::new(response::SYSTEM_ERROR, remark)
    }

    /// The answer to `request`.
    #[must_use]
    pub fn answer(self, request: &Command) -> Command {
        request.answer(self.code).with_remark(self.remark)
    }
}

impl From<HeaderError> for Refusal {
    fn from(error: HeaderError) -> Self {
        Self::parameter(error.to_string())
    }
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        Self::parameter(error.to_string())
    }
}

impl From<NameError> for Refusal {
    fn from(error: NameError) -> Self {
        Self::parameter(error.to_string())
    }
}

impl From<TopicError> for Refusal {
    fn from(error: TopicError) -> Self {
        let code = match error {
            TopicError::TooMany(_) => response::NO_PERMISSION,
            TopicError::Template(_) => response::TOPIC_NOT_EXIST,
            _ => response::INVALID_PARAMETER,
        };
        Self::new(code, error.to_string())
    }
}

impl From<NotPersisted> for Refusal {
    fn from(NotPersisted(why): NotPersisted) -> Self {
        Self::system(format!("the change was made and may be lost: {why}"))
    }
}

impl From<&AppendError> for Refusal {
    /// The codes of store-format §10.3: none of them says OK.
    fn from(error: &AppendError) -> Self {
        match error {
            AppendError::Message(_) | AppendError::TooLargeForSegment { .. } => {
                Self::new(response::MESSAGE_ILLEGAL, format!("the message is illegal: {error}"))
            }
            AppendError::Busy { .. } => Self::new(
                response::SYSTEM_BUSY,
                "[PC_SYNCHRONIZED]broker busy, start flow control for a while",
            ),
            AppendError::NoSegment { .. } => {
                Self::system("create mapped file failed, server is busy or broken.")
            }
            AppendError::Fenced { .. }
            | AppendError::NotAtEnd { .. }
            | AppendError::Failed(_)
            | AppendError::Closed => Self::new(
                response::SERVICE_NOT_AVAILABLE,
                "service not available now. The store takes no messages at present",
            ),
        }
    }
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Self {
        Self::system(match error {
            ReadError::OutOfRange { .. } | ReadError::NoRecord { .. } => "there is no such message",
            ReadError::Damaged { .. } | ReadError::Queue(_) | ReadError::Failed(_) | ReadError::Io { .. } => {
                "the message cannot be read"
            }
        })
    }
}
