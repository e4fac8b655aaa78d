//! How a store is opened.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use crate::disk::Directory;
use crate::dispatch::{DispatchRules, Observer};
use crate::{Clock, Durability, SystemClock, TopicName};

/// Where a store lives and how it behaves. Start from [`StoreOptions::at`] or
/// [`StoreOptions::on`] and change what you need.
#[derive(Clone)]
pub struct StoreOptions {
    pub(crate) place: Place,
    /// Bytes of a commit log segment; also the limit of a batch. RocketMQ's default: 1 GiB.
    pub segment_bytes: u64,
    /// Entries of a consume queue file. RocketMQ's default: 300,000.
    pub queue_file_entries: u64,
    /// Entries of a batch consume queue file. RocketMQ's default: 300,000.
    pub batch_queue_file_entries: u64,
    /// Topics whose new queues have one entry for each inner batch (RocketMQ's `queue.type=BatchCQ`).
    pub batch_topics: Vec<TopicName>,
    /// What decides which records get which queue entries. A store must be opened, and verified
    /// ([`crate::verify::verify_with`]), with the rules that it was written with.
    pub rules: DispatchRules,
    /// When consumers may see a message, and the least that an acknowledgement waits for.
    pub durability: Durability,
    /// The address that clients reach this store's broker at; part of every record and message id.
    pub store_host: SocketAddr,
    /// What may be removed.
    pub retention: Retention,
    /// How long what was cut off the log is kept as evidence ([`crate::orphans`]), never the newest file
    /// less. The age is that of the messages; without `bytes`, a quarter of what the log may keep.
    /// What orphans take the log may not, but for a half of what it may keep.
    pub orphans: Retention,
    /// Bytes that may wait to be written; more is refused ([`crate::AppendError::Busy`]).
    pub staged_bytes_max: u64,
    /// Whoever wants to hear of dispatched messages.
    pub observers: Vec<Arc<dyn Observer>>,
    /// Who does the work in the background.
    pub background: Background,
}

#[derive(Clone)]
pub(crate) enum Place {
    Path(PathBuf),
    Directory(Arc<dyn Directory>, Arc<dyn Clock>),
}

/// Who writes, flushes, dispatches and tidies up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Background {
    /// The callers of `append` write and dispatch; a thread of the store does the rest.
    Threads,
    /// As `Threads`, but without the thread: the owner calls [`crate::Store::housekeep`] about ten
    /// times a second.
    Caller,
    /// Nothing happens by itself: the owner calls [`crate::Store::step`] in an order of its own.
    Steps,
}

/// What may be removed: the oldest segments that are too old or too many, never the newest one,
/// never one that is not flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Segments last written longer ago than this many ms may go. RocketMQ's default: 72 h.
    pub age_ms: Option<i64>,
    /// The log may keep this many bytes; the oldest segments go first.
    pub bytes: Option<u64>,
}

impl Default for Retention {
    fn default() -> Self {
        Self { age_ms: Some(72 * 60 * 60 * 1000), bytes: None }
    }
}

impl StoreOptions {
    /// A store in the folder `path`, created when missing, on the system's clock.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self::with(Place::Path(path.into()))
    }

    /// A store in `directory`, with store times from `clock`: for tests on a simulated disk.
    pub fn on(directory: Arc<dyn Directory>, clock: Arc<dyn Clock>) -> Self {
        Self { background: Background::Caller, ..Self::with(Place::Directory(directory, clock)) }
    }

    fn with(place: Place) -> Self {
        Self {
            place,
            segment_bytes: 1 << 30,
            queue_file_entries: 300_000,
            batch_queue_file_entries: 300_000,
            batch_topics: Vec::new(),
            rules: DispatchRules::default(),
            durability: Durability::Flushed,
            store_host: SocketAddr::from((Ipv4Addr::LOCALHOST, 10911)),
            retention: Retention::default(),
            orphans: Retention { age_ms: Some(7 * 24 * 60 * 60 * 1000), bytes: None },
            staged_bytes_max: 16 << 20,
            observers: Vec::new(),
            background: Background::Threads,
        }
    }
}

impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreOptions")
            .field("segment_bytes", &self.segment_bytes)
            .field("queue_file_entries", &self.queue_file_entries)
            .field("batch_queue_file_entries", &self.batch_queue_file_entries)
            .field("batch_topics", &self.batch_topics)
            .field("rules", &self.rules)
            .field("durability", &self.durability)
            .field("store_host", &self.store_host)
            .field("retention", &self.retention)
            .field("orphans", &self.orphans)
            .field("background", &self.background)
            .finish_non_exhaustive()
    }
}

impl Place {
    pub(crate) fn open(&self) -> std::io::Result<(Arc<dyn Directory>, Arc<dyn Clock>)> {
        match self {
            Self::Path(path) => {
                Ok((Arc::new(crate::disk::RealDirectory::open(path)?), Arc::new(SystemClock)))
            }
            Self::Directory(directory, clock) => Ok((Arc::clone(directory), Arc::clone(clock))),
        }
    }
}
