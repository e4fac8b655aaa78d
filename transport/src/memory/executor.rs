//! Tasks and the order in which they run.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

use crate::BoxFuture;

/// A task's number, never used again.
pub(super) type TaskId = u64;

pub(super) struct Task {
    pub(super) host: IpAddr,
    pub(super) incarnation: u64,
    /// `None` while it runs.
    pub(super) future: Option<BoxFuture<'static, ()>>,
    pub(super) wake: Arc<TaskWake>,
}

/// Woken tasks that have not run yet.
#[derive(Default)]
pub(super) struct Ready(Mutex<Vec<TaskId>>);

impl Ready {
    pub(super) fn lock(&self) -> MutexGuard<'_, Vec<TaskId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct TaskWake {
    id: TaskId,
    /// Is in `ready` already, or waits for its host to go on.
    queued: AtomicBool,
    ready: Arc<Ready>,
}

impl TaskWake {
    pub(super) fn new(id: TaskId, ready: &Arc<Ready>) -> Arc<Self> {
        Arc::new(Self { id, queued: AtomicBool::new(false), ready: Arc::clone(ready) })
    }

    /// Must be called before the task runs, so that a wake while it runs counts.
    pub(super) fn starts(self: &Arc<Self>) -> Waker {
        self.queued.store(false, Ordering::Relaxed);
        Waker::from(Arc::clone(self))
    }
}

impl Wake for TaskWake {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            self.ready.lock().push(self.id);
        }
    }
}
