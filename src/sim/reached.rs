//! Counts of what simulations came across: whether a fault ever met the case it was made for.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a node is about when a fault meets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It does not run.
    Down,
    /// It starts: opens its store, registers.
    Starting,
    /// A member of a group that knows of no leader, or is about to lead.
    Electing,
    /// A member of a group that leads it.
    Leading,
    /// A member of a group that follows.
    Following,
    /// It serves, and started syncs are under way on its disk.
    Syncing,
    /// It serves.
    Serving,
}

impl Phase {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Starting => "starting",
            Self::Electing => "electing",
            Self::Leading => "leading",
            Self::Following => "following",
            Self::Syncing => "syncing",
            Self::Serving => "serving",
        }
    }
}

/// How often each point was reached in each phase, by all clusters of this process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reached(BTreeMap<(&'static str, &'static str), u64>);

static REACHED: Mutex<Reached> = Mutex::new(Reached(BTreeMap::new()));

fn all() -> MutexGuard<'static, Reached> {
    REACHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts a point in a phase; see [`reached!`](crate::reached).
pub fn note(point: &'static str, phase: &'static str) {
    *all().0.entry((point, phase)).or_default() += 1;
}

/// The counts so far.
#[must_use]
pub fn report() -> Reached {
    all().clone()
}

impl Reached {
    /// How often a point was reached, in whatever phase.
    #[must_use]
    pub fn count(&self, point: &str) -> u64 {
        self.0.iter().filter(|((name, _), _)| *name == point).map(|(_, count)| count).sum()
    }

    /// How often a point was reached in a phase.
    #[must_use]
    pub fn count_in(&self, point: &str, phase: Phase) -> u64 {
        self.0.iter().filter(|((name, at), _)| *name == point && *at == phase.name()).map(|(_, n)| n).sum()
    }
}

impl fmt::Display for Reached {
    /// A line for each point, its phases side by side.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = "";
        for ((point, phase), count) in &self.0 {
            if *point != last {
                write!(f, "{}{point:<18}", if last.is_empty() { "" } else { "\n" })?;
                last = point;
            }
            write!(f, " {phase} {count}")?;
        }
        Ok(())
    }
}

/// Counts that this place was reached. [`sim::reached::report`](crate::sim::reached::report) tells
/// how often.
///
/// ```
/// staticfire::reached!("a queue was empty");
/// assert_eq!(staticfire::sim::reached::report().count("a queue was empty"), 1);
/// ```
#[macro_export]
macro_rules! reached {
    ($point:expr) => {
        $crate::sim::reached::note($point, "")
    };
}
