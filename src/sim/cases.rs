//! Runs one property for many seeds.

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

/// Only this seed, if it is set.
const SEED: &str = "STATICFIRE_SEED";
/// So many times the cases.
const CASES: &str = "STATICFIRE_CASES";

/// Runs `case` for seeds 0, 1, …: `count` of them, times `STATICFIRE_CASES` from the environment, on
/// all processors. With `STATICFIRE_SEED` in the environment, for that seed alone.
///
/// # Panics
/// With the panic of the first case that fails, after saying how to run it alone.
pub fn cases(count: u64, case: impl Fn(u64) + Sync) {
    let number = |name: &str| env::var(name).ok().and_then(|text| text.parse().ok());
    if let Some(seed) = number(SEED) {
        return case(seed);
    }
    let count = count * number(CASES).unwrap_or(1);
    let (next, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= count || failed.load(Ordering::Relaxed) {
                return;
            }
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| case(seed))) {
                failed.store(true, Ordering::Relaxed);
                eprintln!("case {seed} of {count} failed; {SEED}={seed} runs it alone");
                resume_unwind(panic);
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let others: Vec<_> =
            (1..threads.min(usize::try_from(count).unwrap_or(1))).map(|_| scope.spawn(work)).collect();
        work();
        for other in others {
            if let Err(panic) = other.join() {
                resume_unwind(panic);
            }
        }
    });
}
