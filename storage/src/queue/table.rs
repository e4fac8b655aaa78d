//! All queues of a store, by topic and number.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::handles::Handles;
use super::slots::{Slots, Unsynced, settle, unsettle};
use super::{ConsumeQueue, Layout, QueueError};
use crate::disk::Directory;
use crate::{PhysicalOffset, QueueId, TopicName};

/// Queue files that stay open between two uses. With more queues in use at a time, files are opened
/// for each use: a read, or a write of some two hundred entries.
const OPEN_FILES_MAX: usize = 256;

/// Sizes of queue files, and which topics have batch queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueOptions {
    /// Entries of a file in `consumequeue/`, at least 1.
    pub file_entries: u64,
    /// Entries of a file in `batchconsumequeue/`, at least 1.
    pub batch_file_entries: u64,
    /// Topics whose new queues have one entry for each inner batch (`queue.type=BatchCQ`). A queue
    /// with a folder in `batchconsumequeue/` has them anyway.
    pub batch_topics: Vec<TopicName>,
}

impl Default for QueueOptions {
    /// RocketMQ's sizes: 300,000 entries.
    fn default() -> Self {
        Self { file_entries: 300_000, batch_file_entries: 300_000, batch_topics: Vec::new() }
    }
}

impl QueueOptions {
    fn file_entries(&self, layout: Layout) -> u64 {
        match layout {
            Layout::Single => self.file_entries,
            Layout::Batch => self.batch_file_entries,
        }
    }

    pub(super) fn file_bytes(&self, layout: Layout) -> u64 {
        self.file_entries(layout) * layout.width() as u64
    }
}

type Queues = BTreeMap<QueueId, Arc<ConsumeQueue>>;

/// All queues of a store.
#[derive(Debug)]
pub struct QueueTable {
    directory: Arc<dyn Directory>,
    options: QueueOptions,
    handles: Handles,
    tracing: Mutex<()>,
    topics: RwLock<HashMap<TopicName, Queues>>,
    /// Which sync failed first, and how.
    unsyncable: OnceLock<String>,
}

impl QueueTable {
    /// A table without queues; nothing is read or written.
    #[must_use]
    pub fn new(directory: Arc<dyn Directory>, options: QueueOptions) -> Self {
        let handles = Handles::new(OPEN_FILES_MAX);
        let tracing = Mutex::default();
        Self { directory, options, handles, tracing, topics: RwLock::default(), unsyncable: OnceLock::new() }
    }

    /// The queue `id` of `topic`, if it exists.
    #[must_use]
    pub fn find(&self, topic: &str, id: QueueId) -> Option<Arc<ConsumeQueue>> {
        self.read().get(topic)?.get(&id).cloned()
    }

    /// The queue `id` of `topic`. A new one is empty, starts at number 0, and touches the disk when
    /// its first entry is written.
    #[must_use]
    pub fn find_or_create(&self, topic: &TopicName, id: QueueId) -> Arc<ConsumeQueue> {
        if let Some(found) = self.find(topic.as_str(), id) {
            return found;
        }
        let batch = self.options.batch_topics.contains(topic);
        let layout = if batch { Layout::Batch } else { Layout::Single };
        let mut topics = self.write();
        let queues = topics.entry(topic.clone()).or_default();
        let new = || Arc::new(ConsumeQueue::new(topic.clone(), id, self.slots(topic, id, layout)));
        Arc::clone(queues.entry(id).or_insert_with(new))
    }

    pub(super) fn insert(&self, queue: ConsumeQueue) -> Arc<ConsumeQueue> {
        let queue = Arc::new(queue);
        self.write().entry(queue.topic().clone()).or_default().insert(queue.id(), Arc::clone(&queue));
        queue
    }

    pub(super) fn directory(&self) -> &Arc<dyn Directory> {
        &self.directory
    }

    pub(super) fn slots(&self, topic: &TopicName, id: QueueId, layout: Layout) -> Slots {
        let per_file = self.options.file_entries(layout);
        let folder = format!("{}/{topic}/{}", layout.folder(), id.0);
        Slots::new(Arc::clone(&self.directory), self.handles.clone(), folder, layout, per_file)
    }

