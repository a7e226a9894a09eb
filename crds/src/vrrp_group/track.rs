//! What lowers a member's priority.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::shape;
use crate::rules::vrrp_group as rules;

/// What lowers a member's priority or puts it into Fault.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Track {
    /// Interfaces, or aliases of them, at most 32 (keepalived: track_interface).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub interfaces: Vec<TrackedInterface>,
    /// VirtualServices, at most 32: failing means that the quorum is not met on that member; without quorum, that no real server is
    /// alive.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["namespace", "name"]))]
    pub virtual_services: Vec<TrackedObject>,
    /// HealthChecks, at most 32: failing means that one is down on that member (keepalived: track_script, track_file). All but exec
    /// and file need an `address` of their own, and a `port` where they probe one. What has not spoken yet does not fail.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["namespace", "name"]))]
    pub health_checks: Vec<TrackedObject>,
}

/// An interface to track.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::weight()))]
pub struct TrackedInterface {
    /// Its name, or an alias.
    #[schemars(with = "shape::Interface")]
    pub name: String,
    /// Below zero it is added to the priority while the interface is down, above zero while it is up; the sum stays within 1 to
    /// 253. Absent: down means Fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -253, max = 253))]
    pub weight: Option<i16>,
}

/// An object to track.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::weight()))]
pub struct TrackedObject {
    /// Its namespace.
    #[schemars(with = "shape::Label")]
    pub namespace: String,
    /// Its name.
    #[schemars(with = "shape::Name")]
    pub name: String,
    /// Below zero it is added to the priority while the object fails, above zero while it does not; the sum stays within 1 to
    /// 253. Absent: failing means Fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -253, max = 253))]
    pub weight: Option<i16>,
}
