//! What is probed for whom, and what a change of the configuration leaves as it was.

mod carried;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bascule_checks::{Prober, Settings};
use bascule_checks_core::pool::{Held, Serving, Standing};
use bascule_checks_core::{Outcome, Time};
use bascule_compile::{BindingKey, CheckKey, NodeConfig};
use bascule_crds::{DirectorConfigSpec, HealthCheckSpec, VirtualServiceBindingSpec};
use serde_json::{Value, json};

use super::keep::Kept;
use super::state::{Effects, ProbeId, State};
use super::view;
use crate::notify::{Change, Changed};
use crate::plane::fixture::{key, server, web};
use crate::reconcile::{ConfigChange, ConfigUpdate, Lives};

type Checks = Vec<(CheckKey, Option<Arc<HealthCheckSpec>>)>;

fn at(seconds: u64) -> Time {
    Time::from_duration(Duration::from_secs(seconds))
}

fn check(name: &str, spec: Value) -> (CheckKey, Option<Arc<HealthCheckSpec>>) {
    (CheckKey::new("tp", name), Some(Arc::new(serde_json::from_value(spec).unwrap())))
}

/// Nothing is known in this start of the machine.
fn nothing() -> Kept {
    Kept::read(std::path::Path::new("/nonexistent"), "this").0
}

fn state(kept: Kept) -> State {
    State::new(Prober::new(Settings { helo: "dir1".into() }), 1, false, kept)
}

/// Real servers that are checked.
fn checked(checks: &[&str], more: Value) -> Arc<VirtualServiceBindingSpec> {
    let checked = json!({ "healthChecks": checks });
    let mut fields = json!({"realServers": [server("srv1", "172.16.193.10", checked.clone()), server("srv2", "172.16.193.40", checked)]});
    for (field, value) in more.as_object().unwrap() {
        fields[field] = value.clone();
    }
    web(fields)
}

fn update(change: ConfigChange, checks: Checks) -> ConfigUpdate {
    ConfigUpdate { serial: 1, seen: Instant::now(), change, checks, live: Lives::new() }
}

fn all(bindings: &[(&str, Arc<VirtualServiceBindingSpec>)], checks: Checks) -> ConfigUpdate {
    let bindings: BTreeMap<BindingKey, _> =
        bindings.iter().map(|(name, spec)| (key(name), Arc::clone(spec))).collect();
    let config = NodeConfig { bindings, ..NodeConfig::new(DirectorConfigSpec::default()) };
    update(ConfigChange::All(Arc::new(config)), checks)
}

fn some(bindings: Vec<(&str, Option<Arc<VirtualServiceBindingSpec>>)>, checks: Checks) -> ConfigUpdate {
    let bindings = bindings.into_iter().map(|(name, spec)| (key(name), spec)).collect();
    update(ConfigChange::Some { director: None, bindings, nat_rules: Vec::new() }, checks)
}

/// Starts whatever is due; those of `dead` fail.
fn round(state: &mut State, now: Time, dead: &[&str]) -> Vec<Effects> {
    let starts = state.scheduler.poll(now, usize::MAX);
    let mut effects = Vec::new();
    for start in starts {
        let address = state.address(start.key);
        let outcome = if dead.contains(&address.as_str()) {
            Outcome::failed("refused")
        } else {
            Outcome::passed("connected")
        };
        effects.push(state.finished(now, start.key, start.run, &outcome));
    }
    effects
}

fn states(state: &State, name: &str) -> Vec<&'static str> {
    view::services(state)[&key(name)].servers.iter().map(|server| server.state).collect()
}

const EVERY_SECOND: &str = r#"{"interval": "1s", "fall": 1, "tcp": {}}"#;

fn every_second() -> Checks {
    vec![check("answers", serde_json::from_str(EVERY_SECOND).unwrap())]
}

