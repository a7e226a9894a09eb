//! The links of the topology file: pairs of interfaces, and cables to bridges and to what stands outside.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::nodes::{Part, Source};
use super::reader::Reader;
use crate::scenario::suggest;
use crate::scenario::topology::{Link, Name, Network};
use crate::scenario::value::Mac;

/// The networks, and the links of each node with the paths of their ends.
#[derive(Debug, Default)]
pub(super) struct Wiring {
    pub(super) networks: Vec<Network>,
    pub(super) links: BTreeMap<String, Vec<Link>>,
}

/// The bytes that a frame of a network of the lab may carry.
const MTU: std::ops::RangeInclusive<u64> = 1280..=9216;
/// The longest name of a network or an interface.
const MAX_NAME: usize = 63;
const MAX_INTERFACE: usize = 15;

/// Names in an endpoint that stand for no node.
const OUTSIDE: [&str; 6] = ["dummy", "host", "macvlan", "mgmt-net", "vxlan", "vxlan-stitch"];
const FIELDS: [&str; 16] = [
    "dst-port",
    "endpoint",
    "endpoints",
    "host-interface",
    "ipv4",
    "ipv6",
    "labels",
    "mode",
    "mtu",
    "name",
    "remote",
    "src-port",
    "type",
    "udp-port",
    "vars",
    "vni",
];
const END_FIELDS: [&str; 6] = ["interface", "ipv4", "ipv6", "mac", "node", "vars"];

/// An end of a link, as it is written.
struct End {
    node: String,
    interface: String,
    mac: Option<Mac>,
    path: String,
}

/// Where a link leads that has one end in the topology.
enum Outside {
    /// To this machine, by an interface of it.
    Host,
    /// To the network by which containers are managed.
    Management,
    /// To a network of this machine, by one of its interfaces.
    Shared(String),
    /// To nothing.
    Nowhere,
}

enum Cable {
    Between(End, End),
    Out(End, Outside),
}

struct Wirer<'r, 'a> {
    reader: &'r mut Reader<'a>,
    nodes: BTreeMap<&'r str, Part>,
    wiring: Wiring,
    names: BTreeSet<String>,
    /// Ends that are taken, and the lines where.
    taken: BTreeMap<(String, String), usize>,
}

/// Reads the links.
pub(super) fn read<'a>(
    reader: &mut Reader<'a>,
    topology: &'a Map<String, Value>,
    sources: &[Source],
) -> Wiring {
    let nodes = sources.iter().map(|source| (source.name.as_str(), source.part)).collect();
    let mut wirer =
        Wirer { reader, nodes, wiring: Wiring::default(), names: BTreeSet::new(), taken: BTreeMap::new() };
    for source in sources.iter().filter(|source| source.part == Part::Switch) {
        wirer.network(source.name.clone(), Some("a bridge".to_owned()));
    }
    let path = "topology.links";
    for (index, value) in wirer.reader.list(topology.get("links"), path).iter().enumerate() {
        wirer.link(value, &format!("{path}[{index}]"));
    }
    wirer.wiring
}

