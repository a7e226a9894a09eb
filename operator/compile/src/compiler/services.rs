//! VirtualServices: where each is to be, what it is to be there, and who stands in its way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bascule_crds::common::Allow;
use bascule_crds::virtual_service::VirtualService;
use bascule_crds::{VirtualServiceBindingSpec, VirtualServiceSpec};

use super::conflict::conflict;
use super::{Compiler, Named, Todo, Trust, reference};
use crate::bind;
use crate::contest::{self, Form};
use crate::judge::{self, Placed};
use crate::problem::Problems;
use crate::tracked::Tracks;
use crate::types::{BindingKey, CheckKey, Condition, ConditionType, Delta, Problem, Warning};
use crate::{checked, warnings};

/// As much of a VirtualService as has to be kept: there may be tens of thousands.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    spec: Box<VirtualServiceSpec>,
    /// When it was created, in nanoseconds since 1970.
    created: Option<i128>,
}

impl Wish {
    pub(super) fn of(object: VirtualService) -> Wish {
        let created = object.metadata.creation_timestamp.map(|time| time.0.as_nanosecond());
        Wish { spec: Box::new(object.spec), created }
    }
}

/// What a VirtualService came to, before others are looked at.
#[derive(Debug)]
pub(super) struct Known {
    wish: Wish,
    refused: Vec<Problem>,
    unresolved: Vec<Problem>,
    /// What is wrong with its checks, which does not keep it from its place.
    unchecked: Vec<Problem>,
    warnings: Vec<Warning>,
    /// Only without a problem that keeps it from it.
    placed: Option<Placed>,
}

