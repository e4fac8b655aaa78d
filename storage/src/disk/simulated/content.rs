//! The bytes of one simulated file: what the cache shows, what the medium holds, and every
//! intermediate content of the sectors in between.
//!
//! ```text
//!            sector 0   sector 1   sector 2            sector 7
//! cache      a          b2         c1        (zeros)   h
//! pending    -          b1 b2      c1                  -          not yet synced, oldest first
//! durable    a          b0         (zeros)   (zeros)   h0
//! ```
//! A sync moves the pending versions up to some number to the durable row. A failed sync forgets
//! them: sector 7 shows `h` until the power fails, and `h0` afterwards, and no later sync will
//! write it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::blocks::BlockSet;
use super::faults::Reread;

/// Bytes that a disk writes as one, though a power cut may tear even them, unless it says otherwise.
pub(super) const SECTOR: usize = 512;
/// The largest sector.
pub(super) const SECTOR_MAX: usize = 4096;
/// Bytes that never tear.
pub(super) const WORD: usize = 8;

pub(super) type Sector = Arc<[u8]>;

static ZEROS: [u8; SECTOR_MAX] = [0; SECTOR_MAX];

#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    /// Bytes of a sector.
    sector: usize,
    pub(super) len: u64,
    /// Length on the medium, and when the length in the cache was set, if they differ.
    durable_len: u64,
    pub(super) len_pending: Option<u64>,
    /// Absent sectors are zeros, in both.
    cache: Arc<BTreeMap<u64, Sector>>,
    durable: Arc<BTreeMap<u64, Sector>>,
    pub(super) pending: BTreeMap<u64, Vec<Version>>,
    pub(super) blocks: BlockSet,
    pub(super) modified_ms: i64,
}

/// What a sector became by one write.
#[derive(Clone, Debug)]
pub(super) struct Version {
    /// Number of the write, counted over the whole disk.
    pub(super) written: u64,
    pub(super) bytes: Sector,
}

/// What a power cut leaves of a sector. The numbers count versions: 0 is the durable one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    Version(usize),
    /// `words` words of one version, the rest of another.
    Torn {
        first: usize,
        words: usize,
        second: usize,
    },
}

impl Content {
    /// A file of `len` zeros in sectors of `sector` bytes, whose length was set by write number `written`.
    pub(super) fn zeros(sector: usize, len: u64, written: u64) -> Self {
        Self { sector, len, len_pending: (len > 0).then_some(written), ..Self::default() }
    }

    /// A file that the medium holds as it is.
    pub(super) fn durable(sector: usize, bytes: &[u8]) -> Self {
        let mut sectors = BTreeMap::new();
        for (number, chunk) in (0u64..).zip(bytes.chunks(sector)) {
            let mut whole = vec![0; sector];
            whole[..chunk.len()].copy_from_slice(chunk);
            store(&mut sectors, number, whole.into());
        }
        let len = bytes.len() as u64;
        let sectors = Arc::new(sectors);
        let mut blocks = BlockSet::default();
        blocks.insert(0..len);
        Self {
            sector,
            len,
            durable_len: len,
            cache: Arc::clone(&sectors),
            durable: sectors,
            blocks,
            ..Self::default()
        }
    }

    /// Writes within the length, as write number `written`; a `lost` write stays in the cache.
    pub(super) fn write(&mut self, at: u64, bytes: &[u8], written: u64, lost: bool) {
        let mut done = 0;
        while done < bytes.len() {
            let position = at + done as u64;
            let sector = self.sector as u64;
            let (number, offset) = (position / sector, (position % sector) as usize);
            let count = (self.sector - offset).min(bytes.len() - done);
            self.write_sector(number, offset, &bytes[done..done + count], written, lost);
            done += count;
        }
        self.blocks.insert(at..at + bytes.len() as u64);
    }

    fn write_sector(&mut self, number: u64, offset: usize, bytes: &[u8], written: u64, lost: bool) {
        let old = self.sector(&self.cache, number);
        let newest = self.pending.get(&number).and_then(|versions| versions.last());
        let newest = newest.map_or_else(|| self.sector(&self.durable, number), |version| &version.bytes);
        if old[offset..offset + bytes.len()] == *bytes && old == newest {
            return; // It would be the same version twice.
        }
        let mut new: Sector = old.into();
        Arc::make_mut(&mut new)[offset..offset + bytes.len()].copy_from_slice(bytes);
        store(Arc::make_mut(&mut self.cache), number, Arc::clone(&new));
        if !lost {
            self.pending.entry(number).or_default().push(Version { written, bytes: new });
        }
    }

    /// Copies the cached bytes from `at` on; the range lies within the length.
    pub(super) fn read(&self, at: u64, out: &mut [u8]) {
        out.fill(0);
        self.copy_written(at, out);
    }

    /// As [`Self::read`], into a buffer that holds zeros. Costs what was written, not its length.
    pub(super) fn copy_written(&self, at: u64, out: &mut [u8]) {
        let end = at + out.len() as u64;
        let sector = self.sector as u64;
        let sectors = at / sector..end.div_ceil(sector);
        for (number, bytes) in self.cache.range(sectors) {
            let start = number * sector;
            let (from, to) = (start.max(at), (start + sector).min(end));
            out[(from - at) as usize..(to - at) as usize]
                .copy_from_slice(&bytes[(from - start) as usize..(to - start) as usize]);
        }
    }

    /// One past the last byte that may be something else than zero, in the cache or on the medium.
    pub(super) fn written_end(&self) -> u64 {
        let last = |sectors: &BTreeMap<u64, Sector>| sectors.keys().next_back().copied();
        let pending = self.pending.keys().next_back().copied();
        let last = last(&self.cache).max(last(&self.durable)).max(pending);
        last.map_or(0, |last| (last + 1) * self.sector as u64).min(self.len)
    }

