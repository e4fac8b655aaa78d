//! A network of simulated hosts on one thread, in virtual time, with everything that may differ
//! between two runs drawn from a seed.
//!
//! ```text
//!   Network::seeded(7) ──> host(10.0.0.1)  ──> tasks, listeners, clock: a Runtime and a Transport
//!                     ├──> host(10.0.0.2)
//!                     └──> links: delay, loss, resets, one-way and two-way cuts
//!
//!   run: a ready task, drawn ── none ready ──> time jumps to the next event: a timer, bytes that
//!        ^                                      arrive, an event source
//!        └──────────────────────────────────────────┘
//! ```
//! Bytes pass through the real codec and the same driver as on sockets; only the stream under it
//! is simulated. A stream keeps order and loses nothing: a lost segment comes later, a cut link
//! holds everything back until it heals, a reset takes the rest away. Nothing runs until one of
//! the `run_*` methods or [`Network::block_on`] is called.
//!
//! ```
//! use std::{net::IpAddr, sync::Arc, time::Duration};
//! use staticfire_transport::{Command, Connection, Service, Transport, memory::Network};
//!
//! struct Echo;
//! impl Service for Echo {
//!     fn turn(&self, connection: &Connection, requests: &mut Vec<Command>) {
//!         for request in requests.drain(..) {
//!             let _ = connection.send(request.answer(0).with_body(request.body.clone()));
//!         }
//!     }
//! }
//!
//! let network = Network::seeded(7);
//! let (server, client) = (network.host(IpAddr::from([10, 0, 0, 1])), network.host(IpAddr::from([10, 0, 0, 2])));
//! let listener = server.listen("10.0.0.1:9876".parse()?, Arc::new(Echo))?;
//! let second = Duration::from_secs(1);
//! let connection = network.block_on(client.connect(listener.address(), Arc::new(Echo)), second).expect("in time")?;
//! let answer = network.block_on(connection.call(Command::request(1).with_body("hi"), second), second);
//! assert_eq!(answer.expect("in time")?.body.to_bytes(), "hi");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod executor;
mod hosts;
mod links;
mod log;
mod pipe;
mod random;
mod timers;
mod trace;
mod world;

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use crate::Monotonic;
use crate::limits::Limits;
use world::World;

pub use hosts::{Host, RawStream};
pub use links::Link;
pub use log::{Entry, Event};

/// Something outside the network whose events happen in its time: a simulated disk whose syncs
/// complete, a plan of faults.
pub trait EventSource: Send + Sync {
    /// When the next event is due, if there is one.
    fn next_due(&self) -> Option<Monotonic>;

    /// Lets everything happen that is due at `now`. Afterwards [`Self::next_due`] is later.
    fn run_due(&self, now: Monotonic);
}

/// A simulated network. Cloning shares it; it ends with its last clone.
#[derive(Clone)]
pub struct Network(Arc<Owner>);

