//! Opening a log: where it ends, and what is wrong with it (DESIGN D5, D6; invariants I4, I5, I7).
//!
//! Bytes below the durable mark were flushed. Damage there is never cut: it is left where it is,
//! reported, and never served. Above it the first place that holds no valid record is a torn tail:
//! the log ends there, whatever follows is kept as an orphan, and zeros are made durable up to the
//! end of the segment, so that nothing stale can be taken for a record after another crash.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::checkpoint::{Checkpoint, LastEnd};
use crate::disk::{Directory, EntryKind};
use crate::log::cut::{finish_cut, keep_orphan, move_to_orphans, rewrite};
use crate::log::search::valid_records_after;
use crate::log::segments::{FOLDER, Segment, path};
use crate::planted::planted;
use crate::record::{Record, RecordCrc, RecordError, Scanned};
use crate::sparse::Sparse;
use crate::state::State;
use crate::{OpenError, PhysicalOffset};

/// The log as recovery left it.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) segments: Vec<Segment>,
    pub(crate) min: PhysicalOffset,
    pub(crate) end: PhysicalOffset,
    /// Store time of the newest record read, in ms.
    pub(crate) store_ms: i64,
}

/// What opening the log found and did.
#[derive(Clone, Debug, Default)]
pub struct LogRecovery {
    /// The last process closed the store properly.
    pub clean: bool,
    /// Start of the oldest segment.
    pub min: PhysicalOffset,
    /// Where the log ends.
    pub end: PhysicalOffset,
    /// Where reading began: everything before was trusted to an earlier flush.
    pub scanned_from: PhysicalOffset,
    /// Records read and checked.
    pub records: u64,
    /// Damage below the durable mark: kept, never served.
    pub damaged: Vec<Damage>,
    /// What was cut off the end.
    pub tail: Option<TailCut>,
    /// Segments of zero length at the end, made ahead of time and lost in a power cut; removed.
    pub empty_segments: Vec<PhysicalOffset>,
    /// A cut decided by an earlier process was finished.
    pub finished_cut: Option<PhysicalOffset>,
}

/// A range of the log that holds no valid record although it was durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// First damaged byte.
    pub from: PhysicalOffset,
    /// Where the next valid record, or the next segment, starts.
    pub to: PhysicalOffset,
    /// What is wrong at `from`.
    pub what: WhatIsWrong,
}

/// Why no record could be read at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhatIsWrong {
    /// The bytes are zero.
    Zeros,
    /// The bytes are no valid record.
    Record(RecordError),
    /// The segment's file is missing or too short.
    Missing,
}

/// What was cut off the end of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TailCut {
    /// The new end.
    pub at: PhysicalOffset,
    /// What stands there.
    pub what: WhatIsWrong,
    /// End of the last valid record behind the cut, if there is one; the bytes up to there are
    /// kept in `staticfire/orphans`.
    pub orphaned_to: Option<PhysicalOffset>,
}

impl fmt::Display for WhatIsWrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zeros => f.write_str("nothing was written there"),
            Self::Record(error) => error.fmt(f),
            Self::Missing => f.write_str("the file is missing or too short"),
        }
    }
}

impl fmt::Display for LogRecovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.clean { "closed properly" } else { "not closed properly" };
        writeln!(
            f,
            "commit log {} to {}: {how}, {} records read from {} on",
            self.min, self.end, self.records, self.scanned_from
        )?;
        if let Some(at) = self.finished_cut {
            writeln!(f, "commit log: finished an earlier cut at {at}")?;
        }
        for start in &self.empty_segments {
            writeln!(f, "{}: empty, removed", path(*start))?;
        }
        for Damage { from, to, what } in &self.damaged {
            writeln!(f, "commit log {from} to {to}: damaged below the durable mark and kept: {what}")?;
        }
        if let Some(TailCut { at, what, orphaned_to }) = &self.tail {
            write!(f, "commit log: cut at {at}: {what}")?;
            match orphaned_to {
                Some(to) => writeln!(f, "; {at} to {to} kept in {}", crate::log::cut::ORPHANS)?,
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}

/// What recovery knows before it reads the log.
pub(crate) struct Known {
    pub(crate) last: LastEnd,
    /// `None` for a directory without notes of ours.
    pub(crate) state: Option<State>,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) segment_bytes: u64,
}

