//! Which 4 KiB blocks of a file are allocated.

use std::collections::BTreeMap;
use std::ops::Range;

/// Bytes in which space is given out.
pub(super) const BLOCK: u64 = 4096;

/// Disjoint, non-touching ranges of block numbers: start to end.
#[derive(Clone, Debug, Default)]
pub(super) struct BlockSet(BTreeMap<u64, u64>);

impl BlockSet {
    /// Adds the blocks that hold the bytes of `range`.
    pub(super) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let mut new = blocks(range);
        let touching = self.0.range(..=new.end).rev().take_while(|(_, end)| **end >= new.start);
        let touching: Vec<(u64, u64)> = touching.map(|(start, end)| (*start, *end)).collect();
        for (start, end) in touching {
            self.0.remove(&start);
            new = new.start.min(start)..new.end.max(end);
        }
        self.0.insert(new.start, new.end);
    }

    /// How many blocks are missing to hold the bytes of `range`.
    pub(super) fn missing(&self, range: Range<u64>) -> u64 {
        if range.is_empty() {
            return 0;
        }
        let new = blocks(range);
        let touching = self.0.range(..new.end).rev().take_while(|(_, end)| **end > new.start);
        let present: u64 = touching.map(|(start, end)| end.min(&new.end) - start.max(&new.start)).sum();
        new.end - new.start - present
    }

    /// Allocated bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().map(|(start, end)| (end - start) * BLOCK).sum()
    }
}

fn blocks(range: Range<u64>) -> Range<u64> {
    range.start / BLOCK..range.end.div_ceil(BLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_counted_once() {
        let mut set = BlockSet::default();
        for range in [0..1, 8192..8193, 4095..4097, 100..200, 40960..49152] {
            set.insert(range);
        }
        assert_eq!(set.bytes(), 5 * BLOCK);
        assert_eq!(set.missing(0..12288), 0);
        assert_eq!(set.missing(0..49152), 7);
        assert_eq!(set.0.len(), 2, "touching ranges are one: {set:?}");
    }
}
