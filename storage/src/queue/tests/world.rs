//! Queues on a simulated disk beside a log that is a plain list: what is in the list is right.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::{Directory, SimulatedDisk};
use crate::dispatch::{DispatchRules, Dispatcher, LogItem, LogRecords, entry_of, number_undispatched};
use crate::message::{Message, sys_flag};
use crate::queue::{LogRange, QueueEntry, QueueError, QueueOptions, QueueRecovery, QueueTable};
use crate::record::{self, Record, RecordCrc};
use crate::{PhysicalOffset, QueueId, QueueOffset, TopicName};

pub(super) const BATCHES: &str = "batches";

/// All records ever appended and not cut off again; those before `min` cannot be read any more.
#[derive(Clone, Default)]
pub(super) struct ListLog {
    records: Vec<Record>,
    pub(super) min: PhysicalOffset,
    /// Ranges that hold no readable record.
    pub(super) holes: Vec<std::ops::Range<u64>>,
}

impl ListLog {
    pub(super) fn end(&self) -> PhysicalOffset {
        self.records.last().map_or(PhysicalOffset(0), end_of)
    }

    /// Starts and ends of records, from the beginning of time.
    pub(super) fn bounds(&self) -> Vec<PhysicalOffset> {
        let ends = self.records.iter().map(end_of);
        std::iter::once(PhysicalOffset(0)).chain(ends).collect()
    }

    pub(super) fn append(&mut self, message: &Message, number: QueueOffset, store_ms: i64) -> PhysicalOffset {
        let mut bytes = Vec::new();
        let host = ([127, 0, 0, 1], 10911).into();
        let encoded = record::encode(message, host, &mut bytes).unwrap();
        let at = self.end();
        record::seal(&mut bytes, encoded, number, at, store_ms);
        self.records.push(Record::parse(Bytes::from(bytes), at, RecordCrc::Required).unwrap());
        at
    }

    pub(super) fn cut(&mut self, end: PhysicalOffset) {
        self.records.retain(|record| end_of(record) <= end);
    }

    /// What the queues should hold of the records before `upto`: all entries ever, by queue.
    pub(super) fn queues(&self, upto: PhysicalOffset) -> BTreeMap<(String, u32), Vec<QueueEntry>> {
        let mut queues: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for record in self.records.iter().filter(|record| end_of(record) <= upto) {
            if let Some(entry) = entry_of(record, &DispatchRules::default().delay_levels) {
                queues.entry((record.topic().to_owned(), record.queue().0)).or_default().push(entry);
            }
        }
        queues
    }
}

fn end_of(record: &Record) -> PhysicalOffset {
    record.physical().after(u64::from(record.len()))
}

impl LogRecords for ListLog {
    fn item(&self, at: PhysicalOffset) -> Result<LogItem, Box<dyn std::error::Error + Send + Sync>> {
        assert!(at >= self.min, "{at} was removed, the log starts at {}", self.min);
        if let Some(hole) = self.holes.iter().find(|hole| hole.contains(&at.0)) {
            return Ok(LogItem::SkipTo(PhysicalOffset(hole.end)));
        }
        let found = self.records.binary_search_by_key(&at, Record::physical);
        assert!(found.is_ok() || at == self.end(), "no record starts at {at}");
        Ok(found.map_or(LogItem::End, |index| LogItem::Record(self.records[index].clone())))
    }
}

/// An open table with its log and what is noted about it.
pub(super) struct World {
    pub(super) disk: SimulatedDisk,
    pub(super) log: ListLog,
    /// As the store's state file has it.
    pub(super) complete_to: Option<PhysicalOffset>,
    pub(super) table: Arc<QueueTable>,
    pub(super) report: QueueRecovery,
    pub(super) dispatcher: Dispatcher,
    pub(super) file_entries: u64,
    clock: i64,
}

pub(super) fn options(file_entries: u64) -> QueueOptions {
    let batch_topics = vec![TopicName::new(BATCHES).unwrap()];
    QueueOptions { file_entries, batch_file_entries: file_entries / 2, batch_topics }
}

pub(super) fn recover(
    directory: Arc<dyn Directory>,
    file_entries: u64,
    log: &ListLog,
    complete_to: Option<PhysicalOffset>,
    clean: bool,
) -> Result<(QueueTable, QueueRecovery), crate::queue::QueueRecoveryError> {
    let range = LogRange { min: log.min, end: log.end(), complete_to, clean };
    QueueTable::recover(directory, options(file_entries), &DispatchRules::default(), log, range)
}

impl World {
    pub(super) fn new(seed: u64, file_entries: u64) -> Self {
        Self::open(SimulatedDisk::new(seed), file_entries, ListLog::default(), Some(PhysicalOffset(0)), false)
    }

    pub(super) fn open(
        disk: SimulatedDisk,
        file_entries: u64,
        log: ListLog,
        complete_to: Option<PhysicalOffset>,
        clean: bool,
    ) -> Self {
        let disk = disk.completing_at_once();
        let (table, report) = recover(disk.directory(), file_entries, &log, complete_to, clean).unwrap();
        let table = Arc::new(table);
        let dispatcher = Dispatcher::new(Arc::clone(&table), DispatchRules::default(), Vec::new(), log.end());
        Self { disk, log, complete_to, table, report, dispatcher, file_entries, clock: 0 }
    }

