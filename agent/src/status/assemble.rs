//! Puts the status together from the manifests, the reconciler and the kernel's counters.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bascule_compile::BindingKey;
use tokio::sync::watch;

use super::{
    ApiStatus, ConnectionSyncStatus, FailureStatus, HttpStatus, LagStatus, LastGoodStatus, ManifestsStatus,
    ObjectStatus, PlaneStatus, RealServerStatus, ReconcileStatus, ServiceStatus, Status, SyncPeerStatus,
};
use super::{groups, health, rules};
use crate::checks::{self, Checks, ServiceView};
use crate::groups::Groups;
use crate::manifests::{Condition, ObjectView, Summary, View};
use crate::plane::sync::SyncState;
use crate::reconcile::{Counters, Failure, Handle, PlaneName, PlaneReport, Report, ServiceCounters};
use crate::source::Source;
use crate::state::Keeper;

/// How long a status waits for the manifests thread, which may be reading thousands of files.
const WAIT: Duration = Duration::from_secs(5);

/// Failures listed of a plane.
const MAX_FAILURES: usize = 100;

/// Asks everybody.
pub struct Gatherer {
    /// The directory, or the API.
    pub manifests: Source,
    /// The reconciler.
    pub reconcile: Handle,
    /// Its newest report.
    pub report: watch::Receiver<Arc<Report>>,
    /// The last good configuration.
    pub keeper: Option<Arc<Keeper>>,
    /// The HTTP server's state, written by it.
    pub http: Arc<Mutex<HttpStatus>>,
    /// When the agent started.
    pub started: Instant,
    /// The groups.
    pub groups: Arc<Groups>,
    /// The checks of real servers.
    pub checks: Arc<Checks>,
    /// What went wrong at the start and does not hinder.
    pub notes: Vec<String>,
}

impl Gatherer {
    /// Everything; an error when the manifests thread does not answer in time.
    pub async fn status(&self) -> Result<Status, String> {
        let (view, counters, vrrp) =
            tokio::join!(self.manifests.view(WAIT), self.reconcile.counters(), self.groups.status());
        let view = view.ok_or("the agent is busy taking in what it is told: try again")?;
        let report = self.report.borrow().clone();
        let mut status = assemble(&view, &report, &counters, &self.checks.services(), SystemTime::now());
        status.manifests.notes.extend(self.notes.iter().cloned());
        status.version = env!("CARGO_PKG_VERSION").into();
        status.pid = std::process::id();
        status.vrrp = vrrp.ok_or("the thread that speaks VRRP does not answer: try again")?;
        for group in &status.vrrp.groups {
            let name = format!("VrrpGroup {}", group.group);
            if let Some(condition) = groups::condition(group)
                && let Some(object) = status.objects.iter_mut().find(|object| object.object == name)
            {
                object.conditions.push(condition);
            }
        }
        status.services = self.groups.services();
        status.api = self.manifests.link().map(|link| ApiStatus {
            server: link.server,
            connected: link.connected,
            last_heard_seconds_ago: link.heard.map(|heard| heard.elapsed().as_secs_f64()),
            troubles: link.troubles,
        });
        status.uptime_seconds = self.started.elapsed().as_secs_f64();
        let ready = readiness(&self.manifests.summary(), &report);
        status.ready = ready.is_ok();
        status.not_ready_because = ready.err();
        status.http = self.http.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(keeper) = &self.keeper {
            let kept = keeper.status();
            status.last_good = LastGoodStatus {
                path: kept.path,
                objects: kept.objects,
                pending: kept.pending,
                error: kept.error,
            };
        }
        Ok(status)
    }

    /// Whether the configuration has been carried out once, or why not.
    pub fn readiness(&self) -> Result<(), String> {
        readiness(&self.manifests.summary(), &self.report.borrow())
    }
}

