//! Whom a consumer should ask next: the master, or a slave that already shows what it wants (M27).
//!
//! ```text
//!   slave shows up to 900,000      consumer wants 950,000      master shows up to 1,000,000
//! ─────────────┤                          │                             ┤     always the master
//! ```
//! A slave is worth asking for what it has made visible, never for what it only received. The broker
//! puts the answer into `suggestWhichBrokerId`: 0 for the master, the slave's number for a slave.

use std::ops::RangeInclusive;

use staticfire_storage::PhysicalOffset;

use crate::NodeId;

/// How busy the master is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Load {
    /// It serves everybody itself.
    #[default]
    Calm,
    /// Slaves should serve what they can.
    Busy,
}

/// Whom to ask next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Advice {
    /// The master.
    Master,
    /// This slave.
    Slave(NodeId),
}

/// Whom to ask next for the record that starts at `wanted`.
///
/// `master_end` and `slave_ends` are where what each node shows to consumers ends; in which unit does
/// not matter, as long as it is one. Of several slaves that show what is wanted it is the one that
/// shows most, and of these the one with the lowest number.
#[must_use]
pub fn suggest(
    load: Load,
    master_end: PhysicalOffset,
    slave_ends: impl IntoIterator<Item = (NodeId, PhysicalOffset)>,
    wanted: PhysicalOffset,
) -> Advice {
    if load == Load::Calm || wanted >= master_end {
        // What nobody has yet will be at the master first.
        return Advice::Master;
    }
    let able = slave_ends.into_iter().filter(|(_, end)| *end > wanted);
    let best = able.max_by_key(|(slave, end)| (*end, std::cmp::Reverse(*slave)));
    best.map_or(Advice::Master, |(slave, _)| Advice::Slave(slave))
}

/// Turns a number that says how much there is to do into a [`Load`], with hysteresis: consumers are
/// not sent back and forth by a number that trembles.
#[derive(Clone, Debug)]
pub struct LoadGauge {
    calm_to_busy: RangeInclusive<u64>,
    load: Load,
}

impl LoadGauge {
    /// Busy from the upper bound on, calm again below the lower one. From 0 to 0: always busy.
    #[must_use]
    pub const fn new(calm_to_busy: RangeInclusive<u64>) -> Self {
        let load = if *calm_to_busy.end() == 0 { Load::Busy } else { Load::Calm };
        Self { calm_to_busy, load }
    }

    /// Takes a new measurement.
    pub fn read(&mut self, value: u64) -> Load {
        if value >= *self.calm_to_busy.end() {
            self.load = Load::Busy;
        } else if value < *self.calm_to_busy.start() {
            self.load = Load::Calm;
        }
        self.load
    }

    /// What the last measurement meant.
    #[must_use]
    pub const fn load(&self) -> Load {
        self.load
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn suggested(load: Load, master: u64, slaves: &[(u32, u64)], wanted: u64) -> Advice {
        let slaves = slaves.iter().map(|(slave, end)| (NodeId(*slave), PhysicalOffset(*end)));
        suggest(load, PhysicalOffset(master), slaves, PhysicalOffset(wanted))
    }

    /// proves: M27, M28, M29: a busy master with 1,000,000 messages and a slave with 900,000
    #[test]
    fn a_slave_is_advised_for_what_it_has_and_for_nothing_else() {
        let slave = Advice::Slave(NodeId(1));
        for (load, slave_end, wanted, advice) in [
            (Load::Busy, 900_000, 950_000, Advice::Master),
            (Load::Calm, 900_000, 950_000, Advice::Master),
            (Load::Busy, 900_000, 850_000, slave),
            (Load::Calm, 900_000, 850_000, Advice::Master),
            (Load::Busy, 900_000, 899_999, slave),
            (Load::Busy, 900_000, 900_000, Advice::Master),
            (Load::Busy, 1_000_000, 950_000, slave),
            (Load::Busy, 1_000_000, 1_000_000, Advice::Master),
        ] {
            assert_eq!(suggested(load, 1_000_000, &[(1, slave_end)], wanted), advice, "{load:?} {wanted}");
        }
        assert_eq!(suggested(Load::Busy, 100, &[(1, 50), (3, 70), (2, 70)], 10), Advice::Slave(NodeId(2)));
        assert_eq!(suggested(Load::Busy, 100, &[], 10), Advice::Master);
    }

    proptest! {
        /// proves: M27, M29: who is sent to a slave finds there what it wants; who need not be is not
        #[test]
        fn advice_is_never_in_vain(
            busy in any::<bool>(),
            master in 0..50_u64,
            slaves in proptest::collection::vec((1..5_u32, 0..50_u64), 0..4),
            wanted in 0..60_u64,
        ) {
            let load = if busy { Load::Busy } else { Load::Calm };
            match suggested(load, master, &slaves, wanted) {
                Advice::Slave(NodeId(slave)) => {
                    prop_assert!(busy && slaves.iter().any(|(id, end)| *id == slave && *end > wanted));
                }
                Advice::Master => prop_assert!(
                    !busy || wanted >= master || slaves.iter().all(|(_, end)| *end <= wanted)
                ),
            }
        }

        /// proves: M27: between the bounds nothing changes
        #[test]
        fn the_gauge_keeps_what_it_said(values in proptest::collection::vec(0..100_u64, 0..50)) {
            let mut gauge = LoadGauge::new(30..=60);
            for value in values {
                let before = gauge.load();
                let load = match value {
                    60.. => Load::Busy,
                    30.. => before,
                    _ => Load::Calm,
                };
                prop_assert_eq!(gauge.read(value), load);
            }
            prop_assert_eq!(LoadGauge::new(0..=0).read(0), Load::Busy);
        }
    }
}
