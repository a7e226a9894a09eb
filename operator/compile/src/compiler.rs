//! Keeps what a set of objects means up to date while the objects change, one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bascule_crds::director::Director;
use bascule_crds::virtual_service::VirtualService;
use bascule_crds::{Kind, Object, ObjectRef, VirtualServiceBindingSpec, VirtualServiceSpec};

use crate::bind;
use crate::claims::{Claim, What};
use crate::contest::{self, Contest, Form, Precedence};
use crate::judge::{self, Placed};
use crate::problem::Problems;
use crate::types::{BindingKey, Compiled, Condition, ConditionType, Delta, NodeConfig, Problem, Reason};
use crate::warnings;

/// Whose word counts how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// A directory of manifests: one trust domain. When two want the same, what is programmed wins, then the name.
    Files,
    /// A cluster: namespaces are trust domains, a Director says who may use it, and the older object wins.
    Cluster,
}

/// An object came or changed, or went.
#[derive(Clone, Debug)]
pub enum Change {
    /// The object is now this.
    Put(Object),
    /// There is no such object any more.
    Delete(ObjectRef),
}

/// What the condition of an object adds to its problems when its last good form is in force.
const LAST_GOOD_STAYS: &str = "; its last good form stays in force";

/// Something that a VirtualService names, and by which it is found when that changes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Named {
    /// A director by its name.
    Director(String),
    /// An interface, or an alias of one, of a director.
    Interface(String, String),
    /// A VrrpGroup.
    VrrpGroup(String),
    /// A HealthCheck by namespace and name.
    HealthCheck(String, String),
}

/// As much of a VirtualService as has to be kept: there may be tens of thousands.
#[derive(Clone, Debug)]
struct Wish {
    spec: Box<VirtualServiceSpec>,
    /// When it was created, in nanoseconds since 1970.
    created: Option<i128>,
}

impl Wish {
    fn of(object: VirtualService) -> Wish {
        let created = object.metadata.creation_timestamp.map(|time| time.0.as_nanosecond());
        Wish { spec: Box::new(object.spec), created }
    }
}

/// What a VirtualService came to, before others are looked at.
#[derive(Debug)]
struct Known {
    wish: Wish,
    refused: Vec<Problem>,
    unresolved: Vec<Problem>,
    /// Only without any problem.
    placed: Option<Placed>,
}

