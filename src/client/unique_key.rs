//! The message key a producer makes: unique, and telling when it was made (remoting-protocol §6.2).
//!
//! ```text
//!   host 4 | process 2 | loader 4 | milliseconds since the start of the month 4 | counter 2
//! ```
//! as 32 capital hexadecimal digits. The first ten bytes are drawn once per producer: random numbers
//! tell producers apart better than addresses of containers do. Tools read the time out of the key.

use std::sync::atomic::{AtomicU32, Ordering};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Makes keys.
#[derive(Debug)]
pub(super) struct UniqueKeys {
    host: u64,
    process: u16,
    counter: AtomicU32,
}

impl UniqueKeys {
    /// Keys of a new producer, told apart by two random numbers.
    pub(super) fn new(random: [u64; 2]) -> Self {
        let process = u16::try_from(random[1] & 0xFFFF).unwrap_or_default();
        Self { host: random[0], process, counter: AtomicU32::new(0) }
    }

    /// The next key, at `now_ms` since the Unix epoch.
    pub(super) fn next(&self, now_ms: i64) -> String {
        let count = self.counter.fetch_add(1, Ordering::Relaxed) & 0xFFFF;
        let in_month = since_month_start(now_ms) & 0xFFFF_FFFF;
        let (host, loader) = (self.host >> 32, self.host & 0xFFFF_FFFF);
        format!("{host:08X}{:04X}{loader:08X}{in_month:08X}{count:04X}", self.process)
    }
}

/// Milliseconds since the month of `now_ms` began, in UTC.
fn since_month_start(now_ms: i64) -> i64 {
    let day = now_ms.div_euclid(DAY_MS);
    (day_of_month(day) - 1) * DAY_MS + now_ms.rem_euclid(DAY_MS)
}

/// The day of the month, from 1, of a day counted from 1970-01-01: the usual trick of years that
/// begin in March, so that the leap day comes last.
fn day_of_month(day: i64) -> i64 {
    const ERA_DAYS: i64 = 146_097;
    let day_of_era = (day + 719_468).rem_euclid(ERA_DAYS);
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / (ERA_DAYS - 1)) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    day_of_year - (153 * month + 2) / 5 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_day_of_the_month_is_right() {
        // 1970-01-01, 1970-01-31, 1970-02-01, 2000-02-29, 2000-03-01, 2026-11-25, 1969-12-31.
        for (day, expected) in [(0, 1), (30, 31), (31, 1), (11_016, 29), (11_017, 1), (20_782, 25), (-1, 31)]
        {
            assert_eq!(day_of_month(day), expected, "day {day}");
        }
    }

    #[test]
    fn keys_differ_and_tell_the_time() {
        let keys = UniqueKeys::new([0x0A00_0001_1234_5678, 0xFFFF_0007]);
        let now = 20_782 * DAY_MS + 1234;
        let first = keys.next(now);
        assert_eq!(first, format!("0A000001000712345678{:08X}0000", 24 * DAY_MS + 1234));
        assert_eq!(first.len(), 32);
        assert_ne!(keys.next(now), first);
    }
}
