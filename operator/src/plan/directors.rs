//! A Director for each labelled Node.

use bascule_crds::{Kind, Object, ObjectRef};
use serde_json::json;

use super::{Action, Part, Target, Write};
use crate::index::{Index, Place, Source};
use crate::names::{MANAGED_BY, MANAGER};

/// What has to be written so that the Director of that name is there when a labelled Node has this name. One that is there is
/// left as it is, whoever made it. It goes with the label only when the operator made it and nobody has changed its spec since.
pub fn director(index: &Index, name: &str) -> Option<Write> {
    let place = Place::cluster(name);
    if index.why_unreadable(Source::Director, &place).is_some() {
        return None;
    }
    let labelled = index.node(name).is_some_and(|node| node.director);
    let there = match index.user(&ObjectRef::new(Kind::Director, None, name)) {
        Some(Object::Director(director)) => Some(director),
        _ => None,
    };
    match (labelled, there) {
        (true, None) => {
            let target = Target { kind: Kind::Director, place, part: Part::Spec };
            let body = json!({
                "apiVersion": bascule_crds::common::API_VERSION,
                "kind": Kind::Director,
                "metadata": {"name": name, "labels": {MANAGED_BY: MANAGER}},
                "spec": {},
            });
            Some(Write { target, action: Action::Apply(body) })
        }
        (false, Some(director)) => {
            let meta = &director.metadata;
            let ours = meta.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY));
            // The API server counts the changes of a spec.
            let untouched = ours.is_some_and(|by| by == MANAGER) && meta.generation == Some(1);
            untouched.then(|| Write::delete(Kind::Director, place, meta))
        }
        _ => None,
    }
}
