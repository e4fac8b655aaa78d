//! All queues at recovery: what their files hold is taken as far as it was noted as durable, the rest
//! is built from the log, and nothing is left that a later crash could bring back.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::error::Error;
use std::fmt;
use std::sync::Arc;

use super::believe::{Believed, Distrust, believe_noted, believe_old};
use super::load::{self, Found};
use super::rebuild::{QueueFindings, Rebuilding};
use super::slots::{is_unsettled, settle};
use super::{ConsumeQueue, QueueError, QueueOptions, QueueTable};
use crate::disk::Directory;
use crate::dispatch::{DispatchRules, LogItem, LogRecords, fact_of};
use crate::{PhysicalOffset, QueueId, TopicName};

/// What recovery of the log found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRange {
    /// Start of the oldest segment.
    pub min: PhysicalOffset,
    /// End of the last whole record.
    pub end: PhysicalOffset,
    /// The entries of all records before this position were made durable, as far as it was noted.
    /// `None` when there is no such note, or when others wrote to the directory since: then every
    /// entry is compared with the log.
    pub complete_to: Option<PhysicalOffset>,
    /// The store was closed in order and nothing was written since, so nothing unfinished stands
    /// behind the end of any queue.
    pub clean: bool,
}

/// What recovery of the queues found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueRecovery {
    /// Where the walk through the log began; its end when nothing had to be built.
    pub walked_from: PhysicalOffset,
    /// Records walked.
    pub records: u64,
    /// Queues in which something was found.
    pub queues: Vec<QueueFindings>,
    /// Files and folders that no queue has; they were left alone.
    pub strangers: Vec<String>,
}

impl fmt::Display for QueueRecovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "queues: {} records read from {} on", self.records, self.walked_from)?;
        for found in &self.queues {
            write!(f, "\n  {} {}:", found.topic, found.queue)?;
            match &found.distrusted {
                Some(Distrust::MissingFile { path }) => write!(f, " {path} is missing;")?,
                Some(Distrust::ShortFile { path }) => write!(f, " {path} was too short;")?,
                Some(Distrust::Block { path, at }) => write!(f, " {path}: block at byte {at} is damaged;")?,
                None => {}
            }
            let QueueFindings { added, repaired, kept, padded, dropped, refused, .. } = found;
            let counts = [
                (added, "built"),
                (repaired, "corrected"),
                (kept, "kept without a record"),
                (padded, "padded"),
                (dropped, "dropped"),
                (refused, "records without a place"),
            ];
            for (count, what) in counts.into_iter().filter(|(count, _)| **count > 0) {
                write!(f, " {count} {what}")?;
            }
        }
        self.strangers.iter().try_for_each(|path| write!(f, "\n  {path} is none of a queue's files"))
    }
}

/// Why the queues cannot be recovered.
#[derive(Debug)]
pub enum QueueRecoveryError {
    /// Their files cannot be read or written, or do not fit the options.
    Queue(QueueError),
    /// The log cannot be read.
    Log {
        /// Where.
        at: PhysicalOffset,
        /// What the log said.
        error: Box<dyn Error + Send + Sync>,
    },
}

impl fmt::Display for QueueRecoveryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue(error) => error.fmt(f),
            Self::Log { at, error } => write!(f, "building the queues stopped at {at}: {error}"),
        }
    }
}

impl Error for QueueRecoveryError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Queue(error) => Some(error),
            Self::Log { error, .. } => Some(&**error),
        }
    }
}

impl From<QueueError> for QueueRecoveryError {
    fn from(error: QueueError) -> Self {
        Self::Queue(error)
    }
}

