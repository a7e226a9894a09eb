//! The sysctl plane at work.

use std::{
    collections::BTreeMap,
    io,
    os::fd::BorrowedFd,
    time::{Duration, Instant, SystemTime},
};

use tracing::{info, warn};

use super::{CONNTRACK, Desired, Op, kernel::Io, name, plan};
use crate::reconcile::{
    Failure, FailureReason, PlaneName, PlaneReport,
    backoff::Backoff,
    inbox::Merged,
    report::note_failures,
    runner::{Context, Plane, Turn},
};

/// How often values are read that the kernel does not notify of: a handful of small files.
const LOOK: Duration = Duration::from_secs(1);

/// How soon at first when one of them is not there, and then ever later, up to [`LOOK`].
const SOON: Duration = Duration::from_millis(200);

/// The sysctl plane.
pub(crate) struct SysctlPlane<I, C> {
    connect: C,
    io: Option<I>,
    connection: Backoff,
    configured: bool,
    desired: Desired,
    dirty: bool,
    failing: BTreeMap<String, (FailureReason, String)>,
    failures_changed: bool,
    retry: Backoff,
    look: Instant,
    /// When to look for settings that are not there.
    absent: Backoff,
    report: PlaneReport,
}

impl<I: Io, C: FnMut() -> io::Result<I>> SysctlPlane<I, C> {
    pub(crate) fn new(connect: C) -> Self {
        Self {
            connect,
            io: None,
            connection: Backoff::new(Duration::from_secs(1), Duration::from_secs(30)),
            configured: false,
            desired: Desired::default(),
            dirty: true,
            failing: BTreeMap::new(),
            failures_changed: true,
            retry: Backoff::new(Duration::from_secs(1), Duration::from_secs(60)),
            look: Instant::now(),
            absent: Backoff::new(SOON, LOOK),
            report: PlaneReport::default(),
        }
    }

    fn work(&mut self, now: Instant) -> io::Result<()> {
        let Some(io) = self.io.as_mut() else { return Ok(()) };
        let notified = io.notified()?;
        let looks = now >= self.look || self.absent.deadline().is_some_and(|absent| absent <= now);
        if looks {
            self.look = now + LOOK;
            self.report.last_look = Some(SystemTime::now());
        }
        if !(self.dirty || notified || looks) {
            return Ok(());
        }
        let observed = io.observe(&self.desired)?;
        let plan = plan(&self.desired, &observed);
        let mut failing = BTreeMap::new();
        for path in &plan.missing {
            failing.insert(path.clone(), (FailureReason::Missing, absent(path)));
        }
        let may_try = self.dirty || self.retry.due(now);
        for op in &plan.ops {
            if !self.desired.manage {
                failing.insert(op.path.clone(), (FailureReason::NotManaged, unmanaged(op)));
                continue;
            }
            if let Some(known) = self.failing.get(&op.path).filter(|_| !may_try) {
                failing.insert(op.path.clone(), known.clone());
                continue;
            }
            let started = Instant::now();
            let result = io.apply(op);
            self.report.applying += started.elapsed();
            match result {
                Ok(()) => {
                    *self.report.operations.entry("set-sysctl").or_default() += 1;
                    if self.dirty || self.failing.contains_key(&op.path) {
                        info!(plane = "sysctl", "{op}");
                    } else {
                        *self.report.repaired.entry("set-sysctl").or_default() += 1;
                        warn!(plane = "sysctl", "put back what somebody changed: {op}");
                    }
                }
                Err(error) => {
                    self.report.refused += 1;
                    failing.insert(op.path.clone(), (FailureReason::Refused, refusal(op, &error)));
                }
            }
        }
        self.report.passes += 1;
        self.report.last_pass = Some(SystemTime::now());
        self.report.settled = true;
        self.dirty = false;
        let refused = failing.values().any(|(reason, _)| *reason == FailureReason::Refused);
        if !refused {
            self.retry.reset();
        } else if self.retry.due(now) {
            self.retry.failed(now);
        }
        // It comes with a module or an interface, any moment, or never. Another one that is not there begins anew.
        let missing = |failing: &BTreeMap<String, (FailureReason, String)>| -> Vec<String> {
            let missing = failing.iter().filter(|(_, (reason, _))| *reason == FailureReason::Missing);
            missing.map(|(path, _)| path.clone()).collect()
        };
        if missing(&failing) != missing(&self.failing) {
            self.absent.reset();
        }
        if !missing(&failing).is_empty() && self.absent.due(now) {
            self.absent.failed(now);
        }
        self.note(failing);
        Ok(())
    }

