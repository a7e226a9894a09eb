//! What can be said of a VrrpGroup alone, and of what it means on each of its members.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bascule_crds::VrrpGroupSpec;
use bascule_crds::common::Family;
use bascule_crds::vrrp_group::Instance;

use super::form::{Aliases, resolved};
use super::routing;
use crate::compiler::Trust;
use crate::problem::Problems;
use crate::service::not_of_a_machine;
use crate::unsupported;

/// Longest label of an address with its interface and the colon between them, in characters (IFNAMSIZ - 1).
const MAX_LABEL: usize = 15;

/// Everything in which the spec contradicts itself and that its schema cannot see.
pub(crate) fn alone(trust: Trust, spec: &VrrpGroupSpec) -> Problems {
    let mut problems = Problems::default();
    if trust == Trust::Files {
        for (i, _) in spec.instances.iter().enumerate().filter(|(_, one)| one.virtual_router_id.is_none()) {
            problems.invalid(
                format!("spec.instances[{i}].virtualRouterId"),
                "is missing: it may be left out only in a cluster, where one is allocated; give a number from 1 to 255 that is \
                 unique on its network",
            );
        }
    }
    for (i, instance) in spec.instances.iter().enumerate() {
        if instance.virtual_mac && instance.label.is_some() {
            problems.invalid(
                format!("spec.instances[{i}].label"),
                "is for addresses on the interface itself: with virtualMac they are on one of their own; remove one of the two",
            );
        }
    }
    let addresses = check_addresses(spec, &mut problems);
    check_own_addresses(spec, &addresses, &mut problems);
    routing::check(spec, &addresses, &mut problems);
    unsupported::vrrp_group(trust, spec, &mut problems);
    problems
}

/// Returns all addresses of the group.
fn check_addresses(spec: &VrrpGroupSpec, problems: &mut Problems) -> BTreeSet<IpAddr> {
    let mut seen: BTreeMap<IpAddr, (usize, &str, usize)> = BTreeMap::new();
    for (i, instance) in spec.instances.iter().enumerate() {
        let lists = [("addresses", &instance.addresses), ("excludedAddresses", &instance.excluded_addresses)];
        for (list, addresses) in lists {
            for (j, one) in addresses.iter().enumerate() {
                let field = || format!("spec.instances[{i}].{list}[{j}]");
                if let Some(what) = not_of_a_machine(one.address) {
                    problems
                        .invalid(field(), format!("{} is {what}, which no director can have", one.address));
                }
                if let Some((i, list, j)) = seen.insert(one.address, (i, list, j)) {
                    problems.invalid(
                        field(),
                        format!(
                            "{} stands in instances[{i}].{list}[{j}], too; remove it from one of them",
                            one.address
                        ),
                    );
                }
            }
        }
    }
    seen.into_keys().collect()
}

fn check_own_addresses(spec: &VrrpGroupSpec, virtual_addresses: &BTreeSet<IpAddr>, problems: &mut Problems) {
    let unicast = spec.peers.as_ref().is_some_and(|peers| peers.unicast.is_some());
    for instance in &spec.instances {
        let mut seen: BTreeMap<IpAddr, &str> = BTreeMap::new();
        let families: BTreeSet<Family> = instance.addresses.iter().map(|one| one.family()).collect();
        for (m, member) in spec.members.iter().enumerate() {
            let Some(own) = member.addresses.get(&instance.name) else { continue };
            let field = || format!("spec.members[{m}].addresses.{}", instance.name);
            let family = Family::of(*own);
            if virtual_addresses.contains(own) {
                problems.invalid(
                    field(),
                    format!(
                        "{own} is a virtual address of the group: give the one that {} always has",
                        member.director
                    ),
                );
            }
            if let Some(other) = seen.insert(*own, &member.director) {
                problems.invalid(
                    field(),
                    format!("{own} is the address of member {other} as well; each has its own"),
                );
            }
            let missed = families.iter().find(|one| unicast && **one != family);
            if !families.contains(&family) {
                problems.invalid(
                    field(),
                    format!("{own} is {family}, but instance {} has no {family} address", instance.name),
                );
            } else if let Some(missed) = missed {
                problems.invalid(
                    field(),
                    format!(
                        "unicast reaches the peers of instance {} by {family} only, and it has {missed} addresses, too; put \
                         these into an instance of their own",
                        instance.name
                    ),
                );
            }
        }
    }
}

/// What only shows with the names that a director's aliases stand for.
pub(crate) fn on_director(
    spec: &VrrpGroupSpec,
    director: &str,
    aliases: Option<&Aliases>,
    problems: &mut Problems,
) {
    let mut routers: BTreeMap<(&String, u8), &str> = BTreeMap::new();
    for (i, instance) in spec.instances.iter().enumerate() {
        let Instance { name, interface, virtual_router_id, label, .. } = instance;
        let interface = resolved(aliases, interface);
        if let Some(id) = virtual_router_id
            && let Some(other) = routers.insert((interface, *id), name)
        {
            problems.invalid(
                format!("spec.instances[{i}].interface"),
                format!(
                    "is {interface} on director {director}, where instance {other} has virtualRouterId {id}, too; give \
                     another id or another interface"
                ),
            );
        }
        let length = |label: &String| interface.chars().count() + 1 + label.chars().count();
        if let Some(label) = label.as_ref().filter(|label| length(label) > MAX_LABEL) {
            problems.invalid(
                format!("spec.instances[{i}].label"),
                format!(
                    "{interface}:{label} on director {director} has more than {MAX_LABEL} characters; shorten the label"
                ),
            );
        }
    }
    let mut tracked: BTreeMap<&String, &String> = BTreeMap::new();
    for (i, one) in spec.track.iter().flat_map(|track| &track.interfaces).enumerate() {
        let interface = resolved(aliases, &one.name);
        if let Some(other) = tracked.insert(interface, &one.name) {
            problems.invalid(
                format!("spec.track.interfaces[{i}].name"),
                format!(
                    "{} and {other} both are {interface} on director {director}; leave one of them out",
                    one.name
                ),
            );
        }
    }
}