/// Whether a configuration was read and every plane has carried it out as far as it could; else why not.
pub fn readiness(summary: &Summary, report: &Report) -> Result<(), String> {
    if !summary.started {
        return Err(summary.lost.clone().unwrap_or_else(|| "the manifests are being read".into()));
    }
    let missing: Vec<_> = report.missing().map(|(plane, what)| format!("{plane}: {what}")).collect();
    if !missing.is_empty() {
        return Err(missing.join("\n"));
    }
    if report.serial == 0 || !report.settled() {
        let waiting: Vec<_> = PlaneName::ALL
            .iter()
            .filter(|name| !report.planes.get(name).is_some_and(|plane| plane.settled && plane.serial > 0))
            .map(|name| {
                let error = report.planes.get(name).and_then(|plane| plane.last_error.clone());
                error.map_or_else(|| name.to_string(), |error| format!("{name} ({error})"))
            })
            .collect();
        return Err(format!("the first pass over the kernel is not done: {}", waiting.join(", ")));
    }
    Ok(())
}

fn assemble(
    view: &View,
    report: &Report,
    counters: &Counters,
    checked: &BTreeMap<BindingKey, ServiceView>,
    now: SystemTime,
) -> Status {
    let mut failures: BTreeMap<&BindingKey, Vec<&Failure>> = BTreeMap::new();
    let mut of_rules = failures.clone();
    for (_, failure) in report.failures().filter(|(_, failure)| failure.reason.hinders()) {
        for binding in &failure.bindings {
            failures.entry(binding).or_default().push(failure);
        }
        for rule in &failure.nat_rules {
            of_rules.entry(rule).or_default().push(failure);
        }
    }
    let mut services: BTreeMap<&BindingKey, Vec<&ServiceCounters>> = BTreeMap::new();
    for service in &counters.services {
        services.entry(&service.binding).or_default().push(service);
    }
    let last_good_in_use = view.objects.iter().filter(|object| object.last_good).count();
    let objects: Vec<_> = view
        .objects
        .iter()
        .map(|object| {
            let key = object.binding.as_ref();
            let failures = key.and_then(|key| failures.get(key)).map_or(&[][..], Vec::as_slice);
            if let Some(key) = &object.rule {
                let failures = of_rules.get(key).map_or(&[][..], Vec::as_slice);
                return rules::object_status(object, key, view, report, failures);
            }
            let services = key.and_then(|key| services.get(key)).map_or(&[][..], Vec::as_slice);
            let remark = key.and_then(|key| view.remarks.get(key)).map(String::as_str);
            object_status(object, report, failures, services, (key.and_then(|key| checked.get(key)), remark))
        })
        .collect();
    Status {
        director: view.director.clone(),
        manifests: ManifestsStatus {
            directory: view.directory.clone(),
            files: view.files,
            objects: view.in_force,
            last_good_in_use,
            digest: view.digest.clone(),
            unusable: view.lost.clone(),
            directors: view.named.clone(),
            problems: view.problems.clone(),
            notes: view.notes.clone(),
        },
        reconcile: ReconcileStatus {
            told: view.serial,
            done: report.serial,
            lag: lag(report),
            planes: report
                .planes
                .iter()
                .map(|(name, plane)| (name.to_string(), plane_status(plane, now)))
                .collect(),
        },
        connection_sync: report.connection_sync().map(|state| connection_sync(state, now)),
        objects,
        ..Status::default()
    }
}

