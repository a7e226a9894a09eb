//! Which held connections an expectation counts, and what is true of them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::expectation::Count;
use super::topology::Name;
use super::value::Span;

/// What became of held connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConnectionsExpectation {
    /// The name that they were given when they were opened.
    #[schemars(length(min = 1, max = 256))]
    pub load: String,
    /// Only those that were established at a certain time; all unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub established: Option<Established>,
    /// How many were ever opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened: Option<Count>,
    /// How many are alive: open, and something was exchanged since the step began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alive: Option<Count>,
    /// How many were lost, those that never opened among them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<Count>,
    /// How many of the lost were ended by a reset (RST).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset: Option<Count>,
    /// Who answered how many of those that were opened. A server that is not named here answered none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answerers: Option<BTreeMap<String, Count>>,
}

/// Connections by when they were established, relative to a step: to when its fault took effect, or else to its beginning. Exactly one
/// of `before` and `after`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-exactly-one" = ["before", "after"]))]
pub struct Established {
    /// Those that were open at this step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// With `before`: and had been for at least this long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_least: Option<Span>,
    /// With `before`: and had been for less than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub less_than: Option<Span>,
    /// Those that the client began to open after this step, whether or not they opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// How connections are held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hold {
    /// How expectations call them; the step's name unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub load: Option<String>,
    /// The node that connects.
    pub from: Name,
    /// Where to: `http://192.16.193.30/` or `tcp://192.16.193.30:7`.
    #[schemars(length(min = 7, max = 256))]
    pub target: String,
    /// How many connections.
    #[schemars(range(min = 1, max = 10000))]
    pub connections: u32,
    /// One is opened every so long, whatever becomes of the others, and the next step begins at once. Else they are opened one after
    /// another, and the step ends with the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_every: Option<Span>,
    /// Pause between two exchanges on a connection; 1 s unless told. In between TCP sends a keepalive every second.
    #[serde(default = "one_second")]
    pub exchange_every: Span,
    /// The connection is lost when it does not open, or an exchange does not end, within this; 5 s unless told.
    #[serde(default = "five_seconds")]
    pub timeout: Span,
    /// Each is a download that does not end (HTTP): the lab's servers send 20 lines of 1 KiB a second at `/stream`. Instead of an
    /// exchange, a line has to come.
    #[serde(default)]
    pub download: bool,
    /// The source address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<std::net::IpAddr>,
}

fn one_second() -> Span {
    Span::from_secs(1)
}

fn five_seconds() -> Span {
    Span::from_secs(5)
}
