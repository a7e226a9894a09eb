//! What the IPVS table should hold: bindings, expanded into services and real servers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bascule_compile::{BindingKey, NodeConfig};
use bascule_crds::{DirectorConfigSpec, VirtualServiceBindingSpec};
use bascule_ipvs::{ServiceId, Timeouts};

use super::{expand::expand, plan::Wanted};

/// A wanted service and who wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The binding.
    pub owner: BindingKey,
    /// The service.
    pub wanted: Wanted,
}

#[derive(Clone, Debug, PartialEq)]
struct Binding {
    spec: Arc<VirtualServiceBindingSpec>,
    services: Vec<ServiceId>,
}

/// Everything wanted.
///
/// Two bindings never want one service: that is settled where the configuration is compiled. Should it happen all the same, the
/// one whose key comes first has it, and the other is said not to be programmed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    services: BTreeMap<ServiceId, Entry>,
    bindings: BTreeMap<BindingKey, Binding>,
    contested: BTreeMap<ServiceId, BTreeSet<BindingKey>>,
    invalid: BTreeMap<BindingKey, String>,
    timeouts: Option<Timeouts>,
}

/// Everything that a configuration wants.
pub fn desired(config: &NodeConfig) -> Desired {
    let mut desired = Desired::default();
    desired.set_director(&config.director);
    for (key, spec) in &config.bindings {
        desired.set(key, Some(spec));
    }
    desired
}

impl Desired {
    /// The wanted services.
    pub fn services(&self) -> &BTreeMap<ServiceId, Entry> {
        &self.services
    }

    /// The wanted timeouts.
    pub fn timeouts(&self) -> Option<Timeouts> {
        self.timeouts
    }

    /// The bindings.
    pub fn keys(&self) -> impl Iterator<Item = &BindingKey> {
        self.bindings.keys()
    }

    /// The binding's specification.
    pub fn spec(&self, key: &BindingKey) -> Option<&Arc<VirtualServiceBindingSpec>> {
        self.bindings.get(key).map(|binding| &binding.spec)
    }

    /// The services that a binding wants.
    pub(super) fn wanted_by(&self, key: &BindingKey) -> &[ServiceId] {
        self.bindings.get(key).map_or(&[], |binding| &binding.services)
    }

    /// Each binding with its specification and the services that it has.
    pub(super) fn programmed(
        &self,
    ) -> impl Iterator<Item = (&BindingKey, &Arc<VirtualServiceBindingSpec>, impl Iterator<Item = &ServiceId>)>
    {
        self.bindings.iter().map(move |(key, binding)| {
            let lost = |id| self.contested.get(id).is_some_and(|losers| losers.contains(key));
            (key, &binding.spec, binding.services.iter().filter(move |id| !lost(*id)))
        })
    }

    /// Bindings that cannot be expanded, with the reason.
    pub fn invalid(&self) -> &BTreeMap<BindingKey, String> {
        &self.invalid
    }

    /// Services that more than one binding wants, with the bindings that do not get them.
    pub fn contested(&self) -> &BTreeMap<ServiceId, BTreeSet<BindingKey>> {
        &self.contested
    }

    /// Takes the director's settings; true when the timeouts changed.
    pub fn set_director(&mut self, director: &DirectorConfigSpec) -> bool {
        let timeouts = super::expand::timeouts(director);
        let changed = timeouts != self.timeouts;
        self.timeouts = timeouts;
        changed
    }

    /// Takes a changed binding, none when it is gone; returns the services that may have changed.
    pub fn set(
        &mut self,
        key: &BindingKey,
        spec: Option<&Arc<VirtualServiceBindingSpec>>,
    ) -> BTreeSet<ServiceId> {
        let mut affected = BTreeSet::new();
        let expansion = spec.map(|spec| (spec, expand(spec)));
        let kept: BTreeSet<ServiceId> = match &expansion {
            Some((_, Ok(services))) => services.iter().map(|wanted| wanted.service.id).collect(),
            _ => BTreeSet::new(),
        };
        for id in self.bindings.remove(key).map(|binding| binding.services).unwrap_or_default() {
            if !kept.contains(&id) {
                self.release(key, id);
                affected.insert(id);
            }
        }
        self.invalid.remove(key);
        if let Some((spec, expansion)) = expansion {
            let services = expansion.unwrap_or_else(|problem| {
                self.invalid.insert(key.clone(), problem);
                Vec::new()
            });
            let mut ids = Vec::with_capacity(services.len());
            for wanted in services {
                let id = wanted.service.id;
                ids.push(id);
                if self.claim(key, id, wanted) {
                    affected.insert(id);
                }
            }
            self.bindings.insert(key.clone(), Binding { spec: Arc::clone(spec), services: ids });
        }
        affected
    }

    /// True when what the kernel should hold changed.
    fn claim(&mut self, key: &BindingKey, id: ServiceId, wanted: Wanted) -> bool {
        match self.services.get_mut(&id) {
            Some(entry) if entry.owner == *key => {
                let changed = entry.wanted != wanted;
                entry.wanted = wanted;
                changed
            }
            Some(entry) if entry.owner < *key => {
                self.contested.entry(id).or_default().insert(key.clone());
                false
            }
            Some(entry) => {
                let loser = std::mem::replace(&mut entry.owner, key.clone());
                entry.wanted = wanted;
                self.contested.entry(id).or_default().insert(loser);
                true
            }
            None => {
                self.services.insert(id, Entry { owner: key.clone(), wanted });
                true
            }
        }
    }

    fn release(&mut self, key: &BindingKey, id: ServiceId) {
        let mut next = None;
        if let Some(losers) = self.contested.get_mut(&id) {
            losers.remove(key);
            next = losers.first().cloned();
            if losers.is_empty() {
                self.contested.remove(&id);
            }
        }
        if self.services.get(&id).is_none_or(|entry| entry.owner != *key) {
            return;
        }
        self.services.remove(&id);
        let Some(next) = next else { return };
        let wanted = self
            .bindings
            .get(&next)
            .and_then(|binding| expand(&binding.spec).ok())
            .and_then(|services| services.into_iter().find(|wanted| wanted.service.id == id));
        if let Some(losers) = self.contested.get_mut(&id) {
            losers.remove(&next);
            if losers.is_empty() {
                self.contested.remove(&id);
            }
        }
        if let Some(wanted) = wanted {
            self.services.insert(id, Entry { owner: next, wanted });
        }
    }
}
