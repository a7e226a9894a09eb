//! VirtualService: an address and ports spread over real servers.

mod scheduler;

use std::collections::BTreeMap;
use std::net::IpAddr;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{
    AddressOrRange, Condition, Duration, Family, ProgramCall, Protocol, between, conditions, rule, rule_at,
    shape,
};
pub use crate::forwarding::{Forwarding, ForwardingMethod, SourceNat, Tunnel, TunnelChecksum, TunnelType};
use crate::rules::virtual_service as rules;
pub use scheduler::{Persistence, PersistenceEngine, Scheduler, SchedulerName};

/// An address and ports (or a firewall mark) spread over real servers.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "bascule.dev",
    version = "v1alpha1",
    kind = "VirtualService",
    plural = "virtualservices",
    shortname = "vs",
    category = "bascule",
    namespaced,
    status = "VirtualServiceStatus",
    derive = "PartialEq",
    doc = "An address and ports spread over real servers, by the kernel's IPVS.",
    printcolumn(
        name = "Addresses",
        type_ = "string",
        json_path = ".status.summary.addresses",
        description = "The addresses, or the firewall mark."
    ),
    printcolumn(
        name = "Ports",
        type_ = "string",
        json_path = ".status.summary.ports",
        description = "Ports and protocols."
    ),
    printcolumn(
        name = "Scheduler",
        type_ = "string",
        json_path = ".spec.scheduler.name",
        description = "How connections are spread."
    ),
    printcolumn(
        name = "Up",
        type_ = "string",
        json_path = ".status.summary.up",
        description = "Real servers that are up, of all."
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether it serves."
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::spec()))]
pub struct VirtualServiceSpec {
    /// The VrrpGroup where its addresses live: they are on the director where that group is active. IPVS rules and checks run
    /// on every member; only addresses and NAT move. Exactly one of this and `director`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<shape::Name>")]
    pub vrrp_group: Option<String>,
    /// One director, without VRRP. Exactly one of this and `vrrpGroup`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub director: Option<DirectorPlacement>,
    /// Virtual addresses, 1 to 64: IPv4 or IPv6 addresses, or ranges `A-B` within one /24 (IPv4) or /120 (IPv6). They share one
    /// pool of real servers (keepalived: virtual_server_group). With `vrrpGroup`, each must be among the addresses of the
    /// group's instances. Exactly one of this and `fwmark`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<shape::AddressOrRange>", length(min = 1, max = 64), extend("x-kubernetes-list-type" = "set"))]
    pub addresses: Vec<AddressOrRange>,
    /// Balances what carries a firewall mark, instead of addresses and ports (ipvsadm: -f; keepalived: fwmark).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fwmark: Option<Fwmark>,
    /// Ports, 1 to 64, unique by port and protocol. Required with `addresses`, absent with `fwmark`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["port", "protocol"],
        "x-kubernetes-validations" = rules::ports()))]
    pub ports: Vec<ServicePort>,
    /// How new connections are spread (ipvsadm: -s; keepalived: lb_algo). Default: wlc.
    #[serde(default)]
    pub scheduler: Scheduler,
    /// Schedules every datagram on its own (ipvsadm: --ops). UDP only. The kernel keeps no state of them: it does not translate the
    /// answers of masqueraded real servers back, unless the persistence engine is sip, and rewrites no source for `sourceNat`. So
    /// it is for traffic without answers, such as syslog, or for DirectRouting and Tunnel. Default: false.
    #[serde(default)]
    pub one_packet: bool,
    /// Sends a client's connections to the same real server (ipvsadm: -p; keepalived: persistence_timeout). Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistence: Option<Persistence>,
    /// How packets reach the real servers (keepalived: lvs_method). Real servers and sorry servers may override it. Default:
    /// Masquerade.
    #[serde(default)]
    pub forwarding: Forwarding,
    /// Whether the client's address is rewritten too, so that replies return through the director. Masquerade only. `Auto`: for
    /// clients in a connected network through which a real server is reached, the case in which plain LVS-NAT silently fails.
    /// Default: Always for `realServersFrom` with the method Masquerade, because pods answer through their own node, else Never.
    /// The source is the group's floating inside address where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_nat: Option<SourceNat>,
    /// Real servers, 0 to 256. At most one of this and `realServersFrom`; with neither, only the sorry servers serve.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub real_servers: Vec<RealServer>,
    /// Takes the real servers from Kubernetes. At most one of this and `realServers`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub real_servers_from: Option<RealServersFrom>,
    /// HealthChecks of this namespace, 0 to 8, that a real server must pass, all of them. One that is not there, or cannot be run,
    /// says nothing: a real server stays what it was, one of which nothing is known is what `initialState` says, and `ResolvedRefs`
    /// names the check.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<shape::Name>", length(max = 8), extend("x-kubernetes-list-type" = "set"))]
    pub health_checks: Vec<String>,
    /// Host of the HTTP requests of all checks of this service (keepalived: virtualhost of the virtual server). Absent: what the
    /// check says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<shape::HostName>")]
    pub check_host: Option<String>,
    /// How much must be alive for the service to be up (keepalived: quorum). Absent: one real server's weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum: Option<Quorum>,
    /// Who serves while the quorum is not met (keepalived: sorry_server): 0 to 2, at most one of each address family. None may have
    /// the address and port of a real server.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2), extend("x-kubernetes-list-type" = "atomic", "x-kubernetes-validations" = [
        rule("self.filter(s, s.address.contains(':')).size() <= 1 && self.filter(s, !s.address.contains(':')).size() <= 1",
            "at most one sorry server of each address family")]))]
    pub sorry_servers: Vec<SorryServer>,
    /// What becomes of a real server whose checks fail: `Remove` takes it out of the kernel's table, `Quiesce` gives it weight 0,
    /// which keeps its connections (keepalived: inhibit_on_failure). For UDP it is always removed. Default: Remove.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// State of a real server before its first check: with `Down` nothing is sent before the first success (keepalived: alpha).
    /// Default: Up.
    #[serde(default)]
    pub initial_state: InitialState,
    /// How a real server leaves that is removed or terminating. Default: at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
}

