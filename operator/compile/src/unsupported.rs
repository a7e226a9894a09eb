//! Fields whose behaviour does not exist yet. They are refused by name: a field that is silently ignored is worse than one that
//! is missing.

use bascule_crds::director::DirectorSpec;
use bascule_crds::virtual_service::{InitialState, OnFailure, VirtualServiceSpec};

use crate::problem::Problems;

pub(crate) fn virtual_service(spec: &VirtualServiceSpec, problems: &mut Problems) {
    let mut unless = |absent: bool, field: &str, what: &str| {
        if !absent {
            problems.unsupported(format!("spec.{field}"), what);
        }
    };
    unless(spec.vrrp_group.is_none(), "vrrpGroup", "VRRP groups are");
    unless(
        spec.real_servers_from.is_none(),
        "realServersFrom",
        "real servers from a Service of Kubernetes are",
    );
    unless(spec.health_checks.is_empty(), "healthChecks", "health checks are");
    unless(spec.check_host.is_none(), "checkHost", "health checks are");
    unless(spec.quorum.is_none(), "quorum", "a quorum is");
    unless(spec.sorry_servers.is_empty(), "sorryServers", "sorry servers are");
    unless(spec.on_failure == OnFailure::default(), "onFailure", "health checks, and so Quiesce, are");
    unless(spec.initial_state == InitialState::default(), "initialState", "health checks, and so Down, are");
    let drains = spec.drain.as_ref().is_some_and(|drain| !drain.timeout.is_zero());
    unless(!drains, "drain.timeout", "draining removed real servers is");
    for (i, server) in spec.real_servers.iter().enumerate() {
        let checked = server.health_checks.as_ref().is_some_and(|names| !names.is_empty());
        unless(!checked, &format!("realServers[{i}].healthChecks"), "health checks are");
    }
}

pub(crate) fn director(spec: &DirectorSpec, problems: &mut Problems) {
    let mut unless = |absent: bool, field: &str, what: &str| {
        if !absent {
            problems.unsupported(format!("spec.{field}"), what);
        }
    };
    unless(!spec.maintenance.as_ref().is_some_and(|m| m.enabled), "maintenance", "maintenance is");
    unless(spec.connection_sync.is_none(), "connectionSync", "synchronising connections is");
    unless(spec.failure_domain.is_none(), "failureDomain", "failure domains are");
    unless(spec.service_account.is_none(), "serviceAccount", "directors outside the cluster are");
}