fn object_status(
    object: &ObjectView,
    report: &Report,
    failures: &[&Failure],
    services: &[&ServiceCounters],
    (checked, remark): (Option<&ServiceView>, Option<&str>),
) -> ObjectStatus {
    let mut conditions = object.conditions.clone();
    let mut ready = None;
    if let Some(key) = &object.binding {
        let programmed = programmed(key, object.told, report, failures);
        let serving = services
            .iter()
            .filter(|service| service.destinations.iter().any(|server| server.weight > 0))
            .count();
        let can_serve = programmed.status == "True" && serving == services.len() && serving > 0;
        let (status, reason, message) = match (programmed.status.as_str(), can_serve) {
            ("True", true) => ("True", "Ready", String::new()),
            ("True", false) if checked.is_some_and(|checked| checked.withdrawn) => {
                ("False", "Withdrawn", "withdrawn for want of a quorum: see QuorumMet".into())
            }
            ("True", false) if services.is_empty() => {
                ("Unknown", "Unknown", "the kernel's counters were not read yet".into())
            }
            ("True", false) => ("False", "NoRealServer", "no real server with a weight above 0".into()),
            (_, _) => ("False", "NotProgrammed", "see Programmed".into()),
        };
        ready = (status != "Unknown").then_some(can_serve);
        conditions.push(programmed);
        conditions.push(Condition {
            type_: "Ready".into(),
            status: status.into(),
            reason: reason.into(),
            message,
        });
        conditions.extend(checked.into_iter().flat_map(health::conditions));
        if let Some(remark) = remark {
            health::remark(&mut conditions, remark);
        }
    }
    ObjectStatus {
        object: object.object.clone(),
        file: object.file.clone(),
        line: object.line,
        last_good: object.last_good,
        ours: object.ours,
        ready,
        conditions,
        services: services.iter().map(|service| service_status(service, checked)).collect(),
        real_servers: checked.map(|checked| health::servers(checked, checks::now())).unwrap_or_default(),
    }
}

fn programmed(key: &BindingKey, told: u64, report: &Report, failures: &[&Failure]) -> Condition {
    if let Some(condition) = refused(failures) {
        return condition;
    }
    let condition = |status: &str, reason: &str, message: String| Condition {
        type_: "Programmed".into(),
        status: status.into(),
        reason: reason.into(),
        message,
    };
    if let Some(missing) = report.planes.get(&PlaneName::Ipvs).and_then(|plane| plane.missing.as_deref()) {
        return condition("False", "Missing", missing.to_owned());
    }
    let pending = report.planes.values().any(|plane| plane.pending.contains(key));
    if pending || !report.settled() || report.serial == 0 || report.serial < told {
        return condition("Unknown", "Pending", "not carried out yet".into());
    }
    condition("True", "Programmed", String::new())
}

/// That something is not in the kernel, if so.
pub(super) fn refused(failures: &[&Failure]) -> Option<Condition> {
    let first = failures.first()?;
    let words: Vec<_> = failures.iter().take(8).map(ToString::to_string).collect();
    Some(Condition {
        type_: "Programmed".into(),
        status: "False".into(),
        reason: first.reason.as_str().into(),
        message: words.join("; "),
    })
}

fn service_status(service: &ServiceCounters, checked: Option<&ServiceView>) -> ServiceStatus {
    ServiceStatus {
        service: service.id.to_string(),
        scheduler: service.scheduler.clone(),
        connections: service.stats.connections,
        real_servers: service
            .destinations
            .iter()
            .map(|server| RealServerStatus {
                name: server.name.clone(),
                address: server.id.to_string(),
                state: health::state(checked, &server.name, server.weight).into(),
                weight: server.weight,
                connections: server.stats.connections,
                active_connections: server.active_connections,
                inactive_connections: server.inactive_connections,
            })
            .collect(),
    }
}

fn plane_status(plane: &PlaneReport, now: SystemTime) -> PlaneStatus {
    let counts = |from: &BTreeMap<&'static str, u64>| {
        from.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect()
    };
    PlaneStatus {
        settled: plane.settled,
        passes: plane.passes,
        // A clock that was set back makes it 0, not an error.
        last_look_seconds_ago: plane
            .last_look
            .map(|look| now.duration_since(look).unwrap_or_default().as_secs_f64()),
        look_period_seconds: plane.look_period.map(|period| period.as_secs_f64()),
        operations: counts(&plane.operations),
        repaired: counts(&plane.repaired),
        refused: plane.refused,
        missing: plane.missing.clone(),
        last_error: plane.last_error.clone(),
        failures: plane
            .failures
            .values()
            .take(MAX_FAILURES)
            .map(|failure| FailureStatus {
                object: failure.object.clone(),
                reason: failure.reason.to_string(),
                message: failure.message.clone(),
            })
            .collect(),
        failure_count: plane.failures.len() + plane.failures_left_out,
    }
}

