//! What a scenario judges, in the field's words.

use std::collections::BTreeMap;
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::topology::Name;
use super::value::Span;

pub use super::connections::{ConnectionsExpectation, Established};
pub use super::events::EventExpectation;
pub use super::frames::{ClaimsExpectation, FrameFilter, FrameProtocol, FramesExpectation, TcpFlag};
pub use super::measures::{MetricExpectation, RestExpectation};
pub use super::reals::{Presence, RealServersExpectation};
pub use super::texts::{CommandExpectation, LogExpectation, TextExpectation};

/// One expectation: exactly one kind, and perhaps the time within which it comes true.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "ExpectationForm", into = "ExpectationForm")]
#[schemars(!try_from, !into, with = "ExpectationForm")]
pub struct Expectation {
    /// What is judged.
    pub kind: Kind,
    /// When it has to hold.
    pub when: When,
}

/// When something has to hold. Times begin with the step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum When {
    /// Now.
    #[default]
    Now,
    /// Once, within this time.
    Within(Span),
    /// Whenever it is looked at, for this time.
    Always(Span),
    /// At no look, for this time.
    Never(Span),
}

/// What is judged.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// A load's requests.
    Requests(RequestsExpectation),
    /// Who has an address.
    Holders(HoldersExpectation),
    /// What a kernel's tables hold.
    Kernel(KernelExpectation),
    /// Real servers of a virtual service over time.
    RealServers(RealServersExpectation),
    /// Held connections.
    Connections(ConnectionsExpectation),
    /// Recorded frames.
    Frames(FramesExpectation),
    /// Who claims an address on a link.
    Claims(ClaimsExpectation),
    /// What an agent says about itself.
    AgentStatus(AgentStatusExpectation),
    /// What an agent would change.
    Plan(PlanExpectation),
    /// What a program logged.
    Log(LogExpectation),
    /// What a command prints.
    Command(CommandExpectation),
    /// A figure of an agent's.
    Metric(MetricExpectation),
    /// What an agent told on its stream of events.
    Event(EventExpectation),
    /// That addresses have stopped moving.
    Rest(RestExpectation),
}

impl Kind {
    /// The name of the kind, as it is written in a scenario.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Requests(_) => "requests",
            Self::Holders(_) => "holders",
            Self::Kernel(_) => "kernel",
            Self::RealServers(_) => "realServers",
            Self::Connections(_) => "connections",
            Self::Frames(_) => "frames",
            Self::Claims(_) => "claims",
            Self::AgentStatus(_) => "agentStatus",
            Self::Plan(_) => "plan",
            Self::Log(_) => "log",
            Self::Command(_) => "command",
            Self::Metric(_) => "metric",
            Self::Event(_) => "event",
            Self::Rest(_) => "rest",
        }
    }
}

/// How an expectation is written: exactly one kind, and perhaps `within`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename = "Expectation", rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-exactly-one" = ["requests", "holders", "kernel", "realServers", "connections", "frames", "claims", "agentStatus", "plan", "log", "command", "metric", "event", "rest"], "x-at-most-one" = ["within", "always", "never"]))]
pub struct ExpectationForm {
    /// It need not hold at once, but within this of the step's beginning, plus the lateness that the canary measured meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    within: Option<Span>,
    /// It has to hold for this long from the step's beginning, whenever it is looked at: many times a second, or as often as looking takes
    /// a third of the time. The first look at which it does not ends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    always: Option<Span>,
    /// It must not hold at any look for this long from the step's beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    never: Option<Span>,
    /// What became of a load's requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    requests: Option<RequestsExpectation>,
    /// Who has an address, and for how long nobody or several had it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    holders: Option<HoldersExpectation>,
    /// What a node's kernel holds: IPVS, addresses, sysctls, nftables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kernel: Option<KernelExpectation>,
    /// When real servers left a virtual service in a kernel, and when they came back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    real_servers: Option<RealServersExpectation>,
    /// What became of held connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    connections: Option<ConnectionsExpectation>,
    /// How many frames of a kind were seen on a link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    frames: Option<FramesExpectation>,
    /// Which node claimed an address on a link, by ARP or neighbour advertisements, and when another one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    claims: Option<ClaimsExpectation>,
    /// What `bascule-agent status -o json` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    agent_status: Option<AgentStatusExpectation>,
    /// `bascule-agent plan` has nothing to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    plan: Option<PlanExpectation>,
    /// What a program of a node logged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    log: Option<LogExpectation>,
    /// What a command prints; with `within`, it is run until it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    command: Option<CommandExpectation>,
    /// A figure of an agent's `/metrics`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    metric: Option<MetricExpectation>,
    /// What an agent told on its stream of events: transitions of groups, and what checks changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    event: Option<EventExpectation>,
    /// That addresses have come to rest: none came or went for a while. With `within`: until when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rest: Option<RestExpectation>,
}

