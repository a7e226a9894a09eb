//! Keeps what a set of objects means up to date while the objects change, one by one.
//!
//! A change is taken in from the machines to the services: directors first, then the groups that have them as members, then
//! the configuration of each director, then the VirtualServices that use any of it, then the NatRules.

mod conflict;
mod directors;
mod groups;
mod machines;
mod nat_rules;
mod services;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bascule_crds::director::Director;
use bascule_crds::{HealthCheckSpec, Kind, Object, ObjectRef};

use crate::contest::{Contest, Form, Precedence};
use crate::groups::{Aliases, Groups, Machines, Wish as GroupWish};
use crate::judge::{self, Placed};
use crate::machine::Machine;
use crate::types::{BindingKey, CheckKey, Compiled, Condition, ConditionType, Delta, NodeConfig};
use crate::{bind, checked, checks};

/// Whose word counts how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// A directory of manifests: one trust domain. When two want the same, what is programmed wins, then the name.
    Files,
    /// A cluster: namespaces are trust domains, a Director says who may use it, and the older object wins.
    Cluster,
}

impl Trust {
    /// Why another object comes first, for people.
    pub(crate) const fn why_first(self) -> &'static str {
        match self {
            Trust::Files => "it was there first, or its name comes first",
            Trust::Cluster => "it is older",
        }
    }
}

/// An object came or changed, or went.
#[derive(Clone, Debug)]
pub enum Change {
    /// The object is now this.
    Put(Object),
    /// There is no such object any more.
    Delete(ObjectRef),
}

/// Something that a VirtualService or a NatRule names, and by which it is found when that changes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Named {
    /// A director by its name.
    Director(String),
    /// An interface, or an alias of one, of a director.
    Interface(String, String),
    /// A VrrpGroup.
    VrrpGroup(String),
    /// A HealthCheck.
    HealthCheck(CheckKey),
}

/// The directors there are without asking groups.
struct Declared<'a> {
    names: &'a BTreeSet<String>,
    directors: &'a BTreeMap<String, Box<Director>>,
}

impl Machines for Declared<'_> {
    fn exists(&self, director: &str) -> bool {
        self.names.contains(director) || self.directors.contains_key(director)
    }

    fn aliases(&self, director: &str) -> Option<&Aliases> {
        self.directors.get(director).map(|director| &director.spec.interface_aliases)
    }
}

/// What a call of [`Compiler::apply`] has yet to follow up.
#[derive(Debug, Default)]
struct Todo {
    /// What changed that VirtualServices may name.
    touched: BTreeSet<Named>,
    /// Directors that changed, or may have come or gone.
    directors: BTreeSet<String>,
    /// Directors that may be out of service now, or in service again, or have another failure domain.
    machines: BTreeSet<String>,
    /// Directors whose conditions may be others, though they did not change.
    beside: BTreeSet<String>,
    /// VirtualServices that have or want what is reserved now, or is not any more.
    reached: BTreeSet<BindingKey>,
    /// Groups of which something else may be to be said.
    groups: BTreeSet<Arc<str>>,
    /// Directors that are no more; their nodes go last.
    gone: Vec<String>,
}

/// Compiles incrementally: a change costs what it changes, however many objects there are.
#[derive(Debug)]
pub struct Compiler {
    trust: Trust,
    declared: BTreeSet<String>,
    directors: BTreeMap<String, Box<Director>>,
    /// By its syncId, the directors that synchronise connections.
    syncs: BTreeMap<u8, BTreeSet<String>>,
    groups: Groups,
    services: BTreeMap<BindingKey, services::Known>,
    /// As much of HealthChecks as those have to know who name them.
    checks: BTreeMap<CheckKey, checked::Known>,
    /// Who names it, or has it in force as part of a last good form.
    users: BTreeMap<Named, BTreeSet<BindingKey>>,
    contest: Contest,
    nat: nat_rules::NatRules,
    /// On which directors a binding is now; not empty.
    programmed: BTreeMap<BindingKey, BTreeSet<Arc<str>>>,
    /// What was programmed before the first change.
    remembered: BTreeMap<BindingKey, Placed>,
    /// Directors that were declared since the last [`Compiler::apply`].
    pending: BTreeSet<String>,
    /// What others than manifests know of machines.
    outside: BTreeMap<String, Machine>,
    /// Machines of which something else is known since the last [`Compiler::apply`].
    pending_machines: BTreeSet<String>,
    compiled: Compiled,
    /// How many VirtualServices were looked at since the start.
    evaluated: u64,
}

