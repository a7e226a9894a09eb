//! Looking for drift, and what is seen on the way: counters.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant, SystemTime},
};

use bascule_crds::VirtualServiceBindingSpec;
use bascule_ipvs::{DestinationEntry, Error, ServiceId};

use super::{
    super::{
        expand,
        look::{FLUSHED, PASSED_OVER, SAMPLES, Step, after, cpu_time},
        observe::{Io, Scope, observe},
        plan::{Observed, Wanted, plan},
    },
    Cause, IpvsPlane, Sample,
};
use crate::reconcile::{Counters, DestinationCounters, FailureReason, ServiceCounters, runner::Context};

/// Services whose real servers are read in one step of a look.
const STEP: usize = 16;
/// Counters are read anew when somebody asks for them if that costs at most so many CPU seconds.
const FRESH: f64 = 0.02;

impl<I: Io, C: FnMut() -> Result<I, Error>> IpvsPlane<I, C> {
    /// Looks at some of the table, within the budget, and puts back what differs. A change that comes meanwhile waits for one
    /// step only: the rest of the budget is for the next look.
    pub(super) fn look(&mut self, context: &Context<'_>) -> Result<(), Error> {
        let now = context.now;
        self.report.last_look = Some(SystemTime::now());
        let Some(io) = self.io.as_mut() else { return Ok(()) };
        let services = self.desired.services();
        let mut suspects = BTreeSet::new();
        let (mut asked, mut missing) = (0, 0);

        let started = cpu_time();
        let round = services.range(after(self.sampled)).chain(services.iter());
        for (id, entry) in round.take(PASSED_OVER.min(services.len())) {
            self.sampled = Some(*id);
            if self.failing.contains_key(id) {
                continue;
            }
            match io.service(id)? {
                None => {
                    missing += 1;
                    suspects.insert(*id);
                }
                Some(held) if held.service != entry.wanted.service => {
                    suspects.insert(*id);
                }
                Some(_) => {}
            }
            asked += 1;
            if asked == SAMPLES {
                break;
            }
        }
        self.look.spend(cpu_time() - started, 0);
        if missing >= FLUSHED {
            let started = cpu_time();
            self.pass(None, true, Cause::Drift, now)?;
            self.look.spend(cpu_time() - started, 0);
            return Ok(());
        }

        let mut timeouts = None;
        while self.look.affords() && !(context.waited_for)() {
            let started = cpu_time();
            let (count, last) = match self.look.step() {
                Step::Services => {
                    timeouts = Some(io.timeouts()?);
                    // One that is left out is suspected, and asked for then.
                    let held: BTreeMap<_, _> =
                        io.services(&[])?.into_iter().map(|entry| (entry.service.id, entry)).collect();
                    for (id, entry) in services {
                        if held.get(id).is_none_or(|held| held.service != entry.wanted.service) {
                            suspects.insert(*id);
                        }
                    }
                    for (id, entry) in held.into_iter().filter(|(id, _)| services.contains_key(id)) {
                        if let Some(sample) = self.samples.get_mut(&id) {
                            sample.entry = entry;
                        } else {
                            self.samples.insert(id, Sample { entry, destinations: Vec::new(), at: now });
                        }
                    }
                    (0, None)
                }
                Step::Destinations(position) => {
                    let mut last = None;
                    let mut count = 0;
                    for (id, entry) in services.range(after(position)).take(STEP) {
                        let held = io.destinations(id)?;
                        if differs(&entry.wanted, &held) {
                            suspects.insert(*id);
                        }
                        if let Some(sample) = self.samples.get_mut(id) {
                            sample.destinations = held;
                            sample.at = now;
                        }
                        last = Some(*id);
                        count += 1;
                    }
                    (count, last)
                }
            };
            self.look.spend(cpu_time() - started, count);
            if self.look.advance(now, last) {
                self.report.look_period = self.look.period();
                break;
            }
        }
        // What the kernel refused waits for its next attempt; a conflict may have gone.
        suspects
            .retain(|id| self.failing.get(id).is_none_or(|(reason, _)| *reason == FailureReason::Conflict));
        let timeouts = timeouts.is_some_and(|held| {
            let empty = Observed { services: BTreeMap::new(), timeouts: Some(held) };
            let nothing: [(ServiceId, Option<&Wanted>); 0] = [];
            !plan(nothing, self.desired.timeouts(), &empty, false).commands.is_empty()
        });
        if !suspects.is_empty() || (timeouts && self.timeouts_failure.is_none()) {
            self.pass(Some(&suspects), timeouts, Cause::Drift, now)?;
        }
        Ok(())
    }

    /// From now on only the samples are looked at.
    #[cfg(test)]
    pub(crate) fn look_at_nothing_but_samples(&mut self) {
        self.look.exhaust();
    }

    /// The figures of all services: read anew where that is cheap, else those of the last look.
    pub(super) fn read_counters(&mut self, now: Instant) -> Counters {
        let services = self.desired.services();
        if let Some(io) = self.io.as_mut().filter(|_| self.look.estimate(services.len()) <= FRESH) {
            let interesting: BTreeSet<_> = services.keys().copied().collect();
            let samples = &mut self.samples;
            // Old figures are better than none if it fails; the next turn finds out what is the matter.
            let _ = observe(
                io,
                Scope::All(&interesting),
                false,
                |_| true,
                |entry, destinations| {
                    if services.contains_key(&entry.service.id) {
                        samples.insert(entry.service.id, Sample { entry, destinations, at: now });
                    }
                },
            );
        }
        let mut age = Duration::ZERO;
        let read = self.samples.iter().filter_map(|(id, sample)| {
            let owner = &services.get(id)?.owner;
            let spec = self.desired.spec(owner)?;
            age = age.max(now.saturating_duration_since(sample.at));
            let mut destinations: Vec<_> =
                sample.destinations.iter().map(|entry| destination(spec, id, entry)).collect();
            destinations.sort_unstable_by_key(|destination| destination.id);
            Some(ServiceCounters {
                binding: owner.clone(),
                id: *id,
                scheduler: sample.entry.service.scheduler.clone(),
                stats: sample.entry.stats,
                destinations,
            })
        });
        let services = read.collect();
        Counters { services, age }
    }
}

/// Whether real servers are other than wanted.
fn differs(wanted: &Wanted, held: &[DestinationEntry]) -> bool {
    wanted.destinations.len() != held.len()
        || held.iter().any(|entry| {
            wanted
                .destinations
                .binary_search_by_key(&entry.destination.id, |destination| destination.id)
                .map_or(true, |index| wanted.destinations[index] != entry.destination)
        })
}

fn destination(
    spec: &VirtualServiceBindingSpec,
    service: &ServiceId,
    entry: &DestinationEntry,
) -> DestinationCounters {
    let id = entry.destination.id;
    DestinationCounters {
        name: expand::name(spec, service, id).map_or_else(|| id.to_string(), ToOwned::to_owned),
        id,
        weight: entry.destination.weight,
        active_connections: entry.active_connections,
        inactive_connections: entry.inactive_connections,
        persistent_connections: entry.persistent_connections,
        stats: entry.stats,
    }
}
