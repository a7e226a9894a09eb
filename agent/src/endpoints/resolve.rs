//! From the slices of a Service to the real servers of a binding: pure, and the same on every director but for what is meant for its
//! place.

use std::collections::BTreeSet;
use std::net::IpAddr;

use bascule_compile::{MAX_ELEMENTS, MAX_PAIRS, MAX_SERVICES, only_here};
use bascule_crds::VirtualServiceBindingSpec;
use bascule_crds::binding::{BindingRealServer, BindingRealServersFrom};
use bascule_crds::common::{AddressOrRange, AddressPrefix, Family};
use bascule_crds::forwarding::ForwardingMethod;
use bascule_crds::virtual_service::TargetPort;

use super::names::named;
use super::slice::{Endpoint, Life, Slice};

/// Endpoints of one family that serve a binding at most; those beyond get nothing, and that is said.
pub const MAX_SERVERS: usize = 4_096;
/// Addresses named in a remark.
const NAMED: usize = 4;

/// Where the director stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Its name, which is its node's.
    pub director: String,
    /// Its failure domain: the zone of its node.
    pub zone: Option<String>,
    /// Networks of loopback and link-local addresses that may be forwarded to all the same.
    pub allowed: Vec<AddressPrefix>,
}

/// What became of the endpoints.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resolved {
    /// In the order of their addresses and ports.
    pub servers: Vec<BindingRealServer>,
    /// What is missing or left out, and why.
    pub remarks: Vec<String>,
}

/// An endpoint and its ports for the service's, in their order; 0 where it has none for one that is not 0.
#[derive(Clone, Debug)]
struct Candidate<'a> {
    endpoint: &'a Endpoint,
    ports: Vec<u16>,
}

impl Candidate<'_> {
    fn family(&self) -> Family {
        Family::of(self.endpoint.address)
    }
}

