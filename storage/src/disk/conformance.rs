//! What every [`Directory`] must do, as checks that anybody's implementation can run.
//!
//! ```
//! use staticfire_storage::disk::{SimulatedDisk, conformance};
//!
//! conformance::run(|| {
//!     let disk = SimulatedDisk::new(7);
//!     let pumped = disk.clone();
//!     conformance::Subject::new(disk.directory()).pumped_by(move || _ = pumped.complete_all())
//! });
//! ```
//! The checks allow short writes and interruptions, since any disk may have them.

#![allow(clippy::unwrap_used, reason = "a check fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a real disk completes on a thread of its own")]

use std::fmt;
use std::io::{ErrorKind, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crossbeam::channel;

use super::{Directory, EntryKind, SegmentFile, parent, write_all_at};

/// Longest wait for a started sync.
const PATIENCE: Duration = Duration::from_secs(30);

/// An empty directory to check, and what makes its started syncs complete.
pub struct Subject {
    directory: Arc<dyn Directory>,
    pump: Box<dyn Fn()>,
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl Subject {
    /// A directory whose started syncs complete by themselves.
    #[must_use]
    pub fn new(directory: Arc<dyn Directory>) -> Self {
        Self { directory, pump: Box::new(|| ()) }
    }

    /// Calls `pump` whenever a check waits for a started sync.
    #[must_use]
    pub fn pumped_by(mut self, pump: impl Fn() + 'static) -> Self {
        self.pump = Box::new(pump);
        self
    }

    fn file(&self, path: &str, bytes: &[u8]) -> Arc<dyn SegmentFile> {
        let file = self.directory.create(path, bytes.len() as u64).unwrap();
        write_all_at(&*file, 0, bytes).unwrap();
        file
    }

    fn names(&self, path: &str) -> Vec<String> {
        self.directory.list(path).unwrap().into_iter().map(|entry| entry.name).collect()
    }

    /// The whole file, without a lease on it.
    fn bytes(&self, path: &str) -> Vec<u8> {
        let file = self.directory.open(path).unwrap();
        let mut bytes = vec![0; file.len() as usize];
        file.read_into(0, &mut bytes).unwrap();
        bytes
    }
}

/// A named check.
pub type Check = (&'static str, fn(&Subject));

/// All checks. Each wants a fresh, empty directory and panics when it fails.
pub const CHECKS: &[Check] = &[
    ("a created file holds zeros", created_files_hold_zeros),
    ("creating over an existing name is refused", creating_twice_is_refused),
    ("missing things are not found", missing_things_are_not_found),
    ("a path that leaves the root is refused", paths_stay_below_the_root),
    ("a directory does not open as a file", directories_are_not_files),
    ("entries are listed sorted, with kind and length", lists_are_sorted),
    ("making a directory makes its parents, twice is fine", directories_are_made_with_parents),
    ("a rename replaces a file", renames_replace),
    ("a rename between directories moves", renames_move),
    ("renaming one name of a file to another does nothing", renaming_to_itself_keeps_both),
    ("a link is a second name of the same bytes", links_share_bytes),
    ("a directory with entries is not removed", full_directories_stay),
    ("what is written is read back, by every handle", writes_are_coherent),
    ("a vectored write is the concatenation", vectored_writes_concatenate),
    ("ranges past the end are refused", ranges_past_the_end_are_refused),
    ("a slice outlives its file and its name", slices_outlive_the_file),
    ("bytes handed out never change", slices_never_change),
    ("settled bytes may be held for ever, and stay", settled_bytes_stay),
    ("a file grows behind its readers", appending_behind_readers),
    ("zeroing leaves zeros, and the rest alone", zeroing_leaves_zeros),
    ("no data is passed over", data_is_found),
    ("no data lies in a hole", holes_hold_nothing),
    ("a write changes the time of its file alone", writes_change_the_time),
    ("allocated space reads as zeros and is written", allocation_keeps_the_bytes),
    ("started syncs complete once", started_syncs_complete),
    ("started reads complete once", started_reads_complete),
    ("syncing what is missing fails", syncing_nothing_fails),
    ("a lock excludes until it is dropped", locks_exclude),
    ("space is known", space_is_known),
];

/// Runs all checks, each on a directory of its own.
///
/// # Panics
/// When a check fails; its name is printed before.
pub fn run(make: impl Fn() -> Subject) {
    for (name, check) in CHECKS {
        let subject = make();
        let _on_panic = Announce(name);
        check(&subject);
    }
}

/// Says which check failed.
struct Announce(&'static str);

impl Drop for Announce {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("disk conformance: this does not hold: {}", self.0);
        }
    }
}

fn kind<T>(result: std::io::Result<T>) -> ErrorKind {
    result.err().expect("an error is expected here").kind()
}

fn created_files_hold_zeros(subject: &Subject) {
    let file = subject.directory.create("log", 1 << 30).unwrap();
    assert_eq!(file.len(), 1 << 30);
    assert!(!file.is_empty());
    for at in [0, 12345, (1 << 30) - 100] {
        assert!(file.read(at..at + 100).unwrap().iter().all(|byte| *byte == 0));
    }
    assert!(subject.directory.create("empty", 0).unwrap().is_empty());
    assert_eq!(subject.directory.open("empty").unwrap().read(0..0).unwrap(), Bytes::new());
}

fn creating_twice_is_refused(subject: &Subject) {
    subject.file("a", b"first");
    subject.directory.make_directory("d").unwrap();
    assert_eq!(kind(subject.directory.create("a", 1)), ErrorKind::AlreadyExists);
    assert_eq!(kind(subject.directory.create("d", 1)), ErrorKind::AlreadyExists);
    assert_eq!(kind(subject.directory.link("a", "d")), ErrorKind::AlreadyExists);
    assert_eq!(subject.bytes("a"), b"first");
}

fn missing_things_are_not_found(subject: &Subject) {
    let directory = &subject.directory;
    assert_eq!(kind(directory.open("a")), ErrorKind::NotFound);
    assert_eq!(kind(directory.list("d")), ErrorKind::NotFound);
    assert_eq!(kind(directory.remove("a")), ErrorKind::NotFound);
    assert_eq!(kind(directory.rename("a", "b")), ErrorKind::NotFound);
    assert_eq!(kind(directory.link("a", "b")), ErrorKind::NotFound);
    assert_eq!(kind(directory.create("d/a", 1)), ErrorKind::NotFound);
}

fn paths_stay_below_the_root(subject: &Subject) {
    for path in ["/a", "../a", "a/../b", "./a", "a//b", "a/", "..", "a\0b"] {
        assert_eq!(kind(subject.directory.create(path, 1)), ErrorKind::InvalidInput, "{path:?}");
        assert_eq!(kind(subject.directory.open(path)), ErrorKind::InvalidInput, "{path:?}");
        assert_eq!(kind(subject.directory.make_directory(path)), ErrorKind::InvalidInput, "{path:?}");
        assert_eq!(kind(subject.directory.list(path)), ErrorKind::InvalidInput, "{path:?}");
    }
    assert_eq!(subject.names(""), [""; 0]);
}

fn directories_are_not_files(subject: &Subject) {
    subject.directory.make_directory("d").unwrap();
    subject.file("f", b"x");
    assert_eq!(kind(subject.directory.open("d")), ErrorKind::InvalidInput);
    assert_eq!(kind(subject.directory.list("f")), ErrorKind::NotADirectory);
    assert_eq!(kind(subject.directory.open("f/g")), ErrorKind::NotADirectory);
    assert_eq!(kind(subject.directory.make_directory("f")), ErrorKind::NotADirectory);
}

fn lists_are_sorted(subject: &Subject) {
    subject.file("b", b"four");
    subject.directory.make_directory("c").unwrap();
    subject.file("a", b"");
    subject.file("c/inner", b"x");
    let entries = subject.directory.list("").unwrap();
    let view: Vec<_> = entries.iter().map(|entry| (&*entry.name, entry.kind, entry.len)).collect();
    let expected = [("a", EntryKind::File, 0), ("b", EntryKind::File, 4), ("c", EntryKind::Directory, 0)];
    assert_eq!(view, expected);
    assert_eq!(subject.names("c"), ["inner"]);
}

fn directories_are_made_with_parents(subject: &Subject) {
    for _ in 0..2 {
        subject.directory.make_directory("consumequeue/orders/0").unwrap();
    }
    assert_eq!(subject.names("consumequeue/orders"), ["0"]);
    assert_eq!(parent("consumequeue/orders/0"), "consumequeue/orders");
    assert_eq!(parent("consumequeue"), "");
}

fn renames_replace(subject: &Subject) {
    let old = subject.file("a", b"old");
    subject.file("new", b"new");
    subject.directory.rename("new", "a").unwrap();
    assert_eq!(subject.names(""), ["a"]);
    assert_eq!(subject.bytes("a"), b"new");
    assert_eq!(&old.read(0..3).unwrap()[..], b"old", "an open file stays what it was");
    subject.directory.make_directory("d").unwrap();
    assert_eq!(kind(subject.directory.rename("a", "d")), ErrorKind::IsADirectory);
}

fn renames_move(subject: &Subject) {
    subject.directory.make_directory("d/e").unwrap();
    subject.file("d/e/f", b"x");
    subject.directory.rename("d/e/f", "f").unwrap();
    subject.directory.rename("d/e", "e").unwrap();
    assert_eq!(subject.names(""), ["d", "e", "f"]);
    assert_eq!(subject.names("d"), [""; 0]);
    assert_eq!(subject.bytes("f"), b"x");
}

fn renaming_to_itself_keeps_both(subject: &Subject) {
    subject.file("a", b"x");
    subject.directory.link("a", "b").unwrap();
    subject.directory.rename("a", "b").unwrap();
    assert_eq!(subject.names(""), ["a", "b"]);
}

fn links_share_bytes(subject: &Subject) {
    let file = subject.file("a", b"one");
    subject.directory.link("a", "b").unwrap();
    write_all_at(&*file, 0, b"two").unwrap();
    assert_eq!(subject.bytes("b"), b"two");
    subject.directory.remove("a").unwrap();
    assert_eq!(subject.names(""), ["b"]);
    assert_eq!(subject.bytes("b"), b"two");
}

fn full_directories_stay(subject: &Subject) {
    subject.directory.make_directory("d").unwrap();
    subject.file("d/f", b"x");
    assert_eq!(kind(subject.directory.remove("d")), ErrorKind::DirectoryNotEmpty);
    subject.directory.remove("d/f").unwrap();
    subject.directory.remove("d").unwrap();
    assert_eq!(subject.names(""), [""; 0]);
}

fn writes_are_coherent(subject: &Subject) {
    let (writer, len) = (subject.directory.create("log", 10_000).unwrap(), 9_000);
    let reader = subject.directory.open("log").unwrap();
    let bytes: Vec<u8> = (0..len).map(|i: usize| (i * 7 + i / 256) as u8).collect();
    let mut written = 0;
    for size in [1, 511, 513, 3000, 4096, 879] {
        write_all_at(&*writer, 100 + written as u64, &bytes[written..written + size]).unwrap();
        written += size;
        let seen = reader.read(100..100 + written as u64).unwrap();
        assert_eq!(&seen[..], &bytes[..written]);
    }
    let mut copy = vec![0; len];
    reader.read_into(100, &mut copy).unwrap();
    assert_eq!(copy, bytes);
    assert!(writer.modified_ms().is_ok());
}

fn vectored_writes_concatenate(subject: &Subject) {
    let file = subject.directory.create("log", 4096).unwrap();
    let parts = [b"ab".as_slice(), b"", b"cdefgh", b"i"];
    let whole = parts.concat();
    let written = loop {
        match file.write_vectored_at(1000, &parts.map(IoSlice::new)) {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            other => break other.unwrap(),
        }
    };
    assert!((1..=whole.len()).contains(&written));
    assert_eq!(&file.read(1000..1000 + written as u64).unwrap()[..], &whole[..written]);
    // More parts than a system call takes.
    let written = file.write_vectored_at(0, &vec![IoSlice::new(b"x"); 3000]);
    assert!(
        written.as_ref().is_ok_and(|n| (1..=3000).contains(n)) || kind(written) == ErrorKind::Interrupted
    );
}

fn ranges_past_the_end_are_refused(subject: &Subject) {
    let file = subject.file("log", &[7; 100]);
    for (from, to) in [(0, 101), (100, 101), (101, 101), (u64::MAX - 1, u64::MAX)] {
        assert_eq!(kind(file.read(from..to)), ErrorKind::UnexpectedEof, "{from}..{to}");
    }
    assert_eq!(kind(file.read_into(50, &mut [0; 51])), ErrorKind::UnexpectedEof);
    assert_eq!(kind(file.write_at(50, &[0; 51])), ErrorKind::InvalidInput);
    assert_eq!(kind(file.write_at(u64::MAX, &[0; 2])), ErrorKind::InvalidInput);
    assert_eq!(kind(file.write_vectored_at(99, &[IoSlice::new(&[0; 2])])), ErrorKind::InvalidInput);
    assert_eq!(kind(file.allocate(0..101)), ErrorKind::InvalidInput);
    assert_eq!(file.read(100..100).unwrap(), Bytes::new());
    assert_eq!(&file.read(0..100).unwrap()[..], &[7; 100]);
}

fn slices_outlive_the_file(subject: &Subject) {
    let file = subject.file("log", b"still here");
    let slice = file.read(6..10).unwrap();
    drop(file);
    subject.directory.remove("log").unwrap();
    assert_eq!(kind(subject.directory.open("log")), ErrorKind::NotFound);
    assert_eq!(&slice[..], b"here");
    subject.file("log", b"new  bytes");
    assert_eq!(&slice[..], b"here");
}

fn slices_never_change(subject: &Subject) {
    let file = subject.file("log", &[1; 8192]);
    let same = subject.directory.open("log").unwrap();
    let slice = file.read(1000..2000).unwrap();
    for writer in [&file, &same] {
        assert_eq!(kind(writer.write_at(1999, &[2])), ErrorKind::ResourceBusy);
        assert_eq!(kind(writer.write_vectored_at(0, &[IoSlice::new(&[2])])), ErrorKind::ResourceBusy);
    }
    write_all_at(&*file, 2000, &[2; 6192]).unwrap();
    let part = slice.slice(10..20);
    drop(slice);
    assert_eq!(kind(file.write_at(0, &[2])), ErrorKind::ResourceBusy, "a part of it is left");
    drop(part);
    write_all_at(&*same, 0, &[2; 2000]).unwrap();
    assert_eq!(&file.read(0..8192).unwrap()[..], &[2; 8192]);
}

fn settled_bytes_stay(subject: &Subject) {
    let file = subject.file("log", &[1; 8192]);
    file.settle(4000);
    let held = file.read(3000..4000).unwrap();
    // Looking further is for the moment only, and what is settled is in nobody's way.
    drop(file.read(0..8192).unwrap());
    write_all_at(&*file, 4000, &[2; 4192]).unwrap();
    assert_eq!(kind(file.write_at(3999, &[2; 10])), ErrorKind::ResourceBusy);
    write_all_at(&*file, 3999, &[1, 2, 2]).unwrap();
    drop(file);
    let again = subject.directory.open("log").unwrap();
    assert_eq!(kind(again.write_at(0, &[2])), ErrorKind::ResourceBusy, "a slice is left");
    write_all_at(&*again, 4000, &[3; 10]).unwrap();
    again.settle(0);
    again.settle(u64::MAX);
    assert_eq!(kind(again.zero(8191..8192)), ErrorKind::ResourceBusy);
    assert_eq!(held, vec![1; 1000]);
}

fn data_is_found(subject: &Subject) {
    let file = subject.directory.create("sparse", 1 << 20).unwrap();
    for at in [700_000, 5, 300_000] {
        write_all_at(&*file, at, b"data").unwrap();
        for from in [0, 5, 6, 9, 4096, 299_999, 300_003, 300_004, 700_000] {
            let mut rest = vec![0; (1 << 20) - from as usize];
            file.read_into(from, &mut rest).unwrap();
            let first = rest.iter().position(|byte| *byte != 0).map(|found| from + found as u64);
            let found = file.next_data(from).unwrap();
            assert!(found.is_none_or(|found| found >= from), "{found:?} lies before {from}");
            assert!(
                first.is_none_or(|first| found.is_some_and(|found| found <= first)),
                "{found:?}, {first:?}"
            );
        }
    }
    assert_eq!(file.next_data(1 << 20).unwrap(), None);
}

fn holes_hold_nothing(subject: &Subject) {
    let file = subject.directory.create("sparse", 1 << 20).unwrap();
    for at in [700_000, 5, 300_000] {
        write_all_at(&*file, at, b"data").unwrap();
        for from in [0, 5, 8, 4096, 299_999, 300_003, 300_004, 700_000] {
            let hole = file.next_hole(from).unwrap();
            assert!((from..=1 << 20).contains(&hole), "{hole} from {from}");
            // From the hole on there are zeros up to the next data, or to the end.
            let data = file.next_data(hole).unwrap().unwrap_or(1 << 20);
            let mut zeros = vec![1; (data - hole) as usize];
            file.read_into(hole, &mut zeros).unwrap();
            assert!(zeros.iter().all(|byte| *byte == 0), "data between {hole} and {data}");
        }
        assert!(file.next_hole(at).unwrap() > at, "data at {at}");
    }
}

fn writes_change_the_time(subject: &Subject) {
    let (old, new) = (subject.file("old", b"x"), subject.file("new", b"x"));
    let before = old.modified_ms().unwrap();
    assert!(before <= new.modified_ms().unwrap(), "written later");
    drop(old.read(0..1).unwrap());
    old.sync().unwrap();
    subject.directory.link("old", "link").unwrap();
    subject.directory.rename("link", "renamed").unwrap();
    assert_eq!(old.modified_ms().unwrap(), before, "reading, syncing and naming are not writing");
    assert_eq!(subject.directory.open("renamed").unwrap().modified_ms().unwrap(), before);
    write_all_at(&*new, 0, b"y").unwrap();
    assert!(new.modified_ms().unwrap() >= before);
}

fn zeroing_leaves_zeros(subject: &Subject) {
    let file = subject.directory.create("log", 1 << 24).unwrap();
    write_all_at(&*file, 0, &[1; 20_000]).unwrap();
    file.zero(1000..1 << 24).unwrap();
    file.zero(7..7).unwrap();
    assert_eq!(kind(file.zero(0..(1 << 24) + 1)), ErrorKind::InvalidInput);
    let bytes = file.read(0..30_000).unwrap();
    assert!(bytes[..1000].iter().all(|byte| *byte == 1) && bytes[1000..].iter().all(|byte| *byte == 0));
    assert_eq!(kind(file.zero(1000..2000)), ErrorKind::ResourceBusy);
}

fn appending_behind_readers(subject: &Subject) {
    let file = subject.directory.create("log", 8192).unwrap();
    let mut held = Vec::new();
    for at in (0..8192).step_by(64) {
        let byte = [at as u8 / 64 + 1];
        let mut end = at;
        while end < at + 64 {
            let left = vec![IoSlice::new(&byte); (at + 64 - end) as usize];
            match file.append_at(end, &left) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                written => end += written.unwrap() as u64,
            }
        }
        held.push(file.read(at..at + 64).unwrap());
    }
    for (index, slice) in held.iter().enumerate() {
        assert_eq!(&slice[..], &[index as u8 % 4 + 1; 64][..], "slice {index}");
    }
    assert_eq!(kind(file.write_at(8191, &[0])), ErrorKind::ResourceBusy, "what was appended is settled");
}

fn allocation_keeps_the_bytes(subject: &Subject) {
    let file = subject.directory.create("log", 1 << 20).unwrap();
    write_all_at(&*file, 5000, b"kept").unwrap();
    file.allocate(0..1 << 20).unwrap();
    file.allocate(10..10).unwrap();
    assert_eq!(&file.read(4999..5005).unwrap()[..], b"\0kept\0");
    assert_eq!(file.len(), 1 << 20);
}

fn started_syncs_complete(subject: &Subject) {
    let (done, completed) = channel::unbounded();
    let file = subject.file("log", b"x");
    for number in 0..4 {
        let done = done.clone();
        file.start_sync(Box::new(move |result| drop(done.send((number, result)))));
    }
    let both = done.clone();
    subject.directory.start_sync("", Box::new(move |result| drop(both.send((4, result)))));
    drop(done);
    let mut seen = Vec::new();
    while seen.len() < 5 {
        (subject.pump)();
        let (number, result) = completed.recv_timeout(PATIENCE).expect("a started sync completes");
        result.unwrap();
        seen.push(number);
    }
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3, 4]);
    assert!(completed.recv_timeout(PATIENCE).is_err(), "each completes once and drops its callback");
    file.sync().unwrap();
    subject.directory.sync("").unwrap();
}

