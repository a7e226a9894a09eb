//! The status that each object should have.

use std::collections::BTreeMap;

use bascule_crds::binding::{
    CheckStatus, NatRuleBindingStatus, RealServerState, RealServerStatus, VirtualServiceBindingStatus,
};
use bascule_crds::common::{Condition, MAX_CONDITION_MESSAGE};
use bascule_crds::director_config::{DirectorConfigStatus, GroupState as ToldGroup};
use bascule_crds::vrrp_group::VrrpState;
use bascule_crds::{DirectorConfigSpec, NatRuleBindingSpec, VirtualServiceBindingSpec};
use bascule_vrrp::GroupState;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::api::source::Owned;
use crate::reconcile::{PlaneName, Report};
use crate::secrets::Reason;
use crate::status::{HealthStatus, ObjectStatus, Status};
use crate::vrrp::GroupStatus;

/// Real servers in a status.
const SERVERS: usize = 64;
/// Longest message of a check, reason of a group and line of what is missing, in characters.
const WORDS: usize = 128;
/// Lines of what is missing.
const MISSING: usize = 16;

/// The status that an object should have. The times of its conditions are not known here.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted<S> {
    /// It.
    pub status: S,
    /// What the API server has is being carried out: soon there is more to say.
    pub pending: bool,
}

/// Of a binding. `object` is what is known of it here.
pub fn binding(
    owned: &Owned<'_, VirtualServiceBindingSpec>,
    object: Option<&ObjectStatus>,
) -> Wanted<VirtualServiceBindingStatus> {
    let (mut conditions, pending) = carried_out(owned, object);
    let of = |type_: &str| object?.conditions.iter().find(|one| one.type_ == type_);
    for said in ["QuorumMet", "Degraded"].into_iter().filter_map(of) {
        conditions.add(&said.type_, &said.status, &said.reason, &said.message);
    }
    let mut servers = servers(owned.spec, object);
    let number = |count: usize| Some(u32::try_from(count).unwrap_or(u32::MAX));
    let up = servers.iter().filter(|server| server.state == RealServerState::Up).count();
    let total = servers.len();
    // Stable: their order is that of the service.
    servers.sort_by_key(|server| server.state == RealServerState::Up);
    servers.truncate(SERVERS);
    let status = VirtualServiceBindingStatus {
        observed_generation: owned.generation,
        conditions: conditions.list,
        real_servers_up: number(up),
        real_servers_total: number(total),
        real_servers: servers,
    };
    Wanted { status, pending }
}

/// Of a NatRule's binding. `object` is what is known of it here.
pub fn rule(
    owned: &Owned<'_, NatRuleBindingSpec>,
    object: Option<&ObjectStatus>,
) -> Wanted<NatRuleBindingStatus> {
    let (conditions, pending) = carried_out(owned, object);
    let status = NatRuleBindingStatus { observed_generation: owned.generation, conditions: conditions.list };
    Wanted { status, pending }
}

/// What all bindings say: whether it is in the kernel, and does its work; and whether there is soon more to say.
fn carried_out<S>(owned: &Owned<'_, S>, object: Option<&ObjectStatus>) -> (Conditions, bool) {
    let of = |type_: &str| object?.conditions.iter().find(|one| one.type_ == type_);
    let mut conditions = Conditions::new(owned.generation);
    let mut pending = false;
    match (owned.unusable, of("Programmed")) {
        (Some(why), _) => {
            conditions.add("Programmed", "False", "Unsupported", &stays(why, owned.spec.is_some()))
        }
        (None, Some(said)) if said.status != "Unknown" => {
            conditions.add("Programmed", &said.status, &said.reason, &said.message);
        }
        (None, _) => {
            pending = true;
            conditions.add("Programmed", "False", "Pending", "not carried out yet");
        }
    }
    match of("Ready") {
        Some(said) => {
            pending |= said.status == "Unknown" && owned.unusable.is_none();
            conditions.add("Ready", &said.status, &said.reason, &said.message);
        }
        None => conditions.add("Ready", "False", "NotProgrammed", "see Programmed"),
    }
    (conditions, pending)
}

fn stays(why: &str, kept: bool) -> String {
    let effect = if kept { "its last good form stays in force" } else { "nothing of it is in force" };
    format!("{why}; {effect}")
}

struct Conditions {
    generation: Option<i64>,
    list: Vec<Condition>,
}

impl Conditions {
    const fn new(generation: Option<i64>) -> Self {
        Self { generation, list: Vec::new() }
    }

    fn add(&mut self, type_: &str, status: &str, reason: &str, message: &str) {
        self.list.push(Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            // The schema wants one.
            reason: if reason.is_empty() { "Unknown" } else { reason }.to_owned(),
            message: message.chars().take(MAX_CONDITION_MESSAGE).collect(),
            observed_generation: self.generation,
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        });
    }
}

