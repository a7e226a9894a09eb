//! What the checks of real servers say, as status shows it.

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
    let degraded = if down.is_empty() {
        condition("Degraded", false, "NoneDown", String::new())
    } else {
        let named: Vec<_> = down.iter().take(NAMED).map(|server| why(server)).collect();
        let message = format!("{} of {} down: {}", down.len(), checked.servers.len(), named.join("; "));
        condition("Degraded", true, "RealServerDown", message)
    };
    [quorum, degraded]
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
            })
            .collect(),
    };
    checked.servers.iter().map(server).collect()
}
