//! What can be said of a VirtualService alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use bascule_crds::common::{AddressOrRange, Family};
use bascule_crds::virtual_service::{
    Forwarding, ForwardingMethod, RealServer, ServicePort, SorryServer, SourceNat, TargetPort,
    VirtualServiceSpec,
};

use crate::bounds;
use crate::claims::{MAX_RANGE, overlap};
use crate::problem::Problems;

/// Everything in which the spec contradicts itself. Much of it is refused by the schema already; what the bindings rely on is
/// checked here as well.
pub(crate) fn check(spec: &VirtualServiceSpec, problems: &mut Problems) {
    check_addresses("spec.addresses", &spec.addresses, problems);
    check_fwmark(spec, problems);
    check_ports(spec, problems);
    check_families(spec, problems);
    check_real_servers(spec, problems);
    check_sorry_servers(spec, problems);
    check_source_nat(spec, problems);
    bounds::check(spec, problems);
    if let Some(persistence) = &spec.persistence {
        let timeout = persistence.timeout.as_std();
        if timeout.subsec_nanos() != 0 || timeout.is_zero() {
            problems.invalid("spec.persistence.timeout", "the kernel counts whole seconds, at least one");
        }
    }
}

fn check_addresses(field: &str, addresses: &[AddressOrRange], problems: &mut Problems) {
    for (i, entry) in addresses.iter().enumerate() {
        let field = || format!("{field}[{i}]");
        if let Some(what) = not_of_a_machine(entry.first).or_else(|| not_of_a_machine(entry.last)) {
            problems.invalid(field(), format!("{entry} is {what}, which no director can have"));
        }
        if entry.addresses().nth(MAX_RANGE as usize).is_some() {
            problems.invalid(field(), format!("{entry} has more than {MAX_RANGE} addresses; split it"));
        }
        if let Some(earlier) = addresses[..i].iter().find(|earlier| overlap(**earlier, *entry)) {
            problems.invalid(
                field(),
                format!("{entry} has addresses in common with {earlier}, which stands before it"),
            );
        }
    }
}

/// What an address is when no single machine can have it.
pub(crate) fn not_of_a_machine(address: IpAddr) -> Option<&'static str> {
    if address.is_unspecified() {
        Some("the unspecified address")
    } else if address.is_multicast() {
        Some("a multicast address")
    } else if address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        Some("the broadcast address")
    } else if matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
        Some("an IPv4 address written as IPv6")
    } else {
        None
    }
}

fn check_fwmark(spec: &VirtualServiceSpec, problems: &mut Problems) {
    let Some(fwmark) = &spec.fwmark else { return };
    match &fwmark.match_ {
        Some(what) => {
            check_addresses("spec.fwmark.match.addresses", &what.addresses, problems);
            for (i, entry) in what.addresses.iter().enumerate() {
                if entry.family() != fwmark.family {
                    problems.invalid(
                        format!("spec.fwmark.match.addresses[{i}]"),
                        format!("{entry} is {}, but the mark is for {}", entry.family(), fwmark.family),
                    );
                }
            }
        }
        None if spec.director.as_ref().is_some_and(|d| d.interface.is_some()) => problems.invalid(
            "spec.director.interface",
            "a firewall mark without match names no address that could be added to an interface; remove the interface or add match",
        ),
        None => {}
    }
}

fn check_ports(spec: &VirtualServiceSpec, problems: &mut Problems) {
    let mut seen = BTreeSet::new();
    let mut names = BTreeSet::new();
    for (i, port) in spec.ports.iter().enumerate() {
        if !seen.insert((port.protocol, port.port)) {
            problems.invalid(
                format!("spec.ports[{i}]"),
                format!("{} {} stands here twice", port.protocol, port.port),
            );
        }
        if let Some(name) = &port.name
            && !names.insert(name)
        {
            problems.invalid(format!("spec.ports[{i}].name"), format!("another port is called {name}, too"));
        }
        let target = format!("spec.ports[{i}].targetPort");
        match &port.target_port {
            Some(TargetPort::Name(name)) if spec.real_servers_from.is_none() => {
                problems.invalid(
                    target,
                    format!(
                        "the port's name {name:?} means something only with realServersFrom; give a number"
                    ),
                );
            }
            _ => {}
        }
        if port.port == 0 && spec.persistence.is_none() {
            problems.invalid(format!("spec.ports[{i}].port"), "port 0, every port, needs persistence");
        }
    }
}