#[test]
fn one_probe_runs_however_many_services_ask() {
    let mut state = state(nothing());
    let spec = checked(&["answers"], json!({}));
    let bindings: Vec<_> = ["a", "b", "c"].iter().map(|name| (*name, Arc::clone(&spec))).collect();
    let mut update = all(&bindings, every_second());
    state.configure(at(1), &mut update);
    assert_eq!(update.live.len(), 3);
    assert_eq!(state.scheduler.len(), 2, "one for each real server");
    let told: Vec<_> = round(&mut state, at(2), &["172.16.193.10"]);
    let failing =
        told.iter().find(|effects| effects.live.values().any(|live| live.servers[0].ipv4 == Held::Absent));
    assert_eq!(failing.map(|effects| effects.live.len()), Some(3), "all that use it hear of it at once");

    // Another port or address is another probe; the last user takes a probe with it.
    let other = checked(
        &["answers"],
        json!({"ports": [{"protocol": "TCP", "port": 81}], "realServers":
        [server("srv1", "172.16.193.10", json!({"healthChecks": ["answers"], "targetPorts": [81]}))]}),
    );
    state.configure(at(3), &mut some(vec![("d", Some(other))], Vec::new()));
    assert_eq!(state.scheduler.len(), 3);
    state.configure(at(3), &mut some(vec![("d", None), ("a", None), ("b", None)], Vec::new()));
    assert_eq!(state.scheduler.len(), 2);
    state.configure(at(3), &mut some(vec![("c", None)], Vec::new()));
    assert_eq!(state.scheduler.len(), 0);
}

#[test]
fn what_does_not_change_keeps_its_verdict() {
    let mut state = state(nothing());
    state.configure(at(1), &mut all(&[("web", checked(&["answers"], json!({})))], every_second()));
    round(&mut state, at(2), &["172.16.193.10"]);
    assert_eq!(states(&state, "web"), ["Down", "Up"]);

    // Another scheduler, another weight: not a word about health.
    let changed = checked(&["answers"], json!({"scheduler": {"name": "wlc"}}));
    let mut change = some(vec![("web", Some(changed))], Vec::new());
    state.configure(at(3), &mut change);
    assert_eq!(change.live[&key("web")].servers[0].ipv4, Held::Absent, "the plane hears it with the binding");
    assert_eq!(states(&state, "web"), ["Down", "Up"]);

    // Another rhythm is the same question.
    let slower = vec![check("answers", json!({"interval": "9s", "rise": 2, "tcp": {}}))];
    let effects = state.configure(at(4), &mut some(Vec::new(), slower));
    assert!(effects.live.is_empty(), "nothing to be told");
    assert_eq!(states(&state, "web"), ["Down", "Up"]);
    // Another question is another one.
    let other = vec![check("answers", json!({"interval": "9s", "http": {}}))];
    let effects = state.configure(at(5), &mut some(Vec::new(), other));
    assert!(effects.live.is_empty(), "of which nothing is known yet");
    let asked = view::services(&state)[&key("web")].servers[0].checks[0].clone();
    assert_eq!((asked.passing, states(&state, "web")), (None, vec!["Down", "Up"]));
}

#[test]
fn a_check_that_is_missing_or_cannot_be_run_says_nothing() {
    let mut state = state(nothing());
    let checks = vec![check("in-service", json!({"file": {"name": "x"}}))];
    let spec = checked(&["gone", "in-service"], json!({}));
    let mut change = all(&[("web", spec)], checks);
    state.configure(at(1), &mut change);
    assert_eq!(change.live[&key("web")].servers[0].ipv4, Held::Weight(1));
    assert_eq!(state.scheduler.len(), 0);
    let said: Vec<_> = view::services(&state)[&key("web")].servers[0]
        .checks
        .iter()
        .map(|check| (check.passing, check.message.clone()))
        .collect();
    assert_eq!(said[0], (None, "there is no such HealthCheck".to_owned()));
    assert!(said[1].1.contains("--allow-file"), "{said:?}");
    // It comes.
    let gone = vec![check("gone", json!({"tcp": {}}))];
    state.configure(at(2), &mut some(Vec::new(), gone));
    assert_eq!(state.scheduler.len(), 2);
}