/// Recovers the log in `directory`.
pub(crate) fn recover(
    directory: &Arc<dyn Directory>,
    known: &Known,
    report: &mut LogRecovery,
) -> Result<Recovered, OpenError> {
    let mut segments = load(&**directory, known.segment_bytes, report)?;
    if let Some(cut) = known.state.and_then(|state| state.cut) {
        let above = segments.iter().filter(|segment| segment.end() > cut.end);
        let written = above.map(|it| rewrite(&*it.file, cut.end.0.saturating_sub(it.start.0)..it.file.len()));
        written
            .collect::<io::Result<()>>()
            .and_then(|()| finish_cut(&**directory, &segments, cut, known.segment_bytes))
            .map_err(|e| OpenError::io(FOLDER, e))?;
        report.finished_cut = Some(cut.end);
        segments = load(&**directory, known.segment_bytes, report)?;
    }
    let mut scan = Scan::new(known, &segments, report);
    scan.run()?;
    let ended_here = scan.ended_here();
    let (end, tail, store_ms) = (scan.at, scan.tail, scan.store_ms);
    // What it has open keeps others from writing there.
    drop(scan.open);
    report.min = segments.first().map_or(end, |segment| segment.start);
    report.end = end;
    report.clean = known.last == LastEnd::Closed;
    let whole = segments.last().is_none_or(|last| last.file.len() == known.segment_bytes);
    let trusted = ended_here && whole;
    if !trusted {
        let epoch = known.state.map_or(crate::Epoch(0), |state| state.epoch);
        clear_tail(&**directory, &mut segments, end, tail.as_ref(), (epoch, known.segment_bytes))
            .and_then(|()| persist(&**directory, known, &segments, end))
            .map_err(|error| OpenError::io(FOLDER, error))?;
    }
    fill_holes(&segments, end).map_err(|error| OpenError::io(FOLDER, error))?;
    report.tail = tail;
    Ok(Recovered { min: report.min, segments, end, store_ms })
}

/// The files of the log, by name.
fn load(
    directory: &dyn Directory,
    segment_bytes: u64,
    report: &mut LogRecovery,
) -> Result<Vec<Segment>, OpenError> {
    let io = |error| OpenError::io(FOLDER, error);
    let mut segments = Vec::new();
    for entry in directory.list(FOLDER).map_err(io)? {
        let is_name = entry.name.len() == 20 && entry.name.bytes().all(|byte| byte.is_ascii_digit());
        // No log gets so long; and no position in such a file would fit the record's signed field.
        let number = entry.name.parse::<u64>().ok().filter(|start| is_name && *start <= 1 << 62);
        let (Some(start), EntryKind::File) = (number, entry.kind) else { continue };
        if start % segment_bytes != 0 || entry.len > segment_bytes {
            return Err(OpenError::SegmentLength {
                file: format!("{FOLDER}/{}", entry.name),
                found: entry.len,
                expected: segment_bytes,
            });
        }
        let file = directory.open(&path(PhysicalOffset(start))).map_err(io)?;
        segments.push(Segment { start: PhysicalOffset(start), file });
    }
    // RocketMQ makes two files ahead of time; a power cut can leave both at zero length.
    while segments.last().is_some_and(|segment| segment.file.is_empty()) {
        let Some(Segment { start, .. }) = segments.pop() else { break };
        directory.remove(&path(start)).map_err(io)?;
        report.empty_segments.push(start);
    }
    Ok(segments)
}

/// Walks the log from record to record.
struct Scan<'a> {
    known: &'a Known,
    segments: &'a [Segment],
    /// The segment read last, by its place among them.
    open: Option<(usize, Sparse)>,
    report: &'a mut LogRecovery,
    at: PhysicalOffset,
    store_ms: i64,
    tail: Option<TailCut>,
}

impl<'a> Scan<'a> {
    fn new(known: &'a Known, segments: &'a [Segment], report: &'a mut LogRecovery) -> Self {
        let min = segments.first().map_or(PhysicalOffset(0), |segment| segment.start);
        let state = known.state.unwrap_or_default();
        let trusted = match (known.last, state.clean_end) {
            (LastEnd::Closed, Some(end)) => end,
            // A guest that recovered the log may have cut it lower and gone on there: what was the
            // end of a record to us need not be one of its.
            _ if state.had_guests(known.last) => min,
            _ => state.durable,
        };
        let last = segments.last().map_or(min, Segment::end);
        // A mark outside the files that are there says nothing about them, nor does one behind a
        // file that is missing or too short.
        let at = if (min..=last).contains(&trusted) { trusted } else { min };
        let at = at.min(whole_to(segments, min, known.segment_bytes));
        report.scanned_from = at;
        Self { known, segments, open: None, report, at, store_ms: state.store_ms, tail: None }
    }

