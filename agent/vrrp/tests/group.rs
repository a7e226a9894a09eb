//! The rules of groups, one by one.

mod common;

use bascule_vrrp::group::{AgentLoss, Preempt, Switchover, Tracker};
use bascule_vrrp::{Action, BootTime, Group, GroupConfig, GroupState, Input, Link};
use common::{Bench, changes, ip, ms, one_network, two_networks, words};

/// Priority 200, 100 ms: Skew_Time 21.875 ms, Active_Down_Interval 321.875 ms.
#[test]
fn it_becomes_active_when_all_networks_are_silent() {
    let mut bench = Bench::started(two_networks(200));
    bench.run_for(ms(200));
    bench.hear("outside", 250);
    let actions = bench.run_for(ms(1000));
    // Inside was silent from the start; outside decides.
    assert_eq!(changes(&actions), [(321_875, GroupState::Active)]);
    assert_eq!(bench.reason(), "outside: heard nothing from 192.16.193.9 for 3.22 intervals (321.88ms)");
    let first: Vec<Action> = actions
        .into_iter()
        .filter(|(at, _)| *at == ms(321) + ms(1) * 7 / 8)
        .map(|(_, action)| action)
        .collect();
    let expected = [
        "outside says 200",
        "inside says 200",
        "outside holds",
        "outside announces 5",
        "inside holds",
        "inside announces 5",
        "Backup to Active",
    ];
    let mut said = words(&first);
    said[2..6].sort();
    let mut sorted = expected.map(String::from);
    sorted[2..6].sort();
    assert_eq!(said, sorted);
}

#[test]
fn who_never_heard_anybody_does_not_say_when() {
    let mut bench = Bench::started(one_network(200));
    bench.run_for(ms(50));
    let heard_at = |bench: &Bench| bench.group.status().routers[0].heard_at;
    assert_eq!(heard_at(&bench), None);
    // A better one, and one that is not listened to.
    for priority in [250, 100] {
        let mut bench = Bench::started(one_network(200));
        bench.run_for(ms(50));
        bench.hear("outside", priority);
        assert_eq!(heard_at(&bench), Some(bench.clock().boot));
    }
}

#[test]
fn it_does_not_take_over_while_one_network_hears_the_active_one() {
    let mut bench = Bench::started(two_networks(100));
    let mut warned = Vec::new();
    for _ in 0..100 {
        bench.hear("inside", 200);
        warned.extend(bench.run_for(ms(100)).into_iter().map(|(_, action)| action));
        assert_eq!(bench.group.state(), GroupState::Backup);
    }
    assert_eq!(words(&warned), ["warning one-sided"]);
}

#[test]
fn a_higher_advertisement_on_one_network_ends_it_on_all() {
    let mut bench = Bench::active(two_networks(100));
    let actions = bench.hear("inside", 200);
    assert_eq!(words(&actions), ["inside drops", "outside drops", "Active to Backup"]);
    assert_eq!(bench.reason(), "inside: 172.16.193.9 is active with priority 200, own is 100");
}

/// After a partition both were active, and only one of the two hears of the other: the one that gives way says so, on each network,
/// else the neighbours go on believing its announcements, which came last.
#[test]
fn who_was_active_tells_its_successor_once_on_each_network() {
    let mut loser = Bench::active(two_networks(100));
    loser.hear("outside", 200);
    assert_eq!(words(&loser.hear("outside", 200)), ["outside says 100"]);
    assert!(loser.hear("outside", 200).is_empty());
    assert_eq!(words(&loser.hear("inside", 200)), ["inside says 100"]);
    assert!(loser.hear("inside", 200).is_empty());
    // One that does not outrank it would give way to what it says.
    let mut better = Bench::active(two_networks(150));
    better.hear("outside", 200);
    assert!(better.hear("outside", 100).is_empty());
    assert_eq!(words(&better.hear("outside", 200)), ["outside says 150"]);
    // Who has long been active announces its addresses again; who has just begun has just announced them.
    let mut winner = Bench::started(two_networks(200));
    winner.run_for(ms(500));
    assert_eq!(winner.group.state(), GroupState::Active);
    let began = words(&winner.hear("inside", 100));
    assert!(
        !began.iter().any(|word| word.contains("announces") || word.contains("also-active")),
        "{began:?}"
    );
    winner.run_for(ms(10_000));
    let later = words(&winner.hear("inside", 100));
    assert!(later.iter().any(|word| word.contains("inside announces")), "{later:?}");
}

