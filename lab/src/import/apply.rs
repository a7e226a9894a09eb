//! Puts links, kernel parameters and the effects of `exec` together into nodes of the lab.

use std::collections::BTreeSet;

use super::commands::{self, Effect, Same, Translated};
use super::links::Wiring;
use super::nodes::{Part, Source};
use super::reader::Reader;
use super::words;
use crate::scenario::suggest;
use crate::scenario::topology::{LabelledAddress, Link, LinkAddress, Node, Route, Topology};
use crate::scenario::value::Destination;

/// The interface by which containers are managed; the lab has it only where a link has it.
const MANAGEMENT: &str = "eth0";
const FORWARD: &str = "net.ipv4.ip_forward";
/// Its names.
const FORWARDING: [&str; 2] = [FORWARD, "net.ipv4.conf.all.forwarding"];

/// The topology.
pub(super) fn topology(reader: &mut Reader<'_>, sources: &[Source], mut wiring: Wiring) -> Topology {
    let whole = reader.problems.is_empty();
    let machines = sources.iter().filter(|source| source.part == Part::Machine);
    let nodes = machines
        .map(|source| {
            let links = wiring.links.remove(&source.name).unwrap_or_default();
            Builder::new(reader, source, links, whole).build()
        })
        .collect();
    Topology { networks: wiring.networks, nodes }
}

struct Builder<'r, 's, 'a> {
    reader: &'r mut Reader<'a>,
    source: &'s Source,
    node: Node,
    /// Interfaces that commands make.
    made: BTreeSet<String>,
    /// Whether a command sets addresses, so that not all networks of the node are known.
    hidden: bool,
    /// Whether all links could be read: else it is not known which interfaces and networks the node has.
    whole: bool,
}

impl<'r, 's, 'a> Builder<'r, 's, 'a> {
    fn new(reader: &'r mut Reader<'a>, source: &'s Source, links: Vec<Link>, whole: bool) -> Self {
        let node = Node {
            name: source.name.as_str().into(),
            description: None,
            hostname: None,
            links,
            routes: Vec::new(),
            sysctls: std::collections::BTreeMap::new(),
            hosts: std::collections::BTreeMap::new(),
            files: std::collections::BTreeMap::new(),
            exec: Vec::new(),
            servers: Vec::new(),
            agent: None,
            peer: None,
        };
        Self { reader, source, node, made: BTreeSet::new(), hidden: false, whole }
    }

    fn build(mut self) -> Node {
        self.parameters();
        let mut commands: Vec<(&str, Translated)> = Vec::new();
        for (path, line) in &self.source.exec {
            match commands::translate(line) {
                Ok(translated) => commands.extend(translated.into_iter().map(|one| (path.as_str(), one))),
                Err(why) => self.refuse(path, line, &why),
            }
        }
        let comes_up = |device: &str, after: usize| {
            let later = commands.iter().skip(after + 1);
            later
                .map(|(_, one)| &one.effect)
                .any(|one| matches!(one, Effect::Up { device: other } if other == device))
        };
        // Down and up again, as one does to change an address of hardware: the links here have it when they come up.
        let passing: Vec<bool> = commands
            .iter()
            .enumerate()
            .map(|(at, (_, one))| matches!(&one.effect, Effect::Down { device } if comes_up(device, at)))
            .collect();
        let commands = commands.into_iter().zip(passing).filter(|(_, passing)| !passing).map(|(one, _)| one);
        // A gateway can be told to be on a network only when all addresses are known.
        let (routes, others): (Vec<_>, Vec<_>) =
            commands.partition(|(_, one)| matches!(one.effect, Effect::Route(_)));
        for (path, one) in others {
            self.play(path, one);
        }
        for (path, one) in routes {
            self.play(path, one);
        }
        let said = FORWARDING.iter().any(|name| self.node.sysctls.contains_key(*name));
        if self.node.links.len() > 1 && !said {
            // As in a container of docker, where nothing says otherwise.
            self.node.sysctls.insert(FORWARD.to_owned(), "1".to_owned());
            let message = format!(
                "`{}` has several links and forwards between them, as a container does ({FORWARD})",
                self.source.name
            );
            self.reader.note(&self.source.path, message);
        }
        self.node
    }

    fn parameters(&mut self) {
        for (name, (path, value)) in &self.source.sysctls {
            match commands::sysctl(name, value) {
                Ok(Effect::Sysctl { name, .. }) if self.stranger(&name).is_some() => {
                    let why = self.stranger(&name).unwrap_or_default();
                    let message = format!("`{name}` of `{}` is left out: {why}", self.source.name);
                    self.reader.note(path, message);
                }
                Ok(Effect::Sysctl { name, value }) => drop(self.node.sysctls.insert(name, value)),
                Ok(_) => {}
                Err(why) => {
                    let message = format!("of `{}` left out: {why}", self.source.name);
                    self.reader.note(path, message);
                }
            }
        }
    }

    fn refuse(&mut self, path: &str, line: &str, why: &str) {
        let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
        let message = format!("`{}` of `{}` cannot be translated: {why}", line, self.source.name);
        self.reader.wrong_or_note(path, message);
    }

