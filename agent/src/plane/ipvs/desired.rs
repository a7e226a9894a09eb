//! What the IPVS table should hold: bindings, expanded into services and real servers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use bascule_checks_core::pool::Judgement;
use bascule_compile::{BindingKey, NodeConfig};
use bascule_crds::{DirectorConfigSpec, VirtualServiceBindingSpec};
use bascule_ipvs::{DestinationEntry, DestinationId, ServiceId, Timeouts};

use super::{
    drain::Drains,
    drained::{Clock, Drained},
    expand::expand,
    leave::Leave,
    plan::Wanted,
};
use crate::reconcile::Lives;

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
    live: Option<Arc<Judgement>>,
    services: Vec<ServiceId>,
}

/// Of a service of which nothing has to be known.
const NONE: BTreeSet<DestinationId> = BTreeSet::new();

/// The real servers of each service of a binding, dead or alive.
fn members(spec: &VirtualServiceBindingSpec) -> BTreeMap<ServiceId, BTreeSet<DestinationId>> {
    let ids = |wanted: Wanted| {
        (wanted.service.id, wanted.destinations.iter().map(|destination| destination.id).collect())
    };
    expand(spec, None).map(|services| services.into_iter().map(ids).collect()).unwrap_or_default()
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
    drains: Drains,
    leave: Leave,
    timeouts: Option<Timeouts>,
}

/// Everything that a configuration wants, with what the checks of real servers come to.
pub fn desired(config: &NodeConfig, live: &Lives, now: Instant) -> Desired {
    desired_after(Drains::default(), config, live, now)
}

/// The same, when this drained as a former agent ended.
pub(crate) fn desired_after(drains: Drains, config: &NodeConfig, live: &Lives, now: Instant) -> Desired {
    let mut desired = Desired::after(drains);
    desired.set_director(&config.director);
    desired.set_leave(&config.director, now);
    for (key, spec) in &config.bindings {
        desired.set(key, Some(spec), live.get(key), now);
    }
    desired
}

impl Desired {
    /// Nothing is wanted yet, and this drained when a former agent ended.
    pub(crate) fn after(drains: Drains) -> Self {
        Self { drains, ..Self::default() }
    }

    /// What drains, if that has changed since this was last asked.
    pub(super) fn changed_drains(&mut self, clock: &Clock) -> Option<BTreeSet<Drained>> {
        self.drains.changed(clock)
    }

    /// All that is wanted is known now: what drained in other services went with them.
    pub(super) fn forget_drains(&mut self) {
        self.drains.retain(|id| self.services.contains_key(id));
    }

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

    /// Takes it that the director is out of service, or in service again; returns the services that may have changed.
    pub(super) fn set_leave(&mut self, director: &DirectorConfigSpec, now: Instant) -> BTreeSet<ServiceId> {
        if self.leave.set(director, now) { self.set_alone(now) } else { BTreeSet::new() }
    }

    /// When the time of connections is up that a director out of service still has.
    pub(super) fn leave_ends(&self) -> Option<Instant> {
        self.leave.deadline()
    }

    /// Ends what the director still has when their time is up; returns the services that may have changed.
    pub(super) fn end_leave(&mut self, now: Instant) -> BTreeSet<ServiceId> {
        if self.leave.end(now) { self.set_alone(now) } else { BTreeSet::new() }
    }

    /// Expands anew what belongs to no group.
    fn set_alone(&mut self, now: Instant) -> BTreeSet<ServiceId> {
        let alone: Vec<_> = self
            .bindings
            .iter()
            .filter(|(_, binding)| Leave::concerns(&binding.spec))
            .map(|(key, binding)| (key.clone(), Arc::clone(&binding.spec), binding.live.clone()))
            .collect();
        alone
            .into_iter()
            .flat_map(|(key, spec, live)| self.set(&key, Some(&spec), live.as_ref(), now))
            .collect()
    }

    /// What the checks of a binding come to, as last said.
    pub(super) fn live(&self, key: &BindingKey) -> Option<&Arc<Judgement>> {
        self.bindings.get(key)?.live.as_ref()
    }

    /// Takes a changed binding, none when it is gone, and what the checks of its real servers come to; returns the services that
    /// may have changed.
    pub fn set(
        &mut self,
        key: &BindingKey,
        spec: Option<&Arc<VirtualServiceBindingSpec>>,
        live: Option<&Arc<Judgement>>,
        now: Instant,
    ) -> BTreeSet<ServiceId> {
        let mut affected = BTreeSet::new();
        let members = self.members(key, spec, now);
        let expansion = spec.map(|spec| (spec, expand(spec, live.map(|live| &**live))));
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
            for mut wanted in services {
                let id = wanted.service.id;
                self.drains.join(&mut wanted, members.get(&id).unwrap_or(&NONE));
                self.leave.apply(spec, &mut wanted);
                ids.push(id);
                if self.claim(key, id, wanted) {
                    affected.insert(id);
                }
            }
            self.bindings
                .insert(key.clone(), Binding { spec: Arc::clone(spec), live: live.cloned(), services: ids });
        }
        affected
    }

    /// The real servers of each service of a binding, dead or alive, as far as somebody has to know them. Those that were there and
    /// are no longer begin to drain.
    fn members(
        &mut self,
        key: &BindingKey,
        spec: Option<&Arc<VirtualServiceBindingSpec>>,
        now: Instant,
    ) -> BTreeMap<ServiceId, BTreeSet<DestinationId>> {
        let Some(spec) = spec else { return BTreeMap::new() };
        let Some(before) = self.bindings.get(key) else {
            // What drained when a former agent ended may be a member again by now.
            return if self.drains.is_empty() { BTreeMap::new() } else { members(spec) };
        };
        let time = spec.drain_timeout.as_std();
        let drains = self.drains.services().any(|id| before.services.contains(&id));
        if Arc::ptr_eq(spec, &before.spec) || (time == Duration::ZERO && !drains) {
            return BTreeMap::new();
        }
        let (after, before) = (members(spec), members(&before.spec));
        for (id, before) in &before {
            let (Some(after), Some(entry)) = (after.get(id), self.services.get(id)) else { continue };
            if entry.owner != *key || time == Duration::ZERO {
                continue;
            }
            for held in &entry.wanted.destinations {
                if before.contains(&held.id) && !after.contains(&held.id) {
                    self.drains.begin(*id, *held, now, time);
                }
            }
        }
        after
    }

    /// The services in which a real server drains.
    pub(super) fn draining(&self) -> Vec<ServiceId> {
        self.drains.services().collect()
    }

    /// Ends what has drained in a service, by what the kernel holds of it; true when something has.
    pub(super) fn end_drain(
        &mut self,
        id: ServiceId,
        held: &[DestinationEntry],
        now: Instant,
        settle: Duration,
    ) -> bool {
        let ended = self.drains.end(id, held, now, settle);
        if let Some(entry) = self.services.get_mut(&id) {
            entry.wanted.destinations.retain(|destination| !ended.contains(&destination.id));
        }
        !ended.is_empty()
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
        self.drains.forget(&id);
        let Some(next) = next else { return };
        let wanted = self.bindings.get(&next).and_then(|binding| {
            let services = expand(&binding.spec, binding.live.as_deref()).ok()?;
            let mut wanted = services.into_iter().find(|wanted| wanted.service.id == id)?;
            self.leave.apply(&binding.spec, &mut wanted);
            Some(wanted)
        });
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
