//! What a scenario does, one thing after another.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use super::connections::Hold;
use super::expectation::{Expectation, TextExpectation};
use super::fault::Fault;
use super::topology::Name;
use super::value::Span;

/// One step: a name and exactly one thing to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "StepForm", into = "StepForm")]
#[schemars(!try_from, !into, with = "StepForm")]
pub struct Step {
    /// What progress, reports and windows call it.
    pub name: String,
    /// What it does.
    pub action: Action,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Write, edit or delete manifests.
    Apply(Apply),
    /// Run a command.
    Exec(Exec),
    /// Send requests.
    Requests(Requests),
    /// Open connections and keep them.
    Hold(Hold),
    /// End a load, held connections or a capture.
    Stop(Stop),
    /// Tell a server how to behave.
    Server(ServerMode),
    /// Break something.
    Fault(Fault),
    /// Mend what a fault broke.
    Heal(Fault),
    /// Let time pass, or wait for something.
    Wait(Wait),
    /// Judge.
    Expect(Vec<Expectation>),
    /// End an agent and start it again.
    RestartAgent(RestartAgent),
    /// Record the frames of a link.
    Capture(Capture),
}

impl Action {
    /// The name of the kind, as it is written in a scenario.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Apply(_) => "apply",
            Self::Exec(_) => "exec",
            Self::Requests(_) => "requests",
            Self::Hold(_) => "hold",
            Self::Stop(_) => "stop",
            Self::Server(_) => "server",
            Self::Fault(_) => "fault",
            Self::Heal(_) => "heal",
            Self::Wait(_) => "wait",
            Self::Expect(_) => "expect",
            Self::RestartAgent(_) => "restartAgent",
            Self::Capture(_) => "capture",
        }
    }
}

/// How a step is written: a name and exactly one of the other keys.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename = "Step", rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-exactly-one" = ["apply", "exec", "requests", "hold", "stop", "server", "fault", "heal", "wait", "expect", "restartAgent", "capture"]))]
pub struct StepForm {
    /// What progress, reports and windows call it; no two steps have one name.
    #[schemars(length(min = 1, max = 256))]
    name: String,
    /// Write, edit or delete manifests of an agent, as an administrator does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    apply: Option<Apply>,
    /// Run a command in a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exec: Option<Exec>,
    /// Send requests at a fixed rate, whatever becomes of them (an open loop).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    requests: Option<Requests>,
    /// Open connections and keep them open, a line exchanged on each every second, or a download that does not end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hold: Option<Hold>,
    /// End a load, held connections or a capture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stop: Option<Stop>,
    /// Tell one of the lab's servers to fail, slow down, hang, or be well again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    server: Option<ServerMode>,
    /// Break something. It proves that it took effect, or the run is an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fault: Option<Fault>,
    /// Mend what the same fault broke in an earlier step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    heal: Option<Fault>,
    /// Let time pass, or wait until expectations hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wait: Option<Wait>,
    /// Judge: all of these hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    expect: Option<Vec<Expectation>>,
    /// End an agent (or the peer program in its place) and start it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    restart_agent: Option<RestartAgent>,
    /// Record the frames of a link from now on. All are recorded without being asked, unless `record` says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    capture: Option<Capture>,
}

impl TryFrom<StepForm> for Step {
    type Error = String;

    fn try_from(form: StepForm) -> Result<Self, String> {
        let mut actions: Vec<Action> = [
            form.apply.map(Action::Apply),
            form.exec.map(Action::Exec),
            form.requests.map(Action::Requests),
            form.hold.map(Action::Hold),
            form.stop.map(Action::Stop),
            form.server.map(Action::Server),
            form.fault.map(Action::Fault),
            form.heal.map(Action::Heal),
            form.wait.map(Action::Wait),
            form.expect.map(Action::Expect),
            form.restart_agent.map(Action::RestartAgent),
            form.capture.map(Action::Capture),
        ]
        .into_iter()
        .flatten()
        .collect();
        match (actions.pop(), actions.pop()) {
            (Some(action), None) => Ok(Self { name: form.name, action }),
            (None, _) => Err("a step does exactly one thing; this one does nothing".into()),
            (Some(last), Some(other)) => Err(format!(
                "a step does exactly one thing; this one has `{}` and `{}`",
                other.kind(),
                last.kind()
            )),
        }
    }
}

impl From<Step> for StepForm {
    fn from(step: Step) -> Self {
        let mut form = Self { name: step.name, ..Self::default() };
        match step.action {
            Action::Apply(action) => form.apply = Some(action),
            Action::Exec(action) => form.exec = Some(action),
            Action::Requests(action) => form.requests = Some(action),
            Action::Hold(action) => form.hold = Some(action),
            Action::Stop(action) => form.stop = Some(action),
            Action::Server(action) => form.server = Some(action),
            Action::Fault(action) => form.fault = Some(action),
            Action::Heal(action) => form.heal = Some(action),
            Action::Wait(action) => form.wait = Some(action),
            Action::Expect(action) => form.expect = Some(action),
            Action::RestartAgent(action) => form.restart_agent = Some(action),
            Action::Capture(action) => form.capture = Some(action),
        }
        form
    }
}

