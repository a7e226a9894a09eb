//! VrrpGroup: addresses that are on exactly one director and move together.

mod authentication;
mod instance;
mod track;

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{
    Allow, Condition, Duration, ProgramCall, between, conditions, exactly_one, rule, rule_at, shape, yes,
};
use crate::rules::vrrp_group as rules;
pub use authentication::{AntiReplay, Authentication, Hmac, HmacKey, HmacMode};
pub use instance::{Instance, Route, RoutingRule};
pub use track::{Track, TrackedInterface, TrackedObject};

/// Addresses that are on exactly one director and move together.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "bascule.dev",
    version = "v1alpha1",
    kind = "VrrpGroup",
    plural = "vrrpgroups",
    shortname = "vg",
    category = "bascule",
    status = "VrrpGroupStatus",
    derive = "PartialEq",
    doc = "Addresses that are on exactly one director and move together, by VRRP.",
    printcolumn(
        name = "Active",
        type_ = "string",
        json_path = ".status.active",
        description = "Who holds the addresses; more than one is a split brain."
    ),
    printcolumn(
        name = "Redundancy",
        type_ = "integer",
        json_path = ".status.redundancy",
        description = "How many more directors may fail."
    ),
    printcolumn(
        name = "Since",
        type_ = "date",
        json_path = ".status.since",
        description = "Last change of the active director."
    ),
    printcolumn(
        name = "Preferred",
        type_ = "string",
        json_path = ".spec.preferred",
        priority = 1,
        description = "Declared switch-over."
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether somebody holds the addresses."
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::spec()))]
pub struct VrrpGroupSpec {
    /// The directors, 1 to 16. The alive one with the highest priority is active.
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["director"]))]
    pub members: Vec<Member>,
    /// Version of VRRP: 2 (RFC 3768; IPv4, whole seconds) or 3 (RFC 9568). Default: 3.
    #[serde(default = "version")]
    #[schemars(range(min = 2, max = 3))]
    pub version: u8,
    /// From one advertisement to the next (keepalived: advert_int; heartbeat: keepalive). Version 3: 10ms to 40s950ms in steps
    /// of 10ms; version 2: whole seconds, 1s to 255s. Default: 1s.
    #[serde(default = "advertisement_interval")]
    #[schemars(extend("x-kubernetes-validations" = rules::advertisement_interval()))]
    pub advertisement_interval: Duration,
    /// Missed advertisements until the active director is taken for dead, 1 to 100 (keepalived: down_timer_adverts; heartbeat:
    /// deadtime divided by keepalive). Default: 3.
    #[serde(default = "down_intervals")]
    #[schemars(range(min = 1, max = 100))]
    pub down_intervals: u32,
    /// After this silence of the active director, at most 1h, a backup writes a warning to its log, once a silence; nothing else
    /// happens (heartbeat: warntime). Absent: no warning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = between("10ms", "1h")))]
    pub warn_after: Option<Duration>,
    /// Extends only the first wait for an active director after a start, at most 1h (heartbeat: initdead). It ends when a peer
    /// is heard; the member with the highest priority has no such extension. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = between("0s", "1h")))]
    pub startup_grace: Option<Duration>,
    /// Whether and when a member with a higher priority takes over from a living one (keepalived: nopreempt, preempt_delay;
    /// heartbeat: auto_failback). Default: enabled, at once.
    #[serde(default)]
    pub preempt: Preempt,
    /// A declared switch-over: this member has the effective priority 254 while it stands here. It overrides preempt and its
    /// delay, never a fault. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<shape::Name>")]
    pub preferred: Option<String>,
    /// Virtual routers, 1 to 32, that change state together (keepalived: vrrp_sync_group). All together have at most 2048
    /// addresses and 4096 excluded ones.
    #[schemars(length(min = 1, max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub instances: Vec<Instance>,
    /// How members reach each other. Absent: multicast.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peers: Option<Peers>,
    /// What lowers a member's priority or puts it into Fault. An instance's own interface is always tracked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub track: Option<Track>,
    /// Gratuitous ARP and unsolicited neighbour advertisements of the new active director.
    #[serde(default)]
    pub gratuitous_arp: GratuitousArp,
    /// How advertisements are authenticated. Absent: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication: Option<Authentication>,
    /// What becomes of the addresses when the agent is dead or stopped while its machine lives: `Release` gives them a lifetime
    /// in the kernel of max(2 s, Active_Down_Interval) which the agent renews; `Keep` leaves them. Default: Release with two
    /// members or more, else Keep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_agent_loss: Option<OnAgentLoss>,
    /// Services of the machine that run where the group is active, 0 to 16: started from the first to the last, stopped from the
    /// last to the first, watched, restarted once (heartbeat: haresources).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub services: Vec<MachineService>,
    /// Whom to tell of transitions (keepalived: notify_master, notify_backup, notify_fault, notify, notify_fifo).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<Notify>,
    /// Who may use this group beyond its own addresses, at most 32 entries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub allow: Vec<Allow>,
}

const fn version() -> u8 {
    3
}

fn advertisement_interval() -> Duration {
    Duration::from_secs(1)
}

const fn down_intervals() -> u32 {
    3
}

/// A director of the group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// Name of the director.
    #[schemars(with = "shape::Name")]
    pub director: String,
    /// Its priority, 1 to 253; 254 is kept for `preferred`, 255 (the address owner) does not exist. Default: 100.
    #[serde(default = "priority")]
    #[schemars(range(min = 1, max = 253))]
    pub priority: u8,
    /// The member's own address in each instance, by the instance's name: the source of its advertisements, needed for unicast
    /// (keepalived: unicast_src_ip).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, shape::Unicast>", extend("maxProperties" = 32))]
    pub addresses: BTreeMap<String, IpAddr>,
}

