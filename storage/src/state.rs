//! What the store must remember besides RocketMQ's files: `staticfire/state`, two slots written in
//! turn, so that a torn write costs only the newer one.
//!
//! ```text
//! slot 0 at byte 0, slot 1 at byte 4096, big-endian:
//! 0          8         16      24        32                40            48
//! +----------+---------+-------+---------+-----------------+-------------+----------+
//! | SFSTATE1 | seq u64 | epoch | durable | queues_complete | sealed_from | store_ms |
//! +----------+---------+-------+---------+-----------------+-------------+----------+
//! 56          64        72          80      84
//! +-----------+---------+-----------+-------+
//! | clean_end | cut_end | cut_epoch | crc32 |      crc32 covers bytes 0..80
//! +-----------+---------+-----------+-------+
//! ```
//!
//! The first byte of `cut_epoch` says why ([`CutReason`]): epochs are never so large.
//!
//! A slot that a crash left torn is not written over: a second torn write could complete it, and
//! what was never decided, a cut say, would be done after all. A new file takes its place instead.
//!
//! RocketMQ never looks into the folder. Without the file, or with both slots unreadable, the
//! store knows nothing but what log and queues say, and recovery scans everything.

use std::io;
use std::sync::Arc;

use crate::checkpoint::LastEnd;
use crate::disk::{Directory, SegmentFile, write_all_at};
use crate::orphans::CutReason;
use crate::{Epoch, PhysicalOffset, RecordCrc};

/// The folder of everything that RocketMQ does not know.
pub(crate) const FOLDER: &str = "staticfire";
pub(crate) const PATH: &str = "staticfire/state";
/// What is to become the file; a crash may leave it behind.
const NEXT: &str = "staticfire/state.next";

const SLOT_LEN: u64 = 4096;
const MAGIC: [u8; 7] = *b"SFSTATE";
const VERSION: u8 = b'1';
const FIELDS: usize = 9;
const COVERED: usize = 8 + 8 * FIELDS;
const USED: usize = COVERED + 4;
const NONE: u64 = u64::MAX;

const _: () = assert!(COVERED == 80 && USED == 84, "the documented layout");

/// What is remembered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) epoch: Epoch,
    /// Everything below was flushed: damage there is never a torn tail.
    pub(crate) durable: PhysicalOffset,
    /// Every queue entry of a record below is durable.
    pub(crate) queues_complete: PhysicalOffset,
    /// Every record from here on carries its own checksum.
    pub(crate) sealed_from: PhysicalOffset,
    /// Store time of the newest record when this was written, in ms since the Unix epoch.
    pub(crate) store_ms: i64,
    /// Where the log ended when it was closed; `None` while the store is open.
    pub(crate) clean_end: Option<PhysicalOffset>,
    /// A cut that was decided and perhaps not finished.
    pub(crate) cut: Option<Cut>,
}

impl State {
    /// Did somebody else have the store open after we last did, as far as its marks tell? Without
    /// `abort` file although we had not closed it, RocketMQ did.
    pub(crate) fn had_guests(&self, last: LastEnd) -> bool {
        match last {
            LastEnd::Closed => self.clean_end.is_none(),
            LastEnd::Killed => false,
            LastEnd::KilledElsewhere => true,
        }
    }

    /// Where the records end that all carry their own checksum. What stands behind may have been
    /// appended by RocketMQ, after we had closed the store or after it recovered it.
    pub(crate) fn sealed_to(&self, last: LastEnd) -> PhysicalOffset {
        match self.clean_end {
            Some(end) => end,
            None if self.had_guests(last) => self.durable,
            None => PhysicalOffset(u64::MAX),
        }
    }

    /// Which check a record at `at` must pass in a directory that is not open.
    pub(crate) fn crc_at(&self, at: PhysicalOffset, last: LastEnd) -> RecordCrc {
        let ours = self.sealed_from <= at && at < self.sealed_to(last);
        if ours { RecordCrc::Required } else { RecordCrc::IfPresent }
    }
}

