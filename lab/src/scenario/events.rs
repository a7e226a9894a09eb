//! What agents tell on their streams of events.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::expectation::{Count, Window};
use super::topology::Name;

/// Events that an agent has told on its stream (`events.sock`), which a VrrpGroup of its manifests has to ask for: `notify.eventStream: true`.
/// The state that the stream tells at connect counts where that was not told before. Exactly one of `group` and `virtualService`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EventExpectation {
    /// The node.
    pub node: Name,
    /// Transitions of this VrrpGroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub group: Option<String>,
    /// What checks have changed about this VirtualService of a group, by namespace and name: `tp/web`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 507))]
    pub virtual_service: Option<String>,
    /// Of its real servers, only this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub real_server: Option<String>,
    /// Not its real servers, but that its quorum became this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum: Option<Quorum>,
    /// Only from this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<State>,
    /// Only to this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<State>,
    /// Only those whose reason contains this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub reason: Option<String>,
    /// How many; at least one unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<Count>,
    /// In which part of the run; all of it unless told, up to now. With `never`, mostly from the beginning of the step itself.
    #[serde(default, skip_serializing_if = "Window::is_all")]
    pub window: Window,
}

/// A state of a group (the first four), or of a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum State {
    /// A group does not take part yet, or no longer.
    Initialize,
    /// Somebody else has the addresses.
    Backup,
    /// The node has them.
    Active,
    /// It cannot have them.
    Fault,
    /// No check has said anything of the real server yet.
    Starting,
    /// It is alive.
    Up,
    /// It is not.
    Down,
    /// It gets no new connections.
    Draining,
}

impl State {
    /// Whether it is one of a group.
    pub fn of_group(self) -> bool {
        matches!(self, Self::Initialize | Self::Backup | Self::Active | Self::Fault)
    }

    /// As the stream writes it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Initialize => "Initialize",
            Self::Backup => "Backup",
            Self::Active => "Active",
            Self::Fault => "Fault",
            Self::Starting => "Starting",
            Self::Up => "Up",
            Self::Down => "Down",
            Self::Draining => "Draining",
        }
    }
}

/// Whether enough real servers are alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Quorum {
    /// Enough.
    Met,
    /// Too few.
    Lost,
}

impl Quorum {
    /// As the stream writes it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Met => "Met",
            Self::Lost => "Lost",
        }
    }
}
