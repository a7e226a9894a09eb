//! What a member of a group must do, spelled out.

use std::collections::BTreeMap;

use bascule_crds::VrrpGroupSpec;
use bascule_crds::director_config::DirectorVrrpGroup;
use bascule_crds::vrrp_group::{Instance, Member, OnAgentLoss, Track};

/// The priority of the member that is `preferred`.
const PREFERRED: u8 = 254;

/// Names for interfaces of a director.
pub(crate) type Aliases = BTreeMap<String, String>;

/// The interface that the name stands for: what is no alias is the interface's own name.
pub(crate) fn resolved<'a>(aliases: Option<&'a Aliases>, interface: &'a String) -> &'a String {
    aliases.and_then(|aliases| aliases.get(interface)).unwrap_or(interface)
}

/// The priority with which the member speaks while nothing that it tracks has failed.
pub(crate) fn priority(spec: &VrrpGroupSpec, member: &Member) -> u8 {
    if spec.preferred.as_ref() == Some(&member.director) { PREFERRED } else { member.priority }
}

/// What one member of a group in which nothing is wrong has to do. Who else is a member is a matter of the group alone: a
/// machine that nobody declared yet may speak all the same.
pub(crate) fn form(
    name: &str,
    spec: &VrrpGroupSpec,
    member: &Member,
    aliases: Option<&Aliases>,
) -> DirectorVrrpGroup {
    let others = || spec.members.iter().filter(|other| other.director != member.director);
    let own = priority(spec, member);
    let alone = others().next().is_none();
    let unicast = spec.peers.as_ref().and_then(|peers| peers.unicast);
    let peers = |instance: &Instance| {
        let addresses = others().filter_map(|other| other.addresses.get(&instance.name)).copied();
        (instance.name.clone(), addresses.collect())
    };
    DirectorVrrpGroup {
        name: name.to_owned(),
        priority: own,
        highest: others().all(|other| priority(spec, other) <= own),
        other_preferred: spec.preferred.as_ref().is_some_and(|preferred| *preferred != member.director),
        // What the machines are up to is told with the configuration of each.
        stands_by: false,
        relieves: false,
        alone,
        version: spec.version,
        advertisement_interval: spec.advertisement_interval,
        down_intervals: spec.down_intervals,
        warn_after: spec.warn_after,
        startup_grace: spec.startup_grace,
        preempt: spec.preempt,
        instances: spec.instances.iter().map(|instance| on_interface(instance, aliases)).collect(),
        own_addresses: member.addresses.clone(),
        unicast_peers: unicast.map(|_| spec.instances.iter().map(peers).collect()).unwrap_or_default(),
        min_ttl: unicast.map(|unicast| unicast.min_ttl),
        track: spec.track.as_ref().map(|track| tracked(track, aliases)),
        gratuitous_arp: spec.gratuitous_arp,
        authentication: spec.authentication.clone(),
        on_agent_loss: spec.on_agent_loss.unwrap_or(if alone {
            OnAgentLoss::Keep
        } else {
            OnAgentLoss::Release
        }),
        services: spec.services.clone(),
        notify: spec.notify.clone(),
    }
}

fn on_interface(instance: &Instance, aliases: Option<&Aliases>) -> Instance {
    let mut instance = instance.clone();
    instance.interface = resolved(aliases, &instance.interface).clone();
    for route in &mut instance.routes {
        route.interface = route.interface.as_ref().map(|interface| resolved(aliases, interface).clone());
    }
    instance
}

fn tracked(track: &Track, aliases: Option<&Aliases>) -> Track {
    let mut track = track.clone();
    for interface in &mut track.interfaces {
        interface.name = resolved(aliases, &interface.name).clone();
    }
    track
}
