//! What a node of a broker group says of itself to its operator: our own, no other broker's.

use serde::{Deserialize, Serialize};

/// The answer to `GET_NODE_STATUS`. Positions are bytes of the commit log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// The cluster.
    pub cluster: String,
    /// The broker group.
    pub broker_name: String,
    /// Its number in the group; 0: it is alone.
    pub node: u32,
    /// `leader`, `follower`, `stopped` or `alone`.
    pub role: String,
    /// `raft`, `master`, `slave` or `none`.
    pub failover: String,
    /// What OK means.
    pub mode: String,
    /// The newest epoch it knows.
    pub epoch: u64,
    /// The operator's generation in that epoch; 0 when nodes elect.
    pub generation: u64,
    /// Whom it takes for the leader.
    pub leader: Option<u32>,
    /// It answers what only the leader answers.
    pub serves: bool,
    /// It takes messages.
    pub accepts: bool,
    /// It votes and counts.
    pub voter: bool,
    /// Its log begins here.
    pub min: u64,
    /// Its log ends here.
    pub end: u64,
    /// The epoch of its last record.
    pub end_epoch: u64,
    /// On stable storage up to here.
    pub flushed: u64,
    /// Can no longer be taken back up to here, as far as it knows.
    pub confirmed: u64,
    /// Messages in its queues: confirmed, and not yet removed.
    pub messages: u64,
    /// Messages taken from producers since it started.
    pub put: u64,
    /// Messages handed to consumers since it started.
    pub got: u64,
    /// How often it began to lead since it started.
    pub leaderships: u64,
    /// Bytes cut from its log since it started, and kept as orphans.
    pub truncated_bytes: u64,
    /// Slaves that count now.
    pub in_sync: usize,
    /// What a leader knows of the others.
    pub others: Vec<OtherNode>,
    /// What it last could not do.
    pub trouble: Option<String>,
}

/// What a leader knows of another node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OtherNode {
    /// Its number.
    pub node: u32,
    /// Its log is the leader's up to here.
    pub matched: u64,
    /// And on its stable storage up to here.
    pub flushed: u64,
    /// Bytes of the leader's log that it does not have.
    pub lag_bytes: u64,
    /// Milliseconds since it last asked; `None`: never in this epoch.
    pub heard_ms_ago: Option<u64>,
    /// It counts for nothing yet.
    pub learner: bool,
    /// It is far behind: not in sync, and perhaps slowed down.
    pub catching_up: bool,
    /// Its fetches that wait at the leader.
    pub parked: usize,
}
