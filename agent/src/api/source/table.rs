//! The objects of one kind, as the API server has them and as they are in force.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use crate::api::heard::Place;

/// An object.
#[derive(Clone, Debug)]
pub(super) struct Held<S> {
    /// What is in force; none where no form of it ever could be.
    pub(super) spec: Option<Arc<S>>,
    /// Of the form that the API server has; none while that is not known.
    pub(super) generation: Option<i64>,
    /// Why the form that the API server has cannot be used, if so.
    pub(super) unusable: Option<String>,
    /// Its status there, as far as it is known.
    pub(super) status: Value,
}

/// The objects of a kind. What goes is told by a deletion, or by a list in which it is not.
#[derive(Debug)]
pub(super) struct Table<S> {
    pub(super) objects: BTreeMap<Place, Held<S>>,
    /// Those told since a list began.
    listing: Option<BTreeSet<Place>>,
    /// A whole list was heard since the start.
    pub(super) listed: bool,
}

impl<S> Default for Table<S> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), listing: None, listed: false }
    }
}

impl<S: PartialEq> Table<S> {
    /// As it was before the start.
    pub(super) fn remember(&mut self, place: Place, spec: Arc<S>) {
        let held = Held { spec: Some(spec), generation: None, unusable: None, status: Value::Null };
        self.objects.insert(place, held);
    }

    /// What the API server has now. Says whether something else is in force now.
    pub(super) fn put(
        &mut self,
        place: Place,
        generation: Option<i64>,
        spec: Result<Arc<S>, String>,
        status: Value,
    ) -> bool {
        if let Some(listing) = &mut self.listing {
            listing.insert(place.clone());
        }
        let before = self.objects.get(&place).and_then(|held| held.spec.as_ref());
        let (now, unusable) = match spec {
            Ok(spec) => (Some(spec), None),
            // What was good stays.
            Err(why) => (before.cloned(), Some(why)),
        };
        let changed = before != now.as_ref();
        // The same stays the same piece of memory.
        let spec = if changed { now } else { before.cloned() };
        self.objects.insert(place, Held { spec, generation, unusable, status });
        changed
    }

    /// A list begins; one that did not end said nothing.
    pub(super) fn begin(&mut self) {
        self.listing = Some(BTreeSet::new());
    }

    /// A list ends. Returns those that were not in it.
    pub(super) fn end(&mut self) -> Vec<Place> {
        self.listed = true;
        let Some(listing) = self.listing.take() else { return Vec::new() };
        self.objects.keys().filter(|place| !listing.contains(place)).cloned().collect()
    }

    /// Those in force.
    pub(super) fn in_force(&self) -> impl Iterator<Item = (&Place, &Arc<S>)> {
        self.objects.iter().filter_map(|(place, held)| Some((place, held.spec.as_ref()?)))
    }
}
