//! What the checks of real servers say, as status shows it.

use std::collections::BTreeSet;

use bascule_checks_core::Time;

use super::{CheckStatus, HealthStatus};
use crate::checks::{ServerView, ServiceView};
use crate::manifests::Condition;

/// Real servers named in a condition.
const NAMED: usize = 8;

/// State of a destination in the kernel.
pub(super) fn state(checked: Option<&ServiceView>, name: &str, weight: u32) -> &'static str {
    let server = checked.and_then(|checked| checked.servers.iter().find(|server| server.name == name));
    match server {
        Some(server) => server.state,
        None if checked.is_some() && name.starts_with("sorry-ipv") => "Sorry",
        None if weight > 0 => "Up",
        None => "Draining",
    }
}

/// `QuorumMet` and `Degraded`.
pub(super) fn conditions(checked: &ServiceView) -> [Condition; 2] {
    let condition = |type_: &str, is: bool, reason: &str, message: String| Condition {
        type_: type_.into(),
        status: if is { "True" } else { "False" }.into(),
        reason: reason.into(),
        message,
    };
    let sum = format!("live real servers weigh {}, wanted {}", checked.alive, checked.quorum);
    let quorum = match (checked.quorum_met, checked.withdrawn, checked.sorry) {
        (true, false, false) => condition("QuorumMet", true, "QuorumMet", sum),
        (true, ..) => {
            condition("QuorumMet", true, "FamilyWithout", format!("{sum}; in one family nothing is alive"))
        }
        (false, true, _) => condition("QuorumMet", false, "Withdrawn", sum),
        (false, _, true) => condition("QuorumMet", false, "SorryServer", sum),
        (false, false, false) => condition("QuorumMet", false, "Kept", format!("{sum}; those alive go on")),
    };
    let down: Vec<&ServerView> = checked.servers.iter().filter(|server| server.state == "Down").collect();
    let mut told = Vec::new();
    if !down.is_empty() {
        let named: Vec<_> = down.iter().take(NAMED).map(|server| why(server)).collect();
        told.push(format!("{} of {} down: {}", down.len(), checked.servers.len(), named.join("; ")));
    }
    told.extend(not_running(checked));
    let reason = match (down.is_empty(), told.is_empty()) {
        (_, true) => "NoneDown",
        (true, _) => "CheckCannotRun",
        (false, _) => "RealServerDown",
    };
    let degraded = condition("Degraded", !told.is_empty(), reason, told.join("; "));
    [quorum, degraded]
}

/// Has `Degraded` say what is missing or left out of the endpoints of a Service.
pub(super) fn remark(conditions: &mut Vec<Condition>, remark: &str) {
    let Some(degraded) = conditions.iter_mut().find(|one| one.type_ == "Degraded") else {
        return conditions.push(Condition {
            type_: "Degraded".into(),
            status: "True".into(),
            reason: "Endpoints".into(),
            message: remark.into(),
        });
    };
    if degraded.status != "True" {
        (degraded.status, degraded.reason) = ("True".into(), "Endpoints".into());
    }
    let separator = if degraded.message.is_empty() { "" } else { "; " };
    degraded.message = format!("{}{separator}{remark}", degraded.message);
}

/// Checks that cannot be run, by name and reason: their real servers stay what they were.
fn not_running(checked: &ServiceView) -> Option<String> {
    let checks: BTreeSet<_> = checked.not_running().map(|check| (&*check.name, &*check.message)).collect();
    let named: Vec<_> = checks.iter().take(NAMED).map(|(name, why)| format!("{name} ({why})")).collect();
    (!named.is_empty()).then(|| format!("cannot be run: {}", named.join("; ")))
}

/// A real server that is down, and the first check that says so.
fn why(server: &ServerView) -> String {
    let failing = server.checks.iter().find(|check| check.passing == Some(false));
    failing.map_or_else(
        || server.name.clone(),
        |check| format!("{} ({}: {})", server.name, check.name, check.message),
    )
}

/// All real servers.
pub(super) fn servers(checked: &ServiceView, now: Time) -> Vec<HealthStatus> {
    let server = |server: &ServerView| HealthStatus {
        name: server.name.clone(),
        address: server.address.to_string(),
        state: server.state.to_owned(),
        weight: server.weight,
        checks: server
            .checks
            .iter()
            .map(|check| CheckStatus {
                name: check.name.clone(),
                passing: check.passing,
                message: check.message.clone(),
                since_seconds_ago: check.since.map(|since| now.since(since).as_secs_f64()),
                lateness_seconds: check.lateness.map(|time| time.as_secs_f64()),
                duration_seconds: check.duration.map(|time| time.as_secs_f64()),
            })
            .collect(),
    };
    checked.servers.iter().map(server).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::CheckView;

    #[test]
    fn a_check_that_cannot_be_run_degrades_a_service() {
        let check = |runs, passing, message: &str| CheckView {
            name: "answers".into(),
            runs,
            passing,
            message: message.into(),
            since: None,
            lateness: None,
            duration: None,
        };
        let server = |state, checks| ServerView {
            name: "srv1".into(),
            address: [172, 16, 193, 10].into(),
            state,
            weight: 1,
            checks,
        };
        let degraded = |servers| {
            let [_, degraded] = conditions(&ServiceView {
                quorum_met: true,
                alive: 1,
                quorum: 1,
                sorry: false,
                withdrawn: false,
                servers,
            });
            (degraded.status, degraded.reason, degraded.message)
        };
        let told = |status: &str, reason: &str, message: &str| {
            (status.to_owned(), reason.to_owned(), message.to_owned())
        };
        let up = server("Up", vec![check(true, Some(true), "connected")]);
        let odd = server("Up", vec![check(false, None, "no authorities")]);
        let down = server("Down", vec![check(true, Some(false), "refused")]);
        assert_eq!(degraded(vec![up.clone()]), told("False", "NoneDown", ""));
        assert_eq!(
            degraded(vec![odd.clone(), odd.clone(), up]),
            told("True", "CheckCannotRun", "cannot be run: answers (no authorities)")
        );
        assert_eq!(
            degraded(vec![odd, down]),
            told(
                "True",
                "RealServerDown",
                "1 of 2 down: srv1 (answers: refused); cannot be run: answers (no authorities)"
            )
        );
    }
}