const fn priority() -> u8 {
    100
}

/// Whether a member with a higher priority takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule_at(".delay", "self.enabled || duration(self.delay) == duration('0s')",
    "a delay needs preempt to be enabled")]))]
pub struct Preempt {
    /// Whether it does. Default: true.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// How long it has been up before, at most 1h (keepalived: preempt_delay). Default: 0s.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-validations" = between("0s", "1h")))]
    pub delay: Duration,
}

impl Default for Preempt {
    fn default() -> Self {
        Preempt { enabled: true, delay: Duration::default() }
    }
}

/// How members reach each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [exactly_one(&["multicast", "unicast"])]))]
pub struct Peers {
    /// By VRRP's multicast group. It has no settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multicast: Option<Multicast>,
    /// By the members' own addresses (keepalived: unicast_peer).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unicast: Option<Unicast>,
}

/// Multicast has no settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Multicast {}

/// Peers by their addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Unicast {
    /// Least TTL or hop limit of what is accepted, 1 to 255; 255 accepts only what comes from the same link. Default: 255.
    #[serde(default = "min_ttl")]
    #[schemars(range(min = 1, max = 255))]
    pub min_ttl: u8,
}

const fn min_ttl() -> u8 {
    255
}

/// Gratuitous ARP and unsolicited neighbour advertisements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GratuitousArp {
    /// How many for each address, 0 to 100 (keepalived: garp_master_repeat). Default: 5.
    #[serde(default = "arp_count")]
    #[schemars(range(max = 100))]
    pub count: u32,
    /// Pause between two of them, at most 10s (keepalived: garp_interval). Default: 0s.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-validations" = between("0s", "10s")))]
    pub interval: Duration,
    /// They are sent once more after this time, at most 1h; 0s does not repeat (keepalived: garp_master_delay). Default: 5s.
    #[serde(default = "arp_repeat_after")]
    #[schemars(extend("x-kubernetes-validations" = between("0s", "1h")))]
    pub repeat_after: Duration,
    /// While active, one is sent every so often, 1s to 24h (keepalived: garp_master_refresh). Absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = between("1s", "24h")))]
    pub refresh: Option<Duration>,
}

const fn arp_count() -> u32 {
    5
}

fn arp_repeat_after() -> Duration {
    Duration::from_secs(5)
}

impl Default for GratuitousArp {
    fn default() -> Self {
        GratuitousArp {
            count: arp_count(),
            interval: Duration::default(),
            repeat_after: arp_repeat_after(),
            refresh: None,
        }
    }
}

/// What becomes of the addresses when the agent is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnAgentLoss {
    /// The kernel drops them.
    Release,
    /// They stay.
    Keep,
}

/// A service of the machine that runs where the group is active.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [exactly_one(&["systemd", "exec"])]))]
pub struct MachineService {
    /// A unit of systemd, such as `postfix.service`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255), regex(pattern = "^[A-Za-z0-9:_.@\\\\-]+$"))]
    pub systemd: Option<String>,
    /// A program that is called with its arguments and then `start`, `stop` or `status`, as heartbeat's resource scripts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<ProgramCall>,
}

/// Whom to tell of transitions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule(
    "has(self.active) || has(self.backup) || has(self.fault) || has(self.any) || (has(self.eventStream) && self.eventStream)",
    "at least one of active, backup, fault, any and eventStream must be set")]))]
pub struct Notify {
    /// Run on becoming active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<ProgramCall>,
    /// Run on becoming backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<ProgramCall>,
    /// Run on a fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<ProgramCall>,
    /// Run on every transition, with the new state as the last argument.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub any: Option<ProgramCall>,
    /// Whether the agent offers the transitions, and what changes about the real servers and quorums of its VirtualServices, as a
    /// stream of JSON lines on its local socket. Default: false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub event_stream: bool,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VrrpGroupStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Accepted, ResolvedRefs, Programmed, Ready; Degraded where it applies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
    /// Directors that hold the addresses, or claim to: two of them are a split brain.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<shape::Name>", length(max = 16))]
    pub active: Vec<String>,
    /// When `active` last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// What was allocated for the instances.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub instances: Vec<InstanceStatus>,
    /// Each member as it was last heard of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["director"]))]
    pub members: Vec<MemberStatus>,
    /// How many more directors may fail until nobody holds the addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redundancy: Option<u32>,
}

/// What was allocated for an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InstanceStatus {
    /// Name of the instance.
    #[schemars(with = "shape::Label")]
    pub name: String,
    /// Its virtual router id.
    #[schemars(range(min = 1, max = 255))]
    pub virtual_router_id: u8,
}

/// A member as it was last heard of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// Name of the director.
    #[schemars(with = "shape::Name")]
    pub director: String,
    /// Its state: Initialize, Backup, Active, Fault, or Unknown when nobody reports.
    pub state: VrrpState,
    /// Its effective priority, 0 to 255.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 255))]
    pub priority: Option<u8>,
    /// When its state last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition: Option<Time>,
    /// Why it is in that state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub reason: Option<String>,
}

/// State of a member (RFC 9568 section 6.4), with what VRRP has no name for.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum VrrpState {
    /// Not started.
    Initialize,
    /// Listening.
    Backup,
    /// Holding the addresses.
    Active,
    /// Something tracked has failed.
    Fault,
    /// Nobody reports.
    #[default]
    Unknown,
}
