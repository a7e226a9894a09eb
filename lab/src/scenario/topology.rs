//! The network of a scenario: plain data, from which [`crate::world`] builds namespaces.
//!
//! Who does what: the world makes networks, nodes, links, addresses, routes, `sysctls`, `files` and `exec`; the runner starts
//! `servers`, `agent` and `peer`. At a boot after a crash the world applies links, addresses, routes, `sysctls` and `exec` again;
//! `files` and everything else on the node's disk are as they were left.

use std::collections::BTreeMap;
use std::ops::Deref;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use super::bond::{Bond, BondHash, BondMode};
pub use super::peer::{Frr, Heartbeat, Ipvsadm, Keepalived, Peer, PeerFile};
use super::peer::{is_true, yes};
use super::value::{Destination, Listen, Mac, Prefix};

/// The name of a node, network, interface, server or load, as people see it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(extend("format" = "name"))]
pub struct Name(
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$"))]
    pub String,
);

impl Name {
    /// Whether `text` can be a name: letters and digits, and `_`, `.`, `-` inside; at most 63.
    pub(crate) fn check(text: &str) -> Result<(), String> {
        let inside = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        if text.len() <= 63
            && text.chars().all(inside)
            && ends(text.chars().next())
            && ends(text.chars().last())
        {
            Ok(())
        } else {
            Err(format!(
                "`{text}` cannot be a name; use letters, digits, and `_`, `.` or `-` between them, at most 63"
            ))
        }
    }
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for Name {
    fn from(name: &str) -> Self {
        Self(name.to_owned())
    }
}

/// Networks and the machines on them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Topology {
    /// The networks: each a switch without spanning tree.
    #[schemars(length(max = 64))]
    pub networks: Vec<Network>,
    /// The machines.
    #[schemars(length(max = 256))]
    pub nodes: Vec<Node>,
}

/// One switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Network {
    /// How links and faults call it.
    pub name: Name,
    /// What it is, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub description: Option<String>,
    /// Bytes a frame may carry above its Ethernet header; 1500 unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1280, max = 9216))]
    pub mtu: Option<u32>,
}

/// One machine: namespaces of its own for network, host name, mounts and processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Node {
    /// How steps, faults and expectations call it.
    pub name: Name,
    /// What it is, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub description: Option<String>,
    /// What `uname -n` prints; the name unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Name>,
    /// Its interfaces. `lo` is there by itself and up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub links: Vec<Link>,
    /// Routes besides those of the links' networks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub routes: Vec<Route>,
    /// Kernel parameters, set before the links come up where that is possible and again after: `net.ipv4.ip_forward: "1"`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
    /// Lines of `/etc/hosts` besides those of `localhost` and of the node itself: address to names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hosts: BTreeMap<String, Vec<String>>,
    /// Files on its disk, absolute path to contents, written once before the first boot.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
    /// Commands (`/bin/sh -c`) run at each boot, after links, routes and sysctls and before any server. One that fails is an error of the run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 4096)))]
    pub exec: Vec<String>,
    /// Small servers of the lab's own that say who they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub servers: Vec<Server>,
    /// A Bascule agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<Agent>,
    /// A program by somebody else that does the agent's work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<Peer>,
}

impl Node {
    /// What `uname -n` prints in it.
    pub fn hostname(&self) -> &str {
        self.hostname.as_ref().unwrap_or(&self.name)
    }

    /// Whether it has an agent or, in its place, a peer program.
    pub fn is_director(&self) -> bool {
        self.agent.is_some() || self.peer.is_some()
    }
}

/// An interface of a node, plugged into a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Link {
    /// The network that it is plugged into.
    pub network: Name,
    /// Its name in the node, at most 15 characters: `enp0s3`.
    pub interface: Name,
    /// Its hardware address; a fixed one, derived from node and interface, unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// Its addresses, added in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub addresses: Vec<LinkAddress>,
    /// It is several cables, bonded into this interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bond: Option<Bond>,
}

impl Link {
    /// The interfaces of its cables: those that it bonds, else its own.
    pub fn cables(&self) -> impl Iterator<Item = &Name> {
        let legs = self.bond.iter().flat_map(|bond| &bond.legs);
        legs.chain(self.bond.is_none().then_some(&self.interface))
    }
}

/// An address of a link: `172.16.193.10/16`, or with a label, such as `enp0s3:30`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum LinkAddress {
    /// The address alone.
    Plain(Prefix),
    /// The address and its label.
    Labelled(LabelledAddress),
}

/// An address with a label, which `ip addr` prints as the name of a "virtual card".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelledAddress {
    /// The address.
    pub address: Prefix,
    /// The interface's name, a colon and more; at most 15 characters. IPv4 only.
    #[schemars(length(min = 1, max = 15))]
    pub label: String,
}

impl LinkAddress {
    /// The address with its prefix.
    pub fn prefix(&self) -> Prefix {
        match self {
            Self::Plain(prefix) => *prefix,
            Self::Labelled(labelled) => labelled.address,
        }
    }

    /// The label, if it has one.
    pub fn label(&self) -> Option<&str> {
        match self {
            Self::Plain(_) => None,
            Self::Labelled(labelled) => Some(&labelled.label),
        }
    }
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Route {
    /// Where to.
    pub to: Destination,
    /// The gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<std::net::IpAddr>,
    /// The interface; found from the gateway unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<Name>,
    /// The source address that the node prefers for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<std::net::IpAddr>,
}

/// A small server that says who it is: `It Works! SRV1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Server {
    /// How steps and faults call it: `apache2`.
    pub name: Name,
    /// Who it says it is; the node's name unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub says: Option<Name>,
    /// Where it speaks HTTP/1.1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub http: Vec<Listen>,
    /// Where it greets and echoes lines over TCP.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub tcp: Vec<Listen>,
    /// Where it answers datagrams.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub udp: Vec<Listen>,
    /// Where it speaks HTTP/1.1 over TLS; needs a `certificate`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub https: Vec<Listen>,
    /// Where it greets as a mail server, with STARTTLS if it has a `certificate`; it takes no mail.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub smtp: Vec<Listen>,
    /// Where it answers questions of DNS, over UDP and TCP; every name has a start of authority.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub dns: Vec<Listen>,
    /// A file of the node with its certificate, those that signed it, and its key, in PEM. It may be expired or for another name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 4096))]
    pub certificate: Option<String>,
    /// It has pages for this host only (HTTP's `Host`); others get 404.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub host: Option<String>,
}

/// A Bascule agent without a cluster: `bascule-agent --manifests /etc/bascule --director NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Agent {
    /// The Director that it is; the node's name in lower case unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub director: Option<Name>,
    /// Manifests, file name to contents, on the node's disk in `/etc/bascule`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub manifests: BTreeMap<String, String>,
    /// More arguments: `--adopt`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub arguments: Vec<String>,
    /// Whether it runs from the start. True unless told.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub start: bool,
}

impl Topology {
    /// The node of that name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| &*node.name == name)
    }

    /// The network of that name.
    pub fn network(&self, name: &str) -> Option<&Network> {
        self.networks.iter().find(|network| &*network.name == name)
    }
}
