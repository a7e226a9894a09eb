//! The address plane at work.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::BorrowedFd,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tracing::{info, warn};

use super::{
    Desired, Event, Held, MARK, Observed, Op, Place, flags,
    kernel::{Io, keeps_marks},
    plan, preferred,
};
use crate::{
    plane::rtnl::FOREVER,
    reconcile::{
        Failure, FailureReason, PlaneName, PlaneReport,
        backoff::Backoff,
        inbox::Merged,
        ledger::Ledger,
        report::{DRIFT_LINES, note_failures},
        runner::{Context, Plane, Turn},
    },
};

/// How long a new address waits for the service behind it to be programmed, at most.
const PATIENCE: Duration = Duration::from_secs(10);
/// The kernel notifies; reading everything now and then guards against what nobody thought of.
const LOOK: Duration = Duration::from_secs(60);
/// A pass is repeated at once for what changed under its hands, so often.
const ROUNDS: usize = 3;

/// The address plane.
pub(crate) struct AddressPlane<I, C> {
    connect: C,
    io: Option<I>,
    connection: Backoff,
    configured: bool,
    desired: Desired,
    observed: Observed,
    ledger: Ledger<Place>,
    marks: bool,
    full: bool,
    /// Places that the configuration changed.
    dirty: BTreeSet<Place>,
    /// New places that wait for their services.
    waiting: BTreeSet<Place>,
    waiting_since: Option<Instant>,
    failing: BTreeMap<Place, (FailureReason, String)>,
    failures_changed: bool,
    ledger_failed: bool,
    retry: Backoff,
    look: Instant,
    report: PlaneReport,
}

impl<I: Io, C: FnMut() -> io::Result<I>> AddressPlane<I, C> {
    pub(crate) fn new(connect: C, ledger: Ledger<Place>) -> Self {
        Self {
            connect,
            io: None,
            connection: Backoff::new(Duration::from_secs(1), Duration::from_secs(30)),
            configured: false,
            desired: Desired::default(),
            observed: Observed::default(),
            ledger,
            marks: keeps_marks(),
            full: true,
            dirty: BTreeSet::new(),
            waiting: BTreeSet::new(),
            waiting_since: None,
            failing: BTreeMap::new(),
            failures_changed: true,
            ledger_failed: false,
            retry: Backoff::new(Duration::from_secs(1), Duration::from_secs(60)),
            look: Instant::now() + LOOK,
            report: PlaneReport::default(),
        }
    }

    fn work(&mut self, context: &Context<'_>) -> io::Result<()> {
        let now = context.now;
        let suspects = self.hear()?;
        if self.full {
            self.reload()?;
            self.full = false;
            let mut all: BTreeSet<Place> = self.desired.places().keys().cloned().collect();
            all.extend(self.ours());
            self.dirty.extend(all);
        }
        if self.configured && !self.dirty.is_empty() {
            let dirty = std::mem::take(&mut self.dirty);
            self.retry.reset();
            // A new address waits for what is behind it, and what goes waits for what comes.
            if self.waiting.is_empty() && !dirty.iter().any(|place| self.desired.places().contains_key(place))
            {
                self.pass(dirty, false)?;
            } else {
                self.waiting_since.get_or_insert(now);
                self.waiting.extend(dirty);
            }
        }
        let patient = self.waiting_since.is_some_and(|since| now < since + PATIENCE);
        if !self.waiting.is_empty() && (context.others_done || !patient) {
            let waiting = std::mem::take(&mut self.waiting);
            self.pass(waiting, false)?;
        }
        if self.waiting.is_empty() {
            self.waiting_since = None;
            self.report.settled |= self.configured;
        }
        if self.configured {
            let suspects: BTreeSet<_> =
                suspects.into_iter().filter(|place| !self.waiting.contains(place)).collect();
            self.pass(suspects, true)?;
            if self.retry.deadline().is_some_and(|at| at <= now) {
                let failing = self.failing.keys().cloned().collect();
                self.pass(failing, false)?;
                self.ledger.retry();
                self.failures_changed = true;
            }
        }
        if now >= self.look {
            self.look = now + LOOK;
            self.report.last_look = Some(SystemTime::now());
            self.reload()?;
            let mut all: BTreeSet<Place> = self.desired.places().keys().cloned().collect();
            all.extend(self.ours());
            all.retain(|place| !self.waiting.contains(place));
            self.pass(all, true)?;
        }
        if self.failing.is_empty() && self.ledger.error().is_none() {
            self.retry.reset();
        } else if self.retry.due(now) {
            self.retry.failed(now);
        }
        Ok(())
    }

