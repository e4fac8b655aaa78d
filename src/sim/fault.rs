//! What goes wrong, as data.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::Node;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FaultKind {
    /// The node's process dies and is started again after `lasts`.
    Kill,
    /// The node loses power: unsynced bytes are gone, in part, torn. Started again after `lasts`.
    PowerCut,
    /// The same in the middle of the disk operation number `amount` from then; started again `lasts`
    /// after the fault began, or later, when the operation comes.
    PowerCutAtStep,
    /// Nothing runs on the node for `lasts`; time goes on.
    Pause,
    /// Nothing gets from `node` to `to`; the way back is open.
    Cut,
    /// Nothing gets from `node` to `to` or back.
    Partition,
    /// Nothing gets to or from `node`.
    Isolate,
    /// `amount` millionths of all segments are lost and sent again.
    Loss,
    /// `amount` millionths of all segments take up to ten seconds, and what others send overtakes
    /// them.
    Delay,
    /// `amount` millionths of all segments end their connection; answers are lost, and whoever
    /// tries again sends a message twice.
    Reset,
    /// The node's wall clock jumps by `amount` milliseconds.
    ClockJump,
    /// The node's wall clock runs `amount` millionths too fast.
    ClockDrift,
    /// Syncs on the node take `amount` microseconds more.
    SlowDisk,
    /// Syncs of the node's log fail, and what they were to cover is not durable. The process is
    /// killed after `lasts` and starts anew.
    FailedSync,
    /// Syncs of the node's log never complete. The process is killed after `lasts` and starts anew.
    LostSync,
    /// Writes to the node's log fail, half done. The process is killed after `lasts` and starts anew.
    FailedWrite,
    /// Reads of the node's log fail.
    FailedRead,
    /// The node's disk is full.
    FullDisk,
}

/// What a kind strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A node with a disk.
    Broker,
    /// A node with a role.
    Server,
    /// Two different nodes.
    Pair,
    /// The whole network.
    Network,
}

impl FaultKind {
    /// All kinds.
    pub const ALL: [Self; 18] = [
        Self::Kill,
        Self::PowerCut,
        Self::PowerCutAtStep,
        Self::Pause,
        Self::Cut,
        Self::Partition,
        Self::Isolate,
        Self::Loss,
        Self::Delay,
        Self::Reset,
        Self::ClockJump,
        Self::ClockDrift,
        Self::SlowDisk,
        Self::FailedSync,
        Self::LostSync,
        Self::FailedWrite,
        Self::FailedRead,
        Self::FullDisk,
    ];

    /// Its name in the text of a plan.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::PowerCut => "power-cut",
            Self::PowerCutAtStep => "power-cut-at-step",
            Self::Pause => "pause",
            Self::Cut => "cut",
            Self::Partition => "partition",
            Self::Isolate => "isolate",
            Self::Loss => "loss",
            Self::Delay => "delay",
            Self::Reset => "reset",
            Self::ClockJump => "clock-jump",
            Self::ClockDrift => "clock-drift",
            Self::SlowDisk => "slow-disk",
            Self::FailedSync => "failed-sync",
            Self::LostSync => "lost-sync",
            Self::FailedWrite => "failed-write",
            Self::FailedRead => "failed-read",
            Self::FullDisk => "full-disk",
        }
    }

    pub(super) const fn target(self) -> Target {
        match self {
            Self::Kill | Self::Pause | Self::Isolate | Self::ClockJump | Self::ClockDrift => Target::Server,
            Self::Cut | Self::Partition => Target::Pair,
            Self::Loss | Self::Delay | Self::Reset => Target::Network,
            _ => Target::Broker,
        }
    }

    /// The amounts that are drawn; 0 and 0 where there is none.
    pub(super) const fn amounts(self) -> (i64, i64) {
        match self {
            Self::PowerCutAtStep => (1, 60),
            Self::Loss | Self::Delay => (1_000, 200_000),
            Self::Reset => (100, 20_000),
            Self::ClockJump => (-3_600_000, 3_600_000),
            Self::ClockDrift => (-50_000, 50_000),
            Self::SlowDisk => (1_000, 8_000_000),
            _ => (0, 0),
        }
    }
}

/// One thing that goes wrong at a time. Its text is that of `Display`: `1500ms power-cut b0.0 800ms`,
/// `20ms cut b0.0>n1 3000ms`, `0ms clock-jump n0 0ms -3600000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// When it begins, from the start of the plan. Whole milliseconds.
    pub at: Duration,
    /// What goes wrong.
    pub kind: FaultKind,
    /// Where. Without meaning for kinds that concern the whole network.
    pub node: Node,
    /// The other node, for kinds that concern two.
    pub to: Option<Node>,
    /// When it is over, from its begin. Whole milliseconds.
    pub lasts: Duration,
    /// How much; see the kinds.
    pub amount: i64,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, kind, node, to, lasts, amount } = self;
        write!(f, "{}ms {} {node}", at.as_millis(), kind.name())?;
        if let Some(to) = to {
            write!(f, ">{to}")?;
        }
        write!(f, " {}ms", lasts.as_millis())?;
        if kind.amounts() != (0, 0) {
            write!(f, " {amount}")?;
        }
        Ok(())
    }
}

/// A text that is no fault or no plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanError(pub(super) String);

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; a plan reads \"for 9000ms: 1500ms kill b0.0 800ms; 20ms cut b0.0>n1 3000ms\"", self.0)
    }
}

impl std::error::Error for PlanError {}

/// Milliseconds with their unit.
pub(super) fn millis(text: &str) -> Result<Duration, PlanError> {
    let number = text.strip_suffix("ms").and_then(|digits| digits.parse().ok());
    number.map(Duration::from_millis).ok_or_else(|| PlanError(format!("{text:?} is no time in ms")))
}

impl FromStr for Fault {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        let wrong = |what: &str| PlanError(format!("{text:?} {what}"));
        let words: Vec<_> = text.split_whitespace().collect();
        let [at, name, nodes, lasts, amount @ ..] = &words[..] else {
            return Err(wrong("is no fault"));
        };
        let kind = FaultKind::ALL.into_iter().find(|kind| kind.name() == *name);
        let kind = kind.ok_or_else(|| wrong("names no kind of fault"))?;
        let node = |name: &str| name.parse().map_err(|error: super::NotANode| PlanError(error.to_string()));
        let (from, to) = match nodes.split_once('>') {
            Some((from, to)) => (node(from)?, Some(node(to)?)),
            None => (node(nodes)?, None),
        };
        if (kind.target() == Target::Pair) != to.is_some() {
            return Err(wrong("does not name as many nodes as it needs"));
        }
        let amount = match (amount, kind.amounts()) {
            ([], (0, 0)) => 0,
            ([amount], range) if range != (0, 0) => {
                amount.parse().map_err(|_| wrong("ends with no number"))?
            }
            _ => return Err(wrong("has no amount, or one too many")),
        };
        Ok(Self { at: millis(at)?, kind, node: from, to, lasts: millis(lasts)?, amount })
    }
}
