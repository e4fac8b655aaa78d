//! Turns the background step into a thread. The only file of the crate that makes one, besides the
//! disk seam.

#![allow(clippy::disallowed_methods, reason = "this file turns steps into threads")]

use std::io;
use std::sync::Weak;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{RecvTimeoutError, Sender, bounded};

use crate::store::Inner;

/// Time between two rounds.
const ROUND: Duration = Duration::from_millis(100);

/// The thread that calls `housekeep` until this is dropped or the store is gone.
pub(crate) struct Housekeeper {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Housekeeper {
    pub(crate) fn start(store: Weak<Inner>) -> io::Result<Self> {
        let (stop, stopped) = bounded::<()>(0);
        let work = move || {
            while stopped.recv_timeout(ROUND) == Err(RecvTimeoutError::Timeout) {
                let Some(store) = store.upgrade() else { return };
                store.housekeep();
            }
        };
        // Without the thread nothing would ever be flushed in `written` mode.
        let thread = std::thread::Builder::new().name("staticfire-store".into()).spawn(work)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Housekeeper {
    fn drop(&mut self) {
        drop(self.stop.take());
        // The last handle of the store may be dropped on this very thread.
        if let Some(thread) = self.thread.take().filter(|it| it.thread().id() != std::thread::current().id())
        {
            drop(thread.join());
        }
    }
}
