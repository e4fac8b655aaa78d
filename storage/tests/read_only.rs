//! A store on a file system that is mounted read-only.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use staticfire_storage::disk::RealDirectory;
use staticfire_storage::{Message, OpenError, QueueId, Store, StoreOptions, SystemClock, TopicName, verify};

fn small(mut options: StoreOptions) -> StoreOptions {
    options.segment_bytes = 64 << 10;
    options
}

fn write_some(root: &Path) {
    let store = Store::open(small(StoreOptions::at(root))).unwrap();
    for n in 0..10 {
        let topic = TopicName::new("orders").unwrap();
        store.append(&Message::new(topic, QueueId(0), format!("message {n}"))).unwrap();
    }
    store.close().unwrap();
}

fn is_refused_in_words(options: StoreOptions) {
    let refusal = Store::open(small(options)).unwrap_err();
    assert!(matches!(refusal, OpenError::ReadOnly), "{refusal:?}");
    assert!(refusal.to_string().contains("read-only"), "{refusal}");
}

/// proves: I7: a store that cannot be written to is refused, and can be verified
#[test]
fn a_read_only_directory_is_refused_and_verified() {
    let folder = tempfile::tempdir().unwrap();
    write_some(folder.path());
    let directory = Arc::new(RealDirectory::open_read_only(folder.path()).unwrap());
    is_refused_in_words(StoreOptions::on(directory.clone(), Arc::new(SystemClock)));
    let report = verify(&*directory).unwrap();
    assert!(report.is_sound() && report.records == 10, "{report}");
}

/// A second mount of a directory, read-only.
struct Mounted(tempfile::TempDir);

impl Mounted {
    /// `None` for whoever may not mount.
    fn of(path: &Path) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let run = |arguments: &[&str], last: &[&Path]| {
            let output = Command::new("mount").args(arguments).args(last).output();
            output.is_ok_and(|output| output.status.success())
        };
        if !run(&["--bind"], &[path, folder.path()]) {
            return None;
        }
        let mounted = Self(folder);
        run(&["-o", "remount,bind,ro"], &[mounted.0.path()]).then_some(mounted)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        Command::new("umount").arg("--lazy").arg(self.0.path()).output().unwrap();
    }
}

/// proves: I7: as above, of what the system itself mounted
#[test]
fn a_read_only_mount_is_refused_and_verified() {
    let folder = tempfile::tempdir().unwrap();
    write_some(folder.path());
    let Some(mounted) = Mounted::of(folder.path()) else {
        println!("SKIPPED (only root may mount)");
        return;
    };
    is_refused_in_words(StoreOptions::at(mounted.0.path()));
    let report = verify(&RealDirectory::open_read_only(mounted.0.path()).unwrap()).unwrap();
    assert!(report.is_sound() && report.records == 10, "{report}");
}
