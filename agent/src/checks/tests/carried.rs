//! What is known of a real server outlives a change of its checks.

use super::*;

const BOTH: [&str; 2] = ["answers", "page"];

fn of(state: &State) -> Vec<Held> {
    state.services[&key("web")].judgement.servers.iter().map(|server| server.ipv4).collect()
}

const UP: Held = Held::Weight(1);

/// `web` with `answers`, of which the first real server is dead.
fn half_dead(initial: &str, more: Value) -> State {
    let mut state = state(nothing());
    let mut fields = json!({ "initialState": initial });
    fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    state.configure(at(1), &mut all(&[("web", checked(&["answers"], fields))], every_second()));
    round(&mut state, at(2), &["172.16.193.10"]);
    assert_eq!(of(&state), [Held::Absent, UP]);
    state
}

fn page() -> (CheckKey, Option<Arc<HealthCheckSpec>>) {
    check("page", json!({"interval": "1s", "fall": 1, "http": {}}))
}

fn rename(state: &mut State, now: Time, initial: &str, checks: &[&str], changed: Checks) {
    let spec = checked(checks, json!({ "initialState": initial }));
    state.configure(now, &mut some(vec![("web", Some(spec))], changed));
}

#[test]
fn an_edited_check_leaves_real_servers_what_they_were() {
    for initial in ["Up", "Down"] {
        let mut state = half_dead(initial, json!({}));
        for (second, spec) in [
            (3, json!({"interval": "1s", "fall": 1, "http": {}})),
            (4, json!({"interval": "1s", "fall": 1, "http": {"path": "/other"}})),
            (5, json!({"interval": "1s", "fall": 1, "tcp": {}, "port": 81})),
        ] {
            let change = vec![check("answers", spec.clone())];
            let effects = state.configure(at(second), &mut some(Vec::new(), change));
            assert!(effects.live.is_empty() && effects.quorums.is_empty(), "{initial} {spec}");
            assert_eq!(states(&state, "web"), ["Down", "Up"], "{initial} {spec}");
        }
        let told = &view::services(&state)[&key("web")].servers[0].checks[0];
        assert_eq!((told.passing, told.since), (None, None));
        assert!(told.message.starts_with("not probed yet"), "{told:?}");
        // Then it is what it is found to be.
        round(&mut state, at(7), &["172.16.193.40"]);
        assert_eq!(states(&state, "web"), ["Up", "Down"], "{initial}");
    }
}

#[test]
fn a_check_that_goes_or_cannot_be_run_leaves_them_what_they_were() {
    for initial in ["Up", "Down"] {
        let mut state = half_dead(initial, json!({}));
        let gone = vec![(CheckKey::new("tp", "answers"), None)];
        let effects = state.configure(at(3), &mut some(Vec::new(), gone));
        assert!(effects.live.is_empty() && effects.quorums.is_empty(), "{initial}");
        assert_eq!(states(&state, "web"), ["Down", "Up"], "{initial}");
        let told = &view::services(&state)[&key("web")].servers[0].checks[0];
        assert_eq!(told.message, "there is no such HealthCheck");
        // No file is watched here.
        let file = vec![check("answers", json!({"file": {"name": "x"}}))];
        state.configure(at(4), &mut some(Vec::new(), file));
        assert_eq!(states(&state, "web"), ["Down", "Up"], "{initial}");
        // Under another name.
        rename(&mut state, at(5), initial, &["page"], vec![page()]);
        assert_eq!(states(&state, "web"), ["Down", "Up"], "{initial}");
        // And the same, kept for another process.
        let directory = tempfile::tempdir().unwrap();
        state.keep().write(directory.path()).unwrap();
        let mut next = super::state(Kept::read(directory.path(), "this").0);
        let spec = checked(&["page"], json!({ "initialState": initial }));
        let mut change = all(&[("web", spec)], vec![page()]);
        next.configure(at(60), &mut change);
        assert_eq!(of(&next), [Held::Absent, UP], "{initial}");
        assert_eq!(change.live[&key("web")], next.services[&key("web")].judgement);
        round(&mut next, at(62), &[]);
        assert_eq!(of(&next), [UP, UP], "{initial}");
    }
}

