//! Steps of an imported scenario: whoever shares a network and a prefix reaches each other.

use std::collections::BTreeSet;

use crate::scenario::expectation::{CommandExpectation, TextExpectation, When};
use crate::scenario::step::Wait;
use crate::scenario::topology::{Link, LinkAddress, Name, Topology};
use crate::scenario::{Action, Expectation, Kind, Prefix, Span, Step};

/// So many checks are in a step, and so many steps are made; who wants more adds them.
const IN_A_STEP: usize = 16;
const STEPS: usize = 8;
/// Patience of a step: IPv6 looks for a while whether an address is there twice.
const PATIENCE: u64 = 60;

/// At least one step.
pub(super) fn steps(topology: &Topology) -> Vec<Step> {
    let pings: Vec<Expectation> =
        topology.networks.iter().flat_map(|network| neighbours(topology, &network.name)).collect();
    if pings.is_empty() {
        let wait = Wait { duration: Some(Span::from_secs(1)), until: Vec::new(), within: None };
        return vec![Step { name: "a moment".to_owned(), action: Action::Wait(wait) }];
    }
    let parts = pings.chunks(IN_A_STEP).take(STEPS).enumerate();
    parts
        .map(|(index, part)| {
            let name = match index {
                0 => "neighbours reach each other".to_owned(),
                _ => format!("neighbours reach each other, part {}", index + 1),
            };
            let wait = Wait { duration: None, until: part.to_vec(), within: Some(Span::from_secs(PATIENCE)) };
            Step { name, action: Action::Wait(wait) }
        })
        .collect()
}

/// Whether any step pings.
pub(super) fn pings(steps: &[Step]) -> bool {
    steps.iter().any(|step| matches!(&step.action, Action::Wait(wait) if !wait.until.is_empty()))
}

/// The programs that commands of nodes start.
pub(super) fn programs(topology: &Topology) -> BTreeSet<String> {
    let commands = topology.nodes.iter().flat_map(|node| &node.exec);
    let program = |command: &String| command.split(' ').next()?.rsplit('/').next().map(str::to_owned);
    commands.filter_map(program).collect()
}

/// On a network, from the first who has a prefix to each other who has it.
fn neighbours(topology: &Topology, network: &Name) -> Vec<Expectation> {
    let links = |node: usize| {
        let links = topology.nodes[node].links.iter();
        links.filter(move |link| link.network == *network).flat_map(addresses)
    };
    let mut first: Vec<(usize, Prefix)> = Vec::new();
    let mut checks = Vec::new();
    for node in 0..topology.nodes.len() {
        let mut seen: Vec<Prefix> = Vec::new();
        for address in links(node) {
            let known = first
                .iter()
                .find(|(_, prefix)| prefix.length == address.length && prefix.contains(address.address));
            match known {
                // A second address in the same network says nothing new.
                Some((other, prefix)) if *other != node && !seen.contains(prefix) => {
                    seen.push(*prefix);
                    checks.push(ping(&topology.nodes[*other].name, address));
                }
                Some(_) => {}
                None => first.push((node, address)),
            }
        }
    }
    checks
}

fn addresses(link: &Link) -> impl Iterator<Item = Prefix> + '_ {
    let host = |prefix: &Prefix| prefix.length == if prefix.address.is_ipv4() { 32 } else { 128 };
    // Of link-local addresses a ping would have to know the interface.
    let local =
        |prefix: &Prefix| matches!(prefix.address, std::net::IpAddr::V6(six) if six.is_unicast_link_local());
    link.addresses.iter().map(LinkAddress::prefix).filter(move |prefix| !host(prefix) && !local(prefix))
}

fn ping(from: &Name, to: Prefix) -> Expectation {
    let family = if to.address.is_ipv6() { " -6" } else { "" };
    let command = format!("ping{family} -n -c 1 -W 2 {}", to.address);
    let expected =
        CommandExpectation { node: from.clone(), command, exit_code: 0, stdout: TextExpectation::default() };
    Expectation { kind: Kind::Command(expected), when: When::Now }
}
