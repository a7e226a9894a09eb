//! What is up, as it is at this moment: for `bascule-lab inspect` and `watch`.

mod view;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
pub use view::{Paint, view};

use crate::expect::ipvsadm;
use crate::scenario::Topology;
use crate::scenario::topology::Node as Spec;
use crate::world::{Exec, Node, World};

/// How long a node may take to say what it holds.
const PATIENCE: Duration = Duration::from_secs(20);
/// As much is read of what it says, in bytes.
const LIMIT: usize = 8 << 20;
/// Before each answer, so that one call asks for all.
const MARK: &str = "-- bascule-lab inspect --";

/// All of a network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Inspection {
    /// Name of the scenario.
    pub scenario: String,
    /// Its networks.
    pub networks: Vec<String>,
    /// Its nodes, in the order of the scenario.
    pub nodes: Vec<NodeSeen>,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSeen {
    /// Its name.
    pub name: String,
    /// Whether it runs.
    pub power: Power,
    /// Its interfaces that are on a network.
    pub interfaces: Vec<InterfaceSeen>,
    /// The virtual services of its kernel.
    pub services: Vec<ServiceSeen>,
    /// What its agent says; none: it has none, or that does not answer.
    pub agent: Option<AgentSeen>,
}

/// Whether a node runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Power {
    /// It does.
    #[default]
    On,
    /// It stands still: `freezeNode`.
    Frozen,
    /// It has no power: `crash`.
    Off,
}

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InterfaceSeen {
    /// Its name in the node.
    pub name: String,
    /// The network that it is on.
    pub network: String,
    /// Whether it is up (IFF_UP).
    pub up: bool,
    /// Whether it has a carrier (IFF_LOWER_UP).
    pub carrier: bool,
    /// Its addresses with their prefix lengths; link-local ones of IPv6 are left out.
    pub addresses: Vec<String>,
    /// Those of them that the scenario did not give it: by an agent, a peer, or by hand.
    pub added: Vec<String>,
}

/// A virtual service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSeen {
    /// `TCP 192.16.193.30:80`.
    pub service: String,
    /// `rr`.
    pub scheduler: String,
    /// Its real servers.
    pub real_servers: Vec<RealServerSeen>,
}

/// A real server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RealServerSeen {
    /// `172.16.193.10:80`.
    pub server: String,
    /// `Masq`, `Route`, `Tunnel`, `Local`.
    pub forward: String,
    /// Its weight.
    pub weight: u32,
    /// Active connections.
    pub active: u64,
    /// Inactive connections.
    pub inactive: u64,
}

/// What an agent says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentSeen {
    /// Whether it is ready.
    pub ready: bool,
    /// Its VRRP groups and the state of each.
    pub groups: BTreeMap<String, String>,
}

/// Asks all nodes at once. `ipvs`: whether the scenario has to do with IPVS; asking for its table would load the module.
pub fn inspect(scenario: &str, topology: &Topology, world: &World, ipvs: bool) -> Inspection {
    let look = |spec: &Spec| match world.node(&spec.name) {
        Ok(node) => node_seen(spec, &node, ipvs),
        Err(_) => NodeSeen { name: spec.name.to_string(), power: Power::Off, ..NodeSeen::default() },
    };
    let nodes = std::thread::scope(|scope| {
        let threads: Vec<_> = topology.nodes.iter().map(|spec| scope.spawn(|| look(spec))).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    Inspection {
        scenario: scenario.to_owned(),
        networks: topology.networks.iter().map(|network| network.name.to_string()).collect(),
        nodes,
    }
}

fn node_seen(spec: &Spec, node: &Node, ipvs: bool) -> NodeSeen {
    let power = match (node.is_up(), node.is_frozen()) {
        (false, _) => Power::Off,
        (true, true) => Power::Frozen,
        (true, false) => Power::On,
    };
    let mut seen = NodeSeen { name: spec.name.to_string(), power, ..NodeSeen::default() };
    if power != Power::On {
        return seen;
    }
    // Nice: who looks must not be in the way of what is looked at.
    let mut commands = vec!["ip -json address show"];
    let director = spec.agent.is_some() || spec.peer.is_some();
    if ipvs {
        commands.push("ipvsadm -Ln");
    }
    if director {
        commands.push("bascule-agent status -o json");
    }
    let asked: Vec<String> =
        commands.iter().map(|command| format!("nice -n 15 {command} 2>/dev/null; echo '{MARK}'")).collect();
    let Ok(output) = node.exec(&Exec::shell(&asked.join("; ")).timeout(PATIENCE).limit(LIMIT)) else {
        return seen;
    };
    let text = output.text();
    for (command, answer) in commands.iter().zip(text.split(MARK)) {
        match *command {
            "ip -json address show" => seen.interfaces = interfaces(spec, answer),
            "ipvsadm -Ln" => seen.services = services(answer),
            _ => seen.agent = agent(answer),
        }
    }
    seen
}

/// The interfaces of a node that are on a network, from what `ip -json address show` says.
fn interfaces(spec: &Spec, answer: &str) -> Vec<InterfaceSeen> {
    let links: Vec<Value> = serde_json::from_str(answer.trim()).unwrap_or_default();
    let find = |name: &str| links.iter().find(|link| link["ifname"] == name);
    spec.links
        .iter()
        .map(|link| {
            let given: Vec<String> =
                link.addresses.iter().map(|address| address.prefix().to_string()).collect();
            let flag = |flag: &str| {
                let flags = find(&link.interface).and_then(|link| link["flags"].as_array());
                flags.is_some_and(|flags| flags.iter().any(|have| have == flag))
            };
            let addresses: Vec<String> = find(&link.interface)
                .and_then(|link| link["addr_info"].as_array())
                .into_iter()
                .flatten()
                .filter(|address| address["scope"] != "link")
                .filter_map(|address| {
                    Some(format!("{}/{}", address["local"].as_str()?, address["prefixlen"]))
                })
                .collect();
            InterfaceSeen {
                name: link.interface.to_string(),
                network: link.network.to_string(),
                up: flag("UP"),
                carrier: flag("LOWER_UP"),
                added: addresses.iter().filter(|address| !given.contains(address)).cloned().collect(),
                addresses,
            }
        })
        .collect()
}

fn services(answer: &str) -> Vec<ServiceSeen> {
    let real_server = |server: ipvsadm::Destination| RealServerSeen {
        server: server.server,
        forward: server.forward,
        weight: server.weight,
        active: server.active,
        inactive: server.inactive,
    };
    let parsed = ipvsadm::parse(answer).unwrap_or_default();
    parsed
        .into_iter()
        .map(|service| ServiceSeen {
            service: service.service,
            scheduler: service.scheduler,
            real_servers: service.destinations.into_iter().map(real_server).collect(),
        })
        .collect()
}

fn agent(answer: &str) -> Option<AgentSeen> {
    let status: Value = serde_json::from_str(answer.trim()).ok()?;
    let groups = status.pointer("/vrrp/groups").and_then(Value::as_array).into_iter().flatten();
    Some(AgentSeen {
        ready: status["ready"] == true,
        groups: groups
            .filter_map(|group| {
                Some((group["group"].as_str()?.to_owned(), group["state"].as_str()?.to_owned()))
            })
            .collect(),
    })
}

#[cfg(test)]
mod tests;