/// The log shall end at `end`; what stood above goes to the orphans of `epoch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) end: PhysicalOffset,
    pub(crate) epoch: Epoch,
    pub(crate) reason: CutReason,
}

/// Bits of an epoch, where it shares eight bytes with a reason.
const EPOCH_BITS: u32 = 56;

impl Cut {
    fn epoch_and_reason(self) -> u64 {
        let number = CutReason::ALL.iter().position(|reason| *reason == self.reason).unwrap_or(0);
        self.epoch.0 & ((1 << EPOCH_BITS) - 1) | (number as u64) << EPOCH_BITS
    }

    fn of(end: PhysicalOffset, epoch_and_reason: u64) -> Option<Self> {
        let reason = *CutReason::ALL.get((epoch_and_reason >> EPOCH_BITS) as usize)?;
        Some(Self { end, epoch: Epoch(epoch_and_reason & ((1 << EPOCH_BITS) - 1)), reason })
    }
}

/// The file with its newest content.
#[derive(Debug)]
pub(crate) struct StateFile {
    file: Arc<dyn SegmentFile>,
    sequence: u64,
    state: State,
    /// The other slot holds neither a state nor zeros.
    is_torn: bool,
}

/// What the file said.
#[derive(Debug)]
pub(crate) enum Found {
    /// There is none, or it was created and never written.
    Nothing,
    /// Neither slot is whole.
    Damaged,
    /// Written by a version that we do not know.
    Newer(u8),
    State(StateFile),
}

impl StateFile {
    pub(crate) fn read(directory: &dyn Directory) -> io::Result<Found> {
        let file = match directory.open(PATH) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(error) => return Err(error),
        };
        if file.len() != 2 * SLOT_LEN {
            return Ok(Found::Damaged);
        }
        let bytes = file.read(0..file.len())?;
        let slots = [&bytes[..USED], &bytes[SLOT_LEN as usize..SLOT_LEN as usize + USED]];
        if slots.iter().all(|slot| slot.iter().all(|byte| *byte == 0)) {
            return Ok(Found::Nothing);
        }
        let newest = slots.into_iter().filter_map(decode).max_by_key(|(sequence, _)| *sequence);
        if let Some((sequence, state)) = newest {
            let is_torn =
                slots.iter().any(|slot| decode(slot).is_none() && slot.iter().any(|byte| *byte != 0));
            return Ok(Found::State(Self { file, sequence, state, is_torn }));
        }
        let newer = slots.iter().find(|slot| slot[..7] == MAGIC && slot[7] > VERSION && crc_holds(slot));
        Ok(newer.map_or(Found::Damaged, |slot| Found::Newer(slot[7])))
    }

    /// A new file, in the place of any other, that remembers `state` durably. After a crash there is
    /// the old one or the new one.
    pub(crate) fn create(directory: &dyn Directory, state: State) -> io::Result<Self> {
        directory.make_directory(FOLDER)?;
        match directory.remove(NEXT) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = directory.create(NEXT, 2 * SLOT_LEN)?;
        let mut created = Self { file, sequence: 0, state, is_torn: false };
        created.write(state)?;
        directory.rename(NEXT, PATH)?;
        directory.sync(FOLDER)?;
        Ok(created)
    }

    pub(crate) const fn state(&self) -> State {
        self.state
    }

    /// A crash cut a write short. [`StateFile::create`] takes such a file's place.
    pub(crate) const fn is_torn(&self) -> bool {
        self.is_torn
    }

    /// Remembers `state`, durably, before returning.
    pub(crate) fn write(&mut self, state: State) -> io::Result<()> {
        let sequence = self.sequence + 1;
        let at = if sequence.is_multiple_of(2) { 0 } else { SLOT_LEN };
        write_all_at(&*self.file, at, &encode(sequence, &state))?;
        self.file.sync()?;
        (self.sequence, self.state) = (sequence, state);
        Ok(())
    }
}

