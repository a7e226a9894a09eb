//! What there is: directors, groups of them, and the services of each group.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::scenario::topology::Topology;

/// The namespace of the services.
pub(super) const NAMESPACE: &str = "bench";
/// The interface of all directors.
const INTERFACE: &str = "enp0s3";
/// Services on one address.
const PORTS: u32 = 1000;
/// The port of the first one.
const FIRST_PORT: u32 = 1000;

/// Services spread over groups of directors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) services: u32,
    /// Real servers of each service.
    pub(super) servers: u32,
    pub(super) agents: u32,
    /// Directors of each group: so many carry each service.
    pub(super) members: u32,
}

impl Shape {
    pub(super) fn new(services: u32, servers: u32, agents: u32, members: u32) -> Result<Self> {
        ensure!(
            members <= agents && agents.is_multiple_of(members),
            "{agents} agents (--agents) are no groups of {members} (--members)"
        );
        Ok(Self { services, servers, agents, members })
    }

    pub(super) fn groups(self) -> u32 {
        self.agents / self.members
    }

    fn group_of(self, service: u32) -> u32 {
        service % self.groups()
    }

    /// Services of a group.
    pub(super) fn services_of(self, group: u32) -> u32 {
        (self.services + self.groups() - 1 - group) / self.groups()
    }

    /// The agents, by number, that carry a service.
    pub(super) fn carriers(self, service: u32) -> impl Iterator<Item = u32> {
        self.members_of(self.group_of(service))
    }

    /// The members of a group, by number; the first one is active.
    pub(super) fn members_of(self, group: u32) -> impl Iterator<Item = u32> {
        (0..self.members).map(move |member| group * self.members + member)
    }

    /// Services of an agent.
    pub(super) fn services_on(self, agent: u32) -> u32 {
        self.services_of(agent / self.members)
    }

    /// The bindings that the operator writes.
    pub(super) fn bindings(self) -> u64 {
        u64::from(self.services) * u64::from(self.members)
    }

    pub(super) fn director(agent: u32) -> String {
        format!("dir{}", agent + 1)
    }

    pub(super) fn group(group: u32) -> String {
        format!("front{}", group + 1)
    }

    pub(super) fn service(service: u32) -> String {
        format!("web-{service:05}")
    }

    /// Where clients ask for a service.
    pub(super) fn socket(self, service: u32) -> SocketAddr {
        let (group, index) = (self.group_of(service), service / self.groups());
        let address = front(group, index / PORTS);
        let port = u16::try_from(FIRST_PORT + index % PORTS).unwrap_or(u16::MAX);
        SocketAddr::new(IpAddr::V4(address), port)
    }

    /// The machines of the agents.
    pub(super) fn topology(self) -> Result<Topology> {
        let node = |agent: u32| {
            let address = format!("10.99.0.{}/16", agent + 1);
            json!({
                "name": Self::director(agent),
                "links": [{"network": "lan", "interface": INTERFACE, "addresses": [address]}],
            })
        };
        let nodes: Vec<Value> = (0..self.agents).map(node).collect();
        Ok(serde_json::from_value(json!({"networks": [{"name": "lan"}], "nodes": nodes}))?)
    }

    /// A group's object.
    pub(super) fn group_object(self, group: u32) -> Value {
        let members = self
            .members_of(group)
            .enumerate()
            .map(|(rank, agent)| json!({"director": Self::director(agent), "priority": 200 - 10 * rank}));
        let addresses =
            (0..self.services_of(group).div_ceil(PORTS).max(1)).map(|number| front(group, number));
        let addresses: Vec<String> = addresses.map(|address| format!("{address}/32")).collect();
        json!({
            "apiVersion": "bascule.dev/v1alpha1", "kind": "VrrpGroup", "metadata": {"name": Self::group(group)},
            "spec": {
                "members": members.collect::<Vec<_>>(),
                "instances": [{
                    "name": "lan", "interface": INTERFACE, "virtualRouterId": group + 1, "addresses": addresses,
                }],
            },
        })
    }

    /// A service's object, as users write it.
    pub(super) fn service_object(self, service: u32) -> Value {
        let socket = self.socket(service);
        let servers = (0..self.servers).map(|server| {
            let address = Ipv4Addr::from(0xac10_0000 + (service * self.servers + server) % 0x000f_ffff);
            json!({"name": format!("srv{server}"), "address": address.to_string()})
        });
        json!({
            "apiVersion": "bascule.dev/v1alpha1", "kind": "VirtualService",
            "metadata": {"name": Self::service(service), "namespace": NAMESPACE},
            "spec": {
                "vrrpGroup": Self::group(self.group_of(service)),
                "addresses": [socket.ip().to_string()],
                "ports": [{"port": socket.port(), "protocol": "TCP", "targetPort": 80}],
                "scheduler": {"name": "wrr"},
                "realServers": servers.collect::<Vec<_>>(),
            },
        })
    }
}

/// An address of a group.
fn front(group: u32, number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a62_0000 + (group << 8) + number + 1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn services_are_spread_over_groups_and_each_has_a_socket_of_its_own() {
        let shape = Shape::new(10_001, 10, 4, 2).unwrap();
        assert_eq!((shape.groups(), shape.services_of(0), shape.services_of(1)), (2, 5001, 5000));
        assert_eq!((shape.services_on(1), shape.services_on(2), shape.bindings()), (5001, 5000, 20_002));
        assert_eq!(shape.carriers(7).collect::<Vec<_>>(), [2, 3]);
        let sockets: BTreeSet<_> = (0..10_001).map(|service| shape.socket(service)).collect();
        assert_eq!(sockets.len(), 10_001);
        assert!(Shape::new(1, 1, 4, 3).is_err());
        assert!(Shape::new(1, 1, 1, 2).is_err());
    }

    #[test]
    fn objects_are_good_manifests_and_addresses_are_the_groups() {
        let shape = Shape::new(4000, 16, 6, 3).unwrap();
        let group = shape.group_object(1);
        let has = group["spec"]["instances"][0]["addresses"].as_array().unwrap();
        assert_eq!(has.len(), 2);
        for service in [1, 3999] {
            let object = shape.service_object(service);
            bascule_crds::validate::judge(&object).unwrap();
            let address = format!("{}/32", object["spec"]["addresses"][0].as_str().unwrap());
            assert!(has.contains(&json!(address)), "{address}");
        }
        bascule_crds::validate::judge(&group).unwrap();
        assert_eq!(shape.topology().unwrap().nodes.len(), 6);
    }
}
