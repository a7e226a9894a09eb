//! What is to be written so that the API server holds what was compiled: pure, minimal, and never what is there already.

mod difference;
mod directors;
#[cfg(test)]
mod tests;

use bascule_compile::Compiled;
use bascule_crds::common::API_VERSION;
use bascule_crds::{Kind, Object, ObjectRef};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde::Serialize;
use serde_json::{Value, json};

use crate::bound::{Binding, Bound};
use crate::index::{Index, Place};
use crate::names::{MANAGED_BY, MANAGER};

pub use difference::Difference;
pub use directors::director;

/// Which part of an object is written. Each has a field manager of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Its spec, and that it exists.
    Spec,
    /// Its status.
    Status,
}

/// What is written to: one write at a time is under way for each.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// The object's kind.
    pub kind: Kind,
    /// The object.
    pub place: Place,
    /// The part of it.
    pub part: Part,
}

/// What is done to it.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Server-side apply of this.
    Apply(Value),
    /// Removes what somebody else added and what an apply would therefore leave: JSON pointers, in this order. Only in this version of the object.
    Strip {
        /// The object's `resourceVersion`.
        version: String,
        /// What is to go.
        pointers: Vec<String>,
    },
    /// Deletes the object, if it is still that one.
    Delete {
        /// Its `uid`.
        uid: Option<String>,
        /// Its `resourceVersion`.
        version: Option<String>,
    },
}

/// One request to the API server.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    /// To what.
    pub target: Target,
    /// What.
    pub action: Action,
}

impl Write {
    fn delete(kind: Kind, place: Place, meta: &ObjectMeta) -> Write {
        let action = Action::Delete { uid: meta.uid.clone(), version: meta.resource_version.clone() };
        Write { target: Target { kind, place, part: Part::Spec }, action }
    }
}

/// What has to be written for an object on a director, in this order.
pub fn binding(index: &Index, compiled: &Compiled, bound: &Bound) -> Vec<Write> {
    let reference = bound.owner();
    let owner = index.user(&reference);
    // What cannot be read may well want what is there.
    if owner.is_none() && index.why_unreadable(bound.binds.owner(), &Place::from(&reference)).is_some() {
        return Vec::new();
    }
    let (kind, place) = (bound.binds.kind(), bound.place());
    let wanted = bound.wanted(compiled).zip(owner);
    let mut writes = Vec::new();
    for (at, binding) in index.bound(bound) {
        if wanted.is_none() || at != place {
            writes.push(Write::delete(kind, at, binding.meta()));
        }
    }
    let Some((wanted, owner)) = wanted else { return writes };
    let owner = Owner::of(owner);
    match index.binding(bound.binds, &place) {
        Some(other) if other.bound() != *bound => {
            // Whom it is for cannot be changed: it has to go first.
            writes.push(Write::delete(kind, place, other.meta()));
        }
        live => {
            let said = live.map(Binding::spec);
            let live = live.map(Binding::meta).zip(said.as_ref());
            writes.extend(spec(kind, place, &wanted, live, Some(&owner)));
        }
    }
    writes
}

/// What has to be written for the configuration of a director.
pub fn config(index: &Index, compiled: &Compiled, name: &str) -> Option<Write> {
    let kind = Kind::DirectorConfig;
    let place = Place::cluster(name);
    let live = index.config(name);
    let Some(wanted) = compiled.nodes.get(name).map(|node| &node.director) else {
        return live.map(|live| Write::delete(kind, place, &live.metadata));
    };
    // Whom it is for cannot be changed.
    if let Some(other) = live.filter(|live| live.spec.director != name) {
        return Some(Write::delete(kind, place, &other.metadata));
    }
    let owner = index.user(&ObjectRef::new(Kind::Director, None, name)).map(Owner::of);
    spec(kind, place, wanted, live.map(|live| (&live.metadata, &live.spec)), owner.as_ref())
}

/// Whom an object belongs to: it goes with its owner also where no operator runs.
struct Owner {
    kind: Kind,
    name: String,
    uid: String,
}

impl Owner {
    fn of(object: &Object) -> Owner {
        let meta = object.metadata();
        Owner {
            kind: object.kind(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
        }
    }

    fn is(&self, reference: &OwnerReference) -> bool {
        reference.uid == self.uid && reference.kind == self.kind.as_str() && reference.name == self.name
    }

    fn reference(&self) -> Value {
        // No `blockOwnerDeletion`: that is for finalizers, and needs the right to write them.
        json!({"apiVersion": API_VERSION, "kind": self.kind, "name": self.name, "uid": self.uid, "controller": true})
    }
}

/// Makes an object what it should be: nothing, an apply, or the removal of what an apply leaves.
fn spec<S: Serialize + PartialEq>(
    kind: Kind,
    place: Place,
    wanted: &S,
    live: Option<(&ObjectMeta, &S)>,
    owner: Option<&Owner>,
) -> Option<Write> {
    let target = Target { kind, place, part: Part::Spec };
    let wanted_json = serde_json::to_value(wanted).unwrap_or_default();
    if let Some((meta, spec)) = live {
        let marked = is_marked(meta, owner);
        if marked && spec == wanted {
            return None;
        }
        let difference =
            Difference::of(&serde_json::to_value(spec).unwrap_or_default(), &wanted_json, "/spec");
        if marked && !difference.lacks {
            let version = meta.resource_version.clone().unwrap_or_default();
            let action = Action::Strip { version, pointers: difference.surplus };
            return Some(Write { target, action });
        }
    }
    let body = object(&target, live.map(|(meta, _)| meta), owner, &wanted_json);
    Some(Write { target, action: Action::Apply(body) })
}

fn is_marked(meta: &ObjectMeta, owner: Option<&Owner>) -> bool {
    let labelled = meta.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY));
    let owners = meta.owner_references.as_deref().unwrap_or_default();
    let owned = owner.is_none_or(|owner| owners.iter().any(|one| owner.is(one)));
    labelled.is_some_and(|by| by == MANAGER) && owned
}

fn object(target: &Target, live: Option<&ObjectMeta>, owner: Option<&Owner>, spec: &Value) -> Value {
    let mut metadata = json!({"name": target.place.name, "labels": {MANAGED_BY: MANAGER}});
    if target.kind.is_namespaced() {
        metadata["namespace"] = json!(target.place.namespace);
    }
    if let Some(owner) = owner {
        metadata["ownerReferences"] = json!([owner.reference()]);
    }
    // Nothing newer is overwritten, and nothing that is gone is made anew.
    if let Some(live) = live {
        metadata["resourceVersion"] = json!(live.resource_version);
        metadata["uid"] = json!(live.uid);
    }
    json!({"apiVersion": API_VERSION, "kind": target.kind, "metadata": metadata, "spec": spec})
}
