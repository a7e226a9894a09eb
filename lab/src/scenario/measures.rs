//! Figures of agents, and when a network has come to rest.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::topology::Name;
use super::value::Span;

/// A figure of an agent's `/metrics` (127.0.0.1:9740, where it listens unless told). At least one of `equals`, `atLeast` and `atMost`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-ordered" = ["atLeast", "atMost"]))]
pub struct MetricExpectation {
    /// The node.
    pub node: Name,
    /// Its name, with its labels as they are written there: `bascule_vrrp_state{group="front"}`.
    #[schemars(length(min = 1, max = 512))]
    pub name: String,
    /// It is this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub equals: Option<f64>,
    /// No less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_least: Option<f64>,
    /// No more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<f64>,
}

/// That no address came or went for a while, by the kernels' own notifications.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RestExpectation {
    /// For how long.
    pub quiet_for: Span,
    /// On these nodes; all unless told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub nodes: Vec<Name>,
}
