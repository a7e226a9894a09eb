//! Machines that are out of service, and what fails together: what comes of both for groups.

use std::collections::BTreeSet;

use bascule_crds::director::DirectorSpec;
use bascule_crds::director_config::DirectorVrrpGroup;

use super::{Compiler, Todo};
use crate::groups::Group;
use crate::machine::{Machine, OutOfService};
use crate::types::{Delta, Warning};

impl Compiler {
    /// Says what others than its Director manifest know of a machine, such as its Kubernetes Node. It counts from the next
    /// [`Compiler::apply`] on; what the manifest says comes first. Returns whether that is something else than before.
    pub fn set_machine(&mut self, director: &str, machine: Machine) -> bool {
        let before = if machine == Machine::default() {
            self.outside.remove(director)
        } else {
            self.outside.insert(director.to_owned(), machine.clone())
        };
        let changed = before.unwrap_or_default() != machine;
        if changed {
            self.pending_machines.insert(director.to_owned());
        }
        changed
    }

    /// Whether [`Compiler::apply`] has something to do without any change.
    pub fn is_behind(&self) -> bool {
        !self.pending.is_empty() || !self.pending_machines.is_empty()
    }

    /// As its manifest and others have it; nothing of a machine without manifest.
    fn machine(&self, director: &str) -> Machine {
        let Some(DirectorSpec { maintenance, failure_domain, .. }) =
            self.directors.get(director).map(|one| &one.spec)
        else {
            return Machine::default();
        };
        let outside = self.outside.get(director);
        let declared = maintenance.filter(|one| one.enabled).map(|_| OutOfService::Maintenance);
        Machine {
            out: declared.or_else(|| outside?.out),
            failure_domain: failure_domain.clone().or_else(|| outside?.failure_domain.clone()),
        }
    }

    /// Notes what machines are now, and in `todo` whom that concerns: all members of their groups.
    pub(super) fn change_machines(&mut self, todo: &mut Todo, delta: &mut Delta) {
        for name in std::mem::take(&mut todo.machines) {
            let machine = self.machine(&name);
            let before = if machine == Machine::default() {
                self.compiled.machines.remove(&name)
            } else {
                self.compiled.machines.insert(name.clone(), machine.clone())
            };
            if before.unwrap_or_default() == machine {
                continue;
            }
            delta.machines.insert(name.clone());
            for group in self.groups.on(&name) {
                todo.groups.insert(group.clone());
                let members = self.groups.get(group).into_iter().flat_map(Group::members);
                todo.directors.extend(members.map(ToString::to_string));
            }
            todo.directors.insert(name);
        }
    }

    fn is_out(&self, director: &str) -> bool {
        self.compiled.machines.get(director).is_some_and(|machine| machine.out.is_some())
    }

    /// Adds to what a director has to do for its groups who of their members is out of service. Where all are, all are members as ever:
    /// somebody has to have the addresses, and to hand them round helps nobody.
    pub(super) fn stand_by(&self, director: &str, forms: &mut [DirectorVrrpGroup]) {
        let out = self.is_out(director);
        for form in forms {
            let others = || {
                let members = self.groups.get(&form.name).into_iter().flat_map(Group::members);
                members.filter(|other| ***other != *director)
            };
            let (stands_by, relieves) = if out {
                (others().any(|other| !self.is_out(other)), false)
            } else {
                (false, others().any(|other| self.is_out(other)))
            };
            (form.stands_by, form.relieves) = (stands_by, relieves);
        }
    }

    /// What is to be said of a group for the machines that carry it out.
    pub(super) fn machine_warnings(&self, group: &Group) -> Vec<Warning> {
        let members: Vec<&str> = group.members().map(|member| &**member).collect();
        let mut warnings = Vec::new();
        if members.len() < 2 {
            return warnings;
        }
        let warn = |message: String| Warning { field: "spec.members".to_owned(), message };
        if members.iter().all(|member| self.is_out(member)) {
            warnings.push(warn(format!(
                "all members are out of service ({}): the addresses stay where they are; put one back",
                members.join(", ")
            )));
        }
        let domain = |member: &&str| {
            self.compiled.machines.get(*member).and_then(|machine| machine.failure_domain.as_deref())
        };
        let domains: BTreeSet<Option<&str>> = members.iter().map(domain).collect();
        if let Some(Some(domain)) = domains.first()
            && domains.len() == 1
        {
            warnings.push(warn(format!(
                "all members are in failure domain {domain}: what takes that down takes the addresses from everybody; add a member \
                 of another one"
            )));
        }
        warnings
    }
}
