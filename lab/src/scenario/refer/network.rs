//! Networks and nodes: names, addresses, routes, files.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::super::check::join;
use super::super::suggest;
use super::super::topology::{BondHash, Link, LinkAddress, Node};
use super::super::value::{Prefix, Span};
use super::{AGENT, Checker};

/// How seldom the carriers of a bond may be looked at.
const MAX_MONITOR: Duration = Duration::from_secs(10);

impl<'a> Checker<'a> {
    pub(super) fn networks_and_nodes(&mut self) {
        let topology = self.topology;
        let mut names = BTreeSet::new();
        for (index, network) in topology.networks.iter().enumerate() {
            if !names.insert(&*network.name) {
                self.report(
                    format!("topology.networks[{index}].name"),
                    format!("there are two networks `{}`", network.name),
                );
            }
        }
        let mut names = BTreeSet::new();
        let mut macs = BTreeMap::new();
        for (index, node) in topology.nodes.iter().enumerate() {
            let path = format!("topology.nodes[{index}]");
            if !names.insert(&*node.name) {
                self.report(format!("{path}.name"), format!("there are two nodes `{}`", node.name));
            }
            let mut interfaces = BTreeSet::new();
            for (index, link) in node.links.iter().enumerate() {
                let path = format!("{path}.links[{index}]");
                if topology.network(&link.network).is_none() {
                    let hint =
                        suggest::hint(&link.network, topology.networks.iter().map(|network| &*network.name));
                    self.report(
                        format!("{path}.network"),
                        format!("there is no network `{}`{hint}", link.network),
                    );
                }
                if link.interface.len() > 15 {
                    let message = format!("has {} characters, but can have at most 15", link.interface.len());
                    self.report(format!("{path}.interface"), message);
                }
                if &*link.interface == "lo" || !interfaces.insert(&*link.interface) {
                    let message = format!("the node has two interfaces `{}`", link.interface);
                    self.report(format!("{path}.interface"), message);
                }
                self.bond(link, &path, &mut interfaces);
                if let Some(mac) = link.mac
                    && let Some(other) = macs.insert((&*link.network, mac.0), &*node.name)
                {
                    self.report(format!("{path}.mac"), format!("`{other}` has the same on that network"));
                }
                for (index, address) in link.addresses.iter().enumerate() {
                    if let LinkAddress::Labelled(labelled) = address {
                        let path = format!("{path}.addresses[{index}]");
                        if !labelled.label.starts_with(&*link.interface) {
                            let message =
                                format!("has to begin with the interface's name, `{}`", link.interface);
                            self.report(format!("{path}.label"), message);
                        }
                        if labelled.address.address.is_ipv6() {
                            self.report(
                                format!("{path}.label"),
                                "IPv6 addresses have no labels; leave it out",
                            );
                        }
                    }
                }
            }
            self.node(node, &path, &interfaces);
        }
    }

    pub(super) fn node(&mut self, node: &'a Node, path: &str, interfaces: &BTreeSet<&str>) {
        for (index, route) in node.routes.iter().enumerate() {
            let path = format!("{path}.routes[{index}]");
            match (&route.via, &route.interface) {
                (None, None) => self.report(&*path, "one of `via` and `interface` is missing"),
                (_, Some(interface)) if &**interface != "lo" && !interfaces.contains(&**interface) => {
                    let hint = suggest::hint(interface, interfaces.iter().copied());
                    let message = format!("the node has no interface `{interface}`{hint}");
                    self.report(format!("{path}.interface"), message);
                }
                (Some(via), None) => {
                    let on_link = |address: &LinkAddress| address.prefix().contains(*via);
                    if !node.links.iter().flat_map(|link| &link.addresses).any(on_link) {
                        let message = format!(
                            "`{via}` is in no network of the node; a gateway has to be, or name the `interface`"
                        );
                        self.report(format!("{path}.via"), message);
                    }
                }
                _ => {}
            }
        }
        for (address, names) in &node.hosts {
            if address.parse::<IpAddr>().is_err() {
                self.report(
                    join(&format!("{path}.hosts"), address),
                    format!("`{address}` is not an IP address"),
                );
            }
            if names.is_empty() {
                self.report(join(&format!("{path}.hosts"), address), "has no names");
            }
        }
        for file in node.files.keys() {
            if !file.starts_with('/') || file.split('/').any(|part| part == "..") || file.ends_with('/') {
                self.report(
                    join(&format!("{path}.files"), file),
                    format!("`{file}` is not the absolute path of a file"),
                );
            }
        }
        let mut programs = BTreeSet::from([AGENT]);
        if let Some(peer) = &node.peer {
            programs.insert(peer.name());
        }
        for (index, server) in node.servers.iter().enumerate() {
            let path = format!("{path}.servers[{index}]");
            if !programs.insert(&server.name) {
                let message = format!("`{}` is taken by another program of the node", server.name);
                self.report(format!("{path}.name"), message);
            }
            let listens = [&server.http, &server.https, &server.tcp, &server.udp, &server.smtp, &server.dns];
            if listens.iter().all(|listens| listens.is_empty()) {
                self.report(
                    &*path,
                    "listens nowhere; give it `http`, `https`, `tcp`, `udp`, `smtp` or `dns`",
                );
            }
            if !server.https.is_empty() && server.certificate.is_none() {
                self.report(format!("{path}.https"), "needs a `certificate`, which is not there");
            }
        }
        if let Some(agent) = &node.agent {
            for file in agent.manifests.keys() {
                self.file_name(file, join(&format!("{path}.agent.manifests"), file));
            }
        }
    }

