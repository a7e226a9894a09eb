//! NatRules: where each is to be, and who stands in its way. VirtualServices come first: what they have is out of reach.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bascule_crds::common::AddressOrRange;
use bascule_crds::nat_rule::{NatRule, NatRuleSpec};
use bascule_crds::{Kind, NatRuleBindingSpec, ObjectRef};

use super::conflict::nat_conflict;
use super::{Compiler, Named, Todo, Trust};
use crate::contest::{self, Contest, Entry, Form, Precedence};
use crate::judge;
use crate::nat_rule;
use crate::problem::Problems;
use crate::types::{BindingKey, Condition, ConditionType, Delta, NodeConfig, Problem, Reason, Warning};

/// What is to be where, by the director's name.
type Placed = BTreeMap<Arc<str>, Arc<NatRuleBindingSpec>>;

/// As much of a NatRule as has to be kept.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    spec: Box<NatRuleSpec>,
    /// When it was created, in nanoseconds since 1970.
    created: Option<i128>,
}

impl Wish {
    pub(super) fn of(object: NatRule) -> Wish {
        let created = object.metadata.creation_timestamp.map(|time| time.0.as_nanosecond());
        Wish { spec: Box::new(object.spec), created }
    }
}

/// What a NatRule came to, before others are looked at.
#[derive(Debug)]
struct Known {
    wish: Wish,
    /// By what of others it is found when that changes.
    names: BTreeSet<Named>,
    refused: Vec<Problem>,
    unresolved: Vec<Problem>,
    warnings: Vec<Warning>,
    /// Only without a problem.
    placed: Option<Placed>,
}

/// All NatRules.
#[derive(Debug)]
pub(super) struct NatRules {
    known: BTreeMap<BindingKey, Known>,
    /// Who names it, or has it in force as part of a last good form.
    users: BTreeMap<Named, BTreeSet<BindingKey>>,
    contest: Contest,
    /// On which directors a binding is now; not empty.
    programmed: BTreeMap<BindingKey, BTreeSet<Arc<str>>>,
    /// What was programmed before the first change.
    remembered: BTreeMap<BindingKey, Placed>,
}

impl NatRules {
    pub(super) fn new(trust: Trust) -> NatRules {
        NatRules {
            known: BTreeMap::new(),
            users: BTreeMap::new(),
            contest: Contest::new(Precedence::of(trust)),
            programmed: BTreeMap::new(),
            remembered: BTreeMap::new(),
        }
    }

    /// Tells, before the first change, what has been in force on a director until now.
    pub(super) fn remember(&mut self, trust: Trust, director: &Arc<str>, node: &NodeConfig) {
        for (key, spec) in &node.nat_rules {
            self.contest.remember(key.clone(), nat_rule::claims(trust, director, key, spec));
            let placed = self.remembered.entry(key.clone()).or_default();
            placed.insert(Arc::clone(director), Arc::clone(spec));
        }
    }

    /// Whether the rule's last good form is in force.
    pub(super) fn keeps_last_good(&self, key: &BindingKey) -> bool {
        self.contest.form(key) == Form::LastGood
    }

    /// Leaves to VirtualServices what they have; returns the rules that this reaches.
    fn reserve(&mut self, journal: Vec<Entry>) -> BTreeSet<BindingKey> {
        let mut reached = BTreeSet::new();
        for Entry { claim, owner, granted } in journal {
            for claim in nat_rule::reserved(&claim) {
                reached.extend(self.contest.reserve(&claim, &owner, granted));
            }
        }
        reached
    }

    fn list(&mut self, key: &BindingKey, named: Named) {
        self.users.entry(named).or_default().insert(key.clone());
    }

    fn unlist(&mut self, key: &BindingKey, named: &Named) {
        if let Some(users) = self.users.get_mut(named) {
            users.remove(key);
            if users.is_empty() {
                self.users.remove(named);
            }
        }
    }
}

