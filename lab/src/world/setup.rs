//! What a machine gets at its boot: kernel parameters, links, addresses, routes, files, start commands.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use super::Progress;
use super::error::{Error, Result};
use super::links::Links;
use super::node::Node;
use super::run::{Exec, Output};
use crate::scenario::topology::{self, Peer, Topology};

/// What every network namespace starts with: the kernel's own defaults. (New namespaces copy IPv4's from the machine.) No duplicate
/// address detection, no router is looked for.
pub(super) const SYSCTLS: [(&str, &str); 26] = [
    ("net.ipv4.ip_forward", "0"),
    ("net.ipv4.conf.all.accept_redirects", "1"),
    ("net.ipv4.conf.default.accept_redirects", "1"),
    ("net.ipv4.conf.all.send_redirects", "1"),
    ("net.ipv4.conf.default.send_redirects", "1"),
    ("net.ipv4.conf.all.secure_redirects", "1"),
    ("net.ipv4.conf.default.secure_redirects", "1"),
    ("net.ipv4.conf.all.accept_source_route", "0"),
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.default.rp_filter", "0"),
    ("net.ipv4.conf.all.arp_ignore", "0"),
    ("net.ipv4.conf.default.arp_ignore", "0"),
    ("net.ipv4.conf.all.arp_announce", "0"),
    ("net.ipv4.conf.default.arp_announce", "0"),
    ("net.ipv4.conf.all.arp_filter", "0"),
    ("net.ipv4.conf.default.arp_filter", "0"),
    ("net.ipv4.conf.all.promote_secondaries", "0"),
    ("net.ipv4.conf.default.promote_secondaries", "0"),
    ("net.ipv4.conf.all.accept_local", "0"),
    ("net.ipv4.conf.default.accept_local", "0"),
    ("net.ipv4.conf.all.route_localnet", "0"),
    ("net.ipv4.conf.default.route_localnet", "0"),
    ("net.ipv6.conf.all.accept_dad", "0"),
    ("net.ipv6.conf.default.accept_dad", "0"),
    ("net.ipv6.conf.default.accept_ra", "0"),
    ("net.ipv6.conf.default.router_solicitations", "0"),
];

/// How long the kernel may take to give a link its IPv6 link-local address. Generous: it takes a second on a machine that is not busy.
const LINK_LOCAL: Duration = Duration::from_secs(30);

/// Takes the links up (or only one of them), with their addresses and the node's routes; what is there already stays.
pub(crate) fn configure(node: &Node, only: Option<&str>) -> Result<()> {
    let Some(spec) = &node.0.spec else { return Ok(()) };
    let network = node.network()?;
    let mut links = Links::open(network.as_fd())?;
    links.set_up("lo", true)?;
    let detect = detects(spec);
    let on_node = |error: Error| error.of(node.name());
    if let Some(leg) = only.filter(|only| !spec.links.iter().any(|link| &*link.interface == *only)) {
        links.set_up(leg, true).map_err(on_node)?;
    }
    for link in spec.links.iter().filter(|link| only.is_none_or(|only| only == &*link.interface)) {
        links.set_up(&link.interface, true).map_err(on_node)?;
        for address in &link.addresses {
            links.add_address(&link.interface, address, detect).map_err(on_node)?;
        }
    }
    // While another link is down by a fault, routes over it are refused; they come with that link.
    let all_up = links
        .interfaces()?
        .iter()
        .filter(|interface| spec.links.iter().any(|link| *link.interface == interface.name))
        .all(|interface| interface.up);
    for route in &spec.routes {
        match links.add_route(route) {
            Err(error) if all_up => return Err(on_node(error)),
            _ => {}
        }
    }
    Ok(())
}

