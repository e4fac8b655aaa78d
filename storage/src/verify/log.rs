//! Walks the whole log and counts what its queues must hold.

use std::collections::BTreeMap;

use super::{Findings, Notes, Problem, Severity, VerifyError, numbered_files, usual_len};
use crate::blank::BLANK_LEN_MIN;
use crate::checkpoint;
use crate::disk::Directory;
use crate::dispatch::{DispatchRules, messages_in};
use crate::log::segments::{self, FOLDER};
use crate::record::{Record, RecordCrc, RecordError, Scanned};
use crate::sparse::Sparse;
use crate::{PhysicalOffset, QueueId, QueueOffset};

/// The files of the log.
#[derive(Debug)]
pub(super) struct Log {
    segments: BTreeMap<u64, Sparse>,
    segment_len: u64,
}

/// What the log holds.
#[derive(Debug)]
pub(super) struct Walked {
    pub(super) min: PhysicalOffset,
    pub(super) end: PhysicalOffset,
    pub(super) records: u64,
    pub(super) queues: BTreeMap<String, BTreeMap<QueueId, Numbers>>,
}

/// The numbers that the records of one queue have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers {
    /// The first.
    pub(super) first: u64,
    /// Entries below must exist, those from here on may be missing until the next open.
    pub(super) settled: u64,
    /// One past the last.
    pub(super) next: u64,
}

impl Log {
    pub(super) fn open(directory: &dyn Directory, findings: &mut Findings) -> Result<Self, VerifyError> {
        let files = match numbered_files(directory, FOLDER, findings) {
            Err(VerifyError::Io { error, .. }) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(VerifyError::NotAStore);
            }
            files => files?,
        };
        let segment_len = usual_len(files.iter().map(|file| file.len));
        let mut segments = BTreeMap::new();
        // Made ahead of time, and cut to nothing by a power cut: nothing was in them.
        let used = files.iter().rposition(|file| file.len > 0).map_or(0, |last| last + 1);
        for (index, file) in files.into_iter().enumerate() {
            if file.len != segment_len {
                let problem = Problem::FileLength { found: file.len, expected: segment_len };
                let severity = if index < used { Severity::Damage } else { Severity::Leftover };
                findings.add(severity, &file.path, file.len.min(segment_len), problem);
            }
            if segment_len == 0 || !file.start.is_multiple_of(segment_len) {
                findings.add(Severity::Damage, &file.path, 0, Problem::FileName);
                continue;
            }
            let opened = Sparse::open(directory, &file.path, segment_len);
            segments.insert(file.start, opened.map_err(VerifyError::io(&file.path))?);
        }
        Ok(Self { segments, segment_len })
    }

    /// The record at `at`, checked by structure alone: the walk has found what else is wrong.
    /// `None` when `at` is in no file.
    pub(super) fn record(&self, at: PhysicalOffset) -> Option<Result<Record, RecordError>> {
        let (start, file) = self.segments.range(..=at.0).next_back()?;
        let from = usize::try_from(at.0 - start).ok().filter(|from| *from < file.len())?;
        Some(match file.item(from) {
            (Scanned::Damaged(error), _) => Err(error),
            (_, bytes) => Record::unverified(bytes),
        })
    }

    pub(super) fn walk(&self, notes: &Notes, rules: &DispatchRules, findings: &mut Findings) -> Walked {
        // Files made ahead of time hold nothing yet.
        let written = |(_, file): &(&u64, &Sparse)| file.first_nonzero(0).is_some();
        let last = self.segments.iter().rfind(written).map(|(start, _)| *start);
        let min = PhysicalOffset(self.segments.keys().next().copied().unwrap_or(0));
        let mut walk = Walk {
            log: self,
            notes,
            rules,
            findings,
            damaged: false,
            newest_ms: 0,
            walked: Walked { min, end: min, records: 0, queues: BTreeMap::new() },
        };
        let mut expected = min.0;
        for (start, file) in self.segments.iter().take_while(|(start, _)| Some(**start) <= last) {
            while expected < *start {
                walk.damaged = true;
                let missing = segments::path(PhysicalOffset(expected));
                walk.findings.add(Severity::Damage, &missing, 0, Problem::FileMissing);
                // One finding for a gap of any width: a name may hold any number.
                expected = *start;
            }
            walk.segment(*start, file, Some(*start) == last);
            expected = start.saturating_add(self.segment_len);
        }
        walk.end();
        walk.walked
    }
}

