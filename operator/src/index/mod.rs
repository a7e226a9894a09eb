//! Everything that is watched, as it was last heard of. It answers without asking anybody, and knows nothing of what it means.

mod facts;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bascule_compile::BindingKey;
use bascule_crds::{DirectorConfig, Kind, Object, ObjectRef};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::bound::{Binding, Binds, Bound};

pub use facts::{LeaseFacts, NodeFacts, meta_of, status_of};

/// What is watched: each is listed and followed by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// Written by users.
    VirtualService,
    /// Written by users.
    HealthCheck,
    /// Written by users.
    VrrpGroup,
    /// Written by users.
    NatRule,
    /// Written by users, or by the operator for a labelled Node.
    Director,
    /// Written by the operator; their status by agents.
    VirtualServiceBinding,
    /// Written by the operator; their status by agents.
    NatRuleBinding,
    /// Written by the operator; their status by agents.
    DirectorConfig,
    /// Kubernetes' own.
    Node,
    /// Life signs of directors, in the operator's namespace.
    Lease,
}

impl Source {
    /// All of them.
    pub const ALL: [Source; 10] = [
        Source::VirtualService,
        Source::HealthCheck,
        Source::VrrpGroup,
        Source::NatRule,
        Source::Director,
        Source::VirtualServiceBinding,
        Source::NatRuleBinding,
        Source::DirectorConfig,
        Source::Node,
        Source::Lease,
    ];

    /// The name of its kind.
    pub const fn as_str(self) -> &'static str {
        match self.kind() {
            Some(kind) => kind.as_str(),
            None if matches!(self, Source::Node) => "Node",
            None => "Lease",
        }
    }

    /// Its kind, if it is one of Bascule's own.
    pub const fn kind(self) -> Option<Kind> {
        match self {
            Source::VirtualService => Some(Kind::VirtualService),
            Source::HealthCheck => Some(Kind::HealthCheck),
            Source::VrrpGroup => Some(Kind::VrrpGroup),
            Source::NatRule => Some(Kind::NatRule),
            Source::Director => Some(Kind::Director),
            Source::VirtualServiceBinding => Some(Kind::VirtualServiceBinding),
            Source::NatRuleBinding => Some(Kind::NatRuleBinding),
            Source::DirectorConfig => Some(Kind::DirectorConfig),
            Source::Node | Source::Lease => None,
        }
    }

    /// What its bindings bind, if they are bindings.
    pub const fn binds(self) -> Option<Binds> {
        match self {
            Source::VirtualServiceBinding => Some(Binds::VirtualService),
            Source::NatRuleBinding => Some(Binds::NatRule),
            _ => None,
        }
    }

    /// The source of a kind; none for a kind that is not watched.
    pub fn of(kind: Kind) -> Option<Source> {
        Source::ALL.into_iter().find(|source| source.kind() == Some(kind))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name of a watched object among all of its source: its namespace, empty where it has none, and its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Its namespace, or nothing.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Place {
    /// Where the object of that metadata is.
    pub fn of(meta: &ObjectMeta) -> Place {
        Place {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        }
    }

    /// Of a kind without namespaces.
    pub fn cluster(name: &str) -> Place {
        Place { namespace: String::new(), name: name.to_owned() }
    }

    /// The object's name among all of Bascule's.
    pub fn reference(&self, kind: Kind) -> ObjectRef {
        let namespace = kind.is_namespaced().then_some(self.namespace.as_str());
        ObjectRef::new(kind, namespace, &self.name)
    }
}

impl From<&ObjectRef> for Place {
    fn from(reference: &ObjectRef) -> Place {
        Place { namespace: reference.namespace.clone().unwrap_or_default(), name: reference.name.clone() }
    }
}

/// A watched object.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// One that users write.
    User(Object),
    /// One of the operator's own.
    Binding(Binding),
    /// One of the operator's own.
    Config(Box<DirectorConfig>),
    /// A machine of the cluster.
    Node(NodeFacts),
    /// A director's life sign.
    Lease(LeaseFacts),
}

