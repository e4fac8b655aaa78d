//! What goes wrong, as data.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::{Cluster, Node};

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
    /// The node loses power in the middle of the disk operation number `amount` of its own recovery:
    /// it is killed, started at once, cut off, and started again `lasts` after the fault began.
    RecoveryCut,
    /// All brokers lose power, one `amount` milliseconds after the other, and each is started again
    /// after `lasts`.
    Blackout,
    /// The node is stopped as an operator stops it, and started again after `lasts`.
    Restart,
    /// All brokers are restarted, one `amount` milliseconds after the other, whether the last one is
    /// back or not.
    Storm,
    /// Whoever leads the node's group hands over.
    Transfer,
    /// The node loses power and its disk with it, and is started on an empty one after `lasts`. Once
    /// in a run: a second disk could be the last one that holds something.
    LostDisk,
    /// The node is killed, and something rots in a file that can be built again: a bit, a burst or a
    /// sector of a consume queue or of its sums; `amount` says what. Started again after `lasts`.
    Rot,
    /// Nothing runs on the node for `lasts`; time goes on.
    Pause,
    /// Nothing gets from `node` to `to`; the way back is open.
    Cut,
    /// Nothing gets from `node` to `to` or back.
    Partition,
    /// Nothing gets to or from `node`.
    Isolate,
    /// The other members of the node's group are two halves that nothing passes between; the node
    /// reaches both.
    Bridge,
    /// `amount` millionths of all segments are lost and sent again.
    Loss,
    /// `amount` millionths of all segments take up to ten seconds, and what others send overtakes
    /// them.
    Delay,
    /// `amount` millionths of all segments end their connection; answers are lost, and whoever
    /// tries again sends a message twice.
    Reset,
    /// `amount` millionths of all frames between servers come once more, up to half a second later.
    Duplicate,
    /// `amount` millionths of all segments between the members of a group have a bit flipped.
    Corrupt,
    /// The node's wall clock jumps by `amount` milliseconds.
    ClockJump,
    /// The node's wall clock runs `amount` millionths too fast.
    ClockDrift,
    /// Syncs on the node take `amount` microseconds more.
    SlowDisk,
    /// Syncs of the node's log fail, and what they were to cover is not durable. The process is
    /// killed after `lasts` and starts anew.
    FailedSync,
    /// All syncs of the node report success and do nothing: a disk that lies. No promise can be
    /// kept on such a disk, so that this kind is not in [`FaultKind::ALL`].
    IgnoredSync,
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
    /// A node with a role, or a client.
    Any,
    /// A member of a group whose members copy.
    Member,
    /// A member of a group that elects.
    Voter,
    /// Two different nodes.
    Pair,
    /// The whole network.
    Network,
}

impl FaultKind {
    /// All kinds after which every promise holds.
    pub const ALL: [Self; 28] = [
        Self::Kill,
        Self::PowerCut,
        Self::PowerCutAtStep,
        Self::RecoveryCut,
        Self::Blackout,
        Self::Restart,
        Self::Storm,
        Self::Transfer,
        Self::LostDisk,
        Self::Rot,
        Self::Pause,
        Self::Cut,
        Self::Partition,
        Self::Isolate,
        Self::Bridge,
        Self::Loss,
        Self::Delay,
        Self::Reset,
        Self::Duplicate,
        Self::Corrupt,
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
            Self::RecoveryCut => "recovery-cut",
            Self::Blackout => "blackout",
            Self::Restart => "restart",
            Self::Storm => "storm",
            Self::Transfer => "transfer",
            Self::LostDisk => "lost-disk",
            Self::Rot => "rot",
            Self::Pause => "pause",
            Self::Cut => "cut",
            Self::Partition => "partition",
            Self::Isolate => "isolate",
            Self::Bridge => "bridge",
            Self::Loss => "loss",
            Self::Delay => "delay",
            Self::Reset => "reset",
            Self::Duplicate => "duplicate",
            Self::Corrupt => "corrupt",
            Self::ClockJump => "clock-jump",
            Self::ClockDrift => "clock-drift",
            Self::SlowDisk => "slow-disk",
            Self::FailedSync => "failed-sync",
            Self::IgnoredSync => "ignored-sync",
            Self::LostSync => "lost-sync",
            Self::FailedWrite => "failed-write",
            Self::FailedRead => "failed-read",
            Self::FullDisk => "full-disk",
        }
    }

    pub(super) const fn target(self) -> Target {
        match self {
            Self::Kill | Self::Isolate | Self::ClockJump | Self::ClockDrift => Target::Server,
            Self::Pause => Target::Any,
            Self::Bridge => Target::Member,
            Self::Transfer | Self::LostDisk => Target::Voter,
            Self::Cut | Self::Partition => Target::Pair,
            Self::Loss
            | Self::Delay
            | Self::Reset
            | Self::Duplicate
            | Self::Corrupt
            | Self::Blackout
            | Self::Storm => Target::Network,
            _ => Target::Broker,
        }
    }

    /// Can it happen in this cluster?
    pub(super) fn suits(self, cluster: &Cluster) -> bool {
        match self.target() {
            Target::Member => cluster.copying.is_some() && cluster.members > 1,
            Target::Voter => cluster.copying.is_some_and(|copying| copying.raft) && cluster.members > 2,
            _ => self != Self::Corrupt || cluster.copying.is_some(),
        }
    }

    /// The amounts that are drawn; 0 and 0 where there is none.
    pub(super) const fn amounts(self) -> (i64, i64) {
        match self {
            Self::PowerCutAtStep | Self::RecoveryCut => (1, 60),
            Self::Blackout => (0, 50),
            Self::Storm => (0, 3_000),
            Self::Rot => (0, i64::MAX),
            Self::Loss | Self::Delay => (1_000, 200_000),
            Self::Reset | Self::Corrupt => (100, 20_000),
            Self::Duplicate => (1_000, 500_000),
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
        let mut kinds = FaultKind::ALL.into_iter().chain([FaultKind::IgnoredSync]);
        let kind = kinds.find(|kind| kind.name() == *name);
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
