//! What a replica is told once.

use std::num::NonZeroU64;

use crate::{Group, Mode};

use super::Millis;

/// Who decides which node leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failover {
    /// The members elect.
    Raft,
    /// The operator: this node is master. A higher generation than any before makes a slave the
    /// master and fences the old one, wherever it is heard of.
    Master {
        /// 1 to 32,767, chosen by the operator, one more at each promotion.
        generation: u16,
    },
    /// The operator: this node is a slave and never becomes anything else by itself.
    Slave,
}

/// Times, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timing {
    /// A follower that hears nothing of its leader for a time drawn between this …
    pub election_min_ms: Millis,
    /// … and this stands for election; sooner when the connection to the leader broke. A leader that hears
    /// nothing of a majority for so long steps down.
    pub election_max_ms: Millis,
    /// A waiting fetch is answered after this time at the latest, as a sign of life.
    pub heartbeat_ms: Millis,
    /// A follower without leader asks the next node after this time.
    pub retry_ms: Millis,
}

impl Default for Timing {
    /// Elections after 300 to 600 ms, signs of life every 100 ms.
    fn default() -> Self {
        Self { election_min_ms: 300, election_max_ms: 600, heartbeat_ms: 100, retry_ms: 50 }
    }
}

impl Timing {
    pub(super) fn draw_election(&self, draw: &mut Draw) -> Millis {
        let spread = self.election_max_ms.saturating_sub(self.election_min_ms);
        self.election_min_ms + if spread == 0 { 0 } else { draw.next() % spread }
    }
}

/// What a replica is told once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// The members and this node.
    pub group: Group,
    /// Who decides which node leads.
    pub failover: Failover,
    /// What OK means when the operator decides; with Raft it is always a majority's flush.
    pub mode: Mode,
    /// Times.
    pub timing: Timing,
    /// The most bytes that answer one fetch, 32 KiB to 1 MiB in practice.
    pub fetch_max: u64,
    /// Bytes a second for all together who are far behind when they come, and until they are near; those
    /// who are near are never slowed down. `None`: as fast as they take it. Who is to catch up
    /// needs more than producers send.
    pub catch_up_rate: Option<NonZeroU64>,
    /// A bug to be found by the test suites.
    #[cfg(feature = "planted-bugs")]
    pub bug: Option<&'static str>,
}

impl Settings {
    /// Defaults for a member of `group`.
    #[must_use]
    pub fn new(group: Group, failover: Failover) -> Self {
        Self {
            group,
            failover,
            mode: Mode::default(),
            timing: Timing::default(),
            fetch_max: 256 << 10,
            catch_up_rate: None,
            #[cfg(feature = "planted-bugs")]
            bug: None,
        }
    }

    #[cfg(feature = "planted-bugs")]
    pub(super) fn planted(&self, bug: &str) -> bool {
        self.bug == Some(bug)
    }

    /// Whether a bug was planted: never, in a build that is not made for it.
    #[cfg(not(feature = "planted-bugs"))]
    #[inline(always)]
    #[allow(clippy::unused_self, reason = "as in the build with planted bugs")]
    pub(super) const fn planted(&self, _bug: &str) -> bool {
        false
    }
}

/// Numbers from a seed (`SplitMix64`; Steele, Lea and Flood, OOPSLA 2014): enough to spread timeouts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Draw(u64);

impl Draw {
    /// Begins the sequence of `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}