fn encode(sequence: u64, state: &State) -> [u8; USED] {
    let fields: [u64; FIELDS] = [
        sequence,
        state.epoch.0,
        state.durable.0,
        state.queues_complete.0,
        state.sealed_from.0,
        state.store_ms.cast_unsigned(),
        state.clean_end.map_or(NONE, |end| end.0),
        state.cut.map_or(NONE, |cut| cut.end.0),
        state.cut.map_or(NONE, Cut::epoch_and_reason),
    ];
    let mut slot = [0; USED];
    slot[..7].copy_from_slice(&MAGIC);
    slot[7] = VERSION;
    for (to, field) in slot[8..COVERED].chunks_exact_mut(8).zip(fields) {
        to.copy_from_slice(&field.to_be_bytes());
    }
    let crc = crc32fast::hash(&slot[..COVERED]);
    slot[COVERED..].copy_from_slice(&crc.to_be_bytes());
    slot
}

fn decode(slot: &[u8]) -> Option<(u64, State)> {
    if slot[..7] != MAGIC || slot[7] != VERSION || !crc_holds(slot) {
        return None;
    }
    let mut fields = [0; FIELDS];
    for (field, from) in fields.iter_mut().zip(slot[8..COVERED].chunks_exact(8)) {
        *field = u64::from_be_bytes(from.try_into().ok()?);
    }
    let [sequence, epoch, durable, queues, sealed, store_ms, clean, cut_end, cut_epoch] = fields;
    let position = |value: u64| (value != NONE).then_some(PhysicalOffset(value));
    let state = State {
        epoch: Epoch(epoch),
        durable: PhysicalOffset(durable),
        queues_complete: PhysicalOffset(queues),
        sealed_from: PhysicalOffset(sealed),
        store_ms: store_ms.cast_signed(),
        clean_end: position(clean),
        cut: position(cut_end).and_then(|end| Cut::of(end, cut_epoch)),
    };
    Some((sequence, state))
}

/// The first byte that no writer left there: of a slot whose checksum does not hold, or behind the
/// slots.
pub(crate) fn first_unexpected(bytes: &[u8]) -> Option<usize> {
    let slots = bytes.chunks(SLOT_LEN as usize).zip((0..).step_by(SLOT_LEN as usize));
    for (slot, at) in slots {
        let (used, rest) = slot.split_at_checked(USED)?;
        if used.iter().any(|byte| *byte != 0) && !crc_holds(used) {
            return Some(at);
        }
        if let Some(stray) = rest.iter().position(|byte| *byte != 0) {
            return Some(at + USED + stray);
        }
    }
    None
}

fn crc_holds(slot: &[u8]) -> bool {
    crc32fast::hash(&slot[..COVERED]).to_be_bytes() == slot[COVERED..USED]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> State {
        State {
            epoch: Epoch(7),
            durable: PhysicalOffset(4096),
            queues_complete: PhysicalOffset(2048),
            sealed_from: PhysicalOffset(1),
            store_ms: 1_700_000_000_000,
            clean_end: Some(PhysicalOffset(4096)),
            cut: Some(Cut { end: PhysicalOffset(3), epoch: Epoch(6), reason: CutReason::BegunAnew }),
        }
    }

    #[test]
    fn a_slot_says_what_was_written() {
        assert_eq!(decode(&encode(9, &example())), Some((9, example())));
        let without = State { clean_end: None, cut: None, ..example() };
        assert_eq!(decode(&encode(10, &without)), Some((10, without)));
    }

    /// proves: B64, B68
    #[test]
    fn every_flipped_bit_of_a_slot_is_noticed() {
        let slot = encode(9, &example());
        for bit in 0..USED * 8 {
            let mut flipped = slot;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&flipped), None, "bit {bit}");
        }
    }
}
