//! The middle, without I/O: takes in what was heard, compiles it, says what may have to be written, and, when a write can begin,
//! what that is now. Nothing is to be written before everything has been listed once: else what is not known yet would count as gone.

mod life;
mod machines;
mod marks;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bascule_compile::{Change as ObjectChange, Compiled, Compiler, NodeConfig, Trust};
use bascule_crds::{Kind, Object, ObjectRef};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::bound::{Binding, Bound};
use crate::index::{Change, Heard, Index, Place, Source};
use crate::plan::{self, Write};
use crate::status::{self, Due, Haste, News, Surroundings};

pub use life::STALE;
use life::Signs;
pub use machines::BACK;
use machines::Machines;

/// What belongs together comes within this time: the reports of two agents, say.
const SOON: Duration = Duration::from_millis(200);
/// So long an agent has to speak of what was written for it until it is told that it has not.
const SETTLING: Duration = Duration::from_secs(5);
/// Between two writes of figures that nobody waits for.
const LATE: Duration = Duration::from_secs(5);

/// Now, by the clock that only goes forward, and by the one that people read.
#[derive(Clone, Debug)]
pub struct Moment {
    /// For waiting.
    pub instant: Instant,
    /// For telling; in whole seconds, as the API has it.
    pub time: Time,
}

impl Moment {
    /// That moment.
    pub fn new(instant: Instant, time: Time) -> Moment {
        let seconds = time.0.as_second();
        let time = k8s_openapi::jiff::Timestamp::from_second(seconds).map_or(time, Time);
        Moment { instant, time }
    }
}

/// Something that may have to be written. What exactly, [`Core::plan`] says when its time has come.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Task {
    /// The binding of an object on a director.
    Binding(Bound),
    /// The configuration of a director.
    Config(String),
    /// The Director of a labelled Node.
    Director(String),
    /// The status of a user's object.
    Status(ObjectRef),
}

/// What is to become of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The task.
    pub task: Task,
    /// Not before then; `None`: there is nothing to do.
    pub at: Option<Instant>,
    /// It is another matter than what was tried before: earlier failures say nothing of it.
    pub fresh: bool,
}

/// What a task comes to now.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// The first write. When it is done, the task is looked at again.
    pub write: Write,
    /// What is worth an event when it is done.
    pub news: Vec<News>,
}

/// What became of a write.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It is done; what is there now.
    Done(Heard),
    /// The API server refuses it: the same would be refused again; its words.
    Refused(String),
    /// Something else: it may succeed later.
    Failed,
}

/// The middle.
#[derive(Debug)]
pub struct Core {
    index: Index,
    compiler: Compiler,
    started: bool,
    signs: Signs,
    machines: Machines,
    /// Users' objects of which compiling may say something else.
    changed: BTreeSet<ObjectRef>,
    /// Tasks that may be something else, and whether they are fresh.
    marked: BTreeMap<Task, bool>,
    /// Since when a status should be another one.
    noticed: BTreeMap<ObjectRef, Instant>,
    /// Why the API server refuses what an object should be.
    refused: BTreeMap<(Kind, Place), String>,
    /// Tasks that wait because an object that decides about them cannot be read.
    held: BTreeSet<Task>,
}

impl Default for Core {
    fn default() -> Core {
        Core::new()
    }
}

impl Core {
    /// Knows nothing yet.
    pub fn new() -> Core {
        Core {
            index: Index::default(),
            compiler: Compiler::new(Trust::Cluster),
            started: false,
            signs: Signs::default(),
            machines: Machines::default(),
            changed: BTreeSet::new(),
            marked: BTreeMap::new(),
            noticed: BTreeMap::new(),
            refused: BTreeMap::new(),
            held: BTreeSet::new(),
        }
    }

    /// What is watched.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// What it means.
    pub fn compiled(&self) -> &Compiled {
        self.compiler.compiled()
    }

    /// Whether everything has been listed and compiled.
    pub fn started(&self) -> bool {
        self.started
    }

