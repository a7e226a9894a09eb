//! A binding, expanded into kernel services: addresses × ports, or a mark in each family, with the real servers that fit.

use std::collections::BTreeMap;

use bascule_checks_core::pool::{Held, Judgement, Serving};
use bascule_crds::{
    DirectorConfigSpec, ForwardingMethod, VirtualServiceBindingSpec,
    binding::BindingRealServer,
    common,
    forwarding::{TunnelChecksum, TunnelType},
    virtual_service::PersistenceEngine,
};
use bascule_ipvs::{
    Destination, Family, Forwarding, Protocol, Service, ServiceFlags, ServiceId, Timeouts, Tunnel,
    TunnelFlags,
};

use super::plan::Wanted;

pub use bascule_compile::{MAX_PAIRS, MAX_SERVICES};

/// The services that a binding wants, in order of their ids, or why it cannot be carried out. `live` is what the checks of its real
/// servers come to; without it all of them are alive. A service that is withdrawn for want of a quorum is left out.
pub fn expand(spec: &VirtualServiceBindingSpec, live: Option<&Judgement>) -> Result<Vec<Wanted>, String> {
    // What is judged is judged with the binding; should it not be, nobody is dead.
    let live = live.filter(|live| live.servers.len() == spec.real_servers.len());
    let addresses: usize =
        spec.addresses.iter().map(|range| range.addresses().take(MAX_SERVICES + 1).count()).sum();
    let marks = spec.fwmark.as_ref().map_or(0, |fwmark| fwmark.families.len());
    let services = addresses.saturating_mul(spec.ports.len()).saturating_add(marks);
    if services > MAX_SERVICES {
        return Err(format!(
            "addresses × ports make {services} services, at most {MAX_SERVICES} are possible: split it into several \
             VirtualServices"
        ));
    }
    let pairs = services.saturating_mul(spec.real_servers.len() + spec.sorry_servers.len());
    if pairs > MAX_PAIRS {
        return Err(format!(
            "addresses × ports × realServers make {pairs} entries, at most {MAX_PAIRS} are possible: split it into several \
             VirtualServices"
        ));
    }
    let mut wanted = BTreeMap::new();
    for (index, port) in spec.ports.iter().enumerate() {
        for address in spec.addresses.iter().flat_map(|range| range.addresses()) {
            let id = ServiceId::Address { protocol: protocol(port.protocol), address, port: port.port };
            // A list with one address twice says it once.
            wanted.entry(id).or_insert_with(|| Some(index));
        }
    }
    if let Some(fwmark) = &spec.fwmark {
        for family in &fwmark.families {
            let family = match family {
                common::Family::IPv4 => Family::Ipv4,
                common::Family::IPv6 => Family::Ipv6,
            };
            wanted.insert(ServiceId::Fwmark { mark: fwmark.mark, family }, None);
        }
    }
    wanted
        .into_iter()
        .filter(|(id, _)| live.is_none_or(|live| serving(live, *id) != Serving::Withdrawn))
        .map(|(id, port)| {
            Ok(Wanted { service: service(spec, id), destinations: destinations(spec, live, id, port)? })
        })
        .collect()
}

pub(super) fn protocol(of: common::Protocol) -> Protocol {
    match of {
        common::Protocol::Tcp => Protocol::Tcp,
        common::Protocol::Udp => Protocol::Udp,
        common::Protocol::Sctp => Protocol::Sctp,
    }
}

fn service(spec: &VirtualServiceBindingSpec, id: ServiceId) -> Service {
    let mut service = Service::new(id, spec.scheduler.name.as_str());
    if let Some(persistence) = &spec.persistence {
        let prefix = match id.family() {
            Family::Ipv4 => persistence.ipv4_prefix,
            Family::Ipv6 => persistence.ipv6_prefix,
        };
        service = service.persistent(persistence.timeout_seconds, prefix);
        service.pe_name = persistence.engine.map(|engine| match engine {
            PersistenceEngine::Sip => "sip".to_owned(),
        });
    }
    // sh and mh give their two flags the same bits.
    service.flags = service
        .flags
        .with_if(ServiceFlags::ONE_PACKET, spec.one_packet)
        .with_if(ServiceFlags::SH_FALLBACK, spec.scheduler.fallback)
        .with_if(ServiceFlags::SH_PORT, spec.scheduler.hash_port);
    service
}

fn serving(live: &Judgement, id: ServiceId) -> Serving {
    match id.family() {
        Family::Ipv4 => live.ipv4,
        Family::Ipv6 => live.ipv6,
    }
}

