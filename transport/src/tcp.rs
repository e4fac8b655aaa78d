//! Sockets. Tokio drives them on threads of its own and appears in no signature.
//!
//! Every connection is one task, pinned to one of `threads` single-threaded runtimes; with one
//! thread, the default, everything a service does in a turn happens on `staticfire-net`.
//!
//! ```
//! use std::{sync::Arc, time::Duration};
//! use staticfire_transport::tcp::{Tcp, TcpOptions};
//! use staticfire_transport::{Command, Connection, Service, Transport};
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
//! let tcp = Tcp::start(TcpOptions::default())?;
//! let listener = tcp.listen("127.0.0.1:0".parse()?, Arc::new(Echo))?;
//! let connection = tcp.block_on(tcp.connect(listener.address(), Arc::new(Echo)))?;
//! let answer = tcp.block_on(connection.call(Command::request(1).with_body("hi"), Duration::from_secs(3)))?;
//! assert_eq!(answer.body.to_bytes(), "hi");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![expect(
    clippy::disallowed_methods,
    reason = "this file and its children are the real side of the transport, clock and random seams"
)]

mod accept;
mod gather;
mod socket;
mod threads;

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant, SystemTime};

use crate::end::{End, Parts, Watch};
use crate::limits::Limits;
use crate::{BoxFuture, Connection, ConnectionId, Listener, Monotonic, Runtime, Service, Transport};
use accept::Admission;
use threads::Threads;

/// How sockets are served.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TcpOptions {
    /// Threads that drive connections; at least 1. Default 1.
    pub threads: usize,
    /// What one connection may cost.
    pub limits: Limits,
    /// Accepted connections at a time. More are closed at once. Default 10,000.
    pub connections_max: usize,
    /// Accepted connections at a time from one address. More are closed at once. Default 256.
    pub connections_per_address_max: usize,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self {
            threads: 1,
            limits: Limits::default(),
            connections_max: 10_000,
            connections_per_address_max: 256,
        }
    }
}

/// The transport and runtime of a real host. Cloning shares it; it stops when [`Tcp::stop`] is
/// called or the last clone is dropped. (A task that owns a clone keeps it running.)
#[derive(Clone)]
pub struct Tcp(Arc<Running>);

struct Running {
    shared: Arc<Shared>,
    threads: Threads,
}

/// What connections need of the transport; does not keep the threads running.
struct Shared {
    started: Instant,
    limits: Arc<Limits>,
    admission: Arc<Admission>,
    watch: Arc<Counters>,
    connections: AtomicU64,
}

#[derive(Default)]
struct Counters {
    strays: AtomicU64,
}

impl Watch for Counters {
    fn stray(&self, count: u64) {
        self.strays.fetch_add(count, Ordering::Relaxed);
    }
}

impl Tcp {
    /// Starts the threads.
    ///
    /// # Errors
    /// The system refuses a thread or an event queue.
    pub fn start(options: TcpOptions) -> io::Result<Self> {
        let shared = Shared {
            started: Instant::now(),
            limits: Arc::new(options.limits),
            admission: Admission::new(options.connections_max, options.connections_per_address_max),
            watch: Arc::default(),
            connections: AtomicU64::new(0),
        };
        let threads = Threads::start(options.threads.max(1))?;
        Ok(Self(Arc::new(Running { shared: Arc::new(shared), threads })))
    }

    /// Runs `future` on the calling thread, which waits for it. Sockets go on being served by
    /// their own threads; so this must not be called on one of those, by a service or a task.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut cx = Context::from_waker(&waker);
        let mut future = pin!(future);
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
                return output;
            }
            thread::park();
        }
    }

    /// Closes everything and ends the threads; tasks are dropped where they stand. Called on one
    /// of the threads themselves, it does not wait for them.
    pub fn stop(&self) {
        self.0.threads.stop();
    }

    /// Answers that arrived too late or without a question, and were dropped.
    #[must_use]
    pub fn stray_answers(&self) -> u64 {
        self.0.shared.watch.strays.load(Ordering::Relaxed)
    }

    /// Accepted connections that are open.
    #[must_use]
    pub fn accepted_connections(&self) -> usize {
        self.0.shared.admission.open()
    }

    fn clock(&self) -> Clock {
        Clock { started: self.0.shared.started, threads: self.0.threads.clone() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.threads.stop();
    }
}

impl fmt::Debug for Tcp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tcp")
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl Runtime for Tcp {
    fn now(&self) -> Monotonic {
        Monotonic::new(self.0.shared.started.elapsed())
    }

    fn wall_ms(&self) -> i64 {
        self.clock().wall_ms()
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.clock().spawn(task);
    }

    fn sleep_until(&self, at: Monotonic) -> BoxFuture<'static, ()> {
        self.clock().sleep_until(at)
    }

    fn random(&self) -> u64 {
        self.clock().random()
    }
}

impl Transport for Tcp {
    fn listen(&self, at: SocketAddr, service: Arc<dyn Service>) -> io::Result<Listener> {
        accept::listen(at, service, &self.0.shared, &self.0.threads)
    }

    fn connect(
        &self,
        to: SocketAddr,
        service: Arc<dyn Service>,
    ) -> BoxFuture<'static, io::Result<Connection>> {
        socket::connect(to, service, Arc::clone(&self.0.shared), &self.0.threads)
    }

    fn lookup(&self, name: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        socket::lookup(name, &self.0.threads)
    }
}

/// The runtime as connections see it: like [`Tcp`], but keeps nothing alive.
#[derive(Clone)]
struct Clock {
    started: Instant,
    threads: Threads,
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

impl Runtime for Clock {
    fn now(&self) -> Monotonic {
        Monotonic::new(self.started.elapsed())
    }

    fn wall_ms(&self) -> i64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.threads.first().spawn(task);
    }

    fn sleep_until(&self, at: Monotonic) -> BoxFuture<'static, ()> {
        // Far beyond what the clock can express is never, and a century will do for that.
        let never = Duration::from_secs(100 * 365 * 86_400);
        let at = self.started + at.since_start().min(never);
        let _entered = self.threads.first().enter();
        let mut sleep = Box::pin(tokio::time::sleep_until(at.into()));
        let threads = self.threads.clone();
        // Time ends with the threads; a timer polled after that would panic.
        Box::pin(poll_fn(move |cx| if threads.stopped() { Poll::Pending } else { sleep.as_mut().poll(cx) }))
    }

    fn random(&self) -> u64 {
        getrandom::u64().expect("the system's random numbers never end")
    }
}

impl Shared {
    fn end(self: &Arc<Self>, local: SocketAddr, peer: SocketAddr, threads: &Threads) -> Arc<End> {
        End::new(Parts {
            id: ConnectionId(self.connections.fetch_add(1, Ordering::Relaxed)),
            local,
            peer,
            limits: Arc::clone(&self.limits),
            runtime: Arc::new(Clock { started: self.started, threads: threads.clone() }),
            watch: Arc::clone(&self.watch) as Arc<_>,
        })
    }
}

#[cfg(test)]
mod contract_tests;
#[cfg(test)]
mod tests;
