//! What the kernel does as it is told and hardly anybody means: it is in use for good reasons, so it is no mistake, but who meets it
//! by accident finds a service that looks well and never answers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use bascule_crds::common::Duration as Written;
use bascule_crds::virtual_service::{
    BelowQuorum, ForwardingMethod, OnFailure, PersistenceEngine, SchedulerName,
};
use bascule_crds::vrrp_group::Member;
use bascule_crds::{VirtualServiceSpec, VrrpGroupSpec};

use crate::groups::priority;
use crate::service;
use crate::types::Warning;

/// What is to be said of a VirtualService in which nothing is wrong. `weighs`: its checks may say what its real servers weigh.
pub(crate) fn virtual_service(spec: &VirtualServiceSpec, weighs: bool) -> Vec<Warning> {
    one_packet(spec).into_iter().chain(quorum(spec, weighs)).chain(refusing_scheduler(spec)).collect()
}

/// A quorum that cannot be reached, and sorry servers that never serve.
fn quorum(spec: &VirtualServiceSpec, weighs: bool) -> Option<Warning> {
    let quorum = spec.quorum.as_ref()?;
    let warn = |field: &str, message: String| Some(Warning { field: format!("spec.{field}"), message });
    // What drains now comes back one day.
    let all: u64 = spec.real_servers.iter().map(|server| u64::from(server.weight)).sum();
    let gained = u64::from(quorum.weight) + u64::from(quorum.hysteresis);
    if !weighs && !spec.real_servers.is_empty() && all < gained {
        let told = if quorum.hysteresis == 0 {
            format!("{gained}")
        } else {
            format!("weight + hysteresis = {gained}")
        };
        return warn(
            "quorum.weight",
            format!(
                "the quorum is gained at {told}, and all real servers together weigh {all}: once lost it never comes back; set \
                 less, or give the real servers more weight"
            ),
        );
    }
    match quorum.below {
        BelowQuorum::SorryServer if spec.sorry_servers.is_empty() && quorum.weight > 1 => warn(
            "quorum.below",
            "is SorryServer, and there is no sorry server: without quorum the live real servers go on; add one, or say Keep or \
             Withdraw"
                .into(),
        ),
        BelowQuorum::Withdraw | BelowQuorum::Keep if !spec.sorry_servers.is_empty() => warn(
            "sorryServers",
            format!("never serve, because quorum.below is {:?}; remove them or say SorryServer", quorum.below),
        ),
        _ => None,
    }
}

/// The kernel forgets a one-packet connection with its packet (net/netfilter/ipvs: it is never hashed, and
/// `ip_vs_update_conntrack` leaves it alone), so that nothing translates an answer of a masqueraded real server back. The
/// persistence engine makes a connection from the answer itself (`ip_vs_new_conn_out`).
fn one_packet(spec: &VirtualServiceSpec) -> Option<Warning> {
    let sip = spec.persistence.as_ref().is_some_and(|one| one.engine == Some(PersistenceEngine::Sip));
    let masquerade = |method: ForwardingMethod| method == ForwardingMethod::Masquerade;
    let masqueraded =
        spec.real_servers.iter().find(|server| masquerade(service::forwarding(spec, server).method));
    let endpoints = spec.real_servers_from.as_ref().filter(|_| masquerade(spec.forwarding.method));
    if !spec.one_packet || sip {
        return None;
    }
    let whom = match (masqueraded, endpoints) {
        (Some(server), _) => format!("real server {}", server.name),
        (None, Some(from)) => format!("the endpoints of Service {}", from.service.name),
        (None, None) => return None,
    };
    Some(Warning {
        field: "spec.onePacket".into(),
        message: format!(
            "the answers of {whom}, reached by Masquerade, are not translated back: the kernel keeps no state of single \
             packets, and clients get answers from an address that they did not ask; this is for one-way traffic only, such as \
             syslog; for anything that answers use DirectRouting or Tunnel, or leave onePacket out"
        ),
    })
}