impl Compiler {
    /// Knows no object yet.
    pub fn new(trust: Trust) -> Compiler {
        Compiler {
            trust,
            declared: BTreeSet::new(),
            directors: BTreeMap::new(),
            syncs: BTreeMap::new(),
            groups: Groups::new(trust),
            services: BTreeMap::new(),
            checks: BTreeMap::new(),
            users: BTreeMap::new(),
            contest: Contest::new(Precedence::of(trust)).with_journal(),
            nat: nat_rules::NatRules::new(trust),
            programmed: BTreeMap::new(),
            remembered: BTreeMap::new(),
            pending: BTreeSet::new(),
            outside: BTreeMap::new(),
            pending_machines: BTreeSet::new(),
            compiled: Compiled::default(),
            evaluated: 0,
        }
    }

    /// Says that a director of this name exists, also when no Director manifest says so. It counts from the next
    /// [`Compiler::apply`] on.
    pub fn declare_director(&mut self, name: &str) {
        if self.declared.insert(name.to_owned()) {
            self.pending.insert(name.to_owned());
        }
    }

    /// Says, before the first [`Compiler::apply`], what has been programmed on a director until now: it stays as long as the
    /// object cannot have what it wants now, and ([`Trust::Files`]) is not lost to one whose name comes first. Of a service or
    /// a group with several directors each is to be told.
    pub fn remember(&mut self, director: &str, node: &NodeConfig) {
        let director: Arc<str> = director.into();
        self.groups.remember(&director, &node.director.vrrp);
        for (key, spec) in &node.bindings {
            self.contest.remember(key.clone(), bind::claims(self.trust, &director, key, spec));
            let placed = self.remembered.entry(key.clone()).or_default();
            placed.insert(Arc::clone(&director), Arc::clone(spec));
        }
        self.nat.remember(self.trust, &director, node);
    }

    /// What all objects mean together.
    pub fn compiled(&self) -> &Compiled {
        &self.compiled
    }

    /// What all objects mean together, when no more changes are to come.
    pub fn into_compiled(self) -> Compiled {
        self.compiled
    }

