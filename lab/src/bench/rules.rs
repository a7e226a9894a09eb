//! The same virtual services in everybody's words: manifests, rules for `ipvsadm -R`, keepalived's configuration, commands.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use bascule_ipvs::{Command, Destination, DestinationId, Forwarding, Protocol, Service, ServiceId};

/// The director's name in the manifests and of its node.
pub(super) const DIRECTOR: &str = "director";
/// The director's interface, where it has one.
pub(super) const INTERFACE: &str = "enp0s3";
/// The address of those services that have one on that interface.
pub(super) const FRONT: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 100);

/// The port of the first service on [`FRONT`].
const FRONT_PORT: u16 = 8000;
/// Services on one address.
const PORTS: u32 = 50_000;

/// So many virtual services, each of so many real servers, by masquerading and in turn (`rr`).
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// How many services.
    pub(super) services: u32,
    /// Real servers of each.
    pub(super) servers: u32,
    /// How many of them have their address on [`INTERFACE`] and the source of connections rewritten; the first ones.
    pub(super) front: u32,
}

impl Rules {
    fn socket(self, service: u32) -> (Ipv4Addr, u16) {
        if service < self.front {
            (FRONT, FRONT_PORT + u16::try_from(service).unwrap_or(0))
        } else {
            let port = u16::try_from(1 + service % PORTS).unwrap_or(1);
            (Ipv4Addr::from(0x0a00_0000 + service / PORTS), port)
        }
    }

    fn server(self, service: u32, server: u32) -> Ipv4Addr {
        Ipv4Addr::from(0xac10_0000 + (service * self.servers + server) % 0x000f_ffff)
    }

    /// What the kernel knows a service by.
    pub(super) fn service(self, service: u32) -> ServiceId {
        let (address, port) = self.socket(service);
        ServiceId::Address { protocol: Protocol::Tcp, address: IpAddr::V4(address), port }
    }

    /// What the kernel knows its real servers by.
    pub(super) fn destinations(self, service: u32) -> impl Iterator<Item = DestinationId> {
        (0..self.servers)
            .map(move |server| DestinationId { address: IpAddr::V4(self.server(service, server)), port: 80 })
    }

    /// A service before its real servers.
    pub(super) fn commands(self) -> impl Iterator<Item = Command> {
        (0..self.services).flat_map(move |service| {
            let id = self.service(service);
            let servers = self.destinations(service).map(move |server| {
                Command::NewDestination(
                    id,
                    Destination::new(server.address, server.port, Forwarding::Masquerade),
                )
            });
            std::iter::once(Command::NewService(Service::new(id, "rr"))).chain(servers)
        })
    }

    /// The name of a service's file.
    pub(super) fn file(service: u32) -> String {
        format!("web-{service:05}.yaml")
    }

    /// Its manifest. The first real server has the weight given, the others 1.
    pub(super) fn manifest(self, service: u32, weight: u32) -> String {
        let (address, port) = self.socket(service);
        let (place, source_nat) = if service < self.front {
            (format!(", interface: {INTERFACE}"), "Always")
        } else {
            (String::new(), "Never")
        };
        let mut text = format!(
            "apiVersion: bascule.dev/v1alpha1\n\
             kind: VirtualService\n\
             metadata: {{name: web-{service:05}, namespace: bench}}\n\
             spec:\n  \
               director: {{name: {DIRECTOR}{place}}}\n  \
               addresses: [{address}]\n  \
               ports: [{{port: {port}, protocol: TCP, targetPort: 80}}]\n  \
               scheduler: {{name: rr}}\n  \
               forwarding: {{method: Masquerade}}\n  \
               sourceNat: {source_nat}\n  \
               realServers:\n"
        );
        for server in 0..self.servers {
            let weight = if server == 0 { weight } else { 1 };
            let address = self.server(service, server);
            let _ = writeln!(text, "    - {{name: srv{server}, address: {address}, weight: {weight}}}");
        }
        text
    }

    /// What `ipvsadm -Sn` would print and `ipvsadm -R` reads.
    pub(super) fn ipvsadm(self) -> String {
        let mut text = String::new();
        for service in 0..self.services {
            let (address, port) = self.socket(service);
            let _ = writeln!(text, "-A -t {address}:{port} -s rr");
            for server in 0..self.servers {
                let server = self.server(service, server);
                let _ = writeln!(text, "-a -t {address}:{port} -r {server}:80 -m -w 1");
            }
        }
        text
    }

    /// keepalived's configuration, without checks. `changed`: the weight of a service's first real server.
    pub(super) fn keepalived(self, changed: Option<(u32, u32)>) -> String {
        let mut text = String::new();
        for service in 0..self.services {
            let (address, port) = self.socket(service);
            let _ = writeln!(
                text,
                "virtual_server {address} {port} {{\n  lb_algo rr\n  lb_kind NAT\n  protocol TCP"
            );
            for server in 0..self.servers {
                let weight = match changed {
                    Some((of, weight)) if of == service && server == 0 => weight,
                    _ => 1,
                };
                let server = self.server(service, server);
                let _ = writeln!(text, "  real_server {server} 80 {{\n    weight {weight}\n  }}");
            }
            text.push_str("}\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const SMALL: Rules = Rules { services: 3, servers: 2, front: 1 };

    #[test]
    fn everybody_is_told_the_same() {
        insta::assert_snapshot!("manifests", SMALL.manifest(0, 1) + &SMALL.manifest(2, 7));
        insta::assert_snapshot!("ipvsadm", SMALL.ipvsadm());
        insta::assert_snapshot!("keepalived", SMALL.keepalived(Some((2, 7))));
    }

    #[test]
    fn every_service_has_an_address_and_port_of_its_own() {
        let large = Rules { services: 50_000, servers: 1, front: 20 };
        let ids: BTreeSet<ServiceId> = (0..large.services).map(|service| large.service(service)).collect();
        assert_eq!(ids.len(), 50_000);
        assert_eq!(SMALL.commands().count(), 9);
    }

    #[test]
    fn manifests_are_valid() {
        for service in 0..SMALL.services {
            let text = SMALL.manifest(service, 3);
            let documents = bascule_crds::manifest::parse(&text).expect("YAML");
            assert_eq!(documents.len(), 1);
            bascule_crds::validate::judge(&documents[0].value).expect("valid");
        }
    }
}