impl TryFrom<ExpectationForm> for Expectation {
    type Error = String;

    fn try_from(form: ExpectationForm) -> Result<Self, String> {
        let mut kinds: Vec<Kind> = [
            form.requests.map(Kind::Requests),
            form.holders.map(Kind::Holders),
            form.kernel.map(Kind::Kernel),
            form.real_servers.map(Kind::RealServers),
            form.connections.map(Kind::Connections),
            form.frames.map(Kind::Frames),
            form.claims.map(Kind::Claims),
            form.agent_status.map(Kind::AgentStatus),
            form.plan.map(Kind::Plan),
            form.log.map(Kind::Log),
            form.command.map(Kind::Command),
            form.metric.map(Kind::Metric),
            form.event.map(Kind::Event),
            form.rest.map(Kind::Rest),
        ]
        .into_iter()
        .flatten()
        .collect();
        let when = match (form.within, form.always, form.never) {
            (None, None, None) => When::Now,
            (Some(span), None, None) => When::Within(span),
            (None, Some(span), None) => When::Always(span),
            (None, None, Some(span)) => When::Never(span),
            _ => return Err("an expectation has at most one of `within`, `always` and `never`".into()),
        };
        match (kinds.pop(), kinds.pop()) {
            (Some(kind), None) => Ok(Self { kind, when }),
            (None, _) => Err("an expectation has exactly one kind; this one has none".into()),
            (Some(last), Some(other)) => Err(format!(
                "an expectation has exactly one kind; this one has `{}` and `{}`",
                other.name(),
                last.name()
            )),
        }
    }
}

impl From<Expectation> for ExpectationForm {
    fn from(expectation: Expectation) -> Self {
        let mut form = Self::default();
        match expectation.when {
            When::Now => {}
            When::Within(span) => form.within = Some(span),
            When::Always(span) => form.always = Some(span),
            When::Never(span) => form.never = Some(span),
        }
        match expectation.kind {
            Kind::Requests(kind) => form.requests = Some(kind),
            Kind::Holders(kind) => form.holders = Some(kind),
            Kind::Kernel(kind) => form.kernel = Some(kind),
            Kind::RealServers(kind) => form.real_servers = Some(kind),
            Kind::Connections(kind) => form.connections = Some(kind),
            Kind::Frames(kind) => form.frames = Some(kind),
            Kind::Claims(kind) => form.claims = Some(kind),
            Kind::AgentStatus(kind) => form.agent_status = Some(kind),
            Kind::Plan(kind) => form.plan = Some(kind),
            Kind::Log(kind) => form.log = Some(kind),
            Kind::Command(kind) => form.command = Some(kind),
            Kind::Metric(kind) => form.metric = Some(kind),
            Kind::Event(kind) => form.event = Some(kind),
            Kind::Rest(kind) => form.rest = Some(kind),
        }
        form
    }
}

/// A number: exactly `10`, or `{atLeast: 1}`, `{atMost: 3}`, both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Count {
    /// Exactly this many.
    Exactly(u64),
    /// Within these limits.
    Limits(Limits),
}

/// Limits of a number, both included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-ordered" = ["atLeast", "atMost"]))]
pub struct Limits {
    /// No fewer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_least: Option<u64>,
    /// No more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<u64>,
}

impl Count {
    /// Whether `seen` is such a number.
    pub fn admits(self, seen: u64) -> bool {
        match self {
            Self::Exactly(wanted) => seen == wanted,
            Self::Limits(limits) => {
                limits.at_least.is_none_or(|least| seen >= least)
                    && limits.at_most.is_none_or(|most| seen <= most)
            }
        }
    }

    /// Whether some number from `low` to `high`, both included, is such a number.
    pub fn admits_any(self, low: u64, high: u64) -> bool {
        match self {
            Self::Exactly(wanted) => (low..=high).contains(&wanted),
            Self::Limits(limits) => {
                limits.at_least.is_none_or(|least| high >= least)
                    && limits.at_most.is_none_or(|most| low <= most)
            }
        }
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exactly(wanted) => write!(f, "exactly {wanted}"),
            Self::Limits(Limits { at_least: Some(least), at_most: Some(most) }) => {
                write!(f, "{least} to {most}")
            }
            Self::Limits(Limits { at_least: Some(least), at_most: None }) => write!(f, "at least {least}"),
            Self::Limits(Limits { at_least: None, at_most: Some(most) }) => write!(f, "at most {most}"),
            Self::Limits(Limits { at_least: None, at_most: None }) => f.write_str("any number"),
        }
    }
}

