//! The kernel's figures of services and real servers: as read on the plane's thread, and as shown, with names.
//!
//! The thread that programs the kernel only hands out what it has read; naming tens of thousands of real servers is for whoever
//! wants to see them.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bascule_compile::BindingKey;
use bascule_crds::VirtualServiceBindingSpec;
use bascule_ipvs::{DestinationEntry, DestinationId, ServiceEntry, ServiceId};

use super::expand::protocol;
use crate::reconcile::{Counters, DestinationCounters, ServiceCounters};

/// Bindings with more real servers than this get an index of their names.
const FEW: usize = 8;

/// The last figures of a service.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    pub(crate) entry: ServiceEntry,
    /// In the kernel's order.
    pub(crate) destinations: Vec<DestinationEntry>,
    /// When the real servers were read.
    pub(crate) at: Instant,
}

/// The figures of a service, and what names its parts.
#[derive(Clone, Debug)]
pub(crate) struct Sampled {
    pub(crate) binding: BindingKey,
    pub(crate) spec: Arc<VirtualServiceBindingSpec>,
    pub(crate) figures: Arc<Figures>,
}

/// The figures with names.
pub(crate) fn named(sampled: &[Sampled], now: Instant) -> Counters {
    let mut names = Names::default();
    let mut age = Duration::ZERO;
    let services = sampled.iter().map(|one| {
        let figures = &one.figures;
        age = age.max(now.saturating_duration_since(figures.at));
        let id = figures.entry.service.id;
        let destinations = figures.destinations.iter();
        let mut destinations: Vec<_> = destinations
            .map(|entry| destination(names.of(&one.spec, &id, entry.destination.id), entry))
            .collect();
        destinations.sort_unstable_by_key(|destination| destination.id);
        ServiceCounters {
            binding: one.binding.clone(),
            id,
            scheduler: figures.entry.service.scheduler.clone(),
            stats: figures.entry.stats,
            destinations,
        }
    });
    let mut services: Vec<_> = services.collect();
    services.sort_unstable_by_key(|service| service.id);
    Counters { services, age, ..Counters::default() }
}

fn destination(name: Option<&str>, entry: &DestinationEntry) -> DestinationCounters {
    let id = entry.destination.id;
    DestinationCounters {
        name: name.map_or_else(|| id.to_string(), ToOwned::to_owned),
        id,
        weight: entry.destination.weight,
        active_connections: entry.active_connections,
        inactive_connections: entry.inactive_connections,
        persistent_connections: entry.persistent_connections,
        stats: entry.stats,
    }
}

/// The address of a real server and, but for a mark, its port.
type Place = (IpAddr, Option<u16>);

/// Names of real servers by their place, for a binding and the position of a port in it.
#[derive(Default)]
struct Names<'a> {
    known: HashMap<(*const VirtualServiceBindingSpec, Option<usize>), HashMap<Place, &'a str>>,
}

impl<'a> Names<'a> {
    /// The name of the real server behind a destination of a service.
    fn of(
        &mut self,
        spec: &'a Arc<VirtualServiceBindingSpec>,
        service: &ServiceId,
        id: DestinationId,
    ) -> Option<&'a str> {
        let index = match service {
            ServiceId::Fwmark { .. } => None,
            ServiceId::Address { protocol: of, port, .. } => Some(
                spec.ports.iter().position(|entry| entry.port == *port && protocol(entry.protocol) == *of)?,
            ),
        };
        let wanted = (id.address, index.map(|_| id.port));
        let mut all = spec.real_servers.iter().chain(&spec.sorry_servers).filter_map(|server| {
            let port = match index {
                Some(index) => Some(*server.target_ports.get(index)?),
                None => None,
            };
            Some(((server.address, port), server.name.as_str()))
        });
        if spec.real_servers.len() + spec.sorry_servers.len() <= FEW {
            return all.find(|(place, _)| *place == wanted).map(|(_, name)| name);
        }
        // Else they would be gone through for each of them.
        let names = self.known.entry((Arc::as_ptr(spec), index)).or_insert_with(|| all.collect());
        names.get(&wanted).copied()
    }
}

/// The figures of one service, read at some time.
#[cfg(test)]
pub(crate) fn sampled(at: Instant) -> Vec<Sampled> {
    tests::sampled(&crate::plane::fixture::web(serde_json::json!({})), at)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plane::{
        fixture::{key, server, web},
        ipvs::expand,
    };

    /// As if the kernel held what a binding wants.
    pub(super) fn sampled(spec: &Arc<VirtualServiceBindingSpec>, at: Instant) -> Vec<Sampled> {
        let services = expand(spec, None).unwrap().into_iter().map(|wanted| {
            let destinations = wanted.destinations.iter().rev().map(|destination| DestinationEntry {
                destination: *destination,
                active_connections: 1,
                inactive_connections: 2,
                persistent_connections: 3,
                stats: bascule_ipvs::Stats64::default(),
            });
            let destinations = destinations.collect();
            let entry = ServiceEntry { service: wanted.service, stats: bascule_ipvs::Stats64::default() };
            let figures = Arc::new(Figures { entry, destinations, at });
            Sampled { binding: key("web"), spec: Arc::clone(spec), figures }
        });
        services.collect()
    }

    #[test]
    fn every_real_server_has_its_name_in_order_few_or_many() {
        for count in [2, FEW + 1, 40] {
            let servers: Vec<_> = (0..count)
                .map(|number| {
                    let ports = json!({"targetPorts": [8000, 9000 + number]});
                    server(&format!("srv{number:02}"), &format!("10.1.0.{}", number + 1), ports)
                })
                .collect();
            let spec = web(json!({
                "addresses": ["10.0.0.1", "10.0.0.2"],
                "ports": [{"protocol": "TCP", "port": 80}, {"protocol": "UDP", "port": 80}],
                "realServers": servers,
                "fwmark": {"mark": 7, "families": ["IPv4"]},
            }));
            let now = Instant::now();
            let mut sampled = sampled(&spec, now);
            sampled.reverse();
            let counters = named(&sampled, now + Duration::from_secs(3));
            assert_eq!(counters.age, Duration::from_secs(3));
            assert_eq!(counters.services.len(), 5);
            assert!(counters.services.is_sorted_by_key(|service| service.id));
            let expected: Vec<_> = (0..count).map(|number| format!("srv{number:02}")).collect();
            for service in &counters.services {
                let names: Vec<_> = service.destinations.iter().map(|server| server.name.as_str()).collect();
                assert_eq!(names, expected, "{}", service.id);
            }
        }
    }

    #[test]
    fn a_real_server_that_the_binding_does_not_know_is_named_by_its_address() {
        let now = Instant::now();
        let sampled = sampled(&web(json!({})), now);
        let other = web(json!({"realServers": [server("srv1", "172.16.193.10", json!({}))]}));
        let sampled: Vec<_> =
            sampled.into_iter().map(|one| Sampled { spec: Arc::clone(&other), ..one }).collect();
        let counters = named(&sampled, now);
        let names: Vec<_> =
            counters.services[0].destinations.iter().map(|server| server.name.as_str()).collect();
        assert_eq!(names, ["srv1", "172.16.193.40:80"]);
    }
}