impl Compiler {
    /// Takes in changed NatRules (`None`: gone) and looks at those anew that use what changed.
    pub(super) fn change_nat_rules(
        &mut self,
        mut changed: BTreeMap<BindingKey, Option<Wish>>,
        todo: &Todo,
        delta: &mut Delta,
    ) {
        let reached = self.nat.reserve(self.contest.take_journal());
        let users = todo.touched.iter().filter_map(|named| self.nat.users.get(named)).flatten();
        // What stays on a director from before is not found by what is wanted now.
        let there = todo.gone.iter().filter_map(|name| self.compiled.nodes.get(name));
        for user in users.chain(&reached).chain(there.flat_map(|node| node.nat_rules.keys())) {
            if !changed.contains_key(user)
                && let Some(known) = self.nat.known.get(user)
            {
                changed.insert(user.clone(), Some(known.wish.clone()));
            }
        }
        let mut wants = BTreeMap::new();
        for (key, wish) in changed {
            if let Some(old) = self.nat.known.remove(&key) {
                for named in &old.names {
                    self.nat.unlist(&key, named);
                }
            }
            let Some(wish) = wish else {
                self.set_conditions(reference(&key), None, delta);
                wants.insert(key, None);
                continue;
            };
            let known = self.evaluate_nat_rule(&key, wish);
            for named in &known.names {
                self.nat.list(&key, named.clone());
            }
            let claims = known.placed.as_ref().map(|placed| {
                let claims = |(director, spec): (&Arc<str>, &Arc<NatRuleBindingSpec>)| {
                    nat_rule::claims(self.trust, director, &key, spec)
                };
                placed.iter().flat_map(claims).collect()
            });
            let created = known.wish.created;
            let keeps: BTreeSet<_> = self.kept_nat_rule(&key).into_keys().collect();
            wants.insert(key.clone(), claims.map(|claims| contest::Wish { claims, created, keeps }));
            self.nat.known.insert(key, known);
        }
        for key in self.nat.contest.settle(wants) {
            self.refresh_nat_rule(&key, delta);
        }
        self.nat.remembered.clear();
    }

    fn evaluate_nat_rule(&self, key: &BindingKey, wish: Wish) -> Known {
        let spec = &*wish.spec;
        let mut refused = Problems(nat_rule::problems(spec));
        let mut unresolved = Problems::default();
        let mut warnings = Vec::new();
        let mut names = BTreeSet::new();
        let mut on: Vec<Arc<str>> = Vec::new();
        if let Some(name) = &spec.director {
            names.insert(Named::Director(name.clone()));
            if !self.exists(name) {
                judge::unknown_director(name, "spec.director", self.trust, &mut unresolved);
            }
            on.push(name.as_str().into());
            if self.trust == Trust::Cluster
                && let Some(director) = self.directors.get(name)
            {
                let whom = (&*format!("Director {name}"), "spec.director");
                let allow = &director.spec.allow;
                nat_rule::allowed(spec, &key.namespace, whom, allow, |_| false, &mut refused);
            }
        } else if let Some(name) = &spec.vrrp_group {
            names.insert(Named::VrrpGroup(name.clone()));
            let group = self.groups.get(name);
            judge::group_in_force(name, group, self.trust, &mut unresolved);
            if let Some(group) = group {
                on.extend(group.members().cloned());
                warnings = nat_rule::warnings(spec, name, group);
                if self.trust == Trust::Cluster {
                    let whom = (&*format!("VrrpGroup {name}"), "spec.vrrpGroup");
                    let granted = |address| group.has(AddressOrRange::single(address));
                    nat_rule::allowed(spec, &key.namespace, whom, group.allow(), granted, &mut refused);
                }
            }
        }
        for director in &on {
            let interfaces = nat_rule::interfaces(&spec.translation);
            names.extend(interfaces.map(|name| Named::Interface(director.to_string(), name.clone())));
            if self.trust == Trust::Cluster
                && let Some(director) = self.directors.get(&**director)
            {
                nat_rule::allowed_targets(spec, director, &mut refused);
            }
        }
        let placed = (refused.0.is_empty() && unresolved.0.is_empty() && !on.is_empty()).then(|| {
            let place = |director: Arc<str>| {
                let aliases = self.directors.get(&*director).map(|d| &d.spec.interface_aliases);
                let binding = nat_rule::binding(&key.name, spec, &director, aliases);
                (director, Arc::new(binding))
            };
            on.into_iter().map(place).collect()
        });
        Known { names, refused: refused.0, unresolved: unresolved.0, warnings, placed, wish }
    }