#[test]
fn priority_0_on_one_network_releases_all() {
    let mut bench = Bench::started(two_networks(100));
    bench.hear("inside", 200);
    bench.hear("outside", 200);
    bench.hear("inside", 0);
    // Skew_Time of priority 100: 60.9375 ms. All addresses first, then the word.
    let actions = bench.run_for(ms(300));
    assert_eq!(changes(&actions), [(60_937, GroupState::Active)]);
    let said: Vec<String> = words(&actions.into_iter().map(|(_, action)| action).collect::<Vec<_>>());
    let says: Vec<usize> = (0..6).filter(|at| said[*at].contains("says")).collect();
    assert_eq!(says, [4, 5], "{said:?}");
    assert!(bench.reason().contains("172.16.193.9 released the addresses"), "{}", bench.reason());
}

#[test]
fn a_fault_of_one_is_a_fault_of_all_and_is_said_where_that_is_possible() {
    let mut bench = Bench::active(two_networks(100));
    let actions = bench.link("outside", false);
    assert_eq!(words(&actions), ["outside drops", "inside says 0", "inside drops", "Active to Fault"]);
    assert_eq!(bench.reason(), "interface eth-outside is down");
    // Once more after a tenth of an interval, where there is a link.
    let farewell: Vec<_> =
        bench.run_for(ms(60_000)).into_iter().map(|(at, action)| (at, words(&[action]))).collect();
    assert_eq!(farewell, [(ms(10), vec!["inside says 0".to_owned()])]);
    assert_eq!(bench.group.next_deadline(), None);
    let actions = bench.link("outside", true);
    assert_eq!(words(&actions), ["Fault to Backup"]);
    assert_eq!(bench.reason(), "no more: interface eth-outside is down");
}

#[test]
fn it_waits_for_its_interfaces_and_says_what_is_wrong_with_them() {
    let mut bench = Bench::new(two_networks(100));
    bench.feed(Input::Start { resume: false });
    assert_eq!(
        (bench.group.state(), bench.reason()),
        (GroupState::Initialize, "waiting for interface eth-outside".into())
    );
    bench.link("outside", true);
    assert_eq!(
        (bench.group.state(), bench.reason()),
        (GroupState::Initialize, "waiting for interface eth-inside".into())
    );
    let router = bench.id("inside");
    for (link, reason) in [
        (Link::Missing, "there is no interface eth-inside"),
        (Link::NoAddress, "interface eth-inside has no IPv4 address"),
        (Link::Down, "interface eth-inside is down"),
        (Link::Deaf, "interface eth-inside has no socket for VRRP"),
        (Link::Mute, "advertisements cannot be sent on interface eth-inside"),
        (Link::NoHome, "interface eth-inside has no interface with the virtual MAC address over it"),
    ] {
        bench.feed(Input::Link { router: router.clone(), link });
        assert_eq!((bench.group.state(), bench.reason()), (GroupState::Fault, reason.into()));
    }
    bench.link("inside", true);
    assert_eq!(bench.group.state(), GroupState::Backup);
}

