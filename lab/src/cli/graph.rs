//! `bascule-lab graph`: a topology, for people or for Graphviz.

use std::fmt::Write as _;

use crate::scenario::Scenario;
use crate::scenario::topology::{Link, LinkAddress, Network, Node, Server};

/// The networks with the machines on them, then what runs where.
pub(super) fn text(scenario: &Scenario) -> String {
    let topology = &scenario.topology;
    let mut out = String::new();
    for network in &topology.networks {
        let _ = writeln!(out, "{}{}", &*network.name, described(network.description.as_deref()));
        let members: Vec<(&Node, &Link)> = members(scenario, network).collect();
        let width = members.iter().map(|(node, _)| node.name.len()).max().unwrap_or(0);
        for (at, (node, link)) in members.iter().enumerate() {
            let branch = if at + 1 == members.len() { "└─" } else { "├─" };
            let line =
                format!("  {branch} {:width$}  {}  {}", &*node.name, interface(link), addresses(link, " "));
            let _ = writeln!(out, "{}", line.trim_end());
        }
        out.push('\n');
    }
    let width = topology.nodes.iter().map(|node| node.name.len()).max().unwrap_or(0);
    for node in &topology.nodes {
        let what = runs(node);
        if !what.is_empty() || node.description.is_some() {
            let line = format!(
                "{:width$}  {}{}",
                &*node.name,
                what.join(", "),
                described(node.description.as_deref())
            );
            let _ = writeln!(out, "{}", line.trim_end());
        }
    }
    out
}

/// For `dot -Tsvg`.
pub(super) fn dot(scenario: &Scenario) -> String {
    let topology = &scenario.topology;
    let mut out =
        format!("graph {} {{\n  rankdir=LR;\n  node [fontname=\"sans-serif\"];\n", quoted(&scenario.name));
    for network in &topology.networks {
        let label = lines([Some(&*network.name), network.description.as_deref()]);
        let _ = writeln!(
            out,
            "  {} [shape=box, style=rounded, label={label}];",
            quoted(&format!("network {}", &*network.name))
        );
    }
    for node in &topology.nodes {
        let what = runs(node).join(", ");
        let label = lines([Some(&*node.name), Some(what.as_str()).filter(|what| !what.is_empty())]);
        let _ =
            writeln!(out, "  {} [shape=ellipse, label={label}];", quoted(&format!("node {}", &*node.name)));
    }
    for network in &topology.networks {
        for (node, link) in members(scenario, network) {
            let addresses = addresses(link, "\n");
            let label = lines([
                Some(interface(link).as_str()),
                Some(addresses.as_str()).filter(|text| !text.is_empty()),
            ]);
            let _ = writeln!(
                out,
                "  {} -- {} [label={label}];",
                quoted(&format!("node {}", &*node.name)),
                quoted(&format!("network {}", &*network.name))
            );
        }
    }
    out.push_str("}\n");
    out
}

pub(super) fn members<'a>(
    scenario: &'a Scenario,
    network: &'a Network,
) -> impl Iterator<Item = (&'a Node, &'a Link)> {
    scenario.topology.nodes.iter().flat_map(move |node| {
        node.links.iter().filter(move |link| link.network == network.name).map(move |link| (node, link))
    })
}

/// Its name, and what it bonds.
pub(super) fn interface(link: &Link) -> String {
    match &link.bond {
        None => link.interface.to_string(),
        Some(bond) => {
            let legs: Vec<&str> = bond.legs.iter().map(|leg| &**leg).collect();
            format!("{} ({})", link.interface, legs.join(" + "))
        }
    }
}

pub(super) fn addresses(link: &Link, between: &str) -> String {
    let all: Vec<String> = link
        .addresses
        .iter()
        .map(|address| match address {
            LinkAddress::Plain(prefix) => prefix.to_string(),
            LinkAddress::Labelled(labelled) => format!("{} ({})", labelled.address, labelled.label),
        })
        .collect();
    all.join(between)
}

/// What runs on a node, in words.
pub(super) fn runs(node: &Node) -> Vec<String> {
    let mut what = Vec::new();
    if node.agent.is_some() {
        what.push("bascule-agent".to_owned());
    }
    what.extend(node.peer.iter().map(|peer| peer.name().to_owned()));
    what.extend(node.servers.iter().map(server));
    what
}

fn server(server: &Server) -> String {
    let mut ports = Vec::new();
    for (protocol, listeners) in [
        ("http", &server.http),
        ("https", &server.https),
        ("tcp", &server.tcp),
        ("udp", &server.udp),
        ("smtp", &server.smtp),
        ("dns", &server.dns),
    ] {
        ports.extend(listeners.iter().map(|listen| format!("{protocol} {listen}")));
    }
    format!("{} ({})", &*server.name, ports.join(", "))
}

fn described(description: Option<&str>) -> String {
    description.map(|text| format!("  – {text}")).unwrap_or_default()
}

/// A label of several lines.
fn lines<const N: usize>(parts: [Option<&str>; N]) -> String {
    quoted(&parts.into_iter().flatten().collect::<Vec<_>>().join("\n"))
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::resolve;

    #[test]
    fn the_tp_is_drawn() {
        let scenario = resolve("tp-ipvs").expect("it ships");
        insta::assert_snapshot!("graph_text", text(&scenario));
        insta::assert_snapshot!("graph_dot", dot(&scenario));
    }

    #[test]
    fn a_label_cannot_break_out_of_its_quotes() {
        assert_eq!(quoted("a\"b\\c\nd"), "\"a\\\"b\\\\c\\nd\"");
    }
}
