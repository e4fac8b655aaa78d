//! Reads a whole store and says what is wrong with it, changing nothing.
//!
//! Every byte of the log is read, every checksum computed; every queue entry is compared with the
//! record it names, and every record's number with the entries of its queue. It works on the files
//! alone: the sizes come from the directory, and neither our state file nor RocketMQ's checkpoint
//! is needed, so RocketMQ's directories are checked as well. What those do not protect (header,
//! topic and properties of a record without record CRC) cannot be found damaged.
//!
//! Memory is proportional to the number of queues, not of records. Key index files, configuration
//! and whatever else lies in the directory are not looked at.

mod finding;
mod log;
mod queues;

use std::fmt;
use std::io;
use std::ops::Range;

pub use finding::{Finding, Problem, Severity};

use crate::checkpoint::{self, LastEnd};
use crate::disk::{Directory, DirectoryEntry, EntryKind, SegmentFile};
use crate::dispatch::DispatchRules;
use crate::state::{self, Found, State, StateFile};
use crate::{PhysicalOffset, RecordCrc};

/// Findings listed in a report; further ones are counted.
pub const FINDINGS_MAX: usize = 1000;

/// What [`verify`] saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyReport {
    /// The positions of the log.
    pub log: Range<PhysicalOffset>,
    /// Records in the log.
    pub records: u64,
    /// Queues with files.
    pub queues: u64,
    /// Entries in them that name a record of the log.
    pub entries: u64,
    /// Whether the store was closed; otherwise the next open has something to put right.
    pub closed: bool,
    /// What is wrong, at most [`FINDINGS_MAX`].
    pub findings: Vec<Finding>,
    /// Findings beyond that.
    pub omitted: u64,
}

impl VerifyReport {
    /// True when nothing is damaged. What a crash leaves and the next open puts right
    /// ([`Severity::Leftover`]) is no damage.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.omitted == 0 && self.findings.iter().all(|finding| finding.severity == Severity::Leftover)
    }
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        if self.omitted > 0 {
            writeln!(f, "{} further findings", self.omitted)?;
        }
        let Self { log, records, queues, entries, .. } = self;
        let closed = if self.closed { "closed" } else { "not closed" };
        let verdict = if self.is_sound() { "sound" } else { "damaged" };
        write!(
            f,
            "{verdict}: log {} to {}, {records} records, {queues} queues, {entries} entries, {closed}",
            log.start, log.end
        )
    }
}

/// Why a directory could not be verified.
#[derive(Debug)]
pub enum VerifyError {
    /// The directory holds no commit log: it is not a store.
    NotAStore,
    /// A file or folder cannot be read.
    Io {
        /// Its path in the store.
        path: String,
        /// The system's error.
        error: io::Error,
    },
}

impl VerifyError {
    fn io(path: &str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { path, error }
    }
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAStore => f.write_str("there is no folder `commitlog`: not a store directory"),
            Self::Io { path, error } => write!(f, "{path}: cannot be read: {error}"),
        }
    }
}

impl std::error::Error for VerifyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NotAStore => None,
            Self::Io { error, .. } => Some(error),
        }
    }
}

/// Verifies the store in `directory`, which nobody may write to meanwhile, by the rules that
/// [`crate::StoreOptions`] starts from.
///
/// # Errors
/// [`VerifyError`] when it could not be done; damage is no error but in the report.
pub fn verify(directory: &dyn Directory) -> Result<VerifyReport, VerifyError> {
    verify_with(directory, &DispatchRules::default())
}

/// [`verify`] for a store that was opened with these rules.
///
/// # Errors
/// As [`verify`].
pub fn verify_with(directory: &dyn Directory, rules: &DispatchRules) -> Result<VerifyReport, VerifyError> {
    let mut findings = Findings::default();
    let notes = Notes::read(directory, &mut findings)?;
    let log = log::Log::open(directory, &mut findings)?;
    let walked = log.walk(&notes, rules, &mut findings);
    let counted = queues::check(directory, &log, &walked, &notes, rules, &mut findings)?;
    Ok(VerifyReport {
        log: walked.min..walked.end,
        records: walked.records,
        queues: counted.queues,
        entries: counted.entries,
        closed: notes.closed(),
        findings: findings.listed,
        omitted: findings.omitted,
    })
}

#[derive(Debug, Default)]
struct Findings {
    listed: Vec<Finding>,
    omitted: u64,
}

impl Findings {
    fn add(&mut self, severity: Severity, file: &str, at: u64, problem: Problem) {
        if self.listed.len() < FINDINGS_MAX {
            self.listed.push(Finding { severity, file: file.to_owned(), at, problem });
        } else {
            self.omitted += u64::from(severity == Severity::Damage);
        }
    }
}

