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
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

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

/// Syncs of one file, one at a time.
///
/// The system reports a failed one once, to whoever asked first, and to the next that all is well, though
/// the bytes are on no disk. So until the one who asked has heard of it, others are told of it too.
#[derive(Debug, Default)]
pub(super) struct SyncOrder {
    /// Failed syncs whose `done` has not returned.
    unheard: Mutex<usize>,
}

struct Job {
    fd: Arc<OwnedFd>,
    scope: Scope,
    order: Arc<SyncOrder>,
    done: OnSynced,
}

impl SyncOrder {
    /// Makes `fd` durable before returning.
    pub(super) fn sync(&self, fd: &OwnedFd, scope: Scope) -> io::Result<()> {
        let unheard = self.unheard();
        if *unheard > 0 {
            return Err(io::Error::other("an earlier sync of this file has just failed"));
        }
        sync(fd, scope)
    }

    /// Makes `fd` durable, and tells `done`.
    fn sync_and_tell(&self, fd: &OwnedFd, scope: Scope, done: OnSynced) {
        let mut unheard = self.unheard();
        let result = sync(fd, scope);
        let failed = usize::from(result.is_err());
        *unheard += failed;
        drop(unheard);
        done(result);
        *self.unheard() -= failed;
    }

    fn unheard(&self) -> MutexGuard<'_, usize> {
        self.unheard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SyncThread {
    /// Queues a sync of `fd`; `done` is called on the thread, or here when there is none.
    pub(super) fn start(&self, fd: Arc<OwnedFd>, scope: Scope, order: Arc<SyncOrder>, done: OnSynced) {
        let job = Job { fd, scope, order, done };
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
        self.order.sync_and_tell(&self.fd, self.scope, self.done);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// proves: I8: a failure that the system reports once reaches everybody who counts on the file
    #[test]
    fn nobody_counts_on_a_file_until_its_failed_sync_was_heard_of() {
        // A pipe cannot be synced.
        let (pipe, _writer) = io::pipe().unwrap();
        let file: OwnedFd = tempfile::tempfile().unwrap().into();
        let (order, (telling, told), (go_on, wait)) =
            (Arc::default(), mpsc::channel(), mpsc::channel::<()>());
        let heard: OnSynced = Box::new(move |result| {
            telling.send(result.is_err()).unwrap();
            wait.recv().unwrap();
        });
        let syncs = SyncThread::default();
        syncs.start(Arc::new(pipe.into()), Scope::Bytes, Arc::clone(&order), heard);
        assert!(told.recv().unwrap());
        assert!(order.sync(&file, Scope::Bytes).is_err());
        go_on.send(()).unwrap();
        let (telling, told) = mpsc::channel();
        syncs.start(
            Arc::new(file.try_clone().unwrap()),
            Scope::Bytes,
            Arc::clone(&order),
            Box::new(move |result| telling.send(result.is_ok()).unwrap()),
        );
        assert!(told.recv().unwrap(), "who asks after that asks anew");
        order.sync(&file, Scope::Bytes).unwrap();
    }
}
