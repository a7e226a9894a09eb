//! The EndpointSlices of the Services that bindings name: which are wanted, which are known, and which are still to be read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bascule_compile::BindingKey;
use bascule_crds::VirtualServiceBindingSpec;
use serde_json::Value;

use super::table::Table;
use super::{Source, first};
use crate::api::heard::{Item, Place, What};
use crate::endpoints::{Endpoints, Service, Slice, named_by};

/// Slices of one Service that are held at most: with the 100 endpoints that Kubernetes puts into one, many times what is used.
const MAX_SLICES: usize = 1_024;
/// Services that are read one by one; more at a time are read as one list of all.
const MAX_FETCHES: usize = 16;

/// The slices of the Service that a binding names are not all known.
pub(super) struct Unread;

/// All of it.
#[derive(Debug)]
pub(super) struct Slices {
    pub(super) table: Table<Slice>,
    pub(super) endpoints: Endpoints,
    /// Services of which every slice is known.
    read: BTreeSet<Service>,
    /// Those for whose slices the list that is under way is read.
    asked: BTreeSet<Service>,
    /// Those that are being read by themselves, with the slices that the watch has spoken of since.
    fetching: BTreeMap<Service, BTreeSet<Place>>,
    /// A list of all is to come.
    list_due: bool,
    /// Services of which slices were left out.
    beyond: BTreeSet<Service>,
    /// As last told to whoever reads slices.
    wanted: BTreeSet<Service>,
}

impl Slices {
    pub(super) fn new(director: &str) -> Self {
        Self {
            table: Table::default(),
            endpoints: Endpoints::new(director),
            read: BTreeSet::new(),
            asked: BTreeSet::new(),
            fetching: BTreeMap::new(),
            list_due: false,
            beyond: BTreeSet::new(),
            wanted: BTreeSet::new(),
        }
    }

    /// As it was before the start.
    pub(super) fn remember(&mut self, place: Place, slice: Arc<Slice>) {
        self.endpoints.set_slice(&place.namespace, &place.name, Some(Arc::clone(&slice)));
        self.table.remember(place, slice);
    }

    /// What is remembered counts as all that there is.
    pub(super) fn all_read(&mut self) {
        self.read = self.endpoints.services().cloned().collect();
    }

    /// A list begins.
    pub(super) fn begin(&mut self) {
        self.asked.clear();
        self.table.begin();
    }

    /// The list that began is read for these.
    pub(super) fn asked(&mut self, services: BTreeSet<Service>) {
        self.asked = services;
    }

    /// A list ends. Returns the slices that were not in it, of how many that could have been, and the bindings whose Services are
    /// known now.
    pub(super) fn end(&mut self) -> (Vec<Place>, usize, Vec<BindingKey>) {
        self.list_due = false;
        let asked = std::mem::take(&mut self.asked);
        let mut missing = self.table.end();
        // Of a Service that came to be wanted meanwhile, the list says nothing.
        missing.retain(|place| self.service(place).is_none_or(|service| asked.contains(&service)));
        let all = self
            .table
            .objects
            .keys()
            .filter(|place| self.service(place).is_none_or(|service| asked.contains(&service)));
        let all = all.count();
        let read = asked.iter().flat_map(|service| self.read(service)).collect();
        (missing, all, read)
    }

    /// Notes that every slice of a Service is known; returns the bindings that name it, where that is new.
    pub(super) fn read(&mut self, service: &Service) -> Vec<BindingKey> {
        if !self.endpoints.is_followed(service) || !self.read.insert(service.clone()) {
            return Vec::new();
        }
        self.endpoints.followers(service).cloned().collect()
    }

    fn service(&self, place: &Place) -> Option<Service> {
        let name = self.table.objects.get(place)?.spec.as_ref()?.service.clone();
        Some(Service { namespace: place.namespace.clone(), name })
    }

