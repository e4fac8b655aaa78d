//! Opening a store: lock, recover the log, recover the queues, mark it open, in this order.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::checkpoint::{self, Checkpoint, CheckpointFile, LastEnd};
use crate::disk::{Directory, DirectoryLock};
use crate::dispatch::Dispatcher;
use crate::log::{CommitLog, LogOptions, segments};
use crate::marks::{Confirm, Marks};
use crate::options::StoreOptions;
use crate::queue::{LogRange, QueueOptions, QueueTable};
use crate::recovery::{self, Known, LogRecovery, Recovered};
use crate::state::{self, Found, State, StateFile};
use crate::store::Inner;
use crate::{Clock, Durability, Epoch, PhysicalOffset};

/// Why a store cannot be opened.
#[derive(Debug)]
pub enum OpenError {
    /// Another process, or another handle in this one, has the store open.
    Locked,
    /// Nothing can be written where the directory lies; nothing was changed.
    ReadOnly,
    /// The directory was written by a newer version; nothing was changed.
    NewerFormat {
        /// The version byte found in `staticfire/state`.
        version: u8,
    },
    /// A segment has another length than the options say.
    SegmentLength {
        /// The file.
        file: String,
        /// Its length in bytes.
        found: u64,
        /// The length according to the options.
        expected: u64,
    },
    /// Flushed bytes are gone: the files end before the durable mark.
    LostDurable {
        /// Where the readable log ends.
        end: PhysicalOffset,
        /// What had been flushed.
        durable: PhysicalOffset,
    },
    /// The system's error.
    Io {
        /// The file or folder.
        path: String,
        /// What the system said.
        error: io::Error,
    },
    /// The options contradict themselves.
    Options(&'static str),
    /// The queues cannot be read or rebuilt.
    Queues(Box<dyn std::error::Error + Send + Sync>),
}

impl OpenError {
    pub(crate) fn io(path: &str, error: io::Error) -> Self {
        Self::Io { path: path.to_owned(), error }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked => f.write_str("the store is open in another process; stop that one first"),
            Self::ReadOnly => f.write_str(
                "the directory is mounted read-only, and an open store is written to; mount it for writing, or \
                 look at it with `staticfire store verify`",
            ),
            Self::NewerFormat { version } => write!(
                f,
                "{}: format version {:?} is newer than this program; nothing was changed, use a newer one",
                state::PATH,
                char::from(*version)
            ),
            Self::SegmentLength { file, found, expected } => write!(
                f,
                "{file}: {found} bytes, segments have {expected}; open the store with the segment size it \
                 was made with"
            ),
            Self::LostDurable { end, durable } => write!(
                f,
                "the commit log ends at {end}, and was flushed up to {durable}: files are missing; restore \
                 them, or copy what is left with `staticfire store verify` as a guide"
            ),
            Self::Io { path, error } if path.is_empty() => error.fmt(f),
            Self::Io { path, error } => write!(f, "{path}: {error}"),
            Self::Options(what) => f.write_str(what),
            Self::Queues(error) => write!(f, "the consume queues cannot be recovered: {error}"),
        }
    }
}

impl std::error::Error for OpenError {}

/// What opening a store found and did; its `Display` is the report for people.
#[derive(Clone, Debug, Default)]
pub struct RecoveryReport {
    /// The directory had no notes of ours: RocketMQ wrote it, or it is new.
    pub foreign: bool,
    /// Both slots of the store's notes were unreadable, and everything was scanned.
    pub state_damaged: bool,
    /// The commit log.
    pub log: LogRecovery,
    /// The consume queues.
    pub queues: crate::queue::QueueRecovery,
}

impl fmt::Display for RecoveryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.state_damaged {
            writeln!(f, "{}: unreadable, everything was scanned", state::PATH)?;
        }
        write!(f, "{}{}", self.log, self.queues)
    }
}

pub(crate) fn open(options: StoreOptions) -> Result<Inner, OpenError> {
    let (directory, clock) = options.place.open().map_err(|error| OpenError::io("", error))?;
    check(&options)?;
    let lock = lock(&*directory)?;
    let mut report = RecoveryReport::default();
    let remembered = read_state(&*directory, &mut report)?;
    let known = Known {
        last: LastEnd::read(&*directory).map_err(|e| OpenError::io(checkpoint::ABORT, e))?,
        state: remembered.as_ref().map(StateFile::state),
        checkpoint: Checkpoint::read(&*directory).map_err(|e| OpenError::io(checkpoint::PATH, e))?,
        segment_bytes: options.segment_bytes,
    };
    let folders = [segments::FOLDER, "consumequeue", "index", "config", state::FOLDER];
    for folder in folders {
        directory.make_directory(folder).map_err(|error| OpenError::io(folder, error))?;
    }
    let recovered = recovery::recover(&directory, &known, &mut report.log)?;
    let file = remember(&*directory, remembered, &recovered, known.last)?;
    // Before anything is accepted: a crash from here on is not a clean exit. And not before it is
    // remembered where the records of others end: from here on they would be taken for torn ones.
    checkpoint::mark_open(&*directory).map_err(|error| OpenError::io(checkpoint::ABORT, error))?;
    let checkpoint = CheckpointFile::open(&*directory).map_err(|e| OpenError::io(checkpoint::PATH, e))?;
    assemble(options, directory, clock, (recovered, known, file, checkpoint), (report, lock))
}