    fn run(&mut self) -> Result<(), OpenError> {
        loop {
            match self.valid_record_at(self.at)? {
                At::Record(record) => self.take(&record),
                At::NextSegment(start) if self.is_end(start) => {
                    self.at = start;
                    return self.require_durable();
                }
                At::NextSegment(start) => self.at = start,
                At::PastLastFile => return self.require_durable(),
                At::Nothing(what) if planted("Z9") => {
                    self.tail = Some(TailCut { at: self.at, what, orphaned_to: None });
                    return Ok(());
                }
                // Nobody wrote behind a proper end, as long as what follows it is not written.
                At::Nothing(WhatIsWrong::Zeros) if self.ended_here() => return Ok(()),
                At::Nothing(what) => match self.next_valid(self.at)? {
                    Some((record, _)) if self.was_durable(&record) => self.keep(record.physical(), what),
                    _ if self.at < self.durable() => self.keep_up_to_durable(what)?,
                    Some((_, last_end)) => {
                        self.tail = Some(TailCut { at: self.at, what, orphaned_to: Some(last_end) });
                        return Ok(());
                    }
                    None if what == WhatIsWrong::Zeros => return Ok(()),
                    None => {
                        self.tail = Some(TailCut { at: self.at, what, orphaned_to: None });
                        return Ok(());
                    }
                },
            }
        }
    }

    /// The last process closed the store, and its log ended here.
    fn ended_here(&self) -> bool {
        let clean_end = self.known.state.and_then(|state| state.clean_end);
        self.known.last == LastEnd::Closed && clean_end == Some(self.at)
    }

    fn durable(&self) -> PhysicalOffset {
        self.known.state.map_or(PhysicalOffset(0), |state| state.durable)
    }

    /// The files end here: nothing may be missing that had been flushed.
    fn require_durable(&self) -> Result<(), OpenError> {
        let (end, durable) = (self.at, self.durable());
        if end < durable { Err(OpenError::LostDurable { end, durable }) } else { Ok(()) }
    }

    /// Goes on at the durable mark, although nothing valid stands before it.
    fn keep_up_to_durable(&mut self, what: WhatIsWrong) -> Result<(), OpenError> {
        let durable = self.durable();
        if self.segments.iter().all(|segment| !(segment.start <= durable && durable <= segment.end())) {
            return Err(OpenError::LostDurable { end: self.at, durable });
        }
        self.keep(durable, what);
        Ok(())
    }

    /// Notes that nothing valid stands from here to `to`, and goes on there.
    fn keep(&mut self, to: PhysicalOffset, what: WhatIsWrong) {
        self.report.damaged.push(Damage { from: self.at, to, what });
        self.at = to;
    }

    fn take(&mut self, record: &Record) {
        self.at = self.at.after(u64::from(record.len()));
        self.store_ms = self.store_ms.max(record.store_ms());
        self.report.records += 1;
    }

    /// Proof that everything before `record` had been flushed: it does not start behind our durable
    /// mark, or RocketMQ's checkpoint names a younger one. (Of the same millisecond there may be
    /// several, and only the first of them was certainly flushed.)
    fn was_durable(&self, record: &Record) -> bool {
        let state = self.known.state.unwrap_or_default();
        record.physical() <= state.durable || record.store_ms() < self.known.checkpoint.physic_ms
    }

    fn is_end(&self, start: PhysicalOffset) -> bool {
        self.segments.last().is_none_or(|segment| segment.end() <= start)
    }

    fn valid_record_at(&mut self, at: PhysicalOffset) -> Result<At, OpenError> {
        let Some(index) = self.segments.iter().position(|segment| at < self.whole_end(segment)) else {
            return Ok(At::PastLastFile);
        };
        let segment = &self.segments[index];
        if at < segment.start {
            return Ok(At::Nothing(WhatIsWrong::Missing));
        }
        let from = at.0 - segment.start.0;
        if from >= segment.file.len() {
            return Ok(At::Nothing(WhatIsWrong::Missing));
        }
        let (scanned, bytes) = self.sparse(index)?.item(from as usize);
        Ok(match scanned {
            Scanned::Record { .. } => match Record::parse(bytes, at, self.crc(at)) {
                Ok(record) => At::Record(record),
                Err(error) => At::Nothing(WhatIsWrong::Record(error)),
            },
            Scanned::Blank { .. } => At::NextSegment(self.whole_end(&self.segments[index])),
            Scanned::Nothing => At::Nothing(WhatIsWrong::Zeros),
            Scanned::Damaged(error) => At::Nothing(WhatIsWrong::Record(error)),
        })
    }