    fn play(&mut self, path: &str, one: Translated) {
        let words = one.words;
        match one.effect {
            Effect::Nothing(why) => {
                if let Some(why) = why {
                    let message =
                        format!("`{}` of `{}` is left out: {why}", words::quote(&words), self.source.name);
                    self.reader.note(path, message);
                }
            }
            // Links and `lo` are up, `eth0` is not there; what a command made is neither.
            Effect::Up { device } => {
                let by_itself = device == "lo" || device == MANAGEMENT || self.link(&device).is_some();
                if !by_itself {
                    self.same(path, words, Same { device: Some(device), makes: None }, false);
                }
            }
            Effect::Down { device } => {
                self.same(path, words, Same { device: Some(device), makes: None }, false);
            }
            Effect::Sysctl { name, value } => match commands::interface_of(&name) {
                // What a command makes is there when commands are played, and not when parameters are set.
                Some(device) if self.made.contains(device) || self.missing(device).is_some() => {
                    self.same(path, words, Same { device: Some(device.to_owned()), makes: None }, false);
                }
                _ => drop(self.node.sysctls.insert(name, value)),
            },
            Effect::Address { device, address, label } => {
                if let Some(link) = self.link(&device) {
                    let address = match label {
                        None => LinkAddress::Plain(address),
                        Some(label) => LinkAddress::Labelled(LabelledAddress { address, label }),
                    };
                    // `replace` of one that is there changes nothing.
                    if !link.addresses.contains(&address) {
                        link.addresses.push(address);
                    }
                } else {
                    self.same(path, words, Same { device: Some(device), makes: None }, true);
                }
            }
            Effect::Mac { device, mac } => {
                if let Some(link) = self.link(&device) {
                    link.mac = Some(mac);
                } else {
                    self.same(path, words, Same { device: Some(device), makes: None }, false);
                }
            }
            Effect::Route(route) => self.route(path, words, route),
            Effect::Same(same) => {
                let addresses = words.get(1..).is_some_and(|words| {
                    words.iter().any(|word| matches!(word.as_str(), "a" | "addr" | "address"))
                });
                self.same(path, words, same, addresses);
            }
        }
    }

    fn link(&mut self, device: &str) -> Option<&mut Link> {
        self.node.links.iter_mut().find(|link| &*link.interface == device)
    }

    /// Why a node has no such interface, if it has none.
    fn missing(&self, device: &str) -> Option<String> {
        if !self.whole
            || device == "lo"
            || self.made.contains(device)
            || self.node.links.iter().any(|link| &*link.interface == device)
        {
            return None;
        }
        if device == MANAGEMENT {
            return Some(format!(
                "`{MANAGEMENT}` is in containerlab's management network, which is not rebuilt"
            ));
        }
        let hint = suggest::hint(device, self.node.links.iter().map(|link| &*link.interface));
        Some(format!("no link gives the node an interface `{device}`{hint}"))
    }

    /// Why a node has no such kernel parameter, if it has none.
    fn stranger(&self, name: &str) -> Option<String> {
        commands::interface_of(name).and_then(|device| self.missing(device))
    }

    /// A command that is played in the node as it is.
    fn same(&mut self, path: &str, words: Vec<String>, same: Same, addresses: bool) {
        if let Some(why) = same.device.as_deref().and_then(|device| self.missing(device)) {
            return self.refuse(path, &words::quote(&words), &why);
        }
        self.made.extend(same.makes);
        self.hidden |= addresses;
        self.node.exec.push(words::quote(&words));
    }

    fn route(&mut self, path: &str, words: Vec<String>, route: Route) {
        let device = route.interface.as_deref();
        if let Some(why) = device.and_then(|device| self.missing(device)) {
            return self.refuse(path, &words::quote(&words), &why);
        }
        let made = device.is_some_and(|device| self.made.contains(device));
        // Routes come before commands are played, and the kernel takes no source that the node does not have.
        let addresses = || self.node.links.iter().flat_map(|link| &link.addresses);
        let sourced = route.source.is_none_or(|source| addresses().any(|one| one.prefix().address == source));
        let on_link = !self.whole
            || route.via.is_none_or(|via| {
                device.is_some() || addresses().any(|address| address.prefix().contains(via))
            });
        if made || !sourced && self.whole || !on_link && self.hidden {
            return self.node.exec.push(words::quote(&words));
        }
        if let Some(via) = route.via.filter(|_| !on_link) {
            let why = format!(
                "the gateway {via} is in no network of the node; containerlab's management network is not rebuilt"
            );
            return self.refuse(path, &words::quote(&words), &why);
        }
        if words.iter().any(|word| matches!(word.as_str(), "replace" | "change")) {
            self.node.routes.retain(|other| other.to != route.to || family(other) != family(&route));
        }
        if !self.node.routes.contains(&route) {
            self.node.routes.push(route);
        }
    }
}

/// Whether a route is one of IPv4; of a default route its gateway says it.
fn family(route: &Route) -> bool {
    match (route.to, route.via) {
        (Destination::Network(prefix), _) => prefix.address.is_ipv4(),
        (Destination::Default, via) => via.is_none_or(|via| via.is_ipv4()),
    }
}
