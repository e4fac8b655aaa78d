//! Copying and electing inside one broker group.
//!
//! What OK means is a mode (DESIGN D2):
//!
//! | mode | OK means | confirmed |
//! |---|---|---|
//! | `written` | survives `kill -9` | what is written |
//! | `flushed` | survives power loss | what is flushed |
//! | `replicated k` | flushed here and received, or flushed, on k slaves | the k-th of them |
//! | `quorum` | flushed on a majority of the group | what Raft committed |
//!
//! [`Replica`] decides: a pure state machine, checked by exhausting its states. [`Member`] drives it
//! with a store and a transport.

#![forbid(unsafe_code)]

mod acknowledgement;
mod advice;
mod control;
mod cut;
mod epochs;
mod group;
mod incoming;
mod member;
mod message;
mod mode;
pub mod notes;
mod replica;
mod resync;
pub mod wire;

pub use acknowledgement::{Acknowledgement, Reached};
pub use advice::{Advice, Load, LoadGauge, suggest};
pub use control::{Barrier, CONTROL_TOPIC, control_topic};
pub use cut::LogCut;
pub use epochs::{EpochStart, EpochTable, EpochTableError};
pub use group::{DiskId, Group, GroupError, NodeId, Promise};
pub use member::{Member, MemberError, MemberObserver, MemberOptions, MemberStatus, ReadIndex, Role};
pub use message::{Answer, Fetch, FetchAnswer, Introduction, Request, VoteAnswer, VoteRequest};
pub use mode::{Mode, ModeError, SlaveAck};
pub use notes::NotesError;
pub use replica::{
    Draw, Effect, Evidence, Failover, Input, Millis, Remembered, Replica, ReplicaProgress, Settings, Timing,
    Token,
};
