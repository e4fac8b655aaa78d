//! How bytes travel between two hosts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;

use super::random::Random;

/// First wait before a lost segment is sent again; doubles each time.
pub(super) const RETRANSMIT: Duration = Duration::from_millis(200);

/// One direction between two hosts.
#[derive(Clone, Debug)]
pub struct Link {
    /// Delay of a segment, drawn evenly. Default 100–500 µs.
    pub delay: Range<Duration>,
    /// Share of segments, of a million, whose delay is drawn from `slow` instead. Default 0.
    pub slow_per_million: u32,
    /// Delay of slow segments. Default 0.5–10 s.
    pub slow: Range<Duration>,
    /// Share of segments, of a million, that are lost and sent again after 200 ms or more.
    /// Default 0.
    pub loss_per_million: u32,
    /// Share of segments, of a million, in whose place the connection is reset. Default 0.
    pub reset_per_million: u32,
    /// Share of segments, of a million, in which one bit is flipped. Default 0.
    pub corrupt_per_million: u32,
    /// Share of frames, of a million, that come once more later, whatever was sent meanwhile: as if
    /// the sender had tried again. Default 0.
    pub duplicate_per_million: u32,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            delay: Duration::from_micros(100)..Duration::from_micros(500),
            slow_per_million: 0,
            slow: Duration::from_millis(500)..Duration::from_secs(10),
            loss_per_million: 0,
            reset_per_million: 0,
            corrupt_per_million: 0,
            duplicate_per_million: 0,
        }
    }
}

/// What becomes of a segment.
pub(super) enum Fate {
    Arrives(Duration),
    Resets,
}

impl Link {
    fn fate(&self, random: &mut Random) -> Fate {
        if random.one_in_million(self.reset_per_million) {
            return Fate::Resets;
        }
        let slow = random.one_in_million(self.slow_per_million);
        let mut delay = random.duration(if slow { &self.slow } else { &self.delay });
        let mut again = RETRANSMIT;
        // Ten losses in a row are two minutes and enough, even where everything is lost.
        for _ in 0..10 {
            if !random.one_in_million(self.loss_per_million) {
                break;
            }
            delay += again;
            again *= 2;
        }
        Fate::Arrives(delay)
    }

    /// The bytes as they arrive.
    fn carried(&self, bytes: Bytes, random: &mut Random) -> Bytes {
        if bytes.is_empty() || !random.one_in_million(self.corrupt_per_million) {
            return bytes;
        }
        let mut bytes = Vec::from(bytes);
        let bit = random.below(bytes.len() as u64 * 8) as usize;
        bytes[bit / 8] ^= 1 << (bit % 8);
        bytes.into()
    }
}

#[derive(Default)]
pub(super) struct Links {
    default: Link,
    inside: Link,
    set: BTreeMap<(IpAddr, IpAddr), Link>,
    cuts: BTreeSet<(IpAddr, IpAddr)>,
}

impl Links {
    pub(super) fn new() -> Self {
        let inside = Link { delay: Duration::from_micros(10)..Duration::from_micros(50), ..Link::default() };
        Self { inside, ..Self::default() }
    }

    pub(super) fn set_default(&mut self, link: Link) {
        self.default = link;
    }

    pub(super) fn set(&mut self, from: IpAddr, to: IpAddr, link: Link) {
        self.set.insert((from, to), link);
    }

    pub(super) fn cut(&mut self, from: IpAddr, to: IpAddr) {
        self.cuts.insert((from, to));
    }

    pub(super) fn join(&mut self, from: IpAddr, to: IpAddr) {
        self.cuts.remove(&(from, to));
    }

    pub(super) fn heal(&mut self) {
        self.cuts.clear();
    }

    pub(super) fn is_cut(&self, from: IpAddr, to: IpAddr) -> bool {
        self.cuts.contains(&(from, to))
    }

    fn between(&self, from: IpAddr, to: IpAddr) -> &Link {
        let fallback = if from == to { &self.inside } else { &self.default };
        self.set.get(&(from, to)).unwrap_or(fallback)
    }

    pub(super) fn fate(&self, from: IpAddr, to: IpAddr, random: &mut Random) -> Fate {
        self.between(from, to).fate(random)
    }

    pub(super) fn carried(&self, from: IpAddr, to: IpAddr, bytes: Bytes, random: &mut Random) -> Bytes {
        self.between(from, to).carried(bytes, random)
    }

    pub(super) fn duplicates(&self, from: IpAddr, to: IpAddr, random: &mut Random) -> bool {
        random.one_in_million(self.between(from, to).duplicate_per_million)
    }
}
