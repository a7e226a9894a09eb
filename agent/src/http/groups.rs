//! The figures of groups.

use std::fmt;

use bascule_vrrp::GroupState;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;

use super::metrics::count;
use crate::vrrp::{GroupStatus, InstanceStatus, VrrpStatus};

type OfGroup = fn(&GroupStatus) -> f64;
type OfRouter = fn(&InstanceStatus) -> u64;

/// Writes them.
pub(super) fn encode(status: &VrrpStatus, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let mut metric = to.encode_descriptor(
        "vrrp_state",
        "1 for the state that a group is in, else 0",
        None,
        MetricType::Gauge,
    )?;
    for group in &status.groups {
        for state in [GroupState::Initialize, GroupState::Fault, GroupState::Backup, GroupState::Active] {
            let word = format!("{state:?}");
            let labels = [("group", group.group.as_str()), ("state", word.as_str())];
            metric.encode_family(&labels)?.encode_gauge(&u64::from(group.state == state))?;
        }
    }
    let groups: [(&str, &str, OfGroup); 8] = [
        ("vrrp_priority", "The priority that a group advertises", |one| one.priority.into()),
        ("vrrp_state_seconds", "For how long a group has been in its state", |one| one.seconds_in_state),
        ("vrrp_hold", "1 while a commanded switch-over holds against preemption, else 0", |one| {
            f64::from(u8::from(one.hold))
        }),
        ("vrrp_stands_by", "1 while the machine is out of service for a group, else 0", |one| {
            f64::from(u8::from(one.stands_by))
        }),
        ("vrrp_refused", "1 while what is configured cannot be carried out, else 0", |one| {
            f64::from(u8::from(one.refused.is_some()))
        }),
        ("vrrp_tracked_failing", "Things that a group tracks and that fail", |one| {
            f64::from(u32::try_from(one.failing.len()).unwrap_or(u32::MAX))
        }),
        (
            "vrrp_lacking",
            "Addresses, routes, rules and interfaces that a group should have here and has not, 8 at most",
            |one| f64::from(u32::try_from(one.lacking.len()).unwrap_or(u32::MAX)),
        ),
        (
            "vrrp_secrets_failing",
            "Keys of Secrets that a group names and that cannot be had as they are now",
            |one| {
                let failing = one.secrets.iter().filter(|key| key.reason.is_some()).count();
                f64::from(u32::try_from(failing).unwrap_or(u32::MAX))
            },
        ),
    ];
    for (name, help, figure) in groups {
        let mut metric = to.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for group in &status.groups {
            metric.encode_family(&[("group", group.group.as_str())])?.encode_gauge(&figure(group))?;
        }
    }
    let routers: [(&str, &str, OfRouter); 5] = [
        ("vrrp_advertisements_sent", "Advertisements sent", |one| one.sent),
        ("vrrp_priority_zero_sent", "Of them, with priority 0", |one| one.sent_priority_zero),
        ("vrrp_advertisements_accepted", "Valid advertisements received", |one| one.accepted),
        ("vrrp_priority_zero_accepted", "Of them, with priority 0", |one| one.accepted_priority_zero),
        ("vrrp_became_active", "Transitions to Active", |one| one.became_active),
    ];
    for (name, help, figure) in routers {
        let mut metric = to.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (group, router) in each_router(status) {
            count(&mut metric, &labels(group, router), figure(router))?;
        }
    }
    let mut metric = to.encode_descriptor(
        "vrrp_advertisements_rejected",
        "Advertisements that changed nothing, by reason",
        None,
        MetricType::Counter,
    )?;
    for (group, router) in each_router(status) {
        for (reason, times) in &router.rejected {
            let [group, name, family] = labels(group, router);
            count(&mut metric, &[group, name, family, ("reason", reason.as_str())], *times)?;
        }
    }
    let help = "1 while the configuration of a peer differs in this, as its advertisements tell";
    let mut metric = to.encode_descriptor("vrrp_peer_differs", help, None, MetricType::Gauge)?;
    for (group, router) in each_router(status) {
        for difference in &router.differences {
            let [group, name, family] = labels(group, router);
            metric
                .encode_family(&[group, name, family, ("what", difference.what.as_str())])?
                .encode_gauge(&1_u64)?;
        }
    }
    let help = "Advertisements for virtual routers that are nobody's here";
    to.encode_descriptor("vrrp_foreign_advertisements", help, None, MetricType::Counter)?
        .encode_counter::<prometheus_client::encoding::NoLabelSet, _, u64>(
        &status.foreign_advertisements,
        None,
    )?;
    let help = "Addresses put back into active groups, or removed where they had no business";
    to.encode_descriptor("vrrp_addresses_repaired", help, None, MetricType::Counter)?
        .encode_counter::<prometheus_client::encoding::NoLabelSet, _, u64>(&status.repaired, None)
}

fn each_router(status: &VrrpStatus) -> impl Iterator<Item = (&GroupStatus, &InstanceStatus)> {
    status.groups.iter().flat_map(|group| group.instances.iter().map(move |router| (group, router)))
}

fn labels<'a>(group: &'a GroupStatus, router: &'a InstanceStatus) -> [(&'static str, &'a str); 3] {
    [("group", &group.group), ("instance", &router.name), ("family", &router.family)]
}
