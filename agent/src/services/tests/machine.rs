//! The state machine as tables: what happens at which second, and what is to be done then.

use std::time::{Duration, Instant};

use super::super::group::{Action, Done, Group, Input, Operation, Verb};
use super::super::service::{Service, State};

fn service(name: &str) -> Service {
    Service::Unit(name.to_owned())
}

fn operation(text: &str) -> Operation {
    let (verb, name) = text.split_once(' ').unwrap();
    let verb = match verb {
        "start" => Verb::Start,
        "stop" => Verb::Stop,
        "status" => Verb::Status,
        other => panic!("{other}"),
    };
    Operation { verb, service: service(name) }
}

fn input(text: &str) -> Input {
    let finished = |end: &str, done: fn(String) -> Done| {
        let (name, why) = text.split_once(end).unwrap();
        Input::Finished(operation(name), done(why.trim_start().to_owned()))
    };
    match text {
        "active" => Input::Active,
        "not active" => Input::NotActive,
        "timer" => Input::Timer,
        _ if text.starts_with("services") => {
            Input::Services(text.split_whitespace().skip(1).map(service).collect())
        }
        _ if text.contains(" impossible") => finished(" impossible", Done::Impossible),
        _ if text.contains(" between") => finished(" between", Done::Between),
        _ if text.contains(" no") => finished(" no", Done::No),
        _ => Input::Finished(operation(text.strip_suffix(" yes").unwrap()), Done::Yes),
    }
}

/// Operations and reports, as text.
fn output(actions: &[Action]) -> String {
    let texts: Vec<String> = actions
        .iter()
        .filter_map(|action| match action {
            Action::Begin(operation) => Some(format!("{} {}", operation.verb.word(), operation.service)),
            Action::Report(Some(why)) => Some(format!("failing({why})")),
            Action::Report(None) => Some("well".into()),
            Action::Info(_) | Action::Warn(_) => None,
        })
        .collect();
    texts.join(", ")
}

/// Plays `(second, input, what is to be done, seconds from the start until the next deadline)`.
fn play(name: &str, steps: &[(u64, &str, &str, Option<u64>)]) -> Group {
    let start = Instant::now();
    let mut group = Group::default();
    for (second, text, expected, deadline) in steps {
        let actions = group.handle(start + Duration::from_secs(*second), input(text));
        assert_eq!(output(&actions), *expected, "{name}: {text} at {second} s");
        let next = group.next_deadline().map(|at| at.duration_since(start).as_secs());
        assert_eq!(next, *deadline, "{name}: deadline after {text} at {second} s");
    }
    group
}

#[test]
fn started_left_to_right_and_stopped_right_to_left() {
    let group = play(
        "order",
        &[
            (0, "services a b", "", None),
            (1, "active", "status a", None),
            (1, "status a no", "start a", None),
            (2, "start a yes", "status b", None),
            (2, "status b no", "start b", None),
            (5, "start b yes", "", Some(12)),
            (12, "timer", "status a", None),
            (12, "status a yes", "", Some(15)),
            (15, "timer", "status b", None),
            (15, "status b yes", "", Some(22)),
            (20, "not active", "stop b", None),
            (21, "stop b yes", "stop a", None),
            (22, "stop a yes", "", None),
        ],
    );
    assert!(group.is_over());
    assert!(group.states().all(|(_, state, _, _)| state == State::Stopped));
}

#[test]
fn what_runs_at_the_start_is_found() {
    play(
        "an active member: left alone",
        &[
            (0, "services a b", "", None),
            (0, "active", "status a", None),
            (0, "status a yes", "status b", None),
            (0, "status b yes", "", Some(10)),
        ],
    );
    play(
        "a backup: stopped, from the last",
        &[
            (0, "services a b", "", None),
            (0, "not active", "status b", None),
            (0, "status b yes", "stop b", None),
            (1, "stop b yes", "status a", None),
            (1, "status a no", "", None),
        ],
    );
    play(
        "somebody is just starting it: stopped first",
        &[
            (0, "services a", "", None),
            (0, "active", "status a", None),
            (0, "status a between activating", "stop a", None),
            (1, "stop a yes", "start a", None),
            (2, "start a yes", "", Some(12)),
        ],
    );
}

#[test]
fn a_failing_one_is_restarted_once_and_then_the_group_fails() {
    let steps = [
        (0, "services a", "", None),
        (0, "active", "status a", None),
        (0, "status a yes", "", Some(10)),
        (10, "timer", "status a", None),
        (10, "status a no dead", "stop a", None),
        (11, "stop a yes", "start a", None),
        (12, "start a yes", "", Some(22)),
        (22, "timer", "status a", None),
        (22, "status a no dead again", "failing(a: dead again), stop a", None),
        (23, "stop a yes", "", Some(52)),
        (24, "not active", "", Some(52)),
        (52, "timer", "well", None),
        // The next time there is a restart again, and the hold is twice as long.
        (60, "active", "start a", None),
        (61, "start a no", "stop a", None),
        (62, "stop a yes", "start a", None),
        (63, "start a no still", "failing(a: still), stop a", None),
        (64, "stop a yes", "", Some(123)),
        (123, "timer", "well, start a", None),
    ];
    play("restart", &steps);
}