/// A real server of weight 0 keeps its share of the clients of sh and dh, which are refused (net/netfilter/ipvs/ip_vs_sh.c:
/// `ip_vs_sh_reassign` gives it a bucket all the same, and `ip_vs_sh_get` no answer; ip_vs_dh.c: weights do not count there). mh leaves
/// it out.
fn refusing_scheduler(spec: &VirtualServiceSpec) -> Option<Warning> {
    let way_out = match spec.scheduler.name {
        SchedulerName::Sh if !spec.scheduler.fallback => "set scheduler.fallback, or take mh",
        SchedulerName::Dh => "take another scheduler",
        _ => return None,
    };
    let idle = spec.real_servers.iter().enumerate().find(|(_, server)| server.drain || server.weight == 0);
    let field = match idle {
        Some((i, server)) if server.drain => format!("spec.realServers[{i}].drain"),
        Some((i, _)) => format!("spec.realServers[{i}].weight"),
        // Those that terminate have no weight.
        None if spec.real_servers_from.is_some() => "spec.realServersFrom".into(),
        None if spec.on_failure == OnFailure::Quiesce => "spec.onFailure".into(),
        None if spec.drain.as_ref().is_some_and(|drain| !drain.timeout.as_std().is_zero()) => {
            "spec.drain".into()
        }
        None => return None,
    };
    Some(Warning {
        field,
        message: format!(
            "the scheduler {} gives a real server of weight 0 its share of the clients all the same, and refuses them, \
             for as long as it stands there: {way_out}",
            spec.scheduler.name.as_str()
        ),
    })
}

/// What is to be said of a VrrpGroup in which nothing is wrong.
pub(crate) fn vrrp_group(spec: &VrrpGroupSpec) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut warn = |field: String, message: String| warnings.push(Warning { field, message });
    if spec.down_intervals == 1 {
        warn(
            "spec.downIntervals".into(),
            "one advertisement that is lost, or late by a scheduling delay, is taken for a dead director; 3 is usual".into(),
        );
    }
    let patience = |member: &Member| active_down_interval(spec, priority(spec, member));
    let by_patience = || spec.members.iter().map(|member| (patience(member), member.director.as_str()));
    if let (Some(grace), Some((longest, member))) = (spec.startup_grace, by_patience().max())
        && grace.as_std() < longest * 2
    {
        warn(
            "spec.startupGrace".into(),
            format!(
                "{grace} is less than twice the Active_Down_Interval, {} on {member}: a director that boots before its network \
                 is up may take the addresses although another one has them; set at least {} (heartbeat: initdead at least \
                 twice deadtime)",
                rounded_up(longest),
                rounded_up(longest * 2)
            ),
        );
    }
    if let (Some(after), Some((shortest, member))) = (spec.warn_after, by_patience().min())
        && spec.members.len() > 1
        && after.as_std() >= shortest
    {
        warn(
            "spec.warnAfter".into(),
            format!(
                "{after} is not below the Active_Down_Interval, {} on {member}, which takes over before it warns; set less",
                rounded_up(shortest)
            ),
        );
    }
    for (field, source) in deaf_sources(spec) {
        warn(
            field,
            format!(
                "packets to {source} are refused (accept: false), answers to connections that the active director opens from it \
                 among them; give another source, or accept: true"
            ),
        );
    }
    let mut seen: BTreeMap<u8, &str> = BTreeMap::new();
    for (m, member) in spec.members.iter().enumerate() {
        if let Some(other) = seen.insert(member.priority, &member.director) {
            warn(
                format!("spec.members[{m}].priority"),
                format!(
                    "members {other} and {} both have priority {}: which of them becomes active depends on their addresses; \
                     give each its own",
                    member.director, member.priority
                ),
            );
        }
    }
    warnings
}

/// Sources of routes that take no packets.
fn deaf_sources(spec: &VrrpGroupSpec) -> Vec<(String, IpAddr)> {
    let deaf = spec.instances.iter().filter(|instance| !instance.accept);
    let deaf: BTreeSet<IpAddr> = deaf
        .flat_map(|instance| instance.addresses.iter().chain(&instance.excluded_addresses))
        .map(|one| one.address)
        .collect();
    let mut found = Vec::new();
    for (i, instance) in spec.instances.iter().enumerate() {
        for (j, route) in instance.routes.iter().enumerate() {
            let source = route.source.filter(|source| deaf.contains(source));
            found.extend(source.map(|source| (format!("spec.instances[{i}].routes[{j}].source"), source)));
        }
    }
    found
}

/// How long a member of this priority hears nothing until it takes over (RFC 9568 section 6.1; in version 2, RFC 3768 section
/// 6.1, the skew is a part of one second).
fn active_down_interval(spec: &VrrpGroupSpec, priority: u8) -> Duration {
    let interval = spec.advertisement_interval.as_std();
    let skewed = if spec.version == 2 { Duration::from_secs(1) } else { interval };
    interval * spec.down_intervals + skewed * (256 - u32::from(priority)) / 256
}

/// As it is written in manifests, in whole milliseconds.
fn rounded_up(time: Duration) -> Written {
    let millis = time.as_nanos().div_ceil(1_000_000);
    Written::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}
