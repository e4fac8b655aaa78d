//! What the simulated disk promises to tests: nothing synced is ever lost, everything else may be.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::*;
use crate::disk::conformance::{self, Subject};
use crate::disk::{Directory, SegmentFile, write_all_at};

/// Case counts are multiplied by the environment parameter `STATICFIRE_CASES`.
fn cases(usual: u32) -> u32 {
    let factor = std::env::var("STATICFIRE_CASES").ok().and_then(|text| text.parse().ok());
    usual.saturating_mul(factor.unwrap_or(1))
}

fn calm(seed: u64) -> SimulatedDisk {
    SimulatedDisk::new(seed).with_faults(DiskFaults::calm())
}

/// A durable file of `len` times the byte `fill`.
fn durable_file(disk: &SimulatedDisk, path: &str, len: usize, fill: u8) -> Arc<dyn SegmentFile> {
    disk.put(path, &vec![fill; len]).unwrap();
    disk.directory().open(path).unwrap()
}

#[test]
fn a_simulated_disk_conforms() {
    for seed in 0..50 {
        println!("seed {seed}");
        conformance::run(|| {
            let disk = SimulatedDisk::new(seed);
            let pumped = disk.clone();
            Subject::new(disk.directory()).pumped_by(move || _ = pumped.complete_all())
        });
        conformance::run(|| Subject::new(SimulatedDisk::new(seed).completing_at_once().directory()));
        let large = || SimulatedDisk::new(seed).with_sector_bytes(4096).completing_at_once();
        conformance::run(|| Subject::new(large().directory()));
    }
}

/// proves: F2, F4: a power cut keeps or loses whole sectors, of whatever length
#[test]
fn a_large_sector_is_kept_or_lost_as_one() {
    let disk = calm(15).with_sector_bytes(4096);
    let file = durable_file(&disk, "log", 8192, 0);
    for at in [0, 2048, 4096] {
        write_all_at(&*file, at, &[1; 512]).unwrap();
    }
    let images = disk.crash_images(6);
    assert!(images.is_complete());
    let kept: BTreeSet<_> =
        images.map(|image| [0, 2048, 4096].map(|at| image.contents("log").unwrap()[at])).collect();
    assert_eq!(kept.len(), 6, "three versions of the first sector, two of the second: {kept:?}");
    assert!(!kept.contains(&[0, 1, 0]), "the second write holds the first");
}

/// proves: F18, F19
#[test]
fn reads_are_slow_or_find_no_room_to_map_the_file() {
    let faults = DiskFaults::calm()
        .on_nth(DiskOperation::Read, 1, FaultEffect::Late(30_000_000))
        .on_nth(DiskOperation::Read, 2, FaultEffect::NotMapped)
        .on_nth(DiskOperation::Read, 4, FaultEffect::NotMapped);
    let disk = calm(16).with_faults(faults);
    let file = durable_file(&disk, "log", 512, 7);
    assert_eq!(file.read(0..1).unwrap()[..], [7]);
    assert_eq!(disk.now_us(), 30_000_000);
    assert_eq!(file.read(0..1).unwrap_err().kind(), ErrorKind::OutOfMemory);
    assert_eq!(file.read(0..1).unwrap()[..], [7]);
    let mut buffer = [0];
    file.read_into(0, &mut buffer).expect("a copy needs no map");
    file.start_sync(Box::new(|_| ()));
    assert!(disk.next_due().unwrap() > 30_000_000, "what is asked for later ends later");
}

/// proves: F2
#[test]
fn unsynced_sectors_are_kept_in_any_subset_and_in_any_version() {
    let disk = calm(1);
    let file = durable_file(&disk, "log", 1536, 0);
    for fill in [1, 2] {
        write_all_at(&*file, 0, &[fill; 1024]).unwrap();
    }
    write_all_at(&*file, 1024, &[3; 512]).unwrap();
    let images = disk.crash_images(1000);
    assert!(images.is_complete());
    let mut whole = BTreeSet::new();
    for image in images {
        let bytes = image.contents("log").unwrap();
        let mut sectors = bytes.chunks(512);
        if sectors.all(|sector| sector.iter().all(|byte| *byte == sector[0])) {
            whole.insert([bytes[0], bytes[512], bytes[1024]]);
        }
    }
    // Three versions of two sectors, two of the third.
    assert_eq!(whole.len(), 18, "{whole:?}");
}

