//! The threads on which started syncs run: one for each top-level folder that asks, and on it one
//! sync after the other.
//!
//! A checkpoint syncs hundreds of queue files. On one thread the next flush of the commit log, and
//! every producer that waits for it, would stand behind them.

#![allow(clippy::disallowed_methods, reason = "this is the disk seam")]

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
// Its receiver sleeps when there is nothing; crossbeam's spins and yields first, which is wasted on a
// thread that is asked once in a hundred microseconds.
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::disk::OnSynced;

/// The threads of a directory, by the first component of the path. The names come from the layout
/// of a store, so they are few.
#[derive(Debug, Default)]
pub(super) struct SyncThreads(Mutex<BTreeMap<String, Arc<SyncThread>>>);

impl SyncThreads {
    /// The thread for `directory` and the files in it; it is started by its first sync.
    pub(super) fn thread(&self, directory: &str) -> Arc<SyncThread> {
        let folder = directory.split('/').next().unwrap_or_default();
        let mut threads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(threads.entry(folder.to_owned()).or_default())
    }
}

/// Runs syncs in the order in which they were started. The thread begins with the first and ends
/// once every directory and file that could start another is gone.
#[derive(Debug, Default)]
pub(super) struct SyncThread {
    /// `None` when the system refused the thread.
    jobs: OnceLock<Option<Sender<Job>>>,
}

/// How much of a file or directory a sync makes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// The bytes, and of the metadata only what is needed to read them back (such as the length).
    Bytes,
    /// All of it. What a directory needs.
    Everything,
}

struct Job {
    fd: Arc<OwnedFd>,
    scope: Scope,
    done: OnSynced,
}

impl SyncThread {
    /// Queues a sync of `fd`; `done` is called on the thread, or here when there is none.
    pub(super) fn start(&self, fd: Arc<OwnedFd>, scope: Scope, done: OnSynced) {
        let job = Job { fd, scope, done };
        match self.jobs.get_or_init(start_thread) {
            // Sending fails when an earlier `done` panicked and took the thread with it.
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
        (self.done)(sync(&self.fd, self.scope));
    }
}

fn start_thread() -> Option<Sender<Job>> {
    let (sender, jobs) = mpsc::channel();
    let thread = std::thread::Builder::new().name("staticfire-sync".to_owned());
    thread.spawn(move || run(&jobs)).ok().map(|_| sender)
}

fn run(jobs: &Receiver<Job>) {
    for job in jobs {
        job.run();
    }
}

/// Makes `fd` durable before returning.
pub(super) fn sync(fd: &OwnedFd, scope: Scope) -> io::Result<()> {
    let result = rustix::io::retry_on_intr(|| match scope {
        #[cfg(not(target_vendor = "apple"))]
        Scope::Bytes => rustix::fs::fdatasync(fd),
        // Anything less leaves the bytes in the cache of the device.
        #[cfg(target_vendor = "apple")]
        Scope::Bytes => rustix::fs::fcntl_fullfsync(fd),
        Scope::Everything => rustix::fs::fsync(fd),
    });
    Ok(result?)
}
