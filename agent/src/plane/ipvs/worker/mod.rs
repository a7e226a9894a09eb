//! The IPVS plane at work: a connection to the kernel, what is wanted, what is ours, and when to look.

mod accounting;
mod looking;
mod telling;

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::BorrowedFd,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bascule_checks_core::pool::Judgement;
use bascule_compile::BindingKey;
use bascule_crds::VirtualServiceBindingSpec;
use bascule_ipvs::{Command, DestinationId, Error, ServiceId};
use tracing::{info, warn};

use looking::Listing;
pub(crate) use telling::conflict;

use super::{
    desired::Desired,
    drain::Drains,
    drained::{Clock, Drained},
    figures::Figures,
    look::{Look, TICK},
    observe::{Io, Scope, observe},
    order::reverse_of_removal,
    pause::{Pause, carry_out},
    plan::plan,
};
use crate::reconcile::{
    FailureReason, PlaneName, PlaneReport,
    backoff::Backoff,
    inbox::{Counted, Merged},
    ledger::Ledger,
    report::note_failures,
    runner::{Context, Plane, Turn},
};

/// A pass is repeated at once for what changed under its hands, so often.
const ROUNDS: usize = 3;
/// From how many commands on a pass is worth a line in the log.
const MANY: usize = 100;

/// Why a pass is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// The first one, or the first after the connection to the kernel was lost.
    Start,
    /// The configuration changed, or something failed before.
    Change,
    /// A look found a difference.
    Drift,
}

/// The IPVS plane.
pub(crate) struct IpvsPlane<I, C> {
    connect: C,
    io: Option<I>,
    pause: Box<dyn Pause>,
    connection: Backoff,
    configured: bool,
    desired: Desired,
    ledger: Ledger<ServiceId>,
    /// What drains, for the agent that comes after this one.
    drained: Ledger<Drained>,
    clock: Clock,
    adopt: bool,
    full: bool,
    dirty: BTreeSet<ServiceId>,
    timeouts_dirty: bool,
    failing: BTreeMap<ServiceId, (FailureReason, String)>,
    /// Real servers of ours that went into a service of somebody else's, yet to be taken out.
    strays: BTreeSet<(ServiceId, DestinationId)>,
    timeouts_failure: Option<String>,
    failures_changed: bool,
    ledger_failed: bool,
    retry: Backoff,
    look: Look,
    sampled: Option<ServiceId>,
    listing: Option<Listing>,
    /// The kernel's order of our services at the end of the last listing.
    ranks: BTreeMap<ServiceId, u32>,
    samples: BTreeMap<ServiceId, Arc<Figures>>,
    /// Why this kernel has no IPVS, as last tried.
    absent: Option<String>,
    report: PlaneReport,
}

impl<I: Io, C: FnMut() -> Result<I, Error>> IpvsPlane<I, C> {
    pub(crate) fn new(
        connect: C,
        pause: Box<dyn Pause>,
        ledger: Ledger<ServiceId>,
        drained: Ledger<Drained>,
        adopt: bool,
    ) -> Self {
        let clock = Clock::now();
        Self {
            connect,
            io: None,
            pause,
            connection: Backoff::new(Duration::from_secs(1), Duration::from_secs(30)),
            configured: false,
            desired: Desired::after(Drains::restore(drained.entries(), &clock)),
            ledger,
            drained,
            clock,
            adopt,
            full: true,
            dirty: BTreeSet::new(),
            timeouts_dirty: false,
            failing: BTreeMap::new(),
            strays: BTreeSet::new(),
            timeouts_failure: None,
            failures_changed: true,
            ledger_failed: false,
            retry: Backoff::new(Duration::from_secs(1), Duration::from_secs(60)),
            look: Look::new(Instant::now()),
            sampled: None,
            listing: None,
            ranks: BTreeMap::new(),
            samples: BTreeMap::new(),
            absent: None,
            report: PlaneReport::default(),
        }
    }

    /// Something keeps the plane from its work. A kernel without IPVS matters only to those who want something of it.
    fn lacks(&mut self, message: String) {
        let nobody = self.desired.keys().next().is_none()
            && self.desired.timeouts().is_none()
            && self.ledger.entries().is_empty();
        if self.absent.is_some() && nobody {
            self.report.missing = None;
            self.report.settled = true;
            return;
        }
        if self.report.missing.as_ref() != Some(&message) {
            warn!(plane = "ipvs", "{message}");
            self.report.last_error = Some(message.clone());
            self.report.missing = Some(message);
        }
    }

    /// Takes a changed binding. What is said of failures is made anew only if one may concern it: there may be thousands.
    fn set(
        &mut self,
        key: &BindingKey,
        spec: Option<&Arc<VirtualServiceBindingSpec>>,
        live: Option<&Arc<Judgement>>,
    ) {
        let concerned = |plane: &Self| {
            let mut services = plane.desired.wanted_by(key).iter();
            plane.desired.invalid().contains_key(key)
                || !plane.desired.contested().is_empty()
                || services.any(|id| plane.failing.contains_key(id))
        };
        self.failures_changed |= concerned(self);
        let affected = self.desired.set(key, spec, live, Instant::now());
        self.failures_changed |= concerned(self);
        self.dirty.extend(affected);
    }

