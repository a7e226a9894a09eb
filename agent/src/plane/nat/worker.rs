//! The nat plane at work.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    os::fd::BorrowedFd,
    time::{Duration, Instant, SystemTime},
};

use tracing::{info, warn};

use super::{
    Desired, Element, Key, Observed, Op, TABLE,
    kernel::{Io, missing},
    plan,
};
use crate::reconcile::{
    Failure, FailureReason, PlaneName, PlaneReport,
    backoff::Backoff,
    inbox::Merged,
    report::note_failures,
    runner::{Context, Plane, Turn},
};

/// The kernel notifies; reading everything now and then guards against what nobody thought of.
const LOOK: Duration = Duration::from_secs(60);
/// Links, addresses and routes change in bursts: the networks are read at most this often.
const SETTLE: Duration = Duration::from_millis(100);
/// A plan is made anew at once when somebody else changed the table meanwhile, so often.
const ROUNDS: usize = 3;

/// The nat plane.
pub(crate) struct NatPlane<I, C> {
    connect: C,
    io: Option<I>,
    connection: Backoff,
    configured: bool,
    desired: Desired,
    observed: Option<Observed>,
    dirty: BTreeSet<Element>,
    full: bool,
    network: Option<Instant>,
    networks_of: BTreeSet<IpAddr>,
    failure: Option<(FailureReason, String)>,
    failures_changed: bool,
    retry: Backoff,
    look: Instant,
    report: PlaneReport,
}

impl<I: Io, C: FnMut() -> io::Result<I>> NatPlane<I, C> {
    pub(crate) fn new(connect: C) -> Self {
        Self {
            connect,
            io: None,
            connection: Backoff::new(Duration::from_secs(1), Duration::from_secs(30)),
            configured: false,
            desired: Desired::default(),
            observed: None,
            dirty: BTreeSet::new(),
            full: true,
            network: None,
            networks_of: BTreeSet::new(),
            failure: None,
            failures_changed: true,
            retry: Backoff::new(Duration::from_secs(1), Duration::from_secs(60)),
            look: Instant::now() + LOOK,
            report: PlaneReport::default(),
        }
    }

    /// A socket is needed only where there is something to do or to undo.
    fn work(&mut self, now: Instant) -> io::Result<()> {
        let Some(io) = self.io.as_mut() else { return Ok(()) };
        let events = io.events()?;
        let mut drift = events.table;
        if events.table {
            self.observed = None;
        }
        if events.network && self.desired.servers().next().is_some() {
            self.network.get_or_insert(now + SETTLE);
        }
        let servers: BTreeSet<IpAddr> = if self.dirty.is_empty() && !self.full {
            self.networks_of.clone()
        } else {
            self.desired.servers().collect()
        };
        if self.full || servers != self.networks_of || self.network.is_some_and(|at| at <= now) {
            self.network = None;
            let connected = io.connected(&servers)?;
            self.networks_of = servers;
            self.dirty.extend(self.desired.set_connected(&connected));
        }
        if now >= self.look {
            self.look = now + LOOK;
            self.report.last_look = Some(SystemTime::now());
            self.observed = None;
            drift = true;
        }
        let retries = self.retry.deadline().is_some_and(|at| at <= now);
        if self.full || drift || retries || !self.dirty.is_empty() {
            let dirty = std::mem::take(&mut self.dirty);
            let changed = self.full || retries || !dirty.is_empty();
            let scope = (self.observed.is_some() && !self.full && !retries).then_some(dirty);
            self.full = false;
            self.pass(scope, !changed, now)?;
            self.report.settled = true;
        }
        Ok(())
    }

    fn pass(&mut self, mut scope: Option<BTreeSet<Element>>, drift: bool, now: Instant) -> io::Result<()> {
        let Some(io) = self.io.as_mut() else { return Ok(()) };
        let mut failure = None;
        for round in 0..ROUNDS {
            let observed = match self.observed.take() {
                Some(observed) => observed,
                None => {
                    scope = None;
                    io.observe()?
                }
            };
            let Some(op) = plan(scope.as_ref(), &self.desired, &observed) else {
                self.observed = Some(observed);
                failure = None;
                break;
            };
            let started = Instant::now();
            let result = io.apply(&op);
            self.report.applying += started.elapsed();
            match result {
                Ok(()) => {
                    *self.report.operations.entry(op.kind()).or_default() += 1;
                    if drift && round == 0 && self.failure.is_none() {
                        *self.report.repaired.entry(op.kind()).or_default() += 1;
                        warn!(plane = "nat", "put back what somebody changed: {op}");
                    }
                    self.observed = Some(after(observed, op));
                    failure = None;
                    break;
                }
                // Read anew: somebody else may have changed it. What still fails is said.
                Err(error) => failure = Some((op, error)),
            }
        }
        let failure = failure.map(|(op, error)| {
            self.report.refused += 1;
            match missing(&error) {
                Some(message) => (FailureReason::Missing, message),
                None => (FailureReason::Refused, format!("cannot {op}: {error}")),
            }
        });
        if failure.is_some() {
            if self.retry.due(now) {
                self.retry.failed(now);
            }
        } else {
            self.retry.reset();
        }
        if self.failure != failure {
            self.failures_changed = true;
            match &failure {
                Some((reason, message)) => {
                    warn!(plane = "nat", %reason, "{message}");
                    self.report.last_error = Some(message.clone());
                }
                None => info!(plane = "nat", "table inet {TABLE}: as wanted again"),
            }
            self.failure = failure;
        }
        self.report.passes += 1;
        self.report.last_pass = Some(SystemTime::now());
        Ok(())
    }