#[test]
fn quorum_and_sorry_server_and_who_is_told() {
    let mut state = state(nothing());
    let sorry = json!([server("sorry-ipv4", "172.16.193.99", json!({}))]);
    let spec = checked(&["answers"], json!({"quorum": {"weight": 2}, "sorryServers": sorry}));
    let mut change = all(&[("web", spec)], every_second());
    state.configure(at(1), &mut change);
    assert_eq!(
        change.live[&key("web")].ipv4,
        Serving::RealServers,
        "before a check has spoken, all are alive"
    );
    let told = round(&mut state, at(2), &["172.16.193.10"]);
    let lost: Vec<_> = told.iter().flat_map(|effects| &effects.quorums).collect();
    assert_eq!(lost, [&(key("web"), Standing::Lost)]);
    assert_eq!(state.services[&key("web")].judgement.ipv4, Serving::SorryServer);
    let told = round(&mut state, at(4), &[]);
    let gained: Vec<_> = told.iter().flat_map(|effects| &effects.quorums).collect();
    assert_eq!(gained, [&(key("web"), Standing::Met)]);
}

#[test]
fn a_service_begins_with_or_without_its_quorum() {
    let sorry = json!([server("sorry-ipv4", "172.16.193.99", json!({}))]);
    let quorum = |weight: u32| json!({"weight": weight, "below": "Withdraw"});
    let begins = |kept: Kept, fields: Value| {
        let mut state = state(kept);
        let effects =
            state.configure(at(1), &mut all(&[("web", checked(&["answers"], fields))], every_second()));
        (effects.quorums.into_iter().map(|(_, standing)| standing).collect::<Vec<_>>(), state)
    };
    for (fields, told) in [
        (json!({}), vec![Standing::Met]),
        (json!({"initialState": "Down", "sorryServers": sorry}), vec![Standing::Lost]),
        (json!({"initialState": "Down", "quorum": quorum(1)}), vec![Standing::Lost]),
        (json!({"initialState": "Down"}), vec![]),
    ] {
        assert_eq!(begins(nothing(), fields.clone()).0, told, "{fields}");
    }
    // Told once in a start of the machine, and again when it is not so any more.
    let directory = tempfile::tempdir().unwrap();
    begins(nothing(), json!({})).1.keep().write(directory.path()).unwrap();
    for (boot, quorum, told) in [
        ("this", quorum(1), vec![]),
        ("this", quorum(3), vec![Standing::Lost]),
        ("other", quorum(1), vec![Standing::Met]),
    ] {
        let kept = Kept::read(directory.path(), boot).0;
        assert_eq!(begins(kept, json!({"quorum": quorum.clone()})).0, told, "{boot} {quorum}");
    }
}

#[test]
fn a_probe_that_could_not_be_carried_out_changes_nothing() {
    let mut state = state(nothing());
    state.configure(at(1), &mut all(&[("web", checked(&["answers"], json!({})))], every_second()));
    round(&mut state, at(2), &["172.16.193.10"]);
    for second in 3..10 {
        for start in state.scheduler.poll(at(second), usize::MAX) {
            let short = Outcome::undecided("this machine has too many open files");
            let effects = state.finished(at(second), start.key, start.run, &short);
            assert!(effects.live.is_empty() && effects.quorums.is_empty());
        }
    }
    assert_eq!(states(&state, "web"), ["Down", "Up"]);
    let view = view::services(&state);
    assert_eq!(view[&key("web")].servers[1].checks[0].message, "connected");
    assert!(state.scheduler.figures().undecided >= 14);
}

