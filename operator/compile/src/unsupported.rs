//! Fields whose behaviour does not exist yet. They are refused by name: a field that is silently ignored is worse than one that
//! is missing. The specs are taken apart completely, so that a new field cannot be forgotten here.

use bascule_crds::vrrp_group::{Authentication, Hmac, HmacKey};
use bascule_crds::{DirectorSpec, VirtualServiceSpec, VrrpGroupSpec};

use crate::compiler::Trust;
use crate::problem::Problems;
use crate::types::Reason;

pub(crate) fn virtual_service(spec: &VirtualServiceSpec, problems: &mut Problems) {
    let VirtualServiceSpec {
        real_servers_from,
        // What bindings carry.
        vrrp_group: _,
        director: _,
        addresses: _,
        fwmark: _,
        ports: _,
        scheduler: _,
        one_packet: _,
        persistence: _,
        forwarding: _,
        source_nat: _,
        real_servers: _,
        health_checks: _,
        check_host: _,
        quorum: _,
        sorry_servers: _,
        on_failure: _,
        initial_state: _,
        drain: _,
    } = spec;
    if real_servers_from.is_some() {
        problems.unsupported("spec.realServersFrom", "real servers from a Service of Kubernetes are");
    }
}

/// The other fields of a Director are in force all the same: it is a machine's description, and to drop the aliases or
/// timeouts for one field would take down what works.
pub(crate) fn director(spec: &DirectorSpec, problems: &mut Problems) {
    let DirectorSpec {
        maintenance,
        failure_domain,
        // What an admission policy asks for.
        service_account: _,
        // What the configuration of a director carries, or what is asked while compiling.
        connection_sync: _,
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
}

pub(crate) fn vrrp_group(trust: Trust, spec: &VrrpGroupSpec, problems: &mut Problems) {
    let VrrpGroupSpec {
        authentication,
        // What the configuration of a director carries, or what is asked while compiling.
        instances: _,
        members: _,
        version: _,
        advertisement_interval: _,
        down_intervals: _,
        warn_after: _,
        startup_grace: _,
        preempt: _,
        preferred: _,
        peers: _,
        track: _,
        gratuitous_arp: _,
        on_agent_loss: _,
        services: _,
        notify: _,
        allow: _,
    } = spec;
    if let Some(Authentication { hmac, simple }) = authentication {
        let mut secret = |used: bool, field: String| {
            if used {
                let way_out = match trust {
                    Trust::Files => "Secrets need a cluster; use file",
                    Trust::Cluster => "Secrets are not supported by this version; use file",
                };
                problems.add(Reason::Unsupported, field, way_out);
            }
        };
        let secret_of_simple = simple.as_ref().is_some_and(|one| one.secret_ref.is_some());
        secret(secret_of_simple, "spec.authentication.simple.secretRef".into());
        let keys = hmac.iter().flat_map(|Hmac { keys, .. }| keys).enumerate();
        for (i, HmacKey { secret_ref, id: _, file: _ }) in keys {
            secret(secret_ref.is_some(), format!("spec.authentication.hmac.keys[{i}].secretRef"));
        }
    }
}
