//! Started reads by io_uring (feature `io-uring`, Linux): any number at once, and one thread that hears of
//! their ends.
//!
//! ```text
//! whoever starts a read ───> submission queue ───┐
//!                                                 kernel
//! thread "staticfire-ring" <── completion queue ─┘
//! ```
//! A read goes part by part into a buffer of its own, which nobody looks at: it brings the pages into
//! memory that mappings share. Syncs stay on their threads. The kernel would run each on a thread of its
//! own too, and the ring would only add a wake-up.

#![allow(unsafe_code, reason = "io_uring reads into memory that it is told of; each block carries its proof")]
#![allow(clippy::disallowed_methods, reason = "this is the disk seam")]

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use io_uring::{IoUring, cqueue, opcode, types};

use super::reads::{PART, fetch};
use crate::disk::OnRead;

/// Entries of the submission queue. Each is submitted as soon as it is there, so one would do.
const ENTRIES: u32 = 64;
/// Names the entry that ends the thread.
const STOP: u64 = u64::MAX;

/// A ring and its thread, which ends with it once nothing is under way.
#[derive(Debug)]
pub(super) struct Ring(Arc<Shared>);

struct Shared {
    ring: IoUring,
    reads: Mutex<Reads>,
}

#[derive(Default)]
struct Reads {
    under_way: BTreeMap<u64, Read>,
    next: u64,
    /// Nobody hears of ends any more.
    given_up: bool,
}

/// A read under way. It stays where it is until the kernel has answered for it.
struct Read {
    fd: Arc<OwnedFd>,
    rest: Range<u64>,
    part: Vec<u8>,
    done: OnRead,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} reads under way", self.reads().under_way.len())
    }
}

impl Ring {
    /// # Errors
    /// The system's, where it has no io_uring or grants none.
    pub(super) fn new() -> io::Result<Self> {
        let shared = Arc::new(Shared { ring: IoUring::new(ENTRIES)?, reads: Mutex::default() });
        let thread = std::thread::Builder::new().name("staticfire-ring".to_owned());
        let reaped = Arc::clone(&shared);
        thread.spawn(move || reaped.reap())?;
        Ok(Self(shared))
    }

    /// Starts a read; `done` is called on the thread of the ring.
    pub(super) fn start(&self, fd: Arc<OwnedFd>, range: Range<u64>, done: OnRead) {
        if range.is_empty() {
            return done(Ok(()));
        }
        let part = vec![0; (range.end - range.start).min(PART) as usize];
        let mut reads = self.0.reads();
        if reads.given_up {
            drop(reads);
            return done(fetch(&fd, range));
        }
        let id = reads.next;
        reads.next += 1;
        reads.under_way.insert(id, Read { fd, rest: range, part, done });
        self.0.submit(&mut reads, id);
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let reads = self.0.reads();
        self.0.push(&reads, &opcode::Nop::new().build().user_data(STOP));
    }
}

impl Shared {
    fn reads(&self) -> MutexGuard<'_, Reads> {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for the next part of a read.
    fn submit(&self, reads: &mut Reads, id: u64) {
        let Some(read) = reads.under_way.get_mut(&id) else { return };
        let len = (read.rest.end - read.rest.start).min(PART) as u32;
        let into = read.part.as_mut_ptr();
        let entry = opcode::Read::new(types::Fd(read.fd.as_raw_fd()), into, len).offset(read.rest.start);
        self.push(reads, &entry.build().user_data(id));
    }

    /// Hands an entry to the kernel. Whoever calls holds the lock on the reads.
    fn push(&self, _held: &Reads, entry: &io_uring::squeue::Entry) {
        // SAFETY:
        // - one submission queue at a time: every call is made under the lock on the reads;
        // - the memory of a read: `len` is at most `PART` and at most what its `part` was made for, since
        //   `rest` only shrinks. The vector is never touched again and its read leaves the table only when the
        //   kernel has answered (`ended`), or never (`give_up` forgets it), so the memory stays;
        // - the descriptor: the read owns a share of it for as long.
        let pushed = unsafe { self.ring.submission_shared().push(entry) };
        assert!(pushed.is_ok(), "every entry was submitted before the next one");
        while self.ring.submit().is_err_and(|error| is_passing(&error)) {
            std::thread::yield_now();
        }
    }