#[test]
fn both_families_of_an_instance_are_two_virtual_routers_in_lock_step() {
    let mut config = one_network(100);
    config.instances[0].addresses = vec![ip("192.16.193.30"), ip("2001:db8::30")];
    let mut bench = Bench::active(config);
    let sent: Vec<_> = bench.run_for(ms(100));
    let lengths: Vec<usize> = sent
        .iter()
        .filter_map(|(_, action)| match action {
            Action::Send { bytes, .. } => Some(bytes.len()),
            _ => None,
        })
        .collect();
    // The second with a link-local address first, derived from the VRID: 8 + 16 + 16.
    assert_eq!(lengths, [12, 40]);
    let Some((_, Action::Send { bytes, .. })) =
        sent.iter().rev().find(|(_, action)| matches!(action, Action::Send { .. }))
    else {
        panic!("nothing was sent")
    };
    assert_eq!(bytes[8..24], [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0x5e, 0xff, 0xfe, 0, 2, 30]);
}

#[test]
fn preemption_waits_for_its_delay() {
    let preempt = Preempt { enabled: true, delay: ms(2000) };
    let mut bench = Bench::started(GroupConfig { preempt, ..one_network(200) });
    let begin = bench.now;
    while bench.group.state() == GroupState::Backup {
        bench.hear("outside", 100);
        bench.run_for(ms(100));
        assert!(bench.now < begin + ms(5000));
    }
    // It discards from 2 s on; the last that counted was heard 100 ms before.
    assert_eq!(bench.now.saturating_sub(begin), ms(2300));
    assert!(bench.reason().contains("own priority 200 is above 100"), "{}", bench.reason());
}

#[test]
fn without_preemption_a_lower_one_stays_and_its_silence_counts() {
    let preempt = Preempt { enabled: false, delay: ms(0) };
    let mut bench = Bench::started(GroupConfig { preempt, ..one_network(200) });
    for _ in 0..50 {
        bench.hear("outside", 1);
        assert_eq!(changes(&bench.run_for(ms(100))), []);
    }
    assert_eq!(changes(&bench.run_for(ms(300))), [(221_875, GroupState::Active)]);
}

/// What the active member has to end first takes its time, and nobody may have it twice.
#[test]
fn who_becomes_preferred_lets_the_active_one_end_what_it_has_to_end() {
    let mut bench = Bench::started(GroupConfig { courtesy: ms(2000), ..one_network(100) });
    bench.hear("outside", 200);
    let preferred = GroupConfig { preferred: true, ..bench.group.config().clone() };
    bench.feed(Input::Configure { config: Box::new(preferred), links: Vec::new() });
    let began = bench.now;
    while bench.now < began + ms(1900) {
        bench.hear("outside", 200);
        assert_eq!(changes(&bench.run_for(ms(100))), []);
    }
    // It hands over.
    let mut handed = Bench { group: bench.group.clone(), now: bench.now, step: bench.step };
    handed.hear("outside", 0);
    assert_eq!(changes(&handed.run_for(ms(10))).len(), 1);
    // Or it does not, for it never heard of it: from the end of the courtesy on it is not listened to.
    while bench.now < began + ms(2400) {
        bench.hear("outside", 200);
        bench.run_for(ms(50));
    }
    assert_eq!(bench.group.state(), GroupState::Active);
    assert!(bench.reason().contains("above 200"), "{}", bench.reason());
}

#[test]
fn who_gives_away_is_not_held_and_goes_on_if_nobody_takes_it() {
    let mut bench = Bench::active(two_networks(200));
    assert_eq!(words(&bench.feed(Input::GiveAway)), ["outside says 0", "inside says 0"]);
    assert!(bench.feed(Input::GiveAway).is_empty(), "once");
    let actions: Vec<_> = bench.run_for(ms(400)).into_iter().map(|(_, action)| action).collect();
    let outcomes = actions.iter().filter(|one| matches!(one, Action::Switchover(Switchover::NoSuccessor)));
    assert_eq!(outcomes.count(), 1);
    assert!(bench.group.state() == GroupState::Active && !bench.group.is_releasing());
    bench.feed(Input::GiveAway);
    bench.hear("outside", 100);
    assert_eq!((bench.group.state(), bench.group.hold()), (GroupState::Backup, false));
}

