//! The guard's table, kept as it should be.

use std::{
    collections::BTreeSet,
    os::fd::BorrowedFd,
    time::{Duration, Instant},
};

use tracing::{info, warn};

use super::{super::Note, Failing};
use crate::{
    plane::{
        nat,
        sync::{
            Io,
            guard::{Desired, Element, Observed, Op, TABLE, plan},
        },
    },
    reconcile::{FailureReason, PlaneReport, backoff::Backoff, inbox::Merged, ledger::Ledger},
};

/// What is said of it is said of this object.
pub(super) const OBJECT: &str = "table inet bascule-guard";

/// A plan is made anew at once when somebody else changed the table meanwhile, so often.
const ROUNDS: usize = 3;

/// The guard's side of the plane.
pub(super) struct Shield<G> {
    io: Option<G>,
    desired: Desired,
    /// What the kernel holds, as far as nobody else changes it; none is not known.
    observed: Option<Observed>,
    dirty: BTreeSet<Element>,
    changed: bool,
    failure: Option<(FailureReason, String)>,
    retry: Backoff,
    dropped: Option<u64>,
}

impl<G> Default for Shield<G> {
    fn default() -> Self {
        Self {
            io: None,
            desired: Desired::default(),
            observed: None,
            dirty: BTreeSet::new(),
            // A predecessor may have left a table.
            changed: true,
            failure: None,
            retry: Backoff::new(Duration::from_secs(1), Duration::from_secs(60)),
            dropped: None,
        }
    }
}

impl<G: crate::plane::sync::guard::Io> Shield<G> {
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.io.as_ref().and_then(G::descriptor)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.retry.deadline()
    }

    /// Segments dropped, as read last.
    pub(super) fn dropped(&mut self) -> Option<u64> {
        let io = self.io.as_mut().filter(|_| self.desired.wanted);
        self.dropped = io.and_then(|io| io.dropped().ok().flatten());
        self.dropped
    }

    pub(super) fn want(&mut self, wanted: bool) {
        self.changed |= self.desired.wanted != wanted;
        self.desired.wanted = wanted;
    }

    pub(super) fn configure(&mut self, change: &Merged) {
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

    /// What is not as it should be.
    pub(super) fn failure(&self) -> Failing {
        let mut failing = Failing::new();
        if let Some(failure) = &self.failure {
            failing.insert(OBJECT.to_owned(), failure.clone());
        }
        if self.desired.wanted && !self.desired.too_large().is_empty() {
            let some: Vec<_> = self.desired.too_large().iter().take(3).map(ToString::to_string).collect();
            let message = format!(
                "{} services have too many addresses and ports to be guarded against resets after a takeover ({}): split them",
                self.desired.too_large().len(),
                some.join(", ")
            );
            failing.insert("guard".to_owned(), (FailureReason::Invalid, message));
        }
        failing
    }

    /// Does what is due.
    pub(super) fn work<I: Io<Guard = G>>(
        &mut self,
        kernel: &mut I,
        ledger: &mut Ledger<Note>,
        report: &mut PlaneReport,
        now: Instant,
    ) {
        let mut foreign = false;
        if let Some(io) = &mut self.io {
            match io.changed() {
                Ok(changed) => foreign = changed,
                // Deaf for a while: what was known then may be true no more.
                Err(_) => (self.io, foreign) = (None, true),
            }
        }
        if foreign {
            // Also when somebody was armed, which is soon seen to change nothing.
            self.observed = None;
        }
        let retries = self.retry.deadline().is_some_and(|at| at <= now);
        let told = self.changed || retries || !self.dirty.is_empty();
        if !(told || foreign) || (!retries && self.retry.deadline().is_some() && !self.changed) {
            return;
        }
        let dirty = std::mem::take(&mut self.dirty);
        let scope = (self.observed.is_some() && !self.changed && !retries).then_some(dirty);
        self.changed = false;
        let result = self.pass(kernel, ledger, report, scope, told);
        let failure = result.err().and_then(|error| match nat::missing(&error) {
            // Where nothing is wanted of it, that is no matter.
            _ if !self.desired.wanted => None,
            Some(_) => Some((
                FailureReason::Missing,
                format!(
                    "this kernel lacks what the guard needs of nftables ({error}): load nf_tables, nft_objref and nft_socket, or \
                     install the kernel package that has them; connections are synchronised without, but young ones may be reset \
                     after a takeover"
                ),
            )),
            None => Some((FailureReason::Refused, format!("cannot keep it as it should be: {error}"))),
        });
        if failure.is_some() {
            report.refused += 1;
            self.io = None;
            self.observed = None;
            self.retry.failed(now);
        } else {
            self.retry.reset();
        }
        self.failure = failure;
    }

    fn pass<I: Io<Guard = G>>(
        &mut self,
        kernel: &mut I,
        ledger: &mut Ledger<Note>,
        report: &mut PlaneReport,
        mut scope: Option<BTreeSet<Element>>,
        told: bool,
    ) -> std::io::Result<()> {
        let io = match &mut self.io {
            Some(io) => io,
            closed => closed.insert(kernel.guard()?),
        };
        let mut failed = None;
        for round in 0..ROUNDS {
            let mut observed = match self.observed.take() {
                Some(observed) => observed,
                None => {
                    scope = None;
                    let ours = |seen: &str| ledger.contains(&Note::Guard(seen.to_owned()));
                    io.observe(&ours)?
                }
            };
            let Some(op) = plan(scope.as_ref(), &self.desired, &observed) else {
                self.observed = Some(observed);
                self.rest();
                return Ok(());
            };
            match io.apply(&op) {
                Ok(sealed) => {
                    if matches!(op, Op::Change { .. }) {
                        observed.after(&op);
                        self.observed = Some(observed);
                    } else {
                        let old: Vec<_> = ledger
                            .entries()
                            .iter()
                            .filter(|note| matches!(note, Note::Guard(_)))
                            .cloned()
                            .collect();
                        ledger.remove(&old);
                        // Without a seal it is looked at, and made, anew.
                        let was_sealed = sealed.is_some();
                        ledger.add(sealed.map(Note::Guard));
                        observed.after(&op);
                        self.observed = (was_sealed || matches!(op, Op::Remove)).then_some(observed);
                    }
                    *report.operations.entry(op.kind()).or_default() += 1;
                    if told || round > 0 {
                        info!(plane = "connection-sync", "{op}");
                    } else {
                        *report.repaired.entry(op.kind()).or_default() += 1;
                        warn!(
                            plane = "connection-sync",
                            "put back what somebody changed of inet {TABLE}: {op}"
                        );
                    }
                    if self.observed.is_some() {
                        self.rest();
                        return Ok(());
                    }
                    failed = None;
                }
                // Read anew: somebody else may have changed it. What still fails is said.
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Without a table there is nothing to hear of.
    fn rest(&mut self) {
        if !self.desired.wanted {
            self.io = None;
        }
    }
}
