//! The vocabulary of replication: what an acknowledgement waits for, and what it says.
//!
//! Copying, read advice and failover come later. The words are fixed now, because a broker's answers
//! and its configuration are written in them (DESIGN D2):
//!
//! | mode | OK means | confirmed |
//! |---|---|---|
//! | `written` | survives `kill -9` | what is written |
//! | `flushed` | survives power loss | what is flushed |
//! | `replicated k` | flushed here and received, or flushed, on k slaves | the k-th of them |
//! | `quorum` | flushed on a majority of the group | what Raft committed |

mod acknowledgement;
mod mode;

pub use acknowledgement::{Acknowledgement, Reached};
pub use mode::{Mode, ModeError, SlaveAck};