fn check(options: &StoreOptions) -> Result<(), OpenError> {
    if options.segment_bytes < 1024 || options.segment_bytes > 1 << 31 {
        return Err(OpenError::Options("segment_bytes must lie between 1 KiB and 2 GiB"));
    }
    if options.queue_file_entries == 0 || options.queue_file_entries > 1 << 26 {
        return Err(OpenError::Options("queue_file_entries must lie between 1 and 67,108,864"));
    }
    if options.batch_queue_file_entries == 0 || options.batch_queue_file_entries > 1 << 26 {
        return Err(OpenError::Options("batch_queue_file_entries must lie between 1 and 67,108,864"));
    }
    Ok(())
}

fn lock(directory: &dyn Directory) -> Result<DirectoryLock, OpenError> {
    directory.lock(checkpoint::LOCK).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => OpenError::Locked,
        io::ErrorKind::ReadOnlyFilesystem => OpenError::ReadOnly,
        _ => OpenError::io(checkpoint::LOCK, error),
    })
}

fn read_state(
    directory: &dyn Directory,
    report: &mut RecoveryReport,
) -> Result<Option<StateFile>, OpenError> {
    match StateFile::read(directory).map_err(|error| OpenError::io(state::PATH, error))? {
        Found::State(file) => return Ok(Some(file)),
        Found::Newer(version) => return Err(OpenError::NewerFormat { version }),
        Found::Damaged => report.state_damaged = true,
        Found::Nothing => report.foreign = true,
    }
    Ok(None)
}

/// Remembers that the store is open and how far it is durable.
fn remember(
    directory: &dyn Directory,
    remembered: Option<StateFile>,
    recovered: &Recovered,
    last: LastEnd,
) -> Result<StateFile, OpenError> {
    let io = |error| OpenError::io(state::PATH, error);
    // A directory that RocketMQ wrote holds records without checksums up to its end.
    let fresh = State { epoch: Epoch(1), sealed_from: recovered.end, ..State::default() };
    let old = remembered.as_ref().map_or(fresh, StateFile::state);
    let sealed_from = match old.sealed_to(last) {
        // Somebody else appended since.
        end if end < recovered.end => recovered.end,
        _ => old.sealed_from.min(recovered.end),
    };
    let state = State {
        durable: recovered.end,
        queues_complete: old.queues_complete.min(recovered.end),
        sealed_from,
        store_ms: recovered.store_ms,
        clean_end: None,
        cut: None,
        ..old
    };
    match remembered {
        Some(mut file) if !file.is_torn() => file.write(state).map(|()| file).map_err(io),
        _ => StateFile::create(directory, state).map_err(io),
    }
}

fn assemble(
    options: StoreOptions,
    directory: Arc<dyn Directory>,
    clock: Arc<dyn Clock>,
    (recovered, known, file, checkpoint): (Recovered, Known, StateFile, CheckpointFile),
    (mut report, lock): (RecoveryReport, DirectoryLock),
) -> Result<Inner, OpenError> {
    let end = recovered.end;
    let confirm = match options.durability {
        Durability::Written => Confirm::Local(Durability::Written),
        Durability::Flushed => Confirm::Local(Durability::Flushed),
        Durability::Confirmed => Confirm::External,
    };
    // What of a replicated log was confirmed is known as far as it was in the queues; the rest
    // another leader may take back.
    let confirmed = match confirm {
        Confirm::Local(_) => end,
        Confirm::External => file.state().queues_complete.clamp(recovered.min, end),
    };
    let marks = Marks {
        epoch: file.state().epoch,
        min: recovered.min,
        appended: end,
        written: end,
        flushed: end,
        confirmed,
        dispatched: confirmed,
    };
    let log_options = LogOptions {
        segment_bytes: options.segment_bytes,
        store_host: options.store_host,
        staged_bytes_max: options.staged_bytes_max,
        confirm,
        rules: options.rules.clone(),
        sealed_from: file.state().sealed_from,
        recovered_to: end,
    };
    let log = CommitLog::new(
        Arc::clone(&directory),
        clock,
        log_options,
        recovered.segments,
        marks,
        recovered.store_ms,
    );
    let log = Arc::new(log);
    let queue_options = QueueOptions {
        file_entries: options.queue_file_entries,
        batch_file_entries: options.batch_queue_file_entries,
        batch_topics: options.batch_topics.clone(),
    };
    let closed_at = known.state.and_then(|state| state.clean_end);
    let range = LogRange {
        min: marks.min,
        end: confirmed,
        // Somebody who appended wrote to the queues too.
        complete_to: known
            .state
            .filter(|state| !state.had_guests(known.last) && closed_at.is_none_or(|at| at == end))
            .map(|state| state.queues_complete),
        clean: report.log.clean && closed_at == Some(confirmed),
    };
    let (queues, found) =
        QueueTable::recover(Arc::clone(&directory), queue_options, &options.rules, &*log, range)
            .map_err(|error| OpenError::Queues(Box::new(error)))?;
    let queues = Arc::new(queues);
    report.queues = found;
    log.on_failure({
        let queues = Arc::clone(&queues);
        move || queues.wake_listeners()
    });
    let (rules, observers) = (options.rules.clone(), options.observers.clone());
    let dispatcher = Dispatcher::new(Arc::clone(&queues), rules, observers, confirmed);
    Ok(Inner::new(directory, log, queues, dispatcher, options, file, checkpoint, (report, lock)))
}
