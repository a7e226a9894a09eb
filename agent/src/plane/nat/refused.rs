//! `accept: false` of a group's instance (RFC 9568 section 6.1, Accept_Mode): packets to its addresses that are for this machine
//! itself are dropped.
//!
//! The chain stands behind IPVS (LOCAL_IN 98 and 99, net/netfilter/ipvs/ip_vs_core.c), which takes what belongs to a service out
//! of the way before. Neighbour discovery is answered (RFC 9568 section 6.1: Accept_Mode does not concern it); ARP does not pass
//! here. The rule is there in every state of the group: where the address is not on this machine nothing meets it, and so
//! nothing has to be done when the group moves.

use std::{collections::BTreeSet, net::IpAddr};

use bascule_compile::BindingKey;
use bascule_crds::{DirectorConfigSpec, vrrp_group::Instance};
use bascule_vrrp::packet::{Family, derived_link_local};

use super::{Desired, Element, Set, Version, table::KeyWriter};
use crate::plane::{
    attribute::Writer,
    nftables::{
        ACCEPT, FIRST, META_PROTOCOL, TRANSPORT, destination_address, equals, expression, meta, of_family,
        payload, verdict,
    },
};

/// Behind IPVS, and behind the guard of young connections (110).
pub(super) const PRIORITY: i32 = 120;
/// The chain.
pub(super) const CHAIN: &str = "refused";

const ICMPV6: u8 = 58;
/// ICMPv6 types of neighbour solicitation and advertisement (RFC 4861 sections 4.3 and 4.4).
const NEIGHBOUR_DISCOVERY: [u8; 2] = [135, 136];
/// NF_DROP.
const DROP: i32 = 0;

/// The addresses whose packets are refused.
pub(super) fn addresses(director: &DirectorConfigSpec) -> BTreeSet<IpAddr> {
    let instances = director.vrrp.iter().flat_map(|group| &group.instances);
    instances.filter(|instance| !instance.accept).flat_map(of_instance).collect()
}

fn of_instance(instance: &Instance) -> impl Iterator<Item = IpAddr> {
    let given = instance.addresses.iter().chain(&instance.excluded_addresses).map(|one| one.address);
    let is_link_local = |address: IpAddr| matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let advertised = || instance.addresses.iter().map(|one| one.address);
    // The virtual router's own one, where none is given.
    let derived =
        advertised().any(|address| Family::of(address) == Family::Ipv6) && !advertised().any(is_link_local);
    let derived = instance.virtual_router_id.filter(|_| derived).map(derived_link_local);
    given.chain(derived.map(IpAddr::V6))
}

impl Desired {
    /// Takes the director's groups; returns the elements that may have changed.
    pub fn set_director(&mut self, director: &DirectorConfigSpec) -> BTreeSet<Element> {
        let nobody = BindingKey::new("", "");
        let wanted: BTreeSet<Element> = addresses(director)
            .into_iter()
            .map(|address| {
                let key = KeyWriter::default().address(address).finish();
                (Set::Refused(Version::of(address)), key)
            })
            .collect();
        let held: BTreeSet<Element> = self
            .elements()
            .filter(|(set, ..)| matches!(set, Set::Refused(_)))
            .map(|(set, key, _)| (set, key.clone()))
            .collect();
        for element in held.difference(&wanted) {
            self.release(&nobody, element);
        }
        for (set, key) in wanted.difference(&held) {
            let entries = self.elements.entry(*set).or_default();
            entries.insert(key.clone(), vec![(nobody.clone(), 0)]);
        }
        held.symmetric_difference(&wanted).cloned().collect()
    }
}

/// The rules for the addresses of one family, in their order.
pub(super) fn rules(version: Version) -> Vec<Writer> {
    let is_ipv4 = version == Version::V4;
    let mut rules = Vec::new();
    if !is_ipv4 {
        rules.extend(NEIGHBOUR_DISCOVERY.map(|kind| {
            let list = of_family(Writer::default(), false);
            let list = equals(meta(list, META_PROTOCOL, FIRST), &[ICMPV6]);
            verdict(equals(payload(list, TRANSPORT, 0, 1, FIRST), &[kind]), ACCEPT)
        }));
    }
    let list = destination_address(of_family(Writer::default(), is_ipv4), is_ipv4, FIRST);
    let list =
        expression(list, "lookup", |data| data.string(1, Set::Refused(version).name()).network(2, FIRST));
    rules.push(verdict(list, DROP));
    rules
}