    /// Takes in what was heard.
    pub fn take_in(&mut self, heard: Heard, now: &Moment) {
        // Whom a binding was for until now.
        let bound = match &heard {
            Heard::There(source, place, ..)
            | Heard::Written(source, place, ..)
            | Heard::Gone(source, place, _)
            | Heard::Deleted(source, place, _) => self.bound_at(*source, place),
            _ => None,
        };
        let before = match &heard {
            Heard::There(source, place, ..) | Heard::Written(source, place, ..) => {
                source.kind().and_then(|kind| self.index.user(&place.reference(kind))).map(version)
            }
            _ => None,
        };
        // A listing may end several bindings at once.
        let all_bound: Vec<_> = match &heard {
            Heard::Listed(source) => {
                let of = self.index.bindings().filter(|one| Some(one.binds()) == source.binds());
                of.map(Binding::bound).collect()
            }
            _ => Vec::new(),
        };
        let changes = self.index.take_in(heard);
        if !self.started {
            for change in &changes {
                if change.source == Source::Lease {
                    self.hear(&change.place.name, now);
                }
            }
            return;
        }
        if !changes.is_empty() {
            for bound in bound.into_iter().chain(all_bound) {
                self.mark_binding(bound, false);
            }
        }
        for change in changes {
            self.follow(&change, before.as_ref(), now);
        }
    }

    /// Whom the binding there is for, if a binding is there.
    fn bound_at(&self, source: Source, place: &Place) -> Option<Bound> {
        self.index.binding(source.binds()?, place).map(Binding::bound)
    }

    /// Marks what a change may concern.
    fn follow(&mut self, change: &Change, before: Option<&Version>, now: &Moment) {
        match change.source {
            Source::VirtualServiceBinding | Source::NatRuleBinding => {
                if let Some(bound) = self.bound_at(change.source, &change.place) {
                    self.mark_binding(bound, false);
                }
            }
            Source::DirectorConfig => {
                self.mark(Task::Config(change.place.name.clone()), false);
                self.mark_machine(&change.place.name);
            }
            Source::Node => {
                self.hear_node(&change.place.name, now);
                self.mark(Task::Director(change.place.name.clone()), true);
            }
            Source::Lease => {
                if let Some(director) = self.hear(&change.place.name, now) {
                    self.mark_all_of(&director);
                }
            }
            source => {
                let Some(kind) = source.kind() else { return };
                let reference = change.place.reference(kind);
                let after = self.index.user(&reference).map(version);
                // A status of ours that comes back is nothing new.
                if before.is_none() || before != after.as_ref() {
                    self.changed.insert(reference.clone());
                }
                if kind == Kind::Director {
                    self.mark(Task::Director(change.place.name.clone()), false);
                }
                self.mark(Task::Status(reference), false);
                if !self.holds() {
                    for task in std::mem::take(&mut self.held) {
                        self.mark(task, true);
                    }
                }
            }
        }
    }

    /// Compiles what changed, and says what may have to be written.
    pub fn settle(&mut self, now: &Moment) -> Vec<Offer> {
        if !self.started {
            if !self.index.complete() {
                return Vec::new();
            }
            self.start(now);
        }
        let machines = self.tell_machines(now);
        if machines || !self.changed.is_empty() {
            let changed = std::mem::take(&mut self.changed);
            for reference in &changed {
                self.mark_owned(reference);
            }
            let index = &self.index;
            let delta =
                self.compiler.apply(changed.into_iter().map(|reference| match index.user(&reference) {
                    Some(object) => ObjectChange::Put(object.clone()),
                    None => ObjectChange::Delete(reference),
                }));
            self.mark_delta(delta);
        }
        for director in self.signs.expire(now.instant) {
            self.mark_all_of(&director);
        }
        let marked = std::mem::take(&mut self.marked);
        marked.into_iter().map(|(task, fresh)| self.offer(task, fresh, now)).collect()
    }

