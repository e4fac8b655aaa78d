//! How much of a queue's files is believed at recovery, before anything is built from the log.
//!
//! Entries of records below `limit` were durable when the limit was noted, so they must be there, in
//! order, and in blocks that match their sums. Behind them anything may stand: a power cut keeps any
//! subset of what was not synced. Without a note (a directory of others, or one that RocketMQ wrote
//! to meanwhile) the limit is the start of the log: entries of records that are gone cannot be built
//! again, and hold the numbering.

use super::entry::Layout;
use super::load::Found;
use super::slots::Slots;
use super::{QueueEntry, QueueError};
use crate::PhysicalOffset;

/// Leftover entries are read this many at a time.
pub(super) const AHEAD: u64 = 1024;

/// Why entries that were noted as durable are not believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Distrust {
    /// A file of the queue is missing.
    MissingFile {
        /// Where it should be, relative to the store.
        path: String,
    },
    /// A file of the queue was too short and was filled up with zeros.
    ShortFile {
        /// The file, relative to the store.
        path: String,
    },
    /// A block does not match its checksum, or has none.
    Block {
        /// The file, relative to the store.
        path: String,
        /// First byte of the block.
        at: u64,
    },
}

/// What of the files is believed, and why not more.
#[derive(Debug, Default)]
pub(super) struct Believed {
    /// First slot that is not padding in front.
    pub(super) begin: u64,
    /// One past the last slot believed.
    pub(super) end: u64,
    /// The last entry before `end` that names a record.
    pub(super) last: Option<QueueEntry>,
    pub(super) distrusted: Option<Distrust>,
}

impl Believed {
    /// Believes less: nothing from slot `end` on, but for entries of records before `log_min`. Those
    /// cannot be built again, nobody reads them, and without them their numbers would be given out a
    /// second time.
    pub(super) fn down_to(
        self,
        slots: &Slots,
        end: u64,
        log_min: PhysicalOffset,
    ) -> Result<Self, QueueError> {
        let from = end.clamp(self.begin, self.end);
        let before = last_before(slots, self.begin, from)?;
        let old = scan(slots, from, before, self.end, log_min)?;
        Ok(Self { end: old.end, last: old.last, ..self })
    }
}

/// Looks at files with a note: entries of records below `limit` should be there.
pub(super) fn believe_noted(
    slots: &mut Slots,
    found: &Found,
    limit: PhysicalOffset,
    log_min: PhysicalOffset,
) -> Result<Believed, QueueError> {
    let gap = drop_old_run(slots, log_min)?;
    let Some(oldest) = slots.first() else {
        let path = slots.path(found.missing_from.unwrap_or(0));
        return Ok(Believed { distrusted: Some(Distrust::MissingFile { path }), ..Believed::default() });
    };
    let cap = gap.or(found.short_from).unwrap_or(u64::MAX);
    let (from, last) = newest_intact_file(slots, cap, limit)?;
    let mut believed = scan(slots, from, last, gap.unwrap_or(u64::MAX), limit)?;
    believed.begin = first_entry(slots, oldest, believed.end)?;
    let mut distrusted =
        gap.or(found.missing_from).map(|start| Distrust::MissingFile { path: slots.path(start) });
    if let Some(start) = found.missing_before.filter(|_| believed.end > believed.begin) {
        let first = slots.leftovers(believed.begin..believed.begin + 1)?.pop().flatten();
        // Else retention removed it, and a power cut brought the sums back.
        if first.is_some_and(|first| first.physical >= log_min) {
            distrusted = Some(Distrust::MissingFile { path: slots.path(start) });
            believed = believed.down_to(slots, oldest, log_min)?;
        }
    }
    if let Some(start) = found.short_from.filter(|start| *start >= oldest) {
        distrusted = Some(Distrust::ShortFile { path: slots.path(start) });
        believed = believed.down_to(slots, start, log_min)?;
    }
    if believed.end > believed.begin
        && let Some(damage) = doubtful_block(slots, believed.end - 1)?
    {
        distrusted = Some(damage);
        let start = slots.block_start(believed.end - 1);
        believed = believed.down_to(slots, start, log_min)?;
    } else if distrusted.is_none()
        && let Some(damage) = damaged_block(slots, believed.end)?
    {
        // It ends here because this is spoiled, not because there is nothing.
        distrusted = Some(damage);
        let start = slots.block_start(believed.end);
        believed = believed.down_to(slots, start, log_min)?;
    }
    // A batch's first entry says where the queue begins.
    if distrusted.is_none()
        && slots.layout == Layout::Batch
        && believed.end > believed.begin
        && let Some(damage) = damaged_block(slots, believed.begin)?
    {
        distrusted = Some(damage);
        let start = slots.block_start(believed.begin);
        believed = believed.down_to(slots, start, log_min)?;
    }
    believed.distrusted = distrusted;
    Ok(believed)
}

