//! VirtualServiceBinding and NatRuleBinding: what the operator writes for agents. One object, one director, everything resolved.

use std::net::IpAddr;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{
    AddressOrRange, Condition, Duration, Family, Protocol, between, conditions, exactly_one, rule, shape,
};
use crate::forwarding::{Forwarding, SourceNat};
use crate::nat_rule::Translation;
use crate::virtual_service::{
    FwmarkMatch, InitialState, Limits, OnFailure, PersistenceEngine, Quorum, SchedulerName, TargetPort,
};

/// One VirtualService on one director, resolved: it leaves the agent no choice.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "bascule.dev",
    version = "v1alpha1",
    kind = "VirtualServiceBinding",
    plural = "virtualservicebindings",
    shortname = "vsb",
    category = "bascule",
    namespaced,
    status = "VirtualServiceBindingStatus",
    derive = "PartialEq",
    selectable = ".spec.director",
    selectable = ".spec.virtualService",
    doc = "One VirtualService on one director, resolved. Written by the operator; its status is written by that director's agent.",
    printcolumn(
        name = "Service",
        type_ = "string",
        json_path = ".spec.virtualService",
        description = "The VirtualService."
    ),
    printcolumn(
        name = "Director",
        type_ = "string",
        json_path = ".spec.director",
        description = "The director."
    ),
    printcolumn(
        name = "Up",
        type_ = "integer",
        json_path = ".status.realServersUp",
        description = "Real servers that are up."
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
pub struct VirtualServiceBindingSpec {
    /// Name of the VirtualService, in the same namespace. Immutable.
    #[schemars(with = "shape::Name", extend("x-kubernetes-validations" = immutable("virtualService")))]
    pub virtual_service: String,
    /// Name of the director. Immutable.
    #[schemars(with = "shape::Name", extend("x-kubernetes-validations" = immutable("director")))]
    pub director: String,
    /// The VrrpGroup that its addresses follow. Absent: it is always here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<shape::Name>")]
    pub vrrp_group: Option<String>,
    /// Interface, aliases resolved, on which the agent adds the addresses as /32 or /128. Absent: IPVS only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<shape::Interface>")]
    pub interface: Option<String>,
    /// Virtual addresses and ranges, at most 64. Empty with `fwmark`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<shape::AddressOrRange>", length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub addresses: Vec<AddressOrRange>,
    /// The firewall mark, instead of addresses and ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fwmark: Option<BindingFwmark>,
    /// Ports, at most 64. Empty with `fwmark`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub ports: Vec<BindingPort>,
    /// How new connections are spread.
    pub scheduler: BindingScheduler,
    /// Schedules every datagram on its own.
    #[serde(default)]
    pub one_packet: bool,
    /// Sends a client's connections to the same real server. Absent: not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistence: Option<BindingPersistence>,
    /// Whether the client's address is rewritten: Never, Auto or Always.
    pub source_nat: SourceNat,
    /// Real servers, at most 256.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "atomic"))]
    pub real_servers: Vec<BindingRealServer>,
    /// Takes the real servers from the EndpointSlices of a Service of this namespace, which the agent watches itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub real_servers_from: Option<BindingRealServersFrom>,
    /// Host of the HTTP requests of all checks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<shape::HostName>")]
    pub check_host: Option<String>,
    /// How much must be alive. Absent: one real server's weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum: Option<Quorum>,
    /// Who serves while the quorum is not met, at most 2.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2), extend("x-kubernetes-list-type" = "atomic"))]
    pub sorry_servers: Vec<BindingRealServer>,
    /// What becomes of a real server whose checks fail.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// State of a real server before its first check.
    #[serde(default)]
    pub initial_state: InitialState,
    /// How long a removed or terminating real server may keep its connections, at most 24h. Default: 0s.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-validations" = between("0s", "24h")))]
    pub drain_timeout: Duration,
}

/// A field that says what the object is about.
fn immutable(field: &str) -> Vec<serde_json::Value> {
    vec![rule("self == oldSelf", &format!("{field} is immutable: another one is another binding"))]
}

/// A firewall mark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BindingFwmark {
    /// The mark, from 1 to 4294967295.
    #[schemars(range(min = 1, max = 4_294_967_295_u64))]
    pub mark: u32,
    /// Address families of the kernel's services of this mark.
    #[schemars(length(min = 1, max = 2), extend("x-kubernetes-list-type" = "set"))]
    pub families: Vec<Family>,
    /// What the agent's own nftables table marks. Absent: somebody else sets the mark.
    #[serde(default, rename = "match", skip_serializing_if = "Option::is_none")]
    pub match_: Option<FwmarkMatch>,
}

/// A port of the service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BindingPort {
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<shape::PortName>")]
    pub name: Option<String>,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The port; 0 is every port.
    pub port: u16,
}

/// How new connections are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BindingScheduler {
    /// The scheduler.
    pub name: SchedulerName,
    /// sh-fallback or mh-fallback.
    #[serde(default)]
    pub fallback: bool,
    /// sh-port or mh-port.
    #[serde(default)]
    pub hash_port: bool,
}