/// Compiles incrementally: a change costs what it changes, however many objects there are.
#[derive(Debug)]
pub struct Compiler {
    trust: Trust,
    declared: BTreeSet<String>,
    directors: BTreeMap<String, Box<Director>>,
    services: BTreeMap<BindingKey, Known>,
    /// HealthChecks and VrrpGroups, which so far can only be named.
    existing: BTreeSet<Named>,
    users: BTreeMap<Named, BTreeSet<BindingKey>>,
    contest: Contest,
    /// On which director a binding is now.
    programmed: BTreeMap<BindingKey, Arc<str>>,
    /// What was programmed before the first change.
    remembered: BTreeMap<BindingKey, Placed>,
    /// What changed outside [`Compiler::apply`].
    pending: BTreeSet<Named>,
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
            services: BTreeMap::new(),
            existing: BTreeSet::new(),
            users: BTreeMap::new(),
            contest: Contest::new(match trust {
                Trust::Files => Precedence::Holding,
                Trust::Cluster => Precedence::Age,
            }),
            programmed: BTreeMap::new(),
            remembered: BTreeMap::new(),
            pending: BTreeSet::new(),
            compiled: Compiled::default(),
            evaluated: 0,
        }
    }

    /// Says that a director of this name exists, also when no Director manifest says so. It counts from the next
    /// [`Compiler::apply`] on.
    pub fn declare_director(&mut self, name: &str) {
        if self.declared.insert(name.to_owned()) {
            self.pending.insert(Named::Director(name.to_owned()));
        }
    }

    /// Says, before the first [`Compiler::apply`], what has been programmed on a director until now: it stays as long as the
    /// object cannot have what it wants now, and ([`Trust::Files`]) is not lost to one whose name comes first.
    pub fn remember<'a>(
        &mut self,
        director: &str,
        bindings: impl IntoIterator<Item = (&'a BindingKey, &'a Arc<VirtualServiceBindingSpec>)>,
    ) {
        let director: Arc<str> = director.into();
        for (key, spec) in bindings {
            self.contest.remember(key.clone(), bind::claims(self.trust, &director, key, spec));
            let placed = Placed { director: Arc::clone(&director), spec: Arc::clone(spec) };
            self.remembered.entry(key.clone()).or_insert(placed);
        }
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
        let mut services: BTreeMap<BindingKey, Option<Wish>> = BTreeMap::new();
        let mut touched = std::mem::take(&mut self.pending);
        for (reference, object) in last {
            match (reference.kind, object) {
                (_, Some(Object::VirtualService(object))) => {
                    services.insert(key_of(&reference), Some(Wish::of(*object)));
                }
                (Kind::VirtualService, _) => {
                    services.insert(key_of(&reference), None);
                }
                (_, Some(Object::Director(object))) => {
                    self.change_director(reference.name, Some(object), &mut touched, &mut delta);
                }
                (Kind::Director, _) => self.change_director(reference.name, None, &mut touched, &mut delta),
                (_, object) => self.change_unsupported(reference, object.as_ref(), &mut touched, &mut delta),
            }
        }
        let gone = self.change_nodes(&touched, &mut delta);
        self.change_services(services, &touched, &gone, &mut delta);
        self.remembered.clear();
        for name in gone {
            self.compiled.nodes.remove(&name);
        }
        delta
    }

    /// Takes in an object of a kind whose behaviour does not exist yet, and which others may name.
    fn change_unsupported(
        &mut self,
        reference: ObjectRef,
        object: Option<&Object>,
        touched: &mut BTreeSet<Named>,
        delta: &mut Delta,
    ) {
        if let Some(named) = named_by(&reference) {
            let changed = match object {
                Some(_) => self.existing.insert(named.clone()),
                None => self.existing.remove(&named),
            };
            if changed {
                touched.insert(named);
            }
        }
        let problems = object.and_then(|object| judge::unsupported_kind(self.trust, object));
        let conditions = problems.map(|problems| vec![Condition::judge(ConditionType::Accepted, problems)]);
        self.set_conditions(reference, conditions, delta);
    }

    fn change_director(
        &mut self,
        name: String,
        director: Option<Box<Director>>,
        touched: &mut BTreeSet<Named>,
        delta: &mut Delta,
    ) {
        let old = match &director {
            Some(director) => self.directors.insert(name.clone(), director.clone()),
            None => self.directors.remove(&name),
        };
        let (before, after) = (old.map(|d| d.spec), director.as_ref().map(|d| &d.spec));
        // A director that was declared exists with or without a manifest.
        let access =
            |spec: &bascule_crds::director::DirectorSpec| (spec.allow.clone(), spec.allowed_targets.clone());
        if before.is_some() != after.is_some() || before.as_ref().map(access) != after.map(access) {
            touched.insert(Named::Director(name.clone()));
        }
        let aliases = |spec: &bascule_crds::director::DirectorSpec| spec.interface_aliases.clone();
        let before_aliases = before.as_ref().map(aliases).unwrap_or_default();
        let after_aliases = after.map(aliases).unwrap_or_default();
        for alias in before_aliases.keys().chain(after_aliases.keys()) {
            if before_aliases.get(alias) != after_aliases.get(alias) {
                touched.insert(Named::Interface(name.clone(), alias.clone()));
            }
        }
        let conditions =
            after.map(|spec| vec![Condition::judge(ConditionType::Accepted, judge::director(spec))]);
        self.set_conditions(
            ObjectRef { kind: Kind::Director, namespace: None, name: name.clone() },
            conditions,
            delta,
        );
        self.change_node(&name, delta);
    }

    /// Makes the nodes of the touched directors what they should be; returns those that are to go once they are empty.
    fn change_nodes(&mut self, touched: &BTreeSet<Named>, delta: &mut Delta) -> Vec<String> {
        let mut gone = Vec::new();
        for named in touched {
            if let Named::Director(name) = named {
                self.change_node(name, delta);
                if !self.exists(name) && self.compiled.nodes.contains_key(name) {
                    delta.nodes.entry(name.clone()).or_default().director = true;
                    gone.push(name.clone());
                }
            }
        }
        gone
    }

    fn change_node(&mut self, name: &str, delta: &mut Delta) {
        if !self.exists(name) {
            return;
        }
        let config = bind::director_config(name, self.directors.get(name).map(|d| &d.spec));
        let changed = match self.compiled.nodes.get_mut(name) {
            Some(node) if node.director == config => false,
            Some(node) => {
                node.director = config;
                true
            }
            None => {
                let node = NodeConfig { director: config, bindings: BTreeMap::new() };
                self.compiled.nodes.insert(name.to_owned(), node);
                true
            }
        };
        if changed {
            delta.nodes.entry(name.to_owned()).or_default().director = true;
        }
    }

    fn change_services(
        &mut self,
        mut changed: BTreeMap<BindingKey, Option<Wish>>,
        touched: &BTreeSet<Named>,
        gone: &[String],
        delta: &mut Delta,
    ) {
        let users = touched.iter().filter_map(|named| self.users.get(named)).flatten();
        // What stays on a director from before is not found by what is wanted now.
        let there = gone.iter().filter_map(|name| self.compiled.nodes.get(name));
        for user in users.chain(there.flat_map(|node| node.bindings.keys())) {
            if !changed.contains_key(user) {
                changed.insert(user.clone(), Some(self.services[user].wish.clone()));
            }
        }
        let mut wants = BTreeMap::new();
        for (key, wish) in changed {
            if let Some(old) = self.services.remove(&key) {
                self.unlist(&key, &judge::names(&old.wish.spec, &key.namespace));
            }
            let Some(wish) = wish else {
                self.set_conditions(reference(&key), None, delta);
                wants.insert(key, None);
                continue;
            };
            for named in judge::names(&wish.spec, &key.namespace) {
                self.users.entry(named).or_default().insert(key.clone());
            }
            let known = self.evaluate(&key, wish);
            let claims = known
                .placed
                .as_ref()
                .map(|placed| bind::claims(self.trust, &placed.director, &key, &placed.spec));
            let created = known.wish.created;
            let keeps = self.director_before(&key).is_some_and(|director| self.exists(director));
            wants.insert(key.clone(), claims.map(|claims| contest::Wish { claims, created, keeps }));
            self.services.insert(key, known);
        }
        for key in self.contest.settle(wants) {
            self.refresh(&key, delta);
        }
    }

    fn evaluate(&mut self, key: &BindingKey, wish: Wish) -> Known {
        let spec = &*wish.spec;
        self.evaluated += 1;
        let mut refused = Problems(judge::virtual_service(spec));
        let mut unresolved = Problems::default();
        judge::resolve(spec, &key.namespace, |named| self.known(named), self.trust, &mut unresolved);
        let director = spec.director.as_ref().and_then(|placement| self.directors.get(&placement.name));
        if self.trust == Trust::Cluster
            && let Some(director) = director
        {
            judge::allowed(spec, &key.namespace, director, &mut refused);
        }
        let placed = match &spec.director {
            Some(placement) if refused.0.is_empty() && unresolved.0.is_empty() => {
                let aliases = director.map(|d| &d.spec.interface_aliases);
                let spec = Arc::new(bind::binding(&key.name, spec, placement, aliases));
                Some(Placed { director: placement.name.as_str().into(), spec })
            }
            _ => None,
        };
        Known { refused: refused.0, unresolved: unresolved.0, placed, wish }
    }

    /// The director that carries out the VirtualService until now.
    fn director_before(&self, key: &BindingKey) -> Option<&str> {
        let remembered = || self.remembered.get(key).map(|placed| &placed.director);
        self.programmed.get(key).or_else(remembered).map(|director| &**director)
    }

    fn exists(&self, director: &str) -> bool {
        self.declared.contains(director) || self.directors.contains_key(director)
    }

    fn known(&self, named: &Named) -> bool {
        match named {
            Named::Director(name) => self.exists(name),
            // What has no alias is taken for an interface's own name.
            Named::Interface(..) => true,
            Named::VrrpGroup(_) | Named::HealthCheck(..) => self.existing.contains(named),
        }
    }

    fn unlist(&mut self, key: &BindingKey, names: &BTreeSet<Named>) {
        for named in names {
            if let Some(users) = self.users.get_mut(named) {
                users.remove(key);
                if users.is_empty() {
                    self.users.remove(named);
                }
            }
        }
    }

    /// Makes the binding and the conditions of a VirtualService what they should be.
    fn refresh(&mut self, key: &BindingKey, delta: &mut Delta) {
        let form = self.contest.form(key);
        let placed = match form {
            Form::Nothing => None,
            Form::Wanted => self.services.get(key).and_then(|known| known.placed.clone()),
            Form::LastGood => self.last_good(key),
        };
        let (now, spec) = placed.map(|placed| (placed.director, placed.spec)).unzip();
        let mut changed_on = Vec::new();
        let before = self.programmed.get(key).cloned();
        if let Some(before) = before
            && Some(&before) != now.as_ref()
        {
            self.programmed.remove(key);
            if let Some(node) = self.compiled.nodes.get_mut(&*before) {
                node.bindings.remove(key);
            }
            changed_on.push(before);
        }
        if let (Some(now), Some(spec)) = (now, spec)
            && let Some(node) = self.compiled.nodes.get_mut(&*now)
            && node.bindings.get(key) != Some(&spec)
        {
            node.bindings.insert(key.clone(), spec);
            self.programmed.insert(key.clone(), Arc::clone(&now));
            changed_on.push(now);
        }
        for director in changed_on {
            delta.nodes.entry(director.to_string()).or_default().bindings.insert(key.clone());
        }
        if let Some(known) = self.services.get(key) {
            let mut refused = known.refused.clone();
            if let Some((claim, winner)) = self.contest.lost_to(key) {
                refused.push(conflict(self.trust, known, claim, winner));
            }
            let mut accepted = Condition::judge_with(
                ConditionType::Accepted,
                refused,
                warnings::virtual_service(&known.wish.spec),
            );
            if form == Form::LastGood {
                accepted.add(LAST_GOOD_STAYS);
            }
            let conditions =
                vec![accepted, Condition::judge(ConditionType::ResolvedRefs, known.unresolved.clone())];
            self.set_conditions(reference(key), Some(conditions), delta);
        }
    }

    /// What was programmed of the VirtualService until now.
    fn last_good(&self, key: &BindingKey) -> Option<Placed> {
        let Some(director) = self.programmed.get(key) else { return self.remembered.get(key).cloned() };
        let spec = self.compiled.nodes.get(&**director)?.bindings.get(key)?;
        Some(Placed { director: Arc::clone(director), spec: Arc::clone(spec) })
    }

    /// Whether the object's last good form is in force, because what it wants now is taken by another one.
    pub fn keeps_last_good(&self, reference: &ObjectRef) -> bool {
        reference.kind == Kind::VirtualService && self.contest.form(&key_of(reference)) == Form::LastGood
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

    /// How many VirtualServices were looked at since the start, for those who doubt that a change costs only itself.
    pub fn evaluated(&self) -> u64 {
        self.evaluated
    }
}