/// The real servers as they are seen here, in their order.
fn servers(spec: Option<&VirtualServiceBindingSpec>, object: Option<&ObjectStatus>) -> Vec<RealServerStatus> {
    // By name: the greatest weight that the kernel has for it.
    let mut weights: BTreeMap<&str, u32> = BTreeMap::new();
    for server in object.iter().flat_map(|object| &object.services).flat_map(|one| &one.real_servers) {
        let weight = weights.entry(&server.name).or_default();
        *weight = (*weight).max(server.weight);
    }
    let health: BTreeMap<&str, &HealthStatus> =
        object.iter().flat_map(|object| &object.real_servers).map(|one| (one.name.as_str(), one)).collect();
    let servers = spec.into_iter().flat_map(|spec| &spec.real_servers);
    let status = |server: &bascule_crds::binding::BindingRealServer| {
        let (weight, health) = (weights.get(&*server.name).copied(), health.get(&*server.name));
        let state = match (health.map(|health| health.state.as_str()), weight) {
            _ if server.weight == 0 => RealServerState::Draining,
            (Some("Up"), _) => RealServerState::Up,
            (Some("Down"), _) => RealServerState::Down,
            (Some("Draining"), _) => RealServerState::Draining,
            (Some(_), _) => RealServerState::Starting,
            (None, Some(weight)) if weight > 0 => RealServerState::Up,
            // In no kernel: nobody is sent there.
            (None, _) => RealServerState::Starting,
        };
        RealServerStatus {
            name: server.name.clone(),
            address: server.address,
            state,
            weight: weight.unwrap_or(0),
            checks: health.map(|health| checks(health)).unwrap_or_default(),
        }
    };
    servers.map(status).collect()
}

fn checks(health: &HealthStatus) -> Vec<CheckStatus> {
    let status = |check: &crate::status::CheckStatus| CheckStatus {
        name: check.name.clone(),
        passing: check.passing,
        // What passes needs no words, which may be other ones with every probe.
        message: (check.passing != Some(true) && !check.message.is_empty()).then(|| words(&check.message)),
    };
    health.checks.iter().take(8).map(status).collect()
}

fn words(text: &str) -> String {
    text.chars().take(WORDS).collect()
}

/// What is known of the machine beside its groups.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'a> {
    /// What the planes report.
    pub report: &'a Report,
    /// Serial of the newest update that concerned the machine's own settings.
    pub told: u64,
    /// Release of the kernel.
    pub kernel: &'a str,
    /// Now.
    pub time: Timestamp,
}

/// Of the DirectorConfig.
pub fn config(
    owned: &Owned<'_, DirectorConfigSpec>,
    status: &Status,
    machine: Machine<'_>,
) -> Wanted<DirectorConfigStatus> {
    let Machine { report, told, kernel, time } = machine;
    let groups = &status.vrrp.groups;
    let mut conditions = Conditions::new(owned.generation);
    let missing: Vec<String> = report.missing().map(|(plane, what)| format!("{plane}: {what}")).collect();
    let mut failures = report.failures().filter(|(_, one)| one.reason.hinders() && one.bindings.is_empty());
    let (refused, reading) = refused(groups);
    let pending = reading || (report.serial < told || !report.settled()) && missing.is_empty();
    if let Some(why) = owned.unusable {
        conditions.add("Programmed", "False", "Unsupported", &stays(why, owned.spec.is_some()));
    } else if let Some((plane, first)) = failures.next() {
        conditions.add("Programmed", "False", first.reason.as_str(), &format!("{plane}: {first}"));
    } else if let Some((reason, words)) = &refused {
        conditions.add("Programmed", "False", reason, words);
    } else if !missing.is_empty() {
        conditions.add("Programmed", "False", "Missing", &missing.join("; "));
    } else if pending {
        conditions.add("Programmed", "False", "Pending", "not carried out yet");
    } else {
        conditions.add("Programmed", "True", "Programmed", "");
    }
    let faults: Vec<String> = groups
        .iter()
        .filter(|group| group.state == GroupState::Fault)
        .map(|group| format!("VrrpGroup {}: {}", group.group, group.reason))
        .collect();
    let programmed = conditions.list.iter().all(|one| one.status == "True");
    match (programmed, faults.is_empty()) {
        (_, false) => conditions.add("Ready", "False", "GroupFault", &faults.join("; ")),
        (false, true) => conditions.add("Ready", "False", "NotProgrammed", "see Programmed"),
        (true, true) => conditions.add("Ready", "True", "Ready", ""),
    }
    degraded(groups, &mut conditions);
    let flush = owned.spec.and_then(|spec| spec.flush.as_ref()).filter(|_| owned.unusable.is_none());
    let flushed = flush.filter(|_| groups.is_empty() && is_empty(report, told)).cloned();
    let pending = pending || flush.is_some() && flushed.is_none();
    let status = DirectorConfigStatus {
        observed_generation: owned.generation,
        flushed,
        conditions: conditions.list,
        vrrp: groups.iter().take(8).map(|group| told_group(group, time)).collect(),
        agent_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        kernel: (!kernel.is_empty()).then(|| words(kernel)),
        missing: missing.iter().take(MISSING).map(|line| words(line)).collect(),
    };
    Wanted { status, pending: pending && owned.unusable.is_none() }
}

