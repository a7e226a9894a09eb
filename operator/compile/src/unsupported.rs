//! Fields whose behaviour does not exist yet. They are refused by name: a field that is silently ignored is worse than one that
//! is missing. The specs are taken apart completely, so that a new field cannot be forgotten here.

use bascule_crds::virtual_service::{InitialState, OnFailure, RealServer};
use bascule_crds::{DirectorSpec, VirtualServiceSpec};

use crate::problem::Problems;

pub(crate) fn virtual_service(spec: &VirtualServiceSpec, problems: &mut Problems) {
    let VirtualServiceSpec {
        vrrp_group,
        real_servers_from,
        health_checks,
        check_host,
        quorum,
        sorry_servers,
        on_failure,
        initial_state,
        drain,
        real_servers,
        // What bindings carry.
        director: _,
        addresses: _,
        fwmark: _,
        ports: _,
        scheduler: _,
        one_packet: _,
        persistence: _,
        forwarding: _,
        source_nat: _,
    } = spec;
    let mut refuse = |used: bool, field: &str, what: &str| {
        if used {
            problems.unsupported(format!("spec.{field}"), what);
        }
    };
    refuse(vrrp_group.is_some(), "vrrpGroup", "VRRP groups are");
    refuse(real_servers_from.is_some(), "realServersFrom", "real servers from a Service of Kubernetes are");
    refuse(!health_checks.is_empty(), "healthChecks", "health checks are");
    refuse(check_host.is_some(), "checkHost", "health checks are");
    refuse(quorum.is_some(), "quorum", "a quorum is");
    refuse(!sorry_servers.is_empty(), "sorryServers", "sorry servers are");
    refuse(
        *on_failure != OnFailure::default(),
        "onFailure",
        "health checks, and what follows from them, are",
    );
    refuse(
        *initial_state != InitialState::default(),
        "initialState",
        "health checks, and so waiting for one, are",
    );
    let drains = drain.as_ref().is_some_and(|drain| !drain.timeout.is_zero());
    refuse(drains, "drain.timeout", "waiting for the connections of a removed real server is");
    for (i, server) in real_servers.iter().enumerate() {
        let RealServer {
            health_checks,
            name: _,
            address: _,
            weight: _,
            target_ports: _,
            forwarding: _,
            limits: _,
            drain: _,
        } = server;
        let checked = health_checks.as_ref().is_some_and(|names| !names.is_empty());
        refuse(checked, &format!("realServers[{i}].healthChecks"), "health checks are");
    }
}

/// The other fields of a Director are in force all the same: it is a machine's description, and to drop the aliases or
/// timeouts for one field would take down what works.
pub(crate) fn director(spec: &DirectorSpec, problems: &mut Problems) {
    let DirectorSpec {
        maintenance,
        failure_domain,
        service_account,
        connection_sync,
        // What the configuration of a director carries, or what is asked while compiling.
        interface_aliases: _,
        timeouts: _,
        expire: _,
        sysctls: _,
        allow: _,
        allowed_targets: _,
    } = spec;
    let mut refuse = |used: bool, field: &str, what: &str| {
        if used {
            problems.unsupported(format!("spec.{field}"), what);
        }
    };
    refuse(maintenance.is_some_and(|m| m.enabled), "maintenance.enabled", "maintenance is");
    refuse(failure_domain.is_some(), "failureDomain", "failure domains are");
    refuse(service_account.is_some(), "serviceAccount", "directors outside the cluster are");
    refuse(connection_sync.is_some(), "connectionSync", "synchronising connections is");
}