/// Looks at files without a note: only entries of records that are gone are believed.
pub(super) fn believe_old(slots: &mut Slots, log_min: PhysicalOffset) -> Result<Believed, QueueError> {
    drop_old_run(slots, log_min)?;
    slots.forget_sums()?;
    let Some(oldest) = slots.first() else { return Ok(Believed::default()) };
    let mut believed = scan(slots, oldest, None, u64::MAX, log_min)?;
    believed.begin = first_entry(slots, oldest, believed.end)?;
    Ok(believed)
}

/// Removes files in front of a gap when their records are gone (a power cut can undo the removal of
/// an older file and keep that of a newer one). Returns the first slot of a missing file, if one is
/// missing all the same.
fn drop_old_run(slots: &mut Slots, log_min: PhysicalOffset) -> Result<Option<u64>, QueueError> {
    let starts: Vec<u64> = slots.starts().collect();
    let mut oldest = 0;
    for (n, pair) in starts.windows(2).enumerate() {
        let next = pair[0] + slots.per_file();
        if pair[1] == next {
            continue;
        }
        let last = slots.leftovers(next - 1..next)?.pop().flatten();
        if last.is_none_or(|last| last.physical >= log_min) {
            return Ok(Some(next));
        }
        for start in &starts[oldest..=n] {
            slots.remove(*start)?;
        }
        oldest = n + 1;
    }
    Ok(None)
}

/// Where to start looking for the end: behind the newest file below slot `cap` whose last block
/// matches its sum and whose last record lies below `limit`. Everything in front was synced earlier.
fn newest_intact_file(
    slots: &Slots,
    cap: u64,
    limit: PhysicalOffset,
) -> Result<(u64, Option<QueueEntry>), QueueError> {
    for start in slots.starts().rev() {
        let next = start + slots.per_file();
        if next > cap {
            continue;
        }
        let last = slots.leftovers(next - 1..next)?.pop().flatten();
        let last = last.filter(|last| !last.is_padding() && last.physical < limit);
        if last.is_some() && matches!(slots.check_block_of(next - 1), Ok(true)) {
            return Ok((next, last));
        }
    }
    Ok((slots.first().unwrap_or(0), None))
}

/// Follows the entries from slot `from` on while they are in order and below `limit`.
fn scan(
    slots: &Slots,
    from: u64,
    mut last: Option<QueueEntry>,
    cap: u64,
    limit: PhysicalOffset,
) -> Result<Believed, QueueError> {
    let mut end = from;
    'files: while end < cap {
        let chunk = slots.leftovers(end..cap.min(end.saturating_add(AHEAD)))?;
        if chunk.is_empty() {
            break;
        }
        for entry in chunk {
            let follows = |entry: &QueueEntry| {
                let after = last.as_ref().map_or(PhysicalOffset(0), QueueEntry::physical_end);
                entry.is_padding() || (entry.physical >= after && entry.physical < limit)
            };
            let Some(entry) = entry.filter(follows) else { break 'files };
            if !entry.is_padding() {
                last = Some(entry);
            }
            end += 1;
        }
    }
    Ok(Believed { begin: 0, end, last, distrusted: None })
}

/// The first slot in `from..end` that is not padding, or `end`.
fn first_entry(slots: &Slots, from: u64, end: u64) -> Result<u64, QueueError> {
    let mut slot = from;
    while slot < end {
        let chunk = slots.leftovers(slot..end.min(slot + AHEAD))?;
        let padding = chunk.iter().take_while(|entry| entry.is_some_and(|entry| entry.is_padding())).count();
        slot += padding as u64;
        if padding < chunk.len() || chunk.is_empty() {
            break;
        }
    }
    Ok(slot)
}

/// The last entry in `from..end` that names a record.
fn last_before(slots: &Slots, from: u64, end: u64) -> Result<Option<QueueEntry>, QueueError> {
    for slot in (from..end).rev() {
        let entry = slots.leftovers(slot..slot + 1)?.pop().flatten();
        if let Some(entry) = entry.filter(|entry| !entry.is_padding()) {
            return Ok(Some(entry));
        }
    }
    Ok(None)
}

/// Whether the block that holds `slot` differs from its sum.
fn damaged_block(slots: &Slots, slot: u64) -> Result<Option<Distrust>, QueueError> {
    let start = slots.start_of(slot);
    if !slots.starts().any(|known| known == start) {
        return Ok(None);
    }
    match slots.check_block_of(slot) {
        Ok(_) => Ok(None),
        Err(QueueError::Damaged { path, at }) => Ok(Some(Distrust::Block { path, at })),
        Err(error) => Err(error),
    }
}

/// Whether the block that holds `slot` differs from its sum or has none, as every noted block has: a
/// power cut may have kept half an entry there.
fn doubtful_block(slots: &Slots, slot: u64) -> Result<Option<Distrust>, QueueError> {
    match slots.check_block_of(slot) {
        Ok(true) => Ok(None),
        Ok(false) => {
            let (path, at) = slots.block_at(slot);
            Ok(Some(Distrust::Block { path, at }))
        }
        Err(QueueError::Damaged { path, at }) => Ok(Some(Distrust::Block { path, at })),
        Err(error) => Err(error),
    }
}
