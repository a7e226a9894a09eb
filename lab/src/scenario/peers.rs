//! Others in Bascule's place: what each node runs instead of its agent, and what is played and expected otherwise then.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::join;
use super::step::Step;
use super::topology::Peer;
use super::{Scenario, suggest};

/// Who can be played in Bascule's place (`bascule-lab run NAME --with keepalived`, `bascule-lab compare NAME`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Peers {
    /// keepalived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keepalived: Option<InPlace>,
    /// heartbeat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<InPlace>,
    /// FRR.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frr: Option<InPlace>,
    /// IPVS by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipvsadm: Option<InPlace>,
}

impl Peers {
    /// Whether nobody can.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// Those that can, by their names.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &InPlace)> {
        let all = [&self.keepalived, &self.heartbeat, &self.frr, &self.ipvsadm];
        Peer::NAMES.into_iter().zip(all).filter_map(|(name, place)| Some((name, place.as_ref()?)))
    }
}

/// A program in Bascule's place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InPlace {
    /// What is otherwise with it, in words.
    #[schemars(length(min = 1, max = 4096))]
    pub summary: String,
    /// By the name of a node, what runs there. Every node that has an agent is among them.
    pub nodes: BTreeMap<String, InPlaceNode>,
    /// What is played in place of steps of the scenario.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub steps: Vec<Otherwise>,
}

/// A node without its agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InPlaceNode {
    /// What runs.
    pub peer: Peer,
    /// Files besides those that the node has.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
    /// Commands at each boot, after those that the node has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 4096)))]
    pub exec: Vec<String>,
    /// Kernel parameters besides those that the node has.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
}

/// What is played in place of a step. What is expected here is judged like everything: who does what he must not, or not what he must, has
/// failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Otherwise {
    /// The name of the step.
    #[schemars(length(min = 1, max = 256))]
    pub step: String,
    /// Why, in words: reports and comparisons show it.
    #[schemars(length(min = 1, max = 512))]
    pub because: String,
    /// What is played; nothing unless told. A step of the same name keeps windows good that name it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub play: Vec<Step>,
}

/// How a name of a scenario and that of a peer make that of the scenario with the peer in Bascule's place.
const WITH: &str = "-with-";

impl Scenario {
    /// The same with a peer in Bascule's place. Its name says so: `tp-ipvs-with-ipvsadm`.
    ///
    /// # Errors
    /// When it does not say how that peer is played.
    pub fn with_peer(&self, peer: &str) -> Result<Self, String> {
        if let Some((name, place)) = self.peers.iter().find(|(name, _)| *name == peer) {
            return Ok(applied(self, name, place).0);
        }
        if self.peers.is_empty() {
            return Err(format!(
                "{} says of nobody how it is played in Bascule's place; it would say so under `peers`",
                self.name
            ));
        }
        let hint = suggest::hint(peer, self.peers.iter().map(|(name, _)| name));
        Err(format!("{} does not say how `{peer}` is played in Bascule's place{hint}", self.name))
    }
}

impl Scenario {
    /// The same where no agent and no peer runs until somebody starts it: what decides on a node is somebody's hand.
    #[must_use]
    pub fn by_hand(&self) -> Self {
        let mut scenario = self.clone();
        for node in &mut scenario.topology.nodes {
            if let Some(agent) = &mut node.agent {
                agent.start = false;
            }
            match &mut node.peer {
                Some(Peer::Keepalived(peer)) => peer.start = false,
                Some(Peer::Heartbeat(peer)) => peer.start = false,
                Some(Peer::Frr(peer)) => peer.start = false,
                // It is lines that are typed: those of the person.
                Some(Peer::Ipvsadm(_)) => node.peer = None,
                None => {}
            }
        }
        scenario
    }
}

/// The scenario with a peer in Bascule's place; and where each of its steps is in the scenario's file.
pub(super) fn applied(scenario: &Scenario, peer: &str, place: &InPlace) -> (Scenario, Vec<String>) {
    let mut applied = scenario.clone();
    applied.peers = Peers::default();
    applied.name = format!("{}{WITH}{peer}", scenario.name);
    applied.summary = format!("With {peer} in Bascule's place. {}\n\n{}", place.summary, scenario.summary);
    for node in &mut applied.topology.nodes {
        if let Some(other) = place.nodes.get(&*node.name) {
            node.agent = None;
            node.peer = Some(other.peer.clone());
            node.files.extend(other.files.clone());
            node.exec.extend(other.exec.iter().cloned());
            node.sysctls.extend(other.sysctls.clone());
        }
    }
    let (mut steps, mut origins) = (Vec::new(), Vec::new());
    for (at, step) in scenario.steps.iter().enumerate() {
        match place.steps.iter().position(|other| other.step == step.name) {
            None => {
                steps.push(step.clone());
                origins.push(format!("steps[{at}]"));
            }
            Some(other) => {
                for (play, step) in place.steps[other].play.iter().enumerate() {
                    steps.push(step.clone());
                    origins.push(format!("peers.{peer}.steps[{other}].play[{play}]"));
                }
            }
        }
    }
    applied.steps = steps;
    // A control says of Bascule where it fails.
    applied.control = None;
    (applied, origins)
}

/// Where a mistake of the scenario with the peer is in the scenario's file.
pub(super) fn place_of(scenario: &Scenario, peer: &str, origins: &[String], path: &str) -> String {
    let parts = |list: &str| {
        let (index, rest) = path.strip_prefix(list)?.strip_prefix('[')?.split_once(']')?;
        Some((index.parse::<usize>().ok()?, rest.to_owned()))
    };
    if let Some((index, rest)) = parts("steps") {
        return origins.get(index).map_or_else(|| path.to_owned(), |origin| format!("{origin}{rest}"));
    }
    let of_peer =
        |rest: &str| [".peer", ".files", ".exec", ".sysctls"].iter().any(|field| rest.starts_with(field));
    match parts("topology.nodes") {
        Some((index, rest)) if of_peer(&rest) => {
            let name = scenario.topology.nodes.get(index).map_or("", |node| &*node.name);
            format!("{}{rest}", join(&format!("peers.{peer}.nodes"), name))
        }
        _ => path.to_owned(),
    }
}
