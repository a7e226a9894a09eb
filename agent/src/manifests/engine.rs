//! Changes of files become changes of the configuration: the catalog, then compile. Pure but for reading a file once
//! more to find a line.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use bascule_compile::{
    BindingKey, Change as Compile, CheckKey, Compiled, Compiler, ConditionType, Delta, NodeConfig, NodeDelta,
    Reason, Trust, is_refused_whole,
};
use bascule_crds::{DirectorConfigSpec, HealthCheckSpec, Kind, Object, ObjectRef, VirtualServiceBindingSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::catalog::{Catalog, Change, Put};
use super::disk::FileName;
use super::examine::decode;
use super::problem::{Effect, Problem};
use crate::endpoints::{self, Endpoints, Slice};
use crate::reconcile::ConfigChange;
use crate::state::Saved;

/// Finds the line of a field of an object in its file.
pub trait Locate {
    /// The line, or none when the file does not have the object any more.
    fn line(&self, file: &str, reference: &ObjectRef, field: &str) -> Option<usize>;
}

/// From files to a director's configuration.
#[derive(Debug)]
pub struct Engine {
    /// What the files say.
    pub catalog: Catalog,
    compiler: Compiler,
    director: String,
    /// The canonical JSON of what is in force: what the file says or, where that collides with another object, the last
    /// form that did not.
    accepted: BTreeMap<ObjectRef, Arc<str>>,
    /// The HealthChecks in force.
    checks: BTreeMap<CheckKey, Arc<HealthCheckSpec>>,
    /// What becomes of bindings that name a Service.
    endpoints: Endpoints,
    /// Directors that an object named since the start.
    named: BTreeSet<String>,
    /// Problems as last told, by what they are about.
    told: BTreeMap<About, Vec<Problem>>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum About {
    File(FileName),
    Object(ObjectRef),
}

/// The key of a HealthCheck; none for other kinds.
fn check_key(reference: &ObjectRef) -> Option<CheckKey> {
    let namespace = reference.namespace.as_deref()?;
    (reference.kind == Kind::HealthCheck).then(|| CheckKey::new(namespace, &reference.name))
}

/// The directors that the object names.
pub(super) fn directors_of(object: &Object) -> Vec<&str> {
    match object {
        Object::VirtualService(service) => {
            service.spec.director.iter().map(|placement| placement.name.as_str()).collect()
        }
        Object::VrrpGroup(group) => {
            group.spec.members.iter().map(|member| member.director.as_str()).collect()
        }
        Object::Director(director) => director.metadata.name.iter().map(String::as_str).collect(),
        Object::NatRule(rule) => rule.spec.director.iter().map(String::as_str).collect(),
        Object::HealthCheck(_) | Object::EndpointSlice(_) => Vec::new(),
    }
}

/// Whether a group of the director tracks the check.
fn tracks(director: &DirectorConfigSpec, check: &CheckKey) -> bool {
    let tracked = director.vrrp.iter().filter_map(|group| group.track.as_ref());
    tracked
        .flat_map(|track| &track.health_checks)
        .any(|one| *one.namespace == *check.namespace && *one.name == *check.name)
}

/// What one step changed.
#[derive(Debug, Default)]
pub struct Step {
    /// For the reconciler; none when nothing changed for this director.
    pub config: Option<ConfigChange>,
    /// The HealthChecks that came or changed; none where one is gone.
    pub checks: BTreeMap<CheckKey, Option<Arc<HealthCheckSpec>>>,
    /// Objects that changed: how many were put and deleted.
    pub put: usize,
    /// Objects that went.
    pub deleted: usize,
    files: BTreeSet<FileName>,
    conditions: BTreeSet<ObjectRef>,
    moved: Vec<ObjectRef>,
}

/// What became of the problems and of the last good configuration in a step.
#[derive(Debug, Default)]
pub struct Aftermath {
    /// Problems that were not there before.
    pub appeared: Vec<Problem>,
    /// Problems that are no more.
    pub resolved: Vec<Problem>,
    /// For the last good configuration.
    pub saved: Vec<(String, Option<Saved>)>,
}

impl Engine {
    /// For one director and files in a directory. `also` are directors that exist besides.
    pub fn new(
        directory: impl Into<PathBuf>,
        director: &str,
        also: impl IntoIterator<Item = String>,
    ) -> Self {
        let mut compiler = Compiler::new(Trust::Files);
        compiler.declare_director(director);
        for name in also {
            compiler.declare_director(&name);
        }
        // So that the director has a configuration, an empty one, before there is any object.
        compiler.apply([]);
        Self {
            catalog: Catalog::new(directory),
            compiler,
            director: director.to_owned(),
            accepted: BTreeMap::new(),
            checks: BTreeMap::new(),
            endpoints: Endpoints::new(director),
            named: BTreeSet::new(),
            told: BTreeMap::new(),
        }
    }

    /// Goes on with the last good configuration. Returns what cannot be used, for people.
    pub fn remember(&mut self, objects: BTreeMap<String, Saved>) -> Vec<String> {
        let mut notes = Vec::new();
        let mut put = BTreeMap::new();
        for (key, Saved { file, line, source, json }) in objects {
            let Some(object) = decode(&json) else {
                notes.push(format!(
                    "{key} of the last good configuration is not understood by this version: left out"
                ));
                continue;
            };
            let reference = object.reference();
            self.catalog.remember(file, line, reference.clone(), source, json);
            put.insert(reference, object);
        }
        // Handed over with the object at hand, so that nothing is decoded twice.
        let mut changes = self.catalog.take();
        for (reference, change) in &mut changes.objects {
            if let Change::Put(change) = change {
                change.object = put.remove(reference).map(Box::new);
            }
        }
        let delta = self.carry_out(changes.objects, &mut Step::default());
        self.follow_endpoints(&delta);
        notes
    }

    /// Carries the catalog's changes through compile. What is in [`Step::config`] goes to the reconciler first; then
    /// [`Engine::follow_up`].
    pub fn step(&mut self) -> Step {
        let changes = self.catalog.take();
        let mut step = Step { files: changes.files, ..Step::default() };
        let delta = self.carry_out(changes.objects, &mut step);
        step.config = self.config_change(&delta);
        step
    }

    fn carry_out(&mut self, changes: BTreeMap<ObjectRef, Change>, step: &mut Step) -> Delta {
        let mut batch = Vec::with_capacity(changes.len());
        for (reference, change) in changes {
            match change {
                Change::Delete => {
                    step.deleted += 1;
                    self.put_slice(&reference, None);
                    self.accepted.remove(&reference);
                    if let Some(check) = check_key(&reference)
                        && self.checks.remove(&check).is_some()
                    {
                        step.checks.insert(check, None);
                    }
                    step.conditions.insert(reference.clone());
                    batch.push(Compile::Delete(reference));
                }
                Change::Put(Put { moved_only: true, .. }) => step.moved.push(reference),
                Change::Put(Put { json, object, .. }) => {
                    // Canonical JSON is what this version wrote or decoded before.
                    let Some(object) = object.map(|object| *object).or_else(|| decode(&json)) else {
                        continue;
                    };
                    step.put += 1;
                    for director in directors_of(&object) {
                        if !self.named.contains(director) {
                            self.named.insert(director.to_owned());
                        }
                    }
                    match &object {
                        Object::HealthCheck(check) => self.put_check(&reference, &check.spec, step),
                        Object::EndpointSlice(slice) => self.put_slice(&reference, Some(slice)),
                        _ => {}
                    }
                    step.conditions.insert(reference);
                    batch.push(Compile::Put(object));
                }
            }
        }
        if batch.is_empty() {
            return Delta::default();
        }
        let delta = self.compiler.apply(batch);
        step.conditions.extend(delta.conditions.iter().cloned());
        for reference in &step.conditions {
            self.note_accepted(reference);
        }
        delta
    }

    fn put_check(&mut self, reference: &ObjectRef, spec: &HealthCheckSpec, step: &mut Step) {
        let Some(key) = check_key(reference) else { return };
        // A label is no reason to probe anew.
        if self.checks.get(&key).is_some_and(|known| **known == *spec) {
            return;
        }
        let spec = Arc::new(spec.clone());
        self.checks.insert(key.clone(), Arc::clone(&spec));
        step.checks.insert(key, Some(spec));
    }

    /// Takes in an EndpointSlice, none when it is gone. One that cannot be used has been refused before.
    fn put_slice(&mut self, reference: &ObjectRef, slice: Option<&EndpointSlice>) {
        let Some(namespace) = reference.namespace.as_deref() else { return };
        if reference.kind != Kind::EndpointSlice {
            return;
        }
        let slice = slice.and_then(|slice| {
            let service = endpoints::service_of(slice.metadata.labels.as_ref())?;
            Slice::of(service, slice).ok().map(Arc::new)
        });
        self.endpoints.set_slice(namespace, &reference.name, slice);
    }

    /// Notes which form of an object is in force, its own change or another one's being the cause.
    fn note_accepted(&mut self, reference: &ObjectRef) {
        let Some(active) = self.catalog.active_of(reference) else { return };
        if self.compiler.keeps_last_good(reference) {
            // The same text came to collide by a change of what it names: no text says what is in force.
            if self.accepted.get(reference) == Some(&active.json) {
                self.accepted.remove(reference);
            }
        } else if self.collides(reference) {
            self.accepted.remove(reference);
        } else {
            self.accepted.insert(reference.clone(), active.json.clone());
        }
    }

    fn collides(&self, reference: &ObjectRef) -> bool {
        self.compiled().conditions.get(reference).into_iter().flatten().any(|one| {
            one.type_ == ConditionType::Accepted && !one.status && one.reason == Reason::Conflicted
        })
    }

    /// Has the real servers of bindings follow the endpoints of their Services; returns the bindings that came out different.
    fn follow_endpoints(&mut self, delta: &Delta) -> BTreeSet<BindingKey> {
        if let Some(node) = delta.nodes.get(&self.director) {
            let config = self.compiler.compiled().nodes.get(&self.director);
            if let Some(config) = config.filter(|_| node.director) {
                self.endpoints.set_director(&config.director);
            }
            for key in &node.bindings {
                self.endpoints.set_binding(key, config.and_then(|config| config.bindings.get(key)));
            }
        }
        self.endpoints.settle()
    }

    fn config_change(&mut self, delta: &Delta) -> Option<ConfigChange> {
        let followed = self.follow_endpoints(delta);
        let (none, node) = (NodeDelta::default(), delta.nodes.get(&self.director));
        if node.is_none() && followed.is_empty() {
            return None;
        }
        let node = node.unwrap_or(&none);
        let config = self.compiler.compiled().nodes.get(&self.director)?;
        let bindings: BTreeSet<_> = node.bindings.iter().chain(&followed).collect();
        Some(ConfigChange::Some {
            director: node.director.then(|| config.director.clone()),
            bindings: bindings.into_iter().map(|key| (key.clone(), self.binding(config, key))).collect(),
            nat_rules: node
                .nat_rules
                .iter()
                .map(|key| (key.clone(), config.nat_rules.get(key).cloned()))
                .collect(),
        })
    }

    /// A binding of this director, with its real servers.
    fn binding(&self, config: &NodeConfig, key: &BindingKey) -> Option<Arc<VirtualServiceBindingSpec>> {
        let compiled = config.bindings.get(key)?;
        Some(Arc::clone(self.endpoints.resolved(key).unwrap_or(compiled)))
    }

    /// The whole configuration of this director.
    pub fn config(&self) -> Option<NodeConfig> {
        let mut config = self.compiled().nodes.get(&self.director).cloned()?;
        for (key, spec) in &mut config.bindings {
            if let Some(resolved) = self.endpoints.resolved(key) {
                *spec = Arc::clone(resolved);
            }
        }
        Some(config)
    }

    /// What is missing or left out of the endpoints of Services, by the binding that names them.
    pub fn remarks(&self) -> BTreeMap<BindingKey, String> {
        self.endpoints.remarks().map(|(key, remarks)| (key.clone(), remarks.join("; "))).collect()
    }

    /// The HealthChecks in force. One that turned invalid is there in its last good form.
    pub fn checks(&self) -> &BTreeMap<CheckKey, Arc<HealthCheckSpec>> {
        &self.checks
    }

    /// What compile made of all of it.
    pub fn compiled(&self) -> &Compiled {
        self.compiler.compiled()
    }

    /// Directors that manifests name.
    pub fn named(&self) -> &BTreeSet<String> {
        &self.named
    }

    /// Whether an object's last good form is in force because the newer one collides.
    pub fn keeps_last_good(&self, reference: &ObjectRef) -> bool {
        self.compiler.keeps_last_good(reference)
    }

    /// Whether this director has to do something for the object.
    pub fn is_ours(&self, reference: &ObjectRef) -> bool {
        match reference.kind {
            Kind::VrrpGroup => {
                let config = self.compiled().nodes.get(&self.director);
                config.is_some_and(|node| node.director.vrrp.iter().any(|group| group.name == reference.name))
            }
            Kind::HealthCheck => check_key(reference).is_some_and(|check| {
                let config = self.compiled().nodes.get(&self.director);
                config.is_some_and(|node| {
                    self.compiler.checked_by(&check).any(|service| node.bindings.contains_key(service))
                        || tracks(&node.director, &check)
                })
            }),
            Kind::EndpointSlice => {
                let namespace = reference.namespace.as_deref().unwrap_or_default();
                self.endpoints.is_slice_followed(namespace, &reference.name)
            }
            _ => self.binding_key(reference).is_some() || self.rule_key(reference).is_some(),
        }
    }

    /// The binding of a VirtualService on this director.
    pub fn binding_key(&self, reference: &ObjectRef) -> Option<BindingKey> {
        let key = BindingKey::new(reference.namespace.as_deref()?, &reference.name);
        let config = self.compiled().nodes.get(&self.director)?;
        (reference.kind == Kind::VirtualService && config.bindings.contains_key(&key)).then_some(key)
    }

    /// The binding of a NatRule on this director.
    pub fn rule_key(&self, reference: &ObjectRef) -> Option<BindingKey> {
        let key = BindingKey::new(reference.namespace.as_deref()?, &reference.name);
        let config = self.compiled().nodes.get(&self.director)?;
        (reference.kind == Kind::NatRule && config.nat_rules.contains_key(&key)).then_some(key)
    }

    /// The part of a step that the kernel does not have to wait for.
    pub fn follow_up(&mut self, step: &Step, locate: &impl Locate) -> Aftermath {
        let mut aftermath = Aftermath::default();
        for name in &step.files {
            let now = self.catalog.problems_of(name);
            self.tell(About::File(name.clone()), now, &mut aftermath);
        }
        // File by file: each is read at most once for the lines.
        let mut by_file: Vec<_> = step.conditions.iter().chain(&step.moved).collect();
        by_file.sort_by_key(|reference| self.catalog.active_of(reference).map(|active| active.file.clone()));
        for reference in by_file {
            let now = self.problems_of(reference, locate);
            self.tell(About::Object(reference.clone()), now, &mut aftermath);
        }
        for reference in step.conditions.iter().chain(&step.moved) {
            let saved = match (self.accepted.get(reference), self.catalog.active_of(reference)) {
                (Some(json), Some(active)) => {
                    let source = if *json == active.json { active.source } else { 0 };
                    Some(Saved { file: active.file.clone(), line: active.line, source, json: json.clone() })
                }
                _ => None,
            };
            aftermath.saved.push((reference.to_string(), saved));
        }
        // A problem that only changed its place in the list was not resolved.
        aftermath
    }

    fn tell(&mut self, about: About, now: Vec<Problem>, aftermath: &mut Aftermath) {
        let before =
            if now.is_empty() { self.told.remove(&about) } else { self.told.insert(about, now.clone()) };
        let before = before.unwrap_or_default();
        aftermath.appeared.extend(now.iter().filter(|one| !before.contains(one)).cloned());
        aftermath.resolved.extend(before.into_iter().filter(|one| !now.contains(one)));
    }

    /// What compile objects to in an object that is valid by itself, and what that names and is not there.
    fn problems_of(&self, reference: &ObjectRef, locate: &impl Locate) -> Vec<Problem> {
        let Some(active) = self.catalog.active_of(reference) else { return Vec::new() };
        let effect = if self.keeps_last_good(reference) {
            Effect::LastGoodStays
        } else if is_refused_whole(reference.kind) {
            Effect::Ignored
        } else {
            Effect::OthersInForce
        };
        let conditions = self.compiled().conditions.get(reference);
        let problems = conditions.into_iter().flatten().flat_map(|condition| &condition.problems);
        // Another machine's director need not be known here, and that nothing is done for it is no mistake.
        let problems: Vec<_> =
            problems.filter(|problem| problem.reason != Reason::DirectorNotFound).collect();
        let in_force = problems.iter().all(|problem| problem.reason.leaves_in_force());
        let effect = if effect == Effect::Ignored && in_force { Effect::OthersInForce } else { effect };
        problems
            .into_iter()
            .map(|problem| Problem {
                file: self.catalog.path(&active.file),
                line: locate.line(&active.file, reference, &problem.field).or(Some(active.line)),
                object: Some(reference.to_string()),
                field: Some(problem.field.clone()),
                reason: format!("{:?}", problem.reason),
                message: problem.message.clone(),
                effect,
            })
            .collect()
    }

    /// All problems as last told: the directory's first.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<_> = self.told.values().flatten().cloned().collect();
        problems.sort();
        self.catalog.lost().cloned().into_iter().chain(problems).collect()
    }

    /// How many problems there are.
    pub fn problem_count(&self) -> usize {
        self.told.values().map(Vec::len).sum::<usize>() + usize::from(self.catalog.lost().is_some())
    }
}
