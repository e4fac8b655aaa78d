//! Control records: ordinary records of a system topic, which get no queue entries and which foreign
//! readers skip (DESIGN D1, §7 rule 3).
//!
//! The tag says what it is. A barrier begins an epoch:
//!
//! ```text
//! 0            8         16               24             32      40
//! +------------+---------+----------------+--------------+-------+---------------------+
//! | epoch      | leader  | previous epoch | previous end | n     | n x (member, disk)  |
//! +------------+---------+----------------+--------------+-------+---------------------+
//! ```
//! All big-endian u64.

use staticfire_storage::properties::TAGS;
use staticfire_storage::{Epoch, Message, Position, QueueId, Record, TopicName};

use crate::wire::{Fields, WireError};
use crate::{DiskId, NodeId};

/// The topic of control records.
pub const CONTROL_TOPIC: &str = "STATICFIRE_SYS_CONTROL";
const BARRIER: &str = "barrier";

/// The first record of an epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Barrier {
    /// The epoch that begins.
    pub epoch: Epoch,
    /// Who leads it.
    pub leader: NodeId,
    /// Where the log of the leader ended before.
    pub previous: Position,
    /// The members and their disks; empty when the operator decides who leads.
    pub members: Vec<(NodeId, DiskId)>,
}

/// The topic of control records, as a name.
#[must_use]
pub fn control_topic() -> TopicName {
    TopicName::new(CONTROL_TOPIC).expect("a valid name")
}

impl Barrier {
    /// The message to be appended.
    #[must_use]
    pub fn message(&self) -> Message {
        let Self { epoch, leader, previous, members } = self;
        let head = [epoch.0, leader.0.into(), previous.epoch.0, previous.end.0, members.len() as u64];
        let members = members.iter().flat_map(|(node, disk)| [u64::from(node.0), disk.0]);
        let body: Vec<u8> = head.into_iter().chain(members).flat_map(u64::to_be_bytes).collect();
        Message::new(control_topic(), QueueId(0), body).with_property(TAGS, BARRIER)
    }

    /// Reads a barrier; `None` for any other record.
    ///
    /// # Errors
    /// [`WireError`] when it says that it is one and is not.
    pub fn read(record: &Record) -> Result<Option<Self>, WireError> {
        if record.topic() != CONTROL_TOPIC || record.properties().get(TAGS) != Some(BARRIER) {
            return Ok(None);
        }
        let body = record.body();
        let mut fields = Fields(&body);
        let barrier = Self {
            epoch: fields.epoch()?,
            leader: fields.node()?,
            previous: fields.position()?,
            members: fields.formed()?,
        };
        if fields.0.is_empty() { Ok(Some(barrier)) } else { Err(WireError::Length) }
    }
}