/// The weight that a service shall hold of a real server, none when it shall not be there.
fn weight(live: &Judgement, server: usize, id: ServiceId) -> Option<u32> {
    let judged = &live.servers[server];
    let held: Held = match id.family() {
        Family::Ipv4 => judged.ipv4,
        Family::Ipv6 => judged.ipv6,
    };
    // Of a mark it is not known what it marks; most of all connections, which are to be kept.
    let datagrams = match id {
        ServiceId::Address { protocol, .. } => protocol == Protocol::Udp,
        ServiceId::Fwmark { .. } => false,
    };
    held.weight(datagrams).map(u32::from)
}

fn destinations(
    spec: &VirtualServiceBindingSpec,
    live: Option<&Judgement>,
    id: ServiceId,
    port: Option<usize>,
) -> Result<Vec<Destination>, String> {
    let mut destinations = BTreeMap::new();
    let sorry = live.is_some_and(|live| serving(live, id) == Serving::SorryServer);
    let sorry = spec.sorry_servers.iter().filter(|_| sorry).map(|server| (server, Some(server.weight)));
    let real =
        spec.real_servers.iter().enumerate().map(|(index, server)| {
            (server, live.map_or(Some(server.weight), |live| weight(live, index, id)))
        });
    for (server, weight) in real.chain(sorry) {
        let Some(weight) = weight else { continue };
        let Some(destination) = destination(server, id, port)? else { continue };
        let destination = destination.weight(weight);
        if destinations.insert(destination.id, (destination, &server.name)).is_some() {
            return Err(format!(
                "real server {}: another one of {id} has {} already",
                server.name, destination.id
            ));
        }
    }
    Ok(destinations.into_values().map(|(destination, _)| destination).collect())
}

/// A real server as a destination of a service, none if it is of the other family: only a tunnel crosses families.
fn destination(
    server: &BindingRealServer,
    id: ServiceId,
    port: Option<usize>,
) -> Result<Option<Destination>, String> {
    let crosses = server.forwarding.method == ForwardingMethod::Tunnel;
    if Family::of(server.address) != id.family() && !crosses {
        return Ok(None);
    }
    let port = match port {
        // With a mark, the port that the client asked for.
        None => 0,
        Some(index) => *server.target_ports.get(index).ok_or_else(|| {
            format!("real server {}: no target port for port {} of the service", server.name, index + 1)
        })?,
    };
    // An endpoint that has no port for this one of the service's.
    if port == 0 && matches!(id, ServiceId::Address { port, .. } if port != 0) {
        return Ok(None);
    }
    let mut destination = Destination::new(server.address, port, forwarding(server)).weight(server.weight);
    if let Some(limits) = &server.limits {
        destination.upper_threshold = limits.upper.unwrap_or(0);
        destination.lower_threshold = limits.lower.unwrap_or(0);
    }
    Ok(Some(destination))
}

fn forwarding(server: &BindingRealServer) -> Forwarding {
    match server.forwarding.method {
        ForwardingMethod::Masquerade => Forwarding::Masquerade,
        ForwardingMethod::DirectRouting => Forwarding::DirectRouting,
        ForwardingMethod::Tunnel => {
            let tunnel = server.forwarding.tunnel.unwrap_or_default();
            let flags = match tunnel.checksum.unwrap_or_default() {
                TunnelChecksum::None => TunnelFlags::NONE,
                TunnelChecksum::Full => TunnelFlags::CHECKSUM,
                TunnelChecksum::Remote => TunnelFlags::REMOTE_CHECKSUM,
            };
            Forwarding::Tunnel(match tunnel.type_ {
                TunnelType::Ipip => Tunnel::IPIP.with_flags(flags),
                TunnelType::Gue => Tunnel::gue(tunnel.port.unwrap_or(GUE_PORT)).with_flags(flags),
                TunnelType::Gre => Tunnel::GRE.with_flags(flags),
            })
        }
    }
}

/// IANA's port of GUE (draft-ietf-intarea-gue); the schema asks for one all the same.
const GUE_PORT: u16 = 6080;

/// The timeouts that a director sets; 0 leaves one as it is.
pub(super) fn timeouts(director: &DirectorConfigSpec) -> Option<Timeouts> {
    let wanted = director.timeouts.as_ref()?;
    let seconds = |duration: Option<common::Duration>| {
        duration.map_or(0, |duration| u32::try_from(duration.as_std().as_secs()).unwrap_or(u32::MAX))
    };
    Some(Timeouts { tcp: seconds(wanted.tcp), tcp_fin: seconds(wanted.tcp_fin), udp: seconds(wanted.udp) })
}
