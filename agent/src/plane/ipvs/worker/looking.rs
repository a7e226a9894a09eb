//! Looking for drift, and what is seen on the way: figures.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Instant, SystemTime},
};

use bascule_ipvs::{DestinationEntry, Error, ServiceId};

use super::{
    super::{
        figures::{Figures, Sampled},
        look::{FLUSHED, PASSED_OVER, SAMPLES, Step, after, cpu_time},
        observe::{Io, Scope, observe},
        plan::{Observed, Wanted, plan},
    },
    Cause, IpvsPlane,
};
use crate::reconcile::{FailureReason, runner::Context};

/// Services whose real servers are read in one step of a look.
const STEP: usize = 16;
/// Figures are read anew when somebody asks for them if that costs at most so many CPU seconds: a change may come meanwhile, and
/// a table that costs little more is looked at as a whole every few ticks anyway.
const FRESH: f64 = 0.005;

/// A list of the services that is being read.
pub(super) struct Listing {
    /// Services of ours that were not in it so far.
    unseen: BTreeSet<ServiceId>,
    /// Where in the kernel's order those that were in it stand.
    ranks: BTreeMap<ServiceId, u32>,
}

impl<I: Io, C: FnMut() -> Result<I, Error>> IpvsPlane<I, C> {
    /// Looks at some of the table, within the budget, and puts back what differs. A change that comes meanwhile waits for one
    /// step only: the rest of the budget is for the next look.
    pub(super) fn look(&mut self, context: &Context<'_>) -> Result<(), Error> {
        let now = context.now;
        self.report.last_look = Some(SystemTime::now());
        let mut suspects = BTreeSet::new();

        let started = cpu_time();
        let flushed = self.sample(&mut suspects)?;
        // While there is a debt it is paid, whatever samples cost: on a slow machine it would never end.
        if self.look.affords() {
            self.look.spend(cpu_time() - started, 0);
        }
        if flushed {
            let started = cpu_time();
            self.pass(None, true, Cause::Drift, now)?;
            self.look.spend(cpu_time() - started, 0);
            return Ok(());
        }

        let mut timeouts = None;
        while self.look.affords() && !(context.waited_for)() {
            let started = cpu_time();
            let (ended, count) = match self.look.step() {
                Step::Services => {
                    if self.listing.is_none() {
                        timeouts = self.io.as_mut().map(Io::timeouts).transpose()?;
                    }
                    (self.list(&mut suspects, now)?.then_some(None), 0)
                }
                Step::Destinations(position) => {
                    let (last, count) = self.compare(position, &mut suspects, now)?;
                    (Some(last), count)
                }
            };
            self.look.spend(cpu_time() - started, count);
            if ended.is_some_and(|last| self.look.advance(now, last)) {
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

    /// Asks for a few services, others each time; true when so many are missing that the table was flushed.
    fn sample(&mut self, suspects: &mut BTreeSet<ServiceId>) -> Result<bool, Error> {
        let Some(io) = self.io.as_mut() else { return Ok(false) };
        let services = self.desired.services();
        let (mut asked, mut missing) = (0, 0);
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
        Ok(missing >= FLUSHED)
    }

    /// Reads a page of the list of all services; true when it was the last.
    fn list(&mut self, suspects: &mut BTreeSet<ServiceId>, now: Instant) -> Result<bool, Error> {
        let Some(io) = self.io.as_mut() else { return Ok(true) };
        let services = self.desired.services();
        let mut listing = self.listing.take().unwrap_or_else(|| Listing {
            unseen: services.keys().copied().collect(),
            ranks: BTreeMap::new(),
        });
        let page = io.services_page()?;
        for entry in page.services {
            let id = entry.service.id;
            let Some(wanted) = services.get(&id) else { continue };
            listing.unseen.remove(&id);
            let rank = u32::try_from(listing.ranks.len()).unwrap_or(u32::MAX);
            listing.ranks.entry(id).or_insert(rank);
            if wanted.wanted.service != entry.service {
                suspects.insert(id);
            }
            if let Some(figures) = self.samples.get_mut(&id) {
                Arc::make_mut(figures).entry = entry;
            } else {
                let figures = Figures { entry, destinations: Vec::new(), at: now };
                self.samples.insert(id, Arc::new(figures));
            }
        }
        if page.last {
            // One that was left out is suspected, and asked for then. What came to be wanted meanwhile was looked at then.
            suspects.extend(listing.unseen.into_iter().filter(|id| services.contains_key(id)));
            self.ranks = listing.ranks;
        } else {
            self.listing = Some(listing);
        }
        Ok(page.last)
    }

    /// Reads the real servers of some services; returns the last one, none when there are no more, and how many.
    fn compare(
        &mut self,
        position: Option<ServiceId>,
        suspects: &mut BTreeSet<ServiceId>,
        now: Instant,
    ) -> Result<(Option<ServiceId>, usize), Error> {
        let Some(io) = self.io.as_mut() else { return Ok((None, 0)) };
        let (mut last, mut count) = (None, 0);
        for (id, entry) in self.desired.services().range(after(position)).take(STEP) {
            let held = io.destinations(id)?;
            if differs(&entry.wanted, &held) {
                suspects.insert(*id);
            }
            if let Some(figures) = self.samples.get_mut(id) {
                let figures = Arc::make_mut(figures);
                figures.destinations = held;
                figures.at = now;
            }
            last = Some(*id);
            count += 1;
        }
        Ok((last, count))
    }

    /// From now on only the samples are looked at.
    #[cfg(test)]
    pub(crate) fn look_at_nothing_but_samples(&mut self) {
        self.look.exhaust();
    }

    /// The figures of all services: read anew where that is cheap, else those of the last look.
    pub(super) fn read_figures(&mut self, now: Instant) -> Vec<Sampled> {
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
                        let figures = Figures { entry, destinations, at: now };
                        samples.insert(figures.entry.service.id, Arc::new(figures));
                    }
                },
            );
        }
        let mut sampled = Vec::with_capacity(self.samples.len());
        for (binding, spec, ids) in self.desired.programmed() {
            for figures in ids.filter_map(|id| self.samples.get(id)) {
                let (spec, figures) = (Arc::clone(spec), Arc::clone(figures));
                sampled.push(Sampled { binding: binding.clone(), spec, figures });
            }
        }
        sampled
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
