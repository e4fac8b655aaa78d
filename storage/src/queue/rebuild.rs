//! One queue at recovery: its end is built from the log, over whatever its files hold there.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::believe::{AHEAD, Believed, Distrust};
use super::entry::Layout;
use super::slots::unsettle;
use super::{ConsumeQueue, NUMBER_MAX, QueueEntry, QueueError, State};
use crate::disk::Directory;
use crate::record::RECORD_LEN_MIN;
use crate::{PhysicalOffset, QueueId, QueueOffset, TopicName};

/// What was found in one queue and done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueFindings {
    /// The topic.
    pub topic: TopicName,
    /// The number of the queue.
    pub queue: QueueId,
    /// Why entries that were noted as durable had to be built again, if so.
    pub distrusted: Option<Distrust>,
    /// Entries that were missing and were built from the log. After a kill this is normal: the
    /// newest entries were in memory only.
    pub added: u64,
    /// Entries that contradicted the log.
    pub repaired: u64,
    /// Numbers whose records the log does not have, with an entry that fits; it was kept.
    pub kept: u64,
    /// Numbers whose records the log does not have and that no entry fits; they are padding now.
    pub padded: u64,
    /// Entries behind the last record of the queue; they were zeroed.
    pub dropped: u64,
    /// Records whose number is taken, or so high that no log could have given it to them; no entry
    /// points at them.
    pub refused: u64,
}

impl QueueFindings {
    /// True when the queue was whole.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let counts = [self.added, self.repaired, self.kept, self.padded, self.dropped, self.refused];
        self.distrusted.is_none() && counts == [0; 6]
    }
}

/// A queue whose end is being built from the log.
pub(super) struct Rebuilding {
    queue: Arc<ConsumeQueue>,
    findings: QueueFindings,
    log_min: PhysicalOffset,
    orphans: Vec<(u64, String)>,
    /// Something was appended.
    built: bool,
    /// Leftovers from this slot on.
    ahead: (u64, Vec<Option<QueueEntry>>),
}

impl Rebuilding {
    /// Starts with what is believed of the queue's files; nothing, for a queue without files.
    pub(super) fn new(
        queue: Arc<ConsumeQueue>,
        believed: Believed,
        log_min: PhysicalOffset,
    ) -> Result<Self, QueueError> {
        let (topic, id) = (queue.topic().clone(), queue.id());
        let (added, repaired, kept, padded, dropped, refused) = (0, 0, 0, 0, 0, 0);
        let findings = QueueFindings {
            topic,
            queue: id,
            distrusted: None,
            added,
            repaired,
            kept,
            padded,
            dropped,
            refused,
        };
        let mut rebuilding =
            Self { queue, findings, log_min, orphans: Vec::new(), built: false, ahead: (0, Vec::new()) };
        rebuilding.believe(believed)?;
        Ok(rebuilding)
    }

    /// Sets the queue to what is believed, and to less when a block that had to be looked at for the
    /// minimum is damaged.
    fn believe(&mut self, mut believed: Believed) -> Result<(), QueueError> {
        loop {
            self.set(&believed)?;
            match self.queue.correct_min(self.log_min) {
                Err(QueueError::Damaged { path, at }) => {
                    let state = self.queue.read();
                    let end = state.slots.slot_at(&path, at).unwrap_or(believed.begin);
                    let before = believed.end;
                    believed = believed.down_to(&state.slots, end, self.log_min)?;
                    believed.distrusted = Some(Distrust::Block { path, at });
                    if believed.end == before {
                        // All of them are older than the log.
                        drop(state);
                        self.set(&believed)?;
                        self.queue.min.store(self.queue.max().0, Ordering::Release);
                        return Ok(());
                    }
                }
                corrected => return corrected.map(|_| ()),
            }
        }
    }

    fn set(&mut self, believed: &Believed) -> Result<(), QueueError> {
        let Believed { begin, end, last, distrusted } = believed;
        self.findings.distrusted.clone_from(distrusted);
        let mut state = self.queue.write();
        // The name of an empty file holds the numbering of records that are gone, if any are.
        let none_gone = state.slots.layout == Layout::Batch || self.log_min == PhysicalOffset(0);
        let is_void = begin == end && none_gone;
        let (begin, end) = if is_void { (&0, &0) } else { (begin, end) };
        state.slots.set_end(*end);
        state.begin = *begin;
        state.last_end = last.map_or(PhysicalOffset(0), |last| last.physical_end());
        let (min, max) = match state.slots.layout {
            Layout::Single => (*begin, *end),
            Layout::Batch if begin == end => (0, 0),
            Layout::Batch => {
                let first = state.slots.leftovers(*begin..*begin + 1)?.pop().flatten();
                (first.map_or(0, |first| first.offset.0), last.map_or(0, |last| last.next().0))
            }
        };
        self.queue.min.store(min, Ordering::Release);
        self.queue.max.store(max, Ordering::Release);
        Ok(())
    }

    /// Where the walk through the log has to begin for the sake of this queue, if what was noted
    /// cannot be believed.
    pub(super) fn needs_from(&self) -> Option<PhysicalOffset> {
        let last_end = self.queue.physical_end();
        self.findings.distrusted.as_ref().map(|_| last_end.max(self.log_min))
    }