impl<'a> Wirer<'_, 'a> {
    fn link(&mut self, value: &'a Value, path: &str) {
        let Some(map) = self.reader.object(Some(value), path) else {
            if value.is_null() {
                self.reader.wrong(path, "is empty; a link has `endpoints`");
            }
            return;
        };
        self.reader.unknown(map, path, &FIELDS);
        for field in ["ipv4", "ipv6"].into_iter().filter(|field| map.contains_key(*field)) {
            self.addresses_of_a_link(&format!("{path}.{field}"));
        }
        let Some(cable) = self.cable(map, path) else { return };
        let mtu = self.mtu(map.get("mtu"), path);
        match cable {
            Cable::Between(a, b) => self.between(a, b, mtu, path),
            Cable::Out(end, outside) => self.out(end, outside, mtu, path),
        }
    }

    fn addresses_of_a_link(&mut self, path: &str) {
        self.reader.wrong_or_note(
            path,
            "addresses at a link are for systems that containerlab configures; a linux node's are set by `exec`: `ip addr add … dev …`"
                .to_owned(),
        );
    }

    fn cable(&mut self, map: &'a Map<String, Value>, path: &str) -> Option<Cable> {
        let at = format!("{path}.type");
        let kind = self.reader.text(map.get("type"), &at).map(str::to_ascii_lowercase);
        match kind.as_deref() {
            None | Some("brief") => self.brief(map, path),
            Some("veth") => {
                let [a, b] = self.two(map, path)?;
                let a = self.end(a.0, &a.1);
                let b = self.end(b.0, &b.1);
                Some(Cable::Between(a?, b?))
            }
            Some(kind @ ("host" | "mgmt-net" | "macvlan" | "dummy")) => {
                let at = format!("{path}.endpoint");
                let Some(end) = map.get("endpoint").filter(|end| !end.is_null()) else {
                    self.reader.wrong(
                        path,
                        format!("a link of the type `{kind}` has one `endpoint`, which is missing"),
                    );
                    return None;
                };
                let end = self.end(end, &at)?;
                let field = format!("{path}.host-interface");
                let interface = self.reader.text(map.get("host-interface"), &field).unwrap_or_default();
                let mode = self.reader.text(map.get("mode"), &format!("{path}.mode")).unwrap_or("bridge");
                if mode != "bridge" {
                    let message = format!(
                        "the mode `{mode}` of macvlan cannot be rebuilt; only `bridge` can, as a network"
                    );
                    self.reader.wrong(&format!("{path}.mode"), message);
                    return None;
                }
                self.outside(kind, interface, path).map(|outside| Cable::Out(end, outside))
            }
            Some(kind) => {
                self.other_type(kind, &at);
                None
            }
        }
    }

    fn other_type(&mut self, kind: &str, path: &str) {
        let message = if kind.starts_with("vxlan") {
            format!("a link of the type `{kind}` leads to other machines, which are not rebuilt; take it out")
        } else {
            let known = ["brief", "dummy", "host", "macvlan", "mgmt-net", "veth"];
            format!("unknown type of link `{kind}`{}", suggest::hint(kind, known))
        };
        self.reader.wrong(path, message);
    }

    fn outside(&mut self, kind: &str, interface: &str, path: &str) -> Option<Outside> {
        Some(match kind {
            "host" => Outside::Host,
            "mgmt-net" => Outside::Management,
            "dummy" => Outside::Nowhere,
            "macvlan" if interface.is_empty() => {
                self.reader
                    .wrong(path, "a link of the type `macvlan` needs the `host-interface` that it is of");
                return None;
            }
            "macvlan" => Outside::Shared(format!("macvlan-{interface}")),
            other => {
                self.other_type(other, path);
                return None;
            }
        })
    }

    /// `endpoints: ["a:eth1", "b:eth1"]`.
    fn brief(&mut self, map: &'a Map<String, Value>, path: &str) -> Option<Cable> {
        let [a, b] = self.two(map, path)?;
        let special = |value: &Value| {
            let text = value.as_str()?;
            let (node, interface) = text.split_once(':').unwrap_or((text, ""));
            let node = node.trim().to_ascii_lowercase();
            OUTSIDE.contains(&node.as_str()).then(|| (node, interface.to_owned()))
        };
        let (end, (kind, interface)) = match (special(a.0), special(b.0)) {
            (None, None) => {
                let (a, b) = (self.end(a.0, &a.1), self.end(b.0, &b.1));
                return Some(Cable::Between(a?, b?));
            }
            (Some(_), Some(_)) => {
                self.reader.wrong(path, "neither end is at a node");
                return None;
            }
            (Some(outside), None) => (b, outside),
            (None, Some(outside)) => (a, outside),
        };
        let end = self.end(end.0, &end.1)?;
        self.outside(&kind, &interface, path).map(|outside| Cable::Out(end, outside))
    }

    fn two(&mut self, map: &'a Map<String, Value>, path: &str) -> Option<[(&'a Value, String); 2]> {
        let at = format!("{path}.endpoints");
        if map.get("endpoints").is_none_or(Value::is_null) {
            self.reader.wrong(path, "`endpoints` is missing: the two ends, as [\"a:eth1\", \"b:eth1\"]");
            return None;
        }
        match self.reader.list(map.get("endpoints"), &at) {
            [a, b] => Some([(a, format!("{at}[0]")), (b, format!("{at}[1]"))]),
            [] if !map["endpoints"].is_array() => None,
            ends => {
                self.reader.wrong(&at, format!("a link has two ends, not {}", ends.len()));
                None
            }
        }
    }

    /// An end as `NODE:INTERFACE`, or as an object.
    fn end(&mut self, value: &'a Value, path: &str) -> Option<End> {
        let (node, interface, mac) = match value {
            Value::String(text) => {
                let Some((node, interface)) = text.split_once(':') else {
                    self.reader.wrong(path, format!("`{text}` is not NODE:INTERFACE, as `a:eth1`"));
                    return None;
                };
                (node, interface, None)
            }
            Value::Object(map) => {
                self.reader.unknown(map, path, &END_FIELDS);
                for field in ["ipv4", "ipv6"].into_iter().filter(|field| map.contains_key(*field)) {
                    self.addresses_of_a_link(&format!("{path}.{field}"));
                }
                let node = self.reader.text(map.get("node"), &format!("{path}.node"));
                let interface = self.reader.text(map.get("interface"), &format!("{path}.interface"));
                let (Some(node), Some(interface)) = (node, interface) else {
                    self.reader.wrong(path, "an end has `node` and `interface`");
                    return None;
                };
                let at = format!("{path}.mac");
                let mac = match self.reader.text(map.get("mac"), &at).map(str::parse::<Mac>).transpose() {
                    Ok(mac) => mac,
                    Err(why) => {
                        self.reader.wrong(&at, why);
                        return None;
                    }
                };
                (node, interface, mac)
            }
            _ => {
                self.reader.wrong(
                    path,
                    "has to be NODE:INTERFACE, as `a:eth1`, or an object with `node` and `interface`",
                );
                return None;
            }
        };
        self.checked(End {
            node: node.to_owned(),
            interface: interface.to_owned(),
            mac,
            path: path.to_owned(),
        })
    }

    /// An end whose node and interface can be, and that no other link has.
    fn checked(&mut self, end: End) -> Option<End> {
        let Some(part) = self.nodes.get(end.node.as_str()).copied() else {
            let hint = suggest::hint(&end.node, self.nodes.keys().copied());
            self.reader.wrong(&end.path, format!("there is no node `{}`{hint}", end.node));
            return None;
        };
        let line = self.reader.document.line_of(&end.path);
        if let Some(first) = self.taken.insert((end.node.clone(), end.interface.clone()), line) {
            let message =
                format!("`{}:{}` is an end of a link already, on line {first}", end.node, end.interface);
            self.reader.wrong(&end.path, message);
            return None;
        }
        if part == Part::Machine {
            let why = if end.interface == "lo" {
                Some("`lo` is in each node by itself".to_owned())
            } else if end.interface.len() > MAX_INTERFACE {
                Some(format!(
                    "`{}` is longer than the {MAX_INTERFACE} characters of an interface",
                    end.interface
                ))
            } else {
                Name::check(&end.interface).err()
            };
            if let Some(why) = why {
                self.reader.wrong(&end.path, why);
                return None;
            }
        }
        // A node that is refused was told so; its links say nothing more.
        (part != Part::Refused).then_some(end)
    }

    fn mtu(&mut self, value: Option<&Value>, path: &str) -> Option<u32> {
        let path = format!("{path}.mtu");
        let value = value.filter(|value| !value.is_null())?;
        let Some(mtu) = value.as_u64().filter(|mtu| *mtu >= *MTU.start()) else {
            self.reader.wrong(&path, format!("an MTU is a number from {} to {}", MTU.start(), MTU.end()));
            return None;
        };
        if mtu > *MTU.end() {
            self.reader.note(&path, format!("the MTU is {}, the lab's largest, and not {mtu}", MTU.end()));
        }
        u32::try_from(mtu.min(*MTU.end())).ok()
    }

    /// A network by a name that no other has.
    fn network(&mut self, name: String, description: Option<String>) -> Name {
        let plain =
            if name.len() > MAX_NAME { format!("link-{}", self.wiring.networks.len() + 1) } else { name };
        let mut name = plain.clone();
        let mut number = 1;
        while !self.names.insert(name.clone()) {
            number += 1;
            name = format!("{plain}-{number}");
        }
        self.wiring.networks.push(Network { name: Name(name.clone()), description, mtu: None });
        Name(name)
    }

    fn plug(&mut self, end: End, network: &Name) {
        let link = Link {
            network: network.clone(),
            interface: Name(end.interface),
            mac: end.mac,
            addresses: Vec::new(),
            bond: None,
        };
        self.wiring.links.entry(end.node).or_default().push(link);
    }

    fn set_mtu(&mut self, network: &Name, mtu: Option<u32>, path: &str) {
        let Some(mtu) = mtu else { return };
        let Some(network) = self.wiring.networks.iter_mut().find(|other| other.name == *network) else {
            return;
        };
        let smallest = network.mtu.map_or(mtu, |other| other.min(mtu));
        let differ = network.mtu.is_some_and(|other| other != mtu);
        network.mtu = Some(smallest);
        if differ {
            let name = network.name.clone();
            let message = format!(
                "links of the network `{name}` have different MTUs; all have the smallest, {smallest}"
            );
            self.reader.note(&format!("{path}.mtu"), message);
        }
    }

    fn between(&mut self, a: End, b: End, mtu: Option<u32>, path: &str) {
        let switch = |end: &End| self.nodes.get(end.node.as_str()) == Some(&Part::Switch);
        let network = match (switch(&a), switch(&b)) {
            (true, true) => {
                let message = format!(
                    "`{}` and `{}` are bridges; networks of the lab are not plugged into each other: make them one",
                    a.node, b.node
                );
                return self.reader.wrong(path, message);
            }
            (true, false) => {
                let network = Name(a.node);
                self.plug(b, &network);
                network
            }
            (false, true) => {
                let network = Name(b.node);
                self.plug(a, &network);
                network
            }
            (false, false) => {
                let network = self.network(format!("{}-{}", a.node, b.node), None);
                self.plug(a, &network);
                self.plug(b, &network);
                network
            }
        };
        self.set_mtu(&network, mtu, path);
    }

    fn out(&mut self, end: End, outside: Outside, mtu: Option<u32>, path: &str) {
        let place = format!("{}:{}", end.node, end.interface);
        let bridge = self.nodes.get(end.node.as_str()) == Some(&Part::Switch);
        let shared = matches!(outside, Outside::Management | Outside::Shared(_));
        let (name, what) = match outside {
            Outside::Host => (
                format!("{}-host", end.node),
                "to the machine of the lab, which is no part of the network here",
            ),
            Outside::Nowhere => (format!("{}-{}", end.node, end.interface), "to nothing (dummy)"),
            Outside::Management => (
                "mgmt-net".to_owned(),
                "to the management network, of which only those are here that such links name",
            ),
            Outside::Shared(name) => (
                name,
                "to a network of the machine (macvlan), of which only those are here that such links name",
            ),
        };
        if bridge {
            return self.reader.note(path, format!("`{place}` led {what}: left out"));
        }
        self.reader.note(path, format!("`{place}` led {what}"));
        let there = self.wiring.networks.iter().find(|network| shared && *network.name == *name);
        let network = match there {
            Some(network) => network.name.clone(),
            None => self.network(name, None),
        };
        self.plug(end, &network);
        self.set_mtu(&network, mtu, path);
    }
}
