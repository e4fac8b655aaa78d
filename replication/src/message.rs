//! What the nodes of a group say to each other. All of it is asked and answered; the one who copies
//! asks, the one who has the log never begins (M18).

use staticfire_storage::{Epoch, PhysicalOffset, Position};

use crate::{DiskId, NodeId};

/// Something one node asks another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Request {
    /// Give me the log from where I stand.
    Fetch(Fetch),
    /// Vote for me, or would you?
    Vote(VoteRequest),
    /// Stand for election now: I am about to leave (leadership transfer).
    TakeOver {
        /// The epoch that is about to end.
        epoch: Epoch,
    },
    /// Who are you, on which disk, and how far have you got? Asked by a node that is no voter.
    Introduce {
        /// The disk of the one who asks.
        disk: DiskId,
    },
}

/// What it is told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Answer {
    /// To a fetch.
    Fetch(FetchAnswer),
    /// To the request for a vote.
    Vote(VoteAnswer),
    /// To `TakeOver`: heard.
    TakeOver {
        /// The newest epoch the answering node knows.
        epoch: Epoch,
    },
    /// To `Introduce`.
    Introduce(Introduction),
}

/// The one request that copies, confirms, reconciles, and shows that its sender is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fetch {
    /// Numbers the attempts of this node to follow; a higher one ends the lower ones.
    pub session: u64,
    /// The newest epoch the asking node knows: tells an old leader that it is one (KIP-320).
    pub epoch: Epoch,
    /// Where its log ends, and the epoch of the record that ends there.
    pub at: Position,
    /// What of it is on stable storage there; never above `at`.
    pub flushed: PhysicalOffset,
    /// What consumers may read there; never above `at`.
    pub visible: PhysicalOffset,
    /// The newest round it has heard of.
    pub round: u64,
    /// It copies, but counts for nothing.
    pub learner: bool,
}

/// What the asked node has to say to a [`Fetch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FetchAnswer {
    /// The logs agree; here is what comes next. May be empty: nothing is there, but I am.
    Records {
        /// The session it belongs to.
        session: u64,
        /// The leader's epoch.
        epoch: Epoch,
        /// Position of the first byte that comes with this.
        from: PhysicalOffset,
        /// One past the last one; bytes may be cut anywhere.
        upto: PhysicalOffset,
        /// Where the leader's log ends.
        end: PhysicalOffset,
        /// What the leader knows to be confirmed.
        confirmed: PhysicalOffset,
        /// To be repeated in the next fetch: shows that the leader still was one when it was asked.
        round: u64,
    },
    /// The logs differ before `at`: this is the most they can have in common.
    Diverged {
        /// The session it belongs to.
        session: u64,
        /// The leader's epoch.
        epoch: Epoch,
        /// The largest epoch here up to the one asked for, and its end.
        common: Position,
    },
    /// What was asked for is no longer kept: begin again from here, with the state noted there.
    Below {
        /// The session it belongs to.
        session: u64,
        /// The leader's epoch.
        epoch: Epoch,
        /// The oldest position that is kept.
        base: Position,
    },
    /// Not here.
    Refused {
        /// The newest epoch the asked node knows.
        epoch: Epoch,
        /// Whom to ask instead.
        leader: Option<NodeId>,
        /// The newest session of the asking node that is known here.
        session: u64,
    },
}

/// Asks for a vote in `epoch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VoteRequest {
    /// The epoch to be led.
    pub epoch: Epoch,
    /// Where the candidate's log ends (appended, not flushed).
    pub last: Position,
    /// Only asks whether it would be worth it: nothing is promised, no epoch begins.
    pub pre: bool,
    /// The leader itself asked for this, so its being alive is no reason to refuse.
    pub transfer: bool,
}

/// A vote, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VoteAnswer {
    /// The newest epoch the answering node knows.
    pub epoch: Epoch,
    /// The epoch that was asked for.
    pub asked: Epoch,
    /// It was only asked whether.
    pub pre: bool,
    /// Yes.
    pub granted: bool,
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Introduction {
    /// Its disk.
    pub disk: DiskId,
    /// The newest epoch it knows.
    pub epoch: Epoch,
    /// Where its log ends.
    pub last: Position,
    /// The least it votes for, if it is a voter.
    pub floor: Position,
    /// The disks that formed the group, if it is a voter; empty if not.
    pub formed: Vec<(NodeId, DiskId)>,
}