/// proves: F4
#[test]
fn a_torn_sector_is_torn_between_words() {
    let disk = calm(2);
    let file = durable_file(&disk, "log", 512, 1);
    write_all_at(&*file, 0, &[2; 512]).unwrap();
    let mut lengths = BTreeSet::new();
    for _ in 0..500 {
        let bytes = disk.snapshot().crash().contents("log").unwrap();
        let words: Vec<u8> = bytes.chunks(8).map(|word| word[0]).collect();
        assert!(bytes.chunks(8).all(|word| word.iter().all(|byte| *byte == word[0])), "{bytes:?}");
        let changes = words.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert!(changes <= 1, "{words:?}");
        lengths.insert(words.iter().filter(|word| **word == 2).count());
    }
    assert!(lengths.len() > 30, "old, new and many tears between: {lengths:?}");
}

/// proves: I9, F2
#[test]
fn changes_of_names_are_kept_independently_of_each_other_and_of_the_bytes() {
    let disk = calm(3);
    let directory = disk.directory();
    durable_file(&disk, "removed", 8, 1);
    durable_file(&disk, "renamed", 8, 2);
    write_all_at(&*directory.create("created", 8).unwrap(), 0, &[3; 8]).unwrap();
    directory.remove("removed").unwrap();
    directory.rename("renamed", "again").unwrap();
    directory.link("again", "linked").unwrap();
    let mut names = BTreeSet::new();
    let mut created = BTreeSet::new();
    for image in disk.crash_images(1000) {
        names.insert(image.paths());
        created.extend(image.contents("created"));
        let moved = image.paths().iter().any(|path| path == "again");
        assert_ne!(moved, image.paths().iter().any(|path| path == "renamed"), "a rename is one change");
    }
    assert_eq!(names.len(), 16);
    // No length, zeros, or the bytes: neither is bound to the name.
    assert_eq!(created, BTreeSet::from([vec![], vec![0; 8], vec![3; 8]]));

    directory.sync("").unwrap();
    for image in disk.crash_images(1000) {
        assert_eq!(image.paths(), ["again", "created", "linked"]);
        assert_eq!(image.contents("linked").unwrap(), [2; 8]);
    }
}

/// proves: I9
#[test]
fn a_rename_between_directories_is_durable_once_both_are_synced() {
    let disk = calm(4);
    let directory = disk.directory();
    disk.put("a/x", b"x").unwrap();
    disk.put("b/y", b"y").unwrap();
    directory.rename("a/x", "b/x").unwrap();
    directory.sync("b").unwrap();
    let seen: BTreeSet<_> = disk.crash_images(10).map(|image| image.paths()).collect();
    let both: Vec<String> = ["a/x", "b/x", "b/y"].map(String::from).to_vec();
    assert_eq!(seen, BTreeSet::from([both.clone(), both[1..].to_vec()]));
    directory.sync("a").unwrap();
    assert!(disk.is_settled());
}

/// proves: F10, Z5
#[test]
fn a_failed_sync_cleans_the_sectors_without_writing_them() {
    for (reread, shown) in [(Reread::New, 2), (Reread::Old, 1)] {
        let faults =
            DiskFaults::calm().with_reread(reread).on_nth(DiskOperation::SyncFile, 1, FaultEffect::Io);
        let disk = SimulatedDisk::new(5).with_faults(faults);
        let file = durable_file(&disk, "log", 1024, 1);
        write_all_at(&*file, 0, &[2; 512]).unwrap();
        assert!(file.sync().is_err());
        assert_eq!(disk.contents("log").unwrap()[0], shown, "{reread:?}");
        write_all_at(&*file, 512, &[3; 512]).unwrap();
        file.sync().expect("the kernel reports a failure once");
        assert_eq!(disk.is_settled(), reread == Reread::Old, "the cache may still show what is lost");
        assert_eq!(disk.kill().crash().contents("log").unwrap(), [[1; 512], [3; 512]].concat());
    }
}