    /// Takes the kernel's notifications; returns the places of ours that they concern.
    fn hear(&mut self) -> io::Result<BTreeSet<Place>> {
        let Some(io) = self.io.as_mut() else { return Ok(BTreeSet::new()) };
        let (events, lost) = io.events()?;
        let mut suspects = BTreeSet::new();
        if lost {
            self.reload()?;
            suspects.extend(self.desired.places().keys().cloned());
            suspects.extend(self.ours());
            return Ok(suspects);
        }
        for event in events {
            match &event {
                Event::Link { index, name } => {
                    let known = self.observed.links.get(index).is_some_and(|old| old.as_ref() == name);
                    if !known {
                        suspects.extend(self.on_interface(name));
                        let old = self.observed.links.get(index).map(|old| self.on_interface(old));
                        suspects.extend(old.unwrap_or_default());
                    }
                }
                Event::LinkGone { index } => {
                    let old = self.observed.links.get(index).map(|old| self.on_interface(old));
                    suspects.extend(old.unwrap_or_default());
                }
                Event::Address { address, index, .. } | Event::AddressGone { address, index, .. } => {
                    let place = self.observed.links.get(index).map(|name| Place::new(name, *address));
                    suspects.extend(place.filter(|place| self.desired.places().contains_key(place)));
                }
            }
            self.observed.update(&event);
        }
        Ok(suspects)
    }

    fn on_interface(&self, name: &str) -> Vec<Place> {
        if !self.desired.uses(name) {
            return Vec::new();
        }
        self.desired.places().keys().filter(|place| place.interface.as_ref() == name).cloned().collect()
    }

    fn reload(&mut self) -> io::Result<()> {
        if let Some(io) = self.io.as_mut() {
            self.observed = io.observe()?;
        }
        Ok(())
    }

    /// Addresses in the kernel that are ours, wanted or not.
    fn ours(&self) -> Vec<Place> {
        self.observed.marked().chain(self.ledger.entries().iter().cloned()).collect()
    }

    fn pass(&mut self, mut scope: BTreeSet<Place>, drift: bool) -> io::Result<()> {
        for _ in 0..ROUNDS {
            if scope.is_empty() {
                return Ok(());
            }
            scope = self.pass_once(&scope, drift)?;
        }
        Ok(())
    }

    fn pass_once(&mut self, scope: &BTreeSet<Place>, drift: bool) -> io::Result<BTreeSet<Place>> {
        let Some(io) = self.io.as_mut() else { return Ok(BTreeSet::new()) };
        let plan =
            plan(scope, &self.desired, &self.observed, |place| self.ledger.contains(place), self.marks);
        let new: Vec<Place> = plan
            .ops
            .iter()
            .filter_map(|op| match op {
                Op::Add { place, .. } if !self.ledger.contains(place) => Some(place.clone()),
                _ => None,
            })
            .collect();
        self.ledger.add(new.iter().cloned());
        let (mut failed, mut raced, mut gone) = (BTreeMap::new(), BTreeSet::new(), Vec::new());
        let mut said = 0;
        for op in &plan.ops {
            let place = op.place().clone();
            let started = Instant::now();
            let result = io.apply(op);
            self.report.applying += started.elapsed();
            match result {
                Ok(()) => {
                    *self.report.operations.entry(op.kind()).or_default() += 1;
                    if drift && !self.failing.contains_key(&place) {
                        *self.report.repaired.entry(op.kind()).or_default() += 1;
                        said += 1;
                        if said <= DRIFT_LINES {
                            warn!(plane = "address", "put back what somebody changed: {op}");
                        }
                    }
                    // Its notification may come later (the kernel tells of IPv6 addresses from a work queue).
                    self.observed.update(&outcome(op));
                    if matches!(op, Op::Remove { .. }) {
                        gone.push(place);
                    }
                }
                Err(error) => {
                    let meaning = match (op, error.raw_os_error()) {
                        // Somebody was faster; what is there now is seen below.
                        (Op::Add { .. }, Some(libc::EEXIST))
                        | (Op::Remove { .. }, Some(libc::EADDRNOTAVAIL | libc::ENODEV)) => {
                            raced.insert(place);
                            continue;
                        }
                        (_, Some(libc::ENODEV)) => "there is no such interface".to_owned(),
                        (_, Some(libc::EACCES)) if place.address.is_ipv6() => format!(
                            "IPv6 is switched off there: set net.ipv6.conf.{}.disable_ipv6 to 0",
                            place.interface
                        ),
                        (_, Some(libc::EPERM)) => "not permitted: CAP_NET_ADMIN is needed".to_owned(),
                        _ => error.to_string(),
                    };
                    self.report.refused += 1;
                    failed.insert(place, (FailureReason::Refused, format!("cannot {op}: {meaning}")));
                }
            }
        }
        for place in plan.homeless {
            let message = homeless(&place);
            failed.insert(place, (FailureReason::Missing, message));
        }
        // Not ours after all: never came to be.
        gone.extend(new.into_iter().filter(|place| failed.contains_key(place) || raced.contains(place)));
        let indices: BTreeMap<_, _> =
            self.observed.links.iter().map(|(index, name)| (name.as_ref(), *index)).collect();
        gone.extend(
            scope
                .iter()
                .filter(|place| {
                    let index = indices.get(place.interface.as_ref());
                    let there = index
                        .is_some_and(|index| self.observed.addresses.contains_key(&(place.address, *index)));
                    !there && !self.desired.places().contains_key(*place)
                })
                .cloned(),
        );
        self.ledger.remove(&gone);
        if !raced.is_empty() {
            self.reload()?;
        }
        for place in scope {
            self.note(place, failed.remove(place));
        }
        self.report.passes += 1;
        self.report.last_pass = Some(SystemTime::now());
        Ok(raced)
    }

