//! What is known of the real servers of services, for status and metrics.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use bascule_checks_core::pool::{Judged, Serving, Standing, State as ServerState};
use bascule_checks_core::{Health, Time};
use bascule_compile::BindingKey;

use super::service::{Member, Service};
use super::state::State;

/// A virtual service.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceView {
    /// Whether the quorum is met.
    pub quorum_met: bool,
    /// The sum of the weights of live real servers.
    pub alive: u64,
    /// What the sum must be.
    pub quorum: u32,
    /// Whether a sorry server serves, in either family.
    pub sorry: bool,
    /// Whether the service has left the kernel, in either family.
    pub withdrawn: bool,
    /// The real servers, in their order.
    pub servers: Vec<ServerView>,
}

/// A real server.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerView {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Starting, Up, Down or Draining.
    pub state: &'static str,
    /// What it weighs while it is alive, 0 when it is not.
    pub weight: u16,
    /// Its checks.
    pub checks: Vec<CheckView>,
}

/// A check of a real server.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckView {
    /// Name of the HealthCheck.
    pub name: String,
    /// Whether it can be run at all; [`CheckView::message`] says why not.
    pub runs: bool,
    /// Whether it passes; none when it is not known.
    pub passing: Option<bool>,
    /// Why.
    pub message: String,
    /// Since when it does, or does not.
    pub since: Option<Time>,
    /// How much later than due the last probe began.
    pub lateness: Option<Duration>,
    /// How long the last one took that said something about its target.
    pub duration: Option<Duration>,
}

/// A state as it is written everywhere.
pub(super) const fn word(state: ServerState) -> &'static str {
    match state {
        ServerState::Starting => "Starting",
        ServerState::Up => "Up",
        ServerState::Down => "Down",
        ServerState::Draining => "Draining",
    }
}

/// What a real server weighs while it is alive, 0 when it is not.
pub(super) const fn weight(judged: &Judged) -> u16 {
    if judged.alive { judged.weight } else { 0 }
}

/// What the sum of weights must be.
pub(super) fn quorum(service: &Service) -> u32 {
    service.spec.quorum.as_ref().map_or(1, |quorum| quorum.weight)
}

/// Of a check that has not spoken, of a real server of which something was known.
const CARRIED: &str = "not probed yet: it counts as it did before the change";

impl ServiceView {
    /// Checks of real servers that cannot be run, each for each real server.
    pub fn not_running(&self) -> impl Iterator<Item = &CheckView> {
        self.servers.iter().flat_map(|server| &server.checks).filter(|check| !check.runs)
    }
}

pub(super) fn services(state: &State) -> BTreeMap<BindingKey, ServiceView> {
    let check = |member: &Member| match &member.probe {
        Err(why) => CheckView {
            name: member.name.to_string(),
            runs: false,
            passing: None,
            message: why.clone(),
            since: None,
            lateness: None,
            duration: None,
        },
        Ok(id) => {
            let known = state.scheduler.view(id);
            let verdict = known.map(|known| known.verdict);
            let health = verdict.map(|verdict| verdict.health).filter(|health| *health != Health::Unknown);
            let message = verdict.map(|verdict| verdict.message.clone()).unwrap_or_default();
            let carried = health.is_none() && message.is_empty() && member.before.health != Health::Unknown;
            CheckView {
                name: member.name.to_string(),
                runs: true,
                passing: health.map(|health| health == Health::Up),
                message: if carried { CARRIED.to_owned() } else { message },
                since: verdict.filter(|_| health.is_some()).map(|verdict| verdict.since),
                lateness: known.and_then(|known| known.lateness),
                duration: known.and_then(|known| known.duration),
            }
        }
    };
    let service = |service: &Service| {
        let judgement = &service.judgement;
        let servers = service.spec.real_servers.iter().zip(&service.members).zip(&judgement.servers);
        ServiceView {
            quorum_met: judgement.standing == Standing::Met,
            alive: judgement.alive,
            quorum: quorum(service),
            sorry: [judgement.ipv4, judgement.ipv6].contains(&Serving::SorryServer),
            withdrawn: [judgement.ipv4, judgement.ipv6].contains(&Serving::Withdrawn),
            servers: servers
                .map(|((server, members), judged)| ServerView {
                    name: server.name.clone(),
                    address: server.address,
                    state: word(judged.state),
                    weight: weight(judged),
                    checks: members.iter().map(check).collect(),
                })
                .collect(),
        }
    };
    state.services.iter().map(|(key, one)| (key.clone(), service(one))).collect()
}
