//! What is known of a network besides its frames: who has which address, who directs, what the services are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use crate::programs::pcapng::{Direction, Packet};
use crate::scenario::Scenario;
use crate::scenario::topology::Peer;

/// One end of a link, where frames were recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct End {
    /// `NODE/INTERFACE`.
    pub(crate) name: String,
    /// The node.
    pub(crate) node: Option<String>,
    /// The network that the link is plugged into; without it nothing can be said of what did not arrive.
    pub(crate) network: Option<String>,
    /// From when until when everything was recorded, in nanoseconds of CLOCK_REALTIME; none where that is not known.
    pub(crate) recorded: Vec<(u64, u64)>,
    /// How many frames were lost to the capture.
    pub(crate) dropped: u64,
}

/// What is known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// Where frames were recorded.
    pub(crate) ends: Vec<End>,
    /// Whose an address is: a node's, or the service or group that it belongs to.
    pub(crate) names: BTreeMap<IpAddr, String>,
    /// The nodes that direct.
    pub(crate) directors: BTreeSet<String>,
    /// The addresses of virtual services.
    pub(crate) services: BTreeSet<IpAddr>,
    /// The addresses of real servers.
    pub(crate) servers: BTreeSet<IpAddr>,
    /// What the groups of a virtual router id are called.
    groups: BTreeMap<u8, BTreeSet<String>>,
    macs: BTreeMap<[u8; 6], String>,
    networks: BTreeMap<(String, String), String>,
}

/// The largest range of addresses that is taken apart.
const MAX_RANGE: usize = 4096;

impl Known {
    /// What a scenario says.
    pub(crate) fn of(scenario: &Scenario) -> Self {
        let mut known = Self::default();
        for node in &scenario.topology.nodes {
            for link in &node.links {
                let place = (node.name.to_string(), link.interface.to_string());
                known.networks.insert(place, link.network.to_string());
                for address in &link.addresses {
                    known.names.entry(address.prefix().address).or_insert_with(|| node.name.to_string());
                }
            }
            if node.agent.is_some() || node.peer.is_some() {
                known.directors.insert(node.name.to_string());
            }
            if let Some(Peer::Keepalived(peer)) = &node.peer {
                known.keepalived(&peer.config);
            }
        }
        // An address of both is called after the service.
        for take in [Self::virtual_service, Self::group] {
            let agents = scenario.topology.nodes.iter().filter_map(|node| node.agent.as_ref());
            for text in agents.flat_map(|agent| agent.manifests.values()) {
                known.manifests(text, take);
            }
        }
        known
    }

    /// Adds an end of a link by its name, `NODE/INTERFACE` or just an interface's; others may have dots and anything in them.
    pub(crate) fn end(&mut self, name: &str) -> &mut End {
        let (node, interface) = name.split_once('/').unwrap_or(("", name));
        let node = (!node.is_empty()).then(|| node.to_owned());
        let network =
            node.as_ref().and_then(|node| self.networks.get(&(node.clone(), interface.to_owned()))).cloned();
        self.ends.push(End { name: name.to_owned(), node, network, ..End::default() });
        let last = self.ends.len() - 1;
        &mut self.ends[last]
    }

    /// Shows all that is in manifests to a reader. What is not as it should be is left out: the agent says what is wrong with it.
    fn manifests(&mut self, text: &str, take: fn(&mut Self, &str, &Value)) {
        for document in bascule_crds::manifest::parse(text).unwrap_or_default() {
            let name = document.value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
            take(self, name, &document.value);
        }
    }

    fn virtual_service(&mut self, name: &str, value: &Value) {
        if !is(value, "VirtualService") {
            return;
        }
        for text in list(value, "/spec/addresses").filter_map(Value::as_str) {
            let addresses: Vec<IpAddr> = text
                .parse::<bascule_crds::common::AddressOrRange>()
                .map(|range| range.addresses().take(MAX_RANGE).collect())
                .unwrap_or_default();
            for address in addresses {
                self.services.insert(address);
                self.names.entry(address).or_insert_with(|| name.to_owned());
            }
        }
        let servers = list(value, "/spec/realServers").filter_map(|server| server.get("address"));
        self.servers.extend(servers.filter_map(Value::as_str).filter_map(|text| text.parse::<IpAddr>().ok()));
    }

    fn group(&mut self, name: &str, value: &Value) {
        if !is(value, "VrrpGroup") {
            return;
        }
        for instance in list(value, "/spec/instances") {
            let id = instance.get("virtualRouterId").and_then(Value::as_u64);
            if let Some(id) = id.and_then(|id| u8::try_from(id).ok()) {
                let instance = instance.get("name").and_then(Value::as_str).unwrap_or_default();
                self.groups.entry(id).or_default().insert(format!("{name}/{instance}"));
            }
            for text in list(instance, "/addresses").filter_map(Value::as_str) {
                let address = text.split('/').next().and_then(|text| text.parse::<IpAddr>().ok());
                if let Some(address) = address {
                    self.names.entry(address).or_insert_with(|| name.to_owned());
                }
            }
        }
    }

    /// The addresses of services and servers in keepalived's configuration.
    fn keepalived(&mut self, config: &str) {
        for line in config.lines() {
            let mut words = line.split_whitespace();
            let (word, address) = (words.next(), words.next().and_then(|word| word.parse::<IpAddr>().ok()));
            match (word, address) {
                (Some("virtual_server"), Some(address)) => self.services.insert(address),
                (Some("real_server"), Some(address)) => self.servers.insert(address),
                _ => false,
            };
        }
    }

    /// Learns hardware addresses from what nodes send.
    pub(super) fn learn(&mut self, packets: &[Packet]) {
        for packet in packets.iter().filter(|packet| packet.direction == Direction::Outbound) {
            let from = packet.data.get(6..12).and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
            let node = self.ends.get(packet.interface as usize).and_then(|end| end.node.as_ref());
            // The address of a virtual router moves (RFC 9568 section 7.3).
            if let (Some(from), Some(node)) = (from, node)
                && !from.starts_with(&[0, 0, 0x5e, 0])
            {
                self.macs.entry(from).or_insert_with(|| node.clone());
            }
        }
    }

    /// Whose a hardware address is.
    pub(super) fn owner(&self, mac: [u8; 6]) -> Option<String> {
        self.macs.get(&mac).cloned()
    }

    /// Whose an address is, or the address.
    pub(super) fn host(&self, address: IpAddr) -> String {
        self.names.get(&address).cloned().unwrap_or_else(|| address.to_string())
    }

    /// An address and port with their owner: `SRV1 (172.16.193.10:80)`; no port: 0.
    pub(super) fn endpoint(&self, address: IpAddr, port: u16) -> String {
        let text = if port == 0 { address.to_string() } else { SocketAddr::new(address, port).to_string() };
        match self.names.get(&address) {
            Some(name) => format!("{name} ({text})"),
            None => text,
        }
    }

    /// What a virtual router is called.
    pub(super) fn router(&self, id: u8) -> String {
        match self.groups.get(&id).map(|names| names.iter().cloned().collect::<Vec<_>>()) {
            Some(names) if names.len() == 1 => format!("{} (VRID {id})", names[0]),
            _ => format!("VRID {id}"),
        }
    }
}

fn is(value: &Value, kind: &str) -> bool {
    value.get("kind").and_then(Value::as_str) == Some(kind)
}

fn list<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}