    /// Appends to one of four queues, the last of which is a batch queue.
    pub(super) fn append(&mut self, queue: u8, messages: u16) {
        let (topic, id) = match queue % 4 {
            3 => (BATCHES, 0),
            id => ("orders", u32::from(id)),
        };
        let topic = TopicName::new(topic).unwrap();
        let mut message = Message::new(topic.clone(), QueueId(id), "x".repeat(usize::from(messages)))
            .with_property("TAGS", &format!("tag{}", messages % 3));
        let messages = if topic.as_str() == BATCHES { messages } else { 1 };
        if messages > 1 {
            message.sys_flag |= sys_flag::INNER_BATCH;
            message = message.with_property("INNER_NUM", &messages.to_string());
        }
        self.clock += 1;
        let number = self.table.find_or_create(&topic, QueueId(id)).take_numbers(u64::from(messages));
        self.log.append(&message, number, self.clock);
    }

    pub(super) fn dispatch(&mut self) {
        self.dispatcher.step(&self.log, self.log.end(), usize::MAX).unwrap();
    }

    /// Makes the queues durable and notes it.
    pub(super) fn sync(&mut self) -> Result<(), QueueError> {
        self.table.write_pending()?;
        self.table.sync_all()?;
        self.complete_to = Some(self.dispatcher.dispatched());
        Ok(())
    }

    /// Removes records before `min`, which lies before `complete_to`.
    pub(super) fn retain(&mut self, min: PhysicalOffset) -> Result<(), QueueError> {
        self.log.min = self.log.min.max(min);
        self.table.follow_min(self.log.min, self.complete_to.unwrap_or_default())
    }

    /// Cuts log and queues, as a new leader may demand.
    pub(super) fn truncate(&mut self, end: PhysicalOffset) -> Result<(), QueueError> {
        self.log.cut(end);
        let end = self.log.end();
        self.complete_to = self.complete_to.map(|at| at.min(end));
        self.dispatcher.truncated(end);
        self.table.truncate(end)?;
        for queue in self.table.all() {
            queue.set_numbering(queue.max());
        }
        let dispatched = self.dispatcher.dispatched();
        number_undispatched(&self.log, &self.table, &DispatchRules::default(), dispatched, end).unwrap();
        Ok(())
    }

    pub(super) fn reopen(self, disk: SimulatedDisk, clean: bool) -> Self {
        let Self { log, complete_to, file_entries, clock, table, .. } = self;
        drop(table);
        Self { clock, ..Self::open(disk, file_entries, log, complete_to, clean) }
    }

    /// proves: I14, I15: the queues hold what the log says and number on behind it.
    pub(super) fn check(&self) {
        let dispatched = self.log.queues(self.dispatcher.dispatched());
        let all = self.log.queues(self.log.end());
        for ((topic, id), appended) in &all {
            let queue = self.table.find(topic, QueueId(*id)).expect("a queue with records exists");
            let entries = dispatched.get(&(topic.clone(), *id)).map_or(&[][..], Vec::as_slice);
            let name = format!("{topic} {id}");
            // Without entries the first number is the log's to say.
            let max = entries.last().map_or(appended[0].offset, QueueEntry::next);
            assert_eq!(queue.max(), max, "{name}: the end");
            assert_eq!(queue.numbering(), appended.last().map_or(QueueOffset(0), QueueEntry::next), "{name}");
            let old = entries.partition_point(|entry| entry.physical < self.log.min);
            let min = entries.get(old).map_or(max, |entry| entry.offset);
            assert_eq!(queue.min(), min, "{name}: the start, log from {}", self.log.min);
            assert_eq!(queue.entries(min, 4096).unwrap(), entries[old..], "{name}");
        }
        for queue in self.table.all() {
            let known = all.contains_key(&(queue.topic().to_string(), queue.id().0));
            assert!(known || queue.max() == queue.min(), "{queue:?} has entries and no records");
        }
    }

    /// All files of queues and sums that are not just zeros, by path.
    pub(super) fn files(disk: &SimulatedDisk) -> BTreeMap<String, Vec<u8>> {
        let paths = disk.paths().into_iter().filter(|path| path.contains("consumequeue"));
        let files = paths.map(|path| (path.clone(), disk.contents(&path).unwrap()));
        files.filter(|(_, bytes)| bytes.iter().any(|byte| *byte != 0)).collect()
    }

    /// proves: I13: the files are what building the queues anew makes of the log.
    pub(super) fn check_files(&self) {
        self.table.write_pending().unwrap();
        let fresh = SimulatedDisk::new(0).completing_at_once();
        let mut log = self.log.clone();
        log.cut(self.dispatcher.dispatched());
        recover(fresh.directory(), self.file_entries, &log, None, false).unwrap();
        let (found, built) = (Self::files(&self.disk), Self::files(&fresh));
        assert_eq!(found.keys().collect::<Vec<_>>(), built.keys().collect::<Vec<_>>());
        for (path, bytes) in &built {
            assert!(found[path] == *bytes, "{path} differs from what the log says");
        }
    }
}
