//! What the data planes say about themselves.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bascule_compile::BindingKey;
use serde::Serialize;

use crate::plane::sync::SyncState;

/// A data plane: one kind of kernel table, with a thread of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlaneName {
    /// net.* settings.
    Sysctl,
    /// Our nftables table for virtual services.
    Nat,
    /// Our nftables table for NatRules.
    NatRules,
    /// The daemons that synchronise connections, and the guard after a takeover.
    ConnectionSync,
    /// Virtual services and real servers.
    Ipvs,
    /// Addresses on interfaces.
    Address,
}

impl PlaneName {
    /// All, in the order in which a new configuration reaches the kernel: what a service needs first, then the service, and
    /// its address last, so that nobody is answered with a reset meanwhile.
    pub const ALL: [Self; 6] =
        [Self::Sysctl, Self::Nat, Self::NatRules, Self::ConnectionSync, Self::Ipvs, Self::Address];

    /// The name in metrics and status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sysctl => "sysctl",
            Self::Nat => "nat",
            Self::NatRules => "nat-rules",
            Self::ConnectionSync => "connection-sync",
            Self::Ipvs => "ipvs",
            Self::Address => "address",
        }
    }
}

impl fmt::Display for PlaneName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why something is not in the kernel as the configuration wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum FailureReason {
    /// Somebody else's entry stands where ours should be; it is left alone unless the agent adopts.
    Conflict,
    /// The kernel lacks something: a module, an interface, a setting.
    Missing,
    /// The kernel refused an operation.
    Refused,
    /// A setting differs and the director says `sysctls: Report`.
    NotManaged,
    /// The configuration cannot be carried out as it stands.
    Invalid,
    /// The ledger cannot be written: what is added now is not known as ours after a crash.
    Ledger,
}

impl FailureReason {
    /// The reason as written in conditions.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Conflict => "Conflict",
            Self::Missing => "Missing",
            Self::Refused => "Refused",
            Self::NotManaged => "NotManaged",
            Self::Invalid => "Invalid",
            Self::Ledger => "Ledger",
        }
    }

    /// Whether the bindings concerned are not (fully) in the kernel; a ledger that cannot be written does not change that.
    pub fn hinders(self) -> bool {
        self != Self::Ledger
    }
}

impl fmt::Display for FailureReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// The kernel object: `TCP 192.16.193.30:80`, `192.16.193.30/32 on enp0s3`, `net.ipv4.ip_forward`.
    pub object: String,
    /// Why.
    pub reason: FailureReason,
    /// What is the matter and the way out.
    pub message: String,
    /// The bindings that want the object; none when it is the director's.
    pub bindings: BTreeSet<BindingKey>,
    /// The NatRules that want it.
    pub nat_rules: BTreeSet<BindingKey>,
}

impl Failure {
    /// A binding that cannot be carried out as it is.
    pub(crate) fn invalid(key: &BindingKey, message: &str) -> Self {
        Self {
            object: format!("VirtualService {key}"),
            reason: FailureReason::Invalid,
            message: message.to_owned(),
            bindings: BTreeSet::from([key.clone()]),
            nat_rules: BTreeSet::new(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.message)
    }
}

/// How many failures of a plane are kept and shown; more are only counted.
pub const MAX_FAILURES: usize = 10_000;

/// How many of the newest lags are kept.
pub const MAX_LAGS: usize = 1_024;

/// What one plane says about itself.
#[derive(Clone, Debug, Default)]
pub struct PlaneReport {
    /// The newest [`super::ConfigUpdate::serial`] that this plane has carried out as far as it could.
    pub serial: u64,
    /// Whether a full pass (observe, plan, apply) has ended without losing the kernel.
    pub settled: bool,
    /// Passes made.
    pub passes: u64,
    /// When the last pass ended.
    pub last_pass: Option<SystemTime>,
    /// When the kernel was last looked at for drift.
    pub last_look: Option<SystemTime>,
    /// Within what time the whole table is looked at; none where the kernel notifies.
    pub look_period: Option<Duration>,
    /// Operations carried out, by kind (`set-destination`).
    pub operations: BTreeMap<&'static str, u64>,
    /// Time spent handing operations to the kernel and waiting for its answers.
    pub applying: Duration,
    /// Operations that put drift back, by kind.
    pub repaired: BTreeMap<&'static str, u64>,
    /// Operations that the kernel refused.
    pub refused: u64,
    /// What is not as it should be, by object; at most [`MAX_FAILURES`].
    pub failures: Arc<BTreeMap<String, Failure>>,
    /// Failures beyond [`MAX_FAILURES`].
    pub failures_left_out: usize,
    /// What has to be loaded or installed before this plane can work at all.
    pub missing: Option<String>,
    /// The last thing that went wrong, also when it has been put right since.
    pub last_error: Option<String>,
    /// Bindings whose change waits for something else: addresses for the services behind them.
    pub pending: Arc<BTreeSet<BindingKey>>,
    /// NatRules that are not in the kernel because their group is not active here; only of [`PlaneName::NatRules`].
    pub resting: Arc<BTreeSet<BindingKey>>,
    /// What is known of the synchronisation of connections; only of [`PlaneName::ConnectionSync`].
    pub connection_sync: Option<Arc<SyncState>>,
}

/// From the moment a change was seen until the kernel held it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Lag {
    /// The update's serial.
    pub serial: u64,
    /// The time it took.
    pub duration: Duration,
}