    /// What is programmed of the rule now.
    fn nat_rule_in_force(&self, key: &BindingKey) -> Option<Placed> {
        let binding = |director: &Arc<str>| {
            let spec = self.compiled.nodes.get(&**director)?.nat_rules.get(key)?;
            Some((Arc::clone(director), Arc::clone(spec)))
        };
        Some(self.nat.programmed.get(key)?.iter().filter_map(binding).collect())
    }

    /// As much as may stay of what was programmed of the rule until now: its director, and its group with that as a member.
    fn kept_nat_rule(&self, key: &BindingKey) -> Placed {
        let before = self.nat_rule_in_force(key).or_else(|| self.nat.remembered.get(key).cloned());
        let mut before = before.unwrap_or_default();
        before.retain(|director, spec| {
            let member = |name: &String| {
                self.groups.get(name).is_some_and(|group| group.members().any(|member| member == director))
            };
            self.exists(director) && spec.vrrp_group.as_ref().is_none_or(member)
        });
        before
    }

    /// Makes the bindings and the conditions of a rule what they should be.
    fn refresh_nat_rule(&mut self, key: &BindingKey, delta: &mut Delta) {
        let form = self.nat.contest.form(key);
        let now = match form {
            Form::Nothing => Placed::new(),
            Form::Wanted => {
                self.nat.known.get(key).and_then(|known| known.placed.clone()).unwrap_or_default()
            }
            Form::LastGood => self.kept_nat_rule(key),
        };
        self.list_group_of_nat_rule(key, &now);
        let before = self.nat.programmed.remove(key).unwrap_or_default();
        let mut changed_on: BTreeSet<Arc<str>> = BTreeSet::new();
        for director in before.into_iter().filter(|director| !now.contains_key(director)) {
            if let Some(node) = self.compiled.nodes.get_mut(&*director) {
                node.nat_rules.remove(key);
            }
            changed_on.insert(director);
        }
        let mut on = BTreeSet::new();
        for (director, spec) in now {
            let Some(node) = self.compiled.nodes.get_mut(&*director) else { continue };
            if node.nat_rules.get(key) != Some(&spec) {
                node.nat_rules.insert(key.clone(), spec);
                changed_on.insert(Arc::clone(&director));
            }
            on.insert(director);
        }
        if !on.is_empty() {
            self.nat.programmed.insert(key.clone(), on);
        }
        for director in changed_on {
            delta.nodes.entry(director.to_string()).or_default().nat_rules.insert(key.clone());
        }
        self.judge_nat_rule(key, form, delta);
    }

    /// A last good form may be of another group than the one that the rule names now, and lasts only as long as that one does.
    fn list_group_of_nat_rule(&mut self, key: &BindingKey, now: &Placed) {
        let group_of = |placed: &Placed| placed.values().next().and_then(|spec| spec.vrrp_group.clone());
        let before = self.nat_rule_in_force(key).as_ref().and_then(group_of);
        let known = self.nat.known.get(key);
        let wanted = known.and_then(|known| known.wish.spec.vrrp_group.clone());
        let listed = known.is_some();
        if let Some(group) = before.filter(|group| Some(group) != wanted.as_ref()) {
            self.nat.unlist(key, &Named::VrrpGroup(group));
        }
        if let Some(group) = group_of(now).filter(|group| listed && Some(group) != wanted.as_ref()) {
            self.nat.list(key, Named::VrrpGroup(group));
        }
    }

    fn judge_nat_rule(&mut self, key: &BindingKey, form: Form, delta: &mut Delta) {
        let Some(known) = self.nat.known.get(key) else { return };
        let mut refused = known.refused.clone();
        if let Some((claim, winner)) = self.nat.contest.lost_to(key) {
            let problem = nat_conflict(self.trust, claim, winner);
            let field = nat_rule::field_of(&known.wish.spec, claim);
            refused.push(Problem { reason: Reason::Conflicted, field, message: problem });
        }
        let mut accepted = Condition::judge_with(ConditionType::Accepted, refused, known.warnings.clone());
        if form == Form::LastGood {
            accepted.add_last_good();
        }
        let resolved = Condition::judge(ConditionType::ResolvedRefs, known.unresolved.clone());
        self.set_conditions(reference(key), Some(vec![accepted, resolved]), delta);
    }
}

fn reference(key: &BindingKey) -> ObjectRef {
    ObjectRef { kind: Kind::NatRule, namespace: Some(key.namespace.to_string()), name: key.name.to_string() }
}
