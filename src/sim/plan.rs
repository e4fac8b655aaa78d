//! Plans of faults: data that is drawn, printed, shrunk, and replayed from one line.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::fault::{Target, millis};
use super::{Cluster, Fault, FaultKind, Node, PlanError};

/// Faults in a drawn plan, before half of the kinds is taken out.
const FAULTS_MAX: usize = 16;

/// What goes wrong in a run, and how long it takes.
///
/// ```
/// use staticfire::sim::{Cluster, Plan};
///
/// let plan = Plan::seeded(7, &Cluster::seeded(7).brokers(2));
/// assert_eq!(plan.to_string().parse(), Ok(plan));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// How long faults begin for. Whole milliseconds.
    pub lasts: Duration,
    /// The faults, in any order.
    pub faults: Vec<Fault>,
}

impl Plan {
    /// A plan for `cluster`, drawn from `seed`: up to sixteen faults within twenty seconds. A random
    /// half of the kinds does not come up, so that what is rare meets what is rare.
    #[must_use]
    pub fn seeded(seed: u64, cluster: &Cluster) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let mut runner = TestRunner::new_with_rng(Config::default(), random);
        let drawn = Self::any(cluster, &FaultKind::ALL).new_tree(&mut runner);
        drawn.expect("nothing is filtered out").current()
    }

    /// All plans for `cluster` with faults of these kinds, as [`Self::seeded`] draws them, for
    /// property tests. They shrink to few, early and short faults. Kinds that cannot happen in the
    /// cluster are left out: who does not elect hands nothing over.
    pub fn any(cluster: &Cluster, kinds: &[FaultKind]) -> BoxedStrategy<Self> {
        let kinds: Vec<_> = kinds.iter().copied().filter(|kind| kind.suits(cluster)).collect();
        let half = kinds.len().div_ceil(2);
        let faults: Vec<_> = kinds.iter().map(|kind| any_fault(*kind, cluster)).collect();
        let faults = prop::collection::vec(proptest::strategy::Union::new(faults), 0..=FAULTS_MAX);
        let on = subsequence(kinds, half);
        let plan = (on, faults).prop_map(|(on, mut faults)| {
            faults.retain(|fault| on.contains(&fault.kind));
            Self { lasts: Duration::from_secs(20), faults }
        });
        plan.boxed()
    }
}

/// Any fault of a kind.
fn any_fault(kind: FaultKind, cluster: &Cluster) -> BoxedStrategy<Fault> {
    let servers = cluster.nodes();
    let brokers: Vec<_> = servers.iter().copied().filter(|it| matches!(it, Node::Broker { .. })).collect();
    let clients = [1, 2].map(Node::Client);
    let all: Vec<_> = servers.iter().copied().chain(clients).collect();
    let nobody = || Just((Node::Client(1), None)).boxed();
    let pair = |nodes: Vec<Node>| (nodes[0], Some(nodes[1]));
    let one = |node| (node, None);
    let nodes = match kind.target() {
        Target::Broker | Target::Member | Target::Voter if brokers.is_empty() => nobody(),
        Target::Broker | Target::Member | Target::Voter => select(brokers).prop_map(one).boxed(),
        Target::Server if servers.is_empty() => nobody(),
        Target::Server => select(servers).prop_map(one).boxed(),
        Target::Any => select(all).prop_map(one).boxed(),
        Target::Pair => subsequence(all, 2).prop_shuffle().prop_map(pair).boxed(),
        Target::Network => nobody(),
    };
    let (least, most) = kind.amounts();
    let times = (0..20_000_u64, prop_oneof![3 => 0..3_000_u64, 1 => 0..15_000_u64]);
    let fault = (nodes, times, least..=most).prop_map(move |((node, to), (at, lasts), amount)| Fault {
        at: Duration::from_millis(at),
        kind,
        node,
        to,
        lasts: Duration::from_millis(lasts),
        amount,
    });
    fault.boxed()
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "for {}ms:", self.lasts.as_millis())?;
        for (index, fault) in self.faults.iter().enumerate() {
            write!(f, "{} {fault}", if index > 0 { ";" } else { "" })?;
        }
        Ok(())
    }
}

impl FromStr for Plan {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        let parts = text.trim().strip_prefix("for ").and_then(|text| text.split_once(':'));
        let (lasts, faults) = parts.ok_or_else(|| PlanError(format!("{text:?} is no plan")))?;
        let faults = faults.split(';').filter(|fault| !fault.trim().is_empty()).map(str::parse);
        Ok(Self { lasts: millis(lasts)?, faults: faults.collect::<Result<_, _>>()? })
    }
}