    fn work(&mut self, context: &Context<'_>) -> Result<(), Error> {
        let now = context.now;
        self.withdraw()?;
        if self.full {
            self.pass(None, true, Cause::Start, now)?;
            self.full = false;
            self.report.settled = true;
            self.dirty.clear();
            self.timeouts_dirty = false;
        }
        self.dirty.extend(self.desired.end_leave(now));
        if !self.dirty.is_empty() || self.timeouts_dirty {
            let dirty = std::mem::take(&mut self.dirty);
            let timeouts = std::mem::take(&mut self.timeouts_dirty);
            self.retry.reset();
            self.pass(Some(&dirty), timeouts, Cause::Change, now)?;
        }
        if self.retry.deadline().is_some_and(|at| at <= now) {
            let failing: BTreeSet<_> = self.failing.keys().copied().collect();
            self.pass(Some(&failing), self.timeouts_failure.is_some(), Cause::Change, now)?;
            self.ledger.retry();
            self.drained.retry();
            self.failures_changed = true;
        }
        if self.look.due(now) {
            self.end_drains(now)?;
            self.look(context)?;
        }
        let well =
            self.failing.is_empty() && self.timeouts_failure.is_none() && self.ledger_error().is_none();
        if well {
            self.retry.reset();
        } else if self.retry.due(now) {
            self.retry.failed(now);
        }
        Ok(())
    }

    /// Takes out the real servers that have drained.
    fn end_drains(&mut self, now: Instant) -> Result<(), Error> {
        let mut ended = BTreeSet::new();
        for id in self.desired.draining() {
            let Some(io) = self.io.as_mut() else { return Ok(()) };
            let held = io.destinations(&id)?;
            if self.desired.end_drain(id, &held, now, TICK) {
                ended.insert(id);
            }
        }
        self.keep_drains();
        if !ended.is_empty() {
            self.pass(Some(&ended), false, Cause::Change, now)?;
        }
        Ok(())
    }

    /// Notes what drains, before the kernel has it so.
    fn keep_drains(&mut self) {
        let Some(draining) = self.desired.changed_drains(&self.clock) else { return };
        let ended: Vec<_> = self.drained.entries().difference(&draining).cloned().collect();
        self.drained.add(draining);
        self.drained.remove(&ended);
    }

    /// Why what is ours, or drains, cannot be noted.
    fn ledger_error(&self) -> Option<&str> {
        self.ledger.error().or_else(|| self.drained.error())
    }

    /// Observes, plans and applies: all services, or some; the timeouts, too, if told so. Repeats at once for those that changed
    /// under its hands.
    fn pass(
        &mut self,
        scope: Option<&BTreeSet<ServiceId>>,
        timeouts: bool,
        cause: Cause,
        now: Instant,
    ) -> Result<(), Error> {
        let mut raced = self.pass_once(scope, timeouts, cause, now)?;
        for _ in 1..ROUNDS {
            if raced.is_empty() {
                break;
            }
            raced = self.pass_once(Some(&raced), false, cause, now)?;
        }
        for id in raced {
            let message = "somebody else keeps changing it".to_owned();
            self.note(id, Some((FailureReason::Refused, message)));
        }
        self.report.passes += 1;
        self.report.last_pass = Some(SystemTime::now());
        Ok(())
    }