    /// Makes durable what was written up to number `upto`.
    pub(super) fn sync(&mut self, upto: u64) {
        let durable = Arc::make_mut(&mut self.durable);
        self.pending.retain(|number, versions| {
            let covered = versions.partition_point(|version| version.written <= upto);
            if let Some(last) = versions.drain(..covered).next_back() {
                store(durable, *number, last.bytes);
            }
            !versions.is_empty()
        });
        if self.len_pending.is_some_and(|written| written <= upto) {
            (self.durable_len, self.len_pending) = (self.len, None);
        }
    }

    /// Marks clean what was written up to number `upto`, without writing it.
    pub(super) fn fail_sync(&mut self, upto: u64, reread: Reread) {
        let (cache, durable, len) = (&mut self.cache, &self.durable, self.sector);
        self.pending.retain(|number, versions| {
            versions.retain(|version| version.written > upto);
            if versions.is_empty() && reread == Reread::Old {
                store(Arc::make_mut(cache), *number, sector(durable, *number, len).into());
            }
            !versions.is_empty()
        });
    }

    /// Writes back up to `count` dirty sectors from `from` on, unasked.
    pub(super) fn write_back(&mut self, from: u64, count: usize) {
        let numbers: Vec<u64> = self.pending.range(from..).take(count).map(|(number, _)| *number).collect();
        for number in numbers {
            if let Some(last) = self.pending.remove(&number).and_then(|mut versions| versions.pop()) {
                store(Arc::make_mut(&mut self.durable), number, last.bytes);
            }
        }
    }

    /// True when the medium holds what the cache shows.
    pub(super) fn is_durable(&self) -> bool {
        self.pending.is_empty() && self.len_pending.is_none() && self.cache == self.durable
    }

    /// True when a power cut has nothing to do; cheap, and false for some that it would not change.
    pub(super) fn is_settled(&self) -> bool {
        self.pending.is_empty() && self.len_pending.is_none() && Arc::ptr_eq(&self.cache, &self.durable)
    }

    /// Cuts the power: what is kept of each pending sector and of a pending length is the
    /// caller's choice.
    pub(super) fn cut_power(&mut self, keep_len: bool, mut keep: impl FnMut(u64) -> Kept) {
        if self.len_pending.take().is_some() && keep_len {
            self.durable_len = self.len;
        }
        for (number, versions) in std::mem::take(&mut self.pending) {
            let old: Sector = self.sector(&self.durable, number).into();
            let version = |which: usize| if which == 0 { &old } else { &versions[which - 1].bytes };
            let kept = match keep(number) {
                Kept::Version(which) => Arc::clone(version(which)),
                Kept::Torn { first, words, second } => {
                    let mut bytes = Arc::clone(version(second));
                    let torn = Arc::make_mut(&mut bytes);
                    torn[..words * WORD].copy_from_slice(&version(first)[..words * WORD]);
                    bytes
                }
            };
            store(Arc::make_mut(&mut self.durable), number, kept);
        }
        if self.durable_len < self.len {
            self.len = self.durable_len;
            let end = self.len.div_ceil(self.sector as u64);
            Arc::make_mut(&mut self.durable).split_off(&end);
        }
        self.cache = Arc::clone(&self.durable);
    }

    /// Changes what stands in one sector, of the medium and the cache alike. Behind the end of the file
    /// nothing changes.
    pub(super) fn alter(&mut self, number: u64, change: impl Fn(&mut [u8])) {
        let within = (self.len - number * self.sector as u64).min(self.sector as u64) as usize;
        for sectors in [&mut self.cache, &mut self.durable] {
            let mut bytes: Sector = sector(sectors, number, self.sector).into();
            change(&mut Arc::make_mut(&mut bytes)[..within]);
            store(Arc::make_mut(sectors), number, bytes);
        }
    }

    /// The sectors that the cache shows otherwise than the medium holds them.
    pub(super) fn cached_sectors(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let same = Arc::ptr_eq(&self.cache, &self.durable);
        let numbers = self.cache.keys().chain(self.durable.keys()).filter(move |_| !same);
        let both = numbers
            .map(|number| (*number, self.sector(&self.cache, *number), self.sector(&self.durable, *number)));
        both.filter(|(_, cached, durable)| cached != durable).map(|(number, cached, _)| (number, cached))
    }

    /// The sectors of the medium that are not zeros.
    pub(super) fn durable_sectors(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.durable.iter().map(|(number, bytes)| (*number, &**bytes))
    }

    /// The sectors of the medium that hold anything and are not about to be written.
    pub(super) fn resting_sectors(&self) -> impl Iterator<Item = u64> {
        self.durable.keys().copied().filter(|number| !self.pending.contains_key(number))
    }

    fn sector<'a>(&self, sectors: &'a BTreeMap<u64, Sector>, number: u64) -> &'a [u8] {
        sector(sectors, number, self.sector)
    }
}

fn sector(sectors: &BTreeMap<u64, Sector>, number: u64, len: usize) -> &[u8] {
    sectors.get(&number).map_or(&ZEROS[..len], |bytes| &**bytes)
}

/// Zeros are not stored, so that a sparse file stays small and equal contents are equal maps.
fn store(sectors: &mut BTreeMap<u64, Sector>, number: u64, bytes: Sector) {
    if *bytes == ZEROS[..bytes.len()] {
        sectors.remove(&number);
    } else {
        sectors.insert(number, bytes);
    }
}