/// The families of the packets that the service takes.
pub(crate) fn families(spec: &VirtualServiceSpec) -> BTreeSet<Family> {
    spec.addresses.iter().map(AddressOrRange::family).chain(spec.fwmark.iter().map(|f| f.family)).collect()
}

fn check_families(spec: &VirtualServiceSpec, problems: &mut Problems) {
    let families = families(spec);
    // The endpoints of a Service are not known here.
    if spec.real_servers_from.is_none() {
        for family in &families {
            let served = spec.real_servers.iter().any(|server| serves(spec, server, *family))
                || spec.sorry_servers.iter().any(|server| sorry_serves(spec, server, *family));
            if !served {
                let field = match spec.addresses.iter().position(|a| a.family() == *family) {
                    Some(i) => format!("spec.addresses[{i}]"),
                    None => "spec.fwmark.family".into(),
                };
                problems.invalid(
                    field,
                    format!(
                        "no real server and no sorry server is {family}: nobody could answer; add one or leave the {family} \
                         addresses out"
                    ),
                );
            }
        }
    }
    let none = |serves: &dyn Fn(Family) -> bool| {
        !families.is_empty() && !families.iter().any(|family| serves(*family))
    };
    let real = spec.real_servers.iter().enumerate();
    let real = real.filter(|(_, server)| none(&|family| serves(spec, server, family)));
    let real = real.map(|(i, server)| ("realServers", i, server.address));
    let sorry = spec.sorry_servers.iter().enumerate();
    let sorry = sorry.filter(|(_, server)| none(&|family| sorry_serves(spec, server, family)));
    for (list, i, address) in real.chain(sorry.map(|(i, server)| ("sorryServers", i, server.address))) {
        let family = Family::of(address);
        problems.invalid(
            format!("spec.{list}[{i}].address"),
            format!(
                "{address} is {family}, but the service has no {family} address, and only Tunnel crosses families; it would never \
                 be used"
            ),
        );
    }
}

/// Whether packets of the family can reach the server.
fn serves(spec: &VirtualServiceSpec, server: &RealServer, family: Family) -> bool {
    Family::of(server.address) == family || forwarding(spec, server).method == ForwardingMethod::Tunnel
}

fn sorry_serves(spec: &VirtualServiceSpec, server: &SorryServer, family: Family) -> bool {
    let method = sorry_forwarding(spec, server).method;
    Family::of(server.address) == family || method == ForwardingMethod::Tunnel
}

/// How packets reach the sorry server.
pub(crate) fn sorry_forwarding(spec: &VirtualServiceSpec, server: &SorryServer) -> Forwarding {
    server.forwarding.unwrap_or(spec.forwarding)
}

/// How packets reach the server.
pub(crate) fn forwarding(spec: &VirtualServiceSpec, server: &RealServer) -> Forwarding {
    server.forwarding.unwrap_or(spec.forwarding)
}

/// The server's port for a port of the service.
pub(crate) fn target_port(server: &RealServer, port: &ServicePort) -> u16 {
    if let Some(own) = port.name.as_ref().and_then(|name| server.target_ports.get(name)) {
        return *own;
    }
    match port.target_port {
        Some(TargetPort::Number(number)) => number,
        // Names are refused without realServersFrom.
        Some(TargetPort::Name(_)) | None => port.port,
    }
}

fn check_real_servers(spec: &VirtualServiceSpec, problems: &mut Problems) {
    let mut places: BTreeMap<(usize, IpAddr, u16), &str> = BTreeMap::new();
    for (i, server) in spec.real_servers.iter().enumerate() {
        let field = |rest: &str| format!("spec.realServers[{i}]{rest}");
        if let Some(what) = not_of_a_machine(server.address) {
            problems.invalid(
                field(".address"),
                format!("{} is {what}, which no real server can have", server.address),
            );
        }
        for name in server.target_ports.keys() {
            if !spec.ports.iter().any(|port| port.name.as_ref() == Some(name)) {
                problems.invalid(
                    field(&format!(".targetPorts.{name}")),
                    format!("no port of the service is called {name}"),
                );
            }
        }
        let method = forwarding(spec, server).method;
        for (n, port) in spec.ports.iter().enumerate() {
            let target = target_port(server, port);
            if target == port.port || (port.port != 0 && method == ForwardingMethod::Masquerade) {
                continue;
            }
            let at = port.name.as_ref().filter(|name| server.target_ports.contains_key(*name));
            let at = at.map_or_else(
                || format!("spec.ports[{n}].targetPort"),
                |name| field(&format!(".targetPorts.{name}")),
            );
            let message = if port.port == 0 {
                "port 0 is every port, and each keeps its number; remove targetPort".into()
            } else {
                format!("{method} cannot change a port, {} to {target}; only Masquerade can", port.port)
            };
            problems.invalid(at, message);
        }
        // One entry of the kernel's table cannot stand for two servers.
        let targets: Vec<u16> = if spec.fwmark.is_some() {
            vec![0]
        } else {
            spec.ports.iter().map(|port| target_port(server, port)).collect()
        };
        let mut twin = None;
        for (at, target) in targets.into_iter().enumerate() {
            twin = twin.or(places.insert((at, server.address, target), &server.name));
        }
        if let Some(twin) = twin {
            problems.invalid(
                field(".address"),
                format!("{} and its port are those of real server {twin}", server.address),
            );
        }
    }
}