/// What the store says about itself: our state file, or RocketMQ's checkpoint and abort file.
#[derive(Debug)]
struct Notes {
    last: LastEnd,
    /// `None` for RocketMQ's directories.
    state: Option<State>,
    checkpoint: checkpoint::Checkpoint,
}

impl Notes {
    fn read(directory: &dyn Directory, findings: &mut Findings) -> Result<Self, VerifyError> {
        let found = StateFile::read(directory).map_err(VerifyError::io(state::PATH))?;
        let state = match found {
            Found::State(file) => Some(file.state()),
            Found::Nothing | Found::Damaged | Found::Newer(_) => None,
        };
        let top = directory.list("").map_err(VerifyError::io("."))?;
        let there = |name: &str| top.iter().find(|entry| entry.name == name && entry.kind == EntryKind::File);
        let last = match there(checkpoint::ABORT) {
            Some(_) => LastEnd::read(directory).map_err(VerifyError::io(checkpoint::ABORT))?,
            None => LastEnd::Closed,
        };
        let notes = match directory.open(state::PATH) {
            Ok(file) => whole(&*file).map_err(VerifyError::io(state::PATH))?,
            Err(_) => Vec::new(),
        };
        if let Some(at) = state::first_unexpected(&notes) {
            // The slot that was being written when the process died; the other one counts.
            let severity = if last != LastEnd::Closed && state.is_some() {
                Severity::Leftover
            } else {
                Severity::Damage
            };
            findings.add(severity, state::PATH, at as u64, Problem::State);
        }
        let len = there(checkpoint::PATH).map_or(0, |entry| entry.len);
        if len != checkpoint::LEN {
            let problem = Problem::FileLength { found: len, expected: checkpoint::LEN };
            findings.add(Severity::Leftover, checkpoint::PATH, 0, problem);
        }
        let checkpoint =
            checkpoint::Checkpoint::read(directory).map_err(VerifyError::io(checkpoint::PATH))?;
        Ok(Self { last, state, checkpoint })
    }

    fn crc(&self, at: PhysicalOffset) -> RecordCrc {
        self.state.map_or(RecordCrc::IfPresent, |state| state.crc_at(at, self.last))
    }

    fn closed(&self) -> bool {
        self.last == LastEnd::Closed
    }

    /// Damage, or what a crash may leave: `after_crash` tells whether it can be that.
    fn severity(&self, after_crash: bool) -> Severity {
        if !self.closed() && after_crash { Severity::Leftover } else { Severity::Damage }
    }

    /// Whether the queue entry of the record at `physical`, stored at `store_ms`, must exist.
    /// Otherwise the next open makes it from the log.
    fn must_be_dispatched(&self, physical: PhysicalOffset, store_ms: i64) -> bool {
        /// RocketMQ dispatches again what is at most this much older than its checkpoint says.
        const ROCKETMQ_MARGIN_MS: i64 = 3000;
        match self.state {
            _ if self.closed() => true,
            Some(state) => physical < state.queues_complete,
            None => store_ms <= self.checkpoint.physic_ms.min(self.checkpoint.logics_ms) - ROCKETMQ_MARGIN_MS,
        }
    }
}

/// All of a small file.
fn whole(file: &dyn SegmentFile) -> io::Result<Vec<u8>> {
    let len = usize::try_from(file.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut bytes = vec![0; len];
    file.read_into(0, &mut bytes)?;
    Ok(bytes)
}

/// A file named by its first byte in a sequence of files.
#[derive(Debug)]
struct NumberedFile {
    start: u64,
    len: u64,
    path: String,
}

/// The numbered files of `folder`, in order; anything else there is a finding.
fn numbered_files(
    directory: &dyn Directory,
    folder: &str,
    findings: &mut Findings,
) -> Result<Vec<NumberedFile>, VerifyError> {
    /// No sequence of files gets so long; sums of positions stay in range.
    const START_MAX: u64 = 1 << 62;
    let mut files = Vec::new();
    for DirectoryEntry { name, kind, len } in directory.list(folder).map_err(VerifyError::io(folder))? {
        let path = format!("{folder}/{name}");
        let digits = name.len() == 20 && name.bytes().all(|byte| byte.is_ascii_digit());
        match name.parse() {
            Ok(start) if digits && start <= START_MAX && kind == EntryKind::File => {
                files.push(NumberedFile { start, len, path })
            }
            _ => findings.add(Severity::Leftover, &path, 0, Problem::Foreign),
        }
    }
    Ok(files)
}

/// The length that most of the files have: what they were created with. Of two lengths that are
/// equally frequent the larger, because files lose their end and never grow.
fn usual_len(lens: impl Iterator<Item = u64>) -> u64 {
    let mut counts = std::collections::BTreeMap::new();
    lens.filter(|len| *len > 0).for_each(|len| *counts.entry(len).or_insert(0u64) += 1);
    counts.into_iter().max_by_key(|(len, count)| (*count, *len)).map_or(0, |(len, _)| len)
}
