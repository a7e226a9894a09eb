//! What a scenario's network has that matters to random faults: who stands in for whom, and how long that takes at most by the timers
//! in the manifests.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use bascule_crds::vrrp_group::OnAgentLoss;
use bascule_crds::{DirectorSpec, HealthCheckSpec, VirtualServiceSpec, VrrpGroupSpec};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::scenario::topology::{Name, Node, Topology};

/// What is added to every bound: to act on it, and for a request that was under way.
pub(super) const TO_ACT: Duration = Duration::from_millis(500);
/// How long it takes until the directors have told each other all connections again.
const SYNC: Duration = Duration::from_secs(12);
/// The port of the kernel's synchronisation daemons, unless told (`IP_VS_SYNC_PORT`, linux/ip_vs.h).
const SYNC_PORT: u16 = 8848;
/// The kernel looks for addresses whose lifetime is over no more often than this (`ADDR_CHECK_FREQ`, net/ipv4/devinet.c).
const LOOK: Duration = Duration::from_secs(1);
/// The shortest lifetime of an address.
const LIFETIME: Duration = Duration::from_secs(2);

/// The directors of a VrrpGroup that are in the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// Its members' nodes.
    pub(super) nodes: Vec<Name>,
    /// Interfaces of its instances, in their order, each once.
    pub(super) interfaces: Vec<Name>,
    /// The addresses that move.
    pub(super) addresses: Vec<IpAddr>,
    /// Until another member has them when the active one falls silent: the Active_Down_Interval of the slowest member.
    pub(super) down: Duration,
    /// How long two may have them at most.
    pub(super) overlap: Duration,
    /// Whether they stay on a machine whose agent is dead.
    pub(super) keeps: bool,
}

/// The real servers of checked services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Servers {
    /// Their nodes.
    pub(super) nodes: Vec<Name>,
    /// Until one that is dead is out.
    pub(super) out: Duration,
    /// Until one that is well is in again.
    pub(super) back: Duration,
}

/// A network, as chaos sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Site {
    pub(super) group: Option<Group>,
    pub(super) servers: Servers,
    /// Nodes with an agent for which nobody stands in.
    pub(super) alone: Vec<Name>,
    /// Whether the directors tell each other their connections, and through which port.
    pub(super) sync: Option<u16>,
}

impl Site {
    /// Reads it from a topology. What is not as it should be in a manifest is left out: the agent says what is wrong with it.
    ///
    /// # Errors
    /// When there is more than one VrrpGroup: who stands in for whom would have to be said.
    pub(super) fn of(topology: &Topology) -> Result<Self, String> {
        let found = Found::of(topology);
        let group = match found.groups.as_slice() {
            [] => None,
            [spec] => Some(group(spec, topology)).filter(|group| group.nodes.len() > 1),
            _ => return Err("it has several VrrpGroups; chaos knows networks with one".into()),
        };
        let members = group.as_ref().map_or(&[][..], |group| &group.nodes);
        let alone =
            topology.nodes.iter().filter(|node| node.agent.is_some() && !members.contains(&node.name));
        Ok(Self {
            alone: alone.map(|node| node.name.clone()).collect(),
            servers: servers(&found, topology),
            sync: found.sync,
            group,
        })
    }

    /// How long after the return of a director its place may be broken again.
    pub(super) fn settle(&self) -> Duration {
        let known = if self.sync.is_some() { SYNC } else { Duration::ZERO };
        known.max(self.servers.back) + TO_ACT
    }

    /// The nodes without which a request from `from` to `target` has no path, whoever is active.
    pub(super) fn needs(&self, topology: &Topology, from: &Name, target: IpAddr) -> BTreeSet<Name> {
        if self.group.as_ref().is_some_and(|group| group.addresses.contains(&target)) {
            let near = topology.node(from).is_some_and(|node| is_near(node, target));
            return if near { BTreeSet::new() } else { self.alone.iter().cloned().collect() };
        }
        let owner = topology.nodes.iter().find(|node| addresses(node).any(|address| address == target));
        match owner {
            Some(node) => BTreeSet::from([node.name.clone()]),
            None => self.alone.iter().cloned().collect(),
        }
    }
}

