//! DirectorConfig: what the operator writes for one director besides bindings. It never grows with the services.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{AddressPrefix, Condition, Duration, conditions, rule, rule_at, shape};
use crate::director::{ConnectionSync, Expire, Maintenance, ServiceAccountRef, Sysctls, Timeouts, aliases};
use crate::vrrp_group::{
    Authentication, GratuitousArp, Instance, MachineService, Notify, OnAgentLoss, Preempt, Track, VrrpState,
};

/// VRRP, synchronisation, timeouts and sysctls of one director.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "bascule.dev",
    version = "v1alpha1",
    kind = "DirectorConfig",
    plural = "directorconfigs",
    shortname = "dc",
    category = "bascule",
    status = "DirectorConfigStatus",
    derive = "PartialEq",
    selectable = ".spec.director",
    doc = "VRRP, synchronisation, timeouts and sysctls of one director. Written by the operator; its status is written by that director's agent.",
    printcolumn(
        name = "Director",
        type_ = "string",
        json_path = ".spec.director",
        description = "The director."
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
pub struct DirectorConfigSpec {
    /// Name of the director. Immutable.
    #[schemars(with = "shape::Name", extend("x-kubernetes-validations" = [rule("self == oldSelf",
        "director is immutable: another one is another DirectorConfig")]))]
    pub director: String,
    /// Whether the agent sets the sysctls that its work needs.
    #[serde(default)]
    pub sysctls: Sysctls,
    /// Timeouts of IPVS connections. Absent: the kernel's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// What becomes of connections whose real server is gone.
    #[serde(default)]
    pub expire: Expire,
    /// Synchronises IPVS connections, interface resolved. Absent: not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_sync: Option<ConnectionSync>,
    /// Groups that this director is a member of, at most 8; all together have at most 32 instances, 6144 addresses, 16 services
    /// and 96 things that they track.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "atomic", "x-kubernetes-validations" = totals()))]
    pub vrrp: Vec<DirectorVrrpGroup>,
    /// Names for interfaces, at most 32: alias to interface.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, shape::Interface>", extend("maxProperties" = 32, "x-kubernetes-validations" = aliases()))]
    pub interface_aliases: BTreeMap<String, String>,
    /// Networks of loopback or link-local addresses that may be targets of checks and endpoints all the same, at most 64. Only the
    /// agent meets these addresses, so only it can hold them against this.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<shape::Network>", length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub allowed_targets: Vec<AddressPrefix>,
    /// Drains what is on this director alone. Absent: it is in service, or groups alone move away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<Maintenance>,
    /// What fails together with this machine, as its Director or its Node says: the zone for the hints of EndpointSlices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"))]
    pub failure_domain: Option<String>,
    /// ServiceAccount of its agent, of a machine outside the cluster. Absent: the chart's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<ServiceAccountRef>,
    /// Names a flush: while it is there the agent carries out nothing, neither groups nor bindings, and takes everything of its own out
    /// of the kernel, settings left as they are; then it repeats the name in `status.flushed`. `bascule-operator flush` writes it
    /// before Bascule is removed, the operator takes it away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub flush: Option<String>,
}

/// A VrrpGroup as one of its members carries it out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule_at(".ownAddresses", "!has(self.ownAddresses) || self.ownAddresses.size() <= self.instances.size()",
        "a group has at most one own address for each instance"),
    rule_at(".unicastPeers", "!has(self.unicastPeers) || self.unicastPeers.size() <= self.instances.size()",
        "a group has at most one list of peers for each instance")]))]
