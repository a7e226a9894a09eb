//! What is said in the statuses of users' objects: pure. Compiling says whether an object is accepted, the agents say in the statuses of
//! bindings and DirectorConfigs what became of it on each director; here that becomes one answer.

mod conditions;
mod director;
mod group;
mod nat_rule;
mod plain;
mod reports;
mod service;
#[cfg(test)]
mod tests;

use bascule_compile::{Compiled, Condition as Judged};
use bascule_crds::common::{API_VERSION, Condition};
use bascule_crds::{Kind, Object, ObjectRef};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::Serialize;
use serde_json::{Value, json};

use crate::index::{Index, Place};
use crate::plan::{Action, Difference, Part, Target, Write};

pub use conditions::{Truth, Verdict};
pub use reports::{Life, Report};

/// Where everything stands that a status is made of.
pub struct Surroundings<'a> {
    /// What is watched.
    pub index: &'a Index,
    /// What it means.
    pub compiled: &'a Compiled,
    /// Whether a director's agent lives.
    pub life: &'a dyn Fn(&str) -> Life,
    /// Why the API server refuses a binding or DirectorConfig, if it does.
    pub refused: &'a dyn Fn(Kind, &Place) -> Option<String>,
    /// Now, for what changes now.
    pub now: Time,
}

/// How soon a status has to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Haste {
    /// It answers the user: at once.
    Now,
    /// It is what agents say, and all of them have said it: as soon as what comes together has come.
    Soon,
    /// Some agents have yet to speak of what was written for them last: their words are waited for, so that there is one answer.
    Settling,
    /// Figures that nobody waits for.
    Late,
}

/// A status that differs from the one that is there.
#[derive(Clone, Debug, PartialEq)]
pub struct Due {
    /// How soon it is to be written.
    pub haste: Haste,
    /// The write.
    pub write: Write,
    /// What is worth an event, if it is written.
    pub news: Vec<News>,
}

/// Something worth an event on the object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// Whether it is bad.
    pub warning: bool,
    /// One word.
    pub reason: String,
    /// For people.
    pub note: String,
}

/// The status that an object should have, if it has another one.
pub fn due(around: &Surroundings<'_>, reference: &ObjectRef) -> Option<Due> {
    let object = around.index.user(reference)?;
    match object {
        Object::VirtualService(object) => service::due(around, reference, object),
        Object::VrrpGroup(object) => group::due(around, reference, object),
        Object::Director(object) => director::due(around, reference, object),
        Object::HealthCheck(object) => plain::health_check(around, reference, object),
        Object::NatRule(object) => nat_rule::due(around, reference, object),
        Object::EndpointSlice(_) => None,
    }
}

/// What compiling says of an object.
fn judged<'a>(around: &Surroundings<'a>, reference: &ObjectRef) -> &'a [Judged] {
    around.compiled.conditions.get(reference).map_or(&[], Vec::as_slice)
}

/// The conditions that the operator writes. Others may have theirs beside: an apply leaves them.
const OURS: [&str; 7] =
    ["Accepted", "ResolvedRefs", "Programmed", "Ready", "QuorumMet", "Degraded", "Maintenance"];

/// Whether the conditions say the same, wherever they stand.
fn same_conditions(before: &[Condition], after: &[Condition]) -> bool {
    let ours: Vec<_> = before.iter().filter(|one| OURS.contains(&one.type_.as_str())).collect();
    let find = |type_: &str| ours.iter().find(|one| one.type_ == type_);
    ours.len() == after.len() && after.iter().all(|one| find(&one.type_) == Some(&one))
}

/// What compiling decides: users wait for it.
fn answers(conditions: &[Condition]) -> Vec<&Condition> {
    conditions.iter().filter(|one| matches!(one.type_.as_str(), "Accepted" | "ResolvedRefs")).collect()
}

/// How soon, from what changed.
fn haste(before: (Option<i64>, &[Condition]), after: (Option<i64>, &[Condition]), settled: bool) -> Haste {
    let answered = before.0 == after.0 && answers(before.1) == answers(after.1);
    match (answered, settled) {
        (false, _) => Haste::Now,
        (true, true) => Haste::Soon,
        (true, false) => Haste::Settling,
    }
}

/// An event for each condition that turned bad, or well again.
fn news(before: &[Condition], after: &[Condition]) -> Vec<News> {
    let find = |type_: &str| before.iter().find(|one| one.type_ == type_);
    let told =
        |one: &&Condition| matches!(one.type_.as_str(), "Accepted" | "ResolvedRefs" | "Ready" | "Degraded");
    let mut news = Vec::new();
    for condition in after.iter().filter(told) {
        let was = find(&condition.type_).map_or("", |was| was.status.as_str());
        let good = if condition.type_ == "Degraded" { "False" } else { "True" };
        let (bad, was_bad) = (opposite(good), was == opposite(good));
        if condition.status == bad && !was_bad {
            let note = format!("{}: {}", condition.type_, condition.message);
            news.push(News { warning: true, reason: condition.reason.clone(), note });
        } else if condition.status == good && was_bad {
            let note = format!("{} is {}", condition.type_, condition.status);
            news.push(News { warning: false, reason: condition.reason.clone(), note });
        }
    }
    news
}

fn opposite(status: &str) -> &'static str {
    if status == "True" { "False" } else { "True" }
}

/// The write that makes of one status another one: an apply, or the removal of what an apply leaves because somebody else wrote it.
fn write<S: Serialize>(reference: &ObjectRef, meta: &ObjectMeta, before: &S, after: &S) -> Write {
    let place = Place::from(reference);
    let target = Target { kind: reference.kind, place: place.clone(), part: Part::Status };
    let value = |status: &S| serde_json::to_value(status).unwrap_or_default();
    let (before, after) = (value(before), value(after));
    if let Some(version) = &meta.resource_version
        && let Some(pointers) = only_surplus(&before, &after)
    {
        return Write { target, action: Action::Strip { version: version.clone(), pointers } };
    }
    let mut metadata = json!({"name": place.name, "uid": meta.uid});
    if reference.kind.is_namespaced() {
        metadata["namespace"] = Value::String(place.namespace);
    }
    let body =
        json!({"apiVersion": API_VERSION, "kind": reference.kind, "metadata": metadata, "status": after});
    Write { target, action: Action::Apply(body) }
}

/// What is there and should not be, where nothing else is wrong: JSON pointers, in an order in which they can be removed. Others' conditions
/// may be there.
fn only_surplus(before: &Value, after: &Value) -> Option<Vec<String>> {
    let without = |status: &Value| {
        let mut status = status.clone();
        let conditions = status.as_object_mut().and_then(|status| status.remove("conditions"));
        let conditions = conditions.and_then(|conditions| conditions.as_array().cloned());
        (status, conditions.unwrap_or_default())
    };
    let ((before, was), (after, is)) = (without(before), without(after));
    let Difference { lacks, mut surplus } = Difference::of(&before, &after, "/status");
    let ours = |one: &Value| one["type"].as_str().is_some_and(|type_| OURS.contains(&type_));
    let gone = was
        .iter()
        .enumerate()
        .rev()
        .filter(|(_, one)| ours(one) && !is.iter().any(|other| other["type"] == one["type"]));
    surplus.extend(gone.map(|(at, _)| format!("/status/conditions/{at}")));
    let lacks = lacks || is.iter().any(|one| !was.contains(one));
    (!lacks && !surplus.is_empty()).then_some(surplus)
}
