//! The threads under the sockets: one single-threaded runtime each.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;

use super::gather::Gather;
use crate::driver::Workspaces;

/// Handles to the threads. Cloning shares them and keeps none running: see [`Threads::stop`].
#[derive(Clone)]
pub(super) struct Threads(Arc<Inner>);

/// One thread, as a connection needs it.
#[derive(Clone)]
pub(super) struct Home {
    pub(super) handle: Handle,
    pub(super) spaces: Arc<Workspaces>,
    pub(super) gather: Arc<Gather>,
}

struct Inner {
    homes: Vec<Home>,
    next: AtomicUsize,
    stop: watch::Sender<bool>,
    joins: Mutex<Vec<JoinHandle<()>>>,
}

impl Threads {
    pub(super) fn start(count: usize) -> io::Result<Self> {
        let (stop, _) = watch::channel(false);
        let (mut homes, mut joins) = (Vec::new(), Vec::new());
        for at in 0..count {
            let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
            let gather = Arc::<Gather>::default();
            runtime.spawn(gather.passer());
            homes.push(Home { handle: runtime.handle().clone(), spaces: Arc::default(), gather });
            let mut stopped = stop.subscribe();
            let name = if at == 0 { "staticfire-net".to_owned() } else { format!("staticfire-net{at}") };
            joins.push(thread::Builder::new().name(name).spawn(move || {
                // An error means that the sender is gone, which is a stop as well.
                let _ = runtime.block_on(stopped.wait_for(|stop| *stop));
            })?);
        }
        Ok(Self(Arc::new(Inner { homes, next: AtomicUsize::new(0), stop, joins: Mutex::new(joins) })))
    }

    /// The runtime of listeners, timers and spawned tasks.
    pub(super) fn first(&self) -> &Handle {
        &self.0.homes[0].handle
    }

    /// Where the next connection lives.
    pub(super) fn next(&self) -> &Home {
        let at = self.0.next.fetch_add(1, Ordering::Relaxed) % self.0.homes.len();
        &self.0.homes[at]
    }

    pub(super) fn stopped(&self) -> bool {
        *self.0.stop.borrow()
    }

    /// Ends the threads and waits for them, unless this is one of them.
    pub(super) fn stop(&self) {
        self.0.stop.send_replace(true);
        let joins = std::mem::take(&mut *self.0.joins.lock().unwrap_or_else(PoisonError::into_inner));
        for join in joins {
            if join.thread().id() != thread::current().id() {
                // A panic of the thread was reported when it happened.
                let _ = join.join();
            }
        }
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Threads({})", self.0.homes.len())
    }
}