    fn pass_once(
        &mut self,
        scope: Option<&BTreeSet<ServiceId>>,
        timeouts: bool,
        cause: Cause,
        now: Instant,
    ) -> Result<BTreeSet<ServiceId>, Error> {
        let started = Instant::now();
        let Some(io) = self.io.as_mut() else { return Ok(BTreeSet::new()) };
        let services = self.desired.services();
        let (ledger, samples) = (&self.ledger, &mut self.samples);
        let all: BTreeSet<ServiceId>;
        let (ids, looked) = if let Some(scope) = scope {
            (scope, Scope::Some(scope))
        } else {
            all = services.keys().chain(ledger.entries()).copied().collect();
            (&all, Scope::All(&all))
        };
        let observed = observe(
            io,
            looked,
            timeouts,
            |id| ledger.contains(id),
            |entry, destinations| {
                if services.contains_key(&entry.service.id) {
                    samples.insert(entry.service.id, Arc::new(Figures { entry, destinations, at: now }));
                }
            },
        )?;
        let wanted = ids.iter().map(|id| (*id, services.get(id).map(|entry| &entry.wanted)));
        let mut plan = plan(wanted, self.desired.timeouts(), &observed, self.adopt);
        if cause == Cause::Drift && plan.commands.len() >= MANY {
            plan.commands = reverse_of_removal(
                plan.commands,
                |id| self.ranks.get(id).copied(),
                |id| self.samples.get(id).map(|figures| figures.destinations.as_slice()),
            );
        }

        let new: Vec<ServiceId> = plan
            .commands
            .iter()
            .filter_map(|command| match command {
                Command::NewService(service) if !self.ledger.contains(&service.id) => Some(service.id),
                _ => None,
            })
            .collect();
        self.ledger.add(new.iter().copied().chain(plan.claims.iter().copied()));
        let planned = Instant::now();
        let results = carry_out(io, &mut *self.pause, &plan.commands, &observed)?;
        let applying = planned.elapsed();
        self.report.applying += applying;
        if plan.commands.len() >= MANY {
            info!(
                plane = "ipvs",
                "{} commands carried out in {applying:?}, after {:?} of looking and planning",
                plan.commands.len(),
                planned.duration_since(started)
            );
        }
        let outcome = self.account(&plan.commands, &results, cause);
        self.settle(ids, timeouts, &observed, &plan.conflicts, &outcome, &new);
        // Whoever adopts takes the service over with them.
        if !self.adopt {
            self.strays.extend(outcome.strays.iter().copied());
        }
        self.withdraw()?;
        Ok(outcome.raced)
    }
}

impl<I: Io, C: FnMut() -> Result<I, Error>> Plane for IpvsPlane<I, C> {
    const NAME: PlaneName = PlaneName::Ipvs;
    const URGENT: bool = true;

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    fn configure(&mut self, change: &Merged) {
        self.configured = true;
        if let Some(director) = &change.director {
            self.timeouts_dirty |= self.desired.set_director(director);
            self.dirty.extend(self.desired.set_leave(director, Instant::now()));
        }
        if change.all {
            let gone: Vec<_> =
                self.desired.keys().filter(|key| !change.bindings.contains_key(key)).cloned().collect();
            for key in gone {
                self.set(&key, None, None);
            }
        }
        for (key, spec) in &change.bindings {
            let live = change.live.get(key);
            let known = spec.as_ref().is_some_and(|spec| self.desired.spec(key) == Some(spec));
            if !known || self.desired.live(key) != live {
                self.set(key, spec.as_ref(), live);
            }
        }
        for (key, live) in change.live.iter().filter(|(key, _)| !change.bindings.contains_key(*key)) {
            if let Some(spec) = self.desired.spec(key).cloned()
                && self.desired.live(key) != Some(live)
            {
                self.set(key, Some(&spec), Some(live));
            }
        }
        if change.all {
            self.desired.forget_drains();
        }
        self.keep_drains();
    }

    fn turn(&mut self, context: &Context<'_>) -> Turn {
        if !self.configured {
            return Turn { next: None, done: true };
        }
        let now = context.now;
        if self.io.is_none() && self.connection.due(now) {
            match (self.connect)() {
                Ok(io) => {
                    self.io = Some(io);
                    self.full = true;
                    self.listing = None;
                    self.absent = None;
                }
                Err(error) => {
                    self.absent = matches!(error, Error::Missing { .. }).then(|| error.to_string());
                    self.lacks(error.to_string());
                    self.connection.failed(now);
                }
            }
        }
        if let (None, Some(message)) = (&self.io, self.absent.clone()) {
            self.lacks(message);
        }
        if self.io.is_some() {
            match self.work(context) {
                Ok(()) => {
                    self.connection.reset();
                    if self.report.missing.take().is_some() {
                        info!(plane = "ipvs", "IPVS is there now");
                    }
                }
                Err(error) => {
                    warn!(plane = "ipvs", "{error}; starting over");
                    let message = error.to_string();
                    self.report.last_error = Some(message.clone());
                    if self.connection.deadline().is_some() {
                        // Not for the first time: nothing gets through.
                        self.report.missing = Some(message);
                    }
                    self.io = None;
                    self.connection.failed(now);
                }
            }
        }
        let ledger_failed = self.ledger_error().is_some();
        if self.failures_changed || ledger_failed != self.ledger_failed {
            self.ledger_failed = ledger_failed;
            self.failures_changed = false;
            let failures = self.failures();
            note_failures(&mut self.report, failures);
        }
        let next = if self.io.is_some() {
            let look = self.look.deadline();
            [self.retry.deadline(), self.desired.leave_ends()].into_iter().flatten().chain([look]).min()
        } else {
            self.connection.deadline()
        };
        // Without the kernel nothing was carried out; that is all that is possible only where something is missing, as is said then.
        let is_lacking = self.report.missing.is_some() || self.absent.is_some();
        Turn { next, done: self.io.is_some() || is_lacking }
    }

    fn report(&mut self) -> &mut PlaneReport {
        &mut self.report
    }

    fn figures(&mut self, now: Instant) -> Counted {
        Counted::Services(self.read_figures(now))
    }
}
