//! Lines of the log, and what hooks of a quorum are told.

use bascule_checks::Target;
use bascule_checks_core::pool::{Judgement, Serving, Standing};
use bascule_checks_core::{Health, Transition};
use bascule_compile::{BindingKey, CheckKey};

use super::state::Effects;

/// A line for each transition, none for a probe.
pub(super) fn say(check: &CheckKey, target: &Target, services: usize, transition: &Transition) {
    let Transition { from, to, weight, message } = transition;
    match to {
        Health::Down => {
            tracing::warn!(%check, address = %target.address, port = target.port, services, "down: {message}");
        }
        _ if from == to => {
            let weight = weight.map_or_else(|| "as configured".to_owned(), |weight| weight.to_string());
            // It may be another one with each probe.
            tracing::debug!(%check, address = %target.address, port = target.port, services, "weight {weight}: {message}");
        }
        _ => {
            tracing::info!(%check, address = %target.address, port = target.port, services, "{to}: {message}")
        }
    }
}

/// A service that begins, of which nothing was told in this start of the machine: with the quorum that is told as if it had been
/// gained, without one as if it had been lost where something else stands in for the real servers, or nobody. (keepalived:
/// `init_service_vs` and `update_quorum_state` in keepalived/check/ipwrapper.c; there, a sorry server alone makes the second case.)
pub(super) fn begin(key: &BindingKey, judgement: &Judgement, effects: &mut Effects) {
    let serves = [judgement.ipv4, judgement.ipv6].iter().all(|serving| *serving == Serving::RealServers);
    if judgement.standing == Standing::Met || !serves {
        effects.quorums.push((key.clone(), judgement.standing));
    }
}

/// A quorum that was gained or lost.
pub(super) fn note(key: &BindingKey, before: Standing, judgement: &Judgement, effects: &mut Effects) {
    if before == judgement.standing {
        return;
    }
    match judgement.standing {
        Standing::Met => tracing::info!(service = %key, alive = judgement.alive, "quorum gained"),
        Standing::Lost => tracing::warn!(service = %key, alive = judgement.alive, "quorum lost"),
    }
    effects.quorums.push((key.clone(), judgement.standing));
}
