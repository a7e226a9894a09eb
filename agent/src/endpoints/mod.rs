//! Real servers that are the endpoints of a Service of Kubernetes: bindings that name one, and the EndpointSlices of it, become bindings
//! that list their real servers. Pure.
//!
//! Whoever follows either (a directory, the API) says here what has changed, and is told which bindings came out different. Planes and
//! checks get bindings in which everything is spelled out, and need not know of endpoints.

mod names;
mod resolve;
mod slice;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bascule_compile::BindingKey;
use bascule_crds::{DirectorConfigSpec, VirtualServiceBindingSpec};

pub use resolve::{MAX_SERVERS, Place, Resolved, resolve};
pub use slice::{Endpoint, Life, Port, Slice, service_of};

/// A Service of Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The Service that a binding names, if any.
pub fn named_by(key: &BindingKey, spec: &VirtualServiceBindingSpec) -> Option<Service> {
    let from = spec.real_servers_from.as_ref()?;
    Some(Service { namespace: key.namespace.to_string(), name: from.service.clone() })
}

/// A binding that names a Service.
#[derive(Clone, Debug)]
struct Follower {
    service: Service,
    spec: Arc<VirtualServiceBindingSpec>,
    /// With its real servers; none before [`Endpoints::settle`].
    resolved: Option<Arc<VirtualServiceBindingSpec>>,
    remarks: Vec<String>,
}

/// The bindings that name Services, and the slices of these.
#[derive(Debug, Default)]
pub struct Endpoints {
    place: Place,
    bindings: BTreeMap<BindingKey, Follower>,
    followers: BTreeMap<Service, BTreeSet<BindingKey>>,
    slices: BTreeMap<Service, BTreeMap<String, Arc<Slice>>>,
    /// The Service of each slice, by namespace and name.
    service_of: BTreeMap<(String, String), Service>,
    dirty: BTreeSet<BindingKey>,
    /// Other Services are named than when last asked.
    other_services: bool,
}

impl Endpoints {
    /// For a director, without anything.
    pub fn new(director: &str) -> Self {
        Self { place: Place { director: director.to_owned(), ..Place::default() }, ..Self::default() }
    }

    /// Takes what the director's settings say of its place.
    pub fn set_director(&mut self, config: &DirectorConfigSpec) {
        if self.place.zone == config.failure_domain && self.place.allowed == config.allowed_targets {
            return;
        }
        self.place.zone.clone_from(&config.failure_domain);
        self.place.allowed.clone_from(&config.allowed_targets);
        self.dirty.extend(self.bindings.keys().cloned());
    }

    /// Takes a binding, none when it is gone. One that names no Service is no matter of this.
    pub fn set_binding(&mut self, key: &BindingKey, spec: Option<&Arc<VirtualServiceBindingSpec>>) {
        let before = self.bindings.remove(key);
        if let Some(before) = &before
            && let Some(followers) = self.followers.get_mut(&before.service)
        {
            followers.remove(key);
            if followers.is_empty() {
                self.followers.remove(&before.service);
                self.other_services = true;
            }
        }
        self.dirty.remove(key);
        let Some((spec, service)) = spec.and_then(|spec| Some((spec, named_by(key, spec)?))) else { return };
        let followers = self.followers.entry(service.clone()).or_default();
        self.other_services |= followers.is_empty();
        followers.insert(key.clone());
        self.dirty.insert(key.clone());
        // Kept to be compared with.
        let resolved = before.and_then(|before| before.resolved);
        let follower = Follower { service, spec: Arc::clone(spec), resolved, remarks: Vec::new() };
        self.bindings.insert(key.clone(), follower);
    }

    /// Takes a slice, none when it is gone.
    pub fn set_slice(&mut self, namespace: &str, name: &str, slice: Option<Arc<Slice>>) {
        let place = (namespace.to_owned(), name.to_owned());
        let service = slice
            .as_ref()
            .map(|slice| Service { namespace: namespace.to_owned(), name: slice.service.clone() });
        let before = match &service {
            Some(service) => self.service_of.insert(place, service.clone()),
            None => self.service_of.remove(&place),
        };
        if let Some(before) = before.filter(|before| service.as_ref() != Some(before)) {
            if let Some(slices) = self.slices.get_mut(&before) {
                slices.remove(name);
                if slices.is_empty() {
                    self.slices.remove(&before);
                }
            }
            self.touch(&before);
        }
        if let (Some(service), Some(slice)) = (service, slice) {
            let known =
                self.slices.entry(service.clone()).or_default().insert(name.to_owned(), Arc::clone(&slice));
            if known.is_none_or(|known| known != slice) {
                self.touch(&service);
            }
        }
    }

    fn touch(&mut self, service: &Service) {
        self.dirty.extend(self.followers.get(service).into_iter().flatten().cloned());
    }

    /// Brings everything up to date; returns the bindings that came out different.
    pub fn settle(&mut self) -> BTreeSet<BindingKey> {
        let mut changed = BTreeSet::new();
        for key in std::mem::take(&mut self.dirty) {
            let Some(follower) = self.bindings.get_mut(&key) else { continue };
            let Some(from) = &follower.spec.real_servers_from else { continue };
            let slices = self.slices.get(&follower.service).into_iter().flat_map(BTreeMap::values);
            let Resolved { servers, remarks } =
                resolve(&follower.spec, from, slices.map(|slice| &**slice), &self.place);
            follower.remarks = remarks;
            let now = VirtualServiceBindingSpec { real_servers: servers, ..(*follower.spec).clone() };
            // The same stays the same piece of memory.
            if follower.resolved.as_ref().is_none_or(|before| **before != now) {
                follower.resolved = Some(Arc::new(now));
                changed.insert(key);
            }
        }
        changed
    }

    /// A binding with its real servers; none where it names no Service.
    pub fn resolved(&self, key: &BindingKey) -> Option<&Arc<VirtualServiceBindingSpec>> {
        self.bindings.get(key)?.resolved.as_ref()
    }

    /// What is missing or left out, of the bindings of which there is something to say.
    pub fn remarks(&self) -> impl Iterator<Item = (&BindingKey, &[String])> {
        let all = self.bindings.iter().map(|(key, follower)| (key, follower.remarks.as_slice()));
        all.filter(|(_, remarks)| !remarks.is_empty())
    }

    /// Whether other Services may be named than when this was last asked.
    pub fn has_other_services(&mut self) -> bool {
        std::mem::take(&mut self.other_services)
    }

    /// The Services that bindings name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.followers.keys()
    }

    /// Whether a binding names the Service that a slice is of.
    pub fn is_slice_followed(&self, namespace: &str, name: &str) -> bool {
        let place = (namespace.to_owned(), name.to_owned());
        self.service_of.get(&place).is_some_and(|service| self.is_followed(service))
    }

    /// Whether a binding names the Service.
    pub fn is_followed(&self, service: &Service) -> bool {
        self.followers.contains_key(service)
    }

    /// The bindings that name the Service.
    pub fn followers(&self, service: &Service) -> impl Iterator<Item = &BindingKey> {
        self.followers.get(service).into_iter().flatten()
    }

    /// The slices of a Service, by their names.
    pub fn slices(&self, service: &Service) -> impl Iterator<Item = &str> {
        self.slices.get(service).into_iter().flat_map(BTreeMap::keys).map(String::as_str)
    }
}