#[test]
fn a_sync_covers_what_was_written_before_it_started() {
    let disk = calm(6);
    let file = durable_file(&disk, "log", 1024, 0);
    write_all_at(&*file, 0, &[1; 512]).unwrap();
    file.start_sync(Box::new(|_| ()));
    write_all_at(&*file, 0, &[2; 8]).unwrap();
    write_all_at(&*file, 512, &[3; 512]).unwrap();
    file.start_sync(Box::new(|_| ()));
    let tickets: Vec<_> = disk.pending_syncs().iter().map(|sync| sync.ticket).collect();

    let first = disk.snapshot();
    assert!(first.pending_syncs().is_empty(), "a snapshot has no process");
    assert!(disk.complete(tickets[0]));
    let images: BTreeSet<_> = disk.crash_images(4).map(|image| image.contents("log").unwrap()).collect();
    assert_eq!(images.len(), 4, "the later two writes are open");
    assert!(images.iter().all(|bytes| bytes[8..512] == [1; 504]));
    assert!(disk.complete(tickets[1]));
    assert!(disk.is_settled());
}

#[test]
fn syncs_complete_out_of_order_without_taking_anything_back() {
    let disk = calm(7);
    let file = durable_file(&disk, "log", 512, 0);
    let order = Arc::new(Mutex::new(Vec::new()));
    for fill in 1..=3 {
        write_all_at(&*file, 0, &[fill; 512]).unwrap();
        let order = Arc::clone(&order);
        file.start_sync(Box::new(move |result| order.lock().unwrap().push((fill, result.is_ok()))));
    }
    assert!(disk.complete_chosen(|count| count - 1));
    assert!(disk.complete_next());
    assert_eq!(disk.complete_all(), 1);
    assert!(!disk.complete_next());
    assert_eq!(*order.lock().unwrap(), [(3, true), (1, true), (2, true)]);
    assert_eq!(disk.crash().contents("log").unwrap(), [3; 512]);
}

#[test]
fn virtual_time_completes_syncs_in_the_order_of_their_due_times() {
    let faults = DiskFaults { sync_delay_us: 100..101, ..DiskFaults::calm() }
        .with_rule(FaultRule {
            nth: Some(1),
            ..FaultRule::on(DiskOperation::SyncFile, FaultEffect::Late(1 << 20))
        })
        .on_nth(DiskOperation::SyncFile, 3, FaultEffect::Never);
    let disk = SimulatedDisk::new(8).with_faults(faults);
    let file = durable_file(&disk, "log", 512, 0);
    let order = Arc::new(Mutex::new(Vec::new()));
    for number in 1..=3 {
        let order = Arc::clone(&order);
        file.start_sync(Box::new(move |_| order.lock().unwrap().push(number)));
    }
    assert_eq!(disk.run_due(99), 0);
    let due = disk.next_due().unwrap();
    assert!((100..=10_000).contains(&due), "{due}");
    assert_eq!(disk.run_due(due), 1);
    assert_eq!(*order.lock().unwrap(), [2]);
    assert_eq!(disk.run_due(u64::MAX), 1);
    assert_eq!((disk.next_due(), disk.complete_all(), disk.pending_syncs().len()), (None, 0, 1));
}

