//! VrrpGroups: who has the addresses, and how many could.

use std::collections::BTreeMap;

use bascule_crds::director_config::{DirectorVrrpGroup, GroupState};
use bascule_crds::vrrp_group::{InstanceStatus, MemberStatus, VrrpGroup, VrrpGroupStatus, VrrpState};
use bascule_crds::{Kind, ObjectRef};

use super::conditions::conditions;
use super::plain::not_in_force;
use super::reports::{self, Life, Report};
use super::{Due, News, Surroundings, Truth, Verdict, haste, judged, news, same_conditions, write};
use crate::index::Place;

pub(super) fn due(around: &Surroundings<'_>, reference: &ObjectRef, object: &VrrpGroup) -> Option<Due> {
    let name = &reference.name;
    let forms = forms(around, name);
    let told: Vec<Report<'_>> = forms.keys().map(|director| report(around, director)).collect();
    let members: Vec<MemberStatus> =
        object.spec.members.iter().map(|member| status_of(around, &member.director, name)).collect();
    let active: Vec<String> =
        members.iter().filter(|one| one.state == VrrpState::Active).map(|one| one.director.clone()).collect();
    let mut verdicts: Vec<Verdict> = judged(around, reference).iter().map(Verdict::judged).collect();
    if told.is_empty() {
        verdicts.extend(not_in_force(&verdicts));
    } else {
        verdicts.push(reports::programmed(&told));
        verdicts.push(ready(&told, &active));
        verdicts.extend(degraded(&told, &members));
    }
    let before = object.status.clone().unwrap_or_default();
    let generation = object.metadata.generation;
    let since = if before.active == active { before.since.clone() } else { Some(around.now.clone()) };
    let status = VrrpGroupStatus {
        observed_generation: generation,
        conditions: conditions(verdicts, generation, &before.conditions, &around.now),
        since,
        instances: instances(&forms),
        redundancy: Some(redundancy(&members)),
        active,
        members,
    };
    let timeless = |status: &VrrpGroupStatus| VrrpGroupStatus { conditions: Vec::new(), ..status.clone() };
    if timeless(&before) == timeless(&status) && same_conditions(&before.conditions, &status.conditions) {
        return None;
    }
    let haste = haste(
        (before.observed_generation, &before.conditions),
        (status.observed_generation, &status.conditions),
        reports::settled(&told),
    );
    let mut news = news(&before.conditions, &status.conditions);
    if before.active != status.active && !status.active.is_empty() {
        let note = format!("{} has the addresses", status.active.join(" and "));
        news.push(News { warning: status.active.len() > 1, reason: "ActiveChanged".into(), note });
    }
    Some(Due { haste, write: write(reference, &object.metadata, &before, &status), news })
}

/// What each member has to do for the group.
fn forms<'a>(around: &Surroundings<'a>, name: &str) -> BTreeMap<&'a str, &'a DirectorVrrpGroup> {
    let form = |(director, node): (&'a String, &'a bascule_compile::NodeConfig)| {
        Some((director.as_str(), node.director.vrrp.iter().find(|form| form.name == name)?))
    };
    around.compiled.nodes.iter().filter_map(form).collect()
}

/// What a director's agent says of the machine.
pub(super) fn report<'a>(around: &Surroundings<'a>, director: &'a str) -> Report<'a> {
    let config = around.index.config(director);
    let status = config.and_then(|config| config.status.as_ref());
    let wanted = around.compiled.nodes.get(director).map(|node| &node.director);
    let current = config.zip(status).is_some_and(|(config, status)| {
        wanted == Some(&config.spec) && status.observed_generation == config.metadata.generation
    });
    Report {
        director,
        life: (around.life)(director),
        current,
        conditions: status.map_or(&[], |status| status.conditions.as_slice()),
        refused: (around.refused)(Kind::DirectorConfig, &Place::cluster(director)),
    }
}

/// A member as it was last heard of.
fn status_of(around: &Surroundings<'_>, director: &str, group: &str) -> MemberStatus {
    let unknown = |why: String| MemberStatus {
        director: director.to_owned(),
        state: VrrpState::Unknown,
        priority: None,
        last_transition: None,
        reason: Some(why.chars().take(128).collect()),
    };
    if let Life::Unknown(why) = (around.life)(director) {
        return unknown(why);
    }
    let status = around.index.config(director).and_then(|config| config.status.as_ref());
    let state = status.and_then(|status| status.vrrp.iter().find(|one| one.group == group));
    let Some(GroupState { state, priority, last_transition, reason, group: _ }) = state else {
        return unknown("its agent has not reported this group yet".into());
    };
    MemberStatus {
        director: director.to_owned(),
        state: *state,
        priority: Some(*priority),
        last_transition: last_transition.clone(),
        reason: reason.clone(),
    }
}

/// The ids in force: the same on every member.
fn instances(forms: &BTreeMap<&str, &DirectorVrrpGroup>) -> Vec<InstanceStatus> {
    let instances = forms.values().next().map(|form| form.instances.as_slice()).unwrap_or_default();
    let status = |one: &bascule_crds::vrrp_group::Instance| {
        Some(InstanceStatus { name: one.name.clone(), virtual_router_id: one.virtual_router_id? })
    };
    instances.iter().filter_map(status).collect()
}

/// How many may fail until nobody is left who has the addresses or could take them.
fn redundancy(members: &[MemberStatus]) -> u32 {
    let able = members.iter().filter(|one| matches!(one.state, VrrpState::Active | VrrpState::Backup));
    u32::try_from(able.count().saturating_sub(1)).unwrap_or(u32::MAX)
}

/// Whether exactly one has the addresses.
fn ready(told: &[Report<'_>], active: &[String]) -> Verdict {
    let verdict = match active {
        [_] => Verdict::new("Ready", Truth::True, "Ready", ""),
        [] if told.iter().all(|one| one.life != Life::Alive) => reports::ready(told),
        [] => Verdict::new("Ready", Truth::False, "NoActive", "no director that reports has the addresses"),
        several => Verdict::new(
            "Ready",
            Truth::False,
            "SeveralActive",
            format!(
                "{} say that they have the addresses: they do not hear each other",
                several.join(" and ")
            ),
        ),
    };
    Verdict { earlier: !reports::settled(told), ..verdict }
}

/// What works with less than there should be.
fn degraded(told: &[Report<'_>], members: &[MemberStatus]) -> Option<Verdict> {
    if let Some(verdict) = reports::degraded(told) {
        return Some(verdict);
    }
    let fault = members.iter().find(|one| one.state == VrrpState::Fault)?;
    let reason = fault.reason.as_deref().unwrap_or("it does not say why");
    Some(Verdict::new("Degraded", Truth::True, "MemberFault", format!("{}: {reason}", fault.director)))
}