    pub(super) fn file_name(&mut self, file: &str, path: String) {
        if file.is_empty() || file.contains('/') || file == "." || file == ".." || file.len() > 255 {
            self.report(path, format!("`{file}` is not the name of a file; folders are not looked into"));
        }
    }

    fn bond(&mut self, link: &'a Link, path: &str, interfaces: &mut BTreeSet<&'a str>) {
        let Some(bond) = &link.bond else { return };
        for (index, leg) in bond.legs.iter().enumerate() {
            let path = format!("{path}.bond.legs[{index}]");
            if leg.len() > 15 {
                self.report(&*path, format!("has {} characters, but can have at most 15", leg.len()));
            }
            if &**leg == "lo" || !interfaces.insert(leg) {
                self.report(&*path, format!("the node has two interfaces `{leg}`"));
            }
        }
        if bond.hash != BondHash::default() && !bond.mode.is_aggregate() {
            self.report(
                format!("{path}.bond.hash"),
                "belongs to `balanceXor` and `lacp`: here one cable carries all",
            );
        }
        let monitor = bond.monitor.get();
        if monitor.is_zero() || monitor > MAX_MONITOR {
            let message = format!("has to be between 1ms and {}", Span(MAX_MONITOR));
            self.report(format!("{path}.bond.monitor"), message);
        }
    }

    /// No address twice on a network.
    pub(super) fn addresses(&mut self) {
        let mut seen: BTreeMap<(&str, IpAddr), &str> = BTreeMap::new();
        for (n, node) in self.topology.nodes.iter().enumerate() {
            for (l, link) in node.links.iter().enumerate() {
                for (a, address) in link.addresses.iter().enumerate() {
                    let address = address.prefix().address;
                    if let Some(other) = seen.insert((&link.network, address), &node.name) {
                        let path = format!("topology.nodes[{n}].links[{l}].addresses[{a}]");
                        self.report(
                            path,
                            format!("`{other}` has {address} on network `{}`, too", link.network),
                        );
                    }
                }
            }
        }
    }

    /// No node on two networks with the same addresses: it would not be clear where its frames go.
    pub(super) fn overlaps(&mut self) {
        for (n, node) in self.topology.nodes.iter().enumerate() {
            let mut seen: Vec<(&Link, Prefix)> = Vec::new();
            for (l, link) in node.links.iter().enumerate() {
                for (a, address) in link.addresses.iter().enumerate() {
                    let prefix = address.prefix();
                    // A single address is no network.
                    if prefix.length == if prefix.address.is_ipv4() { 32 } else { 128 } {
                        continue;
                    }
                    let other = seen.iter().find(|(other, taken)| {
                        other.network != link.network
                            && (taken.contains(prefix.address) || prefix.contains(taken.address))
                    });
                    if let Some((other, taken)) = other {
                        let message = format!(
                            "{prefix} overlaps with {taken} of `{}` on network `{}`: it is not clear where frames go",
                            other.interface, other.network
                        );
                        self.report(format!("topology.nodes[{n}].links[{l}].addresses[{a}]"), message);
                    }
                    seen.push((link, prefix));
                }
            }
        }
    }
}