    /// The slices of a Service that are held.
    pub(super) fn places<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = Place> + 'a {
        let names = self.endpoints.slices(service);
        names.map(|name| Place { namespace: service.namespace.clone(), name: name.to_owned() })
    }

    fn spoken_of(&mut self, place: &Place) {
        for (service, spoken) in &mut self.fetching {
            if service.namespace == place.namespace {
                spoken.insert(place.clone());
            }
        }
    }

    /// What the API server has now. Says whether something else is in force now.
    pub(super) fn put(
        &mut self,
        place: &Place,
        generation: Option<i64>,
        slice: Result<Arc<Slice>, String>,
    ) -> bool {
        self.spoken_of(place);
        if let Ok(slice) = &slice {
            let service = Service { namespace: place.namespace.clone(), name: slice.service.clone() };
            let known = self.table.objects.contains_key(place);
            if !known && self.endpoints.slices(&service).count() >= MAX_SLICES {
                self.beyond.insert(service);
                return false;
            }
        }
        let changed = self.table.put(place.clone(), generation, slice, Value::Null);
        let now = self.table.objects.get(place).and_then(|held| held.spec.clone());
        self.endpoints.set_slice(&place.namespace, &place.name, now);
        changed
    }

    /// It is gone.
    pub(super) fn remove(&mut self, place: &Place) {
        self.spoken_of(place);
        if let Some(service) = self.service(place)
            && self.beyond.remove(&service)
        {
            // There is room for another one, which has to be read.
            self.read.remove(&service);
        }
        self.table.objects.remove(place);
        self.endpoints.set_slice(&place.namespace, &place.name, None);
    }

    /// The slices that are held of Services that no binding names any more.
    pub(super) fn unfollowed(&mut self) -> Vec<Place> {
        if !self.endpoints.has_other_services() {
            return Vec::new();
        }
        let endpoints = &self.endpoints;
        self.read.retain(|service| endpoints.is_followed(service));
        self.beyond.retain(|service| endpoints.is_followed(service));
        self.fetching.retain(|service, _| endpoints.is_followed(service));
        let places = self.table.objects.keys();
        let unfollowed = places
            .filter(|place| !self.service(place).is_some_and(|service| self.endpoints.is_followed(&service)));
        unfollowed.cloned().collect()
    }

    /// Whether a binding names any Service.
    pub(super) fn is_wanted(&self) -> bool {
        self.endpoints.services().next().is_some()
    }

    /// Whether all were listed since the start.
    pub(super) const fn is_listed(&self) -> bool {
        self.table.listed
    }

    /// Services that are named and whose slices are not all known.
    pub(super) fn unread(&self) -> Vec<&Service> {
        self.endpoints.services().filter(|service| !self.read.contains(service)).collect()
    }

    /// The Services that are named, if these are others than when last asked.
    pub(super) fn wanted(&mut self) -> Option<BTreeSet<Service>> {
        if self.endpoints.services().eq(&self.wanted) {
            return None;
        }
        self.wanted = self.endpoints.services().cloned().collect();
        Some(self.wanted.clone())
    }

    /// The Services to be read by themselves, and whether all are to be listed instead.
    pub(super) fn fetches(&mut self) -> (Vec<Service>, bool) {
        // The list that comes, or begins, has them.
        if !self.is_listed() || self.list_due {
            return (Vec::new(), false);
        }
        let unread = self.unread().into_iter().filter(|service| !self.fetching.contains_key(service));
        let unread: Vec<_> = unread.cloned().collect();
        if unread.len() + self.fetching.len() > MAX_FETCHES {
            self.list_due = true;
            return (Vec::new(), true);
        }
        self.fetching.extend(unread.iter().map(|service| (service.clone(), BTreeSet::new())));
        (unread, false)
    }

    /// One was read, or could not be. Returns what the watch has spoken of since; none where it is not wanted any more.
    pub(super) fn end_fetch(&mut self, service: &Service) -> Option<BTreeSet<Place>> {
        self.fetching.remove(service)
    }

    /// What was being read is not any more.
    pub(super) fn give_up_fetches(&mut self) {
        self.fetching.clear();
    }

    /// A binding as it is told, with its real servers.
    ///
    /// # Errors
    /// The slices of its Service are not all known.
    pub(super) fn resolved(
        &self,
        key: &BindingKey,
        spec: Option<Arc<VirtualServiceBindingSpec>>,
    ) -> Result<Option<Arc<VirtualServiceBindingSpec>>, Unread> {
        let Some(spec) = spec else { return Ok(None) };
        let Some(service) = named_by(key, &spec) else { return Ok(Some(spec)) };
        if !self.read.contains(&service) {
            return Err(Unread);
        }
        self.endpoints.resolved(key).map(|spec| Some(Arc::clone(spec))).ok_or(Unread)
    }

    /// Services of which slices were left out for want of room.
    pub(super) const fn beyond(&self) -> &BTreeSet<Service> {
        &self.beyond
    }
}

impl Source {
    /// Has what follows Services follow the bindings that changed.
    pub(super) fn follow(&mut self) {
        for key in &self.dirty {
            let objects = &self.bindings.objects;
            let now = first(&mut self.by_key, key, objects, |spec| *spec.virtual_service == *key.name);
            self.slices.endpoints.set_binding(key, now.as_ref());
        }
        for place in self.slices.unfollowed() {
            self.gone(What::Slices, &place);
        }
    }

    /// The Services whose slices are wanted, if these are others than when last asked.
    pub fn services(&mut self) -> Option<BTreeSet<Service>> {
        self.slices.wanted()
    }

    /// The Services whose slices are to be read now, by themselves; each is told to [`Source::fetched`].
    pub fn fetches(&mut self) -> Vec<Service> {
        let (fetches, all) = self.slices.fetches();
        if all {
            self.again.insert(What::Slices);
        }
        fetches
    }

    /// All slices of a Service were read, or could not be.
    pub fn fetched(&mut self, service: &Service, slices: Option<Vec<Item>>) {
        let Some(spoken) = self.slices.end_fetch(service) else { return };
        let Some(slices) = slices else { return };
        let before: Vec<_> = self.slices.places(service).collect();
        for place in before {
            if !spoken.contains(&place) && !slices.iter().any(|item| item.place == place) {
                self.gone(What::Slices, &place);
            }
        }
        // What the watch spoke of since is newer.
        for item in slices.into_iter().filter(|item| !spoken.contains(&item.place)) {
            self.there(What::Slices, item);
        }
        self.dirty.extend(self.slices.read(service));
    }

    /// What was being read is not any more.
    pub fn disconnected(&mut self) {
        self.slices.give_up_fetches();
    }
}
