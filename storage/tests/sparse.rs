//! `verify` and recovery leave the holes of a sparse store alone: on a tmpfs that is full, looking into one
//! through a mapping kills the process.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "it looks at the files from outside")]

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use staticfire_storage::disk::{Directory, EntryKind, RealDirectory, SimulatedDisk, write_all_at};
use staticfire_storage::{Message, OpenError, QueueId, Store, StoreOptions, SystemClock, TopicName, verify};

const PAGE: usize = 4096;

/// Copies the tree at `path`, leaving out the pages that hold only zeros, as `cp --sparse=always` does.
fn copy_sparsely(from: &dyn Directory, to: &dyn Directory, path: &str) {
    for entry in from.list(path).unwrap() {
        let name = if path.is_empty() { entry.name } else { format!("{path}/{}", entry.name) };
        if entry.kind == EntryKind::Directory {
            to.make_directory(&name).unwrap();
            copy_sparsely(from, to, &name);
        } else {
            let mut bytes = vec![0; entry.len as usize];
            from.open(&name).unwrap().read_into(0, &mut bytes).unwrap();
            let copy = to.create(&name, entry.len).unwrap();
            for (index, page) in
                bytes.chunks(PAGE).enumerate().filter(|(_, page)| page.iter().any(|b| *b != 0))
            {
                write_all_at(&*copy, (index * PAGE) as u64, page).unwrap();
            }
        }
    }
}

/// Blocks of 512 bytes that the tree takes.
fn blocks(path: &Path) -> u64 {
    let metadata = std::fs::metadata(path).unwrap();
    let entries = metadata.is_dir().then(|| std::fs::read_dir(path).unwrap()).into_iter().flatten();
    metadata.blocks() + entries.map(|entry| blocks(&entry.unwrap().path())).sum::<u64>()
}

/// A closed store: bodies of zeros, so that there are holes in the middle of records too.
fn store() -> SimulatedDisk {
    let disk = SimulatedDisk::new(1).completing_at_once();
    let mut options = StoreOptions::on(disk.directory(), Arc::new(SystemClock));
    (options.segment_bytes, options.queue_file_entries) = (1 << 20, 10_000);
    let store = Store::open(options).unwrap();
    for n in 0..40 {
        let topic = TopicName::new("orders").unwrap();
        store.append(&Message::new(topic, QueueId(n % 2), vec![0; 50_000])).unwrap();
    }
    store.close().unwrap();
    disk
}

/// proves: I11, M34: whatever is wrong with the store, its holes stay holes
#[test]
fn holes_are_not_filled() {
    let tmpfs = Path::new("/dev/shm");
    if !tmpfs.is_dir() {
        println!("SKIPPED (there is no /dev/shm)");
        return;
    }
    let (disk, folder) = (store(), tempfile::tempdir_in(tmpfs).unwrap());
    let copy = RealDirectory::open(folder.path()).unwrap();
    copy_sparsely(&*disk.directory(), &copy, "");
    let len: u64 = 3 << 20;
    let before = blocks(folder.path());
    assert!(before * 512 < len / 2, "{before} blocks: this is not sparse");
    let verified = || verify(&RealDirectory::open_read_only(folder.path()).unwrap()).unwrap();
    let report = verified();
    assert!(report.is_sound() && report.records == 40 && report.entries == 40, "{report}");
    assert_eq!(blocks(folder.path()), before);

    // The head of a record, in a page of its own, gone: everything behind it is searched.
    let log = copy.open("commitlog/00000000000000000000").unwrap();
    let at = log.next_data(20_000).unwrap().unwrap();
    write_all_at(&*log, at, &[0; PAGE]).unwrap();
    drop(log);
    assert!(!verified().is_sound());
    assert_eq!(blocks(folder.path()), before);
}

/// A tmpfs of its own, as large as asked for.
struct Mounted(tempfile::TempDir);

impl Mounted {
    /// `None` for whoever may not mount.
    fn of(bytes: u64) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={bytes}");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path()).output();
        mount.is_ok_and(|output| output.status.success()).then(|| Self(folder))
    }

    /// Writes until nothing more fits.
    fn fill(&self) {
        let mut free = 1 << 30;
        for n in 0.. {
            let rest = vec![1; free];
            let name = self.0.path().join(format!("filler-{n}"));
            match std::fs::write(name, rest) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull && free == 1 => return,
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => free = 1,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        Command::new("umount").arg("--lazy").arg(self.0.path()).output().unwrap();
    }
}

/// proves: F12: a full disk is an error when a store is opened, not a signal
#[test]
fn a_sparse_store_on_a_full_tmpfs_is_refused_in_words() {
    let Some(tmpfs) = Mounted::of(4 << 20) else {
        println!("SKIPPED (only root may mount a tmpfs)");
        return;
    };
    let (disk, root) = (store(), tmpfs.0.path());
    // Without notes of ours it is a stranger's, and everything in it is looked at.
    disk.directory().remove("staticfire/state").unwrap();
    let copy = RealDirectory::open(root).unwrap();
    copy_sparsely(&*disk.directory(), &copy, "");
    tmpfs.fill();
    let refused = || {
        let mut options = StoreOptions::at(root);
        (options.segment_bytes, options.queue_file_entries) = (1 << 20, 10_000);
        let refusal = Store::open(options).unwrap_err();
        let is_full = |error: &std::io::Error| matches!(error.kind(), std::io::ErrorKind::StorageFull);
        assert!(matches!(&refusal, OpenError::Io { error, .. } if is_full(error)), "{refusal}");
    };
    refused();

    // Damage makes it search for the next record, bytes by bytes.
    let log = copy.open("commitlog/00000000000000000000").unwrap();
    let at = log.next_data(20_000).unwrap().unwrap();
    write_all_at(&*log, at, &[0; PAGE]).unwrap();
    drop(log);
    refused();
    assert!(verify(&RealDirectory::open_read_only(root).unwrap()).is_ok_and(|report| !report.is_sound()));
}
