//! What is not as it should be, in words.

use std::collections::{BTreeMap, BTreeSet};

use bascule_compile::BindingKey;
use bascule_ipvs::Error;

use super::{
    super::{observe::Io, plan::Held},
    IpvsPlane,
};
use crate::reconcile::{Failure, FailureReason};

impl<I: Io, C: FnMut() -> Result<I, Error>> IpvsPlane<I, C> {
    /// What is not as it should be, by object.
    pub(super) fn failures(&self) -> BTreeMap<String, Failure> {
        let mut failures = BTreeMap::new();
        for (id, (reason, message)) in &self.failing {
            let owner = self.desired.services().get(id).map(|entry| entry.owner.clone());
            let failure = Failure {
                object: id.to_string(),
                reason: *reason,
                message: message.clone(),
                bindings: owner.into_iter().collect(),
                nat_rules: BTreeSet::new(),
            };
            failures.insert(failure.object.clone(), failure);
        }
        for (key, message) in self.desired.invalid() {
            let failure = Failure::invalid(key, message);
            failures.insert(failure.object.clone(), failure);
        }
        for (id, losers) in self.desired.contested() {
            let owner =
                self.desired.services().get(id).map_or_else(String::new, |entry| entry.owner.to_string());
            let object = format!("{id} of {}", join(losers));
            let message = format!("belongs to VirtualService {owner} already");
            let failure = Failure {
                object: object.clone(),
                reason: FailureReason::Conflict,
                message,
                bindings: losers.clone(),
                nat_rules: BTreeSet::new(),
            };
            failures.insert(object, failure);
        }
        if let Some(message) = &self.timeouts_failure {
            failures.insert("timeouts".into(), director_failure("timeouts", FailureReason::Refused, message));
        }
        if let Some(message) = self.ledger_error() {
            failures.insert("ledger".into(), director_failure("ledger", FailureReason::Ledger, message));
        }
        failures
    }
}

fn director_failure(object: &str, reason: FailureReason, message: &str) -> Failure {
    Failure {
        object: object.to_owned(),
        reason,
        message: message.to_owned(),
        bindings: BTreeSet::new(),
        nat_rules: BTreeSet::new(),
    }
}

fn join(keys: &BTreeSet<BindingKey>) -> String {
    keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// What is said of somebody else's service.
pub(crate) fn conflict(held: &Held) -> String {
    format!(
        "a service of somebody else stands here (scheduler {}, {} real servers) and is left alone; remove it (ipvsadm -D), or \
         start the agent with --adopt to take it over",
        held.service.scheduler,
        held.destinations.len()
    )
}
