//! The CEL rules that need more than a line, one file a kind.
//!
//! The API server computes what a rule may cost at most from the bounds of the lists and strings it reads, and refuses a CRD
//! whose rule could cost too much. Rules that look something up in a list bind it first with `[list].all(name, ...)`: there
//! is no `cel.bind` where they are evaluated in-process.

pub(crate) mod virtual_service;
pub(crate) mod vrrp_group;

use serde_json::Value;

use crate::common::{between, rule};

/// A duration in whole seconds, within bounds.
pub(crate) fn whole_seconds(low: &str, high: &str) -> Vec<Value> {
    let mut rules = between(low, high);
    rules.push(rule("!self.contains('ms')", "must be whole seconds"));
    rules
}
