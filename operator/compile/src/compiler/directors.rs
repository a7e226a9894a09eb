//! The machines: which there are, how each is configured, and what is to be said of them.

use bascule_crds::director::{ConnectionSync, Director, DirectorSpec};
use bascule_crds::{Kind, ObjectRef};

use super::{Compiler, Named, Todo};
use crate::bind;
use crate::groups::Aliases;
use crate::types::{Condition, ConditionType, Delta, NodeConfig, Warning};

impl Compiler {
    /// Takes in what a Director manifest says now.
    pub(super) fn change_director(&mut self, name: String, director: Option<Box<Director>>, todo: &mut Todo) {
        let old = match &director {
            Some(director) => self.directors.insert(name.clone(), director.clone()),
            None => self.directors.remove(&name),
        };
        let (before, after) = (old.as_ref().map(|d| &d.spec), director.as_ref().map(|d| &d.spec));
        // A director that was declared exists with or without a manifest.
        let access = |spec: &DirectorSpec| (spec.allow.clone(), spec.allowed_targets.clone());
        if before.map(access) != after.map(access) {
            todo.touched.insert(Named::Director(name.clone()));
            let groups = self.groups.on(&name);
            todo.touched.extend(groups.map(|group| Named::VrrpGroup(group.to_string())));
        }
        let none = Aliases::new();
        let aliases =
            |spec: Option<&DirectorSpec>| spec.map_or(none.clone(), |spec| spec.interface_aliases.clone());
        let (before_aliases, after_aliases) = (aliases(before), aliases(after));
        for alias in before_aliases.keys().chain(after_aliases.keys()) {
            if before_aliases.get(alias) != after_aliases.get(alias) {
                todo.touched.insert(Named::Interface(name.clone(), alias.clone()));
            }
        }
        let (old_sync, new_sync) =
            (before.and_then(bind::connection_sync), after.and_then(bind::connection_sync));
        if old_sync != new_sync {
            self.change_sync(&name, old_sync.as_ref(), new_sync.as_ref(), todo);
        }
        let machine = |spec: &DirectorSpec| {
            (spec.maintenance.is_some_and(|one| one.enabled), spec.failure_domain.clone())
        };
        if before.map(machine) != after.map(machine) {
            todo.machines.insert(name.clone());
        }
        todo.directors.insert(name);
    }

    /// Notes another synchronisation, and whose conditions may speak of it.
    fn change_sync(
        &mut self,
        name: &str,
        old: Option<&ConnectionSync>,
        new: Option<&ConnectionSync>,
        todo: &mut Todo,
    ) {
        if let Some(sync) = old
            && let Some(those) = self.syncs.get_mut(&sync.sync_id)
        {
            those.remove(name);
            todo.beside.extend(those.iter().cloned());
            if those.is_empty() {
                self.syncs.remove(&sync.sync_id);
            }
        }
        if let Some(sync) = new {
            let those = self.syncs.entry(sync.sync_id).or_default();
            todo.beside.extend(those.iter().cloned());
            those.insert(name.to_owned());
        }
        todo.beside.extend(self.groups.peers(name).into_keys().map(str::to_owned));
    }

    /// Makes the nodes of the directors what they should be, without their bindings.
    pub(super) fn change_nodes(&mut self, todo: &mut Todo, delta: &mut Delta) {
        for name in &todo.directors {
            let (existed, exists) = (self.compiled.nodes.contains_key(name), self.exists(name));
            if existed != exists {
                todo.touched.insert(Named::Director(name.clone()));
            }
            if exists {
                self.change_node(name, delta);
            } else if existed {
                delta.nodes.entry(name.clone()).or_default().director = true;
                todo.gone.push(name.clone());
            }
        }
    }

    fn change_node(&mut self, name: &str, delta: &mut Delta) {
        let spec = self.directors.get(name).map(|d| &d.spec);
        let forms = self.allowed_forms(name);
        let mut told = forms.clone();
        self.stand_by(name, &mut told);
        let domain = self.compiled.machines.get(name).and_then(|machine| machine.failure_domain.clone());
        let config = bind::director_config(name, spec, domain, told);
        self.groups.told(name, &forms);
        let changed = match self.compiled.nodes.get_mut(name) {
            Some(node) if node.director == config => false,
            Some(node) => {
                node.director = config;
                true
            }
            None => {
                self.compiled.nodes.insert(name.to_owned(), NodeConfig::new(config));
                true
            }
        };
        if changed {
            delta.nodes.entry(name.to_owned()).or_default().director = true;
        }
    }

    /// Says of each Director that changed, or beside which something did, what is to be said.
    pub(super) fn judge_directors(&mut self, todo: &Todo, delta: &mut Delta) {
        for name in todo.directors.union(&todo.beside) {
            let conditions = self.directors.get(name).map(|director| {
                let warnings = self.sync_warnings(name, &director.spec);
                vec![Condition::judge_with(ConditionType::Accepted, Vec::new(), warnings)]
            });
            let reference = ObjectRef { kind: Kind::Director, namespace: None, name: name.clone() };
            self.set_conditions(reference, conditions, delta);
        }
    }

    fn sync_of(&self, director: &str) -> Option<ConnectionSync> {
        bind::connection_sync(&self.directors.get(director)?.spec)
    }

    /// Connections survive a takeover only if the members of a group tell each other of them, and nobody wants those of others.
    /// Of each kind the first other director is named.
    fn sync_warnings(&self, name: &str, spec: &DirectorSpec) -> Vec<Warning> {
        let own = bind::connection_sync(spec);
        let peers = self.groups.peers(name);
        let mut warnings = Vec::new();
        let mut warn = |field: &str, message: String| {
            warnings.push(Warning { field: format!("spec.{field}"), message });
        };
        let others = || peers.iter().map(|(peer, group)| (peer, group, self.sync_of(peer)));
        if let Some(own) = &own {
            let other = others().find_map(|(peer, group, sync)| {
                sync.filter(|sync| sync.sync_id != own.sync_id).map(|sync| (peer, group, sync.sync_id))
            });
            if let Some((peer, group, id)) = other {
                warn(
                    "connectionSync.syncId",
                    format!(
                        "is {}, and {id} on director {peer}, a member of VrrpGroup {group} as well: neither takes the other's \
                         connections, and a takeover ends them; give both the same",
                        own.sync_id
                    ),
                );
            }
        }
        let one_sided = others().find(|(_, _, sync)| sync.is_some() != own.is_some());
        if let Some((peer, group, sync)) = one_sided {
            let (with, without) = if sync.is_some() { (*peer, name) } else { (name, *peer) };
            warn(
                "connectionSync",
                format!(
                    "of the members of VrrpGroup {group}, director {with} has it and director {without} has not: connections do \
                     not survive a takeover between them; give it to both"
                ),
            );
        }
        let mut same_id = own.iter().filter_map(|own| self.syncs.get(&own.sync_id)).flatten();
        let stranger = same_id.find(|other| {
            let sync = self.sync_of(other);
            *other != name
                && !peers.contains_key(other.as_str())
                && sync.map(|sync| sync.interface) == own.as_ref().map(|own| own.interface.clone())
        });
        if let (Some(stranger), Some(own)) = (stranger, &own) {
            warn(
                "connectionSync.syncId",
                format!(
                    "is {} on interface {}, as on director {stranger}, which shares no VrrpGroup with this one: on one network \
                     each takes all of the other's connections; give them different ones",
                    own.sync_id, own.interface
                ),
            );
        }
        warnings
    }
}
