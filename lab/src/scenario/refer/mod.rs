//! Checks what a scenario refers to: nodes, networks, interfaces, servers, loads, steps; and what no schema can say.

mod events;
mod expectations;
mod network;
mod peers;
mod steps;

use super::Scenario;
use super::check::Violation;
use super::suggest;
use super::topology::{Link, Node, Topology};

/// All mistakes.
pub(crate) fn check(scenario: &Scenario) -> Vec<Violation> {
    let found = plain(scenario);
    if !found.is_empty() {
        return found;
    }
    let mut checker = Checker { scenario, topology: &scenario.topology, found };
    checker.peers();
    checker.found
}

/// All mistakes but those of the peers.
fn plain(scenario: &Scenario) -> Vec<Violation> {
    let mut checker = Checker { scenario, topology: &scenario.topology, found: Vec::new() };
    checker.networks_and_nodes();
    checker.addresses();
    checker.overlaps();
    checker.steps();
    if let Some(control) = &scenario.control
        && !scenario.steps.iter().any(|step| step.name == control.fails_at)
    {
        let hint = suggest::hint(&control.fails_at, scenario.steps.iter().map(|step| step.name.as_str()));
        checker.report("control.failsAt", format!("there is no step `{}`{hint}", control.fails_at));
    }
    checker.found
}

/// The name under which steps, faults and logs know a node's agent.
const AGENT: &str = crate::fault::AGENT;

struct Checker<'a> {
    scenario: &'a Scenario,
    topology: &'a Topology,
    found: Vec<Violation>,
}

impl<'a> Checker<'a> {
    fn report(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.found.push(Violation { path: path.into(), message: message.into() });
    }

    fn known_node(&mut self, name: &str, path: &str) -> Option<&'a Node> {
        self.known_node_at(name, format!("{path}.node"))
    }

    fn known_node_at(&mut self, name: &str, path: String) -> Option<&'a Node> {
        let node = self.topology.node(name);
        if node.is_none() {
            let hint = suggest::hint(name, self.topology.nodes.iter().map(|node| &*node.name));
            self.report(path, format!("there is no node `{name}`{hint}"));
        }
        node
    }

    fn interface(&mut self, node: &Node, name: &str, path: String) {
        let cables = || node.links.iter().flat_map(Link::cables).map(|cable| &**cable);
        if node.links.iter().any(|link| link.bond.is_some() && &*link.interface == name) {
            let legs = cables().collect::<Vec<_>>();
            self.report(
                path,
                format!("`{name}` is a bond; name one of its cables: {}", suggest::list(&legs)),
            );
        } else if !cables().any(|cable| cable == name) {
            let hint = suggest::hint(name, cables());
            self.report(path, format!("`{}` has no interface `{name}`{hint}", node.name));
        }
    }

    fn server(&mut self, node: &Node, name: &str, path: String) {
        if !node.servers.iter().any(|server| &*server.name == name) {
            let hint = suggest::hint(name, node.servers.iter().map(|server| &*server.name));
            self.report(path, format!("`{}` has no server `{name}`{hint}", node.name));
        }
    }
}

/// What a load is, as far as it matters for judging.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LoadKind {
    Requests,
    Hold,
}