    fn failures(&self) -> BTreeMap<String, Failure> {
        let mut failures = BTreeMap::new();
        if let Some((reason, message)) = &self.failure {
            let object = format!("table inet {TABLE}");
            let bindings = self.desired.owners();
            failures.insert(
                object.clone(),
                Failure {
                    object,
                    reason: *reason,
                    message: message.clone(),
                    bindings,
                    nat_rules: BTreeSet::new(),
                },
            );
        }
        for (key, message) in self.desired.invalid() {
            let failure = Failure::invalid(key, message);
            failures.insert(failure.object.clone(), failure);
        }
        for (element, owner, bindings) in self.desired.contested() {
            let object = format!("mark of {element}");
            let message = format!("VirtualService {owner} sets another mark already");
            let failure = Failure {
                object: object.clone(),
                reason: FailureReason::Conflict,
                message,
                bindings,
                nat_rules: BTreeSet::new(),
            };
            failures.insert(object, failure);
        }
        failures
    }
}

/// What the kernel holds after a transaction.
fn after(mut observed: Observed, op: Op) -> Observed {
    match op {
        Op::Replace(elements) => {
            Observed { exists: true, intact: Some(elements.keys().copied().collect()), elements }
        }
        Op::Change { remove, add } => {
            for (set, entries) in remove {
                let held: &mut BTreeMap<Key, u32> = observed.elements.entry(set).or_default();
                held.retain(|key, _| !entries.contains_key(key));
            }
            for (set, entries) in add {
                observed.elements.entry(set).or_default().extend(entries);
            }
            observed
        }
        Op::Remove => Observed::default(),
    }
}

impl<I: Io, C: FnMut() -> io::Result<I>> Plane for NatPlane<I, C> {
    const NAME: PlaneName = PlaneName::Nat;

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.io.as_ref().map(Io::descriptors).unwrap_or_default()
    }

    fn configure(&mut self, change: &Merged) {
        self.configured = true;
        if let Some(director) = &change.director {
            self.dirty.extend(self.desired.set_director(director));
        }
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
        self.failures_changed |= !self.dirty.is_empty() || !self.desired.invalid().is_empty();
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
                    self.observed = None;
                    self.report.missing = None;
                }
                Err(error) => self.lost("cannot open a netlink socket", &error, now),
            }
        }
        if self.io.is_some() {
            match self.work(now) {
                Ok(()) => self.connection.reset(),
                Err(error) => {
                    self.io = None;
                    self.lost("nf_tables", &error, now);
                }
            }
        }
        if self.failures_changed {
            self.failures_changed = false;
            let failures = self.failures();
            note_failures(&mut self.report, failures);
        }
        let deadlines = [
            self.connection.deadline(),
            self.retry.deadline(),
            self.network,
            self.io.as_ref().map(|_| self.look),
        ];
        Turn { next: deadlines.into_iter().flatten().min(), done: true }
    }

    fn report(&mut self) -> &mut PlaneReport {
        &mut self.report
    }
}

impl<I: Io, C: FnMut() -> io::Result<I>> NatPlane<I, C> {
    /// The kernel does not answer, or has no nftables. Where nothing is wanted of it, that is no matter.
    fn lost(&mut self, what: &str, error: &io::Error, now: Instant) {
        self.connection.failed(now);
        let lacks = missing(error);
        if lacks.is_some() && self.desired.sets().is_empty() {
            self.report.settled = true;
            self.report.missing = None;
            self.failures_changed |= self.failure.take().is_some();
            return;
        }
        let message = lacks.unwrap_or_else(|| format!("{what}: {error}"));
        if self.report.missing.as_ref() != Some(&message) {
            warn!(plane = "nat", "{message}");
        }
        self.report.last_error = Some(message.clone());
        self.report.missing = Some(message.clone());
        if self.failure.as_ref().is_none_or(|(_, old)| *old != message) {
            self.failure = Some((FailureReason::Missing, message));
            self.failures_changed = true;
        }
    }
}