    /// When it has to be asked again though nothing was heard.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.signs.next_deadline().into_iter().chain(self.machines.next_deadline()).min()
    }

    /// Everything is known now: what runs already stays what it is wherever an object cannot have what it wants.
    fn start(&mut self, now: &Moment) {
        self.started = true;
        for (director, node) in programmed(&self.index) {
            self.compiler.remember(&director, &node);
        }
        self.begin_machines(now);
        let users: Vec<Object> = self.index.users().values().cloned().collect();
        self.compiler.apply(users.into_iter().map(ObjectChange::Put));
        self.signs.expire(now.instant);
        self.mark_everything();
    }

    fn offer(&mut self, task: Task, fresh: bool, now: &Moment) -> Offer {
        let Task::Status(reference) = &task else {
            return Offer { task, at: Some(now.instant), fresh };
        };
        let Some(due) = self.due(reference, now) else {
            self.noticed.remove(reference);
            return Offer { task, at: None, fresh };
        };
        let noticed = *self.noticed.entry(reference.clone()).or_insert(now.instant);
        let patience = match due.haste {
            Haste::Now => Duration::ZERO,
            Haste::Soon => SOON,
            Haste::Settling => SETTLING,
            Haste::Late => LATE,
        };
        Offer { task, at: Some(noticed + patience), fresh }
    }

    /// What a task comes to now; nothing if it is as it should be.
    pub fn plan(&mut self, task: &Task, now: &Moment) -> Option<Planned> {
        if let Task::Status(reference) = task {
            self.noticed.remove(reference);
            let due = self.due(reference, now)?;
            return Some(Planned { write: due.write, news: due.news });
        }
        if !matches!(task, Task::Director(_)) && self.holds() {
            self.held.insert(task.clone());
            return None;
        }
        let write = match task {
            Task::Binding(bound) => {
                plan::binding(&self.index, self.compiler.compiled(), bound).into_iter().next()
            }
            Task::Config(name) => plan::config(&self.index, self.compiler.compiled(), name),
            Task::Director(name) => plan::director(&self.index, name),
            Task::Status(_) => None,
        };
        if write.is_none() {
            self.accept(task);
        }
        Some(Planned { write: write?, news: Vec::new() })
    }

    /// Takes in what became of a write of a task.
    pub fn conclude(&mut self, task: &Task, outcome: Outcome, now: &Moment) {
        match outcome {
            Outcome::Done(heard) => {
                self.take_in(heard, now);
                self.accept(task);
            }
            Outcome::Refused(why) => {
                if let Some(of) = object_of(task)
                    && self.refused.insert(of, why.clone()) != Some(why)
                {
                    self.mark_told(task);
                }
            }
            Outcome::Failed => {}
        }
        // Something may have come between that nobody has looked at, because the task was busy.
        self.mark(task.clone(), false);
    }

    /// The API server refuses it no more, or it is not wanted any more.
    fn accept(&mut self, task: &Task) {
        if object_of(task).is_some_and(|of| self.refused.remove(&of).is_some()) {
            self.mark_told(task);
        }
    }

    /// Whether an object cannot be read, and never could, that decides what becomes of many others: what it would have said is taken
    /// for what is there.
    fn holds(&self) -> bool {
        self.index.unreadable().any(|(source, place)| match source {
            Source::VrrpGroup => self.index.user(&place.reference(Kind::VrrpGroup)).is_none(),
            Source::Director => self.index.user(&place.reference(Kind::Director)).is_none(),
            _ => false,
        })
    }

    /// The status that an object should have, if it has another one.
    fn due(&self, reference: &ObjectRef, now: &Moment) -> Option<Due> {
        let life = |director: &str| self.signs.life(director);
        let refused = |kind: Kind, place: &Place| self.refused.get(&(kind, place.clone())).cloned();
        let around = Surroundings {
            index: &self.index,
            compiled: self.compiler.compiled(),
            life: &life,
            refused: &refused,
            now: now.time.clone(),
        };
        status::due(&around, reference)
    }
}

/// An object's spec is the same where these are.
type Version = (Option<String>, Option<i64>);

fn version(object: &Object) -> Version {
    let meta = object.metadata();
    (meta.uid.clone(), meta.generation)
}

/// What a task makes, as the API server names it in its refusals.
fn object_of(task: &Task) -> Option<(Kind, Place)> {
    match task {
        Task::Binding(bound) => Some((bound.binds.kind(), bound.place())),
        Task::Config(name) => Some((Kind::DirectorConfig, Place::cluster(name))),
        Task::Director(_) | Task::Status(_) => None,
    }
}

/// What the agents have been told until now.
fn programmed(index: &Index) -> BTreeMap<String, NodeConfig> {
    let mut nodes: BTreeMap<String, NodeConfig> = BTreeMap::new();
    let empty = || NodeConfig::new(bascule_crds::DirectorConfigSpec::default());
    for config in index.configs() {
        let node = nodes.entry(config.spec.director.clone()).or_insert_with(empty);
        node.director = config.spec.clone();
    }
    for binding in index.bindings() {
        let bound = binding.bound();
        if binding.meta().name.as_deref() != Some(&bound.place().name) {
            continue;
        }
        let node = nodes.entry(bound.director).or_insert_with(empty);
        match binding {
            Binding::VirtualService(one) => {
                node.bindings.insert(bound.key, one.spec.clone().into());
            }
            Binding::NatRule(one) => {
                node.nat_rules.insert(bound.key, one.spec.clone().into());
            }
        }
    }
    nodes
}