    /// Files of sums, by first slot, to remove unless their queue files come back.
    pub(super) fn with_orphans(self, orphans: Vec<(u64, String)>) -> Self {
        Self { orphans, ..self }
    }

    /// Gives the record of `entry` its place. Records come in the order of the log.
    pub(super) fn build(&mut self, entry: &QueueEntry, store_ms: i64) -> Result<(), QueueError> {
        let queue = Arc::clone(&self.queue);
        let mut state = queue.write();
        if state.slots.end() == state.begin && entry.offset < queue.max() {
            // The name of the oldest file says more than is left of the queue.
            state.slots.restart(entry.offset.0)?;
            queue.begin_at(&mut state, entry.offset);
        }
        let max = queue.max();
        let (is_known_number, is_known_place) = (entry.offset < max, entry.physical < state.last_end);
        if is_known_number && is_known_place {
            return Ok(());
        }
        let is_next = !is_known_number && !is_known_place && entry.offset.0 <= NUMBER_MAX;
        let is_kind = entry.messages == 1 || state.slots.layout == Layout::Batch;
        if !is_next || !is_kind || !self.reach(&mut state, max, entry)? {
            self.findings.refused += 1;
            return Ok(());
        }
        self.built = true;
        match self.leftover(&state, state.slots.end())? {
            Some(old) if old == *entry => {}
            Some(old) if !old.is_padding() => self.findings.repaired += 1,
            _ => self.findings.added += 1,
        }
        queue.append(&mut state, entry, store_ms)
    }

    /// Makes the queue end at the number of `entry`; false when no log could have so many records in
    /// between.
    fn reach(&mut self, state: &mut State, max: QueueOffset, entry: &QueueEntry) -> Result<bool, QueueError> {
        let gap = entry.offset.0 - max.0;
        if gap == 0 {
            return Ok(true);
        }
        let has_entries = state.slots.end() > state.begin;
        if state.slots.layout == Layout::Batch {
            if has_entries {
                self.findings.padded += gap; // numbers without an entry
            } else {
                self.queue.begin_at(state, entry.offset);
            }
            return Ok(true);
        }
        let (at, end) = (entry.offset.0, state.slots.end());
        let is_same_file = state.slots.start_of(at) == state.slots.start_of(end);
        if state.last_end <= self.log_min && !(is_same_file && has_entries) {
            // No record with a smaller number is left, so the queue starts here, as if created late.
            state.slots.restart(at)?;
            self.queue.begin_at(state, entry.offset);
            return Ok(true);
        }
        let between = entry.physical.since(state.last_end).unwrap_or(0);
        if !is_same_file && gap > between / RECORD_LEN_MIN as u64 {
            return Ok(false);
        }
        self.bridge(state, entry)?;
        Ok(true)
    }

    /// Fills the slots in front of `entry` with the leftovers that fit between its neighbours, and
    /// with padding.
    fn bridge(&mut self, state: &mut State, entry: &QueueEntry) -> Result<(), QueueError> {
        for slot in state.slots.end()..entry.offset.0 {
            let fits = |old: &QueueEntry| {
                !old.is_padding() && old.physical >= state.last_end && old.physical_end() <= entry.physical
            };
            let filler = match self.leftover(state, slot)?.filter(fits) {
                Some(old) => {
                    self.findings.kept += 1;
                    state.last_end = old.physical_end();
                    old
                }
                None => {
                    self.findings.padded += 1;
                    QueueEntry::padding(QueueOffset(slot))
                }
            };
            state.slots.append(&filler, 0)?;
        }
        self.queue.max.store(entry.offset.0, Ordering::Release);
        Ok(())
    }

    /// What the files held in `slot` before the recovery; slots are asked for in order.
    fn leftover(&mut self, state: &State, slot: u64) -> Result<Option<QueueEntry>, QueueError> {
        let (from, entries) = &mut self.ahead;
        if slot < *from || slot >= *from + entries.len() as u64 {
            // What was appended since stands in front of `slot`, so this is still the old content.
            *entries = state.slots.leftovers(slot..slot + AHEAD)?;
            *from = slot;
        }
        Ok(usize::try_from(slot - *from).ok().and_then(|index| entries.get(index).copied().flatten()))
    }

    /// Writes what was built. With `tidy`, whatever stands behind it is zeroed; with `doubt`, what
    /// an earlier process zeroed is synced too.
    pub(super) fn finish(
        self,
        directory: &dyn Directory,
        tidy: bool,
        doubt: bool,
    ) -> Result<QueueFindings, QueueError> {
        let Self { queue, mut findings, log_min, orphans, built, .. } = self;
        {
            let mut state = queue.write();
            state.slots.write_out()?;
            if tidy {
                findings.dropped = state.slots.clear_rest()?;
            }
            for (start, path) in &orphans {
                if !state.slots.starts().any(|known| known == *start) {
                    unsettle(directory)?;
                    directory.remove(path).map_err(|error| QueueError::io(path, error))?;
                }
            }
            if tidy || built {
                state.slots.seal_last_block()?;
            }
            if doubt || built || !orphans.is_empty() {
                state.slots.doubt()?;
            }
        }
        queue.set_numbering(queue.max());
        match queue.correct_min(log_min) {
            // It was corrected over what was believed; what was built is not older than the log.
            Err(QueueError::Damaged { .. }) => Ok(findings),
            corrected => corrected.map(|_| findings),
        }
    }
}
