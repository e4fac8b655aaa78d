//! Draws from a seed: SplitMix64.

use std::ops::Range;
use std::time::Duration;

/// One stream of draws.
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    /// The stream called `name` of a seed: more draws from one leave all others as they are.
    pub(super) fn named(seed: u64, name: &str) -> Self {
        let mut stream = Self(seed);
        for byte in name.bytes() {
            stream.0 = stream.next() ^ u64::from(byte);
        }
        stream
    }

    pub(super) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `end`, which is not 0. Slightly uneven, which does not matter for orders and delays.
    pub(super) const fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// True in so many of a million draws; draws nothing for 0.
    pub(super) const fn one_in_million(&mut self, share: u32) -> bool {
        share > 0 && self.below(1_000_000) < share as u64
    }

    pub(super) fn duration(&mut self, range: &Range<Duration>) -> Duration {
        let width = u64::try_from(range.end.saturating_sub(range.start).as_nanos()).unwrap_or(u64::MAX);
        if width == 0 { range.start } else { range.start + Duration::from_nanos(self.below(width)) }
    }
}