fn connection_sync(state: &SyncState, now: SystemTime) -> ConnectionSyncStatus {
    ConnectionSyncStatus {
        interface: state.interface.clone(),
        sync_id: state.sync_id,
        master: state.master,
        backup: state.backup,
        peers: state
            .peers
            .iter()
            .map(|peer| SyncPeerStatus {
                sync_id: peer.sync_id,
                address: peer.address.to_string(),
                last_datagram_seconds_ago: now.duration_since(peer.last).unwrap_or_default().as_secs_f64(),
                datagrams: peer.datagrams,
                connections: peer.connections,
            })
            .collect(),
        deaf: state.deaf.clone(),
        receive_drops: state.receive_drops,
        synchronised_connections: state.synchronised,
        synchronised_at_least: state.synchronised_at_least,
        guard_dropped: state.guard_dropped,
        warnings: state.warnings.clone(),
    }
}

fn lag(report: &Report) -> LagStatus {
    let milliseconds = |duration: Duration| duration.as_secs_f64() * 1000.0;
    let mut sorted: Vec<_> = report.lag.newest.iter().map(|lag| lag.duration).collect();
    sorted.sort_unstable();
    // The nearest-rank percentile.
    let rank = |percent: usize| {
        let index = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
        sorted.get(index).copied().map(milliseconds)
    };
    LagStatus {
        count: report.lag.count,
        newest: report.lag.newest.back().map(|lag| milliseconds(lag.duration)),
        p50: rank(50),
        p99: rank(99),
        max: rank(100),
    }
}

#[cfg(test)]
mod tests {
    use bascule_ipvs::{DestinationId, Protocol, ServiceId, Stats64};

    use super::*;
    use crate::reconcile::{DestinationCounters, FailureReason, Lag, LagHistogram};

    fn plane(serial: u64) -> PlaneReport {
        PlaneReport { serial, settled: true, ..PlaneReport::default() }
    }

    fn report(ipvs: PlaneReport) -> Report {
        let mut planes: BTreeMap<_, _> =
            PlaneName::ALL.iter().map(|name| (*name, Arc::new(plane(ipvs.serial)))).collect();
        let serial = ipvs.serial;
        planes.insert(PlaneName::Ipvs, Arc::new(ipvs));
        Report { serial, planes, ..Report::default() }
    }

    fn web(told: u64) -> View {
        let key = BindingKey::new("tp", "web");
        let accepted = Condition { type_: "Accepted".into(), status: "True".into(), ..Condition::default() };
        View {
            in_force: 1,
            serial: told,
            objects: vec![ObjectView {
                object: "VirtualService tp/web".into(),
                file: "m/web.yaml".into(),
                line: 1,
                last_good: false,
                binding: Some(key),
                rule: None,
                ours: true,
                told,
                conditions: vec![accepted],
            }],
            ..View::default()
        }
    }

    fn counters(weights: &[u32]) -> Counters {
        let address = "192.16.193.30".parse().unwrap();
        let server = |(index, weight): (usize, &u32)| DestinationCounters {
            name: format!("srv{index}"),
            id: DestinationId { address: "172.16.193.10".parse().unwrap(), port: 80 },
            weight: *weight,
            active_connections: 0,
            inactive_connections: 0,
            persistent_connections: 0,
            stats: Stats64::default(),
        };
        let service = ServiceCounters {
            binding: BindingKey::new("tp", "web"),
            id: ServiceId::Address { protocol: Protocol::Tcp, address, port: 80 },
            scheduler: "rr".into(),
            stats: Stats64::default(),
            destinations: weights.iter().enumerate().map(server).collect(),
        };
        Counters { services: vec![service], ..Counters::default() }
    }

