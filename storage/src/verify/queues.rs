//! Compares every entry of every queue with the log, and the other way round.

use std::collections::BTreeSet;
use std::ops::Range;

use super::log::{Log, Numbers, Walked};
use super::{
    Findings, Notes, NumberedFile, Problem, Severity, VerifyError, numbered_files, usual_len, whole,
};
use crate::disk::{Directory, DirectoryEntry, EntryKind};
use crate::dispatch::{DispatchRules, entry_of};
use crate::queue::{Layout, sums};
use crate::sparse::Sparse;
use crate::{QueueEntry, QueueId, QueueOffset, Record, TopicName};

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Counted {
    pub(super) queues: u64,
    pub(super) entries: u64,
}

/// The folder of one queue.
struct Folder {
    topic: String,
    id: QueueId,
    path: String,
    layout: Layout,
    files: Vec<NumberedFile>,
}

/// Checks all queues.
pub(super) fn check(
    directory: &dyn Directory,
    log: &Log,
    walked: &Walked,
    notes: &Notes,
    rules: &DispatchRules,
    findings: &mut Findings,
) -> Result<Counted, VerifyError> {
    let mut counted = Counted::default();
    let mut seen = BTreeSet::new();
    for layout in [Layout::Single, Layout::Batch] {
        let folders = folders(directory, layout, findings)?;
        let file_len = usual_len(folders.iter().flat_map(|folder| folder.files.iter().map(|file| file.len)));
        for folder in folders {
            let numbers = walked.queues.get(&folder.topic).and_then(|queues| queues.get(&folder.id)).copied();
            let mut queue = Queue {
                log,
                walked,
                notes,
                rules,
                findings,
                folder: &folder,
                file_len,
                numbers,
                expected: numbers.map_or(0, |numbers| numbers.first),
                slot: 0,
                any: false,
                entries: 0,
            };
            queue.check(directory)?;
            counted.queues += 1;
            counted.entries += queue.entries;
            seen.insert((folder.topic, folder.id));
        }
    }
    without_folder(walked, notes, &seen, findings);
    Ok(counted)
}

/// Queues that the log knows and the directory does not.
fn without_folder(
    walked: &Walked,
    notes: &Notes,
    seen: &BTreeSet<(String, QueueId)>,
    findings: &mut Findings,
) {
    for (topic, queues) in &walked.queues {
        let known = seen.iter().any(|(name, _)| name == topic);
        for (id, numbers) in queues.iter().filter(|(id, _)| !seen.contains(&(topic.clone(), **id))) {
            let Numbers { first, settled, next } = *numbers;
            // A topic without any folder among others with folders was deleted.
            let deleted = !known && !seen.is_empty();
            let severity = if deleted { Severity::Leftover } else { notes.severity(settled == first) };
            let problem = Problem::EntriesMissing {
                topic: topic.clone(),
                queue: *id,
                from: QueueOffset(first),
                count: next - first,
            };
            findings.add(severity, &format!("{}/{topic}/{id}", Layout::Single.folder()), 0, problem);
        }
    }
}

/// All queue folders of one layout.
fn folders(
    directory: &dyn Directory,
    layout: Layout,
    findings: &mut Findings,
) -> Result<Vec<Folder>, VerifyError> {
    let mut found = Vec::new();
    let root = layout.folder();
    for topic in directories(directory, root, |name| TopicName::new(name).is_ok(), findings)? {
        let above = format!("{root}/{topic}");
        let is_id = |name: &str| queue_id(name).is_some();
        for name in directories(directory, &above, is_id, findings)? {
            let path = format!("{above}/{name}");
            let files = numbered_files(directory, &path, findings)?;
            let id = queue_id(&name).expect("checked by `is_id`");
            found.push(Folder { topic: topic.clone(), id, path, layout, files });
        }
    }
    Ok(found)
}

fn queue_id(name: &str) -> Option<QueueId> {
    let id = name.parse().ok().map(QueueId).filter(|id| *id <= QueueId::MAX)?;
    (id.to_string() == name).then_some(id)
}

/// Names of the directories in `path` that are `valid`; anything else there is a finding.
fn directories(
    directory: &dyn Directory,
    path: &str,
    valid: impl Fn(&str) -> bool,
    findings: &mut Findings,
) -> Result<Vec<String>, VerifyError> {
    let entries = match directory.list(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(VerifyError::io(path))?,
    };
    let mut names = Vec::new();
    for DirectoryEntry { name, kind, .. } in entries {
        if kind == EntryKind::Directory && valid(&name) {
            names.push(name);
        } else {
            findings.add(Severity::Leftover, &format!("{path}/{name}"), 0, Problem::Foreign);
        }
    }
    Ok(names)
}

struct Queue<'a> {
    log: &'a Log,
    walked: &'a Walked,
    notes: &'a Notes,
    rules: &'a DispatchRules,
    findings: &'a mut Findings,
    folder: &'a Folder,
    file_len: u64,
    numbers: Option<Numbers>,
    /// The number that the next entry must have, by the records of the log.
    expected: u64,
    /// The slot behind the last one read.
    slot: u64,
    /// An entry that is not padding was met.
    any: bool,
    entries: u64,
}