#[test]
fn whoever_listens_to_a_group_hears_what_changes_about_its_services() {
    let mut state = state(nothing());
    let of_a_group = checked(&["answers"], json!({"vrrpGroup": "front", "quorum": {"weight": 2}}));
    let of_a_director = checked(&["answers"], json!({}));
    state.configure(at(1), &mut all(&[("web", of_a_group), ("plain", of_a_director)], every_second()));
    let told = round(&mut state, at(2), &["172.16.193.10"]);
    let mut servers: Vec<_> = told.iter().flat_map(|effects| effects.servers.clone()).collect();
    servers.sort_by_key(|change| format!("{change:?}"));
    let change = |name: &str, address: [u8; 4], to, weight, reason: &str| Change {
        group: "front".into(),
        service: "tp/web".into(),
        what: Changed::RealServer {
            real_server: name.into(),
            address: address.into(),
            from: "Starting",
            to,
            weight,
            reason: reason.into(),
        },
    };
    assert_eq!(
        servers,
        [
            change("srv1", [172, 16, 193, 10], "Down", 0, "refused"),
            change("srv2", [172, 16, 193, 40], "Up", 1, "connected"),
        ]
    );
    let quorums: Vec<_> = told
        .iter()
        .flat_map(|effects| super::told::quorums(&state.services, &effects.quorums).collect::<Vec<_>>())
        .collect();
    let what = Changed::Quorum { quorum: "Lost", alive: 1, needed: 2 };
    assert_eq!(quorums, [Change { group: "front".into(), service: "tp/web".into(), what }]);
    // Nothing changes: nothing is told.
    assert!(round(&mut state, at(4), &["172.16.193.10"]).iter().all(|effects| effects.servers.is_empty()));
}

#[test]
fn a_loopback_target_of_a_check_is_probed_only_where_that_is_allowed() {
    let mut state = state(nothing());
    let proxy = || vec![check("answers", json!({"interval": "1s", "tcp": {}, "address": "127.0.0.1"}))];
    state.configure(at(1), &mut all(&[("web", checked(&["answers"], json!({})))], proxy()));
    assert_eq!(state.scheduler.poll(at(3), usize::MAX).len(), 0);
    let director: DirectorConfigSpec =
        serde_json::from_value(json!({"director": "dir1", "allowedTargets": ["127.0.0.0/8"]})).unwrap();
    let change = ConfigChange::Some { director: Some(director), bindings: Vec::new(), nat_rules: Vec::new() };
    state.configure(at(3), &mut update(change, Vec::new()));
    // One for both: it is the same target.
    assert_eq!(state.scheduler.poll(at(6), usize::MAX).len(), 1);
}

#[test]
fn verdicts_survive_in_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let mut first = state(nothing());
    let sorry = json!([server("sorry-ipv4", "172.16.193.99", json!({}))]);
    let spec =
        checked(&["answers"], json!({"quorum": {"weight": 2, "hysteresis": 1}, "sorryServers": sorry}));
    first.configure(at(1), &mut all(&[("web", Arc::clone(&spec))], every_second()));
    round(&mut first, at(2), &["172.16.193.10"]);
    first.keep().write(directory.path()).unwrap();

    let mut second = state(Kept::read(directory.path(), "this").0);
    let mut change = all(&[("web", Arc::clone(&spec))], every_second());
    let effects = second.configure(at(60), &mut change);
    assert_eq!(change.live[&key("web")], first.services[&key("web")].judgement);
    assert!(effects.quorums.is_empty(), "nothing happened");
    assert_eq!(states(&second, "web"), ["Down", "Up"]);
    // Of another start of the machine.
    let mut third = state(Kept::read(directory.path(), "other").0);
    third.configure(at(1), &mut all(&[("web", spec)], every_second()));
    assert_eq!(states(&third, "web"), ["Starting", "Starting"]);
    // And nonsense is nothing.
    std::fs::write(directory.path().join(super::keep::FILE), "{").unwrap();
    let mut fourth = state(Kept::read(directory.path(), "this").0);
    assert_eq!(fourth.configure(at(60), &mut all(&[], Vec::new())).live.len(), 0);
}

