//! Bytes that come from the leader, put together to whole records.
//!
//! They may be cut anywhere; a record may take many answers. Only whole records go to the log, so
//! the log always ends at the end of one.

use std::fmt;

use bytes::{Bytes, BytesMut};
use staticfire_storage::blank::{BLANK_LEN_MIN, BLANK_MAGIC};
use staticfire_storage::{PhysicalOffset, Record, RecordCrc, RecordError};

use crate::wire::WireError;
use crate::{Barrier, EpochStart};

/// No record, and no blank at the end of a segment, is longer: 4 MiB of body and what goes with it.
const LEN_MAX: usize = 16 << 20;

/// What has come of a record, and not yet all.
#[derive(Debug, Default)]
pub(crate) struct Incoming(BytesMut);

/// Whole records.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Whole {
    pub(crate) bytes: Bytes,
    pub(crate) epochs: Vec<EpochStart>,
}

/// Bytes that no leader sends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum IncomingError {
    /// A length that no record has.
    Length { at: PhysicalOffset, len: usize },
    /// Not a record.
    Record { at: PhysicalOffset, error: RecordError },
    /// Not a barrier, though it says so.
    Barrier { at: PhysicalOffset, error: WireError },
}

impl fmt::Display for IncomingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { at, len } => {
                write!(f, "the leader sent {len} bytes as the length of a record at {at}")
            }
            Self::Record { at, error } => write!(f, "the leader sent a damaged record at {at}: {error}"),
            Self::Barrier { at, error } => write!(f, "the leader sent a damaged barrier at {at}: {error}"),
        }
    }
}

impl Incoming {
    /// Forgets the part of a record.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Adds bytes, and gives the whole records that now are there; the first one starts at `at`.
    ///
    /// # Errors
    /// [`IncomingError`]; everything is forgotten then.
    pub(crate) fn add(&mut self, at: PhysicalOffset, bytes: Bytes) -> Result<Whole, IncomingError> {
        // Mostly nothing is left over, and nothing is copied.
        let all = if self.0.is_empty() {
            bytes
        } else {
            self.0.extend_from_slice(&bytes);
            std::mem::take(&mut self.0).freeze()
        };
        let mut epochs = Vec::new();
        let mut taken = 0;
        while let Some(len) = next_len(&all[taken..], at.after(taken as u64))? {
            let piece = all.slice(taken..taken + len);
            if piece[4..8] != BLANK_MAGIC.to_be_bytes() {
                epochs.extend(epoch_begun(piece, at.after(taken as u64))?);
            }
            taken += len;
        }
        self.0.extend_from_slice(&all[taken..]);
        Ok(Whole { bytes: all.slice(..taken), epochs })
    }
}

/// The length of the record or blank that `bytes` begin with, when all of it is there.
fn next_len(bytes: &[u8], at: PhysicalOffset) -> Result<Option<usize>, IncomingError> {
    let Some(head) = bytes.first_chunk::<BLANK_LEN_MIN>() else { return Ok(None) };
    let len = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
    if !(BLANK_LEN_MIN..=LEN_MAX).contains(&len) {
        return Err(IncomingError::Length { at, len });
    }
    Ok((bytes.len() >= len).then_some(len))
}

fn epoch_begun(bytes: Bytes, at: PhysicalOffset) -> Result<Option<EpochStart>, IncomingError> {
    let record = Record::parse(bytes, at, RecordCrc::IfPresent);
    let record = record.map_err(|error| IncomingError::Record { at, error })?;
    let barrier = Barrier::read(&record).map_err(|error| IncomingError::Barrier { at, error })?;
    Ok(barrier.map(|barrier| EpochStart { epoch: barrier.epoch, start: at }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use staticfire_storage::disk::SimulatedDisk;
    use staticfire_storage::{Message, Position, QueueId, Store, StoreOptions, SystemClock, TopicName};

    use super::*;
    use crate::NodeId;

    /// A log of two segments with two barriers in it, and where these start.
    fn log() -> (Bytes, Vec<EpochStart>) {
        let mut options = StoreOptions::on(SimulatedDisk::new(1).directory(), Arc::new(SystemClock));
        options.segment_bytes = 2048;
        let store = Store::open(options).unwrap();
        let topic = TopicName::new("orders").unwrap();
        let mut epochs = Vec::new();
        for n in 0..20_u64 {
            if n.is_multiple_of(12) {
                let (epoch, previous) = (staticfire_storage::Epoch(n + 1), Position::default());
                let barrier = Barrier { epoch, leader: NodeId(1), previous, members: Vec::new() };
                let start = store.append(&barrier.message()).unwrap().start();
                epochs.push(EpochStart { epoch, start });
            }
            store.append(&Message::new(topic.clone(), QueueId(0), vec![7; 40 * n as usize])).unwrap();
        }
        let slices = store.slices(PhysicalOffset(0), store.marks().written).unwrap();
        assert!(slices.len() > 2, "blanks are among them");
        (slices.concat().into(), epochs)
    }

    proptest! {
        /// proves: DESIGN §7 rule 1; I32: however the bytes are cut, the same whole records come out
        #[test]
        fn bytes_cut_anywhere_become_the_same_records(
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..20)
        ) {
            let (bytes, epochs) = log();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let (mut incoming, mut out, mut found) = (Incoming::default(), Vec::new(), Vec::new());
            for pair in cuts.windows(2) {
                let at = PhysicalOffset(out.len() as u64);
                let whole = incoming.add(at, bytes.slice(pair[0]..pair[1])).unwrap();
                out.extend_from_slice(&whole.bytes);
                found.extend(whole.epochs);
            }
            prop_assert_eq!((Bytes::from(out), found), (bytes, epochs));
        }

        /// proves: B50, B53: bytes that are no records are refused, and none of them is kept
        #[test]
        fn other_bytes_are_refused(at in any::<proptest::sample::Index>(), new in any::<u8>()) {
            let (bytes, _) = log();
            let mut changed = bytes.to_vec();
            let at = at.index(changed.len());
            changed[at] = new;
            match Incoming::default().add(PhysicalOffset(0), changed.into()) {
                // A blank's rest may hold anything; a length may reach beyond what is there.
                Ok(whole) => prop_assert!(whole.bytes.len() <= bytes.len()),
                Err(error) => prop_assert!(!error.to_string().is_empty()),
            }
        }
    }
}
