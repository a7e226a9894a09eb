//! Director: one machine with an agent.

use std::collections::BTreeMap;
use std::net::IpAddr;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{AddressPrefix, Allow, Condition, Duration, between, conditions, rule, shape, yes};
use crate::rules::whole_seconds;

/// One machine with an agent. Its name is the node's name.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "bascule.dev",
    version = "v1alpha1",
    kind = "Director",
    plural = "directors",
    shortname = "dir",
    category = "bascule",
    status = "DirectorStatus",
    derive = "PartialEq",
    doc = "One machine with an agent. Its name is the node's name.",
    printcolumn(
        name = "Out",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Maintenance\")].reason",
        description = "Why it is out of service: Maintenance, Cordoned or Excluded."
    ),
    printcolumn(
        name = "Domain",
        type_ = "string",
        json_path = ".status.failureDomain",
        priority = 1,
        description = "What fails together with it."
    ),
    printcolumn(
        name = "Version",
        type_ = "string",
        json_path = ".status.agentVersion",
        description = "Version of its agent."
    ),
    printcolumn(
        name = "Services",
        type_ = "integer",
        json_path = ".status.virtualServices",
        description = "Virtual services on it."
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether its agent reports and the kernel holds what it should."
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct DirectorSpec {
    /// Names that manifests use for this machine's interfaces, at most 32: alias to interface, each of 1 to 15 characters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, shape::Interface>", extend("maxProperties" = 32, "x-kubernetes-validations" = aliases()))]
    pub interface_aliases: BTreeMap<String, String>,
    /// Takes the machine out of service: it hands its groups over, and what is on it alone takes no new connections. A cordoned Node, or one
    /// with the label node.kubernetes.io/exclude-from-external-load-balancers, hands its groups over as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<Maintenance>,
    /// Timeouts of IPVS connections (ipvsadm: --set). Absent: the kernel's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// What becomes of connections whose real server is gone.
    #[serde(default)]
    pub expire: Expire,
    /// Whether the agent sets the sysctls that its work needs (`Manage`) or only says what is missing (`Report`). Default:
    /// Manage.
    #[serde(default)]
    pub sysctls: Sysctls,
    /// What fails together with this machine, such as a rack or a zone, at most 63 characters. Where it is the zone that
    /// EndpointSlices hint at (`trafficDistribution`), endpoints meant for that zone are preferred. Absent: what the label
    /// topology.kubernetes.io/zone of its Node says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"))]
    pub failure_domain: Option<String>,
    /// ServiceAccount of the agent on a machine outside the cluster. Absent: the chart's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<ServiceAccountRef>,
    /// Synchronises IPVS connections with other directors (ipvsadm: --start-daemon; keepalived: lvs_sync_daemon). Absent: not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_sync: Option<ConnectionSync>,
    /// Who may use this director, at most 32 entries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub allow: Vec<Allow>,
    /// Networks of loopback or link-local addresses that may be real servers and targets of checks all the same, at most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<shape::Network>", length(max = 64), extend("x-kubernetes-list-type" = "set"))]
    pub allowed_targets: Vec<AddressPrefix>,
}

/// Keys are names that stand for interfaces.
pub(crate) fn aliases() -> Vec<serde_json::Value> {
    vec![rule(
        "self.all(alias, alias.size() <= 15 && alias.matches('^[^/:[:space:]]+$'))",
        "an alias has 1 to 15 characters, none of them a slash, a colon or white space",
    )]
}

/// Takes the machine out of service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Maintenance {
    /// Whether it is out: its groups are handed over, and services on this director alone (`director:`) are drained. Default: false.
    #[serde(default)]
    pub enabled: bool,
    /// How long the connections of services on this director alone may take to end, at most 24h; then they are cut. Absent: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = between("0s", "24h")))]
    pub drain_timeout: Option<Duration>,
}

