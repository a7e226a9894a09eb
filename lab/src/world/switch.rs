//! The switch: all bridges of a world in one network namespace of their own, and the cables from there to the nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::bond::Bonded;
use super::cut::{Cut, Cuts};
use super::error::{Doing, Error, Result};
use super::impair::Bad;
use super::links::{End, Links, plain_frames};
use super::netlink::in_netns;
use super::node::{Cable, Node};
use super::probe::Probe;
use crate::scenario::topology::Topology;

/// The name under which the switch is known among nodes; no node can have it.
pub(crate) const NAME: &str = ".switch";
/// Bytes above the Ethernet header unless a network says otherwise.
const MTU: u32 = 1500;
/// How long a plugged cable may take until frames pass.
const PLUG: Duration = Duration::from_secs(20);
/// How long one probe may take on its way.
const PROBE: Duration = Duration::from_millis(200);

/// A bridge.
#[derive(Clone, Debug)]
struct Bridge {
    name: String,
    index: u32,
    mac: [u8; 6],
}

/// All bridges.
pub(crate) struct Switch {
    pub(crate) node: Node,
    links: Mutex<Links>,
    cuts: Mutex<Cuts>,
    bridges: BTreeMap<String, Bridge>,
    /// Ports that are down by a fault.
    unplugged: Mutex<BTreeSet<String>>,
    /// Cables that a fault has made bad.
    pub(super) bad: Mutex<Bad>,
}

impl Switch {
    /// Makes the bridges in the namespace of a node that is ready.
    pub(crate) fn new(node: Node, topology: &Topology) -> Result<Self> {
        let network = node.network()?;
        in_netns(network.as_fd(), || {
            // A switch has no addresses. Absent where the kernel has no IPv6 or no br_netfilter.
            let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
            for what in ["iptables", "ip6tables", "arptables"] {
                let _ = std::fs::write(format!("/proc/sys/net/bridge/bridge-nf-call-{what}"), "0");
            }
        })
        .doing(|| "entering the switch".into())?;
        let mut links = Links::open(network.as_fd())?;
        links.set_up("lo", true)?;
        let mut bridges = BTreeMap::new();
        for (number, network) in topology.networks.iter().enumerate() {
            let name = bridge_name(topology, &network.name, number);
            let mac = [0x02, 0, 2, 0, 0, u8::try_from(number).unwrap_or(u8::MAX)];
            let index = links.add_bridge(&name, mac, network.mtu.unwrap_or(MTU))?;
            bridges.insert(network.name.to_string(), Bridge { name, index, mac });
        }
        let cuts = Cuts::new(network.as_fd())?;
        Ok(Self {
            node,
            links: Mutex::new(links),
            cuts: Mutex::new(cuts),
            bridges,
            unplugged: Mutex::default(),
            bad: Mutex::default(),
        })
    }