/// proves: I2
#[test]
fn a_killed_process_loses_nothing_that_it_wrote() {
    let disk = SimulatedDisk::new(9);
    let directory = disk.directory();
    let file = directory.create("log", 4096).unwrap();
    write_all_at(&*file, 0, b"written").unwrap();
    let _lock = directory.lock("lock").unwrap();
    let told = Arc::new(Mutex::new(false));
    let tell = Arc::clone(&told);
    file.start_sync(Box::new(move |_| *tell.lock().unwrap() = true));

    let next = disk.kill();
    assert!(is_machine_gone(&file.write_at(0, b"more").unwrap_err()));
    assert!(is_machine_gone(&directory.open("log").unwrap_err()));
    assert!(!disk.complete_next() && !*told.lock().unwrap(), "nobody is there to be told");
    assert_eq!(&next.contents("log").unwrap()[..7], b"written");
    next.directory().lock("lock").unwrap();
    assert!(!next.is_settled(), "a power cut may still take it");
}

/// proves: F12, I11
#[test]
fn a_full_disk_takes_a_part_refuses_the_rest_and_recovers() {
    let disk = SimulatedDisk::new(10).with_faults(DiskFaults::calm().with_space(16384));
    let directory = disk.directory();
    let file = directory.create("sparse", 1 << 30).unwrap();
    assert_eq!(directory.space().unwrap().free, 16384);
    assert_eq!(file.write_at(1 << 20, &[1; 100]).unwrap(), 100);
    assert_eq!(file.allocate(0..16384).unwrap_err().kind(), ErrorKind::StorageFull);
    file.allocate(0..8192).unwrap();
    assert_eq!(file.write_at(8000, &[1; 9000]).unwrap(), 4288, "up to the last block that fits");
    assert_eq!(file.write_at(12288, &[1; 1]).unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(directory.create("more", 0).unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(file.write_at(0, &[2; 8192]).unwrap(), 8192, "blocks of its own stay usable");
    drop(file);
    directory.remove("sparse").unwrap();
    assert_eq!(directory.space().unwrap().free, 16384);
}

/// proves: F8, F11
#[test]
fn rules_strike_the_operation_they_name() {
    let faults = DiskFaults::calm()
        .on_nth(DiskOperation::Write, 2, FaultEffect::Io)
        .on_nth(DiskOperation::Read, 1, FaultEffect::Io)
        .on_path(DiskOperation::Remove, "keep", FaultEffect::Io)
        .on_path(DiskOperation::SyncDirectory, "deaf", FaultEffect::Ignored);
    let disk = SimulatedDisk::new(11).with_faults(faults);
    let directory = disk.directory();
    disk.put("deaf/keep", b"").unwrap();
    let file = directory.create("deaf/log", 512).unwrap();
    assert_eq!(file.write_at(0, &[1; 512]).unwrap(), 512);
    assert!(file.write_at(0, &[2; 512]).is_err());
    assert!(file.read(0..1).is_err());
    assert!(file.read(0..1).is_ok());
    assert!(directory.remove("deaf/keep").is_err());
    directory.sync("deaf").unwrap();
    assert!(disk.crash_images(100).any(|image| image.paths() == ["deaf/keep"]));
}

/// proves: F14, F15, F16
#[test]
fn the_medium_can_be_damaged() {
    let disk = calm(12);
    let file = durable_file(&disk, "log", 1000, 0);
    disk.flip_bit("log", 8 * 700 + 3).unwrap();
    assert_eq!(file.read(699..702).unwrap()[..], [0, 8, 0]);
    assert!(disk.flip_bit("log", 8000).is_err());
    disk.rot("log", 510, Rot::Burst).unwrap();
    assert_eq!(file.read(509..513).unwrap()[..], [0, 255, 255, 0], "within one sector");
    disk.rot("log", 600, Rot::Ones).unwrap();
    assert_eq!(file.read(511..1000).unwrap()[..], [255; 489]);
    disk.rot("log", 600, Rot::Zeros).unwrap();
    assert_eq!(file.read(511..1000).unwrap()[1..], [0; 488]);
    disk.put("logs/2", &[5; 700]).unwrap();
    let before = disk.contents("logs/2").unwrap();
    let (path, at) = disk.rot_somewhere("logs/", 3, Rot::Bit(0)).unwrap();
    let changed = before.iter().zip(disk.contents(&path).unwrap()).position(|(old, new)| *old != new);
    assert_eq!((path.as_str(), changed), ("logs/2", Some(at as usize)));
    assert_eq!(disk.rot_somewhere("nowhere", 3, Rot::Bit(0)), None);
    disk.edit("log", |bytes| bytes.truncate(10)).unwrap();
    assert_eq!(disk.directory().open("log").unwrap().len(), 10);

    let lost = calm(13).with_faults(DiskFaults::calm().on_nth(DiskOperation::Write, 1, FaultEffect::Ignored));
    let file = durable_file(&lost, "log", 512, 0);
    write_all_at(&*file, 0, &[1; 512]).unwrap();
    assert_eq!(file.read(0..512).unwrap()[..], [1; 512]);
    file.sync().unwrap();
    assert_eq!(lost.crash().contents("log").unwrap(), [0; 512]);

    let astray =
        calm(14).with_faults(DiskFaults::calm().on_nth(DiskOperation::Write, 1, FaultEffect::Misdirected));
    let file = durable_file(&astray, "log", 1024, 0);
    assert_eq!(file.write_at(0, &[1; 512]).unwrap(), 512);
    assert_eq!(astray.contents("log").unwrap(), [[0; 512], [1; 512]].concat());
}

/// A few operations on two files in two directories.
#[derive(Clone, Debug)]
enum Op {
    Create(usize),
    Write { file: usize, at: u64, len: usize },
    Sync(usize),
    StartSync(usize),
    StartSyncDirectory(usize),
    SyncDirectory(usize),
    Rename(usize, usize),
    Link(usize, usize),
    Remove(usize),
    Complete(usize),
}

const PATHS: [&str; 4] = ["a/x", "a/y", "b/x", "b/y"];
const FOLDERS: [&str; 3] = ["", "a", "b"];
const LEN: u64 = 2048;

fn any_op() -> impl Strategy<Value = Op> {
    let (path, folder) = (0..PATHS.len(), 0..FOLDERS.len());
    prop_oneof![
        3 => path.clone().prop_map(Op::Create),
        6 => (path.clone(), 0..LEN - 700, 1..700_usize).prop_map(|(file, at, len)| Op::Write { file, at, len }),
        2 => path.clone().prop_map(Op::Sync),
        2 => path.clone().prop_map(Op::StartSync),
        1 => folder.clone().prop_map(Op::StartSyncDirectory),
        2 => folder.prop_map(Op::SyncDirectory),
        2 => (path.clone(), path.clone()).prop_map(|(from, to)| Op::Rename(from, to)),
        1 => (path.clone(), path.clone()).prop_map(|(from, to)| Op::Link(from, to)),
        1 => path.prop_map(Op::Remove),
        2 => (0..8_usize).prop_map(Op::Complete),
    ]
}

/// Runs the operations; each write has a byte of its own. Errors are part of the outcome.
fn run(disk: &SimulatedDisk, ops: &[Op]) -> Vec<String> {
    let directory: Arc<dyn Directory> = disk.directory();
    let mut log = Vec::new();
    for folder in &FOLDERS[1..] {
        log.push(format!("{:?}", directory.make_directory(folder).map_err(|e| e.kind())));
    }
    for (number, op) in ops.iter().enumerate() {
        let open = |file: usize| directory.open(PATHS[file]);
        let result = match op {
            Op::Create(file) => directory.create(PATHS[*file], LEN).map(drop),
            Op::Write { file, at, len } => {
                open(*file).and_then(|file| write_all_at(&*file, *at, &vec![number as u8 + 1; *len]))
            }
            Op::Sync(file) => open(*file).and_then(|file| file.sync()),
            Op::StartSync(file) => open(*file).map(|file| file.start_sync(Box::new(|_| ()))),
            Op::StartSyncDirectory(folder) => {
                directory.start_sync(FOLDERS[*folder], Box::new(|_| ()));
                Ok(())
            }
            Op::SyncDirectory(folder) => directory.sync(FOLDERS[*folder]),
            Op::Rename(from, to) => directory.rename(PATHS[*from], PATHS[*to]),
            Op::Link(from, to) => directory.link(PATHS[*from], PATHS[*to]),
            Op::Remove(file) => directory.remove(PATHS[*file]),
            Op::Complete(choice) => {
                disk.complete_chosen(|_| *choice);
                Ok(())
            }
        };
        log.push(format!("{:?}", result.map_err(|e| e.kind())));
    }
    log
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(64), failure_persistence: None, ..ProptestConfig::default() })]

    /// proves: I71
    #[test]
    fn the_same_seed_gives_the_same_outcome(seed: u64, ops in prop::collection::vec(any_op(), 0..60)) {
        let (one, other) = (SimulatedDisk::new(seed), SimulatedDisk::new(seed));
        prop_assert_eq!(run(&one, &ops), run(&other, &ops));
        prop_assert_eq!(one.trace(), other.trace());
        prop_assert_eq!(one.steps(), other.steps());
        let images = |disk: &SimulatedDisk| -> Vec<u64> {
            disk.crash_images(50).map(|image| image.fingerprint()).collect()
        };
        prop_assert_eq!(images(&one), images(&other));
        prop_assert_eq!(one.crash().fingerprint(), other.crash().fingerprint());
    }

    /// proves: I1, I9: what is settled survives every power cut, and syncing everything settles.
    #[test]
    fn what_was_synced_survives(seed: u64, ops in prop::collection::vec(any_op(), 0..60)) {
        let disk = SimulatedDisk::new(seed);
        run(&disk, &ops);
        let directory = disk.directory();
        for folder in FOLDERS {
            directory.sync(folder).unwrap();
        }
        for path in disk.paths() {
            directory.open(&path).unwrap().sync().unwrap();
        }
        // What the rest of the names may hold is open, but nobody can see it.
        let expected: Vec<_> = disk.paths().into_iter().map(|path| (disk.contents(&path).unwrap(), path)).collect();
        for image in disk.crash_images(20) {
            let found: Vec<_> =
                image.paths().into_iter().map(|path| (image.contents(&path).unwrap(), path)).collect();
            prop_assert_eq!(&found, &expected);
        }
    }

    /// proves: I2: every word is what some write or the file's creation put there, wherever it died.
    #[test]
    fn a_crash_invents_nothing(seed: u64, ops in prop::collection::vec(any_op(), 1..40), at in 0..40_u64) {
        let disk = SimulatedDisk::new(seed);
        disk.crash_at_step(at);
        run(&disk, &ops);
        prop_assert!(disk.steps() <= at || !disk.is_gone());
        for image in disk.crash_images(20) {
            for path in image.paths() {
                let bytes = image.contents(&path).unwrap();
                prop_assert!([0, LEN].contains(&(bytes.len() as u64)));
                prop_assert!(bytes.iter().all(|byte| usize::from(*byte) <= ops.len()));
            }
            // The next boot can use the disk.
            run(&image, &ops);
        }
    }
}

/// The budget of the programme: more than 20,000 crash states in seconds.
#[test]
fn crash_states_are_cheap() {
    let disk = SimulatedDisk::new(99);
    let directory = disk.directory();
    let file = directory.create("log", 1 << 30).unwrap();
    write_all_at(&*file, 0, &vec![1; 1 << 20]).unwrap();
    file.sync().unwrap();
    directory.sync("").unwrap();
    let mut distinct = BTreeSet::new();
    for step in 0..20 {
        write_all_at(&*file, (1 << 20) + step * 3000, &[step as u8 + 1; 3000]).unwrap();
        for image in disk.crash_images(1000) {
            let file = image.directory().open("log").unwrap();
            distinct.insert(crc32fast::hash(&file.read(1 << 20..(1 << 20) + 65536).unwrap()));
            write_all_at(&*file, 0, b"recovered").unwrap();
        }
    }
    println!("{} distinct crash states", distinct.len());
    assert!(distinct.len() > 10_000, "{}", distinct.len());
}
