use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Stdio};

use super::*;
use crate::disk::conformance::{self, Subject};
use crate::disk::write_all_at;

/// Tells a child process of the lock test where to take the lock.
const LOCK_HERE: &str = "STATICFIRE_TEST_LOCK_HERE";

fn root() -> (tempfile::TempDir, Arc<dyn Directory>) {
    let root = tempfile::tempdir().unwrap();
    let directory = RealDirectory::open(root.path()).unwrap();
    (root, Arc::new(directory))
}

#[test]
fn a_real_directory_conforms() {
    let root = tempfile::tempdir().unwrap();
    let count = std::cell::Cell::new(0);
    conformance::run(|| {
        count.set(count.get() + 1);
        let path = root.path().join(format!("{}/deep", count.get()));
        Subject::new(Arc::new(RealDirectory::open(path).unwrap()))
    });
}

/// proves: B62, S12
#[test]
fn nothing_but_regular_files_below_the_root_is_opened() {
    let (root, directory) = root();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("log"), b"secret").unwrap();
    symlink(outside.path().join("log"), root.path().join("log")).unwrap();
    symlink(outside.path(), root.path().join("folder")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, root.path().join("pipe"), FileType::Fifo, FILE_MODE, 0).unwrap();

    for path in ["log", "pipe"] {
        assert_eq!(directory.open(path).unwrap_err().kind(), ErrorKind::InvalidInput, "{path}");
        assert!(directory.lock(path).is_err());
    }
    assert_eq!(directory.create("log", 1).unwrap_err().kind(), ErrorKind::AlreadyExists);
    for result in [directory.open("folder/log").map(drop), directory.create("folder/new", 1).map(drop)] {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::NotADirectory);
    }
    assert!(directory.remove("folder/log").is_err() && directory.sync("folder").is_err());
    assert!(directory.list("").unwrap().iter().all(|entry| entry.kind == EntryKind::Other));
    assert_eq!(std::fs::read(outside.path().join("log")).unwrap(), b"secret");
}

/// proves: S12
#[test]
fn files_and_directories_are_private() {
    let (root, directory) = root();
    directory.make_directory("a/b").unwrap();
    directory.create("a/b/c", 10).unwrap();
    let _lock = directory.lock("lock").unwrap();
    let mode = |path: &str| std::fs::metadata(root.path().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!([mode("a"), mode("a/b"), mode("a/b/c"), mode("lock")], [0o700, 0o700, 0o600, 0o600]);
}

#[test]
fn slices_lie_in_one_mapping() {
    let (_root, directory) = root();
    let file = directory.create("log", 1 << 20).unwrap();
    write_all_at(&*file, 0, &[1; 8192]).unwrap();
    let before = file.read(0..10).unwrap();
    file.settle(8192);
    let (first, second) = (file.read(0..100).unwrap(), file.read(4096..5000).unwrap());
    assert_eq!(second.as_ptr() as usize - first.as_ptr() as usize, 4096);
    assert_eq!(before.as_ptr(), first.as_ptr());
    assert_eq!(directory.open("log").unwrap().read(0..1).unwrap().as_ptr(), first.as_ptr());
}

/// proves: I10: readers of settled bytes and a writer behind them do not meet.
#[test]
fn readers_follow_a_writer() {
    const RECORD: u64 = 100;
    const RECORDS: u64 = 4000;
    let (_root, directory) = root();
    let file = directory.create("log", RECORD * RECORDS).unwrap();
    let settled = std::sync::atomic::AtomicU64::new(0);
    let ordering = std::sync::atomic::Ordering::SeqCst;
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let (mut at, mut held) = (0, Vec::new());
                while at < RECORDS {
                    let end = settled.load(ordering);
                    (at..end).for_each(|at| held.push(file.read(at * RECORD..(at + 1) * RECORD).unwrap()));
                    at = end;
                }
                for (at, slice) in held.iter().enumerate() {
                    assert!(slice.iter().all(|byte| *byte == at as u8), "record {at}");
                }
            });
        }
        for at in 0..RECORDS {
            write_all_at(&*file, at * RECORD, &[at as u8; RECORD as usize]).unwrap();
            file.settle((at + 1) * RECORD);
            settled.store(at + 1, ordering);
        }
    });
}