    fn links(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cuts(&self) -> MutexGuard<'_, Cuts> {
        self.cuts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unplugged(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.unplugged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the cables of a node: both ends there, the node's down, the switch's up unless a fault holds it down.
    pub(crate) fn wire(&self, node: &Node) -> Result<()> {
        let network = node.network()?;
        let here = self.node.network()?;
        for cable in &node.0.cables {
            let bridge = self
                .bridges
                .get(&cable.network)
                .ok_or_else(|| Error::wrong(format!("there is no network {}", cable.network)))?;
            let master = self.master(cable, bridge)?;
            self.links().add_cable(
                &End { name: &cable.port, mac: cable.port_mac, mtu: cable.mtu },
                &End { name: &cable.interface, mac: cable.mac, mtu: cable.mtu },
                network.as_fd(),
                master,
            )?;
            for (namespace, name) in [(&here, &cable.port), (&network, &cable.interface)] {
                in_netns(namespace.as_fd(), || plain_frames(name))
                    .and_then(|result| result)
                    .doing(|| format!("making frames on {name} of {} plain", node.name()))?;
            }
            self.impair_again(node, cable)?;
            if !self.unplugged().contains(&cable.port) {
                self.links().set_up(&cable.port, true)?;
            }
        }
        Ok(())
    }

    /// What a cable is plugged into: the bridge, or the bond of all its bond's cables, which then is the bridge's port.
    fn master(&self, cable: &Cable, bridge: &Bridge) -> Result<u32> {
        let Some(bonded) = &cable.bonded else { return Ok(bridge.index) };
        let Some(name) = &bonded.aggregate else { return Ok(bridge.index) };
        let mut links = self.links();
        if let Some(interface) = links.try_interface(name)? {
            return Ok(interface.index);
        }
        let index = links.add_bond(name, cable.port_mac, cable.mtu, &bonded.bond)?;
        links.enslave(name, bridge.index)?;
        links.set_up(name, true)?;
        Ok(index)
    }

    /// Removes the ports of a node, and with them its interfaces.
    pub(crate) fn unwire(&self, node: &Node) -> Result<()> {
        for cable in &node.0.cables {
            self.links().remove(&cable.port)?;
        }
        Ok(())
    }

    /// Pulls or plugs a cable at the switch's end.
    pub(crate) fn plug(&self, cable: &Cable, plugged: bool) -> Result<()> {
        let mut unplugged = self.unplugged();
        if unplugged.contains(&cable.port) != plugged {
            return Err(Error::wrong(format!(
                "the cable of {} is {} already",
                cable.interface,
                if plugged { "plugged" } else { "pulled" }
            )));
        }
        // A port of a node that is off is not there; it will be brought up, or not, when the node is wired again.
        if self.links().try_interface(&cable.port)?.is_some() {
            self.links().set_up(&cable.port, plugged)?;
        }
        if plugged {
            unplugged.remove(&cable.port);
        } else {
            unplugged.insert(cable.port.clone());
        }
        Ok(())
    }

    pub(crate) fn is_unplugged(&self, cable: &Cable) -> bool {
        self.unplugged().contains(&cable.port)
    }

    /// Everything to and from a node.
    pub(crate) fn all_of(node: &Node) -> Vec<Cut> {
        node.0
            .cables
            .iter()
            .flat_map(|cable| [Cut::From(cable.bridge_port().into()), Cut::To(cable.bridge_port().into())])
            .collect()
    }

    pub(crate) fn cut(&self, reason: &str, cuts: &[Cut]) -> Result<()> {
        self.cuts().add(reason, cuts)
    }

    pub(crate) fn restore(&self, reason: &str) -> Result<usize> {
        self.cuts().remove(reason)
    }

    pub(crate) fn is_cut_for(&self, reason: &str) -> bool {
        self.cuts().has(reason)
    }

    /// Whether frames from or to a port are cut, for any reason.
    pub(crate) fn is_cut(&self, port: &str) -> bool {
        self.cuts().holds(&Cut::From(port.to_owned())) || self.cuts().holds(&Cut::To(port.to_owned()))
    }

    pub(crate) fn swallowed(&self, cut: &Cut) -> Result<Option<u64>> {
        self.cuts().swallowed(cut)
    }

    /// A probe at the node's end of a cable.
    pub(crate) fn probe_in(node: &Node, cable: &Cable) -> Result<Probe> {
        let network = node.network()?;
        let (interface, mac) = cable.speaker();
        let index = Links::open(network.as_fd())?.interface(interface)?.index;
        Probe::open(network.as_fd(), index, mac).doing(|| format!("probing {interface} of {}", node.name()))
    }

    /// A probe at the bridge itself.
    pub(crate) fn probe_at(&self, network: &str) -> Result<Probe> {
        let bridge = self
            .bridges
            .get(network)
            .ok_or_else(|| Error::wrong(format!("there is no network {network}")))?;
        Probe::open(self.node.network()?.as_fd(), bridge.index, &bridge.mac)
            .doing(|| format!("probing the network {network} ({})", bridge.name))
    }

    /// Waits until frames pass on a cable, both ways.
    pub(crate) fn wait_until_plugged(&self, node: &Node, cable: &Cable) -> Result<()> {
        let (there, here) = (Self::probe_in(node, cable)?, self.probe_at(&cable.network)?);
        let deadline = Instant::now() + PLUG;
        for (from, to) in [(&there, &here), (&here, &there)] {
            loop {
                // An interface that is not up yet refuses to send.
                if let Ok(number) = from.send()
                    && to.arrives(number, PROBE).doing(|| "waiting for a probe".into())?
                {
                    break;
                }
                if Instant::now() > deadline {
                    return Err(Error::wrong(format!(
                        "no frame passes between {} of {} and the network {} within {PLUG:?}",
                        cable.interface,
                        node.name(),
                        cable.network
                    )));
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        Ok(())
    }
}

/// Cables of all nodes, with names of ports that are unique and fit (15 characters).
pub(crate) fn cables(topology: &Topology) -> Result<BTreeMap<String, Vec<Cable>>> {
    let mut used: BTreeSet<String> = topology
        .networks
        .iter()
        .enumerate()
        .map(|(number, network)| bridge_name(topology, &network.name, number))
        .collect();
    used.insert("lo".into());
    let mut macs = BTreeSet::new();
    let mut all = BTreeMap::new();
    for (node_number, node) in topology.nodes.iter().enumerate() {
        let mut cables: Vec<Cable> = Vec::new();
        let node_byte = u8::try_from(node_number + 1).unwrap_or(0);
        for link in &node.links {
            let first = cables.len();
            for interface in link.cables() {
                let numbers = [node_byte, u8::try_from(cables.len() + 1).unwrap_or(0)];
                let port = port_name(&node.name, interface, numbers, &used);
                // A bond has the hardware address that is told for it, by its first cable.
                let told = link.mac.filter(|_| cables.len() == first);
                let mac = told.map_or([0x02, 0, 0, 0, numbers[0], numbers[1]], |mac| mac.0);
                let network = topology.network(&link.network).ok_or_else(|| {
                    Error::wrong(format!("{} {interface}: there is no network {}", node.name, link.network))
                })?;
                if !used.insert(port.clone()) || !macs.insert((link.network.clone(), mac)) {
                    return Err(Error::wrong(format!(
                        "{} {interface}: another link has the same name or hardware address",
                        node.name
                    )));
                }
                let bonded = link.bond.as_ref().map(|bond| match cables.get(first) {
                    Some(Cable { bonded: Some(bonded), .. }) => bonded.clone(),
                    _ => {
                        let numbers = [node_byte, 100 + numbers[1]];
                        let name = port_name(&node.name, &link.interface, numbers, &used);
                        let aggregate = bond.mode.is_aggregate().then_some(name);
                        Bonded { interface: link.interface.to_string(), mac, aggregate, bond: bond.clone() }
                    }
                });
                used.extend(bonded.as_ref().and_then(|bonded| bonded.aggregate.clone()));
                cables.push(Cable {
                    interface: interface.to_string(),
                    network: link.network.to_string(),
                    port,
                    mac,
                    port_mac: [0x02, 0, 1, 0, numbers[0], numbers[1]],
                    mtu: network.mtu.unwrap_or(MTU),
                    bonded,
                });
            }
        }
        all.insert(node.name.to_string(), cables);
    }
    Ok(all)
}

/// A port's name: the node's and the interface's where they fit.
fn port_name(node: &str, interface: &str, numbers: [u8; 2], used: &BTreeSet<String>) -> String {
    let name = format!("{node}.{interface}");
    if name.len() >= libc::IFNAMSIZ || used.contains(&name) {
        return format!("port{}.{}", numbers[0], numbers[1]);
    }
    name
}

/// A network's own name where it fits.
fn bridge_name(topology: &Topology, name: &str, number: usize) -> String {
    let fits =
        name.len() < libc::IFNAMSIZ && name != "lo" && !name.starts_with("port") && !name.contains('.');
    let again = topology.networks.iter().position(|network| &*network.name == name);
    if fits && again == Some(number) { name.to_owned() } else { format!("network{number}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology(text: &str) -> Topology {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn ports_and_hardware_addresses_are_fixed_and_unique() {
        let topology = topology(
            r#"{"networks": [{"name": "outside"}, {"name": "a-network-with-a-long-name", "mtu": 9000}],
                "nodes": [{"name": "dir1", "links": [{"network": "outside", "interface": "enp0s3"},
                                                     {"network": "a-network-with-a-long-name", "interface": "enp0s8"}]},
                          {"name": "a-node-with-a-long-name", "links": [{"network": "outside", "interface": "enp0s3",
                                                                         "mac": "02:00:00:aa:bb:cc"}]}]}"#,
        );
        let cables = cables(&topology).unwrap();
        assert_eq!(cables["dir1"][0].port, "dir1.enp0s3");
        assert_eq!(cables["dir1"][1].mac, [2, 0, 0, 0, 1, 2]);
        assert_eq!(cables["dir1"][1].mtu, 9000);
        assert_eq!(cables["a-node-with-a-long-name"][0].port, "port2.1");
        assert_eq!(cables["a-node-with-a-long-name"][0].mac, [2, 0, 0, 0xaa, 0xbb, 0xcc]);
        assert_eq!(bridge_name(&topology, "a-network-with-a-long-name", 1), "network1");
    }

    #[test]
    fn a_bond_is_several_cables_and_where_they_are_used_together_one_port() {
        let topology = topology(
            r#"{"networks": [{"name": "lan"}], "nodes": [{"name": "dir1", "links": [
                {"network": "lan", "interface": "bond0", "bond": {"legs": ["e1", "e2"], "mode": "lacp"}},
                {"network": "lan", "interface": "bond1", "bond": {"legs": ["e3", "e4"]}},
                {"network": "lan", "interface": "e5"}]}]}"#,
        );
        let cables = &cables(&topology).unwrap()["dir1"];
        let seen: Vec<_> = cables.iter().map(|cable| (cable.port.as_str(), cable.bridge_port())).collect();
        assert_eq!(
            seen,
            [
                ("dir1.e1", "dir1.bond0"),
                ("dir1.e2", "dir1.bond0"),
                ("dir1.e3", "dir1.e3"),
                ("dir1.e4", "dir1.e4"),
                ("dir1.e5", "dir1.e5")
            ]
        );
        assert_eq!(cables[1].speaker(), ("bond0", &cables[0].mac));
        assert_eq!(cables[3].speaker(), ("bond1", &cables[2].mac));
        assert_eq!(cables[4].speaker(), ("e5", &[2, 0, 0, 0, 1, 5]));
    }

    #[test]
    fn what_cannot_be_wired_is_an_error() {
        let unknown = topology(
            r#"{"networks": [], "nodes": [{"name": "a", "links": [{"network": "x", "interface": "e"}]}]}"#,
        );
        assert!(cables(&unknown).unwrap_err().to_string().contains("no network x"));
        let twice = topology(
            r#"{"networks": [{"name": "n"}], "nodes": [{"name": "a", "links": [
                {"network": "n", "interface": "e", "mac": "02:00:00:00:00:09"},
                {"network": "n", "interface": "f", "mac": "02:00:00:00:00:09"}]}]}"#,
        );
        assert!(cables(&twice).unwrap_err().to_string().contains("hardware address"));
    }
}