    #[test]
    fn programmed_and_ready_say_what_the_kernel_holds() {
        let missing = PlaneReport { missing: Some("load ip_vs".into()), settled: false, ..plane(1) };
        let key = BindingKey::new("tp", "web");
        let failure = Failure {
            object: "TCP 192.16.193.30:80".into(),
            reason: FailureReason::Conflict,
            message: "somebody else's".into(),
            bindings: [key.clone()].into(),
            nat_rules: [].into(),
        };
        let conflict =
            PlaneReport { failures: Arc::new([(failure.object.clone(), failure)].into()), ..plane(1) };
        let pending = PlaneReport { pending: Arc::new([key].into()), ..plane(1) };
        let table = [
            ("well", plane(1), 1, &[1, 0][..], "True Programmed", "True Ready"),
            ("newer change not done", plane(1), 2, &[1], "Unknown Pending", "False NotProgrammed"),
            ("change waits", pending, 1, &[1], "Unknown Pending", "False NotProgrammed"),
            ("nothing done", plane(0), 0, &[1], "Unknown Pending", "False NotProgrammed"),
            ("no IPVS", missing, 1, &[], "False Missing", "False NotProgrammed"),
            ("conflict", conflict, 1, &[1], "False Conflict", "False NotProgrammed"),
            ("all drained", plane(1), 1, &[0, 0], "True Programmed", "False NoRealServer"),
            ("no server", plane(1), 1, &[], "True Programmed", "False NoRealServer"),
        ];
        for (what, ipvs, told, weights, programmed, ready) in table {
            let status =
                assemble(&web(told), &report(ipvs), &counters(weights), &BTreeMap::new(), SystemTime::now());
            let object = &status.objects[0];
            let words = |name: &str| {
                let one = object.conditions.iter().find(|condition| condition.type_ == name).unwrap();
                format!("{} {}", one.status, one.reason)
            };
            assert_eq!((words("Programmed"), words("Ready")), (programmed.into(), ready.into()), "{what}");
            assert_eq!(object.ready, Some(ready.starts_with("True")), "{what}");
        }
        let status =
            assemble(&web(1), &report(plane(1)), &Counters::default(), &BTreeMap::new(), SystemTime::now());
        let object = &status.objects[0];
        let ready = object.conditions.iter().find(|condition| condition.type_ == "Ready").unwrap();
        assert_eq!((ready.status.as_str(), object.ready), ("Unknown", None), "nothing is known of it");
    }

    #[test]
    fn ready_once_a_configuration_was_carried_out() {
        let read = Summary { started: true, serial: 1, ..Summary::default() };
        let lost = Summary { lost: Some("m: gone".into()), ..Summary::default() };
        let missing = PlaneReport { missing: Some("load ip_vs".into()), ..PlaneReport::default() };
        let unsettled = PlaneReport { last_error: Some("busy".into()), ..PlaneReport::default() };
        let table = [
            (&read, report(plane(1)), Ok(())),
            (&lost, report(plane(1)), Err("m: gone")),
            (&Summary::default(), report(plane(0)), Err("the manifests are being read")),
            (&read, report(missing), Err("ipvs: load ip_vs")),
            (
                &read,
                report(unsettled),
                Err(
                    "the first pass over the kernel is not done: sysctl, nat, nat-rules, connection-sync, ipvs (busy), address",
                ),
            ),
        ];
        for (summary, report, expected) in table {
            assert_eq!(readiness(summary, &report), expected.map_err(str::to_owned));
        }
    }

    #[test]
    fn percentiles_are_the_nearest_rank() {
        let mut histogram = LagHistogram::default();
        assert_eq!(lag(&Report::default()).p99, None);
        for milliseconds in (1..=100).rev() {
            histogram.record(Lag { serial: 1, duration: Duration::from_millis(milliseconds) });
        }
        let lag = lag(&Report { lag: Arc::new(histogram), ..Report::default() });
        assert_eq!((lag.newest, lag.p50, lag.p99, lag.max), (Some(1.0), Some(50.0), Some(99.0), Some(100.0)));
    }
}