    fn note(&mut self, failing: BTreeMap<String, (FailureReason, String)>) {
        if failing == self.failing && !self.failures_changed {
            return;
        }
        self.failures_changed = false;
        for (path, (reason, message)) in &failing {
            if self.failing.get(path).is_none_or(|(_, old)| old != message) {
                warn!(plane = "sysctl", reason = %reason, "{}: {message}", name(path));
                self.report.last_error = Some(format!("{}: {message}", name(path)));
            }
        }
        for path in self.failing.keys().filter(|path| !failing.contains_key(*path)) {
            info!(plane = "sysctl", "{}: as wanted again", name(path));
        }
        let failures = failing.iter().map(|(path, (reason, message))| {
            let object = name(path);
            let (bindings, nat_rules) = self.desired.who_needs(path);
            (
                object.clone(),
                Failure { object, reason: *reason, message: message.clone(), bindings, nat_rules },
            )
        });
        note_failures(&mut self.report, failures.collect());
        self.failing = failing;
    }
}

/// What is said of a setting that differs and is not ours to set.
pub(crate) fn unmanaged(op: &Op) -> String {
    format!(
        "is {} and must be {}; set it, or let the agent do it (Director: sysctls: Manage)",
        op.was, op.value
    )
}

/// What is said of a setting that this kernel does not have.
pub(crate) fn absent(path: &str) -> String {
    if path.starts_with("net/ipv4/vs/") {
        let conntrack = if path == CONNTRACK { ", built with CONFIG_IP_VS_NFCT" } else { "" };
        format!("this kernel has no such setting: it comes with the module ip_vs{conntrack}")
    } else {
        "there is no such setting: the interface is not there, or the kernel lacks this address family"
            .to_owned()
    }
}

fn refusal(op: &Op, error: &io::Error) -> String {
    let way_out = match error.raw_os_error() {
        Some(libc::EROFS) => {
            "; /proc/sys is mounted read-only: mount it writable for the agent, or set it yourself"
        }
        Some(libc::EACCES | libc::EPERM) => "; root or CAP_NET_ADMIN is needed",
        _ => "",
    };
    format!("cannot {op}: {error}{way_out}")
}

impl<I: Io, C: FnMut() -> io::Result<I>> Plane for SysctlPlane<I, C> {
    const NAME: PlaneName = PlaneName::Sysctl;

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.io.as_ref().and_then(Io::descriptor).into_iter().collect()
    }

    fn configure(&mut self, change: &Merged) {
        self.configured = true;
        if let Some(director) = &change.director {
            self.dirty |= self.desired.set_director(director);
        }
        if change.all {
            let gone: Vec<_> =
                self.desired.keys().filter(|key| !change.bindings.contains_key(key)).cloned().collect();
            for key in gone {
                self.dirty |= self.desired.set(&key, None);
            }
        }
        for (key, spec) in &change.bindings {
            self.dirty |= self.desired.set(key, spec.as_ref());
        }
        if change.all {
            let gone: Vec<_> =
                self.desired.rules().filter(|key| !change.nat_rules.contains_key(key)).cloned().collect();
            for key in gone {
                self.dirty |= self.desired.set_rule(&key, None);
            }
        }
        for (key, spec) in &change.nat_rules {
            self.dirty |= self.desired.set_rule(key, spec.as_ref());
        }
        // Which bindings a failure concerns may have changed, too.
        self.failures_changed |= !self.failing.is_empty();
        self.dirty |= self.failures_changed;
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
                Err(error) => {
                    let message = format!("cannot open an rtnetlink socket: {error}");
                    warn!(plane = "sysctl", "{message}");
                    self.report.last_error = Some(message.clone());
                    self.report.missing = Some(message);
                    self.connection.failed(now);
                }
            }
        }
        if self.io.is_some() {
            match self.work(now) {
                Ok(()) => {
                    self.connection.reset();
                    self.report.missing = None;
                }
                Err(error) => {
                    let message = format!("cannot read /proc/sys: {error}");
                    warn!(plane = "sysctl", "{message}; starting over");
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
        let next = if self.io.is_some() {
            Some(self.absent.deadline().map_or(self.look, |absent| absent.min(self.look)))
        } else {
            self.connection.deadline()
        };
        Turn { next, done: self.io.is_some() || self.report.missing.is_some() }
    }

    fn report(&mut self) -> &mut PlaneReport {
        &mut self.report
    }
}
