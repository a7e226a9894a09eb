//! Which tasks a change concerns.

use bascule_compile::{BindingKey, Delta};
use bascule_crds::{Kind, Object, ObjectRef};

use super::{Core, Task};
use crate::index::Source;

impl Core {
    /// Notes that a task may be something else.
    pub(super) fn mark(&mut self, task: Task, fresh: bool) {
        *self.marked.entry(task).or_default() |= fresh;
    }

    /// A binding came, went or changed, or should.
    pub(super) fn mark_binding(&mut self, key: BindingKey, director: String, fresh: bool) {
        self.mark(Task::Status(service(&key)), false);
        self.mark(Task::Binding(key, director), fresh);
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
        let services: Vec<_> = node.into_iter().flat_map(|node| node.bindings.keys()).map(service).collect();
        for reference in services {
            self.mark(Task::Status(reference), false);
        }
    }

    /// What belongs to an object belongs to it by its `uid`: one that was made anew under its name is another one.
    pub(super) fn mark_owned(&mut self, reference: &ObjectRef) {
        match reference.kind {
            Kind::Director => self.mark(Task::Config(reference.name.clone()), true),
            Kind::VirtualService => {
                let namespace = reference.namespace.as_deref().unwrap_or_default();
                let key = BindingKey::new(namespace, &reference.name);
                let mut on: Vec<String> = self.index.bound_on(&key).map(str::to_owned).collect();
                let nodes = self.compiler.compiled().nodes.iter();
                on.extend(
                    nodes.filter(|(_, node)| node.bindings.contains_key(&key)).map(|(on, _)| on.clone()),
                );
                for director in on {
                    self.mark_binding(key.clone(), director, true);
                }
            }
            _ => {}
        }
    }

    /// Something else was compiled.
    pub(super) fn mark_delta(&mut self, delta: Delta) {
        for (director, node) in delta.nodes {
            if node.director {
                self.mark(Task::Config(director.clone()), true);
                self.mark_machine(&director);
            }
            if !node.bindings.is_empty() {
                // It counts them.
                self.mark(Task::Status(ObjectRef::new(Kind::Director, None, &director)), false);
            }
            for key in node.bindings {
                self.mark_binding(key, director.clone(), true);
            }
        }
        for reference in delta.conditions {
            self.mark(Task::Status(reference), true);
        }
    }

    /// The API server refuses what a task makes, or takes it now: that is said where the user looks.
    pub(super) fn mark_told(&mut self, task: &Task) {
        match task {
            Task::Binding(key, _) => self.mark(Task::Status(service(key)), false),
            Task::Config(name) => self.mark_machine(name),
            Task::Director(_) | Task::Status(_) => {}
        }
    }

    /// Everything that there is and should be.
    pub(super) fn mark_everything(&mut self) {
        let compiled = self.compiler.compiled();
        let wanted = compiled
            .nodes
            .iter()
            .flat_map(|(director, node)| node.bindings.keys().map(|key| (key.clone(), director.clone())));
        let there = self.index.bindings().map(crate::index::bound_to);
        let mut tasks: Vec<Task> =
            wanted.chain(there).map(|(key, director)| Task::Binding(key, director)).collect();
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

fn service(key: &BindingKey) -> ObjectRef {
    ObjectRef::new(Kind::VirtualService, Some(&*key.namespace), &key.name)
}