/// Ends the world with the last handle, although its tasks own handles to it.
struct Owner(Arc<World>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Network {
    /// A network without hosts at time zero. Equal seeds give equal runs.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self::with_limits(seed, Limits::default())
    }

    /// [`Self::seeded`] with other limits for its connections.
    #[must_use]
    pub fn with_limits(seed: u64, limits: Limits) -> Self {
        Self(Arc::new(Owner(World::new(seed, limits))))
    }

    fn world(&self) -> &Arc<World> {
        &self.0.0
    }

    /// The seed.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.world().seed
    }

    /// The host at `ip`: the running one, or a new one if there is none or it went down.
    #[must_use]
    pub fn host(&self, ip: IpAddr) -> Host {
        Host::start(self.world(), ip)
    }

    /// From now on `host` has these addresses, for everybody who looks it up; with none it is unknown.
    pub fn set_name(&self, host: &str, addresses: impl IntoIterator<Item = IpAddr>) {
        self.world().lock().names.insert(host.to_owned(), addresses.into_iter().collect());
    }

    /// Adds events from outside.
    pub fn add_source(&self, source: Arc<dyn EventSource>) {
        self.world().add_source(source);
    }

    /// Virtual time since the start.
    #[must_use]
    pub fn now(&self) -> Monotonic {
        self.world().now()
    }

    /// Runs everything until `at`; time is then `at`.
    pub fn run_until(&self, at: Monotonic) {
        while self.world().step(at) {}
        self.world().advance(at);
    }

    /// Runs everything for `time`.
    pub fn run_for(&self, time: Duration) {
        self.run_until(self.now() + time);
    }

    /// Runs until nothing can happen any more, at most for `limit`. True if nothing can.
    pub fn run_until_idle(&self, limit: Duration) -> bool {
        let end = self.now() + limit;
        while self.world().step(end) {}
        self.world().next_due().is_none()
    }

    /// Runs the network until `future`, which belongs to no host, is ready. `None` if it is not
    /// within `limit`, or if nothing is left that could make it ready.
    pub fn block_on<F: Future>(&self, future: F, limit: Duration) -> Option<F::Output> {
        let end = self.now() + limit;
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        let waker = Waker::from(Arc::clone(&woken));
        let mut future = pin!(future);
        loop {
            if woken.0.swap(false, Ordering::Relaxed) {
                if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                    return Some(output);
                }
            } else if !self.world().step(end) {
                self.world().advance(end);
                return None;
            }
        }
    }

    /// Sets the link between all hosts for which [`Self::set_link`] says nothing else.
    pub fn set_links(&self, link: Link) {
        self.world().lock().links.set_default(link);
    }

    /// Sets how bytes travel from one host to another. The way back is another link.
    pub fn set_link(&self, from: IpAddr, to: IpAddr, link: Link) {
        self.world().lock().links.set(from, to, link);
    }

    /// Nothing gets from one host to the other any more; the way back stays open.
    pub fn cut(&self, from: IpAddr, to: IpAddr) {
        self.world().cut(from, to);
    }

    /// Cuts both ways between every host of `these` and every host of `those`.
    pub fn partition(&self, these: &[IpAddr], those: &[IpAddr]) {
        for this in these {
            for that in those {
                self.cut(*this, *that);
                self.cut(*that, *this);
            }
        }
    }

    /// Undoes [`Self::cut`] for one way. What was held back comes with the next retransmission.
    pub fn join(&self, from: IpAddr, to: IpAddr) {
        self.world().join(from, to);
    }

    /// Undoes all cuts.
    pub fn heal(&self) {
        self.world().heal();
    }

    /// Who dialled whom and every frame since the start or the last [`Self::clear_log`].
    #[must_use]
    pub fn log(&self) -> Vec<Entry> {
        self.world().lock().log.clone()
    }

    /// Forgets the log.
    pub fn clear_log(&self) {
        self.world().lock().log.clear();
    }

    /// Whether the log is kept (default). The trace hash does not depend on it.
    pub fn keep_log(&self, keep: bool) {
        self.world().lock().keep_log = keep;
    }

    /// A hash of everything that happened. Equal for equal seeds, in every process.
    #[must_use]
    pub fn trace(&self) -> u64 {
        self.world().lock().trace.hash()
    }

    /// Folds an event from outside the network into the trace hash.
    pub fn fold(&self, event: &[u8]) {
        self.world().lock().trace.fold_bytes(event);
    }

    /// Task steps so far: the measure of a simulation's size.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.world().lock().steps
    }

    /// Answers that arrived too late or without a question, and were dropped.
    #[must_use]
    pub fn stray_answers(&self) -> u64 {
        self.world().lock().strays
    }

    /// A service that panics ends the run with its panic (default), so that a failed assertion is
    /// not taken for a lost connection; or, as on sockets, only its connection.
    pub fn tolerate_panics(&self, tolerate: bool) {
        self.world().lock().tolerate_panics = tolerate;
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Network(seed {}, {:?})", self.seed(), self.now().since_start())
    }
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod contract_tests;
#[cfg(test)]
mod tests;