/// Hundreds of queue files are synced at a checkpoint; producers wait for the log alone.
#[test]
fn a_flush_of_the_log_does_not_wait_for_other_folders() {
    let (_root, directory) = root();
    let file = |path| {
        directory.make_directory(parent(path)).unwrap();
        directory.create(path, 4).unwrap()
    };
    let (log, queue) = (file("commitlog/0"), file("consumequeue/0"));
    let (release, released) = crossbeam::channel::bounded::<()>(0);
    let (done, completed) = crossbeam::channel::unbounded();
    let queue_done = done.clone();
    queue.start_sync(Box::new(move |_| {
        released.recv().unwrap_err();
        queue_done.send("queue").unwrap();
    }));
    log.start_sync(Box::new(move |_| done.send("log").unwrap()));
    assert_eq!(completed.recv().unwrap(), "log");
    drop(release);
    assert_eq!(completed.recv().unwrap(), "queue");
}

#[test]
fn a_read_only_directory_changes_nothing() {
    let (root, directory) = root();
    let file = directory.create("log", 4).unwrap();
    write_all_at(&*file, 0, b"kept").unwrap();
    drop(file);
    let reader: Arc<dyn Directory> = Arc::new(RealDirectory::open_read_only(root.path()).unwrap());
    let results = [
        reader.create("x", 1).map(drop),
        reader.make_directory("d"),
        reader.rename("log", "x"),
        reader.link("log", "x"),
        reader.remove("log"),
        reader.lock("lock").map(drop),
        reader.sync(""),
    ];
    for result in results {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
    }
    let file = reader.open("log").unwrap();
    assert!(file.write_at(0, b"lost").is_err());
    assert_eq!(&file.read(0..4).unwrap()[..], b"kept");
    assert_eq!(directory.open("log").unwrap().write_at(0, b"kept").unwrap(), 4, "a writer has its own value");
    assert!(RealDirectory::open_read_only(root.path().join("missing")).is_err());
}

/// proves: I19
#[test]
fn another_process_is_kept_out_until_this_one_dies() {
    if let Some(path) = std::env::var_os(LOCK_HERE) {
        let directory = RealDirectory::open(path).unwrap();
        let _lock = directory.lock("lock").unwrap();
        println!("\nlocked");
        drop(io::stdin().read(&mut [0]));
        return;
    }
    let (root, directory) = root();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "--nocapture",
            "disk::real::tests::another_process_is_kept_out_until_this_one_dies",
        ])
        .env(LOCK_HERE, root.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line == "locked"), "the child takes the lock");
    assert_eq!(directory.lock("lock").unwrap_err().kind(), ErrorKind::WouldBlock);
    child.kill().unwrap();
    child.wait().unwrap();
    let _lock = directory.lock("lock").unwrap();

    // The kind of lock that RocketMQ takes, which is what excludes it.
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::fs::MetadataExt;
        let inode = std::fs::metadata(root.path().join("lock")).unwrap().ino();
        let locks = std::fs::read_to_string("/proc/locks").unwrap();
        let ours =
            locks.lines().find(|line| line.contains(&format!(":{inode} "))).expect("the lock is listed");
        assert!(ours.contains("POSIX") && ours.contains("WRITE"), "{ours}");
    }
}

/// What the system dropped from its memory is cold until a started read has brought it back.
#[cfg(target_os = "linux")]
#[test]
fn what_left_the_memory_is_cold_until_it_was_read() {
    const TMPFS: i64 = 0x0102_1994;
    let (root, directory) = root();
    let (len, path) = (1 << 20, root.path().join("log"));
    let file = directory.create("log", len).unwrap();
    write_all_at(&*file, 0, &vec![7; len as usize]).unwrap();
    file.sync().unwrap();
    let fd = rustix::fs::open(path, OFlags::RDONLY, Mode::empty()).unwrap();
    if rustix::fs::fstatfs(&fd).unwrap().f_type == TMPFS {
        println!("SKIPPED (the files of a tmpfs are nowhere else than in memory)");
        return;
    }
    assert!(!file.is_cold(0..len), "it was just written");
    rustix::fs::fadvise(&fd, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    assert!(file.is_cold(0..len));
    let (done, completed) = crossbeam::channel::bounded(1);
    file.start_read(0..len, Box::new(move |result| done.send(result).unwrap()));
    completed.recv_timeout(std::time::Duration::from_secs(30)).unwrap().unwrap();
    assert!(!file.is_cold(0..len));
}