/// Something that was heard from the API server.
#[derive(Clone, Debug)]
pub enum Heard {
    /// A source is listed from now on, for the first time or anew.
    Listing(Source),
    /// An object is there, or has changed; within a listing or not. The version is that of the API server.
    There(Source, Place, Option<u64>, Box<Item>),
    /// An object is there and cannot be read by this version; why.
    Unreadable(Source, Place, Option<u64>, String),
    /// An object is gone.
    Gone(Source, Place, Option<u64>),
    /// The listing is complete: what was not in it is gone.
    Listed(Source),
    /// What the API server answered to a write of ours. It counts unless the watch is already as far.
    Written(Source, Place, Option<u64>, Box<Item>),
    /// An object that we deleted, or that the API server has not: by its `uid`, for there may be another one by now.
    Deleted(Source, Place, Option<String>),
}

/// What changed in the index.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// Of which source.
    pub source: Source,
    /// Which object.
    pub place: Place,
}

/// Everything that is watched.
#[derive(Debug, Default)]
pub struct Index {
    users: BTreeMap<ObjectRef, Object>,
    bindings: BTreeMap<(Binds, Place), Binding>,
    /// Names of the bindings of an object on a director: one, unless somebody else makes some.
    bound: BTreeMap<Bound, BTreeSet<String>>,
    configs: BTreeMap<String, Box<DirectorConfig>>,
    nodes: BTreeMap<String, NodeFacts>,
    leases: BTreeMap<String, LeaseFacts>,
    unreadable: BTreeMap<(Source, Place), String>,
    /// What a listing that goes on has named.
    listing: BTreeMap<Source, BTreeSet<Place>>,
    listed: BTreeSet<Source>,
    /// The newest version that the watch of a source has told of.
    newest: BTreeMap<Source, u64>,
}

impl Index {
    /// Takes in what was heard, and says what that changed.
    pub fn take_in(&mut self, heard: Heard) -> Vec<Change> {
        match heard {
            Heard::Listing(source) => {
                self.listing.insert(source, BTreeSet::new());
                // A server that was set back to an earlier state counts from there.
                self.newest.remove(&source);
                Vec::new()
            }
            Heard::There(source, place, version, item) => {
                self.note(source, &place, version);
                // What the answer to a write has told already is newer.
                let late = version.is_some() && version < self.version(source, &place);
                let counts = !late || self.listing.contains_key(&source);
                if counts { self.put(source, place, *item) } else { Vec::new() }
            }
            Heard::Unreadable(source, place, version, why) => {
                self.note(source, &place, version);
                self.unreadable.insert((source, place.clone()), why);
                vec![Change { source, place }]
            }
            Heard::Gone(source, place, version) => {
                self.note(source, &place, version);
                self.remove(source, place)
            }
            Heard::Listed(source) => {
                self.listed.insert(source);
                let named = self.listing.remove(&source).unwrap_or_default();
                let gone: Vec<Place> =
                    self.places(source).into_iter().filter(|place| !named.contains(place)).collect();
                gone.into_iter().flat_map(|place| self.remove(source, place)).collect()
            }
            Heard::Written(source, place, version, item) => {
                // What the watch has told of is newer, or the same: perhaps the object is gone since.
                let told = version.is_none() || version <= self.newest.get(&source).copied();
                if told { Vec::new() } else { self.put(source, place, *item) }
            }
            Heard::Deleted(source, place, uid) => {
                if self.uid(source, &place) == uid {
                    self.remove(source, place)
                } else {
                    Vec::new()
                }
            }
        }
    }

    fn uid(&self, source: Source, place: &Place) -> Option<String> {
        self.meta(source, place)?.uid.clone()
    }

    fn version(&self, source: Source, place: &Place) -> Option<u64> {
        self.meta(source, place)?.resource_version.as_ref()?.parse().ok()
    }