/// Changes to the manifests of an agent. Each file changes at once, by rename. Order: `write`, `replace`, `delete`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Apply {
    /// The node. Its disk is written also while it is crashed.
    pub node: Name,
    /// File names and contents.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub write: BTreeMap<String, String>,
    /// Text that is replaced in files that are there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub replace: Vec<Replace>,
    /// Files that are deleted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub delete: Vec<String>,
}

/// An edit of a file: the text is there exactly once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Replace {
    /// The file's name.
    pub file: String,
    /// What is there.
    #[schemars(length(min = 1))]
    pub old: String,
    /// What takes its place.
    pub new: String,
}

/// A command in a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Exec {
    /// The node.
    pub node: Name,
    /// For `/bin/sh -c`.
    #[schemars(length(min = 1, max = 4096))]
    pub command: String,
    /// Its exit code; 0 unless told.
    #[serde(default)]
    pub exit_code: u8,
    /// What it prints.
    #[serde(default, skip_serializing_if = "TextExpectation::is_empty")]
    pub stdout: TextExpectation,
    /// What it complains.
    #[serde(default, skip_serializing_if = "TextExpectation::is_empty")]
    pub stderr: TextExpectation,
    /// How long it may take; 30 s unless told.
    #[serde(default = "half_a_minute")]
    pub timeout: Span,
}

fn half_a_minute() -> Span {
    Span::from_secs(30)
}

/// A load: requests at a fixed rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Requests {
    /// How expectations call it; the step's name unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub load: Option<String>,
    /// The node that sends.
    pub from: Name,
    /// Where to: `http://192.16.193.30/`, `tcp://192.16.193.30:7`, `udp://192.16.193.30:53`, `ping://192.16.193.30`.
    #[schemars(length(min = 7, max = 256))]
    pub target: String,
    /// Requests a second; 100 unless told.
    #[serde(default = "hundred")]
    #[schemars(range(min = 1, max = 10000))]
    pub rate: u32,
    /// How many. At most one of this and `duration`; with neither the load runs until it is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub count: Option<u32>,
    /// For how long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<Span>,
    /// A request counts as failed unless it completes within this of its scheduled time, which does not go on while the machine stands
    /// still, and if its first SYN was not answered; 500 ms unless told.
    #[serde(default = "half_a_second")]
    pub timeout: Span,
    /// The source address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<std::net::IpAddr>,
    /// All requests on one connection that is kept (for UDP: from one port); a connection each unless told. The next request then waits
    /// for the one before.
    #[serde(default)]
    pub reuse: bool,
    /// The next step begins at once, while the requests go on. Else the step ends with the last request.
    #[serde(default)]
    pub background: bool,
}

fn hundred() -> u32 {
    100
}

fn half_a_second() -> Span {
    Span::from_millis(500)
}

/// What ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Stop {
    /// The load or the held connections.
    #[schemars(length(min = 1, max = 256))]
    pub load: String,
}

/// How a server behaves from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServerMode {
    /// The node.
    pub node: Name,
    /// One of its `servers`.
    pub server: Name,
    /// The behaviour.
    pub mode: Mode,
    /// With `slow`: how long each answer takes; 1 s unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<Span>,
    /// With `error`: the status, for HTTP 503 and for SMTP 421 unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 599))]
    pub status: Option<u16>,
    /// The page, instead of the one that says who it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65536))]
    pub body: Option<String>,
    /// Another certificate than that of the topology: a file of the node, in PEM, with its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 4096))]
    pub certificate: Option<String>,
}

/// A behaviour of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// Answers at once.
    Ok,
    /// Answers with an error: a status of HTTP or SMTP, a server failure of DNS. TCP is closed, datagrams are not answered.
    Error,
    /// Answers late.
    Slow,
    /// Accepts and says nothing.
    Hang,
    /// Closes its listening sockets.
    Refuse,
}

/// Time, or a condition. Exactly one of `for` and `until`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-exactly-one" = ["for", "until"]))]
pub struct Wait {
    /// Just this long.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub duration: Option<Span>,
    /// Until all of these hold at once. If they do not in time, the scenario fails.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub until: Vec<Expectation>,
    /// How long at most; 30 s unless told. It is patience, not a bound that is judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Span>,
}

/// An agent ends and starts again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RestartAgent {
    /// The node.
    pub node: Name,
    /// How it ends, and what starts.
    #[serde(default)]
    pub how: RestartHow,
}

/// How an agent ends, and what starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum RestartHow {
    /// SIGTERM, then the same program again.
    #[default]
    Terminate,
    /// SIGKILL, then the same program again.
    Kill,
    /// SIGTERM, then a program from another file, as a package's upgrade leaves it.
    Upgrade,
    /// A program from another file is started with `--take-over` beside the old one, which hands it everything and ends.
    TakeOver,
}

/// Frames of a link, recorded into `capture.pcapng`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Capture {
    /// The node.
    pub node: Name,
    /// Its interface.
    pub interface: Name,
}