#[test]
fn ten_minutes_of_health_bring_the_restart_back() {
    for (second, expected) in [(609, "failing(a: dead), stop a"), (610, "stop a")] {
        play(
            "budget",
            &[
                (0, "services a", "", None),
                (0, "active", "status a", None),
                (0, "status a yes", "", Some(10)),
                (10, "timer", "status a", None),
                (10, "status a no", "stop a", None),
                (10, "stop a yes", "start a", None),
                (10, "start a yes", "", Some(20)),
                (second, "timer", "status a", None),
                (second, "status a no dead", expected, None),
            ],
        );
    }
}

#[test]
fn a_start_that_is_superseded_is_waited_for() {
    play(
        "supersede",
        &[
            (0, "services a b", "", None),
            (0, "active", "status a", None),
            (0, "status a no", "start a", None),
            (1, "not active", "", None),
            (2, "active", "", None),
            (3, "not active", "", None),
            (9, "start a yes", "status b", None),
            (9, "status b no", "stop a", None),
            (9, "active", "", None),
            (10, "stop a yes", "start a", None),
        ],
    );
}

#[test]
fn what_does_not_stop_is_tried_again_and_keeps_the_group_failing() {
    let group = play(
        "stuck",
        &[
            (0, "services a b", "", None),
            (0, "active", "status a", None),
            (0, "status a yes", "status b", None),
            (0, "status b yes", "", Some(10)),
            (5, "not active", "stop b", None),
            (6, "stop b no busy", "failing(b: does not stop: busy), stop a", None),
            (7, "stop a yes", "", Some(36)),
            (36, "timer", "stop b", None),
            (37, "stop b no busy", "", Some(67)),
            (67, "timer", "stop b", None),
            (68, "stop b yes", "well", None),
        ],
    );
    assert!(group.failing().is_none());
}

#[test]
fn what_nobody_can_know_makes_a_backup_fail_before_it_is_needed() {
    play(
        "impossible",
        &[
            (0, "services a", "", None),
            (0, "not active", "status a", None),
            (0, "status a impossible no such unit", "failing(a: no such unit)", Some(30)),
            // Asked again while it still counts as failing, and held for longer.
            (30, "timer", "status a", None),
            (30, "status a impossible no such unit", "", Some(90)),
            (90, "timer", "status a", None),
            (90, "status a no", "well", None),
        ],
    );
}

#[test]
fn a_changed_list_touches_only_what_changed() {
    play(
        "change",
        &[
            (0, "services a b c", "", None),
            (0, "active", "status a", None),
            (0, "status a yes", "status b", None),
            (0, "status b yes", "status c", None),
            (0, "status c yes", "", Some(10)),
            (1, "services a d c", "stop b", None),
            (2, "stop b yes", "status d", None),
            (2, "status d no", "start d", None),
            (3, "start d yes", "", Some(10)),
            (4, "services c d a", "", Some(10)),
            (5, "services", "stop a", None),
            (5, "stop a yes", "stop d", None),
            (5, "stop d yes", "stop c", None),
            (5, "stop c yes", "", None),
        ],
    );
    play(
        "a mended list ends the hold",
        &[
            (0, "services a", "", None),
            (0, "active", "status a", None),
            (0, "status a impossible gone", "failing(a: gone)", Some(30)),
            (3, "services b", "status b", None),
            (3, "status b no", "well, start b", None),
        ],
    );
    play("nobody said where the group is", &[(0, "services a", "", None), (1, "services b", "", None)]);
}

#[test]
fn the_hold_doubles_up_to_ten_minutes_and_reasons_are_bounded() {
    let start = Instant::now();
    let mut group = Group::default();
    group.handle(start, input("services a"));
    let mut now = start;
    group.handle(now, Input::NotActive);
    let mut holds = Vec::new();
    for _ in 0..8 {
        let why = "x\n".repeat(500);
        group.handle(now, Input::Finished(operation("status a"), Done::Impossible(why)));
        let until = group.next_deadline().unwrap();
        holds.push(until.duration_since(now).as_secs());
        now = until;
        group.handle(now, Input::Timer);
    }
    assert_eq!(holds, [30, 60, 120, 240, 480, 600, 600, 600]);
    let reason = group.failing().unwrap();
    assert_eq!(reason.chars().count(), 128);
    assert!(!reason.contains('\n'));
}
