//! Where a broadcasting consumer keeps how far it got: with itself, because every member of its group
//! gets every message, and brokers keep one offset a group.
//!
//! ```text
//! DIR/<group>/offsets.json     {"offsetTable":{"{\"brokerName\":\"broker-a\",\"queueId\":0,\"topic\":\"orders\"}":42}}
//! ```
//!
//! The layout is the one of RocketMQ's Java client in its folder of one client id, and what that one
//! wrote is read, so a consumer can go on where another program stopped.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use staticfire_storage::disk::{Directory, RealDirectory};
use staticfire_storage::small_file;

use super::wait::lock;
use crate::protocol::body::{MessageQueue, ResetOffsetBody};
use crate::protocol::json;
use crate::protocol::names::GroupName;

/// The next offset to consume, by queue.
pub type KeptOffsets = BTreeMap<MessageQueue, i64>;

/// Keeps offsets of groups somewhere. Calls come from the runtime's tasks, one at a time for each
/// group, every few seconds; they may block for as long as writing a small file takes.
pub trait OffsetStore: fmt::Debug + Send + Sync {
    /// What was stored for a group; empty when nothing was.
    ///
    /// # Errors
    /// It cannot be read, or is not understood.
    fn load(&self, group: &GroupName) -> io::Result<KeptOffsets>;

    /// Stores these offsets; those of other queues stay.
    ///
    /// # Errors
    /// It cannot be written; what was stored before is still there.
    fn store(&self, group: &GroupName, offsets: &KeptOffsets) -> io::Result<()>;
}

/// Keeps offsets until the process ends: consumers that share it go on where others stopped.
#[derive(Debug, Default)]
pub struct MemoryOffsets(Mutex<BTreeMap<String, KeptOffsets>>);

impl OffsetStore for MemoryOffsets {
    fn load(&self, group: &GroupName) -> io::Result<KeptOffsets> {
        Ok(lock(&self.0).get(group.as_str()).cloned().unwrap_or_default())
    }

    fn store(&self, group: &GroupName, offsets: &KeptOffsets) -> io::Result<()> {
        let offsets = offsets.iter().map(|(queue, offset)| (queue.clone(), *offset));
        lock(&self.0).entry(group.as_str().to_owned()).or_default().extend(offsets);
        Ok(())
    }
}

/// Keeps offsets in a directory, in a file a group that is replaced as a whole and durably. Each
/// consumer needs a directory of its own.
#[derive(Clone)]
pub struct DirectoryOffsets(Arc<dyn Directory>);

impl DirectoryOffsets {
    /// In the directory `path`, which is created when there is none.
    ///
    /// # Errors
    /// The system's error.
    pub fn at(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self::on(Arc::new(RealDirectory::open(path)?)))
    }

    /// In any directory, a simulated one for example.
    #[must_use]
    pub fn on(directory: Arc<dyn Directory>) -> Self {
        Self(directory)
    }
}

impl OffsetStore for DirectoryOffsets {
    fn load(&self, group: &GroupName) -> io::Result<KeptOffsets> {
        let path = file_of(group);
        let Some(bytes) = small_file::read(&*self.0, &path)? else { return Ok(KeptOffsets::new()) };
        let table: ResetOffsetBody = json::from_slice_tolerant(&bytes).map_err(|error| {
            let words = format!("{path}: {error}; repair it, or remove it and start anew");
            io::Error::new(io::ErrorKind::InvalidData, words)
        })?;
        Ok(table.offset_table.0)
    }

    fn store(&self, group: &GroupName, offsets: &KeptOffsets) -> io::Result<()> {
        let mut all = self.load(group)?;
        all.extend(offsets.iter().map(|(queue, offset)| (queue.clone(), *offset)));
        self.0.make_directory(group.as_str())?;
        self.0.sync("")?;
        let table = ResetOffsetBody { offset_table: all.into_iter().collect() };
        small_file::replace(&*self.0, &file_of(group), &json::to_bytes(&table))
    }
}

impl fmt::Debug for DirectoryOffsets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirectoryOffsets").finish_non_exhaustive()
    }
}

fn file_of(group: &GroupName) -> String {
    format!("{}/offsets.json", group.as_str())
}

#[cfg(test)]
mod tests {
    use staticfire_storage::disk::SimulatedDisk;

    use super::*;

    fn group() -> GroupName {
        GroupName::new("all").unwrap()
    }

    fn offsets(rows: &[(i32, i64)]) -> KeptOffsets {
        rows.iter().map(|(id, offset)| (MessageQueue::new("orders", "broker-a", *id), *offset)).collect()
    }

    #[test]
    fn offsets_come_back_and_those_of_other_queues_stay() {
        let disk = SimulatedDisk::new(1).completing_at_once();
        let stores: [&dyn OffsetStore; 2] =
            [&MemoryOffsets::default(), &DirectoryOffsets::on(disk.directory())];
        for store in stores {
            assert_eq!(store.load(&group()).unwrap(), offsets(&[]));
            store.store(&group(), &offsets(&[(0, 7), (1, 1)])).unwrap();
            store.store(&group(), &offsets(&[(1, 2)])).unwrap();
            assert_eq!(store.load(&group()).unwrap(), offsets(&[(0, 7), (1, 2)]));
        }
        let after_power_loss = DirectoryOffsets::on(disk.crash().directory());
        assert_eq!(after_power_loss.load(&group()).unwrap(), offsets(&[(0, 7), (1, 2)]));
    }

    /// As the Java client writes it, with objects for keys.
    #[test]
    fn what_official_clients_kept_is_read_and_what_is_damaged_refused() {
        let disk = SimulatedDisk::new(1).completing_at_once();
        disk.directory().make_directory("all").unwrap();
        let official = b"{\n\t\"offsetTable\":{{\n\t\t\t\"brokerName\":\"broker-a\",\n\t\t\t\"queueId\":3,\n\t\t\t\"topic\":\"orders\"\n\t\t}:42\n\t}\n}";
        disk.put("all/offsets.json", official).unwrap();
        let store = DirectoryOffsets::on(disk.directory());
        assert_eq!(store.load(&group()).unwrap(), offsets(&[(3, 42)]));
        disk.put("all/offsets.json", &official[..40]).unwrap();
        let error = store.load(&group()).unwrap_err();
        assert!(error.to_string().starts_with("all/offsets.json: "), "{error}");
        assert!(store.store(&group(), &offsets(&[(0, 1)])).is_err(), "nothing is overwritten blindly");
    }
}