/// A length of time that is judged. The limit is this plus the lateness of the machine during what was measured; where the measure is
/// coarser than the difference, the verdict is `undecided`. The lateness is what the canary was late in sum meanwhile, but at most four
/// times its worst: what is judged ends only after several processes ran one after another (who notices, who takes over, who asks, who
/// measures), and each may have met a late moment of the machine. A machine that is never late adds nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Bound {
    /// No longer.
    pub at_most: Span,
    /// How it follows from the timers, in words that are printed with it: `3 × 1s + Skew_Time 156/256 s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub from: Option<String>,
}

/// A part of the run, between the beginnings of two steps; all of it unless told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Window {
    /// From the beginning of this step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// To the beginning of this step; until now unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

impl Window {
    /// Whether it is the whole run.
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }
}

/// What became of a load's requests. Requests belong to a window by their scheduled time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RequestsExpectation {
    /// The load.
    #[schemars(length(min = 1, max = 256))]
    pub load: String,
    /// More loads, whose requests are judged together with its.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub also: Vec<String>,
    /// Which of them; all unless told.
    #[serde(default, skip_serializing_if = "Window::is_all")]
    pub window: Window,
    /// How many were sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent: Option<Count>,
    /// How many were answered well and in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ok: Option<Count>,
    /// How many were not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<Count>,
    /// Who answered how many. A server that is not named here answered none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answerers: Option<BTreeMap<String, Count>>,
    /// In what proportion servers answered, by weight: `{SRV1: 1, SRV2: 2}`. Exact: at most one request off for each, unless
    /// `tolerance` says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proportion: Option<BTreeMap<String, u32>>,
    /// How many requests each server may be off its share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<u64>,
    /// Answers, in the order in which the requests were scheduled, go round the servers: with two they alternate exactly.
    #[serde(default)]
    pub alternate: bool,
    /// All were answered by one and the same server, whichever.
    #[serde(default)]
    pub one_answerer: bool,
    /// The longest time without a good answer (`served`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longest_gap: Option<Bound>,
}

/// Who has an address, from the kernels' own notifications (`held`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HoldersExpectation {
    /// The address.
    pub address: IpAddr,
    /// The nodes that have it now; an empty list: nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<Name>>,
    /// Only these nodes count; all, unless told. Real servers of direct routing, for example, have a service's address on their loopback
    /// all the time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub among: Vec<Name>,
    /// The part of the run for gaps and overlaps; all of it, from the first time that somebody had it, unless told.
    #[serde(default, skip_serializing_if = "Window::is_all")]
    pub window: Window,
    /// The longest time that nobody had it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longest_gap: Option<Bound>,
    /// The longest time that two or more had it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longest_overlap: Option<Bound>,
}

/// What a node's kernel holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KernelExpectation {
    /// The node.
    pub node: Name,
    /// What `ipvsadm -Ln` prints, without its three heading lines; spaces in a row count as one, `*` stands for anything, the order
    /// of services and of servers does not matter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub ipvsadm: Option<Vec<String>>,
    /// Virtual services that are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub services: Option<Vec<ServiceExpectation>>,
    /// Virtual services that are not there: `TCP 192.16.193.30:80`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    pub no_services: Vec<String>,
    /// Addresses that are there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    pub addresses: Vec<AddressExpectation>,
    /// Addresses that no interface has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    pub no_addresses: Vec<IpAddr>,
    /// Kernel parameters and their values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
    /// What `nft list ruleset` prints.
    #[serde(default, skip_serializing_if = "TextExpectation::is_empty")]
    pub nft: TextExpectation,
}

/// A virtual service in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceExpectation {
    /// As `ipvsadm -Ln` prints it: `TCP 192.16.193.30:80`, `UDP [2001:db8::30]:53`, `FWM 1`, `FWM 1 IPv6`.
    pub service: String,
    /// Its scheduler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<String>,
    /// Its other words: `ops`, `persistent 360`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flags: Option<String>,
    /// Its real servers: these and no others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub destinations: Option<Vec<DestinationExpectation>>,
}

/// A real server in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DestinationExpectation {
    /// As `ipvsadm -Ln` prints it: `172.16.193.10:80`.
    pub server: String,
    /// `Masq`, `Route`, `Tunnel` or `Local`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward: Option<String>,
    /// Its weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// Its active connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<Count>,
    /// Its inactive connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inactive: Option<Count>,
}

/// An address on an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AddressExpectation {
    /// With its prefix: `192.16.193.30/32`.
    pub address: super::value::Prefix,
    /// Its interface; any unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<Name>,
    /// Its label: `enp0s3:30`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

/// What `bascule-agent status -o json` says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgentStatusExpectation {
    /// The node.
    pub node: Name,
    /// JSON pointers (RFC 6901) and the values there: `/ready: true`. In a list, `*` as an index stands for any element.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, serde_json::Value>,
    /// Words that are somewhere in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub contains: Vec<String>,
}

/// `bascule-agent plan` has nothing to do: exit 0 and no operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlanExpectation {
    /// The node.
    pub node: Name,
}
