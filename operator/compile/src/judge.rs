//! What is wrong with an object: alone, in what it names, and in what it is allowed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use bascule_crds::common::{AddressOrRange, Allow, AllowedKind};
use bascule_crds::director::Director;
use bascule_crds::virtual_service::VirtualServiceSpec;
use bascule_crds::{Kind, Object, VirtualServiceBindingSpec};

use crate::compiler::{Named, Trust};
use crate::groups::{self, Group};
use crate::problem::Problems;
use crate::types::{Problem, Reason};
use crate::{checked, checks, nat_rule, service};

/// The label by which an EndpointSlice says of which Service it is.
pub const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// A VirtualService in which nothing is wrong: what is to be where, by the director's name.
pub(crate) type Placed = BTreeMap<Arc<str>, Arc<VirtualServiceBindingSpec>>;

/// What is wrong with an object of a directory, whatever else there is: it contradicts itself, or uses what this version does not
/// do.
pub fn problems_of(object: &Object) -> Vec<Problem> {
    match object {
        Object::VirtualService(object) => virtual_service(&object.spec),
        // Everything that a Director can say exists in this version.
        Object::Director(_) => Vec::new(),
        Object::VrrpGroup(object) => groups::problems(&object.spec),
        Object::HealthCheck(object) => checks::problems(&object.spec),
        Object::NatRule(object) => nat_rule::problems(&object.spec),
        Object::EndpointSlice(_) => endpoint_slice(object),
    }
}

/// Whether an object of this kind that has problems by itself ([`problems_of`]) is not carried out at all. Of a Director the
/// other fields are in force all the same.
pub fn is_refused_whole(kind: Kind) -> bool {
    kind != Kind::Director
}

pub(crate) fn virtual_service(spec: &VirtualServiceSpec) -> Vec<Problem> {
    let mut problems = Problems::default();
    service::check(spec, &mut problems);
    problems.0
}

/// Of an EndpointSlice in a directory. In a cluster they are Kubernetes' own, and nothing is said of them.
pub(crate) fn endpoint_slice(object: &Object) -> Vec<Problem> {
    let Object::EndpointSlice(slice) = object else { return Vec::new() };
    let mut problems = Problems::default();
    let labels = slice.metadata.labels.as_ref();
    if labels.and_then(|labels| labels.get(SERVICE_LABEL)).is_none_or(String::is_empty) {
        problems.invalid(
            "metadata.labels",
            format!(
                "{SERVICE_LABEL} must name the Service that these endpoints are of: nobody finds them without"
            ),
        );
    }
    if slice.address_type == "FQDN" {
        problems.unsupported("addressType", "endpoints that are names instead of addresses are");
    }
    problems.0
}

/// Everything that a VirtualService names.
pub(crate) fn names(spec: &VirtualServiceSpec, namespace: &str) -> BTreeSet<Named> {
    let mut names = BTreeSet::new();
    if let Some(placement) = &spec.director {
        names.insert(Named::Director(placement.name.clone()));
        if let Some(interface) = &placement.interface {
            names.insert(Named::Interface(placement.name.clone(), interface.clone()));
        }
    }
    names.extend(spec.vrrp_group.clone().map(Named::VrrpGroup));
    names.extend(checked::names(spec, namespace).map(Named::HealthCheck));
    names
}

/// Says of the director that the spec names that it does not exist. Groups and checks are looked at apart.
pub(crate) fn resolve(
    spec: &VirtualServiceSpec,
    known: impl Fn(&Named) -> bool,
    trust: Trust,
    problems: &mut Problems,
) {
    if let Some(placement) = &spec.director
        && !known(&Named::Director(placement.name.clone()))
    {
        unknown_director(&placement.name, "spec.director.name", trust, problems);
    }
}

/// Says that there is no such director.
pub(crate) fn unknown_director(name: &str, field: &str, trust: Trust, problems: &mut Problems) {
    let message = match trust {
        Trust::Files => format!(
            "no director is called {name} here: neither a Director manifest nor the agent's --director says so; nothing is programmed for it"
        ),
        Trust::Cluster => format!("there is no Director {name}"),
    };
    problems.add(Reason::DirectorNotFound, field, message);
}

/// Says what is missing for something that follows the group; returns it if nothing is.
pub(crate) fn group_in_force<'a>(
    name: &str,
    group: Option<&'a Group>,
    trust: Trust,
    problems: &mut Problems,
) -> Option<&'a Group> {
    let field = "spec.vrrpGroup";
    let Some(group) = group else {
        let message = match trust {
            Trust::Files => format!("there is no VrrpGroup {name}, or what its manifest says is refused"),
            Trust::Cluster => format!("there is no VrrpGroup {name}"),
        };
        problems.add(Reason::VrrpGroupNotFound, field, message);
        return None;
    };
    if !group.is_in_force() {
        let message =
            format!("VrrpGroup {name} is not accepted, and nobody has its addresses; its conditions say why");
        problems.add(Reason::VrrpGroupNotAccepted, field, message);
        return None;
    }
    if group.members().next().is_none() {
        let message = format!("no member of VrrpGroup {name} has a Director");
        problems.add(Reason::DirectorNotFound, field, message);
        return None;
    }
    Some(group)
}

