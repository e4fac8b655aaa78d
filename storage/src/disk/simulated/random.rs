//! Random numbers from a seed: one stream per purpose, so that a new draw in one place does not
//! shift the others.

/// A SplitMix64 stream.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    /// The stream `purpose` of `seed`.
    pub(super) fn stream(seed: u64, purpose: &str) -> Self {
        Self(purpose.bytes().fold(seed, |state, byte| Self(state ^ u64::from(byte)).next()))
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`, which is at least 1. The bias of the remainder does not matter here.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// As [`Self::below`], for indexes.
    pub(super) fn index(&mut self, bound: usize) -> usize {
        self.below(bound as u64) as usize
    }

    /// True once in `n` times; never when `n` is 0.
    pub(super) fn one_in(&mut self, n: u32) -> bool {
        n > 0 && self.below(u64::from(n)) == 0
    }
}

/// Spreads every bit of `x` over the result.
pub(super) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
