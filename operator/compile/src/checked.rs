//! The checks that a VirtualService names: whether they are there, and whether its real servers can be checked by them.
//!
//! What is wrong here keeps nothing from being programmed: a service that works must not go because somebody edited or removed a
//! HealthCheck. A check that is not there, or cannot be run for a real server, says nothing of it: it stays what it was.

use std::net::IpAddr;
use std::sync::Arc;

use bascule_crds::common::{Allow, AllowedKind, Family};
use bascule_crds::director::Director;
use bascule_crds::virtual_service::{RealServer, VirtualServiceSpec};

use crate::checks::Traits;
use crate::judge::only_here;
use crate::problem::Problems;
use crate::types::{CheckKey, Problem, Reason};

/// What is known of a HealthCheck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// It can be run.
    Accepted(Traits),
    /// It contradicts itself.
    Refused,
}

/// A place where a spec names a HealthCheck.
struct Naming<'a> {
    field: String,
    key: CheckKey,
    /// Whom it checks there.
    servers: Vec<&'a RealServer>,
}

/// Every place where the spec names a HealthCheck.
fn namings<'a>(spec: &'a VirtualServiceSpec, namespace: &'a str) -> impl Iterator<Item = Naming<'a>> {
    let service = spec.health_checks.iter().enumerate().map(move |(i, name)| Naming {
        field: format!("spec.healthChecks[{i}]"),
        key: CheckKey::new(namespace, name),
        servers: spec.real_servers.iter().filter(|server| server.health_checks.is_none()).collect(),
    });
    let own = spec.real_servers.iter().enumerate().flat_map(move |(i, server)| {
        server.health_checks.iter().flatten().enumerate().map(move |(j, name)| Naming {
            field: format!("spec.realServers[{i}].healthChecks[{j}]"),
            key: CheckKey::new(namespace, name),
            servers: vec![server],
        })
    });
    service.chain(own)
}

/// The HealthChecks that the spec names.
pub(crate) fn names<'a>(
    spec: &'a VirtualServiceSpec,
    namespace: &'a str,
) -> impl Iterator<Item = CheckKey> + 'a {
    namings(spec, namespace).map(|naming| naming.key)
}

/// Whether a check of the service may say what its real servers weigh.
pub(crate) fn weighs(
    spec: &VirtualServiceSpec,
    namespace: &str,
    find: impl Fn(&CheckKey) -> Option<Known>,
) -> bool {
    names(spec, namespace).any(|key| matches!(find(&key), Some(Known::Accepted(one)) if one.weighs))
}

/// What is wrong with the checks of a VirtualService on these directors.
pub(crate) fn problems(
    spec: &VirtualServiceSpec,
    namespace: &str,
    find: impl Fn(&CheckKey) -> Option<Known>,
    directors: &[(Arc<str>, Option<&Director>)],
) -> Vec<Problem> {
    let mut problems = Problems::default();
    for Naming { field, key, servers } in namings(spec, namespace) {
        let (name, counts) = (&key.name, "until then it says nothing");
        let mut add = |reason, message| problems.add(reason, field.clone(), message);
        let traits = match find(&key) {
            Some(Known::Accepted(traits)) => traits,
            Some(Known::Refused) => {
                let message = format!("HealthCheck {name} is not accepted, its conditions say why; {counts}");
                add(Reason::HealthCheckNotUsable, message);
                continue;
            }
            None => {
                let message = format!("there is no HealthCheck {name} in namespace {namespace}; {counts}");
                add(Reason::HealthCheckNotFound, message);
                continue;
            }
        };
        if let Some(why) = no_port(spec).filter(|_| traits.needs_port) {
            let message = format!("HealthCheck {name} probes a port, and {why}: set its port; {counts}");
            add(Reason::HealthCheckNotUsable, message);
        }
        if let (Some(source), None) = (traits.source, traits.address)
            && let Some(server) = servers.iter().find(|server| Family::of(server.address) != source)
        {
            let message = format!(
                "HealthCheck {name} probes from an {source} address, which cannot reach {} of real server {}: give it a check of \
                 its own; {counts}",
                server.address, server.name
            );
            add(Reason::HealthCheckNotUsable, message);
        }
        if let Some((address, what)) = traits.address.and_then(|one| Some((one, only_here(one)?)))
            && let Some((director, _)) = directors.iter().find(|(_, one)| !allows_target(*one, address))
        {
            let message = format!(
                "HealthCheck {name} probes {address}, {what}; Director {director} would have to allow it in spec.allowedTargets; \
                 {counts}"
            );
            add(Reason::HealthCheckNotUsable, message);
        }
    }
    problems.0
}

/// Why a real server has no port, if so.
fn no_port(spec: &VirtualServiceSpec) -> Option<&'static str> {
    if spec.fwmark.is_some() {
        Some("a firewall mark names none")
    } else if spec.ports.iter().all(|port| port.port == 0) {
        Some("port 0 is every port")
    } else {
        None
    }
}

/// Whether probes of the director may go to an address that is another machine's own on every other.
pub(crate) fn allows_target(director: Option<&Director>, address: IpAddr) -> bool {
    director.is_some_and(|one| one.spec.allowed_targets.iter().any(|net| net.contains(address)))
}

/// In a cluster: programs that nobody `allowed` the namespace to run where the service is; `whom` could.
pub(crate) fn allowed_programs(
    spec: &VirtualServiceSpec,
    namespace: &str,
    find: impl Fn(&CheckKey) -> Option<Known>,
    allowed: impl Fn(AllowedKind) -> bool,
    whom: &str,
    problems: &mut Problems,
) {
    let mut refuse = |field: String, what: &str, kind: AllowedKind| {
        if !allowed(kind) {
            problems.add(
                Reason::NotAllowed,
                field,
                format!(
                    "{what} a program, and {whom} does not let namespace {namespace} run any; an entry of its spec.allow with the \
                     kind {kind:?} and exec: true can"
                ),
            );
        }
    };
    let hooks = spec.quorum.as_ref().and_then(|quorum| quorum.hooks.as_ref());
    for (which, hook) in [("up", hooks.map(|one| &one.up)), ("down", hooks.map(|one| &one.down))] {
        if hook.is_some_and(Option::is_some) {
            refuse(format!("spec.quorum.hooks.{which}"), "is", AllowedKind::VirtualService);
        }
    }
    for Naming { field, key, .. } in namings(spec, namespace) {
        if matches!(find(&key), Some(Known::Accepted(traits)) if traits.exec) {
            refuse(field, &format!("HealthCheck {} runs", key.name), AllowedKind::HealthCheck);
        }
    }
}

/// Whether a list of permissions lets the namespace run programs.
pub(crate) fn lets_run(allow: &[Allow], namespace: &str, kind: AllowedKind) -> bool {
    allow.iter().any(|entry| {
        entry.exec
            && entry.kinds.contains(&kind)
            && entry.namespaces.iter().any(|one| one == "*" || one == namespace)
    })
}