/// One director without VRRP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DirectorPlacement {
    /// Name of the director.
    #[schemars(with = "shape::Name")]
    pub name: String,
    /// Interface, or alias of one, on which the agent adds the virtual addresses, as /32 or /128: those of `addresses`, or those of
    /// `fwmark.match`. Absent: only IPVS is programmed, the addresses are somebody else's matter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<shape::Interface>")]
    pub interface: Option<String>,
}

/// A service named by a firewall mark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::fwmark()))]
pub struct Fwmark {
    /// The mark, from 1 to 4294967295.
    #[schemars(range(min = 1, max = 4_294_967_295_u64))]
    pub mark: u32,
    /// Address family of the packets that carry it: IPv4 or IPv6 (ipvsadm: -6).
    pub family: Family,
    /// What the agent's own nftables table marks, such as ports 80 and 443 of one address, so that persistence holds across
    /// both. Absent: somebody else sets the mark.
    #[serde(default, rename = "match", skip_serializing_if = "Option::is_none")]
    pub match_: Option<FwmarkMatch>,
}

/// What gets the mark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FwmarkMatch {
    /// Destination addresses or ranges `A-B`, 1 to 64, of the mark's family. IPVS takes only what is sent to the director itself:
    /// they must be its own, so with `director.interface` the agent adds them there, as /32 or /128.
    #[schemars(with = "Vec<shape::AddressOrRange>", length(min = 1, max = 64), extend("x-kubernetes-list-type" = "set"))]
    pub addresses: Vec<AddressOrRange>,
    /// Destination ports, 1 to 64.
    #[schemars(length(min = 1, max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["port", "protocol"]))]
    pub ports: Vec<MatchPort>,
}

/// A protocol and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MatchPort {
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The port, 1 to 65535.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
}

/// A port of the virtual service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// Name of the port, unique in the service. Needed only where a real server has a port of its own for it (`targetPorts`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<shape::PortName>")]
    pub name: Option<String>,
    /// TCP, UDP or SCTP. There is no default.
    pub protocol: Protocol,
    /// The port, 1 to 65535; 0 is every port, and needs `persistence`.
    pub port: u16,
    /// Port of the real servers: a number from 1 to 65535, or, with `realServersFrom`, the name of a port of the Service.
    /// Default: the same as `port`. Only Masquerade can change the port: with DirectRouting and Tunnel it must equal `port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_port: Option<TargetPort>,
}

/// A port by its number, or by its name in a Service of Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TargetPort {
    /// The number.
    Number(u16),
    /// The name, to be looked up in the EndpointSlices.
    Name(String),
}

impl JsonSchema for TargetPort {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "TargetPort".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "x-kubernetes-int-or-string": true,
            "minimum": 1,
            "maximum": 65535,
            "minLength": 1,
            "maxLength": 15,
            // At least one letter, as in the names of Kubernetes: a number in quotes is a mistake.
            "pattern": "^([0-9][-0-9]*)?[a-z]([-a-z0-9]*[a-z0-9])?$",
        })
    }
}

/// A real server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RealServer {
    /// Name, unique in the service: for status, metrics and people.
    #[schemars(with = "shape::Label")]
    pub name: String,
    /// Its address, IPv4 or IPv6, of a family that the service has (Tunnel may cross families). No two of a service may have one
    /// address and one port: the kernel's table has one entry for both. The schema cannot see it; `Accepted` says so.
    #[schemars(with = "shape::Unicast")]
    pub address: IpAddr,
    /// Its share, 0 to 65535; 0 gets no new connections. Default: 1.
    #[serde(default = "one")]
    #[schemars(range(max = 65535))]
    pub weight: u32,
    /// Ports of its own, by the name of the service's port, at most 8. Masquerade only, as `targetPort`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, Port>", extend("maxProperties" = 8))]
    pub target_ports: BTreeMap<String, u16>,
    /// Overrides the service's forwarding for this server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwarding: Option<Forwarding>,
    /// HealthChecks of its own, at most 4, which replace the service's; an empty list leaves it unchecked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<shape::Name>>", length(max = 4), extend("x-kubernetes-list-type" = "set"))]
    pub health_checks: Option<Vec<String>>,
    /// Bounds on its connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// Quiesces it now: weight 0, existing connections go on. Default: false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drain: bool,
}

