//! What is sent to whom, and when: who is far behind leaves room for the others, and nobody is sent more
//! than can be held for him (I32).

use staticfire_storage::PhysicalOffset;

use super::Millis;

/// Who was further behind when his session began catches up until he is no further behind than this.
pub(super) const NEAR: u64 = 4 << 20;
/// The longest record, or blank at the end of a segment: none of it is acknowledged before all is there.
const RECORD_MAX: u64 = 16 << 20;
/// Answers that may be under way besides.
const ANSWERS: u64 = 4;
/// A pause of the wire or of the clock is made up for so long.
const CREDIT_US: u64 = 100_000;

/// Up to where is sent to a node that has everything to `matched`, when an answer has `fetch_max` bytes.
pub(super) fn window(matched: PhysicalOffset, fetch_max: u64) -> PhysicalOffset {
    PhysicalOffset(matched.0.saturating_add(RECORD_MAX).saturating_add(ANSWERS.saturating_mul(fetch_max)))
}

/// Spreads what is sent to those who catch up: in a time `t`, no more than `rate` times `t` and a tenth of a
/// second, and one answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Pace {
    next_us: u64,
}

impl Pace {
    /// When more may be sent.
    pub(super) const fn due(&self) -> Millis {
        self.next_us.div_ceil(1000)
    }

    /// Notes what is sent, at `rate` bytes a second.
    pub(super) fn sent(&mut self, now: Millis, bytes: u64, rate: u64) {
        let from = self.next_us.max(now.saturating_mul(1000).saturating_sub(CREDIT_US));
        let takes = u128::from(bytes) * 1_000_000 / u128::from(rate.max(1));
        self.next_us = from.saturating_add(u64::try_from(takes).unwrap_or(u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// proves: I32: whatever the times between them, no more is sent than the rate allows, and no less
    #[test]
    fn the_rate_is_kept_and_used() {
        let (rate, answer) = (1_000_000, 10_000);
        for step in [1, 3, 7, 40, 90] {
            let (mut pace, mut sent, mut now) = (Pace::default(), 0, 5_000);
            while now < 15_000 {
                while pace.due() <= now {
                    pace.sent(now, answer, rate);
                    sent += answer;
                }
                now += step;
            }
            assert!((9_900_000..=10_110_000).contains(&sent), "every {step} ms: {sent}");
        }
    }
}