#[test]
fn each_rhythm_of_a_subject_keeps_a_verdict_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let slow = json!({"interval": "60s", "fall": 3, "tcp": {}});
    let checks = || vec![every_second().remove(0), check("slowly", slow.clone())];
    let services = [("a", checked(&["answers"], json!({}))), ("b", checked(&["slowly"], json!({})))];
    let mut first = state(nothing());
    first.configure(at(1), &mut all(&services, checks()));
    // All have spoken; then one dies, which one failure says to the one and not to the other.
    round(&mut first, at(62), &[]);
    round(&mut first, at(180), &["172.16.193.10"]);
    let told = |state: &State| (states(state, "a"), states(state, "b"));
    let before = (vec!["Down", "Up"], vec!["Up", "Up"]);
    assert_eq!(told(&first), before);
    first.keep().write(directory.path()).unwrap();
    let mut second = state(Kept::read(directory.path(), "this").0);
    second.configure(at(200), &mut all(&services, checks()));
    assert_eq!(told(&second), before);
    // A rhythm that is new begins with what another one found.
    let mut third = state(Kept::read(directory.path(), "this").0);
    let slower = json!({"interval": "90s", "fall": 3, "tcp": {}});
    third.configure(at(200), &mut all(&services[1..], vec![check("slowly", slower)]));
    assert!(["Down", "Up"].contains(&states(&third, "b")[0]), "it is not unknown");
}

#[test]
fn what_was_kept_is_told_without_an_agent() {
    let directory = tempfile::tempdir().unwrap();
    let config = |spec: &Arc<VirtualServiceBindingSpec>| {
        let bindings = BTreeMap::from([(key("web"), Arc::clone(spec))]);
        Arc::new(NodeConfig { bindings, ..NodeConfig::new(DirectorConfigSpec::default()) })
    };
    let checks: BTreeMap<_, _> =
        every_second().into_iter().filter_map(|(key, spec)| Some((key, spec?))).collect();
    let spec = checked(&["answers"], json!({}));
    let held = || {
        let (live, problem) = super::kept("dir1", directory.path(), &config(&spec), &checks);
        let held = live[&key("web")].servers.iter().map(|server| server.ipv4).collect::<Vec<_>>();
        (held, problem)
    };
    assert_eq!(held(), (vec![Held::Weight(1), Held::Weight(1)], None), "no agent was here");

    let mut state = state(Kept::read(directory.path(), &super::keep::boot_id()).0);
    state.configure(at(1), &mut all(&[("web", Arc::clone(&spec))], every_second()));
    round(&mut state, at(2), &["172.16.193.10"]);
    state.keep().write(directory.path()).unwrap();
    assert_eq!(held(), (vec![Held::Absent, Held::Weight(1)], None));

    std::fs::write(directory.path().join(super::keep::FILE), "{").unwrap();
    let (held, problem) = held();
    assert_eq!(held, [Held::Weight(1), Held::Weight(1)]);
    assert!(problem.unwrap().contains("checks.json"));
}

/// A director whose groups track these; of each, checks and services.
fn tracking(groups: &[(&str, &[&str], &[&str])]) -> DirectorConfigSpec {
    let named = |names: &[&str]| -> Vec<Value> {
        names.iter().map(|name| json!({"namespace": "tp", "name": name})).collect()
    };
    let groups: Vec<_> = groups
        .iter()
        .map(|(name, checks, services)| {
            json!({"name": name, "priority": 100, "version": 3, "advertisementInterval": "1s", "downIntervals": 3,
                "preempt": {}, "onAgentLoss": "Keep",
                "instances": [{"name": "a", "interface": "eth0", "virtualRouterId": 1, "addresses": ["192.0.2.1/32"]}],
                "track": {"healthChecks": named(checks), "virtualServices": named(services)}})
        })
        .collect();
    serde_json::from_value(json!({"director": "dir1", "vrrp": groups})).unwrap()
}

fn told(effects: &[Effects]) -> Vec<(&str, &str, bool)> {
    let all = effects.iter().flat_map(|effects| &effects.tracked);
    all.map(|(one, failing)| (one.group.as_str(), one.name.as_str(), *failing)).collect()
}

