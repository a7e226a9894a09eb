//! The groups for people.

use std::fmt::Write as _;

use bascule_vrrp::GroupState;

use super::Status;
use super::text::{BOLD, GREEN, Painter, RED, YELLOW, duration};
use crate::manifests::Condition;
use crate::vrrp::{GroupStatus, InstanceStatus};

/// Differences named in a condition.
const NAMED: usize = 8;

/// Groups, their virtual routers and services, and who else speaks on their networks.
pub(super) fn write(text: &mut String, status: &Status, painter: &Painter) -> std::fmt::Result {
    for group in &status.vrrp.groups {
        one(text, group, painter)?;
        for services in status.services.iter().filter(|services| services.group == group.group) {
            for service in &services.services {
                let message = if service.message.is_empty() { "" } else { ": " };
                writeln!(text, "  service {} {:?}{message}{}", service.name, service.state, service.message)?;
            }
        }
    }
    for foreign in &status.vrrp.foreign {
        let line = format!(
            "{}: {} speaks VRRPv{} for virtual router {}, which is no group's here (heard {} ago)",
            foreign.interface,
            foreign.source,
            foreign.version,
            foreign.virtual_router_id,
            duration(foreign.heard_seconds_ago)
        );
        writeln!(text, "  {}", painter.paint(YELLOW, &line))?;
    }
    Ok(())
}

fn one(text: &mut String, group: &GroupStatus, painter: &Painter) -> std::fmt::Result {
    let state = match group.state {
        GroupState::Active if group.releasing => painter.paint(YELLOW, "Active, handing over"),
        GroupState::Active => painter.paint(GREEN, "Active"),
        GroupState::Backup => "Backup".to_owned(),
        GroupState::Initialize => painter.paint(YELLOW, "Initialize"),
        GroupState::Fault => painter.paint(RED, "Fault"),
    };
    writeln!(
        text,
        "{} {}: {state} for {} (priority {}): {}",
        painter.paint(BOLD, "group"),
        group.group,
        duration(group.seconds_in_state),
        group.priority,
        group.reason
    )?;
    if let Some(refused) = &group.refused {
        let line = format!("as configured now it cannot be carried out: {refused}");
        writeln!(text, "  {}", painter.paint(RED, &line))?;
    }
    for failing in &group.failing {
        writeln!(text, "  {}", painter.paint(YELLOW, &format!("{failing} fails")))?;
    }
    for lacking in &group.lacking {
        writeln!(text, "  {}", painter.paint(RED, &format!("it lacks {lacking}")))?;
    }
    // Of a key that was never in force, the refusal says it.
    for one in group.secrets.iter().filter(|one| one.in_force && one.reason.is_some()) {
        writeln!(text, "  {}", painter.paint(YELLOW, &one.message))?;
    }
    if group.hold {
        writeln!(
            text,
            "  {}",
            painter.paint(
                YELLOW,
                "switched away by command: it does not preempt until the new active one is lost"
            )
        )?;
    }
    if group.stands_by {
        let line = "the machine is out of service: active only while no other member can be";
        writeln!(text, "  {}", painter.paint(YELLOW, line))?;
    }
    for instance in &group.instances {
        writeln!(text, "  {}", router(instance, painter))?;
        for one in &instance.differences {
            let ago = duration(one.heard_seconds_ago);
            let line = format!("{} is configured otherwise: {} (heard {ago} ago)", one.peer, one.message);
            writeln!(text, "    {}", painter.paint(YELLOW, &line))?;
        }
        for stale in &instance.stale {
            writeln!(text, "    {}", painter.paint(RED, stale))?;
        }
    }
    Ok(())
}

/// Whether the members of a group are configured alike, as far as they hear of each other; none where they are.
pub(super) fn condition(group: &GroupStatus) -> Option<Condition> {
    let differences: Vec<_> = group
        .instances
        .iter()
        .flat_map(|instance| instance.differences.iter().map(move |one| (instance, one)))
        .map(|(instance, one)| format!("{}: {}: {}", instance.name, one.peer, one.message))
        .collect();
    (!differences.is_empty()).then(|| Condition {
        type_: "Degraded".into(),
        status: "True".into(),
        reason: "PeersDiffer".into(),
        message: differences.into_iter().take(NAMED).collect::<Vec<_>>().join("; "),
    })
}

fn router(router: &InstanceStatus, painter: &Painter) -> String {
    let link = match router.link.as_str() {
        "Up" => String::new(),
        other => format!(", link {}", painter.paint(RED, other)),
    };
    let active = match (&router.active, router.heard_seconds_ago) {
        (Some(active), Some(ago)) => format!(", active is {active}, heard {ago:.1}s ago"),
        (Some(active), None) => format!(", active is {active}"),
        (None, _) => String::new(),
    };
    let rejected: u64 = router.rejected.values().sum();
    let rejected = if rejected == 0 { String::new() } else { format!(", {rejected} dropped") };
    let own = router.own_interface.as_ref().map_or_else(String::new, |own| format!(", addresses on {own}"));
    let only = if router.services_only { ", for services only" } else { "" };
    format!(
        "{} ({}) on {} id {}{own}{only}: {}{link}{active}; {} sent, {} heard{rejected}",
        router.name,
        router.family,
        router.interface,
        router.virtual_router_id,
        router.state,
        router.sent,
        router.accepted
    )
}
