//! Others in Bascule's place: that everything fits the scenario, and that what is left of it can be played with them.

use std::collections::BTreeSet;

use super::super::check::{Violation, join};
use super::super::peers::{InPlace, applied, place_of};
use super::super::suggest;
use super::{Checker, plain};

impl Checker<'_> {
    /// The mistakes of the peers. Called when the scenario itself has none: they would be told again with each.
    pub(super) fn peers(&mut self) {
        let scenario = self.scenario;
        for (peer, place) in scenario.peers.iter() {
            let before = self.found.len();
            self.places(peer, place);
            self.otherwise(peer, place);
            if self.found.len() > before {
                continue;
            }
            let (other, origins) = applied(scenario, peer, place);
            for Violation { path, message } in plain(&other) {
                let path = place_of(scenario, peer, &origins, &path);
                let way_out = if path.starts_with("steps[") {
                    format!("; say under `peers.{peer}.steps` what is played instead")
                } else {
                    String::new()
                };
                self.report(path, format!("with {peer} in Bascule's place: {message}{way_out}"));
            }
        }
    }

    /// Which nodes, and what they run.
    fn places(&mut self, peer: &str, place: &InPlace) {
        let path = format!("peers.{peer}.nodes");
        for (name, node) in &place.nodes {
            let path = join(&path, name);
            let Some(known) = self.known_node_at(name, path.clone()) else { continue };
            if known.agent.is_none() {
                let message = format!("`{name}` has no agent, in whose place something could run");
                self.report(&*path, message);
            }
            if node.peer.name() != peer {
                let message = format!("is `{}`, but stands under `peers.{peer}`", node.peer.name());
                self.report(format!("{path}.peer"), message);
            }
        }
        let agents = self.topology.nodes.iter().filter(|node| node.agent.is_some());
        for node in agents.filter(|node| !place.nodes.contains_key(&*node.name)) {
            self.report(&*path, format!("does not say what `{}` runs in place of its agent", node.name));
        }
    }

    /// Which steps are played otherwise.
    fn otherwise(&mut self, peer: &str, place: &InPlace) {
        let mut seen = BTreeSet::new();
        for (index, other) in place.steps.iter().enumerate() {
            let path = format!("peers.{peer}.steps[{index}].step");
            if !seen.insert(&other.step) {
                self.report(&*path, format!("`{}` is played otherwise twice", other.step));
            }
            if !self.scenario.steps.iter().any(|step| step.name == other.step) {
                let names = self.scenario.steps.iter().map(|step| step.name.as_str());
                let hint = suggest::hint(&other.step, names);
                self.report(path, format!("there is no step `{}`{hint}", other.step));
            }
        }
    }
}