#[test]
fn groups_hear_of_the_checks_and_quorums_that_they_track() {
    const CHECK: &str = "health check tp/upstream";
    let mut state = state(nothing());
    let upstream =
        || check("upstream", json!({"interval": "1s", "fall": 1, "ping": {}, "address": "10.0.0.1"}));
    let mut checks = every_second();
    checks.push(upstream());
    let spec = checked(&["answers", "upstream"], json!({"quorum": {"weight": 2}}));
    let bindings = BTreeMap::from([(key("web"), spec)]);
    let director =
        tracking(&[("front", &["upstream", "gone"], &["web", "gone"]), ("back", &["upstream"], &[])]);
    let config = NodeConfig { bindings, ..NodeConfig::new(director) };
    let all = || ConfigChange::All(Arc::new(config.clone()));
    let effects = state.configure(at(1), &mut update(all(), checks.clone()));
    assert_eq!(told(&[effects]), [], "what has not spoken does not fail");
    assert_eq!(
        state.scheduler.len(),
        3,
        "the probe that a service has for each of its real servers is shared"
    );

    let effects = round(&mut state, at(3), &["10.0.0.1"]);
    assert_eq!(
        told(&effects),
        [("back", CHECK, true), ("front", CHECK, true), ("front", "virtual service tp/web", true)]
    );
    // A process that comes after this one knows it before its groups begin.
    let directory = tempfile::tempdir().unwrap();
    state.keep().write(directory.path()).unwrap();
    let mut next = super::tests::state(Kept::read(directory.path(), "this").0);
    let effects = next.configure(at(60), &mut update(all(), checks));
    assert_eq!(told(&[effects]).len(), 3);

    // It comes back; and a check that is removed does not fail either.
    let effects = round(&mut state, at(9), &[]);
    assert_eq!(told(&effects).iter().filter(|one| !one.2).count(), 3);
    round(&mut state, at(20), &["10.0.0.1"]);
    let gone = vec![(CheckKey::new("tp", "upstream"), None)];
    let effects = state.configure(at(20), &mut some(Vec::new(), gone));
    assert!(told(&[effects]).contains(&("back", CHECK, false)));

    // Who does not track it any more is told that it does not fail; the last user takes the probe with it.
    let effects = state.configure(at(21), &mut some(vec![("web", None)], vec![upstream()]));
    // Its real servers were still what the check had found them.
    assert_eq!(told(&[effects]), [("front", "virtual service tp/web", false)]);
    assert_eq!(state.scheduler.len(), 1);
    assert_eq!(told(&round(&mut state, at(40), &["10.0.0.1"])).len(), 2);
    let change = ConfigChange::Some {
        director: Some(tracking(&[("front", &["upstream"], &[])])),
        bindings: Vec::new(),
        nat_rules: Vec::new(),
    };
    let effects = state.configure(at(41), &mut update(change, Vec::new()));
    assert_eq!(told(&[effects]), [("back", CHECK, false)]);
    let change =
        ConfigChange::Some { director: Some(tracking(&[])), bindings: Vec::new(), nat_rules: Vec::new() };
    let effects = state.configure(at(42), &mut update(change, Vec::new()));
    assert_eq!((told(&[effects]), state.scheduler.len()), (vec![("front", CHECK, false)], 0));
}

