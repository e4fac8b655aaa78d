//! The threads on which started reads run: a few, so that one place which the device takes long to read
//! does not hold up all others. With the feature `io-uring` they run without, where the system grants it.

#![allow(clippy::disallowed_methods, reason = "this is the disk seam")]

use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

use crossbeam::channel::{Receiver, Sender, unbounded};
use rustix::io::{Errno, ReadWriteFlags};

use crate::disk::OnRead;

const THREADS: usize = 4;
/// Bytes read at once.
pub(super) const PART: u64 = 64 * 1024;
/// The smallest page of any system we know.
const PAGE: u64 = 4096;

/// Runs the reads of a directory's files. The threads begin with the first read, and end once every
/// file that could start another is gone.
#[derive(Debug, Default)]
pub(super) struct ReadThreads {
    #[cfg(all(feature = "io-uring", target_os = "linux"))]
    ring: OnceLock<Option<super::ring::Ring>>,
    jobs: OnceLock<Option<Sender<Job>>>,
}

struct Job {
    fd: Arc<OwnedFd>,
    range: Range<u64>,
    done: OnRead,
}

impl ReadThreads {
    /// Queues a read; `done` is called on a thread, or here when there is none.
    pub(super) fn start(&self, fd: Arc<OwnedFd>, range: Range<u64>, done: OnRead) {
        #[cfg(all(feature = "io-uring", target_os = "linux"))]
        if let Some(ring) = self.ring.get_or_init(|| super::ring::Ring::new().ok()) {
            return ring.start(fd, range, done);
        }
        let job = Job { fd, range, done };
        match self.jobs.get_or_init(start_threads) {
            // Sending fails when every `done` of earlier ones panicked and took a thread with it.
            Some(jobs) => {
                if let Err(unsent) = jobs.send(job) {
                    unsent.0.run();
                }
            }
            None => job.run(),
        }
    }
}

impl Job {
    fn run(self) {
        (self.done)(fetch(&self.fd, self.range));
    }
}

/// `None` when the system refused the first thread.
fn start_threads() -> Option<Sender<Job>> {
    let (sender, jobs) = unbounded();
    let start = |jobs: Receiver<Job>| {
        let thread = std::thread::Builder::new().name("staticfire-read".to_owned());
        thread.spawn(move || jobs.into_iter().for_each(Job::run))
    };
    let started = (0..THREADS).map_while(|_| start(jobs.clone()).ok()).count();
    (started > 0).then_some(sender)
}

/// Reads the range, which puts it into memory that mappings share.
pub(super) fn fetch(fd: &OwnedFd, range: Range<u64>) -> io::Result<()> {
    let mut part = vec![0; range.end.saturating_sub(range.start).min(PART) as usize];
    let mut at = range.start;
    while at < range.end {
        let len = (range.end - at).min(PART) as usize;
        match rustix::io::pread(fd, &mut part[..len], at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => at += count as u64,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Whether some page of the range would have to be read from the device. Where the system does not
/// tell, none.
#[cfg(target_os = "linux")]
pub(super) fn is_cold(fd: &OwnedFd, range: Range<u64>) -> bool {
    let first = range.start / PAGE * PAGE;
    (first..range.end).step_by(PAGE as usize).any(|page| {
        let mut byte = [0];
        let parts = &mut [io::IoSliceMut::new(&mut byte)];
        rustix::io::preadv2(fd, parts, page, ReadWriteFlags::NOWAIT) == Err(Errno::AGAIN)
    })
}

#[cfg(not(target_os = "linux"))]
pub(super) fn is_cold(_fd: &OwnedFd, _range: Range<u64>) -> bool {
    false
}
