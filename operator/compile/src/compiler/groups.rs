//! VrrpGroups: what comes of a change of them for others, and what is to be said of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bascule_crds::common::AddressOrRange;
use bascule_crds::director_config::DirectorVrrpGroup;
use bascule_crds::{Kind, ObjectRef};

use super::{Compiler, Declared, Named, Todo};
use crate::claims::{Claim, What};
use crate::groups::{Group, Held, Stir, Wish};
use crate::tracked::{self, Surroundings, Tracks};
use crate::types::{BindingKey, CheckKey, Delta};

impl Compiler {
    /// Takes in changed groups (`None`: gone), and says in `todo` whom that concerns.
    pub(super) fn change_groups(&mut self, changed: BTreeMap<Arc<str>, Option<Wish>>, todo: &mut Todo) {
        let declared = Declared { names: &self.declared, directors: &self.directors };
        let Stir { groups, users, directors, released, taken } =
            self.groups.change(changed, &todo.directors, &declared);
        todo.groups.extend(groups);
        todo.touched.extend(users.into_iter().map(|name| Named::VrrpGroup(name.to_string())));
        todo.directors.extend(directors.into_iter().map(|name| name.to_string()));
        for (held, reserved) in
            released.into_iter().map(|held| (held, false)).chain(taken.into_iter().map(|held| (held, true)))
        {
            let (claim, owner) = reservation(held);
            todo.reached.extend(self.contest.reserve(&claim, &owner, reserved));
        }
        for named in &todo.touched {
            let Named::HealthCheck(check) = named else { continue };
            for name in self.groups.tracking(&Tracks::Check(check.clone())) {
                todo.groups.insert(Arc::clone(name));
                let members = self.groups.get(name).into_iter().flat_map(Group::members);
                todo.directors.extend(members.map(ToString::to_string));
            }
        }
    }

    fn surroundings<'a>(&'a self, group: &'a Group) -> Surroundings<'a> {
        let director = |name: &Arc<str>| (Arc::clone(name), self.directors.get(&**name).map(|one| &**one));
        Surroundings {
            trust: self.trust,
            allow: group.allow(),
            members: group.members().map(director).collect(),
        }
    }

    /// What the director has to do for its groups, without what nobody allows it.
    pub(super) fn allowed_forms(&self, director: &str) -> Vec<DirectorVrrpGroup> {
        let mut forms = self.groups.forms(director);
        let find = |check: &CheckKey| self.checks.get(check).copied();
        let spec = self.directors.get(director).map(|one| &**one);
        for form in &mut forms {
            if let Some(track) = &mut form.track
                && let Some(group) = self.groups.get(&form.name)
            {
                tracked::only_allowed(track, &self.surroundings(group), spec, find);
            }
        }
        forms
    }

    /// Says of each group that changed, or whose surroundings did, what is to be said.
    pub(super) fn judge_groups(&mut self, todo: &Todo, delta: &mut Delta) {
        for name in &todo.groups {
            let find = |check: &CheckKey| self.checks.get(check).copied();
            let placed = |service: &BindingKey| {
                self.services.contains_key(service).then(|| self.programmed.get(service))
            };
            let tracked = self
                .groups
                .get(name)
                .map(|group| tracked::problems(group.spec(), &self.surroundings(group), find, placed));
            let beside = self.groups.get(name).map(|group| self.machine_warnings(group)).unwrap_or_default();
            let conditions = self.groups.conditions(name, tracked.unwrap_or_default(), beside);
            let reference = ObjectRef { kind: Kind::VrrpGroup, namespace: None, name: name.to_string() };
            self.set_conditions(reference, conditions, delta);
        }
    }
}

/// What a group's address keeps others from: having it on an interface, where the group adds and removes it. For the contest
/// the group is a key without namespace, which no VirtualService has.
fn reservation(held: Held) -> (Claim, BindingKey) {
    let Held { director, address, group } = held;
    let claim =
        Claim { director, what: What::Interface, addresses: AddressOrRange::single(address), tag: None };
    (claim, BindingKey::new("", &group))
}