    fn meta(&self, source: Source, place: &Place) -> Option<&ObjectMeta> {
        if let Some(binds) = source.binds() {
            return self.binding(binds, place).map(Binding::meta);
        }
        match source {
            Source::DirectorConfig => self.configs.get(&place.name).map(|one| &one.metadata),
            _ => source.kind().and_then(|kind| self.users.get(&place.reference(kind))).map(Object::metadata),
        }
    }

    fn note(&mut self, source: Source, place: &Place, version: Option<u64>) {
        if let Some(named) = self.listing.get_mut(&source) {
            named.insert(place.clone());
        }
        let newest = self.newest.entry(source).or_default();
        *newest = (*newest).max(version.unwrap_or_default());
    }

    fn put(&mut self, source: Source, place: Place, item: Item) -> Vec<Change> {
        self.unreadable.remove(&(source, place.clone()));
        // What is only kept by somebody's finalizer is gone for us: what belongs to it must not be made anew while it is collected.
        if matches!(&item, Item::User(object) if object.metadata().deletion_timestamp.is_some()) {
            return self.remove(source, place);
        }
        let name = || place.name.clone();
        let same = match item {
            Item::User(object) => {
                let reference = object.reference();
                let same = self.users.get(&reference) == Some(&object);
                if !same {
                    self.users.insert(reference, object);
                }
                same
            }
            Item::Binding(binding) => {
                let at = (binding.binds(), place.clone());
                let same = self.bindings.get(&at) == Some(&binding);
                if !same {
                    self.unbind(&at);
                    self.bound.entry(binding.bound()).or_default().insert(name());
                    self.bindings.insert(at, binding);
                }
                same
            }
            Item::Config(config) => replace(&mut self.configs, name(), config),
            Item::Node(facts) => replace(&mut self.nodes, name(), facts),
            Item::Lease(facts) => replace(&mut self.leases, name(), facts),
        };
        if same { Vec::new() } else { vec![Change { source, place }] }
    }

    fn remove(&mut self, source: Source, place: Place) -> Vec<Change> {
        let unreadable = self.unreadable.remove(&(source, place.clone())).is_some();
        let there = match source {
            Source::VirtualServiceBinding | Source::NatRuleBinding => source.binds().is_some_and(|binds| {
                let at = (binds, place.clone());
                self.unbind(&at);
                self.bindings.remove(&at).is_some()
            }),
            Source::DirectorConfig => self.configs.remove(&place.name).is_some(),
            Source::Node => self.nodes.remove(&place.name).is_some(),
            Source::Lease => self.leases.remove(&place.name).is_some(),
            _ => source.kind().is_some_and(|kind| self.users.remove(&place.reference(kind)).is_some()),
        };
        if there || unreadable { vec![Change { source, place }] } else { Vec::new() }
    }

    fn unbind(&mut self, at: &(Binds, Place)) {
        let Some(binding) = self.bindings.get(at) else { return };
        let key = binding.bound();
        if let Some(names) = self.bound.get_mut(&key) {
            names.remove(&at.1.name);
            if names.is_empty() {
                self.bound.remove(&key);
            }
        }
    }

    /// Where the objects of a source are.
    pub fn places(&self, source: Source) -> Vec<Place> {
        let cluster = |name: &String| Place::cluster(name);
        let mut places: Vec<Place> = match source {
            Source::VirtualServiceBinding | Source::NatRuleBinding => {
                let of = self.bindings.keys().filter(|(binds, _)| source.binds() == Some(*binds));
                of.map(|(_, place)| place.clone()).collect()
            }
            Source::DirectorConfig => self.configs.keys().map(cluster).collect(),
            Source::Node => self.nodes.keys().map(cluster).collect(),
            // All are of one namespace.
            Source::Lease => self.leases.iter().map(|(name, facts)| facts.place(name)).collect(),
            _ => source
                .kind()
                .into_iter()
                .flat_map(|kind| self.users_of(kind))
                .map(|(one, _)| one.into())
                .collect(),
        };
        places.extend(self.unreadable.keys().filter(|(of, _)| *of == source).map(|(_, place)| place.clone()));
        places
    }

