//! What an acknowledgement says: what was reached, never more.

use std::fmt;

/// How far a message had got when its sender was answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reached {
    /// The operating system of this node had it.
    pub written: bool,
    /// It was on stable storage of this node.
    pub flushed: bool,
    /// Slaves that had received it, each counted once.
    pub received_by: u8,
    /// Slaves that had it on stable storage, each counted once.
    pub flushed_by: u8,
}

/// How a send ended, in the words of RocketMQ's clients where they have one (store-format §10.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Acknowledgement {
    /// The mode was satisfied.
    Ok(Reached),
    /// Certainly not stored: too few slaves were in sync, and nothing was written.
    TooFewInSync {
        /// Slaves in sync.
        in_sync: u8,
        /// Slaves that the mode asks for.
        wanted: u8,
    },
    /// Stored, but not flushed here in time: FLUSH_DISK_TIMEOUT.
    FlushTimedOut(Reached),
    /// Stored, but too few slaves said so in time: FLUSH_SLAVE_TIMEOUT.
    SlaveTimedOut(Reached),
    /// Stored here, and the slaves were gone before they could have it: SLAVE_NOT_AVAILABLE.
    SlaveUnavailable(Reached),
    /// The epoch ended, or a flush failed: stored or not, nobody here knows.
    Unknown,
}

impl Acknowledgement {
    /// True when the sender was promised what the mode means.
    #[must_use]
    pub const fn is_ok(self) -> bool {
        matches!(self, Self::Ok(_))
    }

    /// True when sending the message again cannot make a second copy of it.
    #[must_use]
    pub const fn is_certainly_not_stored(self) -> bool {
        matches!(self, Self::TooFewInSync { .. })
    }
}

impl fmt::Display for Acknowledgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok(reached) => write!(f, "OK: {reached}"),
            Self::TooFewInSync { in_sync, wanted } => {
                write!(f, "not stored: {in_sync} slaves are in sync, {wanted} are wanted")
            }
            Self::FlushTimedOut(reached) => write!(f, "stored, not flushed in time: {reached}"),
            Self::SlaveTimedOut(reached) => write!(f, "stored, not copied in time: {reached}"),
            Self::SlaveUnavailable(reached) => write!(f, "stored, no slave to copy it: {reached}"),
            Self::Unknown => f.write_str("stored or not, nobody here knows"),
        }
    }
}

impl fmt::Display for Reached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let here = match (self.flushed, self.written) {
            (true, _) => "flushed",
            (false, true) => "written",
            (false, false) => "not written",
        };
        write!(f, "{here} here, received by {} slaves, flushed by {}", self.received_by, self.flushed_by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// proves: I25, Z31: no mode degrades silently
    #[test]
    fn only_ok_is_ok() {
        let reached = Reached { written: true, flushed: true, received_by: 1, flushed_by: 0 };
        assert!(Acknowledgement::Ok(reached).is_ok());
        let others = [
            Acknowledgement::TooFewInSync { in_sync: 0, wanted: 1 },
            Acknowledgement::FlushTimedOut(reached),
            Acknowledgement::SlaveTimedOut(reached),
            Acknowledgement::SlaveUnavailable(reached),
            Acknowledgement::Unknown,
        ];
        assert!(others.iter().all(|other| !other.is_ok()));
        assert_eq!(others.iter().filter(|other| other.is_certainly_not_stored()).count(), 1);
    }
}