fn addresses(node: &Node) -> impl Iterator<Item = IpAddr> {
    node.links.iter().flat_map(|link| &link.addresses).map(|address| address.prefix().address)
}

fn is_near(node: &Node, target: IpAddr) -> bool {
    node.links.iter().flat_map(|link| &link.addresses).any(|address| address.prefix().contains(target))
}

/// The specs in all manifests, each object once.
#[derive(Default)]
struct Found {
    groups: Vec<VrrpGroupSpec>,
    checks: Vec<HealthCheckSpec>,
    services: Vec<VirtualServiceSpec>,
    sync: Option<u16>,
}

impl Found {
    fn of(topology: &Topology) -> Self {
        let mut found = Self::default();
        let mut seen = BTreeSet::new();
        let agents = topology.nodes.iter().filter_map(|node| node.agent.as_ref());
        for text in agents.flat_map(|agent| agent.manifests.values()) {
            for document in bascule_crds::manifest::parse(text).unwrap_or_default() {
                let named = |pointer| {
                    document.value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
                };
                let kind = named("/kind");
                if seen.insert((kind.clone(), named("/metadata/namespace"), named("/metadata/name"))) {
                    found.take(&kind, &document.value);
                }
            }
        }
        found
    }

    fn take(&mut self, kind: &str, value: &Value) {
        match kind {
            "VrrpGroup" => self.groups.extend(spec(value)),
            "HealthCheck" => self.checks.extend(spec(value)),
            "VirtualService" => self.services.extend(spec(value)),
            "Director" => {
                if let Some(sync) = spec(value).and_then(|spec: DirectorSpec| spec.connection_sync) {
                    self.sync = Some(sync.port.unwrap_or(SYNC_PORT));
                }
            }
            _ => {}
        }
    }
}

fn spec<T: DeserializeOwned>(object: &Value) -> Option<T> {
    serde_json::from_value(object.get("spec")?.clone()).ok()
}

fn group(spec: &VrrpGroupSpec, topology: &Topology) -> Group {
    let is_member = |node: &&Node| {
        node.agent.as_ref().is_some_and(|agent| {
            let director = agent.director.as_ref().map_or_else(|| node.name.to_lowercase(), Name::to_string);
            spec.members.iter().any(|member| member.director == director)
        })
    };
    let interval = Duration::from(spec.advertisement_interval);
    // In version 2 the skew is a part of a second (RFC 3768 section 6.1), in version 3 of the interval (RFC 9568 section 6.1).
    let whole = if spec.version == 2 { Duration::from_secs(1) } else { interval };
    let lowest = spec.members.iter().map(|member| member.priority).min().unwrap_or(1);
    let down = interval * spec.down_intervals + whole * (256 - u32::from(lowest)) / 256;
    let mut interfaces: Vec<Name> = Vec::new();
    for instance in &spec.instances {
        if !interfaces.iter().any(|name| **name == *instance.interface) {
            interfaces.push(Name::from(instance.interface.as_str()));
        }
    }
    let whole_seconds =
        Duration::from_secs(down.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX / 2));
    Group {
        nodes: topology.nodes.iter().filter(is_member).map(|node| node.name.clone()).collect(),
        interfaces,
        addresses: spec.instances.iter().flat_map(|one| &one.addresses).map(|one| one.address).collect(),
        down,
        overlap: whole_seconds.max(LIFETIME) + LOOK,
        keeps: spec.on_agent_loss == Some(OnAgentLoss::Keep),
    }
}

