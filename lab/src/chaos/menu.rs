//! What can be broken in a network, and what that means for who uses it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::site::{Site, TO_ACT};
use crate::scenario::fault::{
    Blackhole, CarrierFault, ClockStep, Direction, Impair, InterfaceFault, NodeFault, Partition, ServiceFault,
};
use crate::scenario::topology::{Name, Node, Topology};
use crate::scenario::{Fault, Span};

/// Kinds that are played only where they are asked for by name: they need more of the kernel, or the virtual machine.
pub(super) const ONLY_IF_NAMED: [&str; 2] = ["impair", "clockStep"];

/// What is true while a fault is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Effect {
    /// Requests that need this node have no path.
    pub(super) cuts: bool,
    /// No request need be answered.
    pub(super) parts: bool,
    /// Several may have the addresses: they do not hear each other.
    pub(super) doubles: bool,
    /// Connections that were open end with it.
    pub(super) ends_connections: bool,
    /// After its heal an agent has to become ready.
    pub(super) restarts: bool,
}

/// A fault that can be drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) fault: Fault,
    pub(super) effect: Effect,
    /// How likely it is, beside the others of its part.
    weight: u32,
}

/// Nodes that stand in for each other, or one for which nobody does: one fault at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) entries: Vec<Entry>,
    /// After how long a fault, or its heal, may be felt no more.
    pub(super) notice: Duration,
    /// How long after a heal the next fault may come.
    pub(super) settle: Duration,
}

impl Part {
    pub(super) fn weights(&self) -> Vec<u32> {
        self.entries.iter().map(|entry| entry.weight).collect()
    }
}

/// All that can be broken; with `only`, of these kinds.
pub(super) fn menu(site: &Site, topology: &Topology, only: &BTreeSet<String>) -> Vec<Part> {
    let mut parts = Vec::new();
    if let Some(group) = &site.group {
        let mut entries = Vec::new();
        for node in nodes(topology, &group.nodes) {
            director(&mut entries, node, group.interfaces.len() == 1, group.keeps);
        }
        // One network of several parted: the others are heard, and nobody takes over.
        let doubles = group.interfaces.len() == 1;
        let effect = Effect { parts: doubles, doubles, ..Effect::default() };
        for network in shared_networks(topology, &group.nodes) {
            let groups = group.nodes.iter().map(|node| vec![node.clone()]).collect();
            push(&mut entries, 1, effect, Fault::Partition(Partition { network, groups }));
        }
        parts.push(Part { entries, notice: group.down + TO_ACT, settle: group.down + site.settle() });
    }
    let servers = &site.servers;
    if !servers.nodes.is_empty() {
        let mut entries = Vec::new();
        for node in nodes(topology, &servers.nodes) {
            server(&mut entries, node);
        }
        let settle = servers.back + TO_ACT * 2;
        parts.push(Part { entries, notice: servers.out + TO_ACT, settle });
    }
    for node in nodes(topology, &site.alone) {
        let mut entries = Vec::new();
        alone(&mut entries, node);
        let notice = servers.back.max(Duration::from_secs(1)) + TO_ACT;
        parts.push(Part { entries, notice, settle: notice });
    }
    for part in &mut parts {
        part.entries.retain(|entry| {
            let kind = entry.fault.kind();
            if only.is_empty() { !ONLY_IF_NAMED.contains(&kind) } else { only.contains(kind) }
        });
    }
    parts.retain(|part| !part.entries.is_empty());
    parts
}

fn nodes<'a>(topology: &'a Topology, names: &'a [Name]) -> impl Iterator<Item = &'a Node> {
    names.iter().filter_map(|name| topology.node(name))
}

fn push(entries: &mut Vec<Entry>, weight: u32, effect: Effect, fault: Fault) {
    entries.push(Entry { fault, effect, weight });
}

/// The networks on which all of these nodes are, by a cable that can be parted from others.
fn shared_networks(topology: &Topology, names: &[Name]) -> Vec<Name> {
    let on = |node: &Node, network: &Name| {
        let links: Vec<_> = node.links.iter().filter(|link| link.network == *network).collect();
        !links.is_empty() && links.iter().all(|link| link.bond.is_none())
    };
    let networks = topology.networks.iter().map(|network| &network.name);
    networks.filter(|network| nodes(topology, names).all(|node| on(node, network))).cloned().collect()
}

fn interfaces(node: &Node) -> impl Iterator<Item = &Name> {
    node.links.iter().filter(|link| link.bond.is_none()).map(|link| &link.interface)
}

/// What ends a machine, or cuts it off so that it notices.
fn machine(entries: &mut Vec<Entry>, node: &Node, effect: Effect) {
    let named = || NodeFault { node: node.name.clone() };
    let restarts = Effect { restarts: node.agent.is_some(), ..effect };
    push(entries, 3, restarts, Fault::Crash(named()));
    push(entries, 1, restarts, Fault::Reboot(named()));
    push(entries, 2, effect, Fault::FreezeNode(named()));
    push(entries, 2, effect, Fault::CarrierLost(CarrierFault { node: node.name.clone(), interface: None }));
    for interface in interfaces(node) {
        let fault = InterfaceFault { node: node.name.clone(), interface: interface.clone() };
        push(entries, 2, effect, Fault::AdminDown(fault));
    }
}

