mod recovery;
mod world;

use std::sync::Arc;

use super::*;
use crate::disk::{Directory, RealDirectory};

const FILE_ENTRIES: u64 = 300;

struct Place {
    _folder: tempfile::TempDir,
    directory: Arc<dyn Directory>,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let directory = Arc::new(RealDirectory::open(folder.path()).unwrap());
        Self { _folder: folder, directory }
    }

    fn table(&self, batch_topics: &[&str]) -> QueueTable {
        let batch_topics = batch_topics.iter().map(|name| topic(name)).collect();
        let options = QueueOptions { file_entries: FILE_ENTRIES, batch_file_entries: 100, batch_topics };
        QueueTable::new(Arc::clone(&self.directory), options)
    }

    fn files(&self, folder: &str) -> Vec<String> {
        self.directory
            .list(folder)
            .map_or_else(|_| Vec::new(), |all| all.into_iter().map(|e| e.name).collect())
    }

    fn bytes(&self, path: &str) -> Vec<u8> {
        let file = self.directory.open(path).unwrap();
        file.read(0..file.len()).unwrap().to_vec()
    }
}

fn topic(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

fn entry(offset: u64, physical: u64) -> QueueEntry {
    let (physical, offset) = (PhysicalOffset(physical), QueueOffset(offset));
    QueueEntry { physical, size: 100, tags_code: 7, offset, messages: 1 }
}

fn fill(queue: &ConsumeQueue, numbers: std::ops::Range<u64>) {
    for n in numbers {
        assert_eq!(queue.push(&entry(n, n * 100), 0).unwrap(), Pushed::Appended);
    }
}

/// proves: I14
#[test]
fn entries_are_readable_before_and_after_they_are_written() {
    let place = Place::new();
    let table = place.table(&[]);
    let queue = table.find_or_create(&topic("orders"), QueueId(2));
    fill(&queue, 0..1000);
    assert_eq!(place.files("consumequeue/orders/2").len(), 3, "the tail is in memory");
    for _ in 0..2 {
        let read: Vec<_> = (0..10).flat_map(|n| queue.entries(QueueOffset(n * 100), 100).unwrap()).collect();
        assert_eq!(read, (0..1000).map(|n| entry(n, n * 100)).collect::<Vec<_>>());
        table.write_pending().unwrap();
    }
    let names: Vec<_> = (0..4).map(|n| format!("{:020}", n * 6000)).collect();
    assert_eq!(place.files("consumequeue/orders/2"), names);
    assert_eq!(queue.entries(QueueOffset(1000), 5).unwrap(), []);
    assert!(matches!(queue.entries(QueueOffset(1001), 5), Err(QueueError::OutOfRange { .. })));
}

/// proves: I14
#[test]
fn a_number_is_neither_skipped_nor_given_to_another_record() {
    let queue = Place::new().table(&[]).find_or_create(&topic("orders"), QueueId(0));
    fill(&queue, 0..10);
    assert_eq!(queue.push(&entry(4, 400), 0).unwrap(), Pushed::AlreadyThere);
    assert!(matches!(queue.push(&entry(4, 401), 0), Err(QueueError::Conflict { .. })));
    assert!(matches!(queue.push(&entry(11, 1100), 0), Err(QueueError::Gap { max: QueueOffset(10), .. })));
    assert!(matches!(queue.push(&entry(10, 999), 0), Err(QueueError::Disordered { .. })));
    let batch = QueueEntry { messages: 2, ..entry(10, 1000) };
    assert!(matches!(queue.push(&batch, 0), Err(QueueError::InnerBatch { .. })));
    assert_eq!(queue.max(), QueueOffset(10));
}

/// proves: store-format §5.3 step 3
#[test]
fn a_queue_created_late_is_padded_from_the_start_of_its_file() {
    let place = Place::new();
    let queue = place.table(&[]).find_or_create(&topic("late"), QueueId(0));
    fill(&queue, 310..312);
    assert_eq!((queue.min(), queue.max()), (QueueOffset(310), QueueOffset(312)));
    queue.write_pending().unwrap();
    let bytes = place.bytes("consumequeue/late/0/00000000000000006000");
    assert_eq!(bytes.len(), 6000);
    let entries: Vec<_> =
        bytes.chunks(20).zip(300..).filter_map(|(bytes, slot)| Layout::Single.decode(bytes, slot)).collect();
    assert_eq!(entries.len(), 12);
    assert!(entries[..10].iter().all(QueueEntry::is_padding));
    assert_eq!(entries[10..], [entry(310, 31_000), entry(311, 31_100)]);
}

/// proves: store-format §5.5
#[test]
fn the_minimum_follows_the_log_and_old_files_go() {
    let place = Place::new();
    let table = place.table(&[]);
    let queue = table.find_or_create(&topic("orders"), QueueId(0));
    fill(&queue, 0..700);
    table.write_pending().unwrap();
    for (log_min, min, files) in [(0, 0, 3), (1, 1, 3), (29_901, 300, 2), (30_000, 300, 2), (69_901, 700, 1)]
    {
        table.follow_min(PhysicalOffset(log_min), PhysicalOffset(70_000)).unwrap();
        assert_eq!(queue.min(), QueueOffset(min), "log starts at {log_min}");
        assert_eq!(place.files("consumequeue/orders/0").len(), files, "log starts at {log_min}");
    }
    assert_eq!(queue.max(), QueueOffset(700), "numbers outlive the messages");
    assert!(matches!(queue.entries(QueueOffset(699), 1), Err(QueueError::OutOfRange { .. })));
    fill(&queue, 700..701);
    assert_eq!(queue.entry(QueueOffset(700)).unwrap(), entry(700, 70_000));
}

/// proves: I5, I48, Z11
#[test]
fn a_cut_leaves_zeros_behind() {
    let place = Place::new();
    let table = place.table(&[]);
    let queue = table.find_or_create(&topic("orders"), QueueId(0));
    fill(&queue, 0..700);
    table.write_pending().unwrap();
    table.truncate(PhysicalOffset(35_050)).unwrap();
    assert_eq!(queue.max(), QueueOffset(351));
    table.truncate(PhysicalOffset(35_000)).unwrap();
    assert_eq!((queue.min(), queue.max()), (QueueOffset(0), QueueOffset(350)));
    assert_eq!(place.files("consumequeue/orders/0").len(), 2);
    let bytes = place.bytes("consumequeue/orders/0/00000000000000006000");
    assert!(bytes[1000..].iter().all(|byte| *byte == 0));
    assert!(queue.push(&entry(350, 34_999), 0).is_err());
    fill(&queue, 350..352);
    assert_eq!(queue.entry(QueueOffset(351)).unwrap(), entry(351, 35_100));
}

/// proves: store-format §6.2
#[test]
fn a_batch_queue_has_one_entry_for_an_inner_batch() {
    let place = Place::new();
    let table = place.table(&["batches"]);
    let queue = table.find_or_create(&topic("batches"), QueueId(0));
    let entries: Vec<_> = (0..250).map(|n| QueueEntry { messages: 3, ..entry(3 * n, 100 * n) }).collect();
    for entry in &entries {
        queue.push(entry, i64::try_from(entry.physical.0).unwrap()).unwrap();
    }
    table.write_pending().unwrap();
    assert_eq!(place.files("batchconsumequeue/batches/0").len(), 3);
    assert_eq!(queue.max(), QueueOffset(750));
    assert_eq!(queue.entries(QueueOffset(301), 2).unwrap(), entries[100..102]);
    let none = |_| panic!("the entry has the store time");
    assert_eq!(queue.seek_by_time(9950, Boundary::Lower, none).unwrap(), QueueOffset(300));
    table.follow_min(PhysicalOffset(10_001), PhysicalOffset(25_000)).unwrap();
    assert_eq!(queue.min(), QueueOffset(303));
    table.truncate(PhysicalOffset(20_000)).unwrap();
    assert_eq!(queue.max(), QueueOffset(600));
}

/// proves: store-format §5.6
#[test]
fn search_by_time_finds_both_ends_of_equal_times() {
    let queue = Place::new().table(&[]).find_or_create(&topic("orders"), QueueId(0));
    fill(&queue, 0..9);
    queue.correct_min(PhysicalOffset(100)).unwrap();
    let times = [1, 5, 5, 7, 7, 7, 9, 9, 12];
    let at = |physical: PhysicalOffset| times.get(usize::try_from(physical.0 / 100).unwrap()).copied();
    for (ms, lower, upper) in [(0, 1, 1), (5, 1, 2), (6, 3, 2), (7, 3, 5), (9, 6, 7), (12, 8, 8), (13, 9, 8)]
    {
        assert_eq!(queue.seek_by_time(ms, Boundary::Lower, at).unwrap(), QueueOffset(lower), "{ms}");
        assert_eq!(queue.seek_by_time(ms, Boundary::Upper, at).unwrap(), QueueOffset(upper), "{ms}");
    }
}

/// proves: I12
#[test]
fn a_removed_topic_leaves_no_folder_and_takes_nothing_more() {
    let place = Place::new();
    let table = place.table(&[]);
    let queues = [0, 1].map(|n| table.find_or_create(&topic("orders"), QueueId(n)));
    queues.iter().for_each(|queue| fill(queue, 0..400));
    table.write_pending().unwrap();
    table.sync_all().unwrap();
    table.remove_topic("orders").unwrap();
    assert_eq!(place.files("consumequeue"), [""; 0]);
    assert!(table.find("orders", QueueId(0)).is_none());
    queues[0].push(&entry(400, 40_000), 0).unwrap();
    queues[0].write_pending().unwrap();
    assert_eq!(place.files("consumequeue"), [""; 0]);
}
