//! The scenario language: one YAML file with a topology, steps and expectations.

pub mod bond;
mod check;
pub mod connections;
pub mod events;
pub mod expectation;
pub mod fault;
pub mod frames;
mod load;
mod loads;
pub mod measures;
pub mod peer;
pub mod peers;
#[cfg(test)]
mod peers_tests;
mod quantity;
pub mod reals;
mod refer;
pub mod schema;
pub mod shipped;
pub mod step;
pub(crate) mod suggest;
#[cfg(test)]
mod tests;
pub mod texts;
pub mod topology;
pub mod value;
mod write;

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(crate) use check::join;
pub use expectation::{Expectation, Kind};
pub use fault::Fault;
pub(crate) use load::read_text;
pub use load::{MAX_BYTES, Problem, fault as read_fault, load, load_file, resolve};
pub(crate) use loads::{Target, load_name, recorded};
pub use peers::Peers;
pub use step::{Action, Step};
pub use topology::{Name, Topology};
pub use value::{Prefix, Span};
pub(crate) use write::write as written;

/// A scenario: a network, what is done to it, and what has to come out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scenario {
    /// Its name: the file's, without `.yaml`.
    #[serde(skip)]
    pub name: String,
    /// What it shows, in a line: `bascule-lab list` prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 80))]
    pub title: Option<String>,
    /// What it shows, in words.
    #[schemars(length(min = 1, max = 4096))]
    pub summary: String,
    /// What the machine has to have; without it the scenario is `unsupported`.
    #[serde(default, skip_serializing_if = "Requirements::is_empty")]
    pub requires: Requirements,
    /// Which links are recorded without being asked.
    #[serde(default)]
    pub record: Record,
    /// The network.
    pub topology: Topology,
    /// What happens, one thing after another. A step that fails ends the scenario.
    #[schemars(length(min = 1, max = 256))]
    pub steps: Vec<Step>,
    /// Who can be played in Bascule's place, with which files, and what is otherwise then.
    #[serde(default, skip_serializing_if = "Peers::is_empty")]
    pub peers: Peers,
    /// A negative control: a scenario that must fail, and where. It proves that the lab notices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<Control>,
}

/// What a machine has to have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Requirements {
    /// Features of the kernel.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub kernel: BTreeSet<Feature>,
    /// Programs, by their names.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub programs: BTreeSet<String>,
    /// For how long the machine may stand still in a step: where the programs take a longer silence for a failure of each other, what
    /// they do says nothing about them. A run that fails after a longer one is `undecided`, and played again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lateness: Option<Span>,
}

impl Requirements {
    /// Whether any machine will do.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A feature of a kernel. Namespaces, bridges and veth are always needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Feature {
    /// IP virtual server (`ip_vs`).
    Ipvs,
    /// IP in IP tunnels (`tunl0`).
    Ipip,
    /// nftables with connection tracking.
    Nftables,
    /// Loss, delay and the like on a link (`sch_netem`). What a fault `impair` needs is needed without being said.
    Netem,
    /// Bonded links (`bonding`). What a link with a `bond` needs is needed without being said.
    Bonding,
}

impl Scenario {
    /// The features of the kernel that it needs: those that it requires, and those of its links and faults.
    pub fn features(&self) -> BTreeSet<Feature> {
        let mut features = self.requires.kernel.clone();
        if self.faults().any(|fault| matches!(fault, Fault::Impair(_))) {
            features.insert(Feature::Netem);
        }
        if self.topology.nodes.iter().flat_map(|node| &node.links).any(|link| link.bond.is_some()) {
            features.insert(Feature::Bonding);
        }
        features
    }

    /// Whether it moves the wall clock, which is the whole machine's.
    pub fn moves_the_clock(&self) -> bool {
        self.faults().any(|fault| matches!(fault, Fault::ClockStep(_)))
    }

    fn faults(&self) -> impl Iterator<Item = &Fault> {
        self.steps.iter().filter_map(|step| match &step.action {
            Action::Fault(fault) => Some(fault),
            _ => None,
        })
    }
}

impl Feature {
    /// Its name, as it is written in a scenario.
    pub fn name(self) -> &'static str {
        match self {
            Self::Netem => "netem",
            Self::Bonding => "bonding",
            Self::Ipvs => "ipvs",
            Self::Ipip => "ipip",
            Self::Nftables => "nftables",
        }
    }
}

/// Which links are recorded without being asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Record {
    /// Those of nodes with an agent or a peer program, and those that `frames` and `claims` expectations name.
    Directors,
    /// All, at both ends: what was sent and never arrived is marked so.
    #[default]
    All,
    /// Only those that `frames` and `claims` expectations name.
    Asked,
}

/// Where a negative control must fail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Control {
    /// The step.
    pub fails_at: String,
    /// Words of the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
}
