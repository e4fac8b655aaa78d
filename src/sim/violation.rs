//! What is reported when a promise was broken.

use std::fmt;
use std::time::Duration;

use super::{Node, Plan};

/// A broken promise: which, what was seen, and how to see it again.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The number of the invariant, as in I14.
    pub invariant: &'static str,
    /// What was expected and what was found.
    pub what: String,
    node: Option<Node>,
    context: Option<Box<Context>>,
}

/// The run in which it was seen.
#[derive(Clone, Debug)]
pub(super) struct Context {
    pub(super) seed: u64,
    pub(super) at: Duration,
    pub(super) trace: u64,
    pub(super) plan: Option<Plan>,
    pub(super) events: Vec<String>,
}

impl Violation {
    /// A violation of `invariant`.
    pub fn new(invariant: &'static str, what: impl Into<String>) -> Self {
        Self { invariant, what: what.into(), node: None, context: None }
    }

    pub(super) fn on(self, node: Node) -> Self {
        Self { node: Some(node), ..self }
    }

    pub(super) fn within(self, context: Context) -> Self {
        Self { context: Some(Box::new(context)), ..self }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is broken", self.invariant)?;
        if let Some(node) = self.node {
            write!(f, " on {node}")?;
        }
        write!(f, ": {}", self.what)?;
        let Some(context) = &self.context else { return Ok(()) };
        let Context { seed, at, trace, plan, events } = &**context;
        write!(f, "\nseed {seed}, at {at:?} of virtual time, trace {trace:016x}")?;
        if let Some(plan) = plan {
            write!(f, "\nplan \"{plan}\"")?;
        }
        if !events.is_empty() {
            write!(f, "\nwhat was done to the cluster last:")?;
        }
        for event in events {
            write!(f, "\n  {event}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Violation {}