    fn note(&mut self, place: &Place, failure: Option<(FailureReason, String)>) {
        if self.failing.get(place) == failure.as_ref() {
            return;
        }
        self.failures_changed = true;
        if let Some(failure) = failure {
            warn!(plane = "address", reason = %failure.0, "{place}: {}", failure.1);
            self.report.last_error = Some(format!("{place}: {}", failure.1));
            self.failing.insert(place.clone(), failure);
        } else if self.failing.remove(place).is_some() {
            info!(plane = "address", "{place}: as wanted again");
        }
    }

    fn failures(&self) -> BTreeMap<String, Failure> {
        let mut failures = BTreeMap::new();
        for (place, (reason, message)) in &self.failing {
            let bindings = self.desired.places().get(place).cloned().unwrap_or_default();
            let object = place.to_string();
            let failure = Failure {
                object: object.clone(),
                reason: *reason,
                message: message.clone(),
                bindings,
                nat_rules: BTreeSet::new(),
            };
            failures.insert(object, failure);
        }
        if let Some(message) = self.ledger.error() {
            let failure = Failure {
                object: "ledger".to_owned(),
                reason: FailureReason::Ledger,
                message: message.to_owned(),
                bindings: BTreeSet::new(),
                nat_rules: BTreeSet::new(),
            };
            failures.insert("ledger".to_owned(), failure);
        }
        failures
    }
}

/// What is said of an address whose interface is not there.
pub(crate) fn homeless(place: &Place) -> String {
    format!("there is no interface {} on this machine; the address is added when it appears", place.interface)
}

/// What a successful operation leaves in the kernel.
fn outcome(op: &Op) -> Event {
    match op {
        Op::Add { place, index } | Op::Change { place, index } => Event::Address {
            address: place.address,
            index: *index,
            held: Held {
                prefix: place.prefix(),
                flags: flags(place),
                mark: MARK,
                preferred: preferred(place),
                valid: FOREVER,
            },
        },
        Op::Remove { place, index, prefix } => {
            Event::AddressGone { address: place.address, index: *index, prefix: *prefix }
        }
    }
}

impl<I: Io, C: FnMut() -> io::Result<I>> Plane for AddressPlane<I, C> {
    const NAME: PlaneName = PlaneName::Address;

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.io.as_ref().and_then(Io::descriptor).into_iter().collect()
    }

    fn configure(&mut self, change: &Merged) {
        self.configured = true;
        self.failures_changed = true;
        if change.all {
            let gone: Vec<_> =
                self.desired.keys().filter(|key| !change.bindings.contains_key(key)).cloned().collect();
            for key in gone {
                self.dirty.extend(self.desired.set(&key, None));
            }
        }
        for (key, spec) in &change.bindings {
            self.dirty.extend(self.desired.set(key, spec.as_ref()));
        }
    }

    fn turn(&mut self, context: &Context<'_>) -> Turn {
        let now = context.now;
        if !self.configured {
            return Turn { next: None, done: true };
        }
        if self.io.is_none() && self.connection.due(now) {
            match (self.connect)() {
                Ok(io) => {
                    self.io = Some(io);
                    self.full = true;
                }
                Err(error) => {
                    let message = format!("cannot open an rtnetlink socket: {error}");
                    warn!(plane = "address", "{message}");
                    self.report.last_error = Some(message.clone());
                    self.report.missing = Some(message);
                    self.connection.failed(now);
                }
            }
        }
        if self.io.is_some() {
            match self.work(context) {
                Ok(()) => {
                    self.connection.reset();
                    self.report.missing = None;
                }
                Err(error) => {
                    let message = format!("rtnetlink: {error}");
                    warn!(plane = "address", "{message}; starting over");
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
        let ledger_failed = self.ledger.error().is_some();
        if self.failures_changed || ledger_failed != self.ledger_failed {
            self.ledger_failed = ledger_failed;
            self.failures_changed = false;
            let failures = self.failures();
            note_failures(&mut self.report, failures);
        }
        if self.waiting.is_empty() != self.report.pending.is_empty() || !self.waiting.is_empty() {
            let waiting = self.waiting.iter().filter_map(|place| self.desired.places().get(place));
            self.report.pending = Arc::new(waiting.flatten().cloned().collect());
        }
        let deadlines = [
            self.connection.deadline(),
            self.retry.deadline(),
            self.io.as_ref().map(|_| self.look),
            self.waiting_since.map(|since| since + PATIENCE),
        ];
        let possible = self.io.is_some() || self.report.missing.is_some();
        Turn { next: deadlines.into_iter().flatten().min(), done: possible && self.waiting.is_empty() }
    }

    fn report(&mut self) -> &mut PlaneReport {
        &mut self.report
    }
}
