//! Medians, ratios and their goals, and sizes from the environment.

#![expect(clippy::disallowed_methods, reason = "a benchmark measures on the system's clock")]

use std::time::{Duration, Instant};

/// A point in time, for [`seconds_since`].
#[must_use]
pub fn now() -> Instant {
    Instant::now()
}

/// Seconds since `start`.
#[must_use]
pub fn seconds_since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64()
}

/// What some work took.
#[derive(Clone, Copy, Debug)]
pub struct Took {
    /// Seconds on the clock.
    pub seconds: f64,
    /// CPU seconds of the calling thread: all there is of work that waits for nobody, and the same
    /// on a machine that has other things to do.
    pub cpu_seconds: f64,
}

/// Does `work` and says what it took.
pub fn timed(work: impl FnOnce()) -> Took {
    let (start, cpu_start) = (Instant::now(), cpu_seconds());
    work();
    Took { seconds: seconds_since(start), cpu_seconds: cpu_seconds() - cpu_start }
}

#[expect(clippy::cast_precision_loss, reason = "a thread does not run for years")]
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Waits without sleeping, so that a scheduler's timer is not what is measured.
pub fn spin_until(due: Instant) {
    while Instant::now() < due {
        std::hint::spin_loop();
    }
}

/// The size `STATICFIRE_BENCH_<name>`, or `default` when it is absent.
///
/// # Panics
/// When the variable holds no number.
#[must_use]
pub fn setting(name: &str, default: u64) -> u64 {
    let name = format!("STATICFIRE_BENCH_{name}");
    match std::env::var(&name) {
        Err(_) => default,
        Ok(text) => text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")),
    }
}

/// The middle one, or the mean of the two in the middle.
///
/// # Panics
/// When there are none.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    assert!(!values.is_empty(), "the median of nothing");
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}

/// The value that `share` (0 to 1) of all durations do not exceed, in µs.
///
/// # Panics
/// When there are none.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "an index"
)]
pub fn percentile_us(durations: &mut [Duration], share: f64) -> f64 {
    durations.sort_unstable();
    let index = ((durations.len() as f64 * share).ceil() as usize).clamp(1, durations.len()) - 1;
    durations[index].as_secs_f64() * 1e6
}

/// What a ratio should be.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// This much or more.
    AtLeast(f64),
    /// This much or less.
    AtMost(f64),
}

/// Prints the ratios of paired rounds by their median, range and goal.
pub fn report(what: &str, mode: &str, ratios: &[f64], goal: Goal) {
    let middle = median(ratios.to_vec());
    let low = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let high = ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let (met, goal) = match goal {
        Goal::AtLeast(least) => (middle >= least, format!(">= {least}")),
        Goal::AtMost(most) => (middle <= most, format!("<= {most}")),
    };
    let verdict = if met { "met" } else { "MISSED" };
    let rounds = ratios.len();
    println!(
        "{mode:<9} {what:<70} {middle:>6.2}  goal {goal:<6} {verdict:<6} [{low:.2} .. {high:.2}, n={rounds}]"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert!((median(vec![9.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(vec![4.0, 1.0, 2.0, 9.0]) - 3.0).abs() < f64::EPSILON);
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let mut values: Vec<Duration> = (1..=1000).map(Duration::from_micros).collect();
        assert!((percentile_us(&mut values, 0.999) - 999.0).abs() < 1e-6);
        assert!((percentile_us(&mut values, 0.5) - 500.0).abs() < 1e-6);
    }
}
