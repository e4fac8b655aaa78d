//! Whatever the files of a store hold: verifying ends with a report, opening with a store or an
//! error, and a store that opened can be appended to, closed and verified again.
//!
//! An input is a list of changes to a small store, seven bytes each: which file, what to do, where
//! (2 bytes), with what (3 bytes). Its first byte says whether the store was closed.

#![no_main]

use std::sync::{Arc, OnceLock};

use libfuzzer_sys::fuzz_target;
use staticfire_storage::disk::SimulatedDisk;
use staticfire_storage::orphans::Orphan;
use staticfire_storage::{Clock, Message, QueueId, Store, StoreOptions, TopicName, verify};

/// What the store remembers besides RocketMQ's files: two slots, each with a checksum behind what it covers.
const STATE: &str = "staticfire/state";
const SLOT_LEN: usize = 4096;
const COVERED: usize = 80;
const ORPHANS: &str = "staticfire/orphans";

/// More changes only make it less likely that one of them is reached.
const CHANGES_MAX: usize = 8;

fuzz_target!(|input: &[u8]| {
    let Some((closed, changes)) = input.split_first() else { return };
    let disk = written(closed & 1 == 1).snapshot();
    for change in changes.chunks_exact(7).take(CHANGES_MAX) {
        apply(&disk, change);
    }
    verify(&*disk.directory()).expect("the folder is there and can be read");
    for orphan in Orphan::all(&*disk.directory()).unwrap_or_default() {
        drop(orphan.records(&*disk.directory()).map(|records| records.count()));
    }
    let Ok(store) = Store::open(options(&disk)) else { return };
    if store.append(&message(1)).is_ok() {
        disk.complete_all();
    }
    for topic in store.topics() {
        for queue in store.queues_of(topic.as_str()) {
            let entries = queue.entries(queue.min(), 100).unwrap_or_default();
            entries.iter().for_each(|entry| drop(queue.record(entry)));
        }
    }
    let closed = store.close();
    let report = verify(&*disk.directory()).expect("the folder is there and can be read");
    assert!(closed.is_err() || report.closed, "{report}");
});

#[derive(Debug)]
struct Noon;

impl Clock for Noon {
    fn wall_ms(&self) -> i64 {
        1_700_000_000_000
    }
}

fn options(disk: &SimulatedDisk) -> StoreOptions {
    let mut options = StoreOptions::on(disk.directory(), Arc::new(Noon));
    (options.segment_bytes, options.queue_file_entries) = (2048, 16);
    options
}

fn message(n: u32) -> Message {
    let topic = TopicName::new("orders").expect("a name");
    Message::new(topic, QueueId(n % 2), format!("body {n}")).with_property("TAGS", "TagA")
}

/// Three segments and two queues; killed or closed.
fn written(close: bool) -> &'static SimulatedDisk {
    static WRITTEN: [OnceLock<SimulatedDisk>; 2] = [OnceLock::new(), OnceLock::new()];
    WRITTEN[usize::from(close)].get_or_init(|| {
        let disk = SimulatedDisk::new(1);
        let store = Store::open(options(&disk)).expect("an empty disk");
        for n in 0..24 {
            drop(store.append(&message(n)).expect("there is room"));
            disk.complete_all();
        }
        store.housekeep();
        disk.complete_all();
        if close {
            store.close().expect("nothing fails");
            return disk;
        }
        disk.kill()
    })
}

fn apply(disk: &SimulatedDisk, change: &[u8]) {
    let [file, what, high, low, bytes @ ..] = change else { return };
    let files: Vec<String> = disk.paths().into_iter().filter(|path| disk.contents(path).is_ok()).collect();
    // Changes before this one may have removed everything.
    let Some(path) = files.get(usize::from(*file) % files.len().max(1)) else { return };
    let at = usize::from(u16::from_be_bytes([*high, *low]));
    match what % 8 {
        0 => edit(disk, path, |content| {
            content.iter_mut().skip(at).zip(bytes).for_each(|(byte, new)| *byte = *new);
        }),
        1 => edit(disk, path, |content| {
            content.iter_mut().skip(at).take(usize::from(bytes[0])).for_each(|byte| *byte = bytes[1]);
        }),
        2 => edit(disk, path, |content| content.resize(at, 0)),
        3 => {
            let other = disk.contents(&files[usize::from(bytes[0]) % files.len()]).unwrap_or_default();
            edit(disk, path, |content| content.clone_from(&other));
        }
        4 => {
            let folder = path.rsplit_once('/').map_or("commitlog", |(folder, _)| folder);
            let number = (at as u64) << (bytes[0] % 48);
            // A folder may be in the way.
            drop(disk.put(&format!("{folder}/{number:020}"), &disk.contents(path).unwrap_or_default()));
        }
        // A number in one of our marks or RocketMQ's, with a checksum that holds.
        5 => edit(disk, path, |content| {
            let number = (u64::from(bytes[0]) << (bytes[1] % 64)).to_be_bytes();
            content.iter_mut().skip(at / 8 * 8).zip(number).for_each(|(byte, new)| *byte = new);
            if path == STATE {
                content.chunks_mut(SLOT_LEN).for_each(seal);
            }
        }),
        6 => {
            let numbers = (u64::from(bytes[1]), (at as u64) << (bytes[0] % 48));
            let orphan = format!("{ORPHANS}/{:020}-{:020}", numbers.0, numbers.1);
            let made = ["staticfire", ORPHANS].map(|folder| disk.directory().make_directory(folder));
            if made.iter().all(Result::is_ok) {
                drop(disk.put(&orphan, &disk.contents(path).unwrap_or_default()));
            }
        }
        _ => drop(disk.directory().remove(path)),
    }
}

fn edit(disk: &SimulatedDisk, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
    disk.edit(path, change).expect("the file was just listed");
}

fn seal(slot: &mut [u8]) {
    if let Some((covered, rest)) = slot.split_at_mut_checked(COVERED)
        && let Some(crc) = rest.first_chunk_mut()
    {
        *crc = crc32fast::hash(covered).to_be_bytes();
    }
}
