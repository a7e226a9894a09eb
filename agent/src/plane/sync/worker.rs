//! The plane of connection synchronisation at work.

mod shield;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::BorrowedFd,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bascule_ipvs::DaemonRole;
use tracing::{info, warn};

use super::{Io, Note, Observed, Op, ROLES, Wanted, desired, homeless, monitor::Monitor, plan, started};
use crate::reconcile::{
    Failure, FailureReason, PlaneName, PlaneReport,
    backoff::Backoff,
    inbox::Merged,
    ledger::Ledger,
    report::note_failures,
    runner::{Context, Plane, Turn},
};
use shield::Shield;

/// Nobody notifies of daemons that were stopped, and asking costs one message.
const LOOK: Duration = Duration::from_secs(1);

/// What is not as it should be, by object.
type Failing = BTreeMap<String, (FailureReason, String)>;

/// The plane.
pub(crate) struct SyncPlane<I: Io, C> {
    connect: C,
    io: Option<I>,
    connection: Backoff,
    configured: bool,
    wanted: Option<Wanted>,
    ledger: Ledger<Note>,
    /// What was wanted changed since the last pass.
    dirty: bool,
    observed: Observed,
    shield: Shield<I::Guard>,
    failing: Failing,
    failures_changed: bool,
    retry: Backoff,
    look: Instant,
    monitor: Option<Monitor>,
    report: PlaneReport,
}

fn object(role: DaemonRole) -> String {
    format!("{role} daemon")
}

impl<I: Io, C: FnMut() -> io::Result<I>> SyncPlane<I, C> {
    pub(crate) fn new(connect: C, ledger: Ledger<Note>) -> Self {
        Self {
            connect,
            io: None,
            connection: Backoff::new(Duration::from_secs(1), Duration::from_secs(30)),
            configured: false,
            wanted: None,
            ledger,
            dirty: true,
            observed: Observed::default(),
            shield: Shield::default(),
            failing: Failing::new(),
            failures_changed: true,
            retry: Backoff::new(Duration::from_secs(1), Duration::from_secs(60)),
            look: Instant::now(),
            monitor: None,
            report: PlaneReport::default(),
        }
    }

    /// Also listens to the peers.
    pub(crate) fn listening(mut self) -> Self {
        self.monitor = Some(Monitor::default());
        self
    }

    /// Whether there is anything of ours in the kernel, or shall be.
    fn concerned(&self) -> bool {
        let noted = ROLES.iter().any(|role| started(self.ledger.entries(), *role).is_some());
        self.wanted.is_some() || noted
    }

    fn work(&mut self, now: Instant) -> io::Result<()> {
        let Some(io) = self.io.as_mut() else { return Ok(()) };
        let moved = io.changed()?;
        let looks = now >= self.look;
        if looks {
            self.look = now + LOOK;
            self.ledger.retry();
        }
        let mut failing = Failing::new();
        if self.dirty || moved || looks {
            self.daemons(now, &mut failing);
            self.report.passes += 1;
            self.report.last_pass = Some(SystemTime::now());
        } else {
            failing = self.failing.clone();
            failing.remove(shield::OBJECT);
        }
        if let Some(io) = self.io.as_mut() {
            self.shield.work(io, &mut self.ledger, &mut self.report, now);
        }
        failing.extend(self.shield.failure());
        if looks {
            self.report.last_look = Some(SystemTime::now());
            let dropped = self.shield.dropped();
            let state = self
                .monitor
                .as_mut()
                .and_then(|monitor| monitor.look(self.wanted.as_ref(), &self.observed, dropped, now));
            self.report.connection_sync = state.map(Arc::new);
        }
        self.dirty = false;
        self.report.settled = true;
        self.note(failing);
        Ok(())
    }

    fn daemons(&mut self, now: Instant, failing: &mut Failing) {
        if !self.concerned() {
            self.observed = Observed::default();
            self.report.missing = None;
            return;
        }
        let Some(io) = self.io.as_mut() else { return };
        match io.observe(self.wanted.as_ref().map(|wanted| wanted.interface.as_str())) {
            Ok(observed) => {
                self.observed = observed;
                if self.report.missing.take().is_some() {
                    info!(plane = "connection-sync", "IPVS is there now");
                }
            }
            Err(error) => {
                self.observed = Observed::default();
                let message = error.to_string();
                if self.report.missing.as_ref() != Some(&message) {
                    warn!(plane = "connection-sync", "{message}");
                }
                self.report.last_error = Some(message.clone());
                self.report.missing = Some(message);
                return;
            }
        }
        self.claim();
        let noted: BTreeMap<u32, Option<u32>> =
            ROLES.iter().map(|role| (role.number(), started(self.ledger.entries(), *role))).collect();
        let plan = plan(self.wanted.as_ref(), &self.observed, |role| noted[&role.number()]);
        if let Some(wanted) = &self.wanted {
            for role in &plan.homeless {
                failing.insert(object(*role), (FailureReason::Missing, homeless(wanted)));
            }
        }
        let may_try = self.dirty || self.retry.due(now);
        let mut refused = false;
        for op in &plan.ops {
            let object = object(op.role());
            if let Some((FailureReason::Refused, _)) = self.failing.get(&object)
                && !may_try
            {
                failing.insert(object.clone(), self.failing[&object].clone());
                refused = true;
                continue;
            }
            if let Err(failure) = self.carry_out(op, self.dirty || self.failing.contains_key(&object)) {
                refused |= failure.0 == FailureReason::Refused;
                failing.insert(object, failure);
            }
        }
        if !refused {
            self.retry.reset();
        } else if self.retry.due(now) {
            self.retry.failed(now);
        }
    }

