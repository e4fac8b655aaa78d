//! Remoting frames: bytes in, commands out, and back.

/// Why bytes are not a frame. The connection they came from is closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The length field is below 4 or above what a frame may have.
    Length {
        /// Bytes declared to follow the field.
        declared: u32,
        /// The most that may follow.
        limit: u32,
    },
    /// The header's length leaves the frame, is zero or above what a header may have.
    HeaderLength {
        /// Bytes declared.
        declared: u32,
        /// The most this frame can hold.
        limit: u32,
    },
    /// The header is neither JSON (0) nor binary (1).
    Encoding(u8),
    /// The header is not the JSON of a command.
    Json(String),
    /// The binary header ends early or has a length that leaves it.
    Binary {
        /// The field that is wrong.
        field: &'static str,
        /// Byte of the header at which it starts.
        at: usize,
    },
    /// A header field is larger, or there are more of them, than accepted.
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// The most accepted.
        limit: usize,
    },
}

impl std::fmt::Display for FrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Length { declared, limit } => {
                write!(f, "frame length is {declared}, must be between 4 and {limit}")
            }
            Self::HeaderLength { declared, limit } => {
                write!(f, "header length is {declared}, must be between 1 and {limit}")
            }
            Self::Encoding(found) => write!(f, "header encoding is {found}, must be 0 (JSON) or 1 (binary)"),
            Self::Json(error) => write!(f, "JSON header: {error}"),
            Self::Binary { field, at } => write!(f, "binary header: bad {field} at byte {at}"),
            Self::Limit { what, limit } => write!(f, "header has more than {limit} {what}"),
        }
    }
}

impl std::error::Error for FrameError {}