pub struct DirectorVrrpGroup {
    /// Name of the VrrpGroup.
    #[schemars(with = "shape::Name")]
    pub name: String,
    /// This member's priority, 254 when it is preferred.
    #[schemars(range(min = 1, max = 254))]
    pub priority: u8,
    /// Whether no member has a higher priority.
    #[serde(default)]
    pub highest: bool,
    /// Whether another member is preferred: an active one stops its services and hands over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub other_preferred: bool,
    /// Whether this machine is out of service and another member is not: it hands over, and is active only while no other member
    /// can be.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stands_by: bool,
    /// Whether another member stands by: this one takes over from it whatever `preempt` says.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub relieves: bool,
    /// Whether it has no other member: nobody could take over while it was late.
    #[serde(default)]
    pub alone: bool,
    /// 2 or 3.
    #[schemars(range(min = 2, max = 3))]
    pub version: u8,
    /// From one advertisement to the next.
    pub advertisement_interval: Duration,
    /// Missed advertisements until the active director is taken for dead.
    #[schemars(range(min = 1, max = 100))]
    pub down_intervals: u32,
    /// Silence after which to warn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warn_after: Option<Duration>,
    /// Extends the first wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup_grace: Option<Duration>,
    /// Whether and when to take over from a living one.
    pub preempt: Preempt,
    /// Virtual routers, interfaces and ids resolved.
    #[schemars(length(min = 1, max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub instances: Vec<Instance>,
    /// This member's own address in each instance, by the instance's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, shape::Unicast>", extend("maxProperties" = 32, "x-kubernetes-validations" = instance_names()))]
    pub own_addresses: BTreeMap<String, IpAddr>,
    /// The other members' addresses in each instance, for unicast. Empty: multicast.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, PeerAddresses>", extend("maxProperties" = 32, "x-kubernetes-validations" = instance_names()))]
    pub unicast_peers: BTreeMap<String, Vec<IpAddr>>,
    /// Least TTL or hop limit of what is accepted, for unicast.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 255))]
    pub min_ttl: Option<u8>,
    /// What lowers the priority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub track: Option<Track>,
    /// Gratuitous ARP and unsolicited neighbour advertisements.
    #[serde(default)]
    pub gratuitous_arp: GratuitousArp,
    /// How advertisements are authenticated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication: Option<Authentication>,
    /// What becomes of the addresses when the agent is dead.
    pub on_agent_loss: OnAgentLoss,
    /// Services of the machine that run where the group is active.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub services: Vec<MachineService>,
    /// Whom to tell of transitions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<Notify>,
}

/// What keeps the object small: its groups together may have little more than one group alone.
fn totals() -> Vec<serde_json::Value> {
    let size = |list: &str| format!("(has({list}) ? {list}.size() : 0)");
    let track = ["interfaces", "virtualServices", "healthChecks"]
        .map(|list| size(&format!("g.track.{list}")))
        .join(" + ");
    let addresses = format!("g.instances.map(i, i.addresses.size() + {}).sum()", size("i.excludedAddresses"));
    [
        ("g.instances.size()".to_owned(), 32, "instances"),
        (addresses, 6144, "addresses"),
        (size("g.services"), 16, "services"),
        (format!("(has(g.track) ? {track} : 0)"), 96, "things that they track"),
    ]
    .into_iter()
    .map(|(count, most, of)| {
        rule(
            &format!("self.map(g, {count}).sum() <= {most}"),
            &format!("all groups of a director together have at most {most} {of}"),
        )
    })
    .collect()
}

/// Keys are names of instances.
fn instance_names() -> Vec<serde_json::Value> {
    vec![rule("self.all(name, name.size() <= 63)", "the name of an instance has at most 63 characters")]
}

/// Addresses of the other members, for the schema.
#[derive(Debug)]
enum PeerAddresses {}

impl JsonSchema for PeerAddresses {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PeerAddresses".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "array", "maxItems": 15, "x-kubernetes-list-type": "atomic",
            "items": shape::Unicast::json_schema(generator)})
    }
}

/// What that director's agent says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DirectorConfigStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Programmed, Ready; Degraded where it applies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
    /// State of each group, at most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["group"]))]
    pub vrrp: Vec<GroupState>,
    /// Version of the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub agent_version: Option<String>,
    /// Release of the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub kernel: Option<String>,
    /// What the machine lacks, such as a kernel module, at most 16 lines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<shape::Argument>", length(max = 16))]
    pub missing: Vec<String>,
    /// The flush (`spec.flush`) that has been carried out: nothing of the agent's is left in the kernel but settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub flushed: Option<String>,
}

/// State of a group on this director.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GroupState {
    /// Name of the VrrpGroup.
    #[schemars(with = "shape::Name")]
    pub group: String,
    /// Initialize, Backup, Active or Fault.
    pub state: VrrpState,
    /// Effective priority.
    #[schemars(range(max = 255))]
    pub priority: u8,
    /// When the state last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition: Option<Time>,
    /// Why it is in that state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub reason: Option<String>,
}