/// Says what is missing for addresses that the VirtualService wants to have where a group is active.
pub(crate) fn in_group(
    spec: &VirtualServiceSpec,
    name: &str,
    group: Option<&Group>,
    trust: Trust,
    problems: &mut Problems,
) {
    let Some(group) = group_in_force(name, group, trust, problems) else { return };
    for (field, addresses) in wanted_addresses(spec) {
        for (i, wanted) in addresses.iter().enumerate().filter(|(_, wanted)| !group.has(**wanted)) {
            problems.add(
                Reason::AddressNotInGroup,
                format!("{field}[{i}]"),
                format!(
                    "{wanted} is not among the addresses of VrrpGroup {name}, so that nobody would have it; add it to addresses \
                     or excludedAddresses of an instance"
                ),
            );
        }
    }
}

/// The addresses that the spec names, and where.
fn wanted_addresses(spec: &VirtualServiceSpec) -> [(&'static str, &[AddressOrRange]); 2] {
    let marked = spec.fwmark.as_ref().and_then(|fwmark| fwmark.match_.as_ref());
    [
        ("spec.addresses", spec.addresses.as_slice()),
        ("spec.fwmark.match.addresses", marked.map(|m| m.addresses.as_slice()).unwrap_or_default()),
    ]
}

/// The entries that are for VirtualServices of the namespace.
fn entries<'a>(allow: &'a [Allow], namespace: &'a str) -> impl Iterator<Item = &'a Allow> {
    allow
        .iter()
        .filter(|entry| entry.kinds.contains(&AllowedKind::VirtualService))
        .filter(move |entry| entry.namespaces.iter().any(|n| n == "*" || n == namespace))
}

/// In a cluster: what the group does not allow a VirtualService of that namespace. Its addresses everybody may use; a mark
/// alone takes packets to any address.
pub(crate) fn allowed_by_group(
    spec: &VirtualServiceSpec,
    namespace: &str,
    name: &str,
    group: &Group,
    problems: &mut Problems,
) {
    let anything = spec.fwmark.as_ref().is_some_and(|fwmark| fwmark.match_.is_none());
    if anything && entries(group.allow(), namespace).next().is_none() {
        problems.add(
            Reason::NotAllowed,
            "spec.fwmark",
            format!(
                "VrrpGroup {name} allows namespace {namespace} its own addresses only, and a mark without match is for any; \
                 add match, or have its spec.allow say so"
            ),
        );
    }
}

/// In a cluster: what the Director on which it wants to be does not allow a VirtualService of that namespace.
pub(crate) fn allowed(
    spec: &VirtualServiceSpec,
    namespace: &str,
    director: &Director,
    problems: &mut Problems,
) {
    let name = director.metadata.name.as_deref().unwrap_or_default();
    let entries: Vec<_> = entries(&director.spec.allow, namespace).collect();
    if entries.is_empty() {
        problems.add(
            Reason::NotAllowed,
            "spec.director.name",
            format!("Director {name} does not allow VirtualServices of namespace {namespace}; its spec.allow can say so"),
        );
        return;
    }
    for (field, addresses) in wanted_addresses(spec) {
        for (i, wanted) in addresses.iter().enumerate() {
            let within = |AddressOrRange { first, last }: &AddressOrRange| {
                entries
                    .iter()
                    .flat_map(|e| &e.addresses)
                    .any(|net| net.contains(*first) && net.contains(*last))
            };
            if !within(wanted) {
                problems.add(
                    Reason::NotAllowed,
                    format!("{field}[{i}]"),
                    format!("Director {name} does not allow namespace {namespace} the address {wanted}; spec.allow[].addresses can say so"),
                );
            }
        }
    }
    allowed_targets(spec, director, problems);
}

/// In a cluster: real servers and sorry servers that a Director does not allow anybody.
pub(crate) fn allowed_targets(spec: &VirtualServiceSpec, director: &Director, problems: &mut Problems) {
    let name = director.metadata.name.as_deref().unwrap_or_default();
    let real = spec.real_servers.iter().enumerate().map(|(i, one)| ("realServers", i, one.address));
    let sorry = spec.sorry_servers.iter().enumerate().map(|(i, one)| ("sorryServers", i, one.address));
    for (list, i, address) in real.chain(sorry) {
        if let Some(what) = only_here(address)
            && !checked::allows_target(Some(director), address)
        {
            problems.add(
                Reason::NotAllowed,
                format!("spec.{list}[{i}].address"),
                format!("{address} is {what}; Director {name} would have to allow it in spec.allowedTargets"),
            );
        }
    }
}

/// What an address is that means something else on every machine: a loopback or link-local one. Such a target of a check
/// ([`bascule_crds::HealthCheckSpec::address`]) may be probed only where the director's `allowed_targets` have it, whoever asks.
pub fn only_here(address: IpAddr) -> Option<&'static str> {
    let (loopback, link_local) = match address {
        IpAddr::V4(a) => (a.is_loopback(), a.is_link_local()),
        IpAddr::V6(a) => (a.is_loopback(), a.is_unicast_link_local()),
    };
    if loopback {
        Some("a loopback address")
    } else if link_local {
        Some("a link-local address")
    } else {
        None
    }
}
