//! The delay levels of messages that are to be delivered later (remoting-protocol §10.2).

use std::time::Duration;

const SECOND: u64 = 1;
const MINUTE: u64 = 60;
const HOUR: u64 = 3600;

/// Seconds of level 1, 2, … 18.
const SECONDS: [u64; LEVEL_MAX as usize] = [
    SECOND,
    5 * SECOND,
    10 * SECOND,
    30 * SECOND,
    MINUTE,
    2 * MINUTE,
    3 * MINUTE,
    4 * MINUTE,
    5 * MINUTE,
    6 * MINUTE,
    7 * MINUTE,
    8 * MINUTE,
    9 * MINUTE,
    10 * MINUTE,
    20 * MINUTE,
    30 * MINUTE,
    HOUR,
    2 * HOUR,
];

/// The highest level; higher ones count as this one.
pub const LEVEL_MAX: i32 = 18;

/// The level of a first redelivery when the consumer names none: level 3 + attempts so far.
pub const RETRY_LEVEL_FIRST: i32 = 3;

/// How long a message of `level` waits; `None` for level 0 and below, which do not wait. Levels
/// above the table wait as long as the highest.
#[must_use]
pub fn of_level(level: i32) -> Option<Duration> {
    let index = usize::try_from(level.min(LEVEL_MAX)).ok()?.checked_sub(1)?;
    Some(Duration::from_secs(SECONDS[index]))
}

/// The level for the next redelivery of a message that was redelivered `reconsumed` times.
#[must_use]
pub fn retry_level(reconsumed: i32) -> i32 {
    reconsumed.max(0).saturating_add(RETRY_LEVEL_FIRST).min(LEVEL_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// proves: B37
    #[test]
    fn levels_below_one_do_not_wait_and_levels_above_the_table_are_capped() {
        assert_eq!(of_level(i32::MIN), None);
        assert_eq!(of_level(0), None);
        assert_eq!(of_level(1), Some(Duration::from_secs(1)));
        assert_eq!(of_level(3), Some(Duration::from_secs(10)));
        assert_eq!(of_level(18), Some(Duration::from_secs(7200)));
        assert_eq!(of_level(i32::MAX), of_level(18));
    }

    #[test]
    fn the_first_redelivery_waits_ten_seconds_and_the_sixteenth_two_hours() {
        assert_eq!(retry_level(0), 3);
        assert_eq!(retry_level(15), 18);
        assert_eq!(retry_level(i32::MAX), 18);
    }
}
