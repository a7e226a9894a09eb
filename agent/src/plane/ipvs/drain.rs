//! Real servers that were taken out of a binding and keep their connections for a while: with weight 0, until the connections
//! have ended or the time is up.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use bascule_checks_core::Time;
use bascule_ipvs::{Destination, DestinationEntry, DestinationId, Protocol, ServiceId};

use super::{
    drained::{Clock, Drained},
    plan::Wanted,
};

/// Of one service at most so many drain; what is removed beyond that goes at once.
const MAX_DRAINING: usize = 1_024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Draining {
    destination: Destination,
    since: Instant,
    until: Instant,
}

/// All that drain.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Drains {
    services: BTreeMap<ServiceId, BTreeMap<DestinationId, Draining>>,
    /// Since [`Drains::changed`] was last asked.
    changed: bool,
}

impl Drains {
    /// What drained when a former agent ended. Nobody knows when each began: a connection that was being opened then has its time
    /// from now on.
    pub(crate) fn restore<'a>(drained: impl IntoIterator<Item = &'a Drained>, clock: &Clock) -> Self {
        let mut drains = Self::default();
        for one in drained {
            let draining = drains.services.entry(one.service).or_default();
            if draining.len() < MAX_DRAINING {
                let (destination, since) = (one.destination(), clock.instant(Time::ZERO));
                draining
                    .insert(destination.id, Draining { destination, since, until: clock.instant(one.until) });
            }
        }
        drains
    }

    /// What another agent needs to go on with them, if that has changed since this was last asked.
    pub(super) fn changed(&mut self, clock: &Clock) -> Option<BTreeSet<Drained>> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let all = self.services.iter().flat_map(|(service, draining)| {
            draining.values().map(|one| Drained::new(*service, &one.destination, clock.time(one.until)))
        });
        Some(all.collect())
    }

    /// Whether nothing drains.
    pub(super) fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// Forgets services that are not wanted.
    pub(super) fn retain(&mut self, is_wanted: impl Fn(&ServiceId) -> bool) {
        let before = self.services.len();
        self.services.retain(|id, _| is_wanted(id));
        self.changed |= self.services.len() != before;
    }

    /// A real server of a service begins to drain.
    pub(super) fn begin(
        &mut self,
        service: ServiceId,
        destination: Destination,
        now: Instant,
        time: Duration,
    ) {
        let draining = self.services.entry(service).or_default();
        if draining.len() < MAX_DRAINING {
            let destination = destination.weight(0);
            draining.insert(destination.id, Draining { destination, since: now, until: now + time });
            self.changed = true;
        }
    }

    /// A service is no longer wanted.
    pub(super) fn forget(&mut self, service: &ServiceId) {
        self.changed |= self.services.remove(service).is_some();
    }

    /// Adds to what is wanted of a service what drains there; what is wanted again drains no longer.
    pub(super) fn join(&mut self, wanted: &mut Wanted, members: &BTreeSet<DestinationId>) {
        let id = wanted.service.id;
        let Some(draining) = self.services.get_mut(&id) else { return };
        let before = draining.len();
        let there: BTreeSet<_> = wanted.destinations.iter().map(|destination| destination.id).collect();
        draining.retain(|id, _| !members.contains(id) && !there.contains(id));
        self.changed |= draining.len() != before;
        wanted.destinations.extend(draining.values().map(|draining| draining.destination));
        wanted.destinations.sort_unstable_by_key(|destination| destination.id);
        if draining.is_empty() {
            self.services.remove(&id);
        }
    }

    /// The services in which something drains.
    pub(super) fn services(&self) -> impl Iterator<Item = ServiceId> {
        self.services.keys().copied()
    }

    /// Ends what has drained, of one service, by what the kernel holds of it: no connection is established (where there are
    /// flows of datagrams: none is left), or the time is up. Returns what ended. A connection that was being opened when the
    /// draining began has `settle` to be established.
    pub(super) fn end(
        &mut self,
        service: ServiceId,
        held: &[DestinationEntry],
        now: Instant,
        settle: Duration,
    ) -> BTreeSet<DestinationId> {
        let Some(draining) = self.services.get_mut(&service) else { return BTreeSet::new() };
        let connections = match service {
            ServiceId::Address { protocol, .. } => protocol != Protocol::Udp,
            ServiceId::Fwmark { .. } => false,
        };
        let idle = |id: &DestinationId| {
            let entry = held.iter().find(|entry| entry.destination.id == *id);
            entry.is_none_or(|entry| {
                entry.active_connections == 0 && (connections || entry.inactive_connections == 0)
            })
        };
        let ended = |(id, one): (&DestinationId, &Draining)| {
            (one.until <= now || (one.since + settle <= now && idle(id))).then_some(*id)
        };
        let ended: BTreeSet<_> = draining.iter().filter_map(ended).collect();
        draining.retain(|id, _| !ended.contains(id));
        self.changed |= !ended.is_empty();
        if draining.is_empty() {
            self.services.remove(&service);
        }
        ended
    }
}