#[test]
fn a_check_that_could_not_be_run_is_tried_again() {
    let mut state = state(nothing());
    let file = vec![check("answers", json!({"file": {"name": "x"}}))];
    state.configure(at(1), &mut all(&[("web", checked(&["answers"], json!({})))], file));
    let view = |state: &State| view::services(state)[&key("web")].clone();
    assert_eq!(view(&state).not_running().count(), 2);
    state.retry(at(60));
    assert_eq!(view(&state).not_running().count(), 2);
    // What it lacked has come.
    state.files = true;
    state.retry(at(120));
    assert_eq!((view(&state).not_running().count(), state.watched().len()), (0, 1));
}

#[test]
fn a_second_check_does_not_take_out_who_is_alive() {
    for initial in ["Up", "Down"] {
        let mut state = half_dead(initial, json!({}));
        // One that cannot be made can have no part in a real server's being down.
        rename(&mut state, at(3), initial, &BOTH, Vec::new());
        assert_eq!(of(&state), [Held::Absent, UP], "{initial}");
        round(&mut state, at(4), &[]);
        let first = if initial == "Up" { UP } else { Held::Absent };
        assert_eq!(of(&state), [first, UP], "{initial}");
        // The first one goes in the same moment in which the second one can be made.
        round(&mut state, at(6), &["172.16.193.10"]);
        rename(&mut state, at(7), initial, &["page"], vec![page()]);
        assert_eq!(of(&state), [Held::Absent, UP], "{initial}");
    }
}

#[test]
fn the_first_check_does_not_take_out_who_serves() {
    let mut state = state(nothing());
    let unchecked = checked(&[], json!({"initialState": "Down"}));
    state.configure(at(1), &mut all(&[("web", unchecked)], every_second()));
    assert!(state.services.is_empty());
    rename(&mut state, at(2), "Down", &["answers"], Vec::new());
    assert_eq!(of(&state), [UP, UP]);
    // Who comes with a check is new.
    let spec = json!({"initialState": "Down", "realServers": [
        server("srv1", "172.16.193.10", json!({"healthChecks": ["answers"]})),
        server("srv2", "172.16.193.41", json!({"healthChecks": ["answers"]})),
    ]});
    state.configure(at(3), &mut some(vec![("web", Some(checked(&[], spec)))], Vec::new()));
    assert_eq!(of(&state), [UP, Held::Absent], "another address is another real server");
    round(&mut state, at(5), &[]);
    assert_eq!(of(&state), [UP, UP]);
    // A service that went is not remembered.
    state.configure(at(6), &mut some(vec![("web", None)], Vec::new()));
    rename(&mut state, at(6), "Down", &["page"], vec![page()]);
    assert_eq!(of(&state), [Held::Absent, Held::Absent]);
}

#[test]
fn a_weight_that_a_check_asked_for_outlives_its_change() {
    let mut state = State::new(Prober::new(Settings { helo: "dir1".into() }), 1, true, nothing());
    let exec = |args: Value| {
        let probe = json!({"program": "load", "args": args, "dynamicWeight": true});
        vec![check("answers", json!({"interval": "1s", "exec": probe}))]
    };
    state.configure(at(1), &mut all(&[("web", checked(&["answers"], json!({})))], exec(json!([]))));
    for start in state.scheduler.poll(at(2), usize::MAX) {
        state.finished(at(2), start.key, start.run, &Outcome::passed("load").with_weight(7));
    }
    state.configure(at(3), &mut some(Vec::new(), exec(json!(["-v"]))));
    assert_eq!(of(&state), [Held::Weight(7), Held::Weight(7)]);
}

/// A service is renamed, or hands a real server to another one: in one update, and whichever comes first.
#[test]
fn what_another_service_takes_over_keeps_its_verdict() {
    for (old, new) in [("a", "b"), ("b", "a")] {
        let mut state = state(nothing());
        let spec = checked(&["answers"], json!({"initialState": "Down"}));
        state.configure(at(1), &mut all(&[(old, Arc::clone(&spec))], every_second()));
        round(&mut state, at(2), &["172.16.193.10"]);
        assert_eq!(states(&state, old), ["Down", "Up"]);
        let mut moves = vec![(old, None), (new, Some(spec))];
        moves.sort_by_key(|(name, _)| *name);
        let mut change = some(moves, Vec::new());
        state.configure(at(3), &mut change);
        assert_eq!(states(&state, new), ["Down", "Up"], "{old} to {new}");
        let live = &change.live[&key(new)];
        assert_eq!((live.servers[0].ipv4, live.servers[1].ipv4), (Held::Absent, UP));
        assert_eq!(state.scheduler.len(), 2);
        // And nobody is left behind.
        state.configure(at(4), &mut some(vec![(new, None)], Vec::new()));
        assert_eq!(state.scheduler.len(), 0);
    }
}