/// Whether the planes hold nothing of ours any more once they have carried out an update that wants nothing: what one could not take
/// away is a failure of it, and one that lacks something has not looked (where the kernel has no such table, and nothing is wanted of it,
/// a plane lacks nothing). Settings are not taken away.
fn is_empty(report: &Report, told: u64) -> bool {
    let left = |plane: PlaneName| match report.planes.get(&plane) {
        Some(said) => {
            let failures =
                said.missing.is_some() || said.failures.values().any(|failure| failure.reason.hinders());
            said.serial < told || (!said.settled || failures) && plane != PlaneName::Sysctl
        }
        None => true,
    };
    !PlaneName::ALL.into_iter().any(left)
}

/// Why groups cannot be carried out as they are configured, in a word and in words; and whether one waits for a Secret to be read,
/// which is soon over.
fn refused(groups: &[GroupStatus]) -> (Option<(&'static str, String)>, bool) {
    let refused: Vec<(&GroupStatus, &String)> =
        groups.iter().filter_map(|group| Some((group, group.refused.as_ref()?))).collect();
    let lacks =
        |group: &GroupStatus| group.secrets.iter().filter(|one| !one.in_force).find_map(|one| one.reason);
    let reasons: Vec<Option<Reason>> = refused.iter().map(|(group, _)| lacks(group)).collect();
    let reading = reasons.iter().flatten().any(|reason| *reason == Reason::SecretNotRead);
    let words: Vec<_> =
        refused.iter().map(|(group, why)| format!("VrrpGroup {}: {why}", group.group)).collect();
    let reason = reasons.first().map(|reason| reason.map_or("Refused", Reason::as_str));
    (reason.map(|reason| (reason, words.join("; "))), reading)
}

fn degraded(groups: &[GroupStatus], conditions: &mut Conditions) {
    let mut told = Vec::new();
    let mut reason = "Groups";
    // What a running group will miss one day comes first: nothing else shows it.
    for group in groups {
        for one in group.secrets.iter().filter(|one| one.in_force) {
            let Some(lost) = one.reason else { continue };
            if told.is_empty() {
                reason = lost.as_str();
            }
            told.push(format!("VrrpGroup {}: {}", group.group, one.message));
        }
    }
    for group in groups {
        let failing = group.failing.iter().map(|one| format!("{one} fails"));
        let lacking = group.lacking.iter().map(|one| format!("it lacks {one}"));
        told.extend(failing.chain(lacking).map(|one| format!("VrrpGroup {}: {one}", group.group)));
        let differences = group.instances.iter().flat_map(|instance| &instance.differences);
        told.extend(
            differences.map(|one| format!("VrrpGroup {}: {}: {}", group.group, one.peer, one.message)),
        );
    }
    if !told.is_empty() {
        told.truncate(8);
        conditions.add("Degraded", "True", reason, &told.join("; "));
    }
}

fn told_group(group: &GroupStatus, time: Timestamp) -> ToldGroup {
    let state = match group.state {
        GroupState::Initialize => VrrpState::Initialize,
        GroupState::Backup => VrrpState::Backup,
        GroupState::Active => VrrpState::Active,
        GroupState::Fault => VrrpState::Fault,
    };
    let since = SignedDuration::try_from_secs_f64(group.seconds_in_state).ok();
    let since = since.and_then(|since| time.checked_sub(since).ok());
    // To the second: that is how it is written.
    let since = since.and_then(|since| Timestamp::from_second(since.as_second()).ok());
    // Of one that does not run, why it does not says more.
    let reason = match (&group.refused, group.state) {
        (Some(why), GroupState::Initialize) => why,
        _ => &group.reason,
    };
    ToldGroup {
        group: group.group.clone(),
        state,
        priority: group.priority,
        last_transition: since.map(Time),
        reason: (!reason.is_empty()).then(|| words(reason)),
    }
}

#[cfg(test)]
#[path = "wanted_tests.rs"]
mod tests;
