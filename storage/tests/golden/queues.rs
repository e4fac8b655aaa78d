//! Queue files of RocketMQ's directories, whole and damaged: what opening makes of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::fixture::{Fixture, WHOLE};
use crate::open::open;

/// All files below the folders of the queues, by path.
fn queue_files(store: &Path) -> BTreeMap<String, Vec<u8>> {
    fn add(folder: &Path, root: &Path, files: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                add(&path, root, files);
            } else {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                files.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    let mut files = BTreeMap::new();
    for folder in ["consumequeue", "batchconsumequeue"] {
        add(&store.join(folder), store, &mut files);
    }
    // A file that holds nothing yet says no more than one that is not there.
    files.retain(|_, bytes| bytes.iter().any(|byte| *byte != 0));
    files
}

fn compare(found: &BTreeMap<String, Vec<u8>>, expected: &BTreeMap<String, Vec<u8>>, what: &str) {
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(expected), "{what}");
    for (name, bytes) in expected {
        assert!(found[name] == *bytes, "{what}: {name} differs from RocketMQ's");
    }
}

/// proves: M9, I13: opening and closing leaves RocketMQ's queue files as they are, to the byte
#[test]
fn queue_files_of_whole_directories_stay_as_they_are() {
    for name in WHOLE {
        let fixture = Fixture::open(name);
        let before = queue_files(&fixture.path());
        let store = open(&fixture).unwrap();
        assert!(store.report().queues.queues.is_empty(), "{name}: {}", store.report().queues);
        store.close().unwrap();
        compare(&queue_files(&fixture.path()), &before, name);
    }
}

/// proves: M9, I13: queues built from RocketMQ's log are RocketMQ's queues, to the byte
#[test]
fn queues_built_from_the_log_are_what_rocketmq_built() {
    for name in ["clean", "killed", "crc32"] {
        let fixture = Fixture::open(name);
        let before = queue_files(&fixture.path());
        fs::remove_dir_all(fixture.path().join("consumequeue")).unwrap();
        let store = open(&fixture).unwrap();
        assert!(!store.report().queues.queues.is_empty(), "{name}");
        store.close().unwrap();
        compare(&queue_files(&fixture.path()), &before, name);
    }
}

/// RocketMQ never repairs the first three, and renumbers the next two (fixtures/README.md).
///
/// proves: I13, I14, Z15, Z17, B67
#[test]
fn damaged_queues_are_whole_after_opening() {
    let whole = Fixture::open("torn/abort-only");
    let expected = queue_files(&whole.path());
    for name in [
        "queue-tail-zero-n",
        "queue-missing-n",
        "queue-file-short-n",
        "queue-missing",
        "checkpoint-too-new-queue-zero",
        "queue-tail-zero",
        "queue-tails-two-files-zero",
        "queue-all-missing-n",
        "queue-file-zero-next-n",
    ] {
        let fixture = Fixture::open(&format!("torn/{name}"));
        let store = open(&fixture).unwrap();
        let report = store.report().queues.to_string();
        for line in whole.lines("queue") {
            let (topic, id) = (line["topic"].as_str().unwrap(), line["queueId"].as_u64().unwrap());
            let queue = store.queue(topic, staticfire_storage::QueueId(u32::try_from(id).unwrap())).unwrap();
            assert_eq!((queue.min().0, queue.max().0), (0, 50), "{name}: {topic} {id}: {report}");
        }
        store.close().unwrap();
        compare(&queue_files(&fixture.path()), &expected, name);
    }
}

/// proves: I14: of a log whose start is gone the queues start where its records do
#[test]
fn lost_queues_of_a_shortened_log_keep_the_numbers_in_its_records() {
    for name in ["retained-queue-all-missing", "retained-queue-all-missing-n", "retained-queue-missing"] {
        let fixture = Fixture::open(&format!("torn/{name}"));
        let store = open(&fixture).unwrap();
        for line in Fixture::open("retained").lines("queue") {
            let (topic, id) = (line["topic"].as_str().unwrap(), line["queueId"].as_u64().unwrap());
            let id = staticfire_storage::QueueId(u32::try_from(id).unwrap());
            let (min, max) = (line["min"].as_u64().unwrap(), line["max"].as_u64().unwrap());
            if min == max && store.queue(topic, id).is_none() {
                continue; // its numbers were in its files alone
            }
            let queue = store.queue(topic, id).unwrap();
            assert_eq!((queue.min().0, queue.max().0), (min, max), "{name}: {topic} {id}");
        }
        store.close().unwrap();
    }
}
