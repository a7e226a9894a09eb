//! What became of the commands: counted, said, and noted of each service.

use std::collections::{BTreeMap, BTreeSet};

use bascule_ipvs::{Command, CommandError, DestinationId, Errno, Error, ServiceId};
use tracing::{info, warn};

use super::{
    super::{
        observe::Io,
        plan::{Observed, kind, subject},
    },
    Cause, IpvsPlane, conflict,
};
use crate::reconcile::{FailureReason, report::DRIFT_LINES};

/// What became of a batch of commands.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) gone: BTreeSet<ServiceId>,
    pub(super) failed: BTreeMap<ServiceId, String>,
    /// Services that could not be added.
    pub(super) unborn: BTreeSet<ServiceId>,
    /// Of these, those that somebody else added right before.
    pub(super) taken: BTreeSet<ServiceId>,
    /// Real servers that the kernel added all the same to services that are somebody else's. They are ours: of one that was there
    /// before, the kernel says so.
    pub(super) strays: Vec<(ServiceId, DestinationId)>,
    /// Services that somebody else changed between our look and our command.
    pub(super) raced: BTreeSet<ServiceId>,
    pub(super) timeouts: Option<String>,
}

impl<I: Io, C: FnMut() -> Result<I, Error>> IpvsPlane<I, C> {
    /// Takes our real servers out of services that somebody else added between our look and our command. What cannot be taken out
    /// now is tried again when the kernel answers again.
    pub(super) fn withdraw(&mut self) -> Result<(), Error> {
        let Some(io) = self.io.as_mut().filter(|_| !self.strays.is_empty()) else { return Ok(()) };
        let commands: Vec<_> =
            self.strays.iter().map(|(service, id)| Command::DelDestination(*service, *id)).collect();
        let results = io.execute_all(&commands)?;
        for (command, result) in commands.iter().zip(results) {
            match result {
                Ok(()) => *self.report.operations.entry(kind(command)).or_default() += 1,
                // It went with the service, or somebody took it out.
                Err(error) if matches!(error.errno(), Some(Errno::ESRCH | Errno::ENOENT)) => {}
                Err(error) => {
                    self.report.refused += 1;
                    let message =
                        format!("cannot {command}, which is in a service of somebody else's: {error}");
                    warn!(plane = "ipvs", "{message}");
                    self.report.last_error = Some(message);
                }
            }
        }
        self.strays.clear();
        Ok(())
    }

    /// Counts and says what was done.
    pub(super) fn account(
        &mut self,
        commands: &[Command],
        results: &[Result<(), CommandError>],
        cause: Cause,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let mut said = 0;
        for (command, result) in commands.iter().zip(results) {
            let id = subject(command);
            match result {
                Ok(()) => {
                    *self.report.operations.entry(kind(command)).or_default() += 1;
                    match command {
                        Command::DelService(id) => {
                            outcome.gone.insert(*id);
                        }
                        Command::NewDestination(id, new) if outcome.taken.contains(id) => {
                            outcome.strays.push((*id, new.id));
                        }
                        _ => {}
                    }
                    let known = id.is_some_and(|id| self.failing.contains_key(&id));
                    if cause == Cause::Drift && !known {
                        *self.report.repaired.entry(kind(command)).or_default() += 1;
                        said += 1;
                        if said <= DRIFT_LINES {
                            warn!(plane = "ipvs", "put back what somebody changed: {command}");
                        }
                    }
                }
                Err(error) => {
                    let message = format!("cannot {command}: {error}");
                    let Some(id) = id else {
                        self.report.refused += 1;
                        outcome.timeouts = Some(message);
                        continue;
                    };
                    if let Command::NewService(_) = command {
                        outcome.unborn.insert(id);
                        if error.errno() == Some(Errno::EEXIST) {
                            outcome.taken.insert(id);
                        }
                    }
                    // The first failure explains those that follow from it.
                    if outcome.failed.contains_key(&id) {
                        continue;
                    }
                    if raced(command, error) {
                        outcome.raced.insert(id);
                    } else {
                        self.report.refused += 1;
                    }
                    outcome.failed.insert(id, message);
                }
            }
        }
        if said > DRIFT_LINES {
            warn!(plane = "ipvs", "put back {said} entries that somebody changed");
        }
        outcome
    }

    /// Notes what became of each service that was looked at.
    pub(super) fn settle(
        &mut self,
        ids: &BTreeSet<ServiceId>,
        timeouts: bool,
        observed: &Observed,
        conflicts: &BTreeSet<ServiceId>,
        outcome: &Outcome,
        new: &[ServiceId],
    ) {
        // Struck out: what is gone, what turned out not to be there, and what was noted but never came to be (it is somebody
        // else's if it is there).
        let mut gone = outcome.gone.clone();
        gone.extend(new.iter().filter(|id| outcome.unborn.contains(id)));
        for id in ids {
            let wanted = self.desired.services().contains_key(id);
            if !wanted {
                self.samples.remove(id);
                if !observed.services.contains_key(id) {
                    gone.insert(*id);
                }
            }
            if outcome.raced.contains(id) {
                continue;
            }
            let failure = if let Some(message) = outcome.failed.get(id) {
                Some((FailureReason::Refused, message.clone()))
            } else if conflicts.contains(id) {
                Some((FailureReason::Conflict, conflict(&observed.services[id])))
            } else {
                None
            };
            self.note(*id, failure);
        }
        self.ledger.remove(&gone);
        if timeouts && self.timeouts_failure != outcome.timeouts {
            self.timeouts_failure.clone_from(&outcome.timeouts);
            self.failures_changed = true;
        }
    }

    pub(super) fn note(&mut self, id: ServiceId, failure: Option<(FailureReason, String)>) {
        if self.failing.get(&id) == failure.as_ref() {
            return;
        }
        self.failures_changed = true;
        if let Some(failure) = failure {
            warn!(plane = "ipvs", reason = %failure.0, "{id}: {}", failure.1);
            self.report.last_error = Some(format!("{id}: {}", failure.1));
            self.failing.insert(id, failure);
        } else if self.failing.remove(&id).is_some() {
            info!(plane = "ipvs", "{id}: as wanted again");
        }
    }
}

/// Whether a failure means that the table is not as it was when we looked.
fn raced(command: &Command, error: &CommandError) -> bool {
    match error.errno() {
        Some(Errno::ESRCH | Errno::EEXIST) => true,
        // Of a service, ENOENT speaks of the scheduler.
        Some(Errno::ENOENT) => !matches!(command, Command::NewService(_) | Command::SetService(_)),
        _ => false,
    }
}