/// With the real thread, in a directory where nothing else is written; its name is nothing that a manifest could have.
#[test]
fn a_file_is_watched() {
    let (run_dir, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let _inside = runtime.enter();
    let options = super::Options {
        director: "dir1".into(),
        run_dir: run_dir.path().to_owned(),
        allow_file: Some(files.path().to_owned()),
        descriptors: 1_024,
    };
    let runner = crate::exec::Runner::new(&crate::exec::Options::default()).unwrap();
    let checks = super::Checks::spawn(&options, &runner, |_| {}, |_, _| {}).unwrap();
    let spec = checked(&["in-service"], json!({}));
    let file = vec![check("in-service", json!({"file": {"name": "in-service"}}))];
    checks.configure(all(&[("web", spec)], file), |_| {});
    let wait = |wanted: &str, weight: u16| {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let server = checks.services()[&key("web")].servers[0].clone();
            if server.state == wanted && server.weight == weight {
                return;
            }
            assert!(Instant::now() < until, "waited in vain for {wanted}, {weight}: {server:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    wait("Down", 0);
    for round in 1..=3 {
        std::fs::write(files.path().join("in-service"), format!("{round}\n")).unwrap();
        wait("Up", round);
        std::fs::remove_file(files.path().join("in-service")).unwrap();
        wait("Down", 0);
    }
}

fn options(run_dir: &std::path::Path, descriptors: u64) -> super::Options {
    super::Options { director: "dir1".into(), run_dir: run_dir.to_owned(), allow_file: None, descriptors }
}

/// A server that accepts and says nothing, and its port.
fn silent() -> (std::net::TcpListener, u16) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// More servers that hang than the descriptors allow probes: those that were not asked are not taken for dead, and no probe runs
/// beyond the bound.
#[test]
fn no_more_probes_run_than_there_are_descriptors_for() {
    let run_dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let _inside = runtime.enter();
    let options = options(run_dir.path(), 0);
    let runner = crate::exec::Runner::new(&crate::exec::Options::default()).unwrap();
    let checks = super::Checks::spawn(&options, &runner, |_| {}, |_, _| {}).unwrap();
    assert_eq!(checks.at_once(), 16);
    let (_listener, port) = silent();
    let check_of = |number: usize| {
        let http = json!({"path": format!("/{number}")});
        let spec =
            json!({"interval": "10m", "timeout": "10m", "initialDelay": "0s", "port": port, "http": http});
        check(&format!("hang{number}"), spec)
    };
    let server_of = |number: usize| {
        let checked = json!({"healthChecks": [format!("hang{number}")]});
        server(&format!("srv{number}"), "127.0.0.1", checked)
    };
    let spec = web(json!({"realServers": (1..=20).map(server_of).collect::<Vec<_>>()}));
    checks.configure(all(&[("web", spec)], (1..=20).map(check_of).collect()), |_| {});
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let (figures, probes, running) = checks.figures();
        assert!(running <= 20 && figures.failed == 0, "{figures:?}");
        if figures.undecided == 4 {
            assert_eq!((probes, running), (20, 16));
            break;
        }
        assert!(Instant::now() < until, "{figures:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    let states = checks.services()[&key("web")].servers.iter().map(|one| one.state).collect::<Vec<_>>();
    assert_eq!(states, ["Starting"; 20]);
}

/// What a probe holds is let go with it, not at its timeout.
#[test]
fn a_probe_that_nobody_wants_any_more_is_given_up() {
    let run_dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let _inside = runtime.enter();
    let options = options(run_dir.path(), 1_024);
    let runner = crate::exec::Runner::new(&crate::exec::Options::default()).unwrap();
    let checks = super::Checks::spawn(&options, &runner, |_| {}, |_, _| {}).unwrap();
    let (listener, port) = silent();
    let hang = |path: &str| {
        let spec = json!({"interval": "10m", "timeout": "10m", "initialDelay": "0s", "port": port, "http": {"path": path}});
        vec![check("hang", spec)]
    };
    let servers = json!([server("srv1", "127.0.0.1", json!({"healthChecks": ["hang"]}))]);
    let web = web(json!({"realServers": servers}));
    checks.configure(all(&[("web", web)], hang("/0")), |_| {});
    for edit in 1..=3 {
        let (mut connection, _) = listener.accept().unwrap();
        checks.configure(some(Vec::new(), hang(&format!("/{edit}"))), |_| {});
        // To its end, which the timeout would bring ten minutes later.
        connection.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let ended = std::io::copy(&mut connection, &mut std::io::sink());
        let timed_out = |error: &std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
        assert!(!ended.as_ref().is_err_and(timed_out), "{ended:?}");
    }
}

impl State {
    /// Whom a probe is about.
    fn address(&self, id: ProbeId) -> String {
        self.target(id).map(|target| target.address.to_string()).unwrap_or_default()
    }
}
