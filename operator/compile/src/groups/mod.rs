//! VrrpGroups: what each of their members has to do, and which addresses VirtualServices may use.
//!
//! A group is looked at alone, then settled with those that it shares members with, and what is granted is in force on
//! all its members. What comes of it for others is in [`Stir`].

mod allocate;
mod check;
mod form;
mod routing;
mod settle;
mod stir;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use bascule_crds::VrrpGroupSpec;
use bascule_crds::common::{AddressOrRange, Allow};
use bascule_crds::director_config::DirectorVrrpGroup;
use bascule_crds::vrrp_group::{Instance, VrrpGroup};

use crate::compiler::Trust;
use crate::contest::{Form, Precedence};
use crate::problem::Problems;
use crate::tracked::{self, Tracks};
use crate::types::{Condition, ConditionType, Problem, Reason, Warning};
use crate::warnings;
pub(crate) use form::{Aliases, priority, resolved};
use routing::RouteKey;
use settle::{Contender, Forms, Hold, Lost, Outcome, holds};
use stir::Seen;
pub(crate) use stir::{Held, Stir};

/// As much of a VrrpGroup as has to be kept.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    spec: Box<VrrpGroupSpec>,
    /// When it was created, in nanoseconds since 1970.
    created: Option<i128>,
    /// The virtual router ids that its status has, by instance.
    pins: BTreeMap<String, u8>,
}

impl Wish {
    pub(crate) fn of(object: VrrpGroup) -> Wish {
        let created = object.metadata.creation_timestamp.map(|time| time.0.as_nanosecond());
        let pinned = object.status.into_iter().flat_map(|status| status.instances);
        let pins = pinned.map(|one| (one.name, one.virtual_router_id)).collect();
        Wish { spec: Box::new(object.spec), created, pins }
    }
}

/// What a group asks of the directors that it names.
pub(crate) trait Machines {
    /// Whether there is a director of this name, whatever groups say.
    fn exists(&self, director: &str) -> bool;
    /// The names that it has for its interfaces.
    fn aliases(&self, director: &str) -> Option<&Aliases>;
}

/// A group, and what it came to.
#[derive(Debug)]
pub(crate) struct Group {
    wish: Wish,
    refused: Vec<Problem>,
    unresolved: Vec<Problem>,
    /// Only when nothing is wrong with it by itself.
    wanted: Option<Forms>,
    /// The first instance for which no virtual router id was left.
    unallocated: Option<usize>,
    outcome: Outcome,
    /// What came of the form in force on each director, once what the director may not run was taken out of it.
    told: Forms,
    /// Of the form in force: advertised or not.
    addresses: Arc<BTreeSet<IpAddr>>,
}

impl Group {
    /// What it holds now, as it can stay: who begins with what is in force knows no more than that.
    fn had(&self) -> Forms {
        let told =
            |(director, has)| (Arc::clone(director), Arc::clone(self.told.get(director).unwrap_or(has)));
        self.outcome.has.iter().map(told).collect()
    }

    /// Whether any form of it is.
    pub(crate) fn is_in_force(&self) -> bool {
        self.outcome.form != Form::Nothing
    }

    /// The directors that carry it out. None may be left in a cluster, where a member may have no Director.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Arc<str>> {
        self.outcome.has.keys()
    }

    /// Whether it has the address, or all of the range.
    pub(crate) fn has(&self, addresses: AddressOrRange) -> bool {
        addresses.addresses().all(|address| self.addresses.contains(&address))
    }

    /// Who may use it beyond its own addresses.
    pub(crate) fn allow(&self) -> &[Allow] {
        &self.wish.spec.allow
    }

    /// What it is.
    pub(crate) fn spec(&self) -> &VrrpGroupSpec {
        &self.wish.spec
    }

    /// Everything that it tracks besides interfaces: as it wants, and as is in force.
    fn tracks(&self) -> BTreeSet<Tracks> {
        let in_force = self.outcome.has.values().flat_map(|form| tracked::names(form.track.as_ref()));
        tracked::names(self.wish.spec.track.as_ref()).chain(in_force).collect()
    }

    /// All directors that it concerns: as a member, or because what is in force has it as one.
    fn directors(&self) -> BTreeSet<Arc<str>> {
        let named = self.wish.spec.members.iter().map(|member| member.director.as_str().into());
        named.chain(self.outcome.has.keys().cloned()).collect()
    }
}

/// All groups.
#[derive(Debug)]
pub(crate) struct Groups {
    trust: Trust,
    known: BTreeMap<Arc<str>, Group>,
    /// By director, the groups that concern it.
    on: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    /// The groups that track it.
    tracking: BTreeMap<Tracks, BTreeSet<Arc<str>>>,
    /// What was in force before the first change.
    remembered: BTreeMap<Arc<str>, Forms>,
}