#[test]
fn who_stands_by_hands_over_and_is_active_only_while_nobody_else_is() {
    let mut bench = Bench::active(one_network(200));
    assert_eq!(words(&bench.feed(Input::StandBy(true))), ["outside says 0"]);
    assert!(bench.feed(Input::StandBy(true)).is_empty(), "once");
    let actions = bench.hear("outside", 100);
    assert!(words(&actions).contains(&"outside drops".to_owned()), "{actions:?}");
    let told = (bench.group.state(), bench.group.priority(), bench.group.hold());
    assert_eq!(told, (GroupState::Backup, 1, false));
    for _ in 0..50 {
        bench.hear("outside", 100);
        assert_eq!(changes(&bench.run_for(ms(100))), []);
    }
    // Somebody has to have the addresses: with priority 1 it is the last to take them.
    assert_eq!(changes(&bench.run_for(ms(1000))), [(299_609, GroupState::Active)]);
    bench.hear("outside", 100);
    assert_eq!(bench.group.state(), GroupState::Backup);
    // Back in service it is what it was.
    assert!(bench.feed(Input::StandBy(false)).is_empty());
    assert_eq!(bench.group.priority(), 200);
    for _ in 0..4 {
        bench.hear("outside", 100);
        bench.run_for(ms(100));
    }
    assert_eq!(bench.group.state(), GroupState::Active);
}

#[test]
fn who_stands_by_without_a_successor_goes_on_with_the_lowest_priority() {
    let mut bench = Bench::active(two_networks(200));
    bench.feed(Input::StandBy(true));
    let actions: Vec<_> = bench.run_for(ms(1000)).into_iter().map(|(_, action)| action).collect();
    let outcomes = actions.iter().filter(|one| matches!(one, Action::Switchover(Switchover::NoSuccessor)));
    assert_eq!(outcomes.count(), 1);
    assert!(!actions.iter().any(|one| matches!(one, Action::DropAddresses { .. })), "{actions:?}");
    assert!(bench.group.state() == GroupState::Active && !bench.group.is_releasing());
    let said = actions.iter().filter_map(|action| match action {
        Action::Send { bytes, .. } => Some(bytes[2]),
        _ => None,
    });
    // First it hands over, and then it says what it is.
    assert!(said.clone().take(8).all(|priority| priority == 0), "{actions:?}");
    assert!(said.clone().skip(8).count() > 4 && said.skip(8).all(|priority| priority == 1), "{actions:?}");
    // Preferred or not, tracking or not: and so it begins in the process after this one.
    let preferred = GroupConfig { preferred: true, ..two_networks(200) };
    bench.feed(Input::Configure { config: Box::new(preferred), links: Vec::new() });
    assert_eq!(bench.group.priority(), 1);
    let restored = bascule_vrrp::Group::restore(two_networks(200), bench.group.snapshot(), &[]).unwrap();
    assert!(restored.group.stands_by());
    assert_eq!(restored.group.priority(), 1);
}

#[test]
fn who_relieves_takes_over_from_one_that_stands_by_and_from_nobody_else() {
    let preempt = Preempt { enabled: false, delay: ms(0) };
    for (heard, takes_over) in [(1, true), (2, false), (100, false)] {
        for relieves in [true, false] {
            let mut bench = Bench::started(GroupConfig { preempt, relieves, ..one_network(200) });
            for _ in 0..20 {
                bench.hear("outside", heard);
                bench.run_for(ms(50));
            }
            let active = bench.group.state() == GroupState::Active;
            assert_eq!(active, takes_over && relieves, "{heard} {relieves}");
        }
    }
}