/// Sends a client's connections to the same real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BindingPersistence {
    /// Seconds after a client's last connection for which its choice is kept, 1 to 2678400.
    #[schemars(range(min = 1, max = 2_678_400))]
    pub timeout_seconds: u32,
    /// Bits of an IPv4 address that make a client.
    #[schemars(range(min = 1, max = 32))]
    pub ipv4_prefix: u8,
    /// Bits of an IPv6 address that make a client.
    #[schemars(range(min = 1, max = 128))]
    pub ipv6_prefix: u8,
    /// The persistence engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<PersistenceEngine>,
}

/// A real server or sorry server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BindingRealServer {
    /// Its name.
    #[schemars(with = "shape::Label")]
    pub name: String,
    /// Its address.
    #[schemars(with = "shape::Unicast")]
    pub address: IpAddr,
    /// Its weight; 0 when it drains.
    #[schemars(range(max = 65535))]
    pub weight: u32,
    /// How packets reach it.
    pub forwarding: Forwarding,
    /// Its port for each of the service's `ports`, in their order. Empty with `fwmark`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub target_ports: Vec<u16>,
    /// Bounds on its connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// Whether it was told to drain.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drain: bool,
    /// HealthChecks of this namespace that it must pass, at most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<shape::Name>", length(max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub health_checks: Vec<String>,
}

/// Where real servers come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BindingRealServersFrom {
    /// Name of the Service.
    #[schemars(with = "shape::Label")]
    pub service: String,
    /// How packets reach its endpoints.
    pub forwarding: Forwarding,
    /// The endpoints' port for each of the service's `ports`, in their order: a number (0 where `port` is 0), or a name in the
    /// EndpointSlices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<EndpointPort>", length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub target_ports: Vec<TargetPort>,
    /// HealthChecks of this namespace that each endpoint must pass, at most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<shape::Name>", length(max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub health_checks: Vec<String>,
}

/// A port of endpoints, for the schema.
#[derive(Debug)]
enum EndpointPort {}

impl JsonSchema for EndpointPort {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "EndpointPort".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let mut schema = TargetPort::json_schema(generator);
        schema.insert("minimum".into(), 0.into());
        schema
    }
}

/// What that director's agent says of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualServiceBindingStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Programmed, Ready; QuorumMet and Degraded where they apply.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
    /// How many real servers are up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub real_servers_up: Option<u32>,
    /// How many there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub real_servers_total: Option<u32>,
    /// Real servers, at most 64, those that are not up first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub real_servers: Vec<RealServerStatus>,
}

/// A real server as that director sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RealServerStatus {
    /// Its name; of an endpoint the name of its pod.
    #[schemars(with = "shape::LongName")]
    pub name: String,
    /// Its address.
    #[schemars(with = "shape::ReportedAddress")]
    pub address: IpAddr,
    /// Starting, Up, Down or Draining.
    pub state: RealServerState,
    /// Its weight in the kernel.
    #[schemars(range(max = 65535))]
    pub weight: u32,
    /// Each check's verdict, at most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub checks: Vec<CheckStatus>,
}

/// State of a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum RealServerState {
    /// No check has spoken yet.
    Starting,
    /// It serves.
    Up,
    /// Its checks fail.
    Down,
    /// It gets no new connections.
    Draining,
}

/// What a check says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckStatus {
    /// Name of the HealthCheck.
    #[schemars(with = "shape::Name")]
    pub name: String,
    /// Whether it passes. Absent: not known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passing: Option<bool>,
    /// Why, at most 128 characters, never a body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub message: Option<String>,
}

/// One NatRule on one director, resolved.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "bascule.dev",
    version = "v1alpha1",
    kind = "NatRuleBinding",
    plural = "natrulebindings",
    shortname = "natb",
    category = "bascule",
    namespaced,
    status = "NatRuleBindingStatus",
    derive = "PartialEq",
    selectable = ".spec.director",
    selectable = ".spec.natRule",
    doc = "One NatRule on one director, resolved. Written by the operator; its status is written by that director's agent.",
    printcolumn(name = "Rule", type_ = "string", json_path = ".spec.natRule", description = "The NatRule."),
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
#[schemars(extend("x-kubernetes-validations" = [exactly_one(&["portForward", "masquerade", "sourceNat", "staticNat"])]))]
pub struct NatRuleBindingSpec {
    /// Name of the NatRule, in the same namespace. Immutable.
    #[schemars(with = "shape::Name", extend("x-kubernetes-validations" = immutable("natRule")))]
    pub nat_rule: String,
    /// Name of the director. Immutable.
    #[schemars(with = "shape::Name", extend("x-kubernetes-validations" = immutable("director")))]
    pub director: String,
    /// The VrrpGroup that it follows. Absent: it is always here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<shape::Name>")]
    pub vrrp_group: Option<String>,
    /// The rule itself, aliases of interfaces resolved.
    #[serde(flatten)]
    pub translation: Translation,
}

/// What that director's agent says of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NatRuleBindingStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Programmed, Ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
}