    /// Takes changes in and says what they changed. All changes of one call count as simultaneous; of several of one object, the
    /// last counts.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>) -> Delta {
        let mut delta = Delta::default();
        let mut last: BTreeMap<ObjectRef, Option<Object>> = BTreeMap::new();
        for change in changes {
            match change {
                Change::Put(object) => last.insert(object.reference(), Some(object)),
                Change::Delete(reference) => last.insert(reference, None),
            };
        }
        let mut services: BTreeMap<BindingKey, Option<services::Wish>> = BTreeMap::new();
        let mut rules: BTreeMap<BindingKey, Option<nat_rules::Wish>> = BTreeMap::new();
        let mut changed_groups: BTreeMap<Arc<str>, Option<GroupWish>> = BTreeMap::new();
        let mut todo = Todo { machines: std::mem::take(&mut self.pending_machines), ..Todo::default() };
        for name in std::mem::take(&mut self.pending) {
            todo.touched.insert(Named::Director(name.clone()));
            todo.directors.insert(name);
        }
        for (reference, object) in last {
            match (reference.kind, object) {
                (_, Some(Object::VirtualService(object))) => {
                    services.insert(key_of(&reference), Some(services::Wish::of(*object)));
                }
                (Kind::VirtualService, _) => {
                    services.insert(key_of(&reference), None);
                }
                (_, Some(Object::NatRule(object))) => {
                    rules.insert(key_of(&reference), Some(nat_rules::Wish::of(*object)));
                }
                (Kind::NatRule, _) => {
                    rules.insert(key_of(&reference), None);
                }
                (_, Some(Object::VrrpGroup(object))) => {
                    changed_groups.insert(reference.name.into(), Some(GroupWish::of(*object)));
                }
                (Kind::VrrpGroup, _) => {
                    changed_groups.insert(reference.name.into(), None);
                }
                (_, Some(Object::Director(object))) => {
                    self.change_director(reference.name, Some(object), &mut todo);
                }
                (Kind::Director, _) => self.change_director(reference.name, None, &mut todo),
                (_, Some(Object::HealthCheck(object))) => {
                    self.change_check(reference, Some(&object.spec), &mut todo.touched, &mut delta);
                }
                (Kind::HealthCheck, _) => {
                    self.change_check(reference, None, &mut todo.touched, &mut delta);
                }
                (_, object) => self.change_slice(reference, object.as_ref(), &mut delta),
            }
        }
        self.change_groups(changed_groups, &mut todo);
        self.change_machines(&mut todo, &mut delta);
        self.change_nodes(&mut todo, &mut delta);
        self.judge_directors(&todo, &mut delta);
        self.change_services(services, &mut todo, &mut delta);
        self.change_nat_rules(rules, &todo, &mut delta);
        self.judge_groups(&todo, &mut delta);
        self.remembered.clear();
        for name in todo.gone {
            self.compiled.nodes.remove(&name);
        }
        delta
    }

    /// Takes in what a HealthCheck says now. Who names it is looked at only when that is another matter for it: bindings name
    /// checks, and most of what a check says is between it and those who run it.
    fn change_check(
        &mut self,
        reference: ObjectRef,
        spec: Option<&HealthCheckSpec>,
        touched: &mut BTreeSet<Named>,
        delta: &mut Delta,
    ) {
        let key = CheckKey::new(reference.namespace.as_deref().unwrap_or("default"), &reference.name);
        let problems = spec.map(checks::problems);
        let known = spec.zip(problems.as_ref()).map(|(spec, problems)| {
            if problems.is_empty() {
                checked::Known::Accepted(checks::Traits::of(spec))
            } else {
                checked::Known::Refused
            }
        });
        let before = match known {
            Some(known) => self.checks.insert(key.clone(), known),
            None => self.checks.remove(&key),
        };
        if before != known {
            touched.insert(Named::HealthCheck(key));
        }
        let conditions = problems.map(|problems| vec![Condition::judge(ConditionType::Accepted, problems)]);
        self.set_conditions(reference, conditions, delta);
    }

    /// Takes in an EndpointSlice. Who serves is found out where it is forwarded to; here it is only looked at.
    fn change_slice(&mut self, reference: ObjectRef, object: Option<&Object>, delta: &mut Delta) {
        let problems = object.filter(|_| self.trust == Trust::Files).map(judge::endpoint_slice);
        let conditions = problems.map(|problems| vec![Condition::judge(ConditionType::Accepted, problems)]);
        self.set_conditions(reference, conditions, delta);
    }

    fn exists(&self, director: &str) -> bool {
        self.declared.contains(director)
            || self.directors.contains_key(director)
            || self.groups.declare(director)
    }

    fn known(&self, named: &Named) -> bool {
        match named {
            Named::Director(name) => self.exists(name),
            // What has no alias is taken for an interface's own name.
            Named::Interface(..) => true,
            Named::VrrpGroup(name) => self.groups.get(name).is_some(),
            Named::HealthCheck(key) => self.checks.contains_key(key),
        }
    }

    /// Whether the object's last good form is in force, because what it wants now is taken by another one.
    pub fn keeps_last_good(&self, reference: &ObjectRef) -> bool {
        match reference.kind {
            Kind::VirtualService => self.contest.form(&key_of(reference)) == Form::LastGood,
            Kind::NatRule => self.nat.keeps_last_good(&key_of(reference)),
            Kind::VrrpGroup => self.groups.keeps_last_good(&reference.name),
            _ => false,
        }
    }

    fn set_conditions(
        &mut self,
        reference: ObjectRef,
        conditions: Option<Vec<Condition>>,
        delta: &mut Delta,
    ) {
        let before = self.compiled.conditions.get(&reference);
        if before == conditions.as_ref() {
            return;
        }
        delta.conditions.insert(reference.clone());
        match conditions {
            Some(conditions) => self.compiled.conditions.insert(reference, conditions),
            None => self.compiled.conditions.remove(&reference),
        };
    }

    /// The VirtualServices that name a HealthCheck.
    pub fn checked_by(&self, check: &CheckKey) -> impl Iterator<Item = &BindingKey> {
        self.users.get(&Named::HealthCheck(check.clone())).into_iter().flatten()
    }

    /// How many VirtualServices were looked at since the start, for those who doubt that a change costs only itself.
    pub fn evaluated(&self) -> u64 {
        self.evaluated
    }
}

fn key_of(reference: &ObjectRef) -> BindingKey {
    BindingKey::new(reference.namespace.as_deref().unwrap_or("default"), &reference.name)
}

fn reference(key: &BindingKey) -> ObjectRef {
    ObjectRef {
        kind: Kind::VirtualService,
        namespace: Some(key.namespace.to_string()),
        name: key.name.to_string(),
    }
}