fn started_reads_complete(subject: &Subject) {
    let (done, completed) = channel::unbounded();
    let file = subject.file("log", &[7; 200_000]);
    let ranges = [0..200_000, 100_000..100_001, 5..5, 199_999..200_001];
    for (number, range) in ranges.into_iter().enumerate() {
        let done = done.clone();
        file.start_read(range, Box::new(move |result| drop(done.send((number, result)))));
    }
    drop(done);
    let mut seen: Vec<_> = (0..4)
        .map(|_| {
            (subject.pump)();
            completed.recv_timeout(PATIENCE).expect("a started read completes")
        })
        .collect();
    seen.sort_by_key(|(number, _)| *number);
    let past_the_end = seen.pop().unwrap().1;
    assert_eq!(kind(past_the_end), ErrorKind::UnexpectedEof);
    assert!(seen.into_iter().all(|(_, result)| result.is_ok()));
    assert!(completed.recv_timeout(PATIENCE).is_err(), "each completes once and drops its callback");
    assert!(!file.is_cold(0..200_000), "it was just read");
}

fn syncing_nothing_fails(subject: &Subject) {
    assert_eq!(kind(subject.directory.sync("missing")), ErrorKind::NotFound);
    let (done, completed) = channel::unbounded();
    subject.directory.start_sync("missing", Box::new(move |result| drop(done.send(result))));
    (subject.pump)();
    assert_eq!(kind(completed.recv_timeout(PATIENCE).unwrap()), ErrorKind::NotFound);
}

fn locks_exclude(subject: &Subject) {
    let lock = subject.directory.lock("lock").unwrap();
    assert_eq!(kind(subject.directory.lock("lock")), ErrorKind::WouldBlock);
    assert_eq!(kind(subject.directory.open("lock")), ErrorKind::WouldBlock);
    drop(lock);
    assert_eq!(subject.bytes("lock"), b"lock");
    let again = subject.directory.lock("lock").unwrap();
    assert_eq!(kind(subject.directory.lock("lock")), ErrorKind::WouldBlock);
    drop(again);
}

fn space_is_known(subject: &Subject) {
    let space = subject.directory.space().unwrap();
    assert!(space.free > 0 && space.free <= space.total, "{space:?}");
}
