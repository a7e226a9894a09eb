//! One virtual service: its real servers, their checks, and what these come to.

use std::sync::Arc;

use bascule_checks_core::pool::{
    Below, Families, InitialState, Judgement, OnFailure, Pool, Quorum, Reading, Server, Standing,
};
use bascule_checks_core::{Health, Verdict};
use bascule_crds::VirtualServiceBindingSpec;
use bascule_crds::binding::BindingRealServer;
use bascule_crds::forwarding::ForwardingMethod;
use bascule_crds::virtual_service as crd;

use super::before::Before;
use super::state::ProbeId;

/// A check of a real server.
#[derive(Clone, Debug)]
pub(super) struct Member {
    /// Name of the HealthCheck.
    pub(super) name: Arc<str>,
    /// Its probe, or why there is none: then it says nothing.
    pub(super) probe: Result<ProbeId, String>,
    /// What it counts as until it says something; nothing where nothing was known: then the initial state counts.
    pub(super) before: Reading,
}

impl Member {
    pub(super) fn probe(&self) -> Option<ProbeId> {
        self.probe.as_ref().ok().copied()
    }

    /// What it says, or counts as until it does.
    fn reading<'a>(&self, verdict: impl Fn(ProbeId) -> Option<&'a Verdict>) -> Reading {
        let said = self.probe().and_then(verdict).map(Reading::from);
        said.filter(|reading| reading.health != Health::Unknown).unwrap_or(self.before)
    }
}

/// One virtual service.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) spec: Arc<VirtualServiceBindingSpec>,
    /// The checks of each real server, in their order.
    pub(super) members: Vec<Vec<Member>>,
    pub(super) judgement: Arc<Judgement>,
}

/// Whether there is anything to judge about a service.
pub(super) fn is_judged(spec: &VirtualServiceBindingSpec) -> bool {
    spec.quorum.is_some()
        || !spec.sorry_servers.is_empty()
        || spec.real_servers.iter().any(|server| !server.health_checks.is_empty())
}

/// The port of a real server that a check without a port of its own probes: the first of those that the service forwards to.
pub(super) fn first_port(spec: &VirtualServiceBindingSpec, server: &BindingRealServer) -> Option<u16> {
    if spec.fwmark.is_some() {
        return None;
    }
    server.target_ports.iter().copied().find(|port| *port != 0)
}

impl Service {
    pub(super) fn new(spec: Arc<VirtualServiceBindingSpec>, members: Vec<Vec<Member>>) -> Self {
        let judgement = Arc::new(Pool::default().judge(Standing::Lost));
        Self { spec, members, judgement }
    }

    /// What the verdicts come to, when the quorum was met or not before.
    pub(super) fn judge<'a>(
        &self,
        before: Standing,
        verdict: impl Fn(ProbeId) -> Option<&'a Verdict>,
    ) -> Judgement {
        let servers = self.spec.real_servers.iter().zip(&self.members);
        let servers = servers.map(|(server, members)| Server {
            weight: u16::try_from(server.weight).unwrap_or(u16::MAX),
            drain: server.drain,
            families: families(server),
            checks: members.iter().map(|member| member.reading(&verdict)).collect(),
        });
        pool(&self.spec, servers.collect()).judge(before)
    }

    /// Whether all its checks can be run.
    pub(super) fn is_whole(&self) -> bool {
        self.members.iter().flatten().all(|member| member.probe.is_ok())
    }

    /// What its real servers are, for the time when their checks have changed.
    pub(super) fn before<'a>(&self, verdict: impl Fn(ProbeId) -> Option<&'a Verdict>) -> Before {
        Before::of(&self.spec, &self.members, |member| member.reading(&verdict))
    }
}

fn pool(spec: &VirtualServiceBindingSpec, servers: Vec<Server>) -> Pool {
    let quorum = spec.quorum.as_ref();
    let sorry = spec.sorry_servers.iter().map(families).fold(Families::default(), |all, one| Families {
        ipv4: all.ipv4 || one.ipv4,
        ipv6: all.ipv6 || one.ipv6,
    });
    Pool {
        quorum: quorum.map_or_else(Quorum::default, |quorum| Quorum {
            weight: quorum.weight,
            hysteresis: quorum.hysteresis,
        }),
        below: match quorum.map(|quorum| quorum.below).unwrap_or_default() {
            crd::BelowQuorum::SorryServer => Below::SorryServer,
            crd::BelowQuorum::Withdraw => Below::Withdraw,
            crd::BelowQuorum::Keep => Below::Keep,
        },
        on_failure: match spec.on_failure {
            crd::OnFailure::Remove => OnFailure::Remove,
            crd::OnFailure::Quiesce => OnFailure::Quiesce,
        },
        initial_state: match spec.initial_state {
            crd::InitialState::Up => InitialState::Up,
            crd::InitialState::Down => InitialState::Down,
        },
        sorry,
        servers,
    }
}

/// Only a tunnel crosses families.
fn families(server: &BindingRealServer) -> Families {
    match server.address {
        _ if server.forwarding.method == ForwardingMethod::Tunnel => Families::BOTH,
        std::net::IpAddr::V4(_) => Families::IPV4,
        std::net::IpAddr::V6(_) => Families::IPV6,
    }
}
