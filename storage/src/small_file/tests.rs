use std::io;
use std::sync::Arc;

use super::{LEN_MAX, read, replace, start_replace};
use crate::disk::{
    Directory, DiskFaults, DiskOperation, FaultEffect, RealDirectory, SegmentFile, SimulatedDisk,
    is_machine_gone,
};

const PATH: &str = "config/topics.json";

/// A disk on which the file durably holds `old`.
fn disk_with(old: &[u8], seed: u64) -> SimulatedDisk {
    let disk = SimulatedDisk::new(seed);
    let directory = disk.directory();
    directory.make_directory("config").unwrap();
    directory.sync("").unwrap();
    replace(&*directory, PATH, old).unwrap();
    disk
}

/// Runs `write` and looks at every image after a crash at every step of it. Says how many images
/// there were, and the first one in which the file has neither content, or not the new one though
/// `write` had finished.
fn crash_everywhere(
    faults: &DiskFaults,
    write: impl Fn(&Arc<dyn Directory>, &str, &[u8]) -> io::Result<()>,
) -> (usize, Option<String>) {
    let (old, new) = (vec![1; 1300], vec![2; 2000]);
    let (mut images, mut wrong) = (0, None);
    for seed in 0..20 {
        for step in 0.. {
            let disk = disk_with(&old, seed).with_faults(faults.clone()).completing_at_once();
            disk.crash_at_step(disk.steps() + step);
            let result = write(&disk.directory(), PATH, &new);
            assert!(result.is_ok() || disk.is_gone(), "{result:?}");
            for image in disk.crash_images(100) {
                images += 1;
                let found = read(&*image.directory(), PATH).unwrap().unwrap_or_default();
                if found != new && (result.is_ok() || found != old) {
                    wrong
                        .get_or_insert(format!("seed {seed}, step {step}: {} bytes {result:?}", found.len()));
                }
            }
            if result.is_ok() {
                break;
            }
        }
    }
    (images, wrong)
}

fn at_once(directory: &Arc<dyn Directory>, path: &str, bytes: &[u8]) -> io::Result<()> {
    replace(&**directory, path, bytes)
}

/// Starts a replacement on a disk that completes at once, unless it is gone.
fn started(directory: &Arc<dyn Directory>, path: &str, bytes: &[u8]) -> io::Result<()> {
    let (tell, told) = crossbeam::channel::bounded(1);
    start_replace(directory, path, bytes, Box::new(move |result| tell.send(result).unwrap()));
    told.try_recv().unwrap_or_else(|_| Err(io::Error::other("never completed")))
}

/// proves: I9, I17, I36
#[test]
fn a_crash_at_any_step_leaves_the_old_or_the_new_content() {
    for write in [at_once, started] {
        let (images, wrong) = crash_everywhere(&DiskFaults::default(), write);
        assert_eq!(wrong, None);
        println!("{images} crash images of a replacement");
        assert!(images > 2000, "{images}");
    }
}

/// proves: I9, Z12, Z44: without either sync the test above fails.
#[test]
fn each_sync_of_a_replacement_is_needed() {
    let disk = disk_with(b"x", 0).completing_at_once();
    started(&disk.directory(), PATH, b"y").unwrap();
    let sites = disk.sync_sites();
    let sites: Vec<_> = sites.iter().filter(|count| count.site.contains("small_file.rs")).collect();
    assert_eq!(sites.iter().map(|count| count.files).sum::<u64>(), 2);
    assert_eq!(sites.len(), 4, "the file and the directory, twice: {sites:?}");
    for count in sites {
        let faults = DiskFaults::default().ignoring_syncs_at(&count.site);
        let wrong = [at_once, started].map(|write| crash_everywhere(&faults, write).1);
        println!("without the sync at {}: {wrong:?}", count.site);
        assert!(
            wrong.iter().any(Option::is_some),
            "nothing notices that the sync at {} is missing",
            count.site
        );
    }
}

/// proves: Z42: a writer that takes a short write for a whole one is found out.
#[test]
fn a_writer_that_ignores_short_writes_is_caught() {
    let careless = |directory: &Arc<dyn Directory>, path: &str, bytes: &[u8]| {
        let file = directory.create("config/new", bytes.len() as u64)?;
        match file.write_at(0, bytes) {
            Err(e) if is_machine_gone(&e) => return Err(e),
            _ => {}
        }
        file.sync()?;
        directory.rename("config/new", path)?;
        directory.sync("config")
    };
    let (_, wrong) = crash_everywhere(&DiskFaults::default(), careless);
    assert!(wrong.is_some());
}

/// proves: I8, F10, F12
#[test]
fn a_replacement_that_fails_leaves_one_of_the_two() {
    let operations = [
        DiskOperation::Create,
        DiskOperation::Write,
        DiskOperation::SyncFile,
        DiskOperation::Rename,
        DiskOperation::SyncDirectory,
    ];
    for operation in operations {
        for effect in [FaultEffect::Io, FaultEffect::StorageFull] {
            let disk = disk_with(b"old", 3).with_faults(DiskFaults::calm().on_nth(operation, 1, effect));
            let directory = disk.directory();
            replace(&*directory, PATH, b"newer").unwrap_err();
            for image in disk.crash_images(100) {
                let found = read(&*image.directory(), PATH).unwrap().unwrap();
                assert!(found == "old" || found == "newer", "{operation:?} {effect:?}: {found:?}");
            }
            replace(&*directory, PATH, b"again").unwrap();
            for image in disk.crash_images(100) {
                assert_eq!(read(&*image.directory(), PATH).unwrap().unwrap(), "again");
            }
        }
    }
}

#[test]
fn a_small_file_is_read_back_replaced_and_bounded() {
    let root = tempfile::tempdir().unwrap();
    let real: Arc<dyn Directory> = Arc::new(RealDirectory::open(root.path()).unwrap());
    for directory in [real, SimulatedDisk::new(1).directory()] {
        assert_eq!(read(&*directory, "x").unwrap(), None);
        for content in [b"one".as_slice(), b"", b"{\"a\":1}"] {
            replace(&*directory, "x", content).unwrap();
            assert_eq!(read(&*directory, "x").unwrap().unwrap(), content);
        }
        // What an attempt left behind is no obstacle.
        directory.create("x.tmp", 5).unwrap();
        replace(&*directory, "x", b"two").unwrap();
        assert_eq!(directory.list("").unwrap().len(), 1);
        let huge: Arc<dyn SegmentFile> = directory.create("huge", LEN_MAX as u64 + 1).unwrap();
        assert_eq!(read(&*directory, "huge").unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        drop(huge);
    }
}
