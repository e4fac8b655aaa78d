//! Who belongs to a broker group.

use std::fmt;

use staticfire_storage::{Epoch, Position};

/// Number of a node in its broker group, as its configuration says it; unique and kept for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Drawn at random when a node's directory is first used: tells a disk from the empty one that
/// replaced it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskId(pub u64);

/// The nodes of one group, in order, and which of them this is. Membership is static.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Group {
    members: Vec<NodeId>,
    me: NodeId,
}

/// The list of members cannot be a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupError {
    /// This node is not among the members.
    NotMember(NodeId),
    /// A node is named twice.
    Twice(NodeId),
}

impl fmt::Display for GroupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotMember(me) => write!(f, "node {me} is not among the members of its group"),
            Self::Twice(node) => write!(f, "node {node} is named twice among the members of the group"),
        }
    }
}

impl std::error::Error for GroupError {}

impl Group {
    /// A group of `members`, seen from `me`.
    ///
    /// # Errors
    /// [`GroupError`].
    pub fn new(mut members: Vec<NodeId>, me: NodeId) -> Result<Self, GroupError> {
        members.sort_unstable();
        if let Some(pair) = members.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(GroupError::Twice(pair[0]));
        }
        if members.binary_search(&me).is_err() {
            return Err(GroupError::NotMember(me));
        }
        Ok(Self { members, me })
    }

    /// This node.
    #[must_use]
    pub const fn me(&self) -> NodeId {
        self.me
    }

    /// All nodes, in order.
    #[must_use]
    pub fn members(&self) -> &[NodeId] {
        &self.members
    }

    /// All nodes but this one, in order.
    pub fn others(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.members.iter().copied().filter(|node| *node != self.me)
    }

    /// True for a node of this group.
    #[must_use]
    pub fn has(&self, node: NodeId) -> bool {
        self.members.binary_search(&node).is_ok()
    }

    /// How many nodes are more than half of them.
    #[must_use]
    pub fn majority(&self) -> usize {
        self.members.len() / 2 + 1
    }

    /// The member to ask after `last`, round the group; `None` in a group of one.
    #[must_use]
    pub fn next_after(&self, last: NodeId) -> Option<NodeId> {
        self.others().find(|node| *node > last).or_else(|| self.others().next())
    }
}

/// What a node must not forget: the newest epoch it took part in, and whom it voted for there.
///
/// It is on stable storage before any message leaves that depends on it (I36).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Promise {
    /// The newest epoch this node knows of.
    pub epoch: Epoch,
    /// Who got this node's vote in that epoch.
    pub vote: Option<NodeId>,
    /// Votes are given above this epoch only: up to here a disk that was lost may have voted.
    pub barred: Epoch,
    /// Votes go only to logs that hold at least this: the best that was there when the group formed.
    pub floor: Position,
    /// Which disks formed the group, in the order of its members; empty: this node is no voter yet.
    pub formed: Vec<(NodeId, DiskId)>,
}
