//! Virtual router ids for instances that name none: in a cluster only, one for the whole cluster each, since nothing tells which
//! directors share a network.
//!
//! What an instance has it keeps: as it is in force, else as the group's status has it pinned. So the outcome depends on nothing but the
//! objects and what is in force, and a change of one group moves no other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bascule_crds::vrrp_group::Instance;

use super::{Group, Groups, Seen, Stir};
use crate::types::{Problem, Reason};

/// The order in which ids are given: the low ones are those of routers and examples, on networks of which nobody told us.
fn order() -> impl Iterator<Item = u8> {
    (101..=255).chain(1..=100)
}

impl Group {
    /// Whether an id has to be found for one of its instances.
    fn asks(&self) -> bool {
        self.refused.is_empty() && self.wish.spec.instances.iter().any(|one| one.virtual_router_id.is_none())
    }

    /// The id that an instance has, which is the same on all members.
    fn id_in_force(&self, instance: &str) -> Option<u8> {
        let mut instances = self.outcome.has.values().flat_map(|form| &form.instances);
        instances.find(|one| one.name == instance)?.virtual_router_id
    }

    /// Every id that it names, has or had.
    fn ids(&self) -> impl Iterator<Item = u8> {
        let named = self.wish.spec.instances.iter().filter_map(|one| one.virtual_router_id);
        let has = self.outcome.has.values().flat_map(|form| &form.instances);
        let pins = self.wish.pins.values().copied().filter(|_| self.asks());
        named.chain(has.filter_map(|one| one.virtual_router_id)).chain(pins)
    }

    fn age(&self) -> i128 {
        self.wish.created.unwrap_or(i128::MAX)
    }

    /// Why an instance has none.
    pub(super) fn unallocated(&self) -> Option<Problem> {
        self.unallocated.map(|i| Problem {
            reason: Reason::Conflicted,
            field: format!("spec.instances[{i}].virtualRouterId"),
            message: "is left out, and all 255 ids are some group's of this cluster; give one that is unique on its network".into(),
        })
    }
}

impl Groups {
    /// Finds an id for each instance that names none. Groups that get another one than before are noted.
    pub(super) fn allocate(&mut self, stir: &mut Stir, before: &mut BTreeMap<Arc<str>, Seen>) {
        let asking = self.known.iter().filter(|(_, group)| group.asks());
        let mut asking: Vec<_> = asking.map(|(name, group)| (group.age(), Arc::clone(name))).collect();
        if asking.is_empty() {
            return;
        }
        asking.sort();
        let used: BTreeSet<u8> = self.known.values().flat_map(Group::ids).collect();
        let mut given = BTreeSet::new();
        for (_, name) in asking {
            let Some(group) = self.known.get(&name) else { continue };
            let mut ids: BTreeMap<&str, u8> = BTreeMap::new();
            let mut unallocated = None;
            for (i, instance) in group.wish.spec.instances.iter().enumerate() {
                if instance.virtual_router_id.is_some() {
                    continue;
                }
                let pin = group.wish.pins.get(&instance.name).copied();
                let mut pins = group.id_in_force(&instance.name).into_iter().chain(pin);
                let pinned =
                    pins.find(|id| !given.contains(id) && !self.is_elders(&name, group, instance, *id));
                let id = pinned.or_else(|| order().find(|id| !used.contains(id) && !given.contains(id)));
                match id {
                    Some(id) => {
                        given.insert(id);
                        ids.insert(&instance.name, id);
                    }
                    None => unallocated = unallocated.or(Some(i)),
                }
            }
            let mut wanted = group.wanted.clone();
            for instance in wanted
                .iter_mut()
                .flat_map(BTreeMap::values_mut)
                .flat_map(|form| &mut Arc::make_mut(form).instances)
            {
                if let Some(id) = ids.get(instance.name.as_str()) {
                    instance.virtual_router_id = Some(*id);
                }
            }
            if wanted == group.wanted && unallocated == group.unallocated {
                continue;
            }
            before.entry(Arc::clone(&name)).or_insert_with(|| Seen::of(group));
            stir.directors.extend(group.directors());
            stir.groups.insert(Arc::clone(&name));
            if let Some(group) = self.known.get_mut(&name) {
                group.wanted = wanted;
                group.unallocated = unallocated;
            }
        }
    }

    /// Whether a group that comes first names this id for an interface on which the instance is to be: it would get it, and this group
    /// nothing.
    fn is_elders(&self, name: &Arc<str>, group: &Group, instance: &Instance, id: u8) -> bool {
        let interfaces = |group: &Group, which: &dyn Fn(&Instance) -> bool| -> BTreeSet<(Arc<str>, String)> {
            let forms = group.wanted.iter().flatten();
            forms
                .flat_map(|(director, form)| {
                    let those = form.instances.iter().filter(|one| which(one));
                    those.map(|one| (Arc::clone(director), one.interface.clone()))
                })
                .collect()
        };
        let ours = interfaces(group, &|one| one.name == instance.name);
        self.known.iter().any(|(other, elder)| {
            let names = |one: &Instance| {
                let spec = elder.wish.spec.instances.iter().find(|spec| spec.name == one.name);
                spec.is_some_and(|spec| spec.virtual_router_id == Some(id))
            };
            (elder.age(), other) < (group.age(), name) && !interfaces(elder, &names).is_disjoint(&ours)
        })
    }
}
