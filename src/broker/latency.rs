//! How long senders wait for their answer, in buckets as Prometheus has them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use staticfire_transport::{Monotonic, Runtime};

/// The upper bounds of the buckets, in microseconds; one more bucket holds what took longer.
pub(super) const BOUNDS_US: [u64; 15] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000,
];

/// From the turn in which sends came to the answer OK, over all sends since the start.
pub struct Latency {
    runtime: Arc<dyn Runtime>,
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
    /// Sends that were stored and not as safe in time as is promised.
    late: AtomicU64,
}

/// What [`Latency`] has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latencies {
    /// Answers by how long they took: up to each bound and above the one before, and longer.
    pub buckets: [u64; BOUNDS_US.len() + 1],
    /// All times together, in microseconds.
    pub sum_us: u64,
    /// Sends that were answered otherwise than OK because their time was up.
    pub late: u64,
}

impl Latency {
    pub fn new(runtime: Arc<dyn Runtime>) -> Self {
        let buckets = std::array::from_fn(|_| AtomicU64::new(0));
        Self { runtime, buckets, sum_us: AtomicU64::new(0), late: AtomicU64::new(0) }
    }

    /// Sends have come.
    pub fn begin(&self) -> Monotonic {
        self.runtime.now()
    }

    /// So many sends that came at `began` are acknowledged now.
    pub fn acknowledged(&self, began: Monotonic, sends: u64) {
        let took = u64::try_from(self.runtime.now().since(began).as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|bound| *bound < took);
        self.buckets[bucket].fetch_add(sends, Ordering::Relaxed);
        self.sum_us.fetch_add(took.saturating_mul(sends), Ordering::Relaxed);
    }

    /// So many sends were too late.
    pub fn late(&self, sends: u64) {
        self.late.fetch_add(sends, Ordering::Relaxed);
    }

    pub fn counted(&self) -> Latencies {
        Latencies {
            buckets: std::array::from_fn(|index| self.buckets[index].load(Ordering::Relaxed)),
            sum_us: self.sum_us.load(Ordering::Relaxed),
            late: self.late.load(Ordering::Relaxed),
        }
    }
}
