//! RocketMQ's own marks of a store directory: `checkpoint`, `abort` and `lock`
//! (store-format §8). We write them so that RocketMQ can take the directory over, and read them
//! when a directory has no notes of ours.
//!
//! ```text
//! checkpoint, 4096 bytes, big-endian, in ms since the Unix epoch and in bytes:
//! 0           8           16         24                   32              40
//! +-----------+-----------+----------+--------------------+---------------+------ zeros
//! | physic ms | logics ms | index ms | master flushed end | confirmed end |
//! +-----------+-----------+----------+--------------------+---------------+
//!
//! abort, there while a store is open:   "staticfire" and a line feed, or what another wrote:
//!                                       RocketMQ 5 its process id, older ones nothing
//! ```
//!
//! So a directory that was left in the middle says who left it: RocketMQ has rewritten `abort` before
//! it accepts the first message.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use crate::disk::{Directory, SegmentFile, write_all_at};
use crate::small_file;

pub(crate) const PATH: &str = "checkpoint";
pub(crate) const ABORT: &str = "abort";
pub(crate) const LOCK: &str = "lock";
pub(crate) const LEN: u64 = 4096;
const FIELDS: usize = 5;
const OURS: &[u8] = b"staticfire\n";

/// How the last process that had the store open ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LastEnd {
    /// It closed the store.
    Closed,
    /// It was one of ours, and did not.
    Killed,
    /// It was none of ours, and did not.
    KilledElsewhere,
}

impl LastEnd {
    /// What the marks in `directory` say.
    pub(crate) fn read(directory: &dyn Directory) -> io::Result<Self> {
        let file = match directory.open(ABORT) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::Closed),
            Err(error) => return Err(error),
        };
        let ours = file.len() == OURS.len() as u64 && file.read(0..file.len())? == OURS;
        Ok(if ours { Self::Killed } else { Self::KilledElsewhere })
    }
}

/// The five numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// Store time of the newest record known to be flushed, in ms.
    pub physic_ms: i64,
    /// Store time of the newest record whose queue entry is known to be flushed, in ms.
    pub logics_ms: i64,
    /// Store time of the newest record in a completed index file, in ms.
    pub index_ms: i64,
    /// What a slave knows of its master's flushed end.
    pub master_flushed: i64,
    /// The confirm offset.
    pub confirmed: i64,
}

impl Checkpoint {
    /// The checkpoint of `directory`; zeros when the file is missing, empty or of another length,
    /// as RocketMQ takes it.
    pub(crate) fn read(directory: &dyn Directory) -> io::Result<Self> {
        let file = match directory.open(PATH) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error),
        };
        if file.len() < 8 * FIELDS as u64 {
            return Ok(Self::default());
        }
        Ok(Self::decode(&file.read(0..8 * FIELDS as u64)?))
    }

    fn decode(bytes: &[u8]) -> Self {
        let mut fields =
            bytes.chunks_exact(8).map(|field| field.iter().fold(0, |n, b| n << 8 | i64::from(*b)));
        let mut next = || fields.next().unwrap_or(0);
        Self {
            physic_ms: next(),
            logics_ms: next(),
            index_ms: next(),
            master_flushed: next(),
            confirmed: next(),
        }
    }

    fn encode(&self) -> [u8; 8 * FIELDS] {
        let fields = [self.physic_ms, self.logics_ms, self.index_ms, self.master_flushed, self.confirmed];
        let mut bytes = [0; 8 * FIELDS];
        for (to, field) in bytes.chunks_exact_mut(8).zip(fields) {
            to.copy_from_slice(&field.to_be_bytes());
        }
        bytes
    }
}

/// The open checkpoint file.
#[derive(Debug)]
pub(crate) struct CheckpointFile {
    file: Arc<dyn SegmentFile>,
    /// What this process has made durable; what it read may be in memory only.
    durable: Mutex<Option<Checkpoint>>,
}

impl CheckpointFile {
    /// Opens the file, or creates it anew when it is missing or too short.
    pub(crate) fn open(directory: &dyn Directory) -> io::Result<Self> {
        match directory.open(PATH) {
            Ok(file) if file.len() >= LEN => return Ok(Self { file, durable: Mutex::default() }),
            Ok(_) => directory.remove(PATH)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        // Its name becomes durable with the next sync of the root; until then its loss costs nothing.
        Ok(Self { file: directory.create(PATH, LEN)?, durable: Mutex::default() })
    }

    /// Remembers `checkpoint`, durably. All fields lie in one sector.
    pub(crate) fn write(&self, checkpoint: &Checkpoint) -> io::Result<()> {
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        if *durable != Some(*checkpoint) {
            *durable = None;
            write_all_at(&*self.file, 0, &checkpoint.encode())?;
            self.file.sync()?;
            *durable = Some(*checkpoint);
        }
        Ok(())
    }
}

/// Marks the store as open by us: durable before anything is accepted.
pub(crate) fn mark_open(directory: &dyn Directory) -> io::Result<()> {
    small_file::replace(directory, ABORT, OURS)
}

/// Marks the store as closed: the last thing made durable.
pub(crate) fn mark_closed(directory: &dyn Directory) -> io::Result<()> {
    directory.remove(ABORT)?;
    directory.sync("")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// proves: store-format §19.6, the checkpoint vector
    #[test]
    fn the_checkpoint_has_rocketmqs_bytes() {
        let checkpoint = Checkpoint {
            physic_ms: 1_700_000_003_123,
            logics_ms: 1_700_000_003_123,
            index_ms: 1_700_000_000_123,
            ..Checkpoint::default()
        };
        let bytes = checkpoint.encode();
        assert_eq!(bytes[..24], *b"\x00\x00\x01\x8b\xcf\xe5\x74\x33\x00\x00\x01\x8b\xcf\xe5\x74\x33\x00\x00\x01\x8b\xcf\xe5\x68\x7b");
        assert!(bytes[24..].iter().all(|byte| *byte == 0));
        assert_eq!(Checkpoint::decode(&bytes), checkpoint);
    }
}
