//! NatRule: address translation beside IPVS.

use std::net::IpAddr;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{AddressPrefix, Condition, Protocol, conditions, exactly_one, rule, rule_at, shape};

/// Address translation on a director, or where a group is active.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "bascule.dev",
    version = "v1alpha1",
    kind = "NatRule",
    plural = "natrules",
    shortname = "nat",
    category = "bascule",
    namespaced,
    status = "NatRuleStatus",
    derive = "PartialEq",
    doc = "Address translation on a director, or where a group is active.",
    printcolumn(
        name = "Director",
        type_ = "string",
        json_path = ".spec.director",
        description = "The director, if it has one."
    ),
    printcolumn(
        name = "Group",
        type_ = "string",
        json_path = ".spec.vrrpGroup",
        description = "The group, if it follows one."
    ),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].status",
        description = "Whether it can be carried out."
    ),
    printcolumn(
        name = "Programmed",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Programmed\")].status",
        description = "Whether it is in the kernel."
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [exactly_one(&["director", "vrrpGroup"]),
    exactly_one(&["portForward", "masquerade", "sourceNat", "staticNat"])]))]
pub struct NatRuleSpec {
    /// The director that translates. Exactly one of this and `vrrpGroup`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<shape::Name>")]
    pub director: Option<String>,
    /// The group on whose active director it translates. Its flows are not synchronised between directors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<shape::Name>")]
    pub vrrp_group: Option<String>,
    /// The rule itself: exactly one of its four kinds.
    #[serde(flatten)]
    pub translation: Translation,
}

/// One kind of address translation: exactly one of the fields is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Translation {
    /// Sends a port of the machine's own addresses to another machine, as `ip nat inside source static tcp 172.16.193.30 80
    /// interface Fa0/0 80` does on a router.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_forward: Option<PortForward>,
    /// Gives what leaves an interface that interface's own address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masquerade: Option<MasqueradeRule>,
    /// Gives what leaves an interface a certain address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_nat: Option<SourceNatRule>,
    /// Exchanges an outside and an inside address, one to one and both ways.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub static_nat: Option<StaticNat>,
}

/// Sends a port of the machine's own addresses to another machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule("has(self.inInterface) || has(self.address)", "at least one of inInterface and address must be set"),
    rule_at(".to", "!has(self.address) || self.address.contains(':') == self.to.contains(':')", "to must be of the family of address")]))]
pub struct PortForward {
    /// Only what arrives on this interface, or an alias of it. At least one of this and `address`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<shape::Interface>")]
    pub in_interface: Option<String>,
    /// Only what is sent to this address of the machine, also by itself unless `inInterface` is set. Absent: to any of its own
    /// addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<shape::Unicast>")]
    pub address: Option<IpAddr>,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The port, 1 to 65535.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// Where it goes.
    #[schemars(with = "shape::Unicast")]
    pub to: IpAddr,
    /// Port there, 1 to 65535. Default: `port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub to_port: Option<u16>,
}

/// Gives what leaves an interface that interface's own address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MasqueradeRule {
    /// The interface, or an alias of it.
    #[schemars(with = "shape::Interface")]
    pub out_interface: String,
    /// Only what comes from these networks, at most 64. Absent: from any other machine by IPv4; IPv6 only where it is named, as
    /// by `::/0`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<shape::Network>", length(max = 64), extend("x-kubernetes-list-type" = "set"))]
    pub sources: Vec<AddressPrefix>,
}

/// Gives what leaves an interface a certain address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule_at(".sources",
    "!has(self.sources) || self.sources.all(s, s.contains(':') == self.address.contains(':'))",
    "sources must be of the family of address")]))]
pub struct SourceNatRule {
    /// The interface, or an alias of it.
    #[schemars(with = "shape::Interface")]
    pub out_interface: String,
    /// Only what comes from these networks, at most 64. Absent: from any other machine.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<shape::Network>", length(max = 64), extend("x-kubernetes-list-type" = "set"))]
    pub sources: Vec<AddressPrefix>,
    /// The address that it gets.
    #[schemars(with = "shape::Unicast")]
    pub address: IpAddr,
}

/// Exchanges two addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule_at(".inside", "self.outside.contains(':') == self.inside.contains(':')",
    "inside must be of the family of outside")]))]
pub struct StaticNat {
    /// As others see it: an address of this machine or, if others are told to send it here, one of nobody.
    #[schemars(with = "shape::Unicast")]
    pub outside: IpAddr,
    /// As it is.
    #[schemars(with = "shape::Unicast")]
    pub inside: IpAddr,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NatRuleStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Accepted, ResolvedRefs, Programmed, Ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
}
