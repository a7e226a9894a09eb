//! Which tasks a change concerns.

use bascule_compile::{BindingKey, Delta};
use bascule_crds::{Kind, Object, ObjectRef};

use super::{Core, Task};
use crate::bound::{Binding, Binds, Bound};
use crate::index::Source;

impl Core {
    /// Notes that a task may be something else.
    pub(super) fn mark(&mut self, task: Task, fresh: bool) {
        *self.marked.entry(task).or_default() |= fresh;
    }

    /// A binding came, went or changed, or should.
    pub(super) fn mark_binding(&mut self, bound: Bound, fresh: bool) {
        self.mark(Task::Status(bound.owner()), false);
        self.mark(Task::Binding(bound), fresh);
    }

    /// What its agent says of a machine is something else.
    pub(super) fn mark_machine(&mut self, director: &str) {
        self.mark(Task::Status(ObjectRef::new(Kind::Director, None, director)), false);
        let groups = self.index.users_of(Kind::VrrpGroup).filter_map(|(reference, object)| match object {
            Object::VrrpGroup(group) => {
                group.spec.members.iter().any(|member| member.director == director).then(|| reference.clone())
            }
            _ => None,
        });
        for group in groups.collect::<Vec<_>>() {
            self.mark(Task::Status(group), false);
        }
    }

    /// A director's agent lives again, or does so no more.
    pub(super) fn mark_all_of(&mut self, director: &str) {
        self.mark_machine(director);
        let node = self.compiler.compiled().nodes.get(director);
        let bound = node.into_iter().flat_map(|node| Bound::on(director, node));
        for owner in bound.map(|bound| bound.owner()).collect::<Vec<_>>() {
            self.mark(Task::Status(owner), false);
        }
    }

    /// What belongs to an object belongs to it by its `uid`: one that was made anew under its name is another one.
    pub(super) fn mark_owned(&mut self, reference: &ObjectRef) {
        if reference.kind == Kind::Director {
            self.mark(Task::Config(reference.name.clone()), true);
        }
        let Some(binds) = Binds::of(reference.kind) else { return };
        let key = BindingKey::new(reference.namespace.as_deref().unwrap_or_default(), &reference.name);
        let there = self.index.bound_on(binds, &key).map(|on| Bound::new(binds, key.clone(), on));
        let compiled = self.compiler.compiled();
        let wanted = compiled.nodes.keys().map(|on| Bound::new(binds, key.clone(), on));
        let wanted = wanted.filter(|bound| bound.wanted(compiled).is_some());
        for bound in there.chain(wanted).collect::<Vec<_>>() {
            self.mark_binding(bound, true);
        }
    }

    /// Something else was compiled.
    pub(super) fn mark_delta(&mut self, delta: Delta) {
        for (director, node) in delta.nodes {
            if node.director {
                self.mark(Task::Config(director.clone()), true);
                self.mark_machine(&director);
            }
            if !node.bindings.is_empty() || !node.nat_rules.is_empty() {
                // It counts them.
                self.mark(Task::Status(ObjectRef::new(Kind::Director, None, &director)), false);
            }
            for (binds, keys) in [(Binds::VirtualService, node.bindings), (Binds::NatRule, node.nat_rules)] {
                for key in keys {
                    self.mark_binding(Bound::new(binds, key, &director), true);
                }
            }
        }
        for director in delta.machines {
            // Also what is on it alone: that takes no new connections while it is out of service.
            self.mark_all_of(&director);
        }
        for reference in delta.conditions {
            self.mark(Task::Status(reference), true);
        }
    }

    /// The API server refuses what a task makes, or takes it now: that is said where the user looks.
    pub(super) fn mark_told(&mut self, task: &Task) {
        match task {
            Task::Binding(bound) => self.mark(Task::Status(bound.owner()), false),
            Task::Config(name) => self.mark_machine(name),
            Task::Director(_) | Task::Status(_) => {}
        }
    }

    /// Everything that there is and should be.
    pub(super) fn mark_everything(&mut self) {
        let compiled = self.compiler.compiled();
        let there = self.index.bindings().map(Binding::bound);
        let mut tasks: Vec<Task> = Bound::all(compiled).chain(there).map(Task::Binding).collect();
        tasks.extend(compiled.nodes.keys().cloned().map(Task::Config));
        tasks
            .extend(self.index.configs().filter_map(|config| config.metadata.name.clone()).map(Task::Config));
        let nodes = self.index.places(Source::Node).into_iter().chain(self.index.places(Source::Director));
        tasks.extend(nodes.map(|place| Task::Director(place.name)));
        tasks.extend(self.index.users().keys().cloned().map(Task::Status));
        for task in tasks {
            self.mark(task, true);
        }
    }
}
