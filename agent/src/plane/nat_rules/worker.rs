//! The plane of NatRules at work.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::BorrowedFd,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tracing::{info, warn};

use super::{
    Desired, Observed, Op, TABLE, Table,
    kernel::{Io, missing},
    plan,
};
use crate::reconcile::{
    Failure, FailureReason, PlaneName, PlaneReport,
    backoff::Backoff,
    inbox::{Counted, Merged},
    report::note_failures,
    runner::{Context, Plane, Turn},
};

/// The kernel notifies; reading everything now and then guards against what nobody thought of.
const LOOK: Duration = Duration::from_secs(60);
/// After a start groups say within seconds what they are. One that has said nothing by then is not active.
const STRANGERS: Duration = Duration::from_secs(60);
/// A plan is made anew at once when somebody else changed the table meanwhile, so often.
const ROUNDS: usize = 3;
/// How often the end of connections is tried.
const ATTEMPTS: u32 = 5;

/// The plane of NatRules.
pub(crate) struct NatRulesPlane<I, C> {
    connect: C,
    io: Option<I>,
    connection: Backoff,
    configured: bool,
    desired: Desired,
    observed: Option<Observed>,
    dirty: bool,
    /// Rules that have gone and whose connections have yet to be ended, and how often that was tried.
    ending: Table,
    attempts: u32,
    /// What a former process had yet to end is this one's to end.
    inherits: bool,
    strangers: Option<Instant>,
    failure: Option<(FailureReason, String)>,
    failures_changed: bool,
    retry: Backoff,
    look: Instant,
    report: PlaneReport,
}

impl<I: Io, C: FnMut() -> io::Result<I>> NatRulesPlane<I, C> {
    pub(crate) fn new(connect: C) -> Self {
        Self {
            connect,
            io: None,
            connection: Backoff::new(Duration::from_secs(1), Duration::from_secs(30)),
            configured: false,
            desired: Desired::default(),
            observed: None,
            dirty: true,
            ending: Table::new(),
            attempts: 0,
            inherits: true,
            strangers: None,
            failure: None,
            failures_changed: true,
            retry: Backoff::new(Duration::from_secs(1), Duration::from_secs(60)),
            look: Instant::now() + LOOK,
            report: PlaneReport::default(),
        }
    }

    fn work(&mut self, now: Instant) -> io::Result<()> {
        let Some(io) = self.io.as_mut() else { return Ok(()) };
        let mut drift = io.changed()?;
        if now >= self.look {
            self.look = now + LOOK;
            self.report.last_look = Some(SystemTime::now());
            drift = true;
        }
        if drift {
            self.observed = None;
        }
        let retries = self.retry.deadline().is_some_and(|at| at <= now);
        if drift || retries || self.dirty {
            let changed = std::mem::take(&mut self.dirty) || retries;
            self.pass(!changed, now)?;
            self.report.settled = true;
        }
        self.end_connections(now);
        Ok(())
    }

