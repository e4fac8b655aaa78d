//! Which processors run what.
//!
//! A message that travels alone costs two wake-ups, and what these cost depends on where the scheduler
//! puts the two processes: on one processor a few µs, on two processors that went to sleep in between ten
//! times as much. It decides anew every few milliseconds, so whoever compares servers decides for it.

#![allow(clippy::disallowed_methods, reason = "the system says in files which threads there are")]

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The processors this process may use, at least one.
///
/// # Panics
/// When the system does not say.
#[must_use]
pub fn allowed() -> Vec<usize> {
    let set = sched_getaffinity(None).expect("a process may ask where it runs");
    (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
}

/// From now on the calling thread runs on one of `cpus`.
///
/// # Panics
/// When they are not among [`allowed`].
pub fn pin_this_thread(cpus: &[usize]) {
    pin(None, cpus);
}

/// From now on all threads of the process `id` run on one of `cpus`, as do those they start.
///
/// # Panics
/// As [`pin_this_thread`].
pub fn pin_process(id: u32, cpus: &[usize]) {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{id}/task")) else { return };
    let ids = threads.filter_map(|thread| thread.ok()?.file_name().to_str()?.parse().ok());
    ids.for_each(|id| pin(Pid::from_raw(id), cpus));
}

fn pin(thread: Option<Pid>, cpus: &[usize]) {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|cpu| set.set(*cpu));
    // A thread that ended meanwhile runs nowhere.
    match sched_setaffinity(thread, &set) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => panic!("processors {cpus:?}: {error}"),
    }
}