/// A cable that is late, and doubles frames, but loses none.
fn bad_cable(node: &Node, interface: &Name) -> Fault {
    Fault::Impair(Impair {
        node: node.name.clone(),
        interface: interface.clone(),
        direction: Direction::Both,
        loss: None,
        delay: Some(Span::from_millis(20)),
        jitter: Some(Span::from_millis(10)),
        duplicate: "10%".parse().ok(),
        reorder: None,
        rate: None,
    })
}

fn director(entries: &mut Vec<Entry>, node: &Node, one_network: bool, keeps: bool) {
    let named = || NodeFault { node: node.name.clone() };
    let none = Effect::default();
    machine(entries, node, none);
    push(entries, 1, none, Fault::DiskFull(named()));
    // Where the addresses stay with the machine, two have them by configuration.
    if !keeps {
        push(entries, 3, Effect { restarts: true, ..none }, Fault::KillAgent(named()));
        push(entries, 2, none, Fault::FreezeAgent(named()));
    }
    let cables: Vec<&Name> = interfaces(node).collect();
    for interface in &cables {
        if cables.len() > 1 {
            let fault = CarrierFault { node: node.name.clone(), interface: Some((*interface).clone()) };
            push(entries, 2, none, Fault::CarrierLost(fault));
        }
        push(entries, 1, none, bad_cable(node, interface));
    }
    // It does not notice, and keeps the addresses. On one network of several the others go on hearing it, and nobody takes over.
    if one_network && let [interface] = cables.as_slice() {
        let fault = blackhole(node, interface);
        push(entries, 2, Effect { doubles: true, ..none }, fault);
    }
    let step = ClockStep { forward: Some(Span::from_secs(3600)), back: None };
    push(entries, 1, none, Fault::ClockStep(step));
}

fn blackhole(node: &Node, interface: &Name) -> Fault {
    let (node, interface) = (node.name.clone(), interface.clone());
    Fault::Blackhole(Blackhole { node, interface, direction: Direction::Both })
}

fn server(entries: &mut Vec<Entry>, node: &Node) {
    let effect = Effect { ends_connections: true, ..Effect::default() };
    machine(entries, node, effect);
    for interface in interfaces(node) {
        push(entries, 2, effect, blackhole(node, interface));
    }
    for server in &node.servers {
        let fault = ServiceFault { node: node.name.clone(), service: server.name.clone() };
        push(entries, 3, effect, Fault::StopService(fault));
    }
}

fn alone(entries: &mut Vec<Entry>, node: &Node) {
    let named = || NodeFault { node: node.name.clone() };
    machine(entries, node, Effect { cuts: true, ends_connections: true, ..Effect::default() });
    // Its kernel goes on.
    push(entries, 3, Effect { restarts: true, ..Effect::default() }, Fault::KillAgent(named()));
    push(entries, 2, Effect::default(), Fault::FreezeAgent(named()));
    push(entries, 1, Effect::default(), Fault::DiskFull(named()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::resolve;

    fn kinds(name: &str, only: &[&str]) -> Vec<BTreeSet<String>> {
        let topology = resolve(name).expect("it ships").topology;
        let only = only.iter().map(|kind| (*kind).to_owned()).collect();
        let parts = menu(&Site::of(&topology).expect("chaos knows it"), &topology, &only);
        let kinds = |part: &Part| part.entries.iter().map(|entry| entry.fault.kind().to_owned()).collect();
        parts.iter().map(kinds).collect()
    }

    #[test]
    fn a_network_offers_what_it_has() {
        let parts = kinds("tp-two-directors", &[]);
        assert_eq!(parts.len(), 1, "servers that are not checked are left alone");
        assert!(parts[0].contains("partition") && !parts[0].contains("blackhole"), "two networks");
        assert!(!parts[0].contains("impair") && !parts[0].contains("clockStep"), "not asked for");
        let parts = kinds("tp-complete", &[]);
        assert_eq!(parts.len(), 3, "directors, servers, the router");
        assert!(parts[0].contains("blackhole"), "one network");
        assert!(parts[1].contains("stopService") && !parts[1].contains("killAgent"));
        assert!(parts[2].contains("killAgent") && !parts[2].contains("partition"));
    }

    #[test]
    fn only_what_is_named() {
        assert_eq!(kinds("tp-complete", &["stopService"]), [BTreeSet::from(["stopService".to_owned()])]);
        assert_eq!(kinds("tp-two-directors", &["impair", "clockStep"])[0].len(), 2);
        assert!(kinds("tp-two-directors", &["stopService"]).is_empty());
    }

    #[test]
    fn what_parts_a_network() {
        let topology = resolve("tp-complete").expect("it ships").topology;
        let parts = menu(&Site::of(&topology).expect("chaos knows it"), &topology, &BTreeSet::new());
        let effect = |kind: &str, part: usize| {
            let entries = parts[part].entries.iter();
            entries.filter(|entry| entry.fault.kind() == kind).map(|entry| entry.effect).next().expect(kind)
        };
        assert!(effect("partition", 0).doubles && effect("partition", 0).parts);
        assert!(effect("blackhole", 0).doubles && !effect("blackhole", 0).parts);
        assert!(effect("crash", 0).restarts && !effect("crash", 0).cuts);
        assert!(!effect("crash", 1).restarts && effect("crash", 1).ends_connections);
        assert!(effect("crash", 2).cuts && !effect("killAgent", 2).cuts);
    }
}
