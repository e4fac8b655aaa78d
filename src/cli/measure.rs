//! How far a run is, and how it went: progress for people who watch, numbers for everybody.

use std::time::Duration;

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

/// The longest latency told apart from longer ones, in µs: an hour.
const LATENCY_MAX: u64 = 3_600_000_000;
const PERCENTILES: [(&str, f64); 4] = [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9)];

/// Latencies, in µs with three significant digits.
pub struct Latencies(Histogram<u64>);

impl Latencies {
    pub fn new() -> Self {
        Self(Histogram::new_with_bounds(1, LATENCY_MAX, 3).expect("the bounds are in order"))
    }

    pub fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(LATENCY_MAX));
    }

    pub fn json(&self) -> Value {
        let mut all = json!({ "max": self.0.max() });
        for (name, percentile) in PERCENTILES {
            all[name] = self.0.value_at_percentile(percentile).into();
        }
        all
    }

    pub fn words(&self) -> String {
        let at = |percentile| ms(self.0.value_at_percentile(percentile));
        let percentiles: Vec<String> =
            PERCENTILES.iter().map(|(name, percentile)| format!("{name} {}", at(*percentile))).collect();
        format!("{}, max {} ms", percentiles.join(", "), ms(self.0.max()))
    }
}

#[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
fn ms(us: u64) -> String {
    format!("{:.3}", us as f64 / 1000.0)
}

/// Messages and bytes over a time.
pub struct Throughput {
    pub messages: u64,
    pub bytes: u64,
    pub time: Duration,
}

impl Throughput {
    #[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
    fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.time.as_secs_f64().max(1e-6)
    }

    pub fn json(&self) -> Value {
        json!({
            "messages": self.messages,
            "bytes": self.bytes,
            "seconds": self.time.as_secs_f64(),
            "messages_per_second": self.per_second(self.messages),
            "bytes_per_second": self.per_second(self.bytes),
        })
    }

    pub fn words(&self) -> String {
        let (messages, mib) = (self.per_second(self.messages), self.per_second(self.bytes) / 1_048_576.0);
        format!("in {:.2} s: {messages:.0}/s, {mib:.2} MiB/s", self.time.as_secs_f64())
    }
}

/// A bar on standard error, where that is a terminal; nothing elsewhere.
pub fn progress(count: Option<u64>) -> ProgressBar {
    let (bar, template) = match count {
        Some(count) => (ProgressBar::new(count), "{bar:40} {pos}/{len} {per_sec} {eta}"),
        None => (ProgressBar::no_length(), "{spinner} {pos} {per_sec}"),
    };
    bar.with_style(ProgressStyle::with_template(template).expect("the template is well-formed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_latencies() {
        let mut latencies = Latencies::new();
        (1..=1000).for_each(|ms| latencies.record(Duration::from_millis(ms)));
        let json = latencies.json();
        for (name, expected) in [("p50", 500_000), ("p90", 900_000), ("p99", 990_000), ("max", 1_000_000)] {
            let found = json[name].as_u64().unwrap();
            assert!(found.abs_diff(expected) <= expected / 500, "{name}: {found}");
        }
    }

    #[test]
    fn an_endless_latency_counts_as_the_longest() {
        let mut latencies = Latencies::new();
        latencies.record(Duration::MAX);
        assert!(latencies.json()["max"].as_u64().unwrap() >= LATENCY_MAX);
    }
}
