//! What a VrrpGroup tracks besides interfaces: whether it is there, and whether it can say anything on each of the members.
//!
//! What is wrong here keeps no group from being in force: what cannot say anything does not count as failing, so that nobody takes the
//! addresses from all members by removing a HealthCheck.

use std::collections::BTreeSet;
use std::sync::Arc;

use bascule_crds::VrrpGroupSpec;
use bascule_crds::common::{Allow, AllowedKind};
use bascule_crds::director::Director;
use bascule_crds::vrrp_group::{Track, TrackedObject};

use crate::checked::{Known, allows_target, lets_run};
use crate::checks::Traits;
use crate::compiler::Trust;
use crate::judge::only_here;
use crate::problem::Problems;
use crate::types::{BindingKey, CheckKey, Problem, Reason};

/// Something that a group tracks, and by which the group is found when that changes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tracks {
    /// A HealthCheck.
    Check(CheckKey),
    /// A VirtualService.
    Service(BindingKey),
}

/// Everything that is tracked besides interfaces.
pub(crate) fn names(track: Option<&Track>) -> impl Iterator<Item = Tracks> + '_ {
    let checks = track.into_iter().flat_map(|track| &track.health_checks).map(check);
    let services = track.into_iter().flat_map(|track| &track.virtual_services).map(service);
    checks.map(Tracks::Check).chain(services.map(Tracks::Service))
}

fn check(one: &TrackedObject) -> CheckKey {
    CheckKey::new(&one.namespace, &one.name)
}

fn service(one: &TrackedObject) -> BindingKey {
    BindingKey::new(&one.namespace, &one.name)
}

/// What a group's tracked things are to be found by.
pub(crate) struct Surroundings<'a> {
    pub(crate) trust: Trust,
    /// Who may use the group beyond its own addresses.
    pub(crate) allow: &'a [Allow],
    /// The members that carry the group out.
    pub(crate) members: Vec<(Arc<str>, Option<&'a Director>)>,
}

impl Surroundings<'_> {
    /// Whether a director runs programs for a namespace: in a cluster it, or the group, must allow it.
    pub(crate) fn runs(&self, director: Option<&Director>, namespace: &str) -> bool {
        let lets = |allow: &[Allow]| lets_run(allow, namespace, AllowedKind::HealthCheck);
        self.trust == Trust::Files || lets(self.allow) || director.is_some_and(|one| lets(&one.spec.allow))
    }
}

/// What is wrong with the things that a group tracks. `placed` says on which directors a VirtualService is, none if there is no such
/// one.
pub(crate) fn problems<'a>(
    spec: &VrrpGroupSpec,
    around: &Surroundings<'_>,
    find: impl Fn(&CheckKey) -> Option<Known>,
    placed: impl Fn(&BindingKey) -> Option<Option<&'a BTreeSet<Arc<str>>>>,
) -> Vec<Problem> {
    let mut problems = Problems::default();
    let track = spec.track.as_ref();
    for (i, one) in track.into_iter().flat_map(|track| &track.health_checks).enumerate() {
        let field = format!("spec.track.healthChecks[{i}].name");
        if let Some((reason, message)) = wrong_with_check(&check(one), around, &find) {
            problems.add(reason, field, format!("{message}; until then it does not count as failing"));
        }
    }
    for (i, one) in track.into_iter().flat_map(|track| &track.virtual_services).enumerate() {
        let key = service(one);
        let (reason, message) = match placed(&key) {
            None => (
                Reason::VirtualServiceNotFound,
                format!("there is no VirtualService {key}; until then it does"),
            ),
            Some(on) => {
                let is_there = |member: &Arc<str>| on.is_some_and(|on| on.contains(member));
                let missing = around.members.iter().find(|(member, _)| !is_there(member));
                let Some((member, _)) = missing else { continue };
                let message = format!(
                    "VirtualService {key} is not on director {member}, which cannot say whether its quorum is met: there it does"
                );
                (Reason::VirtualServiceNotUsable, message)
            }
        };
        let field = format!("spec.track.virtualServices[{i}].name");
        problems.add(reason, field, format!("{message} not count as failing"));
    }
    problems.0
}

fn wrong_with_check(
    key: &CheckKey,
    around: &Surroundings<'_>,
    find: impl Fn(&CheckKey) -> Option<Known>,
) -> Option<(Reason, String)> {
    let unusable = |message: String| Some((Reason::HealthCheckNotUsable, message));
    let traits = match find(key) {
        Some(Known::Accepted(traits)) => traits,
        Some(Known::Refused) => {
            return unusable(format!("HealthCheck {key} is not accepted, its conditions say why"));
        }
        None => return Some((Reason::HealthCheckNotFound, format!("there is no HealthCheck {key}"))),
    };
    let Traits { needs_port, address, exec, needs_address, .. } = traits;
    if needs_address && address.is_none() {
        return unusable(format!(
            "HealthCheck {key} has no address of its own, and a group has no real servers: set its address"
        ));
    }
    if needs_port {
        return unusable(format!("HealthCheck {key} probes a port, and says none: set its port"));
    }
    if let Some((address, what)) = address.and_then(|one| Some((one, only_here(one)?)))
        && let Some((director, _)) = around.members.iter().find(|(_, one)| !allows_target(*one, address))
    {
        return unusable(format!(
            "HealthCheck {key} probes {address}, {what}; Director {director} would have to allow it in spec.allowedTargets"
        ));
    }
    let forbids =
        |(_, director): &&(Arc<str>, Option<&Director>)| exec && !around.runs(*director, &key.namespace);
    let (director, _) = around.members.iter().find(forbids)?;
    let message = format!(
        "HealthCheck {key} runs a program, and neither the group nor Director {director} lets namespace {} run any; an entry of \
         spec.allow with the kind HealthCheck and exec: true can",
        key.namespace
    );
    Some((Reason::NotAllowed, message))
}

/// Takes out the programs that a director is not allowed to run.
pub(crate) fn only_allowed(
    track: &mut Track,
    around: &Surroundings<'_>,
    director: Option<&Director>,
    find: impl Fn(&CheckKey) -> Option<Known>,
) {
    track.health_checks.retain(|one| {
        let exec = matches!(find(&check(one)), Some(Known::Accepted(traits)) if traits.exec);
        !exec || around.runs(director, &one.namespace)
    });
}
