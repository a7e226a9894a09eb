//! Virtual routers: addresses, routes and rules that move.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{AddressPrefix, shape, yes};
use crate::rules::vrrp_group as rules;

/// A virtual router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::instance()))]
pub struct Instance {
    /// Name, unique in the group.
    #[schemars(with = "shape::Label")]
    pub name: String,
    /// Interface on which it speaks VRRP and has its addresses, or an alias from Director's interfaceAliases.
    #[schemars(with = "shape::Interface")]
    pub interface: String,
    /// Virtual router id, 1 to 255. It may be left out only in a cluster: there one is allocated, unique on its network, and
    /// stays (see status).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 255))]
    pub virtual_router_id: Option<u8>,
    /// Addresses that are advertised, with the length of their prefix (without: /32, /128): at most 255 IPv4 and 80 IPv6
    /// addresses, what one packet holds (keepalived: virtual_ipaddress).
    #[schemars(with = "Vec<shape::InterfaceAddress>", length(min = 1, max = 335), extend("x-kubernetes-list-type" = "atomic"))]
    pub addresses: Vec<AddressPrefix>,
    /// Addresses that move too but are not advertised, at most 4096 (keepalived: virtual_ipaddress_excluded).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<shape::ExcludedAddress>", length(max = 4096), extend("x-kubernetes-list-type" = "atomic"))]
    pub excluded_addresses: Vec<AddressPrefix>,
    /// Routes that exist where the group is active, at most 16 (keepalived: virtual_routes).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub routes: Vec<Route>,
    /// Policy rules that exist where the group is active, at most 16 (keepalived: virtual_rules).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub rules: Vec<RoutingRule>,
    /// Label of its IPv4 addresses, as old tools show them, without the interface's name and the colon: on enp0s3, `0` makes
    /// `enp0s3:0`. Together they have at most 15 characters; of an alias the interface counts that it stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 13), regex(pattern = "^[!-%'-.0-9;=?-~]+$"))]
    pub label: Option<String>,
    /// Whether the addresses answer with the virtual router's MAC address, 00-00-5E-00-01-ID (IPv6: 02), on an interface of their own
    /// (keepalived: use_vmac). Not with a label. Default: false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub virtual_mac: bool,
    /// Whether the active director takes packets to the addresses itself, such as a ping. False: they are for its virtual services
    /// alone, and what is for none of these is dropped (keepalived: no_accept). Default: true.
    #[serde(default = "yes")]
    pub accept: bool,
}

/// A route that exists where the group is active.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::route()))]
pub struct Route {
    /// Destination network.
    #[schemars(with = "shape::Network")]
    pub to: AddressPrefix,
    /// Gateway. Absent: on the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<shape::Unicast>")]
    pub via: Option<IpAddr>,
    /// Interface, or an alias of one. Default: the instance's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<shape::Interface>")]
    pub interface: Option<String>,
    /// Preferred source address, such as one of the group's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<shape::Unicast>")]
    pub source: Option<IpAddr>,
    /// Routing table, 1 to 4294967295, but not 255, which is the kernel's own. Default: the main table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_295_u64))]
    pub table: Option<u32>,
    /// Metric. Default: the kernel's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 4_294_967_295_u64))]
    pub metric: Option<u32>,
}

/// A policy rule that exists where the group is active.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::routing_rule()))]
pub struct RoutingRule {
    /// Source network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<shape::Network>")]
    pub from: Option<AddressPrefix>,
    /// Destination network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<shape::Network>")]
    pub to: Option<AddressPrefix>,
    /// Routing table to look into, 1 to 4294967295.
    #[schemars(range(min = 1, max = 4_294_967_295_u64))]
    pub table: u32,
    /// Its place among the rules, 1 to 32765. Default: the kernel's choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 32765))]
    pub priority: Option<u32>,
}