#[test]
fn preferred_overrides_preemption_and_delay_but_no_fault() {
    let preempt = Preempt { enabled: false, delay: ms(0) };
    let config = GroupConfig { preempt, ..one_network(10) };
    let mut bench = Bench::started(config.clone());
    bench.hear("outside", 200);
    let preferred = GroupConfig { preferred: true, ..config };
    bench.feed(Input::Configure { config: Box::new(preferred), links: Vec::new() });
    assert_eq!(bench.group.priority(), 254);
    for _ in 0..3 {
        bench.run_for(ms(100));
        bench.hear("outside", 200);
    }
    bench.run_for(ms(100));
    assert_eq!(bench.group.state(), GroupState::Active);
    bench.link("outside", false);
    assert_eq!(bench.group.state(), GroupState::Fault);
}

#[test]
fn a_commanded_switch_over_hands_over_and_holds() {
    let mut bench = Bench::active(one_network(200));
    assert_eq!(words(&bench.feed(Input::Switchover)), ["outside says 0"]);
    assert!(bench.group.is_releasing());
    let refused = bench.feed(Input::Switchover);
    assert_eq!(refused, [Action::Switchover(Switchover::Refused { reason: "a hand-over is under way" })]);
    let actions = bench.hear("outside", 100);
    let done = Switchover::Done { reason: "handed over to 192.16.193.9".into() };
    assert!(actions.contains(&Action::Switchover(done)), "{actions:?}");
    assert!(actions.contains(&Action::Remember { hold: true }));
    // The lower one is left alone,
    for _ in 0..50 {
        bench.hear("outside", 100);
        bench.run_for(ms(100));
        assert_eq!(bench.group.state(), GroupState::Backup);
    }
    // also by the process after this one,
    let mut after = Bench::new(one_network(200));
    after.group.remember(&bench.group.record("boot"));
    assert!(after.group.hold());
    // until it is lost: then the hold is over.
    let actions = bench.run_for(ms(1000));
    assert!(actions.iter().any(|(_, action)| *action == Action::Remember { hold: false }));
    assert_eq!((bench.group.state(), bench.group.hold()), (GroupState::Active, false));
}

#[test]
fn a_switch_over_without_successor_is_resumed() {
    let mut bench = Bench::active(one_network(200));
    bench.feed(Input::Switchover);
    let actions = bench.run_for(ms(1000));
    let outcome = actions.iter().find(|(_, action)| matches!(action, Action::Switchover(_))).unwrap();
    assert_eq!((outcome.0.as_micros(), &outcome.1), (321_875, &Action::Switchover(Switchover::NoSuccessor)));
    assert_eq!((bench.group.state(), bench.group.is_releasing()), (GroupState::Active, false));
    let dropped = actions.iter().any(|(_, action)| matches!(action, Action::DropAddresses { .. }));
    assert!(!dropped, "the addresses stay");
}