impl Groups {
    pub(crate) fn new(trust: Trust) -> Groups {
        Groups {
            trust,
            known: BTreeMap::new(),
            on: BTreeMap::new(),
            tracking: BTreeMap::new(),
            remembered: BTreeMap::new(),
        }
    }

    /// Tells, before the first change, what has been in force on a director until now.
    pub(crate) fn remember(&mut self, director: &Arc<str>, forms: &[DirectorVrrpGroup]) {
        for form in forms {
            let known = self.remembered.entry(form.name.as_str().into()).or_default();
            // Whether a machine is out of service now is not known by what was told before.
            let form = || DirectorVrrpGroup { stands_by: false, relieves: false, ..form.clone() };
            known.entry(Arc::clone(director)).or_insert_with(|| Arc::new(form()));
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Group> {
        self.known.get(name)
    }

    /// The groups that concern the director.
    pub(crate) fn on(&self, director: &str) -> impl Iterator<Item = &Arc<str>> {
        self.on.get(director).into_iter().flatten()
    }

    /// Whether being named as a member declares the director: in a directory of files nobody has to write a manifest for each
    /// machine.
    pub(crate) fn declare(&self, director: &str) -> bool {
        self.trust == Trust::Files && self.on.contains_key(director)
    }

    /// What the director has to do for its groups, in the order of their names.
    pub(crate) fn forms(&self, director: &str) -> Vec<DirectorVrrpGroup> {
        let forms = self.on(director).filter_map(|name| self.known.get(name)?.outcome.has.get(director));
        forms.map(|form| form.as_ref().clone()).collect()
    }

    /// Takes in what a director was told in the end. Of a form that stays although something else is wanted, that is what stays.
    pub(crate) fn told(&mut self, director: &str, forms: &[DirectorVrrpGroup]) {
        for form in forms {
            let Some((name, mut group)) = self.known.remove_entry(form.name.as_str()) else { continue };
            if let Some((director, has)) = group.outcome.has.get_key_value(director) {
                let (director, same) = (Arc::clone(director), **has == *form);
                let told = if same { Arc::clone(has) } else { Arc::new(form.clone()) };
                if !same && group.outcome.form == Form::LastGood {
                    self.unlist(&name, &group);
                    group.outcome.has.insert(Arc::clone(&director), Arc::clone(&told));
                    self.list(&name, &group);
                }
                group.told.insert(director, told);
            }
            self.known.insert(name, group);
        }
    }

    /// The groups that track it.
    pub(crate) fn tracking(&self, tracks: &Tracks) -> impl Iterator<Item = &Arc<str>> {
        self.tracking.get(tracks).into_iter().flatten()
    }

    /// The other directors of the groups in force on this one, each with the first such group.
    pub(crate) fn peers(&self, director: &str) -> BTreeMap<&str, &str> {
        let mut peers = BTreeMap::new();
        for name in self.on(director) {
            let has = self.known.get(name).map(|group| &group.outcome.has);
            for peer in has.filter(|has| has.contains_key(director)).into_iter().flat_map(BTreeMap::keys) {
                if **peer != *director {
                    peers.entry(&**peer).or_insert(&**name);
                }
            }
        }
        peers
    }

    /// Takes changed groups in (`None`: gone), and directors that came, went or have other aliases.
    pub(crate) fn change(
        &mut self,
        changes: BTreeMap<Arc<str>, Option<Wish>>,
        directors: &BTreeSet<String>,
        machines: &impl Machines,
    ) -> Stir {
        let mut changes: BTreeMap<Arc<str>, Option<Wish>> = changes;
        for name in directors.iter().flat_map(|director| self.on(director)) {
            let same = || self.known.get(name).map(|group| group.wish.clone());
            if !changes.contains_key(name) {
                changes.insert(Arc::clone(name), same());
            }
        }
        let mut stir = Stir::default();
        let mut before = BTreeMap::new();
        for (name, wish) in changes {
            let old = self.known.remove(&name);
            before.insert(Arc::clone(&name), old.as_ref().map(Seen::of).unwrap_or_default());
            if let Some(old) = &old {
                stir.directors.extend(old.directors());
                self.unlist(&name, old);
            }
            if let Some(wish) = wish {
                let had = match old {
                    Some(old) => old.had(),
                    None => self.remembered.remove(&name).unwrap_or_default(),
                };
                let group = self.evaluate(&name, wish, had, machines);
                stir.directors.extend(group.directors());
                self.list(&name, &group);
                self.known.insert(Arc::clone(&name), group);
            }
            stir.groups.insert(name);
        }
        self.remembered.clear();
        self.allocate(&mut stir, &mut before);
        self.settle(&mut stir, &mut before);
        for (name, before) in before {
            let after = self.known.get(&name).map(Seen::of).unwrap_or_default();
            Groups::compare(&name, &before, &after, &mut stir);
        }
        stir
    }

    fn evaluate(&self, name: &Arc<str>, wish: Wish, had: Forms, machines: &impl Machines) -> Group {
        let spec = &*wish.spec;
        let mut refused = check::alone(self.trust, spec);
        let mut unresolved = Problems::default();
        let mut forms = Forms::new();
        for (i, member) in spec.members.iter().enumerate() {
            let director = &member.director;
            if self.trust == Trust::Cluster && !machines.exists(director) {
                unresolved.add(
                    Reason::DirectorNotFound,
                    format!("spec.members[{i}].director"),
                    format!("there is no Director {director}; the other members go on without it"),
                );
                continue;
            }
            let aliases = machines.aliases(director);
            check::on_director(spec, director, aliases, &mut refused);
            forms.insert(director.as_str().into(), Arc::new(form::form(name, spec, member, aliases)));
        }
        let stays = |director: &Arc<str>| self.trust == Trust::Files || machines.exists(director);
        let has = had.into_iter().filter(|(director, _)| stays(director)).collect();
        Group {
            wanted: refused.0.is_empty().then_some(forms),
            unallocated: None,
            refused: refused.0,
            unresolved: unresolved.0,
            outcome: Outcome { has, ..Outcome::default() },
            told: Forms::new(),
            addresses: Arc::default(),
            wish,
        }
    }

    /// Settles anew between all that have members in common with what changed, directly or through others.
    fn settle(&mut self, stir: &mut Stir, before: &mut BTreeMap<Arc<str>, Seen>) {
        let mut involved = BTreeSet::new();
        let mut seen = stir.directors.clone();
        let mut open: Vec<Arc<str>> = seen.iter().cloned().collect();
        while let Some(director) = open.pop() {
            for name in self.on.get(&director).into_iter().flatten() {
                if involved.insert(Arc::clone(name))
                    && let Some(group) = self.known.get(name)
                {
                    before.entry(Arc::clone(name)).or_insert_with(|| Seen::of(group));
                    open.extend(group.directors().into_iter().filter(|one| seen.insert(Arc::clone(one))));
                }
            }
        }
        let contender = |(name, group): (&Arc<str>, &Group)| Contender {
            name: Arc::clone(name),
            created: group.wish.created,
            wanted: group.wanted.clone().filter(|_| group.unallocated.is_none()),
            had: group.had(),
        };
        let known = involved.iter().filter_map(|name| self.known.get_key_value(name));
        let precedence = Precedence::of(self.trust);
        let outcomes = settle::settle(precedence, known.map(contender).collect());
        for (name, outcome) in outcomes {
            let Some(mut group) = self.known.remove(&name) else { continue };
            self.unlist(&name, &group);
            stir.directors.extend(group.outcome.has.keys().cloned());
            stir.directors.extend(outcome.has.keys().cloned());
            group.outcome = outcome;
            group.addresses = Arc::new(addresses(&group.outcome.has));
            self.list(&name, &group);
            self.known.insert(Arc::clone(&name), group);
        }
        stir.groups.extend(involved);
    }

    /// Adds what others see of the group's change.
    fn compare(name: &Arc<str>, before: &Seen, after: &Seen, stir: &mut Stir) {
        if !after.concerns_users(before) {
            return;
        }
        let held = |seen: &Seen| -> BTreeSet<Held> {
            let held = holds(&seen.has).filter_map(|hold| match hold {
                Hold::Address { director, address } => {
                    Some(Held { director, address, group: Arc::clone(name) })
                }
                Hold::Router { .. } | Hold::Route { .. } => None,
            });
            held.collect()
        };
        let (old, new) = (held(before), held(after));
        stir.released.extend(old.difference(&new).cloned());
        stir.taken.extend(new.difference(&old).cloned());
        stir.users.insert(Arc::clone(name));
    }

    fn list(&mut self, name: &Arc<str>, group: &Group) {
        for director in group.directors() {
            self.on.entry(director).or_default().insert(Arc::clone(name));
        }
        for tracks in group.tracks() {
            self.tracking.entry(tracks).or_default().insert(Arc::clone(name));
        }
    }

    fn unlist(&mut self, name: &Arc<str>, group: &Group) {
        for director in group.directors() {
            if let Some(groups) = self.on.get_mut(&director) {
                groups.remove(name);
                if groups.is_empty() {
                    self.on.remove(&director);
                }
            }
        }
        for tracks in group.tracks() {
            if let Some(groups) = self.tracking.get_mut(&tracks) {
                groups.remove(name);
                if groups.is_empty() {
                    self.tracking.remove(&tracks);
                }
            }
        }
    }

    /// What is to be said of the group; none when there is none. `tracked` is what is wrong with the things that it tracks, `beside`
    /// what is to be said for its machines.
    pub(crate) fn conditions(
        &self,
        name: &str,
        tracked: Vec<Problem>,
        beside: Vec<Warning>,
    ) -> Option<Vec<Condition>> {
        let group = self.known.get(name)?;
        let spec = &*group.wish.spec;
        let mut refused = group.refused.clone();
        refused.extend(group.unallocated());
        let lost = group.outcome.lost.as_ref().zip(group.wanted.as_ref());
        refused.extend(lost.map(|(lost, wanted)| conflict(self.trust, spec, wanted, lost)));
        let mut warnings = warnings::vrrp_group(spec);
        warnings.extend(beside);
        let mut accepted = Condition::judge_with(ConditionType::Accepted, refused, warnings);
        if group.outcome.form == Form::LastGood {
            accepted.add_last_good();
        }
        let unresolved = group.unresolved.iter().cloned().chain(tracked).collect();
        Some(vec![accepted, Condition::judge(ConditionType::ResolvedRefs, unresolved)])
    }

    /// Whether the group's last good form is in force instead of what it wants now.
    pub(crate) fn keeps_last_good(&self, name: &str) -> bool {
        self.known.get(name).is_some_and(|group| group.outcome.form == Form::LastGood)
    }
}

/// What is wrong with a group of files by itself.
pub(crate) fn problems(spec: &VrrpGroupSpec) -> Vec<Problem> {
    check::alone(Trust::Files, spec).0
}

/// They are the same on every member.
fn addresses(forms: &Forms) -> BTreeSet<IpAddr> {
    let instances = forms.values().next().into_iter().flat_map(|form| &form.instances);
    instances
        .flat_map(|one| one.addresses.iter().chain(&one.excluded_addresses))
        .map(|one| one.address)
        .collect()
}

fn conflict(trust: Trust, spec: &VrrpGroupSpec, wanted: &Forms, lost: &Lost) -> Problem {
    let why = trust.why_first();
    let (field, message) = match lost {
        Lost::Taken { hold, winner } => {
            let way_out = match hold {
                Hold::Router { .. } => "take another id",
                Hold::Address { .. } => "take another address",
                Hold::Route { .. } => "take another table or metric",
            };
            let message =
                format!("{hold} is taken by VrrpGroup {winner} ({why}); {way_out}, or remove one of them");
            (field_of(wanted, hold), message)
        }
        Lost::Full { director, most, what, winners } => {
            let member = spec.members.iter().position(|member| *member.director == **director);
            let field = member.map_or("spec.members".to_owned(), |m| format!("spec.members[{m}].director"));
            let (groups, have) =
                if winners.len() == 1 { ("VrrpGroup", "has") } else { ("VrrpGroups", "have") };
            let message = format!(
                "all groups of director {director} together have at most {most} {what}, and {groups} {} {have} left too little \
                 room ({why}); take another director, or less of them",
                winners.join(", ")
            );
            (field, message)
        }
    };
    Problem { reason: Reason::Conflicted, field, message }
}

/// Where the group says that it wants this.
fn field_of(wanted: &Forms, hold: &Hold) -> String {
    let (Hold::Router { director, .. } | Hold::Address { director, .. } | Hold::Route { director, .. }) =
        hold;
    let instances = wanted.get(director).map(|form| form.instances.as_slice()).unwrap_or_default();
    let at = |instance: &Instance| match hold {
        Hold::Router { interface, id, .. } => {
            let it = instance.virtual_router_id == Some(*id) && *instance.interface == **interface;
            it.then(|| "virtualRouterId".to_owned())
        }
        Hold::Address { address, .. } => {
            [("addresses", &instance.addresses), ("excludedAddresses", &instance.excluded_addresses)]
                .into_iter()
                .find_map(|(list, addresses)| {
                    let j = addresses.iter().position(|one| one.address == *address)?;
                    Some(format!("{list}[{j}]"))
                })
        }
        Hold::Route { route, .. } => {
            let j = instance.routes.iter().position(|one| RouteKey::of(one) == *route)?;
            Some(format!("routes[{j}].to"))
        }
    };
    let found =
        instances.iter().enumerate().find_map(|(i, one)| Some(format!("spec.instances[{i}].{}", at(one)?)));
    found.unwrap_or_else(|| "spec.instances".to_owned())
}