/// Upper bounds of the buckets of [`LagHistogram`], in seconds.
pub const LAG_BOUNDS: [f64; 14] =
    [0.001, 0.002, 0.004, 0.006, 0.008, 0.012, 0.02, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0, 60.0];

/// How long changes took to reach the kernel, since the start.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LagHistogram {
    /// Samples at most [`LAG_BOUNDS`]`[i]` and above the bound before it; the last counts those above all bounds.
    pub buckets: [u64; LAG_BOUNDS.len() + 1],
    /// Sum of all samples in seconds.
    pub sum: f64,
    /// Number of samples.
    pub count: u64,
    /// The newest, oldest first; at most [`MAX_LAGS`].
    pub newest: VecDeque<Lag>,
}

impl LagHistogram {
    /// Adds a sample.
    pub fn record(&mut self, lag: Lag) {
        let seconds = lag.duration.as_secs_f64();
        let bucket = LAG_BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(LAG_BOUNDS.len());
        self.buckets[bucket] += 1;
        self.sum += seconds;
        self.count += 1;
        if self.newest.len() == MAX_LAGS {
            self.newest.pop_front();
        }
        self.newest.push_back(lag);
    }
}

/// Whether a binding is in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Programmed {
    /// The kernel held it when last looked at.
    Yes,
    /// Not carried out yet.
    Pending,
    /// Not (fully) there: these are the reasons.
    No(Vec<Failure>),
}

/// What the reconciler says about itself; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The newest [`super::ConfigUpdate::serial`] that every plane has carried out as far as it could.
    pub serial: u64,
    /// The planes.
    pub planes: BTreeMap<PlaneName, Arc<PlaneReport>>,
    /// From a change being seen until every plane had carried it out.
    pub lag: Arc<LagHistogram>,
}

impl Report {
    /// Whether every plane has made a full pass: `/readyz`.
    pub fn settled(&self) -> bool {
        PlaneName::ALL.iter().all(|name| self.planes.get(name).is_some_and(|plane| plane.settled))
    }

    /// Whether a binding that is in the configuration is in the kernel. It speaks of the updates up to [`Report::serial`]: whoever
    /// handed in a newer one that concerns this binding has to take it for pending.
    pub fn programmed(&self, key: &BindingKey) -> Programmed {
        if let Some(missing) = self.planes.get(&PlaneName::Ipvs).and_then(|plane| plane.missing.clone()) {
            return Programmed::No(vec![Failure {
                object: "IPVS".to_owned(),
                reason: FailureReason::Missing,
                message: missing,
                bindings: BTreeSet::from([key.clone()]),
                nat_rules: BTreeSet::new(),
            }]);
        }
        let failures: Vec<_> = self
            .failures()
            .filter(|(_, failure)| failure.reason.hinders() && failure.bindings.contains(key))
            .map(|(_, failure)| failure.clone())
            .collect();
        if !failures.is_empty() {
            return Programmed::No(failures);
        }
        let pending = self.planes.values().any(|plane| plane.pending.contains(key));
        if self.settled() && !pending { Programmed::Yes } else { Programmed::Pending }
    }

    /// The same of a NatRule. One whose group is not active here is carried out: there is nothing to do for it.
    pub fn rule_programmed(&self, key: &BindingKey) -> Programmed {
        let failures = self.failures().map(|(_, failure)| failure);
        let failures: Vec<_> = failures
            .filter(|failure| failure.reason.hinders() && failure.nat_rules.contains(key))
            .cloned()
            .collect();
        let settled = self.planes.get(&PlaneName::NatRules).is_some_and(|plane| plane.settled);
        match (failures.is_empty(), settled) {
            (false, _) => Programmed::No(failures),
            (true, true) => Programmed::Yes,
            (true, false) => Programmed::Pending,
        }
    }

    /// All failures with their planes.
    pub fn failures(&self) -> impl Iterator<Item = (PlaneName, &Failure)> {
        self.planes.iter().flat_map(|(name, plane)| plane.failures.values().map(|failure| (*name, failure)))
    }

    /// What is known of the synchronisation of connections; none without it.
    pub fn connection_sync(&self) -> Option<&SyncState> {
        self.planes.get(&PlaneName::ConnectionSync)?.connection_sync.as_deref()
    }

    /// What has to be loaded or installed, a line a plane.
    pub fn missing(&self) -> impl Iterator<Item = (PlaneName, &str)> {
        self.planes.iter().filter_map(|(name, plane)| Some((*name, plane.missing.as_deref()?)))
    }
}

/// Repairs that are logged one by one; more are summed up in one line.
pub(crate) const DRIFT_LINES: usize = 20;

/// Puts failures into a report, as many as it may hold.
pub(crate) fn note_failures(report: &mut PlaneReport, mut failures: BTreeMap<String, Failure>) {
    report.failures_left_out = failures.len().saturating_sub(MAX_FAILURES);
    while failures.len() > MAX_FAILURES {
        failures.pop_last();
    }
    report.failures = Arc::new(failures);
}
