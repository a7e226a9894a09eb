//! Directors: whether each is there, and what it has to do.

use bascule_compile::OutOfService;
use bascule_crds::ObjectRef;
use bascule_crds::common::Condition;
use bascule_crds::director::{Director, DirectorStatus};
use bascule_crds::vrrp_group::VrrpState;

use super::conditions::conditions;
use super::group::report;
use super::plain::not_in_force;
use super::reports::{self, Life};
use super::{Due, Haste, News, Surroundings, Truth, Verdict, haste, judged, news, same_conditions, write};

pub(super) fn due(around: &Surroundings<'_>, reference: &ObjectRef, object: &Director) -> Option<Due> {
    let name = &reference.name;
    let node = around.compiled.nodes.get_key_value(name);
    let told: Vec<_> = node.iter().map(|(name, _)| report(around, name)).collect();
    let mut verdicts: Vec<Verdict> = judged(around, reference).iter().map(Verdict::judged).collect();
    if told.is_empty() {
        verdicts.extend(not_in_force(&verdicts));
    } else {
        verdicts.extend(reports::verdicts(&told).into_iter().filter(|one| one.type_ != "QuorumMet"));
    }
    verdicts.extend(maintenance(around, name));
    let before = object.status.clone().unwrap_or_default();
    let generation = object.metadata.generation;
    let alive = told.iter().all(|one| one.life == Life::Alive);
    let says = around.index.config(name).and_then(|config| config.status.as_ref());
    let active = says
        .filter(|_| alive)
        .map(|says| says.vrrp.iter().filter(|one| one.state == VrrpState::Active).count());
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let status = DirectorStatus {
        observed_generation: generation,
        conditions: conditions(verdicts, generation, &before.conditions, &around.now),
        agent_version: says.and_then(|says| says.agent_version.clone()),
        kernel: says.and_then(|says| says.kernel.clone()),
        failure_domain: around.compiled.machines.get(name).and_then(|machine| machine.failure_domain.clone()),
        virtual_services: node.map(|(_, node)| number(node.bindings.len())),
        nat_rules: node.map(|(_, node)| number(node.nat_rules.len())),
        active_groups: active.map(number),
    };
    let timeless = |status: &DirectorStatus| DirectorStatus { conditions: Vec::new(), ..status.clone() };
    let same = same_conditions(&before.conditions, &status.conditions);
    if same && timeless(&before) == timeless(&status) {
        return None;
    }
    let mut haste = haste(
        (before.observed_generation, &before.conditions),
        (status.observed_generation, &status.conditions),
        reports::settled(&told),
    );
    // How many services it has changes with every one of them.
    if haste == Haste::Soon && same {
        haste = Haste::Late;
    }
    let mut news = news(&before.conditions, &status.conditions);
    news.extend(turned(&before.conditions, &status.conditions));
    Some(Due { haste, write: write(reference, &object.metadata, &before, &status), news })
}

/// That it is out of service, while it is.
fn maintenance(around: &Surroundings<'_>, name: &str) -> Option<Verdict> {
    let out = around.compiled.machines.get(name)?.out?;
    let why = match out {
        OutOfService::Maintenance => "spec.maintenance is enabled",
        OutOfService::Cordoned => "its Node is cordoned",
        OutOfService::Excluded => {
            "its Node has the label node.kubernetes.io/exclude-from-external-load-balancers"
        }
    };
    let forms = around.compiled.nodes.get(name).map(|node| node.director.vrrp.as_slice()).unwrap_or_default();
    let staying: Vec<&str> =
        forms.iter().filter(|form| !form.stands_by).map(|form| form.name.as_str()).collect();
    let stays = if staying.is_empty() {
        String::new()
    } else {
        format!("; {} stays a member as ever: no other one is in service", staying.join(", "))
    };
    Some(Verdict::new(
        "Maintenance",
        Truth::True,
        out.as_str(),
        format!("{why}: its groups move away{stays}"),
    ))
}

/// An event when it goes out of service, or comes back.
fn turned(before: &[Condition], after: &[Condition]) -> Option<News> {
    let find = |conditions: &[Condition]| conditions.iter().find(|one| one.type_ == "Maintenance").cloned();
    let event =
        |reason: &str, note: &str| News { warning: false, reason: reason.to_owned(), note: note.to_owned() };
    match (find(before), find(after)) {
        (None, Some(now)) => Some(event(&now.reason, &now.message)),
        (Some(was), Some(now)) if was.reason != now.reason => Some(event(&now.reason, &now.message)),
        (Some(_), None) => Some(event("InService", "it is in service again")),
        _ => None,
    }
}
