//! The hash of a run.

/// Folds events into 64 bits. Equal sequences give equal hashes on every machine.
#[derive(Debug, Default)]
pub(super) struct Trace(u64);

impl Trace {
    pub(super) const fn hash(&self) -> u64 {
        self.0
    }

    pub(super) const fn fold(&mut self, value: u64) {
        let mixed = (self.0.rotate_left(5) ^ value).wrapping_mul(0x9fb2_1c65_1e98_df25);
        self.0 = mixed ^ (mixed >> 32);
    }

    pub(super) fn fold_bytes(&mut self, bytes: &[u8]) {
        self.fold(bytes.len() as u64);
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.fold(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.fold(u64::from_le_bytes(last));
    }
}