fn servers(found: &Found, topology: &Topology) -> Servers {
    // What is not checked never goes out: there would be no bound.
    if found.services.is_empty() || found.services.iter().any(|service| service.health_checks.is_empty()) {
        return Servers::default();
    }
    let real_servers = found.services.iter().flat_map(|service| &service.real_servers);
    let named: BTreeSet<IpAddr> = real_servers.map(|server| server.address).collect();
    let nodes = topology.nodes.iter().filter(|node| {
        node.agent.is_none()
            && !node.servers.is_empty()
            && addresses(node).any(|address| named.contains(&address))
    });
    let nodes: Vec<Name> = nodes.map(|node| node.name.clone()).collect();
    if nodes.len() < 2 {
        return Servers::default();
    }
    let longest = |of: &dyn Fn(&HealthCheckSpec) -> Duration| {
        found.checks.iter().map(of).max().unwrap_or(Duration::ZERO)
    };
    let interval = |check: &HealthCheckSpec| Duration::from(check.interval);
    let timeout = |check: &HealthCheckSpec| check.timeout.map_or(interval(check), Duration::from);
    Servers {
        nodes,
        out: longest(&|check| interval(check) * check.fall + timeout(check)),
        back: longest(&|check| interval(check) * check.rise + timeout(check)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::resolve;

    fn site(name: &str) -> Site {
        Site::of(&resolve(name).expect("it ships").topology).expect("chaos knows it")
    }

    fn names(names: &[&str]) -> Vec<Name> {
        names.iter().map(|name| Name::from(*name)).collect()
    }

    #[test]
    fn two_directors() {
        let site = site("tp-two-directors");
        let group = site.group.clone().expect("it has one");
        assert_eq!(group.nodes, names(&["dir1", "dir2"]));
        assert_eq!(group.interfaces, names(&["enp0s3", "enp0s8"]));
        assert_eq!(group.addresses.len(), 2);
        // 3 × 100 ms + 156/256 × 100 ms.
        assert_eq!(group.down, Duration::from_micros(360_937) + Duration::from_nanos(500));
        assert_eq!(group.overlap, Duration::from_secs(3));
        assert!(!group.keeps);
        assert_eq!(site.servers, Servers::default(), "they are not checked");
        assert_eq!((site.alone.len(), site.sync), (0, Some(8848)));
        assert_eq!(site.settle(), Duration::from_millis(12_500));
    }

    #[test]
    fn the_whole_network() {
        let scenario = resolve("tp-complete").expect("it ships");
        let site = site("tp-complete");
        assert_eq!(site.servers.nodes, names(&["SRV1", "SRV2"]));
        assert_eq!(site.servers.out, Duration::from_millis(2500), "2 × 1 s + 500 ms");
        assert_eq!(site.alone, names(&["Router"]));
        let needs = |from: &str, target: &str| {
            site.needs(&scenario.topology, &from.into(), target.parse().expect("an address"))
        };
        assert_eq!(needs("ClientA", "192.16.193.20"), BTreeSet::from(["Router".into()]));
        assert!(needs("ClientB", "172.16.193.31").is_empty());
        assert_eq!(needs("ClientA", "172.16.193.31"), BTreeSet::from(["Router".into()]));
    }

    #[test]
    fn one_director_stands_alone() {
        let scenario = resolve("tp-ipvs").expect("it ships");
        let site = site("tp-ipvs");
        assert_eq!((site.group.is_none(), site.sync), (true, None));
        assert_eq!(site.alone, names(&["Load-Balancer"]));
        let needs = site.needs(&scenario.topology, &"ClientA".into(), "192.16.193.30".parse().expect("good"));
        assert_eq!(needs, BTreeSet::from(["Load-Balancer".into()]));
    }

    #[test]
    fn version_2_skews_by_parts_of_a_second() {
        let group = site("tp-two-directors-v2").group.expect("it has one");
        let lowest = Duration::from_secs(1) * 156 / 256;
        assert_eq!(group.down, Duration::from_secs(3) + lowest);
        assert_eq!(group.overlap, Duration::from_secs(5));
    }
}