    /// Whether every source has been listed at least once.
    pub fn complete(&self) -> bool {
        self.listed.len() == Source::ALL.len()
    }

    /// The sources that have not been listed yet.
    pub fn missing(&self) -> impl Iterator<Item = Source> {
        Source::ALL.into_iter().filter(|source| !self.listed.contains(source))
    }

    /// An object that users write.
    pub fn user(&self, reference: &ObjectRef) -> Option<&Object> {
        self.users.get(reference)
    }

    /// All objects that users write.
    pub fn users(&self) -> &BTreeMap<ObjectRef, Object> {
        &self.users
    }

    /// All objects of a kind that users write.
    pub fn users_of(&self, kind: Kind) -> impl Iterator<Item = (&ObjectRef, &Object)> {
        let first = ObjectRef { kind, namespace: None, name: String::new() };
        self.users.range(first..).take_while(move |(reference, _)| reference.kind == kind)
    }

    /// The binding of that kind and place.
    pub fn binding(&self, binds: Binds, place: &Place) -> Option<&Binding> {
        self.bindings.get(&(binds, place.clone()))
    }

    /// The directors for which there is a binding of an object, whether or not it should be there.
    pub fn bound_on<'a>(&'a self, binds: Binds, key: &BindingKey) -> impl Iterator<Item = &'a str> {
        let from = Bound::new(binds, key.clone(), "");
        let of = (binds, key.clone());
        let same = move |(one, _): &(&Bound, &BTreeSet<String>)| one.binds == of.0 && one.key == of.1;
        self.bound.range(from..).take_while(same).map(|(one, _)| one.director.as_str())
    }

    /// All bindings.
    pub fn bindings(&self) -> impl Iterator<Item = &Binding> {
        self.bindings.values()
    }

    /// The bindings of an object on a director.
    pub fn bound<'a>(&'a self, bound: &'a Bound) -> impl Iterator<Item = (Place, &'a Binding)> {
        let names = self.bound.get(bound).into_iter().flatten();
        names.filter_map(|name| {
            let place = Place { namespace: bound.key.namespace.to_string(), name: name.clone() };
            let binding = self.binding(bound.binds, &place)?;
            Some((place, binding))
        })
    }

    /// The DirectorConfig of that name.
    pub fn config(&self, name: &str) -> Option<&DirectorConfig> {
        self.configs.get(name).map(|config| &**config)
    }

    /// All DirectorConfigs.
    pub fn configs(&self) -> impl Iterator<Item = &DirectorConfig> {
        self.configs.values().map(|config| &**config)
    }

    /// The Node of that name.
    pub fn node(&self, name: &str) -> Option<&NodeFacts> {
        self.nodes.get(name)
    }

    /// The Lease of that name, in the operator's namespace.
    pub fn lease(&self, name: &str) -> Option<&LeaseFacts> {
        self.leases.get(name)
    }

    /// Why an object cannot be read, if that is so.
    pub fn why_unreadable(&self, source: Source, place: &Place) -> Option<&str> {
        self.unreadable.get(&(source, place.clone())).map(String::as_str)
    }

    /// The objects that cannot be read.
    pub fn unreadable(&self) -> impl Iterator<Item = &(Source, Place)> {
        self.unreadable.keys()
    }

    /// How many objects of a source there are; costs as much.
    pub fn count(&self, source: Source) -> usize {
        match source {
            Source::VirtualServiceBinding | Source::NatRuleBinding => {
                self.bindings.keys().filter(|(binds, _)| source.binds() == Some(*binds)).count()
            }
            Source::DirectorConfig => self.configs.len(),
            Source::Node => self.nodes.len(),
            Source::Lease => self.leases.len(),
            _ => source.kind().map_or(0, |kind| self.users_of(kind).count()),
        }
    }
}

/// Whether it was the same before.
fn replace<V: PartialEq>(map: &mut BTreeMap<String, V>, name: String, value: V) -> bool {
    if map.get(&name) == Some(&value) {
        return true;
    }
    map.insert(name, value);
    false
}
