//! The seams of time, tasks and randomness for everything above the transport.
//!
//! Brokers, name servers and clients are written against [`Runtime`] alone, so that the simulator
//! can run all of them on one thread, in virtual time, in an order drawn from a seed.

use std::fmt;
use std::future::Future;
use std::ops::{Add, Sub};
use std::pin::Pin;
use std::time::Duration;

/// A boxed future that may move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A point on the monotonic clock: time since the runtime started. Never jumps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Monotonic(Duration);

impl Monotonic {
    /// The point `since_start` after the runtime started.
    #[must_use]
    pub const fn new(since_start: Duration) -> Self {
        Self(since_start)
    }

    /// Time since the runtime started.
    #[must_use]
    pub const fn since_start(self) -> Duration {
        self.0
    }

    /// Time from `earlier` to this point; zero when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Monotonic {
    type Output = Self;

    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(by))
    }
}

impl Sub<Duration> for Monotonic {
    type Output = Self;

    fn sub(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(by))
    }
}

/// Time, tasks and randomness of one host.
pub trait Runtime: fmt::Debug + Send + Sync {
    /// The monotonic clock. Everything that expires or waits uses this one.
    fn now(&self) -> Monotonic;

    /// The wall clock in milliseconds since the Unix epoch. Only stamps what people read.
    fn wall_ms(&self) -> i64;

    /// Runs `task` to its end, or until the runtime stops. A task never blocks a thread.
    fn spawn(&self, task: BoxFuture<'static, ()>);

    /// Completes at `at` or soon after.
    fn sleep_until(&self, at: Monotonic) -> BoxFuture<'static, ()>;

    /// A number nobody can guess on a real runtime; the next draw of the seed on a simulated one.
    fn random(&self) -> u64;

    /// Completes after `time`.
    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        self.sleep_until(self.now() + time)
    }
}