#[test]
fn a_switch_over_is_refused_where_it_makes_no_sense() {
    let refusal = |bench: &mut Bench| match &bench.feed(Input::Switchover)[..] {
        [Action::Switchover(Switchover::Refused { reason })] => *reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(refusal(&mut Bench::started(one_network(100))), "this member is not active");
    let preferred = GroupConfig { preferred: true, ..one_network(100) };
    assert_eq!(refusal(&mut Bench::active(preferred)), "this member is preferred: change that instead");
}

#[test]
fn a_stop_hands_over_and_the_rest_depends_on_who_is_there() {
    for (on_agent_loss, left) in [(AgentLoss::Release, false), (AgentLoss::Keep, true)] {
        let config = GroupConfig { on_agent_loss, ..one_network(200) };
        let mut bench = Bench::active(config.clone());
        assert_eq!(words(&bench.feed(Input::Stop)), ["outside says 0"]);
        let actions: Vec<Action> = bench.run_for(ms(1000)).into_iter().map(|(_, action)| action).collect();
        assert!(actions.contains(&Action::Stopped { addresses_left: left }), "{actions:?}");
        let dropped = actions.iter().any(|action| matches!(action, Action::DropAddresses { .. }));
        assert_eq!(dropped, !left);
        // With a successor they always go.
        let mut bench = Bench::active(config);
        bench.feed(Input::Stop);
        let actions = bench.hear("outside", 100);
        assert_eq!(
            words(&actions),
            ["outside drops", "Active to Initialize", "stopped, addresses left: false"]
        );
        assert_eq!(bench.group.next_deadline(), None);
    }
    let mut backup = Bench::started(one_network(200));
    assert_eq!(words(&backup.feed(Input::Stop)), ["Backup to Initialize", "stopped, addresses left: false"]);
    let mut halted = Bench::active(one_network(200));
    let expected =
        ["outside says 0", "outside drops", "Active to Initialize", "stopped, addresses left: false"];
    assert_eq!(words(&halted.feed(Input::Halt)), expected);
}

#[test]
fn a_fault_ends_a_hand_over() {
    let mut bench = Bench::active(two_networks(200));
    bench.feed(Input::Switchover);
    let actions = bench.link("inside", false);
    let interrupted = Switchover::Interrupted { reason: "interface eth-inside is down".into() };
    assert!(actions.contains(&Action::Switchover(interrupted)), "{actions:?}");
    assert_eq!((bench.group.state(), bench.group.hold()), (GroupState::Fault, false));
    let mut stopping = Bench::active(two_networks(200));
    stopping.feed(Input::Stop);
    let actions = stopping.link("inside", false);
    assert!(actions.contains(&Action::Stopped { addresses_left: false }), "{actions:?}");
}

#[test]
fn tracking_weighs_and_faults() {
    let tracker = |name: &str, weight| Tracker { name: name.into(), weight };
    let trackers = vec![
        tracker("interface eth2", Some(-50)),
        tracker("tp/web", Some(20)),
        tracker("all", Some(-253)),
        tracker("service postfix.service", None),
    ];
    let mut bench = Bench::started(GroupConfig { trackers, ..one_network(100) });
    let mut priority = |name: &str, failing| {
        bench.feed(Input::Tracked { name, failing });
        bench.group.priority()
    };
    assert_eq!(priority("nothing of ours", true), 120);
    assert_eq!(priority("interface eth2", true), 70);
    assert_eq!(priority("tp/web", true), 50);
    assert_eq!(priority("all", true), 1);
    assert_eq!(priority("all", false), 50);
    assert_eq!(priority("interface eth2", false), 100);
    assert_eq!(priority("tp/web", false), 120);
    bench.feed(Input::Tracked { name: "service postfix.service", failing: true });
    assert_eq!(
        (bench.group.state(), bench.reason()),
        (GroupState::Fault, "service postfix.service failed".into())
    );
    bench.feed(Input::Tracked { name: "service postfix.service", failing: false });
    assert_eq!(bench.group.state(), GroupState::Backup);
    let high = Tracker { name: "up".into(), weight: Some(253) };
    assert_eq!(Bench::new(GroupConfig { trackers: vec![high], ..one_network(200) }).group.priority(), 253);
}

#[test]
fn silence_is_warned_of_once() {
    let mut bench =
        Bench::started(GroupConfig { warn_after: Some(ms(150)), down_intervals: 5, ..one_network(200) });
    bench.hear("outside", 250);
    let actions = bench.run_for(ms(400));
    let warnings: Vec<(u128, &Action)> =
        actions.iter().map(|(at, action)| (at.as_millis(), action)).collect();
    let [(150, Action::Warning(warning))] = &warnings[..] else { panic!("{warnings:?}") };
    assert_eq!(warning.text, "heard nothing from 192.16.193.9 for 150.00ms");
    // The next silence again.
    bench.hear("outside", 250);
    assert_eq!(bench.run_for(ms(400)).len(), 1);
}

#[test]
fn startup_grace_is_for_the_first_wait_and_ends_with_the_first_peer() {
    let config = GroupConfig { startup_grace: ms(5000), ..two_networks(200) };
    let mut bench = Bench::started(config.clone());
    assert_eq!(changes(&bench.run_for(ms(6000))), [(5_000_000, GroupState::Active)]);
    // After a fault there is none.
    bench.link("inside", false);
    bench.link("inside", true);
    assert_eq!(changes(&bench.run_for(ms(6000))), [(321_875, GroupState::Active)]);
    // A peer on one network ends it on both, also one that is not listened to.
    let mut bench = Bench::started(config.clone());
    bench.hear("inside", 100);
    assert_eq!(changes(&bench.run_for(ms(6000))), [(321_875, GroupState::Active)]);
    let mut highest = Bench::started(GroupConfig { highest: true, ..config });
    assert_eq!(changes(&highest.run_for(ms(6000))), [(321_875, GroupState::Active)]);
}

#[test]
fn late_beyond_the_peers_patience_it_steps_down_before_it_speaks() {
    for input in [Input::Timer, Input::Switchover, Input::Unhold] {
        let mut bench = Bench::active(two_networks(200));
        bench.now += ms(302);
        let actions = bench.feed(input.clone());
        let said = words(&actions);
        assert_eq!(said[..3], ["outside drops", "inside drops", "Active to Backup"], "{input:?}");
        assert!(!said.iter().any(|word| word.contains("says")));
        assert!(bench.reason().starts_with("had not run for 3"), "{}", bench.reason());
    }
    // Patience is 300.78 ms, and it spoke at most an interval before.
    let mut punctual = Bench::active(two_networks(200));
    punctual.now += ms(150);
    punctual.feed(Input::Timer);
    assert_eq!(punctual.group.state(), GroupState::Active);
    let mut alone = Bench::active(GroupConfig { alone: true, ..two_networks(200) });
    alone.now += ms(60_000);
    alone.feed(Input::Timer);
    assert_eq!(alone.group.state(), GroupState::Active);
}

#[test]
fn what_did_not_leave_before_the_peers_stopped_waiting_is_not_sent() {
    let mut bench = Bench::active(two_networks(200));
    bench.now += ms(100);
    let said = words(&bench.group.handle(bench.clock(), Input::Timer));
    assert_eq!(said, ["outside says 200", "inside says 200"]);
    let decided = BootTime::from_duration(bench.now);
    // Patience is 300.78 ms from the advertisement before, at least 100 ms ago: until then the peers wait.
    assert!(!bench.group.overtaken(decided + ms(100)));
    assert!(bench.group.overtaken(decided + ms(201)));
    // Were it sent, the next silence would count from now; as it was not, this member is late already.
    bench.group.unsent();
    bench.now += ms(201);
    let said = words(&bench.feed(Input::Timer));
    assert_eq!(said[..3], ["outside drops", "inside drops", "Active to Backup"]);
    assert!(bench.reason().starts_with("had not run for 3"), "{}", bench.reason());
    assert!(!bench.group.overtaken(decided + ms(10_000)), "it is none that speaks any more");
    // Who goes on after a crash goes on from what the former process said last.
    let before = Bench::active(two_networks(200));
    let mut after = Bench::new(two_networks(200));
    after.now = before.now + ms(150);
    after.all_up();
    after.group.remember(&before.group.record("boot"));
    after.group.handle(after.clock(), Input::Start { resume: true });
    assert_eq!(after.group.state(), GroupState::Active);
    assert!(!after.group.overtaken(BootTime::from_duration(after.now)));
    assert!(after.group.overtaken(BootTime::from_duration(after.now) + ms(151)));
    let mut alone = Bench::active(GroupConfig { alone: true, ..two_networks(200) });
    alone.now += ms(100);
    alone.feed(Input::Timer);
    assert!(
        !alone.group.overtaken(BootTime::from_duration(alone.now) + ms(60_000)),
        "nobody could have taken over"
    );
}

#[test]
fn addresses_are_renewed_so_that_they_outlive_the_peers_patience() {
    // Lifetime: at least 2 s; Active_Down_Interval in whole seconds above that.
    for (interval, lifetime) in [(100, 2000), (1000, 4000), (40_950, 132_000)] {
        let config = GroupConfig { interval: ms(interval), ..one_network(200) };
        assert_eq!(config.address_lifetime(), Some(ms(lifetime)), "{interval}");
        let mut bench = Bench::active(config);
        bench.run_for(ms(interval * 5));
        let actions = bench.run_for(ms(lifetime * 20));
        let renewals: Vec<_> =
            actions.iter().filter(|(_, action)| matches!(action, Action::RenewAddresses { .. })).collect();
        assert!(
            renewals.iter().all(|(_, action)| *action == Action::RenewAddresses { lifetime: ms(lifetime) })
        );
        let patience = ms(interval) * 3 + ms(interval) * 2 / 256;
        for (at, _) in actions.iter().filter(|(_, action)| matches!(action, Action::Send { .. })) {
            // It may fall asleep right after speaking, for as long as its peers wait.
            let Some((last, _)) = renewals.iter().rfind(|(renewed, _)| renewed <= at) else { continue };
            assert!(
                *last + ms(lifetime) >= *at + patience,
                "{interval}: renewed at {last:?}, spoke at {at:?}"
            );
        }
        assert!(renewals.len() >= 40, "{}", renewals.len());
    }
    let keep = GroupConfig { on_agent_loss: AgentLoss::Keep, ..one_network(200) };
    let mut bench = Bench::active(keep);
    let renewed =
        bench.run_for(ms(60_000)).iter().any(|(_, action)| matches!(action, Action::RenewAddresses { .. }));
    assert!(!renewed);
}

#[test]
fn it_goes_on_as_active_after_a_crash() {
    let mut bench = Bench::new(two_networks(200));
    bench.all_up();
    let actions = bench.feed(Input::Start { resume: true });
    assert_eq!(words(&actions).last().unwrap(), "Initialize to Active");
    assert_eq!(bench.group.status().reason, "was active a moment ago");
    // If it cannot, the addresses that were left for it go.
    let mut cut_off = Bench::new(two_networks(200));
    cut_off.link("inside", true);
    cut_off.link("outside", false);
    let actions = cut_off.feed(Input::Start { resume: true });
    assert_eq!(words(&actions), ["outside drops", "inside drops", "Initialize to Fault"]);
}

#[test]
fn who_is_handing_over_does_not_go_on_as_active_after_a_crash() {
    let mut bench = Bench::active(one_network(200));
    assert!(bench.group.record("boot").last_advertisement.is_some());
    bench.feed(Input::Switchover);
    assert!(bench.group.is_releasing());
    assert_eq!(bench.group.record("boot").last_advertisement, None);
}

/// The next process has a network more and one less: what stays goes on, what is new joins.
#[test]
fn an_upgrade_with_another_configuration_keeps_what_stays() {
    let mut bench = Bench::active(two_networks(200));
    let snapshot = bench.group.snapshot();
    let other = common::instance("other", 32, &["10.0.0.30"]);
    let mut config = two_networks(200);
    config.instances.truncate(1);
    config.instances.push(other);
    let fresh = Group::new(config.clone()).unwrap();
    let id = |name: &str| fresh.routers().find(|(id, ..)| &*id.instance == name).unwrap().0.clone();
    let links = [(id("other"), Link::Up { source: ip("10.0.0.1") })];
    let restored = Group::restore(config.clone(), snapshot.clone(), &links).unwrap();
    assert!(!restored.whole);
    bench.group = restored.group;
    assert_eq!(bench.group.state(), GroupState::Active);
    let said = words(&bench.feed(Input::Configure { config: Box::new(config.clone()), links: Vec::new() }));
    assert_eq!(bench.group.state(), GroupState::Active, "{said:?}");
    assert!(said.iter().any(|word| word == "other holds"), "{said:?}");
    assert!(said.iter().any(|word| word == "other says 200"), "{said:?}");

    config.instances.remove(0);
    assert!(Group::restore(config, snapshot, &links).is_err(), "nothing is left of it");
}
