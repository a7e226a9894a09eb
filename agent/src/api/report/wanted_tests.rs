//! What is written back, of everything that can be the matter.

use std::sync::Arc;

use bascule_compile::BindingKey;
use serde_json::{Value, json};

use super::*;
use crate::api::heard::Place;
use crate::manifests;
use crate::reconcile::{Failure, FailureReason, PlaneReport};
use crate::secrets::SecretStatus;
use crate::status::CheckStatus as Check;

fn spec(servers: usize) -> VirtualServiceBindingSpec {
    let servers: Vec<Value> = (0..servers)
        .map(|n| {
            json!({"name": format!("s{n}"), "address": "172.16.193.10", "weight": u32::from(n != 1),
                "targetPorts": [80], "forwarding": {}})
        })
        .collect();
    let spec = json!({
        "virtualService": "web", "director": "dir1", "addresses": ["192.16.193.30"],
        "ports": [{"protocol": "TCP", "port": 80}], "scheduler": {"name": "wrr"}, "sourceNat": "Auto",
        "realServers": servers,
    });
    serde_json::from_value(spec).unwrap()
}

fn said(programmed: &str, ready: &str) -> Vec<manifests::Condition> {
    let condition = |type_: &str, status: &str| manifests::Condition {
        type_: type_.into(),
        status: status.into(),
        reason: type_.into(),
        message: String::new(),
    };
    vec![condition("Programmed", programmed), condition("Ready", ready)]
}

fn status(
    spec: &VirtualServiceBindingSpec,
    unusable: Option<&str>,
    object: &ObjectStatus,
) -> Wanted<VirtualServiceBindingStatus> {
    let place = Place { namespace: "tp".into(), name: "web-hash".into() };
    let key = Some(BindingKey::new("tp", "web"));
    let (generation, spec) = (Some(7), Some(spec));
    binding(&Owned { place: &place, key, generation, spec, unusable, status: &Value::Null }, Some(object))
}

fn words(wanted: &Wanted<VirtualServiceBindingStatus>, type_: &str) -> String {
    let one = wanted.status.conditions.iter().find(|one| one.type_ == type_).unwrap();
    format!("{} {} of {:?}", one.status, one.reason, one.observed_generation)
}

#[test]
fn of_many_real_servers_those_that_are_not_up_come_first() {
    let spec = spec(100);
    let health = |n: usize| {
        let passing = n != 90;
        let check = Check {
            name: "answers".into(),
            passing: Some(passing),
            message: if passing { format!("connected in {n} ms") } else { "x".repeat(500) },
            ..Check::default()
        };
        let state = if passing { "Up" } else { "Down" };
        let (name, weight) = (format!("s{n}"), u16::from(passing));
        HealthStatus { name, state: state.into(), weight, checks: vec![check], ..HealthStatus::default() }
    };
    let object = ObjectStatus {
        conditions: said("True", "True"),
        real_servers: (0..100).map(health).collect(),
        ..ObjectStatus::default()
    };
    let wanted = status(&spec, None, &object);
    let Wanted { status, pending } = &wanted;
    assert!(!pending);
    assert_eq!((status.real_servers_up, status.real_servers_total), (Some(98), Some(100)));
    assert_eq!(status.real_servers.len(), 64);
    let first: Vec<_> = status.real_servers.iter().take(3).map(|one| (&*one.name, one.state)).collect();
    let expected =
        [("s1", RealServerState::Draining), ("s90", RealServerState::Down), ("s0", RealServerState::Up)];
    assert_eq!(first, expected);
    let message = |at: usize| status.real_servers[at].checks[0].message.as_ref();
    assert_eq!(message(1).map(String::len), Some(128), "bounded");
    assert_eq!(message(2), None, "what passes needs no words");
    assert_eq!(words(&wanted, "Programmed"), "True Programmed of Some(7)");
}

#[test]
fn what_is_not_known_yet_is_pending_and_what_cannot_be_used_is_said() {
    let (spec, object) = (spec(1), |programmed, ready| ObjectStatus {
        conditions: said(programmed, ready),
        ..ObjectStatus::default()
    });
    let wanted = status(&spec, None, &object("Unknown", "False"));
    assert!(wanted.pending);
    assert_eq!(words(&wanted, "Programmed"), "False Pending of Some(7)");
    assert!(status(&spec, None, &object("True", "Unknown")).pending);
    let wanted = status(&spec, Some("spec.colour: not known"), &object("True", "True"));
    assert!(!wanted.pending);
    assert_eq!(words(&wanted, "Programmed"), "False Unsupported of Some(7)");
    let message = &wanted.status.conditions[0].message;
    assert_eq!(message, "spec.colour: not known; its last good form stays in force");
    // In no kernel: nobody is sent there.
    assert_eq!(wanted.status.real_servers[0].state, RealServerState::Starting);
    assert_eq!(wanted.status.real_servers_up, Some(0));
}

fn group() -> GroupStatus {
    GroupStatus {
        group: "front".into(),
        state: GroupState::Active,
        releasing: false,
        reason: "r".repeat(200),
        seconds_in_state: 12.7,
        priority: 200,
        hold: false,
        stands_by: false,
        refused: None,
        failing: Vec::new(),
        lacking: vec!["10.0.0.1/32".into()],
        secrets: Vec::new(),
        instances: Vec::new(),
    }
}

fn key(in_force: bool, reason: Option<Reason>) -> SecretStatus {
    SecretStatus {
        secret: "bascule-system/vrrp".into(),
        key: "front".into(),
        in_force,
        resource_version: None,
        reason,
        message: "there is no Secret".into(),
    }
}

