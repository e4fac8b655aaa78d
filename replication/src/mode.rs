//! What an acknowledgement waits for.

use std::fmt;
use std::num::NonZeroU8;
use std::str::FromStr;

use staticfire_storage::Durability;

/// What OK means for a broker; a topic may raise it, and nothing lowers it.
///
/// Modes are ordered by what they survive: `written < flushed < replicated k < quorum`, and more
/// slaves are more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// Loses at a power cut what was acknowledged in the half second before. The operating system
    /// has the message, so it survives a killed process.
    Written,
    /// On stable storage here: survives a power cut.
    #[default]
    Flushed,
    /// On stable storage here, and on this many slaves, counted by identity and never by
    /// connection.
    Replicated {
        /// Slaves that must have it.
        slaves: NonZeroU8,
        /// In which sense they must have it.
        ack: SlaveAck,
    },
    /// On stable storage of a majority of the group, this node counted by its own flush only.
    Quorum,
}

/// In which sense a slave has a message when it counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SlaveAck {
    /// It received it: a power cut of master and slave together may take it from the slave.
    #[default]
    Received,
    /// It flushed it.
    Flushed,
}

impl Mode {
    /// What must hold on this node alone before the mode can be satisfied.
    #[must_use]
    pub const fn local(self) -> Durability {
        match self {
            Self::Written => Durability::Written,
            Self::Flushed | Self::Replicated { .. } | Self::Quorum => Durability::Flushed,
        }
    }

    /// The stricter of the broker's mode and the topic's.
    #[must_use]
    pub fn raised_by(self, topic: Self) -> Self {
        self.max(topic)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Written => f.write_str("written"),
            Self::Flushed => f.write_str("flushed"),
            Self::Replicated { slaves, ack: SlaveAck::Received } => write!(f, "replicated {slaves}"),
            Self::Replicated { slaves, ack: SlaveAck::Flushed } => write!(f, "replicated {slaves} flushed"),
            Self::Quorum => f.write_str("quorum"),
        }
    }
}

/// The text names no mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModeError(String);

impl fmt::Display for ModeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(found) = self;
        write!(
            f,
            "{found:?} is no mode; there are written, flushed, replicated K, replicated K flushed, quorum"
        )
    }
}

impl std::error::Error for ModeError {}

impl FromStr for Mode {
    type Err = ModeError;

    /// Reads what `Display` writes.
    fn from_str(text: &str) -> Result<Self, ModeError> {
        let words: Vec<_> = text.split_ascii_whitespace().collect();
        let replicated = |slaves: &str, ack| {
            let slaves = slaves.parse().map_err(|_| ModeError(text.to_owned()))?;
            Ok(Self::Replicated { slaves, ack })
        };
        match words[..] {
            ["written"] => Ok(Self::Written),
            ["flushed"] => Ok(Self::Flushed),
            ["quorum"] => Ok(Self::Quorum),
            ["replicated", slaves] => replicated(slaves, SlaveAck::Received),
            ["replicated", slaves, "flushed"] => replicated(slaves, SlaveAck::Flushed),
            _ => Err(ModeError(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(text: &str) -> Mode {
        text.parse().unwrap()
    }

    /// proves: D2: a topic raises what a broker promises, and nothing lowers it
    #[test]
    fn a_topic_only_raises_the_mode() {
        let ordered =
            ["written", "flushed", "replicated 1", "replicated 1 flushed", "replicated 2", "quorum"];
        for (index, lower) in ordered.iter().enumerate() {
            for higher in &ordered[index..] {
                assert_eq!(mode(lower).raised_by(mode(higher)), mode(higher));
                assert_eq!(mode(higher).raised_by(mode(lower)), mode(higher));
            }
        }
    }

    #[test]
    fn a_mode_reads_as_it_is_written() {
        for text in ["written", "flushed", "replicated 3", "replicated 3 flushed", "quorum"] {
            assert_eq!(mode(text).to_string(), text);
        }
        for text in ["", "fast", "replicated", "replicated 0", "replicated 300", "flushed 2"] {
            assert_eq!(text.parse::<Mode>(), Err(ModeError(text.to_owned())));
        }
    }
}