impl QueueTable {
    /// Opens all queues of a store. When this returns, each has exactly the entries of the records
    /// in `range` that belong to it (and of older ones, as far as files of them are left), durably,
    /// and numbers go on behind them.
    ///
    /// # Errors
    /// [`QueueRecoveryError`]. Recovery can be repeated; a crash in the middle changes nothing of
    /// its result.
    pub fn recover(
        directory: Arc<dyn Directory>,
        options: QueueOptions,
        rules: &DispatchRules,
        log: &dyn LogRecords,
        range: LogRange,
    ) -> Result<(Self, QueueRecovery), QueueRecoveryError> {
        let listing = load::list(&*directory, &options)?;
        let table = Self::new(directory, options);
        // Somebody removed all queues to have them built again.
        let is_noted = listing.queues.iter().any(|found| !found.starts.is_empty());
        let noted = range.complete_to.filter(|_| is_noted || range.min == range.end);
        let mut recovery = Recovery { table: &table, rules, range, noted, queues: BTreeMap::new() };
        let mut report = QueueRecovery { strangers: listing.strangers, ..QueueRecovery::default() };
        report.walked_from = recovery.open(listing.queues)?;
        report.records = recovery.walk(log, report.walked_from)?;
        report.queues = recovery.finish()?;
        table.sync_all()?;
        settle(&**table.directory())?;
        Ok((table, report))
    }
}

struct Recovery<'a> {
    table: &'a QueueTable,
    rules: &'a DispatchRules,
    range: LogRange,
    noted: Option<PhysicalOffset>,
    /// In order: a crash in a simulated recovery must happen at the same step every time.
    queues: BTreeMap<(TopicName, QueueId), Rebuilding>,
}

impl Recovery<'_> {
    /// Opens the queues that have files; returns where the walk through the log has to begin.
    fn open(&mut self, found: Vec<Found>) -> Result<PhysicalOffset, QueueError> {
        let limit = self.noted.map_or(self.range.min, |noted| noted.min(self.range.end)).max(self.range.min);
        let mut from = limit;
        for found in found {
            let mut slots = self.table.slots(&found.topic, found.id, found.layout);
            found.starts.iter().for_each(|start| slots.adopt(*start));
            let believed = match self.noted {
                Some(_) => believe_noted(&mut slots, &found, limit, self.range.min)?,
                None => believe_old(&mut slots, self.range.min)?,
            };
            let queue = self.table.insert(ConsumeQueue::new(found.topic.clone(), found.id, slots));
            let rebuilding = Rebuilding::new(queue, believed, self.range.min)?.with_orphans(found.orphans);
            from = from.min(rebuilding.needs_from().unwrap_or(from));
            self.queues.insert((found.topic, found.id), rebuilding);
        }
        Ok(from)
    }

    fn walk(&mut self, log: &dyn LogRecords, from: PhysicalOffset) -> Result<u64, QueueRecoveryError> {
        let (mut at, mut records) = (from, 0);
        while at < self.range.end {
            match log.item(at).map_err(|error| QueueRecoveryError::Log { at, error })? {
                LogItem::Record(record) => {
                    records += 1;
                    if let Some(fact) = fact_of(&record, self.table, self.rules) {
                        let key = (fact.queue.topic().clone(), fact.queue.id());
                        let rebuilding = match self.queues.entry(key) {
                            Entry::Occupied(known) => known.into_mut(),
                            Entry::Vacant(new) => {
                                new.insert(Rebuilding::new(fact.queue, Believed::default(), self.range.min)?)
                            }
                        };
                        rebuilding.build(&fact.entry, fact.store_ms)?;
                    }
                    at = at.after(u64::from(record.len()));
                }
                LogItem::SkipTo(next) => at = next.max(at.after(1)),
                LogItem::End => break,
            }
        }
        Ok(records)
    }

    fn finish(self) -> Result<Vec<QueueFindings>, QueueError> {
        let mut all = Vec::new();
        let tidy = !self.range.clean || self.noted.is_none();
        let unsettled = is_unsettled(&**self.table.directory())?;
        for rebuilding in self.queues.into_values() {
            let findings = rebuilding.finish(&**self.table.directory(), tidy, unsettled)?;
            if !findings.is_clean() {
                all.push(findings);
            }
        }
        Ok(all)
    }
}