fn conflict(trust: Trust, known: &Known, claim: &Claim, winner: &BindingKey) -> Problem {
    let spec = &known.wish.spec;
    let at = |field: &str, list: &[bascule_crds::common::AddressOrRange]| {
        list.iter().position(|a| *a == claim.addresses).map(|i| format!("{field}[{i}]"))
    };
    let field = match claim.what {
        What::Mark(_) => "spec.fwmark.mark".to_owned(),
        What::Interface => "spec.director.interface".to_owned(),
        What::Port { .. } | What::Namespace => at("spec.addresses", &spec.addresses)
            .or_else(|| {
                let marked = spec.fwmark.as_ref().and_then(|f| f.match_.as_ref());
                marked.and_then(|m| at("spec.fwmark.match.addresses", &m.addresses))
            })
            .unwrap_or_else(|| "spec".to_owned()),
    };
    let why = match trust {
        Trust::Files => "it was there first, or its name comes first",
        Trust::Cluster => "it is older",
    };
    let (addresses, director) = (claim.addresses, &claim.director);
    let message = match claim.what {
        What::Port { .. } => {
            format!(
                "{claim} is taken by VirtualService {winner} ({why}); take another address or port, or remove one of them"
            )
        }
        What::Mark(_) => {
            format!(
                "{claim} is taken by VirtualService {winner} ({why}); take another mark, or remove one of them"
            )
        }
        What::Interface => format!(
            "VirtualService {winner} has {addresses} on another interface of director {director} ({why}); name the same one"
        ),
        What::Namespace => format!(
            "{addresses} on director {director} belongs to the namespace of VirtualService {winner} ({why}); take another address"
        ),
    };
    Problem { reason: Reason::Conflicted, field, message }
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

/// By what VirtualServices name the object, if they can.
fn named_by(reference: &ObjectRef) -> Option<Named> {
    match reference.kind {
        Kind::VrrpGroup => Some(Named::VrrpGroup(reference.name.clone())),
        Kind::HealthCheck => {
            let namespace = reference.namespace.clone().unwrap_or_else(|| "default".into());
            Some(Named::HealthCheck(namespace, reference.name.clone()))
        }
        _ => None,
    }
}
