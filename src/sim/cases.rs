//! Runs one property for many seeds.

#![allow(clippy::disallowed_methods, reason = "each seed is a run of its own, and processors are many")]

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
    let test = thread::current().name().unwrap_or("main").to_owned();
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
                eprintln!("case {seed} of {count} failed; again with\n  {}", again(seed, &test));
                resume_unwind(panic);
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let others = 1..threads.min(usize::try_from(count).unwrap_or(1));
        let others: Vec<_> = others
            .map(|_| thread::Builder::new().name(test.clone()).spawn_scoped(scope, work))
            .collect::<Result<_, _>>()
            .expect("this machine has threads");
        work();
        for other in others {
            if let Err(panic) = other.join() {
                resume_unwind(panic);
            }
        }
    });
}

/// The command that runs a test for one seed.
fn again(seed: u64, test: &str) -> String {
    let package = env::var("CARGO_PKG_NAME").map_or_else(|_| String::new(), |name| format!(" -p {name}"));
    match test {
        // So is the thread of an example called.
        "main" => format!("{SEED}={seed} cargo test{package} --doc"),
        _ => format!("{SEED}={seed} cargo test{package} --tests -- --exact {test}"),
    }
}