impl Compiler {
    /// Takes in changed VirtualServices (`None`: gone) and looks at those anew that use what changed.
    pub(super) fn change_services(
        &mut self,
        mut changed: BTreeMap<BindingKey, Option<Wish>>,
        todo: &mut Todo,
        delta: &mut Delta,
    ) {
        let users = todo.touched.iter().filter_map(|named| self.users.get(named)).flatten();
        // What stays on a director from before is not found by what is wanted now.
        let there = todo.gone.iter().filter_map(|name| self.compiled.nodes.get(name));
        for user in users.chain(&todo.reached).chain(there.flat_map(|node| node.bindings.keys())) {
            if !changed.contains_key(user) {
                changed.insert(user.clone(), Some(self.services[user].wish.clone()));
            }
        }
        let mut wants = BTreeMap::new();
        for (key, wish) in changed {
            if let Some(old) = self.services.remove(&key) {
                for named in judge::names(&old.wish.spec, &key.namespace) {
                    self.unlist(&key, &named);
                }
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
            let claims = known.placed.as_ref().map(|placed| {
                let claims = |(director, spec): (&Arc<str>, &Arc<VirtualServiceBindingSpec>)| {
                    bind::claims(self.trust, director, &key, spec)
                };
                placed.iter().flat_map(claims).collect()
            });
            let created = known.wish.created;
            let keeps: BTreeSet<_> = self.kept(&key).into_keys().collect();
            wants.insert(key.clone(), claims.map(|claims| contest::Wish { claims, created, keeps }));
            self.services.insert(key, known);
        }
        let mut stirred: BTreeSet<BindingKey> = wants.keys().cloned().collect();
        for key in self.contest.settle(wants) {
            self.refresh(&key, delta);
            stirred.insert(key);
        }
        for key in stirred {
            todo.groups.extend(self.groups.tracking(&Tracks::Service(key)).cloned());
        }
    }

    fn evaluate(&mut self, key: &BindingKey, wish: Wish) -> Known {
        let spec = &*wish.spec;
        self.evaluated += 1;
        let mut refused = Problems(judge::virtual_service(spec));
        let mut unresolved = Problems::default();
        judge::resolve(spec, |named| self.known(named), self.trust, &mut unresolved);
        let mut on: Vec<Arc<str>> = Vec::new();
        if let Some(placement) = &spec.director {
            on.push(placement.name.as_str().into());
            if self.trust == Trust::Cluster
                && let Some(director) = self.directors.get(&placement.name)
            {
                judge::allowed(spec, &key.namespace, director, &mut refused);
            }
        } else if let Some(name) = &spec.vrrp_group {
            let group = self.groups.get(name);
            judge::in_group(spec, name, group, self.trust, &mut unresolved);
            on.extend(group.into_iter().flat_map(|group| group.members()).cloned());
            if self.trust == Trust::Cluster
                && let Some(group) = group
            {
                judge::allowed_by_group(spec, &key.namespace, name, group, &mut refused);
                for director in on.iter().filter_map(|member| self.directors.get(&**member)) {
                    judge::allowed_targets(spec, director, &mut refused);
                }
            }
        }
        if self.trust == Trust::Cluster {
            self.judge_programs(key, spec, &on, &mut refused);
        }
        let find = |check: &CheckKey| self.checks.get(check).copied();
        let directors: Vec<_> =
            on.iter().map(|name| (Arc::clone(name), self.directors.get(&**name).map(|one| &**one))).collect();
        let unchecked = checked::problems(spec, &key.namespace, find, &directors);
        let warnings = warnings::virtual_service(spec, checked::weighs(spec, &key.namespace, find));
        let placed = (refused.0.is_empty() && unresolved.0.is_empty() && !on.is_empty()).then(|| {
            let place = |director: Arc<str>| {
                let aliases = self.directors.get(&*director).map(|d| &d.spec.interface_aliases);
                let spec = Arc::new(bind::binding(&key.name, spec, &director, aliases));
                (director, spec)
            };
            on.into_iter().map(place).collect()
        });
        Known { refused: refused.0, unresolved: unresolved.0, unchecked, warnings, placed, wish }
    }

    /// In a cluster: says which programs nobody allows it. A group's permission counts on all of its members; else each of them
    /// has to give its own.
    fn judge_programs(
        &self,
        key: &BindingKey,
        spec: &VirtualServiceSpec,
        on: &[Arc<str>],
        refused: &mut Problems,
    ) {
        // Nowhere it runs nothing.
        if on.is_empty() {
            return;
        }
        let group = spec.vrrp_group.as_ref().and_then(|name| self.groups.get(name));
        let whom = match (&spec.vrrp_group, &spec.director) {
            (Some(name), _) => format!("VrrpGroup {name}"),
            (None, placement) => {
                format!("Director {}", placement.as_ref().map_or("", |placement| &placement.name))
            }
        };
        let find = |check: &CheckKey| self.checks.get(check).copied();
        let allowed = |kind| {
            let lets = |allow: &[Allow]| checked::lets_run(allow, &key.namespace, kind);
            let each = |name: &Arc<str>| self.directors.get(&**name).is_some_and(|one| lets(&one.spec.allow));
            group.is_some_and(|group| lets(group.allow())) || on.iter().all(each)
        };
        checked::allowed_programs(spec, &key.namespace, find, allowed, &whom, refused);
    }

    /// What is programmed of the VirtualService now.
    fn in_force(&self, key: &BindingKey) -> Option<Placed> {
        let binding = |director: &Arc<str>| {
            let spec = self.compiled.nodes.get(&**director)?.bindings.get(key)?;
            Some((Arc::clone(director), Arc::clone(spec)))
        };
        Some(self.programmed.get(key)?.iter().filter_map(binding).collect())
    }

    /// As much as may stay of what was programmed of the VirtualService until now.
    fn kept(&self, key: &BindingKey) -> Placed {
        let mut before = self.in_force(key).or_else(|| self.remembered.get(key).cloned()).unwrap_or_default();
        before.retain(|director, spec| self.may_stay(director, spec));
        before
    }

    /// Whether there is still a place for a binding of before: its director, and its addresses where a group is to have them.
    fn may_stay(&self, director: &Arc<str>, spec: &VirtualServiceBindingSpec) -> bool {
        let marked = spec.fwmark.as_ref().and_then(|fwmark| fwmark.match_.as_ref());
        let mut addresses = spec.addresses.iter().chain(marked.into_iter().flat_map(|m| &m.addresses));
        let in_group = |name: &String| {
            self.groups.get(name).is_some_and(|group| {
                group.members().any(|member| member == director) && addresses.all(|one| group.has(*one))
            })
        };
        self.exists(director) && spec.vrrp_group.as_ref().is_none_or(in_group)
    }

    fn unlist(&mut self, key: &BindingKey, named: &Named) {
        if let Some(users) = self.users.get_mut(named) {
            users.remove(key);
            if users.is_empty() {
                self.users.remove(named);
            }
        }
    }

    /// Makes the bindings and the conditions of a VirtualService what they should be.
    fn refresh(&mut self, key: &BindingKey, delta: &mut Delta) {
        let form = self.contest.form(key);
        let now = match form {
            Form::Nothing => Placed::new(),
            Form::Wanted => self.services.get(key).and_then(|known| known.placed.clone()).unwrap_or_default(),
            Form::LastGood => self.kept(key),
        };
        self.list_group(key, &now);
        let before = self.programmed.remove(key).unwrap_or_default();
        let mut changed_on: BTreeSet<Arc<str>> = BTreeSet::new();
        for director in before.into_iter().filter(|director| !now.contains_key(director)) {
            if let Some(node) = self.compiled.nodes.get_mut(&*director) {
                node.bindings.remove(key);
            }
            changed_on.insert(director);
        }
        let mut on = BTreeSet::new();
        for (director, spec) in now {
            let Some(node) = self.compiled.nodes.get_mut(&*director) else { continue };
            if node.bindings.get(key) != Some(&spec) {
                node.bindings.insert(key.clone(), spec);
                changed_on.insert(Arc::clone(&director));
            }
            on.insert(director);
        }
        if !on.is_empty() {
            self.programmed.insert(key.clone(), on);
        }
        for director in changed_on {
            delta.nodes.entry(director.to_string()).or_default().bindings.insert(key.clone());
        }
        self.judge_service(key, form, delta);
    }

    /// A last good form may be of another group than the one that the VirtualService names now, and lasts only as long as that
    /// one has its addresses.
    fn list_group(&mut self, key: &BindingKey, now: &Placed) {
        let group_of = |placed: &Placed| placed.values().next().and_then(|spec| spec.vrrp_group.clone());
        let before = self.in_force(key).as_ref().and_then(group_of);
        let known = self.services.get(key);
        let wanted = known.and_then(|known| known.wish.spec.vrrp_group.clone());
        let listed = known.is_some();
        if let Some(group) = before.filter(|group| Some(group) != wanted.as_ref()) {
            self.unlist(key, &Named::VrrpGroup(group));
        }
        if let Some(group) = group_of(now).filter(|group| listed && Some(group) != wanted.as_ref()) {
            self.users.entry(Named::VrrpGroup(group)).or_default().insert(key.clone());
        }
    }

    fn judge_service(&mut self, key: &BindingKey, form: Form, delta: &mut Delta) {
        let Some(known) = self.services.get(key) else { return };
        let mut refused = known.refused.clone();
        if let Some((claim, winner)) = self.contest.lost_to(key) {
            refused.push(conflict(self.trust, &known.wish.spec, claim, winner));
        }
        let mut accepted = Condition::judge_with(ConditionType::Accepted, refused, known.warnings.clone());
        if form == Form::LastGood {
            accepted.add_last_good();
        }
        let unresolved = known.unresolved.iter().chain(&known.unchecked).cloned().collect();
        let resolved = Condition::judge(ConditionType::ResolvedRefs, unresolved);
        self.set_conditions(reference(key), Some(vec![accepted, resolved]), delta);
    }
}
