//! What a director must do, spelled out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use bascule_crds::binding::{
    BindingFwmark, BindingPersistence, BindingPort, BindingRealServer, BindingRealServersFrom,
    BindingScheduler,
};
use bascule_crds::common::{AddressOrRange, Family};
use bascule_crds::director::ConnectionSync;
use bascule_crds::director_config::DirectorVrrpGroup;
use bascule_crds::virtual_service::{RealServer, RealServersFrom, ServicePort, SorryServer, TargetPort};
use bascule_crds::{DirectorConfigSpec, DirectorSpec, VirtualServiceBindingSpec, VirtualServiceSpec};

use crate::claims::{Claim, What};
use crate::compiler::Trust;
use crate::groups::{Aliases, resolved};
use crate::service;
use crate::types::BindingKey;

/// The binding on this director of a VirtualService in which nothing is wrong.
pub(crate) fn binding(
    name: &str,
    spec: &VirtualServiceSpec,
    director: &str,
    aliases: Option<&Aliases>,
) -> VirtualServiceBindingSpec {
    let interface = spec.director.as_ref().and_then(|placement| placement.interface.as_ref());
    let scheduler = &spec.scheduler;
    VirtualServiceBindingSpec {
        virtual_service: name.to_owned(),
        director: director.to_owned(),
        vrrp_group: spec.vrrp_group.clone(),
        interface: interface.map(|interface| resolved(aliases, interface).clone()),
        addresses: spec.addresses.clone(),
        fwmark: spec.fwmark.as_ref().map(|fwmark| BindingFwmark {
            mark: fwmark.mark,
            families: vec![fwmark.family],
            match_: fwmark.match_.clone(),
        }),
        ports: spec
            .ports
            .iter()
            .map(|port| BindingPort { name: port.name.clone(), protocol: port.protocol, port: port.port })
            .collect(),
        scheduler: BindingScheduler {
            name: scheduler.name,
            fallback: scheduler.fallback,
            hash_port: scheduler.hash_port,
        },
        one_packet: spec.one_packet,
        persistence: spec.persistence.as_ref().map(|persistence| BindingPersistence {
            // The schema allows no more than 744h.
            timeout_seconds: u32::try_from(persistence.timeout.as_std().as_secs()).unwrap_or(u32::MAX),
            ipv4_prefix: persistence.ipv4_prefix,
            ipv6_prefix: persistence.ipv6_prefix,
            engine: persistence.engine,
        }),
        source_nat: service::source_nat(spec),
        real_servers: spec.real_servers.iter().map(|server| real_server(spec, server)).collect(),
        real_servers_from: spec.real_servers_from.as_ref().map(|from| real_servers_from(spec, from)),
        check_host: spec.check_host.clone(),
        quorum: spec.quorum.clone(),
        sorry_servers: spec.sorry_servers.iter().map(|server| sorry_server(spec, server)).collect(),
        on_failure: spec.on_failure,
        initial_state: spec.initial_state,
        drain_timeout: spec.drain.as_ref().map(|drain| drain.timeout).unwrap_or_default(),
    }
}

fn real_server(spec: &VirtualServiceSpec, server: &RealServer) -> BindingRealServer {
    BindingRealServer {
        name: server.name.clone(),
        address: server.address,
        weight: if server.drain { 0 } else { server.weight },
        forwarding: service::forwarding(spec, server),
        target_ports: spec.ports.iter().map(|port| service::target_port(server, port)).collect(),
        limits: server.limits,
        drain: server.drain,
        health_checks: server.health_checks.as_ref().unwrap_or(&spec.health_checks).clone(),
    }
}

/// The endpoints stay out of it: they come and go, and no binding is written for that.
fn real_servers_from(spec: &VirtualServiceSpec, from: &RealServersFrom) -> BindingRealServersFrom {
    let target = |port: &ServicePort| port.target_port.clone().unwrap_or(TargetPort::Number(port.port));
    BindingRealServersFrom {
        service: from.service.name.clone(),
        forwarding: spec.forwarding,
        target_ports: spec.ports.iter().map(target).collect(),
        health_checks: spec.health_checks.clone(),
    }
}

/// There is one of a family at most, so that the family is name enough.
fn sorry_server(spec: &VirtualServiceSpec, server: &SorryServer) -> BindingRealServer {
    let name = match Family::of(server.address) {
        Family::IPv4 => "sorry-ipv4",
        Family::IPv6 => "sorry-ipv6",
    };
    BindingRealServer {
        name: name.to_owned(),
        address: server.address,
        weight: 1,
        forwarding: service::sorry_forwarding(spec, server),
        target_ports: spec.ports.iter().map(|port| server.port.unwrap_or(port.port)).collect(),
        limits: None,
        drain: false,
        health_checks: Vec::new(),
    }
}

/// What a binding takes for itself.
pub(crate) fn claims(
    trust: Trust,
    director: &Arc<str>,
    key: &BindingKey,
    spec: &VirtualServiceBindingSpec,
) -> Vec<Claim> {
    let claim = |what, addresses, tag| Claim { director: Arc::clone(director), what, addresses, tag };
    let mut claims = Vec::new();
    let mut places: Vec<AddressOrRange> = Vec::new();
    for addresses in &spec.addresses {
        for port in &spec.ports {
            let what = What::Port { protocol: port.protocol, port: port.port };
            claims.push(claim(what, *addresses, None));
        }
        places.push(*addresses);
    }
    if let Some(fwmark) = &spec.fwmark {
        for family in &fwmark.families {
            let unspecified = match family {
                Family::IPv4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                Family::IPv6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            };
            claims.push(claim(What::Mark(fwmark.mark), AddressOrRange::single(unspecified), None));
        }
        // The kernel asks for the mark before the address: what is marked is taken from everybody else.
        if let Some(marked) = &fwmark.match_ {
            for addresses in &marked.addresses {
                for port in &marked.ports {
                    let what = What::Port { protocol: port.protocol, port: port.port };
                    claims.push(claim(what, *addresses, None));
                }
                places.push(*addresses);
            }
        }
    }
    for addresses in places {
        if let Some(interface) = &spec.interface {
            claims.push(claim(What::Interface, addresses, Some(interface.as_str().into())));
        }
        if trust == Trust::Cluster {
            claims.push(claim(What::Namespace, addresses, Some(Arc::clone(&key.namespace))));
        }
    }
    claims
}

/// What the machine itself needs; without a Director manifest, the defaults.
pub(crate) fn director_config(
    name: &str,
    spec: Option<&DirectorSpec>,
    failure_domain: Option<String>,
    vrrp: Vec<DirectorVrrpGroup>,
) -> DirectorConfigSpec {
    let defaults = DirectorSpec::default();
    let spec = spec.unwrap_or(&defaults);
    DirectorConfigSpec {
        director: name.to_owned(),
        sysctls: spec.sysctls,
        timeouts: spec.timeouts,
        expire: spec.expire,
        connection_sync: connection_sync(spec),
        vrrp,
        interface_aliases: spec.interface_aliases.clone(),
        allowed_targets: spec.allowed_targets.clone(),
        maintenance: spec.maintenance.filter(|one| one.enabled),
        failure_domain,
        service_account: spec.service_account.clone(),
        // Never ours: `bascule-operator flush` writes it.
        flush: None,
    }
}

/// The director's synchronisation of connections, its interface resolved.
pub(crate) fn connection_sync(spec: &DirectorSpec) -> Option<ConnectionSync> {
    let mut sync = spec.connection_sync.clone()?;
    sync.interface = resolved(Some(&spec.interface_aliases), &sync.interface).clone();
    Some(sync)
}