/// Waits until every link that carries frames has its IPv6 link-local address. It comes by work of the kernel's own, up to a second after
/// the carrier, and what is sent from an address of another interface, as by a server that has the virtual address on `lo`, can ask for
/// no neighbour before: it is thrown away without a word.
pub(super) fn await_link_locals(node: &Node) -> Result<()> {
    let Some(spec) = &node.0.spec else { return Ok(()) };
    if detects(spec) {
        return Ok(());
    }
    let network = node.network()?;
    let mut links = Links::open(network.as_fd())?;
    let deadline = Instant::now() + LINK_LOCAL;
    loop {
        node.0.shared.dir.cancel.check()?;
        let there = links.link_locals()?;
        let mut missing = Vec::new();
        for interface in links.interfaces()? {
            let ours = spec.links.iter().any(|link| *link.interface == interface.name);
            if ours && interface.up && interface.carrier && !there.contains(&interface.index) {
                missing.push(interface.name);
            }
        }
        let mut lacking = Vec::new();
        for interface in missing {
            if node.makes_link_locals(&interface)? {
                lacking.push(interface);
            }
        }
        if lacking.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Error::wrong(format!(
                "{}: {} has no IPv6 link-local address {LINK_LOCAL:?} after its link came up",
                node.name(),
                lacking.join(", ")
            )));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a node looks for duplicates of its addresses: somebody who sets `accept_dad` wants it.
fn detects(spec: &topology::Node) -> bool {
    spec.sysctls.iter().any(|(key, value)| key.ends_with("accept_dad") && value.trim() != "0")
}

/// Writes what a node's disk has before its first boot.
pub(super) fn write_files(
    node: &Node,
    spec: &topology::Node,
    host_lines: &BTreeMap<String, Vec<String>>,
) -> Result<()> {
    node.write_file("/etc/hostname", format!("{}\n", node.hostname()))?;
    let mut lines = vec!["127.0.0.1\tlocalhost".to_owned(), "::1\tlocalhost ip6-localhost".to_owned()];
    lines.extend(spec.hosts.iter().map(|(address, names)| format!("{address}\t{}", names.join(" "))));
    let told: Vec<&str> = spec.hosts.values().flatten().map(String::as_str).collect();
    for (name, addresses) in host_lines {
        // What the scenario says of a name goes.
        if !told.contains(&name.as_str()) {
            lines.extend(addresses.iter().cloned());
        }
    }
    node.write_file("/etc/hosts", lines.join("\n") + "\n")?;
    if let Some(agent) = &spec.agent {
        for (name, text) in &agent.manifests {
            node.write_file(Path::new("/etc/bascule").join(name), text)?;
        }
        // It watches the folder, which has to be there also without manifests.
        node.exec(&Exec::new(["mkdir", "-p", "/etc/bascule"]))?.checked()?;
    }
    for file in spec.peer.iter().flat_map(Peer::files) {
        node.write_file_mode(file.path, file.text, file.mode)?;
    }
    for (path, text) in &spec.files {
        // A script is made to be run.
        let mode = if text.starts_with("#!") { 0o755 } else { 0o644 };
        node.write_file_mode(path, text, mode)?;
    }
    Ok(())
}

/// Runs the commands of a node's start.
pub(super) fn start_commands(node: &Node, progress: &Progress<'_>) -> Result<()> {
    let Some(spec) = &node.0.spec else { return Ok(()) };
    for line in &spec.exec {
        progress(&format!("{}: {line}", node.name()));
        node.exec(&Exec::shell(line)).and_then(Output::checked).map_err(|error| error.of(node.name()))?;
    }
    Ok(())
}

/// Lines of `/etc/hosts` by node: its addresses, the node's own name and its host name.
pub(super) fn hosts(topology: &Topology) -> BTreeMap<String, Vec<String>> {
    topology
        .nodes
        .iter()
        .map(|node| {
            let names = if node.hostname() == &*node.name {
                node.name.to_string()
            } else {
                format!("{} {}", node.hostname(), node.name)
            };
            // One of each family: a name that stands for several networks would be a guess.
            let addresses: Vec<IpAddr> = node
                .links
                .iter()
                .flat_map(|link| &link.addresses)
                .map(|address| address.prefix().address)
                .collect();
            let first = [IpAddr::is_ipv4, IpAddr::is_ipv6]
                .into_iter()
                .filter_map(|family| addresses.iter().find(|address| family(address)));
            (node.name.to_string(), first.map(|address| format!("{address}\t{names}")).collect())
        })
        .collect()
}
