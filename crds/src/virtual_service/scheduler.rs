//! How new connections are spread, and which of them go to the same real server.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{Duration, rule};
use crate::rules::whole_seconds;

/// How new connections are spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule(
    "self.name in ['sh', 'mh'] || !((has(self.fallback) && self.fallback) || (has(self.hashPort) && self.hashPort))",
    "fallback and hashPort belong to the schedulers sh and mh")]))]
pub struct Scheduler {
    /// The scheduler: rr, wrr, lc, wlc, lblc, lblcr, sh, mh, dh, fo, ovf, sed, nq or twos. Default: wlc.
    #[serde(default)]
    pub name: SchedulerName,
    /// With sh and mh: takes another real server when the chosen one is unavailable (ipvsadm: -b sh-fallback, mh-fallback).
    /// Default: false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fallback: bool,
    /// With sh and mh: hashes the client's port too (ipvsadm: -b sh-port, mh-port). Default: false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hash_port: bool,
}

/// A scheduler of the kernel (`ip_vs_NAME`).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum SchedulerName {
    /// Round robin.
    Rr,
    /// Weighted round robin.
    Wrr,
    /// Least connections.
    Lc,
    /// Weighted least connections.
    #[default]
    Wlc,
    /// Locality-based least connections.
    Lblc,
    /// Locality-based least connections with replication.
    Lblcr,
    /// Source hashing.
    Sh,
    /// Maglev hashing.
    Mh,
    /// Destination hashing.
    Dh,
    /// Weighted failover.
    Fo,
    /// Weighted overflow.
    Ovf,
    /// Shortest expected delay.
    Sed,
    /// Never queue.
    Nq,
    /// Weighted random twos choice.
    Twos,
}

impl SchedulerName {
    /// The kernel's name of it.
    pub const fn as_str(self) -> &'static str {
        match self {
            SchedulerName::Rr => "rr",
            SchedulerName::Wrr => "wrr",
            SchedulerName::Lc => "lc",
            SchedulerName::Wlc => "wlc",
            SchedulerName::Lblc => "lblc",
            SchedulerName::Lblcr => "lblcr",
            SchedulerName::Sh => "sh",
            SchedulerName::Mh => "mh",
            SchedulerName::Dh => "dh",
            SchedulerName::Fo => "fo",
            SchedulerName::Ovf => "ovf",
            SchedulerName::Sed => "sed",
            SchedulerName::Nq => "nq",
            SchedulerName::Twos => "twos",
        }
    }
}

impl fmt::Display for SchedulerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Sends a client's connections to the same real server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Persistence {
    /// How long after a client's last connection its choice is kept: whole seconds, 1s to 744h (keepalived:
    /// persistence_timeout). Default: 6m.
    #[serde(default = "persistence_timeout")]
    #[schemars(extend("x-kubernetes-validations" = whole_seconds("1s", "744h")))]
    pub timeout: Duration,
    /// Clients whose IPv4 addresses share this many bits are one client (keepalived: persistence_granularity). Default: 32.
    #[serde(default = "ipv4_prefix")]
    #[schemars(range(min = 1, max = 32))]
    pub ipv4_prefix: u8,
    /// Clients whose IPv6 addresses share this many bits are one client. Default: 128.
    #[serde(default = "ipv6_prefix")]
    #[schemars(range(min = 1, max = 128))]
    pub ipv6_prefix: u8,
    /// Recognises a client by something other than its address: `sip`, by the Call-ID of SIP over UDP (keepalived:
    /// persistence_engine).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<PersistenceEngine>,
}

fn persistence_timeout() -> Duration {
    Duration::from_secs(360)
}

fn ipv4_prefix() -> u8 {
    32
}

fn ipv6_prefix() -> u8 {
    128
}

/// A persistence engine of the kernel (`ip_vs_pe_NAME`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PersistenceEngine {
    /// Call-ID of SIP.
    Sip,
}