fn check_sorry_servers(spec: &VirtualServiceSpec, problems: &mut Problems) {
    for (i, server) in spec.sorry_servers.iter().enumerate() {
        let field = |rest: &str| format!("spec.sorryServers[{i}]{rest}");
        let (address, family) = (server.address, Family::of(server.address));
        if let Some(what) = not_of_a_machine(address) {
            problems.invalid(field(".address"), format!("{address} is {what}, which no server can have"));
        }
        if spec.sorry_servers[..i].iter().any(|earlier| Family::of(earlier.address) == family) {
            problems
                .invalid(field(".address"), format!("is the second one that is {family}: there can be one"));
        }
        let method = sorry_forwarding(spec, server).method;
        if let Some(target) = server.port {
            if spec.fwmark.is_some() {
                problems.invalid(
                    field(".port"),
                    "a firewall mark has no port, and each keeps its number; remove it",
                );
            } else if spec.ports.iter().any(|port| port.port == 0) {
                problems
                    .invalid(field(".port"), "port 0 is every port, and each keeps its number; remove it");
            } else if method != ForwardingMethod::Masquerade
                && let Some(port) = spec.ports.iter().find(|port| port.port != target)
            {
                problems.invalid(
                    field(".port"),
                    format!("{method} cannot change a port, {} to {target}; only Masquerade can", port.port),
                );
            }
        }
        // With onFailure: Quiesce both would be one entry of the kernel's table.
        let twin = spec.real_servers.iter().find(|real| {
            let same = |port: &ServicePort| target_port(real, port) == server.port.unwrap_or(port.port);
            real.address == address && (spec.fwmark.is_some() || spec.ports.iter().any(same))
        });
        if let Some(twin) = twin {
            problems.invalid(
                field(".address"),
                format!(
                    "{address} and its port are those of real server {}; who is sorry has to be somebody else",
                    twin.name
                ),
            );
        }
    }
}

/// What is done, also when the spec does not say it: pods answer through their own node, which would be past the director if it
/// were not for the source. With the methods that let real servers answer themselves there is nothing to rewrite.
pub(crate) fn source_nat(spec: &VirtualServiceSpec) -> SourceNat {
    let from_pods =
        spec.real_servers_from.is_some() && spec.forwarding.method == ForwardingMethod::Masquerade;
    spec.source_nat.unwrap_or(if from_pods { SourceNat::Always } else { SourceNat::Never })
}

/// Whether anybody is reached by Masquerade, the only method whose replies come back through the director.
fn is_masqueraded(spec: &VirtualServiceSpec) -> bool {
    let masquerade =
        |own: Option<Forwarding>| own.unwrap_or(spec.forwarding).method == ForwardingMethod::Masquerade;
    spec.real_servers_from.is_some() && masquerade(None)
        || spec.real_servers.iter().any(|server| masquerade(server.forwarding))
        || spec.sorry_servers.iter().any(|server| masquerade(server.forwarding))
}

fn check_source_nat(spec: &VirtualServiceSpec, problems: &mut Problems) {
    if source_nat(spec) == SourceNat::Never {
        return;
    }
    if !is_masqueraded(spec) {
        problems.invalid(
            "spec.sourceNat",
            "needs real servers reached by Masquerade: with other methods they answer the client themselves",
        );
    }
    if spec.fwmark.as_ref().is_some_and(|fwmark| fwmark.match_.is_none()) {
        problems.unsupported("spec.sourceNat", "rewriting the source for a firewall mark without match is");
    }
}