/// Timeouts of IPVS connections: whole seconds, 1s to 744h each. What is absent stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// An established TCP connection without traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = whole_seconds("1s", "744h")))]
    pub tcp: Option<Duration>,
    /// A TCP connection after a FIN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = whole_seconds("1s", "744h")))]
    pub tcp_fin: Option<Duration>,
    /// UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = whole_seconds("1s", "744h")))]
    pub udp: Option<Duration>,
}

/// What becomes of connections whose real server is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Expire {
    /// A connection to a real server that left is ended at its next packet (sysctl: expire_nodest_conn). Default: true.
    #[serde(default = "yes")]
    pub no_destination: bool,
    /// Persistence to a real server of weight 0 ends (sysctl: expire_quiescent_template). Default: true.
    #[serde(default = "yes")]
    pub quiescent_template: bool,
}

impl Default for Expire {
    fn default() -> Self {
        Expire { no_destination: true, quiescent_template: true }
    }
}

/// Whether the agent sets sysctls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Sysctls {
    /// It sets them.
    #[default]
    Manage,
    /// It says what is missing.
    Report,
}

/// A ServiceAccount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAccountRef {
    /// Its namespace.
    #[schemars(with = "shape::Label")]
    pub namespace: String,
    /// Its name.
    #[schemars(with = "shape::LongName")]
    pub name: String,
}

/// Synchronises IPVS connections with other directors. The kernel has one sender and one receiver for each network namespace;
/// both always run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionSync {
    /// Interface, or an alias of it, on which the messages are sent (ipvsadm: --mcast-interface).
    #[schemars(with = "shape::Interface")]
    pub interface: String,
    /// Number that the directors that synchronise have in common, 1 to 255 (ipvsadm: --syncid).
    #[schemars(range(min = 1, max = 255))]
    pub sync_id: u8,
    /// Multicast group (ipvsadm: --mcast-group). Default: 224.0.0.81.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<MulticastGroup>")]
    pub group: Option<IpAddr>,
    /// UDP port, 1 to 65535 (ipvsadm: --mcast-port). Default: 8848.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// TTL or hop limit, 1 to 255 (ipvsadm: --mcast-ttl). Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 255))]
    pub ttl: Option<u8>,
    /// Longest message in bytes, 1 to 65507 (ipvsadm: --sync-maxlen). Default: what the link holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65507))]
    pub max_length: Option<u16>,
    /// Packets of a connection until it is first sent, 0 to 2147483647 (sysctl: sync_threshold). Default: 0, when
    /// it is established, and then by time alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 2_147_483_647))]
    pub threshold: Option<u32>,
    /// How often a connection is sent again, whole seconds, 0s to 24h (sysctl: sync_refresh_period). Default: 10s, and 0s
    /// with a threshold above 0: then every 50 packets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = whole_seconds("0s", "24h")))]
    pub refresh_period: Option<Duration>,
    /// Retries of such a refresh, 0 to 3 (sysctl: sync_retries). Default: 2, and 0 without refresh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 3))]
    pub retries: Option<u8>,
}

/// A multicast address, for the schema.
#[derive(Debug)]
enum MulticastGroup {}

impl JsonSchema for MulticastGroup {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "MulticastGroup".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "minLength": 2, "maxLength": 45, "x-kubernetes-validations": [rule(
            "isIP(self) && (cidr('224.0.0.0/4').containsIP(self) || cidr('ff00::/8').containsIP(self))",
            "must be a multicast address")]})
    }
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DirectorStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Accepted, Programmed, Ready; Degraded and Maintenance where they apply.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
    /// Version of its agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub agent_version: Option<String>,
    /// Release of its kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub kernel: Option<String>,
    /// What fails together with it, as its spec or its Node says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub failure_domain: Option<String>,
    /// How many virtual services are on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_services: Option<u32>,
    /// How many NatRules are on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat_rules: Option<u32>,
    /// How many VrrpGroups it is active for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_groups: Option<u32>,
}
