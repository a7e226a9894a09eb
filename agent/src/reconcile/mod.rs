//! Keeps the kernel's tables as the configuration wants them.
//!
//! One thread a kernel table ([`PlaneName`]). Each takes the changed bindings from a queue in which changes of one binding
//! merge, observes what the kernel holds of them, plans, applies, and looks at the kernel by itself: woken by its
//! notifications where there are any, within a budget where there are none. Nothing waits without a bound, and a plane that
//! cannot work (no IPVS in the kernel, no such interface) says so, stays up and tries again.

pub(crate) mod backoff;
mod counters;
mod handle;
pub(crate) mod inbox;
pub(crate) mod ledger;
mod once;
pub(crate) mod report;
pub(crate) mod runner;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Instant};

use bascule_checks_core::pool::Judgement;
use bascule_compile::{BindingKey, CheckKey, NodeConfig};
use bascule_crds::{DirectorConfigSpec, HealthCheckSpec, NatRuleBindingSpec, VirtualServiceBindingSpec};

pub use counters::{Counters, DestinationCounters, ServiceCounters};
pub use handle::{Handle, SpawnError, Updates, spawn};
pub use once::{PlanError, PlanProblem, PlannedOp, plan_once};
pub use report::{
    Failure, FailureReason, LAG_BOUNDS, Lag, LagHistogram, MAX_FAILURES, MAX_LAGS, PlaneName, PlaneReport,
    Programmed, Report,
};

/// A change of the configuration.
#[derive(Clone, Debug)]
pub struct ConfigUpdate {
    /// Grows with each update; [`Report::serial`] says how far the kernel is.
    pub serial: u64,
    /// When the change was noticed: the start of [`Report::lag`].
    pub seen: Instant,
    /// What changed.
    pub change: ConfigChange,
    /// The HealthChecks that came or changed; none where one is gone. With [`ConfigChange::All`] it is all of them. What changed
    /// in a binding and in the checks that it names comes at once. The planes do not look at it: it is for whoever probes.
    pub checks: Vec<(CheckKey, Option<Arc<HealthCheckSpec>>)>,
    /// What the checks of these bindings come to; put in by whoever probes. Without it, all real servers of a binding are alive.
    pub live: Lives,
}

/// What the checks of bindings come to. The real servers in it are those of the binding, in their order.
pub type Lives = BTreeMap<BindingKey, Arc<Judgement>>;

/// What a [`ConfigUpdate`] changes.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "one at a time is on its way, and most are the large one")]
pub enum ConfigChange {
    /// Everything: what is not in it goes.
    All(Arc<NodeConfig>),
    /// Only these.
    Some {
        /// The director's own settings, when they changed.
        director: Option<DirectorConfigSpec>,
        /// The bindings that changed; none where it is gone.
        bindings: Vec<(BindingKey, Option<Arc<VirtualServiceBindingSpec>>)>,
        /// The bindings of NatRules that changed; none where it is gone.
        nat_rules: Vec<(BindingKey, Option<Arc<NatRuleBindingSpec>>)>,
    },
}

impl ConfigChange {
    /// Nothing.
    pub const fn none() -> Self {
        Self::Some { director: None, bindings: Vec::new(), nat_rules: Vec::new() }
    }

    /// The director's own settings, if they are said.
    pub fn director(&self) -> Option<&DirectorConfigSpec> {
        match self {
            Self::All(config) => Some(&config.director),
            Self::Some { director, .. } => director.as_ref(),
        }
    }
}

/// How to reconcile.
#[derive(Clone, Debug)]
pub struct Options {
    /// Take over IPVS services of others that stand on an address and port of ours.
    pub adopt: bool,
    /// Where the ledgers are: a directory that a reboot empties, such as /run/bascule. Made when absent.
    pub run_dir: PathBuf,
    /// /proc/sys, or where it is mounted writable.
    pub proc_sys: PathBuf,
    /// Instead of the kernel's IPVS, a table in memory: nothing is forwarded. Each command is noted in this file, with its time.
    pub simulated_ipvs: Option<PathBuf>,
}

impl Options {
    /// Does not adopt; /proc/sys; the kernel's IPVS.
    pub fn new(run_dir: impl Into<PathBuf>) -> Self {
        Self {
            adopt: false,
            run_dir: run_dir.into(),
            proc_sys: PathBuf::from("/proc/sys"),
            simulated_ipvs: None,
        }
    }

    /// The ledger of a plane.
    fn ledger(&self, plane: PlaneName) -> PathBuf {
        self.run_dir.join(format!("{plane}.ledger"))
    }

    /// Which real servers drain, and until when.
    fn drains(&self) -> PathBuf {
        self.run_dir.join("ipvs-drains.ledger")
    }

    /// What our nftables table for NatRules looked like after the last commit.
    fn nat_rules(&self) -> PathBuf {
        self.run_dir.join("nat-rules.notes")
    }

    /// What our nftables table looked like after the last commit.
    fn seal(&self) -> PathBuf {
        self.run_dir.join("nftables.seal")
    }
}