    /// The first valid record behind `at`, and the end of the last one.
    fn next_valid(&self, at: PhysicalOffset) -> Result<Option<(Record, PhysicalOffset)>, OpenError> {
        let mut found: Option<(Record, PhysicalOffset)> = None;
        let each = |record: Record| {
            let end = record.physical().after(record.len().into());
            match &mut found {
                Some((_, last_end)) => *last_end = end,
                None => found = Some((record, end)),
            }
            true
        };
        valid_records_after(self.segments, at, |at| self.crc(at), each)
            .map_err(|error| OpenError::io(FOLDER, error))?;
        Ok(found)
    }

    fn crc(&self, at: PhysicalOffset) -> RecordCrc {
        self.known.state.map_or(RecordCrc::IfPresent, |state| state.crc_at(at, self.known.last))
    }

    fn whole_end(&self, segment: &Segment) -> PhysicalOffset {
        segment.start.after(self.known.segment_bytes)
    }

    fn sparse(&mut self, index: usize) -> Result<&Sparse, OpenError> {
        let opened = match self.open.take() {
            Some((open, sparse)) if open == index => sparse,
            _ => {
                let segment = &self.segments[index];
                Sparse::of(&*segment.file, u64::MAX)
                    .map_err(|error| OpenError::io(&path(segment.start), error))?
            }
        };
        Ok(&self.open.insert((index, opened)).1)
    }
}

/// Up to where the files are all there and have their full length. The last one may be short: it
/// counts from its start on.
fn whole_to(segments: &[Segment], min: PhysicalOffset, segment_bytes: u64) -> PhysicalOffset {
    let mut end = min;
    for segment in segments {
        let whole = segment.start == end && segment.file.len() == segment_bytes;
        if !whole {
            break;
        }
        end = segment.end();
    }
    end
}

/// What stands at a position.
enum At {
    Record(Record),
    NextSegment(PhysicalOffset),
    PastLastFile,
    Nothing(WhatIsWrong),
}

/// Makes the log end at `end` durably: what stood behind goes to the orphans, zeros take its place.
fn clear_tail(
    directory: &dyn Directory,
    segments: &mut Vec<Segment>,
    end: PhysicalOffset,
    tail: Option<&TailCut>,
    (epoch, segment_bytes): (crate::Epoch, u64),
) -> io::Result<()> {
    let orphaned = tail.and_then(|tail| tail.orphaned_to);
    let holder = segments.iter().find(|segment| segment.start <= end && end < segment.end());
    if let (Some(holder), Some(to)) = (holder, orphaned) {
        let (from, to) = (end.0 - holder.start.0, to.0.min(holder.end().0) - holder.start.0);
        if from < to {
            keep_orphan(directory, holder, from..to, epoch)?;
        }
    }
    // The first one stays: it says where the log begins.
    let kept = segments.iter().rposition(|segment| segment.start < end).map_or(1, |index| index + 1);
    let later = segments.split_off(kept.min(segments.len()));
    move_to_orphans(directory, &later, epoch, orphaned)?;
    if let Some(last) = segments.last_mut() {
        if last.file.len() < segment_bytes {
            *last = crate::log::cut::lengthen(directory, last, segment_bytes)?;
        }
        if end < last.end() && !planted("Z11") {
            // Durable with `persist`, before anything is appended.
            last.file.zero(end.0 - last.start.0..segment_bytes)?;
        }
    }
    Ok(())
}

/// Gives the holes of a sparse copy blocks of their own: from here on records are read through mappings, and on
/// a full tmpfs a hole cannot be looked at (see [`Sparse`]). Here a full disk is an error.
fn fill_holes(segments: &[Segment], end: PhysicalOffset) -> io::Result<()> {
    for segment in segments.iter().filter(|segment| segment.start < end) {
        let used = end.min(segment.end()).0 - segment.start.0;
        if segment.file.next_hole(0)? < used {
            segment.file.allocate(0..used)?;
        }
    }
    Ok(())
}

/// Writes the tail again (see [`rewrite`]), then flushes; only then it counts.
fn persist(
    directory: &dyn Directory,
    known: &Known,
    segments: &[Segment],
    end: PhysicalOffset,
) -> io::Result<()> {
    let durable = known.state.map_or(end, |state| state.durable);
    for segment in segments.iter().filter(|segment| segment.start < end && segment.end() > durable) {
        let from = durable.0.max(segment.start.0) - segment.start.0;
        let to = end.0.min(segment.end().0) - segment.start.0;
        rewrite(&*segment.file, from..to)?;
    }
    for segment in segments.iter().filter(|segment| segment.end() > durable) {
        segment.file.sync()?;
    }
    // Names that only the cache of a killed process's system held.
    directory.sync(FOLDER)
}