struct Walk<'a> {
    log: &'a Log,
    notes: &'a Notes,
    rules: &'a DispatchRules,
    findings: &'a mut Findings,
    /// Something unreadable was met: records may be missing.
    damaged: bool,
    newest_ms: i64,
    walked: Walked,
}

impl Walk<'_> {
    /// Walks one file from record to record.
    fn segment(&mut self, start: u64, file: &Sparse, is_last: bool) {
        let mut at = 0;
        loop {
            let position = PhysicalOffset(start + at as u64);
            self.walked.end = position;
            let problem = match file.item(at) {
                (Scanned::Record { .. }, bytes) => match Record::unverified(bytes) {
                    Ok(record) => {
                        self.record(start, position, &record);
                        at += record.len() as usize;
                        continue;
                    }
                    Err(error) => Problem::Record { error, resumes: None },
                },
                (Scanned::Blank { len }, _) => return self.blank(start, file, position, len),
                (Scanned::Damaged(error), _) => Problem::Record { error, resumes: None },
                (Scanned::Nothing, _) => Problem::Hole { resumes: None },
            };
            let resumes = self.resume(start, file, at + 1);
            match self.no_record(start, position, problem, resumes, is_last) {
                Some(next) => at = next,
                None => return,
            }
        }
    }

    /// Checks one whole record and counts it.
    fn record(&mut self, start: u64, at: PhysicalOffset, record: &Record) {
        let (file, from) = (|| segments::path(PhysicalOffset(start)), at.0 - start);
        self.walked.records += 1;
        if let Err(error) = record.check(at, self.notes.crc(at)) {
            let resumes = Some(at.after(record.len().into()));
            self.damage(&file(), from, Problem::Record { error, resumes });
            if matches!(error, RecordError::RecordCrc { .. }) {
                // Whatever it says about its queue may be wrong.
                return;
            }
        }
        self.newest_ms = self.newest_ms.max(record.store_ms());
        if record.transaction().is_queued()
            && !self.rules.is_system(record.topic())
            && let Some(expected) = self.count(at, record)
        {
            let (topic, queue) = (record.topic().to_owned(), record.queue());
            let problem = Problem::Number { topic, queue, found: record.queue_offset(), expected };
            self.findings.add(Severity::Damage, &file(), from, problem);
        }
    }

    /// Counts `record` for its queue; returns the number it should have when it has another.
    fn count(&mut self, at: PhysicalOffset, record: &Record) -> Option<QueueOffset> {
        let number = record.queue_offset().0;
        let next = number.saturating_add(messages_in(record.sys_flag(), record.properties()).into());
        let must = self.notes.must_be_dispatched(at, record.store_ms());
        let queues = &mut self.walked.queues;
        if !queues.contains_key(record.topic()) {
            queues.insert(record.topic().to_owned(), BTreeMap::new());
        }
        let topic = queues.get_mut(record.topic()).expect("just inserted");
        let settled = if must { next } else { number };
        let fresh = Numbers { first: number, settled, next };
        let Some(numbers) = topic.get_mut(&record.queue()) else {
            topic.insert(record.queue(), fresh);
            return None;
        };
        let expected = numbers.next;
        if number == 0 && expected != 0 {
            // The topic was deleted and made again: numbers start anew, old records stay.
            *numbers = fresh;
            return None;
        }
        numbers.next = next.max(expected);
        if must {
            numbers.settled = numbers.next;
        }
        // Behind unreadable records a gap is their trace.
        (number != expected && !(self.damaged && number > expected)).then_some(QueueOffset(expected))
    }

    /// The blank that ends the file.
    fn blank(&mut self, start: u64, segment: &Sparse, at: PhysicalOffset, len: u32) {
        let file = segments::path(PhysicalOffset(start));
        let (from, expected) = (at.0 - start, self.log.segment_len - (at.0 - start));
        if u64::from(len) != expected {
            self.damage(&file, from, Problem::BlankLen { found: len, expected });
        }
        // RocketMQ leaves there what was there before; we start from zeros.
        if self.notes.crc(at) == RecordCrc::Required
            && let Some(stray) = segment.first_nonzero(from as usize + BLANK_LEN_MIN)
        {
            self.findings.add(Severity::Damage, &file, stray as u64, Problem::StrayBytes);
        }
        self.walked.end = PhysicalOffset(start + self.log.segment_len);
    }

    /// At `at` is no record. Returns where to go on in the file.
    fn no_record(
        &mut self,
        start: u64,
        at: PhysicalOffset,
        problem: Problem,
        resumes: Option<usize>,
        is_last: bool,
    ) -> Option<usize> {
        let (file, from) = (segments::path(PhysicalOffset(start)), at.0 - start);
        let next = resumes.map(|next| PhysicalOffset(start + next as u64));
        match problem {
            Problem::Hole { .. } if is_last && next.is_none() => self.tail(start, at),
            Problem::Hole { .. } => self.damage(&file, from, Problem::Hole { resumes: next }),
            Problem::Record { error, .. } => {
                let durable = self.notes.state.is_none_or(|state| at < state.durable);
                let severity = self.notes.severity(is_last && next.is_none() && !durable);
                self.damaged = true;
                self.findings.add(severity, &file, from, Problem::Record { error, resumes: next });
            }
            other => self.damage(&file, from, other),
        }
        resumes
    }

    /// The log ends at `at`, in its last file: nothing but zeros may follow.
    fn tail(&mut self, start: u64, at: PhysicalOffset) {
        let (file, from) = (segments::path(PhysicalOffset(start)), at.0 - start);
        if let Some(stray) = self.log.segments[&start].first_nonzero(from as usize) {
            // RocketMQ leaves the bytes behind a cut as they are.
            let severity = self.notes.severity(true);
            let severity = if self.notes.state.is_none() { Severity::Leftover } else { severity };
            self.findings.add(severity, &file, stray as u64, Problem::StrayBytes);
        }
    }

    /// Compares the end with what the store remembers.
    fn end(&mut self) {
        let found = self.walked.end;
        let file = self.log.segments.range(..=found.0).next_back().map(|(start, _)| *start);
        let start = file.unwrap_or(self.walked.min.0);
        let path = segments::path(PhysicalOffset(start));
        if let Some(state) = self.notes.state {
            let expected = state.clean_end.unwrap_or(state.durable);
            // More than that was appended by a process that did not close the store, or by RocketMQ.
            if found < expected {
                let problem = Problem::LogEnd { found, expected };
                self.findings.add(Severity::Damage, &path, found.0 - start, problem);
            }
        }
        let checkpoint = self.notes.checkpoint;
        let times = [(0, checkpoint.physic_ms), (8, checkpoint.logics_ms)];
        for (at, time) in times.into_iter().filter(|(_, time)| *time > self.newest_ms) {
            let problem = Problem::CheckpointTime { found: time, newest: self.newest_ms };
            self.findings.add(Severity::Damage, checkpoint::PATH, at, problem);
        }
    }

    fn damage(&mut self, file: &str, at: u64, problem: Problem) {
        self.damaged = true;
        self.findings.add(Severity::Damage, file, at, problem);
    }

    /// The first place from `from` on where a valid record or the blank of the file starts.
    fn resume(&self, start: u64, file: &Sparse, from: usize) -> Option<usize> {
        let mut at = from;
        loop {
            // The magic stands four bytes behind the start.
            at = file.first_nonzero(at + 4)?.max(from + 4) - 4;
            if at + BLANK_LEN_MIN > file.len() {
                return None;
            }
            let position = PhysicalOffset(start + at as u64);
            let valid = match file.item(at) {
                (Scanned::Record { .. }, bytes) => {
                    Record::parse(bytes, position, self.notes.crc(position)).is_ok()
                }
                (Scanned::Blank { len }, _) => len as usize == file.len() - at,
                _ => false,
            };
            if valid {
                return Some(at);
            }
            at += 1;
        }
    }
}