/// The real servers of a binding. What it does not depend on: the order of the slices, and how endpoints are spread over them.
pub fn resolve<'a>(
    spec: &VirtualServiceBindingSpec,
    from: &BindingRealServersFrom,
    slices: impl IntoIterator<Item = &'a Slice>,
    place: &Place,
) -> Resolved {
    let mut found = Found::default();
    let mut candidates = found.candidates(spec, from, slices, place);
    if let Some(remark) = found.nothing(from) {
        return Resolved { servers: Vec::new(), remarks: vec![remark] };
    }
    // Of two that would be one entry of the kernel's table, the livelier.
    candidates.sort_by(|a, b| order(a).cmp(&order(b)));
    let candidates = apart(spec, candidates, &mut found);
    let wanted = families(spec);
    let crosses = from.forwarding.method == ForwardingMethod::Tunnel
        && !candidates.iter().any(|one| wanted.contains(&one.family()));
    let mut servers: Vec<(Candidate<'a>, bool)> = Vec::new();
    for family in [Family::IPv4, Family::IPv6] {
        if !crosses && !wanted.contains(&family) {
            continue;
        }
        let here = candidates.iter().filter(|one| one.family() == family).cloned().collect();
        let mut here = lively(here, place);
        let most = most(spec, wanted.len());
        if here.len() > most {
            found.beyond.push((family, here.len(), most));
            here.truncate(most);
        }
        if !crosses && !here.iter().any(|(_, drains)| !drains) {
            found.without.push(family);
        }
        servers.extend(here);
    }
    if crosses && servers.is_empty() {
        found.without.extend(&wanted);
    }
    servers.sort_by(|(a, _), (b, _)| (a.endpoint.address, &a.ports).cmp(&(b.endpoint.address, &b.ports)));
    let names = named(servers.iter().map(|(one, _)| one.endpoint));
    let servers = servers.into_iter().zip(names).map(|((one, drain), name)| BindingRealServer {
        name,
        address: one.endpoint.address,
        weight: u32::from(!drain),
        forwarding: from.forwarding,
        target_ports: one.ports,
        limits: None,
        drain,
        health_checks: from.health_checks.clone(),
    });
    Resolved { servers: servers.collect(), remarks: found.remarks(from) }
}

/// Whatever the order of the slices.
fn order<'c>(one: &'c Candidate<'_>) -> impl Ord + use<'c> {
    let Endpoint { life, address, pod, zones, nodes } = one.endpoint;
    (*life, *address, one.ports.as_slice(), pod.as_deref(), zones.as_slice(), nodes.as_slice())
}

/// The families of the packets that the service takes.
fn families(spec: &VirtualServiceBindingSpec) -> BTreeSet<Family> {
    let marks = spec.fwmark.iter().flat_map(|fwmark| fwmark.families.iter().copied());
    spec.addresses.iter().map(AddressOrRange::family).chain(marks).collect()
}

/// The endpoints' ports for the service's; none where there is none for any.
fn ports(spec: &VirtualServiceBindingSpec, from: &BindingRealServersFrom, slice: &Slice) -> Option<Vec<u16>> {
    let target = |(port, target): (&bascule_crds::binding::BindingPort, &TargetPort)| match target {
        TargetPort::Number(number) => *number,
        TargetPort::Name(name) => {
            let named = slice.ports.iter().find(|one| one.name == *name && one.protocol == port.protocol);
            named.map_or(0, |one| one.number)
        }
    };
    let ports: Vec<u16> = spec.ports.iter().zip(&from.target_ports).map(target).collect();
    (spec.ports.is_empty() || has_any(spec, &ports)).then_some(ports)
}

fn has_any(spec: &VirtualServiceBindingSpec, ports: &[u16]) -> bool {
    spec.ports.iter().zip(ports).any(|(port, target)| port.port == 0 || *target != 0)
}

/// Leaves out what an earlier one, or a sorry server, is in the kernel's table already.
fn apart<'a>(
    spec: &VirtualServiceBindingSpec,
    candidates: Vec<Candidate<'a>>,
    found: &mut Found,
) -> Vec<Candidate<'a>> {
    // With a mark there is one service, and no port.
    let places = |address: IpAddr, ports: &[u16]| -> Vec<(usize, IpAddr, u16)> {
        if spec.fwmark.is_some() {
            return vec![(0, address, 0)];
        }
        ports.iter().enumerate().map(|(at, port)| (at, address, *port)).collect()
    };
    let sorry: BTreeSet<_> =
        spec.sorry_servers.iter().flat_map(|one| places(one.address, &one.target_ports)).collect();
    let mut taken = sorry.clone();
    let mut apart = Vec::with_capacity(candidates.len());
    for mut one in candidates {
        let address = one.endpoint.address;
        let there = places(address, &one.ports);
        if there.iter().any(|place| sorry.contains(place)) {
            found.sorry.insert(address);
        }
        if spec.fwmark.is_some() {
            if there.iter().all(|place| taken.insert(*place)) {
                apart.push(one);
            }
            continue;
        }
        let is_any = |at: usize| spec.ports.get(at).is_some_and(|port| port.port == 0);
        if there.iter().any(|place| is_any(place.0) && taken.contains(place)) {
            continue;
        }
        for place in there {
            if one.ports[place.0] != 0 && !taken.insert(place) {
                one.ports[place.0] = 0;
            } else if is_any(place.0) {
                taken.insert(place);
            }
        }
        if has_any(spec, &one.ports) {
            apart.push(one);
        }
    }
    apart
}

/// Of one family: those that serve, and whether they drain. As kube-proxy does it: where nobody is ready, those that terminate and
/// still serve get the new connections.
fn lively<'a>(all: Vec<Candidate<'a>>, place: &Place) -> Vec<(Candidate<'a>, bool)> {
    let (ready, finishing): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|one| one.endpoint.life == Life::Serves);
    let drains = !ready.is_empty();
    let ready = meant(ready, place).into_iter().map(|one| (one, false));
    ready.chain(finishing.into_iter().map(|one| (one, drains))).collect()
}

/// Of those that are ready, the ones that are meant for this place; all of them, where one has no hint or none is meant for it.
fn meant<'a>(ready: Vec<Candidate<'a>>, place: &Place) -> Vec<Candidate<'a>> {
    type Hints = fn(&Endpoint) -> &[String];
    let hints: [(Hints, Option<&String>); 2] =
        [(|one| &one.nodes, Some(&place.director)), (|one| &one.zones, place.zone.as_ref())];
    for (hints, here) in hints {
        let Some(here) = here else { continue };
        let is_meant = |one: &Candidate<'_>| hints(one.endpoint).contains(here);
        if ready.iter().all(|one| !hints(one.endpoint).is_empty()) && ready.iter().any(is_meant) {
            return ready.into_iter().filter(is_meant).collect();
        }
    }
    ready
}