    /// All queues, by topic name and number.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<ConsumeQueue>> {
        let mut all: Vec<_> = self.read().values().flat_map(BTreeMap::values).cloned().collect();
        all.sort_by(|a, b| (a.topic(), a.id()).cmp(&(b.topic(), b.id())));
        all
    }

    /// The queues of one topic, by number.
    #[must_use]
    pub fn of_topic(&self, topic: &str) -> Vec<Arc<ConsumeQueue>> {
        self.read().get(topic).map_or_else(Vec::new, |queues| queues.values().cloned().collect())
    }

    /// Wakes everybody who listens to a queue: the store has ended.
    pub(crate) fn wake_listeners(&self) {
        self.all().iter().for_each(|queue| queue.wake_listeners());
    }

    /// Names of all topics with queues, in order.
    #[must_use]
    pub fn topics(&self) -> Vec<TopicName> {
        let mut topics: Vec<_> = self.read().keys().cloned().collect();
        topics.sort();
        topics
    }

    /// Forgets the queues of `topic` and removes their files. Records stay in the log.
    ///
    /// # Errors
    /// [`QueueError::Io`]; the queues are forgotten, some files are left.
    pub fn remove_topic(&self, topic: &str) -> Result<(), QueueError> {
        let queues = self.write().remove(topic).unwrap_or_default();
        first_error(queues.values().map(|queue| queue.remove()))
    }

    /// Forgets all queues and removes their files, durably.
    pub(crate) fn clear(&self) -> Result<(), QueueError> {
        first_error(self.topics().iter().map(|topic| self.remove_topic(topic.as_str())))
    }

    /// Writes the entries that only memory holds. About once a second, before a sync, at close.
    ///
    /// # Errors
    /// The first [`QueueError::Io`]; the other queues are written all the same.
    pub fn write_pending(&self) -> Result<(), QueueError> {
        first_error(self.all().iter().map(|queue| queue.write_pending()))
    }

    /// Follows the log whose oldest segment starts at `log_min` now: raises the minimum of each
    /// queue and removes files that only hold older entries. All entries of records before `noted`
    /// were noted as durable.
    ///
    /// # Errors
    /// The first error; the other queues are treated all the same.
    pub fn follow_min(&self, log_min: PhysicalOffset, noted: PhysicalOffset) -> Result<(), QueueError> {
        self.traced(|| {
            let mut removed = Unsynced::default();
            let followed = first_error(self.all().iter().map(|queue| {
                queue.correct_min(log_min)?;
                if queue.remove_old_files(noted)? > 0 {
                    removed.add(queue.take_unsynced()?);
                }
                Ok(())
            }));
            self.sync(removed).and(followed)
        })
    }

    /// Drops the entries of all records at or behind `cut`, durably.
    ///
    /// # Errors
    /// The first error; the other queues are treated all the same.
    pub fn truncate(&self, cut: PhysicalOffset) -> Result<(), QueueError> {
        self.traced(|| first_error(self.all().iter().map(|queue| queue.truncate(cut))))
    }

    /// Does what zeroes or removes, leaving a trace for recovery until it is durable.
    fn traced(&self, work: impl FnOnce() -> Result<(), QueueError>) -> Result<(), QueueError> {
        let _alone = self.tracing.lock().unwrap_or_else(PoisonError::into_inner);
        unsettle(&*self.directory)?;
        work()?;
        if self.unsyncable.get().is_none() { settle(&*self.directory) } else { Ok(()) }
    }

    /// Makes durable what [`QueueTable::write_pending`] wrote, before returning. No queue is locked
    /// meanwhile. After a failure every later call fails too: what the disk holds is only known after
    /// the store was reopened and the queues were rebuilt.
    ///
    /// # Errors
    /// [`QueueError::Io`], or [`QueueError::Poisoned`] after an earlier failure.
    pub fn sync_all(&self) -> Result<(), QueueError> {
        if let Some(path) = self.unsyncable.get() {
            return Err(QueueError::Poisoned { path: path.clone() });
        }
        let mut unsynced = Unsynced::default();
        for queue in self.all() {
            unsynced.add(queue.take_unsynced()?);
        }
        self.sync(unsynced)
    }

    fn sync(&self, unsynced: Unsynced) -> Result<(), QueueError> {
        unsynced.sync(&*self.directory).inspect_err(|error| drop(self.unsyncable.set(error.to_string())))
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<TopicName, Queues>> {
        self.topics.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<TopicName, Queues>> {
        self.topics.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn first_error(results: impl Iterator<Item = Result<(), QueueError>>) -> Result<(), QueueError> {
    results.fold(Ok(()), Result::and)
}