const fn one() -> u32 {
    1
}

/// A port number, for the schema.
#[derive(Debug)]
enum Port {}

impl JsonSchema for Port {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Port".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "integer", "minimum": 1, "maximum": 65535})
    }
}

/// Bounds on the connections of a real server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule_at(".lower", "!has(self.lower) || (has(self.upper) && self.lower <= self.upper)",
    "lower needs upper, and must not be above it")]))]
pub struct Limits {
    /// At this many connections no new ones are sent (ipvsadm: -x; keepalived: uthreshold).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_295_u64))]
    pub upper: Option<u32>,
    /// After that, new ones are sent again below this many (ipvsadm: -y; keepalived: lthreshold). Absent: three quarters of
    /// `upper`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_295_u64))]
    pub lower: Option<u32>,
}

/// Where real servers come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RealServersFrom {
    /// A Service of this namespace. Its EndpointSlices, any number, are the real servers: ready ones serve; serving and
    /// terminating ones drain, and take new connections when none is ready; `trafficDistribution` is respected.
    pub service: ServiceRef,
}

/// A Service of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRef {
    /// Its name.
    #[schemars(with = "shape::Label")]
    pub name: String,
}

/// How much must be alive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule_at(".hysteresis", "self.hysteresis < self.weight",
    "hysteresis must be below weight")]))]
pub struct Quorum {
    /// The sum of the weights of live real servers that the service needs, 1 to 16776960. Default: 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 16_776_960))]
    pub weight: u32,
    /// The quorum is lost below `weight - hysteresis` and gained at `weight + hysteresis`. Default: 0.
    #[serde(default)]
    #[schemars(range(max = 16_776_959))]
    pub hysteresis: u32,
    /// What happens without quorum: the sorry servers serve instead of the real servers (`SorryServer`; without one the live real
    /// servers go on), the service leaves IPVS (`Withdraw`), or the live real servers go on (`Keep`). Default: SorryServer.
    #[serde(default)]
    pub below: BelowQuorum,
    /// Programs run when the quorum is gained or lost (keepalived: quorum_up, quorum_down).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hooks: Option<QuorumHooks>,
}

/// What happens without quorum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BelowQuorum {
    /// The sorry servers serve.
    #[default]
    SorryServer,
    /// The service leaves IPVS.
    Withdraw,
    /// The live real servers go on.
    Keep,
}

/// Programs run when the quorum changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QuorumHooks {
    /// When it is gained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up: Option<ProgramCall>,
    /// When it is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down: Option<ProgramCall>,
}

/// Who serves while the quorum is not met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SorryServer {
    /// Its address.
    #[schemars(with = "shape::Unicast")]
    pub address: IpAddr,
    /// Its port, 1 to 65535, for all ports of the service. Default: the service's port. Masquerade only, as `targetPort`; not for
    /// a firewall mark or port 0, which keep each connection's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// Overrides the service's forwarding (keepalived: sorry_server_lvs_method).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwarding: Option<Forwarding>,
}

/// What becomes of a real server whose checks fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnFailure {
    /// It leaves the kernel's table.
    #[default]
    Remove,
    /// It gets weight 0.
    Quiesce,
}

/// State of a real server before its first check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum InitialState {
    /// It serves.
    #[default]
    Up,
    /// It waits for a success.
    Down,
}

/// How a real server leaves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Drain {
    /// A removed or terminating server has weight 0 until its connections have ended (TCP: no active connection) or for this
    /// long, at most 24h. Default: 0s, at once.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-validations" = between("0s", "24h")))]
    pub timeout: Duration,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualServiceStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Accepted, ResolvedRefs, Programmed, Ready; QuorumMet and Degraded where they apply.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
    /// Real servers, the lowest count among the live directors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub real_servers: Option<RealServerCounts>,
    /// The same for the columns of `kubectl get`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<VirtualServiceSummary>,
}

/// How many real servers there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RealServerCounts {
    /// Those that are up.
    pub up: u32,
    /// All.
    pub total: u32,
}

/// Strings for the columns of `kubectl get`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualServiceSummary {
    /// The addresses, shortened.
    #[schemars(length(max = 256))]
    pub addresses: String,
    /// The ports, shortened.
    #[schemars(length(max = 256))]
    pub ports: String,
    /// `2/3`: up, of all.
    #[schemars(length(max = 32))]
    pub up: String,
}
