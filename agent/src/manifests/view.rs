//! What the manifests say, for whoever asks: the status, the metrics.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use bascule_compile::{BindingKey, ConditionType};
use bascule_crds::{NatRuleBindingSpec, VirtualServiceBindingSpec};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::engine::Engine;
use super::problem::Problem;

/// The figures, kept up to date with every change.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Of the newest update handed to the reconciler.
    pub serial: u64,
    /// Whether any configuration was handed over.
    pub started: bool,
    /// Files in the directory.
    pub files: usize,
    /// Objects in force.
    pub objects: usize,
    /// Problems.
    pub problems: usize,
    /// Why the directory as a whole cannot be used, if so.
    pub lost: Option<String>,
}

/// A condition, as Kubernetes has them, without times.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// `Accepted`, `ResolvedRefs`, `Programmed`, `Ready`.
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False`, `Unknown`.
    pub status: String,
    /// One word.
    pub reason: String,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// An object of the manifests.
#[derive(Clone, Debug)]
pub struct ObjectView {
    /// As `VirtualService tp/web`.
    pub object: String,
    /// The file, with the directory as it was given.
    pub file: String,
    /// Its line there.
    pub line: usize,
    /// What is in force is the last good form, not what the file says now.
    pub last_good: bool,
    /// Its part of this director's configuration.
    pub binding: Option<BindingKey>,
    /// Its part of this director's configuration, of a NatRule.
    pub rule: Option<BindingKey>,
    /// This director has to do something for it: a binding, or a membership.
    pub ours: bool,
    /// Serial of the newest update that concerned it.
    pub told: u64,
    /// What compiling says.
    pub conditions: Vec<Condition>,
}

/// Everything that the manifests say.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The directory.
    pub directory: String,
    /// This machine's name.
    pub director: String,
    /// Directors that the manifests name.
    pub named: Vec<String>,
    /// Of the newest update handed to the reconciler.
    pub serial: u64,
    /// Files in the directory.
    pub files: usize,
    /// Objects in force.
    pub in_force: usize,
    /// SHA-256 over all objects in force; the same on two machines that are told the same.
    pub digest: String,
    /// Why the directory as a whole cannot be used, if so.
    pub lost: Option<String>,
    /// The objects.
    pub objects: Vec<ObjectView>,
    /// What this director has to do.
    pub bindings: BTreeMap<BindingKey, Arc<VirtualServiceBindingSpec>>,
    /// What is missing or left out of the endpoints of their Services.
    pub remarks: BTreeMap<BindingKey, String>,
    /// What this director has to do for NatRules.
    pub nat_rules: BTreeMap<BindingKey, Arc<NatRuleBindingSpec>>,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// What else there is to say.
    pub notes: Vec<String>,
}

impl View {
    /// As the engine has it.
    pub fn of(engine: &Engine, director: &str, directory: &Path) -> Self {
        let last_good: std::collections::BTreeSet<_> = engine.catalog.last_good().collect();
        let problems = engine.problems();
        let mut objects: Vec<_> = engine
            .catalog
            .active()
            .map(|(reference, active)| {
                let conditions =
                    engine.compiled().conditions.get(reference).map(Vec::as_slice).unwrap_or_default();
                ObjectView {
                    object: reference.to_string(),
                    file: engine.catalog.path(&active.file),
                    line: active.line,
                    last_good: engine.keeps_last_good(reference) || last_good.contains(reference),
                    binding: engine.binding_key(reference),
                    rule: engine.rule_key(reference),
                    ours: engine.is_ours(reference),
                    told: 0,
                    conditions: conditions.iter().map(condition).collect(),
                }
            })
            .collect();
        accept(&mut objects, engine, &problems);
        View {
            directory: directory.display().to_string(),
            director: director.to_owned(),
            named: engine.named().iter().cloned().collect(),
            in_force: engine.catalog.active_count(),
            digest: digest(engine),
            lost: engine.catalog.lost().map(|problem| problem.message.clone()),
            objects,
            bindings: engine.config().map(|node| node.bindings).unwrap_or_default(),
            remarks: engine.remarks(),
            nat_rules: engine
                .compiled()
                .nodes
                .get(director)
                .map(|node| node.nat_rules.clone())
                .unwrap_or_default(),
            problems,
            ..View::default()
        }
    }
}

fn condition(from: &bascule_compile::Condition) -> Condition {
    let type_ = match from.type_ {
        ConditionType::Accepted => "Accepted",
        ConditionType::ResolvedRefs => "ResolvedRefs",
    };
    Condition {
        type_: type_.into(),
        status: if from.status { "True" } else { "False" }.into(),
        reason: format!("{:?}", from.reason),
        // What is fine needs no words, ten thousand times.
        message: if from.status { String::new() } else { from.message.clone() },
    }
}

/// Has the objects that were never valid listed too, and those that turned invalid say so.
fn accept(objects: &mut Vec<ObjectView>, engine: &Engine, problems: &[Problem]) {
    let mut by_object: BTreeMap<&str, Vec<&Problem>> = BTreeMap::new();
    // What an object names and is not there has a condition of its own.
    let elsewhere = [
        "Duplicate",
        "VrrpGroupNotFound",
        "VrrpGroupNotAccepted",
        "AddressNotInGroup",
        "HealthCheckNotFound",
        "HealthCheckNotUsable",
        "VirtualServiceNotFound",
        "VirtualServiceNotUsable",
    ];
    for problem in problems.iter().filter(|problem| !elsewhere.contains(&problem.reason.as_str())) {
        if let Some(object) = &problem.object {
            by_object.entry(object).or_default().push(problem);
        }
    }
    let refused = |problems: &[&Problem]| {
        let words = problems.iter().take(8).map(|one| match &one.field {
            Some(field) if !field.is_empty() => format!("{field}: {}", one.message),
            _ => one.message.clone(),
        });
        Condition {
            type_: "Accepted".into(),
            status: "False".into(),
            reason: problems.first().map(|one| one.reason.clone()).unwrap_or_default(),
            message: words.collect::<Vec<_>>().join("; "),
        }
    };
    for view in objects.iter_mut() {
        let Some(problems) = by_object.get(view.object.as_str()) else { continue };
        match view.conditions.iter_mut().find(|condition| condition.type_ == "Accepted") {
            Some(condition) => *condition = refused(problems),
            None => view.conditions.insert(0, refused(problems)),
        }
    }
    for reference in engine.catalog.never_good() {
        let object = reference.to_string();
        let Some(problems) = by_object.get(object.as_str()) else { continue };
        let Some(first) = problems.first() else { continue };
        objects.push(ObjectView {
            file: first.file.clone(),
            line: first.line.unwrap_or(1),
            last_good: false,
            binding: None,
            rule: None,
            ours: false,
            told: 0,
            conditions: vec![refused(problems)],
            object,
        });
    }
    objects.sort_by(|a, b| a.object.cmp(&b.object));
}

/// SHA-256 over the objects in force, in their order, files and lines left out.
fn digest(engine: &Engine) -> String {
    let mut hasher = Sha256::new();
    for (reference, active) in engine.catalog.active() {
        hasher.update(reference.to_string());
        hasher.update([0]);
        hasher.update(active.json.as_bytes());
        hasher.update([0]);
    }
    hasher.finalize().iter().fold("sha256:".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
