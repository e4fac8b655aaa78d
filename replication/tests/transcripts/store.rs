//! A transcript that is about one real store on a simulated disk, which follows a leader.
//!
//! | command | what happens |
//! |---|---|
//! | `take a b` | records come from the leader and are written; all have the same size |
//! | `flush`, `complete` | a flush starts; whatever was started completes |
//! | `cut 1` | the next epoch begins, and the log is cut behind the first record |
//! | `show` | the records, and how many a completed flush covers |
//! | `crash` | the power fails: what the store recovers from each disk that this can leave |
//! | `crash, take x, crash` | it recovers, takes and flushes a record, and the power fails again |

use std::collections::BTreeSet;
use std::sync::Arc;

use staticfire_storage::disk::SimulatedDisk;
use staticfire_storage::{
    Clock, Durability, Epoch, Message, PhysicalOffset, QueueId, Step, Store, StoreOptions, TopicName,
};

use crate::script::Said;

/// Disks looked at after a power cut.
const IMAGES: usize = 200;

pub struct Stage {
    disk: SimulatedDisk,
    store: Store,
    /// Where each record ends.
    ends: Vec<PhysicalOffset>,
}

#[derive(Debug)]
struct StoppedClock;

impl Clock for StoppedClock {
    fn wall_ms(&self) -> i64 {
        1_700_000_000_000
    }
}

fn open(disk: &SimulatedDisk) -> Store {
    let mut options = StoreOptions::on(disk.directory(), Arc::new(StoppedClock));
    (options.segment_bytes, options.queue_file_entries) = (64 << 10, 100);
    options.durability = Durability::Confirmed;
    Store::open(options).expect("the store opens")
}

fn end_epoch(store: &Store) {
    store.fence(Epoch(store.marks().epoch.0 + 1));
}

fn message(body: &str) -> Message {
    Message::new(TopicName::new("t").expect("a name"), QueueId(0), body.to_owned())
}

fn bodies(store: &Store) -> Vec<String> {
    let records = store.records(PhysicalOffset(0));
    let bodies = records.map(|record| record.expect("an intact record").body().to_vec());
    bodies.map(|body| String::from_utf8(body).expect("a letter")).collect()
}

impl Stage {
    pub fn new(bug: Option<&'static str>) -> Self {
        #[cfg(feature = "planted-bugs")]
        staticfire_storage::plant(bug);
        let _ = bug;
        let disk = SimulatedDisk::new(1);
        let store = open(&disk);
        end_epoch(&store);
        Self { disk, store, ends: Vec::new() }
    }

    pub fn carry_out(&mut self, command: &str) -> Said {
        let words: Vec<&str> = command.split_whitespace().collect();
        match words[0] {
            "take" => {
                let ends = words[1..].iter().map(|body| take(&self.store, body));
                self.ends.extend(ends.collect::<Vec<_>>());
            }
            "flush" => self.store.step(Step::Flush).map_err(|error| error.to_string())?,
            "complete" => drop(self.disk.complete_all()),
            "cut" => {
                let keep = words.get(1).and_then(|word| word.parse::<usize>().ok()).ok_or("cut where?")?;
                end_epoch(&self.store);
                let to = keep.checked_sub(1).map_or(PhysicalOffset(0), |last| self.ends[last]);
                self.store.truncate(to).map_err(|error| error.to_string())?;
                self.ends.truncate(keep);
            }
            "show" => {
                let flushed = self.store.marks().flushed;
                let flushed = self.ends.iter().filter(|end| **end <= flushed).count();
                return Ok(vec![format!("{}: {flushed} flushed", bodies(&self.store).join(" "))]);
            }
            "crash" => return Ok(recovered(vec![self.disk.clone()])),
            "crash," => {
                let next = words.get(2).ok_or("crash, take x, crash")?.trim_end_matches(',');
                let images = self.disk.crash_images(IMAGES);
                return Ok(recovered(images.inspect(|disk| go_on(disk, next)).collect()));
            }
            _ => return Err("no such command".to_owned()),
        }
        Ok(Vec::new())
    }
}

/// What a store finds after a power cut of one of these disks: each log once.
fn recovered(disks: Vec<SimulatedDisk>) -> Vec<String> {
    let images = disks.into_iter().flat_map(|disk| disk.crash_images(IMAGES));
    let found: BTreeSet<String> = images.map(|disk| bodies(&open(&disk)).join(" ")).collect();
    found.into_iter().map(|log| format!("recovers {log}")).collect()
}

/// A store recovers, and takes one more record.
fn go_on(disk: &SimulatedDisk, body: &str) {
    let store = open(disk);
    end_epoch(&store);
    take(&store, body);
    store.step(Step::Flush).expect("a flush starts");
    disk.complete_all();
}

/// Takes bytes of a leader whose log is the same up to here; returns where they end.
fn take(store: &Store, body: &str) -> PhysicalOffset {
    let leader = open(&SimulatedDisk::new(2));
    end_epoch(&leader);
    leader.open_epoch().expect("an empty log has numbers");
    for body in bodies(store) {
        leader.append(&message(&body)).expect("there is room");
    }
    let record = leader.append(&message(body)).expect("there is room");
    leader.step(Step::Write).expect("it can be written");
    let at = store.marks().appended;
    assert_eq!(record.start(), at, "records of one size");
    let bytes = leader.record(at).expect("it was written");
    store.append_raw(at, bytes.bytes()).expect("it follows the log");
    record.position().end
}