#[test]
fn a_key_that_is_missing_is_the_reason_for_a_group_that_does_not_run_and_a_defect_of_one_that_does() {
    let without = |reason| {
        let refused = Some("authentication: there is no Secret".to_owned());
        GroupStatus {
            state: GroupState::Initialize,
            refused,
            secrets: vec![key(false, Some(reason))],
            ..group()
        }
    };
    let groups = [group(), without(Reason::SecretNotFound)];
    let (said, reading) = refused(&groups);
    let words = "VrrpGroup front: authentication: there is no Secret".to_owned();
    assert_eq!((said, reading), (Some(("SecretNotFound", words)), false));
    let told = told_group(&groups[1], Timestamp::from_second(1000).unwrap());
    assert_eq!(told.reason.as_deref(), Some("authentication: there is no Secret"));
    assert_eq!((refused(&[group()]), refused(&[without(Reason::SecretNotRead)]).1), ((None, false), true));
    // For another reason than its keys.
    let other = GroupStatus {
        refused: Some("no".into()),
        secrets: vec![key(true, Some(Reason::SecretNotFound)), key(true, None)],
        ..group()
    };
    assert_eq!(refused(std::slice::from_ref(&other)).0.unwrap().0, "Refused");
    let mut conditions = Conditions::new(None);
    degraded(&[group(), other], &mut conditions);
    let Condition { reason, message, .. } = &conditions.list[0];
    assert_eq!(reason, "SecretNotFound");
    assert!(
        message.starts_with("VrrpGroup front: there is no Secret; VrrpGroup front: it lacks"),
        "{message}"
    );
    // What is in force and as it should be is no defect, and a group that does not run is none either.
    let mut conditions = Conditions::new(None);
    let lacking = Vec::new();
    let whole = GroupStatus { secrets: vec![key(true, None)], lacking: lacking.clone(), ..group() };
    degraded(&[whole, GroupStatus { lacking, ..without(Reason::SecretNotFound) }], &mut conditions);
    assert!(conditions.list.is_empty(), "{:?}", conditions.list);
}

#[test]
fn the_time_of_a_transition_is_that_of_the_state() {
    let group = group();
    let told = told_group(&group, Timestamp::from_second(1000).unwrap());
    assert_eq!(told.last_transition, Some(Time(Timestamp::from_second(987).unwrap())));
    assert_eq!((told.state, told.reason.map(|reason| reason.len())), (VrrpState::Active, Some(128)));
    let mut conditions = Conditions::new(None);
    degraded(&[group], &mut conditions);
    assert_eq!(conditions.list[0].message, "VrrpGroup front: it lacks 10.0.0.1/32");
}

#[test]
fn a_flush_is_over_when_nothing_is_left_and_not_before() {
    let spec: DirectorConfigSpec =
        serde_json::from_value(json!({"director": "dir1", "flush": "flush-1-ab"})).unwrap();
    let place = Place { namespace: String::new(), name: "dir1".into() };
    let flushed = |report: &Report, groups: Vec<GroupStatus>, unusable: Option<&str>| {
        let owned = Owned {
            place: &place,
            key: None,
            generation: Some(3),
            spec: Some(&spec),
            unusable,
            status: &Value::Null,
        };
        let mut status = Status::default();
        status.vrrp.groups = groups;
        let machine = Machine { report, told: 7, kernel: "", time: Timestamp::UNIX_EPOCH };
        let wanted = config(&owned, &status, machine);
        assert_eq!(wanted.pending, wanted.status.flushed.is_none() && unusable.is_none());
        wanted.status.flushed
    };
    let plane = |serial, settled| PlaneReport { serial, settled, ..PlaneReport::default() };
    let report = |change: Option<(PlaneName, PlaneReport)>| {
        let planes = PlaneName::ALL.into_iter().map(|name| (name, Arc::new(plane(7, true))));
        let mut report = Report { serial: 7, planes: planes.collect(), ..Report::default() };
        report.planes.extend(change.map(|(name, plane)| (name, Arc::new(plane))));
        report
    };
    let failing = |reason| {
        let failure = Failure {
            object: "o".into(),
            reason,
            message: "m".into(),
            bindings: [BindingKey::new("tp", "web")].into(),
            nat_rules: [].into(),
        };
        PlaneReport { failures: Arc::new([("o".into(), failure)].into()), ..plane(7, true) }
    };
    let name = Some("flush-1-ab".to_owned());
    assert_eq!(flushed(&report(None), Vec::new(), None), name);
    assert_eq!(flushed(&report(None), Vec::new(), Some("not understood")), None);
    assert_eq!(
        flushed(&report(None), vec![group()], None),
        None,
        "a group that hands over has its addresses"
    );
    let missing = PlaneReport { missing: Some("netlink: no buffer space".into()), ..plane(7, true) };
    let table = [
        (PlaneName::Ipvs, plane(6, true), None, "not carried out yet"),
        (PlaneName::Ipvs, plane(7, false), None, "not looked at yet"),
        (PlaneName::Ipvs, failing(FailureReason::Refused), None, "it could not be removed"),
        (PlaneName::Ipvs, failing(FailureReason::Ledger), name.clone(), "the ledger is not the kernel"),
        (PlaneName::Sysctl, failing(FailureReason::NotManaged), name, "settings stay"),
        (PlaneName::Ipvs, missing, None, "it cannot say what is there"),
    ];
    for (plane, said, wanted, why) in table {
        assert_eq!(flushed(&report(Some((plane, said))), Vec::new(), None), wanted, "{why}");
    }
    assert_eq!(flushed(&Report::default(), Vec::new(), None), None, "nothing is known");
}