    fn pass(&mut self, drift: bool, now: Instant) -> io::Result<()> {
        let Some(io) = self.io.as_mut() else { return Ok(()) };
        let mut failure = None;
        for round in 0..ROUNDS {
            let observed = match self.observed.take() {
                Some(observed) => observed,
                None => io.observe()?,
            };
            if std::mem::take(&mut self.inherits) {
                self.ending.clone_from(&observed.ending);
            }
            let Some(op) = plan(&self.desired, &observed) else {
                self.observed = Some(observed);
                failure = None;
                break;
            };
            let mut ending = self.ending.clone();
            ending.extend(op.ending().clone());
            let started = Instant::now();
            let result = io.apply(&op, &ending);
            self.report.applying += started.elapsed();
            match result {
                Ok(()) => {
                    *self.report.operations.entry(op.kind()).or_default() += 1;
                    if drift && round == 0 && self.failure.is_none() {
                        *self.report.repaired.entry(op.kind()).or_default() += 1;
                        warn!(plane = "nat-rules", "put back what somebody changed: {op}");
                    }
                    self.ending = ending;
                    self.attempts = 0;
                    let exists = matches!(op, Op::Replace { .. });
                    self.observed =
                        Some(Observed { exists, intact: exists, rules: op.rules(), ending: Table::new() });
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
        if failure.is_none() {
            self.retry.reset();
        } else if self.retry.due(now) {
            self.retry.failed(now);
        }
        self.note(failure);
        self.report.passes += 1;
        self.report.last_pass = Some(SystemTime::now());
        Ok(())
    }

    fn note(&mut self, failure: Option<(FailureReason, String)>) {
        if self.failure == failure {
            return;
        }
        self.failures_changed = true;
        match &failure {
            Some((reason, message)) => {
                warn!(plane = "nat-rules", %reason, "{message}");
                self.report.last_error = Some(message.clone());
            }
            None => info!(plane = "nat-rules", "table inet {TABLE}: as wanted again"),
        }
        self.failure = failure;
    }

    /// After the transaction: before it they could come back.
    fn end_connections(&mut self, now: Instant) {
        let Some(io) = self.io.as_mut() else { return };
        let waits = self.attempts > 0 && !self.retry.due(now);
        if self.ending.is_empty() || self.failure.is_some() || waits {
            return;
        }
        let standing = self.observed.as_ref().map(|observed| observed.rules.clone()).unwrap_or_default();
        match io.end(&self.ending, &standing) {
            Ok(ended) => {
                if ended > 0 {
                    info!(plane = "nat-rules", "ended {ended} connections of rules that have gone");
                    *self.report.operations.entry("end-connections").or_default() += 1;
                }
                self.ending.clear();
                self.attempts = 0;
                self.retry.reset();
            }
            Err(error) => {
                self.attempts += 1;
                self.report.refused += 1;
                let gives_up = self.attempts >= ATTEMPTS;
                let message = format!(
                    "the connections of rules that have gone cannot be ended ({error}){}",
                    if gives_up {
                        ": they go on until they end by themselves; load nf_conntrack_netlink"
                    } else {
                        ""
                    }
                );
                warn!(plane = "nat-rules", "{message}");
                self.report.last_error = Some(message);
                if gives_up {
                    self.ending.clear();
                    self.attempts = 0;
                    self.retry.reset();
                } else {
                    self.retry.failed(now);
                }
            }
        }
    }

    fn failures(&self) -> BTreeMap<String, Failure> {
        let failure = self.failure.as_ref().map(|(reason, message)| {
            let object = format!("table inet {TABLE}");
            let nat_rules = self.desired.keys().cloned().collect();
            let failure = Failure {
                object: object.clone(),
                reason: *reason,
                message: message.clone(),
                bindings: BTreeSet::new(),
                nat_rules,
            };
            (object, failure)
        });
        failure.into_iter().collect()
    }

    /// The kernel does not answer, or lacks what rules need. Where there are none, that is no matter.
    fn lost(&mut self, what: &str, error: &io::Error, now: Instant) {
        self.connection.failed(now);
        let lacks = missing(error);
        if lacks.is_some() && self.desired.is_empty() {
            self.report.settled = true;
            self.report.missing = None;
            self.failures_changed |= self.failure.take().is_some();
            return;
        }
        let message = lacks.unwrap_or_else(|| format!("{what}: {error}"));
        if self.report.missing.as_ref() != Some(&message) {
            warn!(plane = "nat-rules", "{message}");
        }
        self.report.last_error = Some(message.clone());
        self.report.missing = Some(message.clone());
        if self.failure.as_ref().is_none_or(|(_, old)| *old != message) {
            self.failure = Some((FailureReason::Missing, message));
            self.failures_changed = true;
        }
    }
}

impl<I: Io, C: FnMut() -> io::Result<I>> Plane for NatRulesPlane<I, C> {
    const NAME: PlaneName = PlaneName::NatRules;

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.io.as_ref().map(Io::descriptors).unwrap_or_default()
    }

    fn configure(&mut self, change: &Merged) {
        // What becomes known of groups may come before the first configuration.
        self.dirty |= self.desired.set_roles(&change.roles);
        if !change.is_configuration() {
            return;
        }
        self.configured = true;
        if change.all {
            let gone: Vec<_> =
                self.desired.keys().filter(|key| !change.nat_rules.contains_key(key)).cloned().collect();
            for key in gone {
                self.dirty |= self.desired.set(&key, None);
            }
        }
        for (key, spec) in &change.nat_rules {
            self.dirty |= self.desired.set(key, spec.as_ref());
        }
        self.failures_changed |= self.dirty && self.failure.is_some();
    }

    fn turn(&mut self, context: &Context<'_>) -> Turn {
        let now = context.now;
        if !self.configured {
            return Turn { next: None, done: true };
        }
        let strangers = *self.strangers.get_or_insert(now + STRANGERS);
        if strangers <= now && self.desired.settle() {
            self.dirty = true;
        }
        if self.io.is_none() && self.connection.due(now) {
            match (self.connect)() {
                Ok(io) => {
                    self.io = Some(io);
                    self.dirty = true;
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
        let resting = self.desired.resting();
        if *self.report.resting != resting {
            self.report.resting = Arc::new(resting);
        }
        let deadlines = [
            self.connection.deadline(),
            self.retry.deadline(),
            (strangers > now).then_some(strangers),
            self.io.as_ref().map(|_| self.look),
        ];
        Turn { next: deadlines.into_iter().flatten().min(), done: true }
    }

    fn report(&mut self) -> &mut PlaneReport {
        &mut self.report
    }

    fn figures(&mut self, _now: Instant) -> Counted {
        let counts = self.io.as_mut().filter(|_| !self.desired.is_empty()).and_then(|io| io.counts().ok());
        Counted::NatRules(counts.unwrap_or_default())
    }
}