    /// Hears of what ended, until the ring is dropped and nothing is under way.
    fn reap(&self) {
        let mut stopping = false;
        while !stopping || !self.reads().under_way.is_empty() {
            match self.ring.submit_and_wait(1) {
                Err(error) if !is_passing(&error) => return self.give_up(&error),
                _ => {}
            }
            // SAFETY: nobody but this thread takes completions, and one queue lives at a time.
            let ended: Vec<cqueue::Entry> = unsafe { self.ring.completion_shared() }.collect();
            for entry in ended {
                match entry.user_data() {
                    STOP => stopping = true,
                    id => self.ended(id, entry.result()),
                }
            }
        }
    }

    /// The kernel has answered for a part: with a number of bytes, or a negative error.
    fn ended(&self, id: u64, result: i32) {
        let mut reads = self.reads();
        let Some(read) = reads.under_way.get_mut(&id) else { return };
        let error = io::Error::from_raw_os_error(result.saturating_neg());
        read.rest.start += u64::try_from(result).unwrap_or(0);
        if result > 0 && read.rest.start < read.rest.end {
            return self.submit(&mut reads, id);
        }
        let Some(Read { fd, rest, done, .. }) = reads.under_way.remove(&id) else { return };
        drop(reads);
        let outcome = match result {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            1.. => Ok(()),
            // A file system that cannot tell the ring when it is ready.
            _ if is_passing(&error) => fetch(&fd, rest),
            _ => Err(error),
        };
        // Others are waiting for this thread.
        drop(std::panic::catch_unwind(AssertUnwindSafe(|| done(outcome))));
    }

    /// The ring is of no use any more. The kernel may yet write to what it was told of.
    fn give_up(&self, error: &io::Error) {
        let mut reads = self.reads();
        reads.given_up = true;
        let under_way = std::mem::take(&mut reads.under_way);
        drop(reads);
        for (_, read) in under_way {
            std::mem::forget(read.part);
            (read.done)(Err(io::Error::new(error.kind(), error.to_string())));
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    let kinds = [io::ErrorKind::Interrupted, io::ErrorKind::WouldBlock, io::ErrorKind::ResourceBusy];
    kinds.contains(&error.kind())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::mpsc;

    use super::*;

    /// Many reads at once, short ones, of several parts, past the end, and the thread's end.
    #[test]
    fn every_started_read_ends_once() {
        let ring = match Ring::new() {
            Ok(ring) => ring,
            Err(error) => return println!("SKIPPED (no io_uring here: {error})"),
        };
        let mut file = tempfile::tempfile().unwrap();
        let len = 5 * PART + 100;
        file.write_all(&vec![7; len as usize]).unwrap();
        let fd = Arc::new(OwnedFd::from(file));
        let (telling, told) = mpsc::channel();
        for n in 0..1000 {
            let from = n * 300 % len;
            let range = if n % 10 == 0 { from..len + 1 } else { from..(from + n * 40).min(len) };
            let telling = telling.clone();
            ring.start(
                Arc::clone(&fd),
                range,
                Box::new(move |result| telling.send((n, result.map_err(|error| error.kind()))).unwrap()),
            );
        }
        let panics: OnRead = Box::new(|_| panic!("whoever listens fails"));
        ring.start(Arc::clone(&fd), 0..1, panics);
        drop((ring, telling));
        let mut ended: Vec<_> = told.iter().collect();
        ended.sort_unstable_by_key(|(n, _)| *n);
        assert_eq!(ended.len(), 1000);
        for (n, (number, result)) in (0..1000).zip(ended) {
            assert_eq!(number, n);
            assert_eq!(result.is_err(), n % 10 == 0, "{n}: {result:?}");
        }
    }
}