impl Queue<'_> {
    fn check(&mut self, directory: &dyn Directory) -> Result<(), VerifyError> {
        let width = self.folder.layout.width() as u64;
        for file in &self.folder.files {
            if file.len != self.file_len {
                let problem = Problem::FileLength { found: file.len, expected: self.file_len };
                self.findings.add(Severity::Damage, &file.path, file.len.min(self.file_len), problem);
            }
            if self.file_len == 0
                || !file.start.is_multiple_of(self.file_len)
                || !file.start.is_multiple_of(width)
            {
                self.findings.add(Severity::Damage, &file.path, 0, Problem::FileName);
                continue;
            }
            let bytes = Sparse::open(directory, &file.path, self.file_len);
            let bytes = bytes.map_err(VerifyError::io(&file.path))?;
            self.file(file, &bytes);
            self.sums(directory, file, &bytes)?;
        }
        if let Some(Numbers { next, .. }) = self.numbers {
            self.missing_up_to(next, self.slot);
        }
        Ok(())
    }

    fn file(&mut self, file: &NumberedFile, bytes: &Sparse) {
        let width = self.folder.layout.width();
        let slots = bytes.len() / width;
        let (mut stray, mut next) = (false, 0);
        // Where only zeros stand is no entry.
        while let Some(index) = bytes.first_nonzero(next * width).map(|at| at / width) {
            if index >= slots {
                let rest = (slots * width) as u64;
                self.findings.add(Severity::Damage, &file.path, rest, Problem::StrayBytes);
                return;
            }
            next = index + 1;
            let (at, slot) = ((index * width) as u64, &bytes.slice(index * width..next * width)[..]);
            let number = file.start / width as u64 + index as u64;
            match self.folder.layout.decode(slot, number) {
                Some(entry) if entry.is_padding() => {
                    if self.any {
                        self.findings.add(Severity::Damage, &file.path, at, Problem::Padding);
                    }
                    self.slot = number + 1;
                }
                Some(entry) => {
                    self.missing_up_to(entry.offset.0, number);
                    self.entry(file, at, slot, &entry);
                    self.expected = self.expected.max(entry.next().0);
                    (self.any, self.slot) = (true, number + 1);
                }
                None if !stray => {
                    // One finding for a file, however much of it is wrong.
                    stray = true;
                    self.findings.add(self.notes.severity(false), &file.path, at, Problem::StrayBytes);
                }
                None => {}
            }
        }
    }

    /// Compares the checksums we keep beside the file. Where one does not hold although all entries
    /// agree with the log, it is the checksum that is wrong, and the next open makes it anew.
    fn sums(
        &mut self,
        directory: &dyn Directory,
        file: &NumberedFile,
        bytes: &Sparse,
    ) -> Result<(), VerifyError> {
        let path = sums::path(&file.path);
        let sums = match directory.open(&path) {
            Ok(sums) => whole(&*sums).map_err(VerifyError::io(&path))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(VerifyError::io(&path)(error)),
        };
        let block = |range: Range<usize>| bytes.slice(range);
        if let Some(at) = sums::first_wrong(&sums, bytes.len(), block) {
            self.findings.add(Severity::Leftover, &path, at as u64, Problem::Sum);
        }
        Ok(())
    }

    /// Compares one entry with its record.
    fn entry(&mut self, file: &NumberedFile, at: u64, bytes: &[u8], entry: &QueueEntry) {
        // Its record has been removed with the oldest files of the log.
        if entry.physical < self.walked.min {
            return;
        }
        let after_end = entry.physical >= self.walked.end;
        let problem = match self.log.record(entry.physical) {
            None => Problem::Dangling(*entry),
            Some(_) if after_end => Problem::Dangling(*entry),
            Some(Err(error)) => Problem::NoRecord { entry: *entry, error },
            Some(Ok(record)) => match self.differs(bytes, entry, &record) {
                Some(problem) => problem,
                None => {
                    self.entries += 1;
                    return;
                }
            },
        };
        self.findings.add(self.notes.severity(after_end), &file.path, at, problem);
    }

    fn differs(&self, bytes: &[u8], entry: &QueueEntry, record: &Record) -> Option<Problem> {
        let here = record.topic() == self.folder.topic && record.queue() == self.folder.id;
        // The walk has found a record that says it stands elsewhere.
        let of_record = entry_of(record, &self.rules.delay_levels)
            .map(|expected| QueueEntry { physical: entry.physical, ..expected });
        let Some(expected) = of_record.filter(|expected| here && expected.offset == entry.offset) else {
            return Some(Problem::OtherRecord(*entry));
        };
        let mut encoded = Vec::with_capacity(bytes.len());
        self.folder.layout.encode(&expected, record.store_ms(), &mut encoded);
        (encoded != bytes).then_some(Problem::Entry { found: *entry, expected })
    }

    /// The next entry has the number `number` and stands in `slot`: those in between are missing.
    fn missing_up_to(&mut self, number: u64, slot: u64) {
        let Some(numbers) = self.numbers else { return };
        let (from, to) = (self.expected.max(numbers.first), number.min(numbers.next));
        if from >= to {
            return;
        }
        self.expected = to;
        let width = self.folder.layout.width() as u64;
        let slot = if self.folder.layout == Layout::Single { from } else { slot };
        // The number comes from a record, where any number can stand.
        let byte = slot.saturating_mul(width);
        let file_start = byte / self.file_len.max(width) * self.file_len;
        let path = format!("{}/{file_start:020}", self.folder.path);
        let severity = self.notes.severity(from >= numbers.settled);
        let (topic, queue, count) = (self.folder.topic.clone(), self.folder.id, to - from);
        let problem = Problem::EntriesMissing { topic, queue, from: QueueOffset(from), count };
        self.findings.add(severity, &path, byte - file_start, problem);
    }
}