/// How many of one family there may be, so that the binding stays within what a service may become in the kernel.
fn most(spec: &VirtualServiceBindingSpec, families: usize) -> usize {
    let count = |ranges: &[AddressOrRange]| -> usize {
        ranges.iter().map(|range| range.addresses().take(MAX_SERVICES + 1).count()).sum()
    };
    let marked = spec.fwmark.as_ref().and_then(|fwmark| fwmark.match_.as_ref());
    let marked = marked.map_or(0, |one| count(&one.addresses).saturating_mul(one.ports.len()));
    let marks = spec.fwmark.as_ref().map_or(0, |fwmark| fwmark.families.len());
    let services = count(&spec.addresses).saturating_mul(spec.ports.len()).saturating_add(marks).max(1);
    let all = MAX_PAIRS.min(MAX_ELEMENTS.saturating_sub(marked)) / services;
    (all.saturating_sub(spec.sorry_servers.len()) / families.max(1)).min(MAX_SERVERS)
}

/// What is noticed on the way.
#[derive(Debug, Default)]
struct Found {
    slices: usize,
    without: Vec<Family>,
    portless: usize,
    refused: BTreeSet<(IpAddr, &'static str)>,
    sorry: BTreeSet<IpAddr>,
    /// How many there are of a family, and how many are used.
    beyond: Vec<(Family, usize, usize)>,
}

impl Found {
    fn candidates<'a>(
        &mut self,
        spec: &VirtualServiceBindingSpec,
        from: &BindingRealServersFrom,
        slices: impl IntoIterator<Item = &'a Slice>,
        place: &Place,
    ) -> Vec<Candidate<'a>> {
        let mut candidates = Vec::new();
        for slice in slices {
            self.slices += 1;
            let Some(ports) = ports(spec, from, slice) else {
                self.portless += slice.endpoints.len();
                continue;
            };
            for endpoint in &slice.endpoints {
                if let Some(what) = not_allowed(endpoint.address, place) {
                    self.refused.insert((endpoint.address, what));
                } else {
                    candidates.push(Candidate { endpoint, ports: ports.clone() });
                }
            }
        }
        candidates
    }

    fn nothing(&self, from: &BindingRealServersFrom) -> Option<String> {
        (self.slices == 0).then(|| {
            format!(
                "there is no EndpointSlice of Service {} in this namespace: see that there is such a Service",
                from.service
            )
        })
    }

    fn remarks(&self, from: &BindingRealServersFrom) -> Vec<String> {
        let service = &from.service;
        let mut remarks = Vec::new();
        for family in &self.without {
            remarks.push(format!("no endpoint of Service {service} is ready and {family}"));
        }
        if self.portless > 0 {
            let names: BTreeSet<_> = from
                .target_ports
                .iter()
                .filter_map(|port| match port {
                    TargetPort::Name(name) => Some(name.as_str()),
                    TargetPort::Number(_) => None,
                })
                .collect();
            let names = names.into_iter().collect::<Vec<_>>().join(", ");
            remarks.push(format!(
                "{} endpoints of Service {service} have no port of the name that targetPort asks for ({names})",
                self.portless
            ));
        }
        if !self.refused.is_empty() {
            let named: Vec<_> =
                self.refused.iter().take(NAMED).map(|(one, what)| format!("{one}, {what}")).collect();
            remarks.push(format!(
                "{} endpoints are not used: {}; a loopback or link-local address would have to be in the Director's \
                 allowedTargets",
                self.refused.len(),
                named.join("; ")
            ));
        }
        if let Some(first) = self.sorry.first() {
            remarks.push(format!("{first} is a sorry server, and no endpoint besides"));
        }
        for (family, all, used) in &self.beyond {
            remarks.push(format!(
                "Service {service} has {all} endpoints that are {family}: the first {used} by their addresses are used"
            ));
        }
        remarks
    }
}

/// Why an endpoint is not used, if so.
fn not_allowed(address: IpAddr, place: &Place) -> Option<&'static str> {
    let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    if address.is_unspecified() || address.is_multicast() || mapped || broadcast {
        return Some("an address that no machine can have");
    }
    only_here(address).filter(|_| !place.allowed.iter().any(|network| network.contains(address)))
}
