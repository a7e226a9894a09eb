//! The data planes: each knows what a configuration wants of one kind of kernel table (`desired`), reads the table (`observe`),
//! finds the operations between the two (`plan`) and carries them out (`apply`). `desired` and `plan` are pure, take the set of
//! keys that may have changed, and are ordered and minimal.

pub mod address;
pub mod ipvs;
pub mod nat;
pub mod nat_rules;
pub mod sync;
pub mod sysctl;

pub(crate) mod attribute;
#[cfg(test)]
pub(crate) mod fixture;
pub(crate) mod netlink;
mod nftables;
pub(crate) mod rtnl;

use std::{collections::BTreeMap, net::IpAddr};

use bascule_crds::{
    DirectorConfigSpec, ForwardingMethod, VirtualServiceBindingSpec, common::Family, director::Sysctls,
};

/// The virtual addresses of a binding: its own, or those that its mark is set for.
fn addresses(spec: &VirtualServiceBindingSpec) -> impl Iterator<Item = IpAddr> {
    let matched = spec.fwmark.as_ref().and_then(|fwmark| fwmark.match_.as_ref());
    let matched = matched.map(|matched| matched.addresses.as_slice()).unwrap_or_default();
    spec.addresses.iter().chain(matched).flat_map(|range| range.addresses())
}

/// Whether a binding has IPv4 and IPv6 services.
fn families(spec: &VirtualServiceBindingSpec) -> (bool, bool) {
    let marked = spec.fwmark.iter().flat_map(|fwmark| fwmark.families.iter().copied());
    let families = spec.addresses.iter().map(|range| range.family()).chain(marked);
    families.fold((false, false), |(ipv4, ipv6), family| match family {
        Family::IPv4 => (true, ipv6),
        Family::IPv6 => (ipv4, true),
    })
}

/// The forwarding methods of a binding's real servers.
fn forwardings(spec: &VirtualServiceBindingSpec) -> impl Iterator<Item = ForwardingMethod> {
    spec.real_servers.iter().map(|server| server.forwarding.method)
}

/// Whether the agent sets what differs, and the settings that are the director's.
fn director_sysctls(director: &DirectorConfigSpec) -> (bool, BTreeMap<&'static str, &'static str>) {
    let word = |on| if on { "1" } else { "0" };
    let values = BTreeMap::from([
        (sysctl::EXPIRE_NO_DESTINATION, word(director.expire.no_destination)),
        (sysctl::EXPIRE_QUIESCENT, word(director.expire.quiescent_template)),
    ]);
    (director.sysctls == Sysctls::Manage, values)
}