    /// A daemon that is as wanted is ours, whoever started it; of one that is gone nothing is to be noted.
    fn claim(&mut self) {
        for role in ROLES {
            let held = self.observed.daemon(role);
            let noted = started(self.ledger.entries(), role);
            let fits = held.zip(self.wanted.as_ref()).is_some_and(|(held, wanted)| wanted.is(held));
            match (noted, self.observed.link) {
                (None, Some(index)) if fits => self.ledger.add([Note::Daemon { role: role.number(), index }]),
                (Some(index), _) if held.is_none() => {
                    self.ledger.remove(&[Note::Daemon { role: role.number(), index }]);
                }
                _ => {}
            }
        }
    }

    fn carry_out(&mut self, op: &Op, told: bool) -> Result<(), (FailureReason, String)> {
        let Some(io) = self.io.as_mut() else { return Ok(()) };
        let role = op.role();
        let old: Vec<_> = started(self.ledger.entries(), role)
            .map(|index| Note::Daemon { role: role.number(), index })
            .into_iter()
            .collect();
        if let Op::Start(_, index) = op {
            // What is noted before the kernel has it is known after a crash.
            self.ledger.remove(&old);
            self.ledger.add([Note::Daemon { role: role.number(), index: *index }]);
        }
        let begun = Instant::now();
        let result = io.apply(op);
        self.report.applying += begun.elapsed();
        match result {
            Ok(()) => {
                if let Op::Stop(..) = op {
                    self.ledger.remove(&old);
                    self.observed.daemons.retain(|daemon| daemon.role != role);
                } else if let Op::Start(daemon, _) = op {
                    self.observed.daemons.push(daemon.clone());
                }
                *self.report.operations.entry(op.kind()).or_default() += 1;
                if told {
                    info!(plane = "connection-sync", "{op}");
                } else {
                    *self.report.repaired.entry(op.kind()).or_default() += 1;
                    warn!(plane = "connection-sync", "put back what somebody changed: {op}");
                }
                Ok(())
            }
            Err(failure) => {
                if let Op::Start(_, index) = op {
                    self.ledger.remove(&[Note::Daemon { role: role.number(), index: *index }]);
                }
                self.report.refused += 1;
                Err(failure)
            }
        }
    }

    fn note(&mut self, mut failing: Failing) {
        if let Some(error) = self.ledger.error() {
            failing.insert("ledger".to_owned(), (FailureReason::Ledger, error.to_owned()));
        }
        if failing == self.failing && !self.failures_changed {
            return;
        }
        self.failures_changed = false;
        for (object, (reason, message)) in &failing {
            if self.failing.get(object).is_none_or(|(_, old)| old != message) {
                warn!(plane = "connection-sync", %reason, "{object}: {message}");
                self.report.last_error = Some(format!("{object}: {message}"));
            }
        }
        for object in self.failing.keys().filter(|object| !failing.contains_key(*object)) {
            info!(plane = "connection-sync", "{object}: as wanted again");
        }
        let failures = failing.iter().map(|(object, (reason, message))| {
            let failure = Failure {
                object: object.clone(),
                reason: *reason,
                message: message.clone(),
                // It is the director's: services work without.
                bindings: BTreeSet::default(),
                nat_rules: BTreeSet::default(),
            };
            (object.clone(), failure)
        });
        note_failures(&mut self.report, failures.collect());
        self.failing = failing;
    }
}

impl<I: Io, C: FnMut() -> io::Result<I>> Plane for SyncPlane<I, C> {
    const NAME: PlaneName = PlaneName::ConnectionSync;

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let links = self.io.as_ref().and_then(Io::descriptor);
        links.into_iter().chain(self.shield.descriptor()).collect()
    }

    fn configure(&mut self, change: &Merged) {
        self.configured = true;
        if let Some(director) = &change.director {
            let wanted = desired(director);
            if wanted != self.wanted {
                self.wanted = wanted;
                self.dirty = true;
                self.look = Instant::now();
            }
            self.shield.want(self.wanted.is_some());
        }
        self.shield.configure(change);
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
                    self.dirty = true;
                }
                Err(error) => self.lost(&error, now),
            }
        }
        if self.io.is_some() {
            match self.work(now) {
                Ok(()) => self.connection.reset(),
                Err(error) => {
                    self.io = None;
                    self.lost(&error, now);
                }
            }
        }
        // A ledger that cannot be written is tried again also where there is nothing to synchronise.
        let watches =
            self.concerned() || self.report.connection_sync.is_some() || self.ledger.error().is_some();
        let deadlines = [
            self.connection.deadline(),
            self.shield.deadline(),
            (watches && self.io.is_some()).then_some(self.look),
        ];
        Turn {
            next: deadlines.into_iter().flatten().min(),
            done: self.io.is_some() || self.report.missing.is_some(),
        }
    }

    fn report(&mut self) -> &mut PlaneReport {
        &mut self.report
    }
}

impl<I: Io, C: FnMut() -> io::Result<I>> SyncPlane<I, C> {
    fn lost(&mut self, error: &io::Error, now: Instant) {
        let message = format!("cannot hear of interfaces: rtnetlink socket: {error}");
        warn!(plane = "connection-sync", "{message}");
        self.report.last_error = Some(message.clone());
        self.report.missing = Some(message);
        self.connection.failed(now);
    }
}
