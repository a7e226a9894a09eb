//! Two directors that run Bascule.

use std::{
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use bascule_agent::vrrp::give;
use bascule_crds::director_config::DirectorVrrpGroup;

use crate::net::{Net, block, can_run, eventually, group};
use crate::pair::{INSIDE, OUTSIDE, Pair};

#[test]
fn a_cut_cable_of_one_network_moves_all_addresses_and_they_come_back() {
    if !can_run() {
        return;
    }
    let pair = Pair::alike("");
    for network in [0, 1] {
        pair.dir1.cable(network, false);
        pair.one.wait_for("front", "Fault");
        pair.two.wait_for("front", "Active");
        pair.all_settle(false);
        let status = pair.one.status();
        assert!(
            status.groups[0].reason.contains(&format!("eth{network} is down")),
            "{}",
            status.groups[0].reason
        );
        pair.dir1.cable(network, true);
        pair.one.wait_for("front", "Active");
        pair.two.wait_for("front", "Backup");
        pair.all_settle(true);
    }
}

/// What is up, but of no use, is not said to be down.
#[test]
fn an_interface_on_which_nothing_can_be_sent_is_a_fault_by_its_own_name() {
    if !can_run() {
        return;
    }
    let pair = Pair::alike("");
    // Sending fails with EPERM then.
    let forbid = "add table inet t; add chain inet t out { type filter hook output priority 0; }; \
        add rule inet t out oifname eth0 meta l4proto 112 drop";
    pair.dir1.run(&["nft", forbid]);
    pair.one.wait_for("front", "Fault");
    pair.two.wait_for("front", "Active");
    let group = pair.one.status().groups.remove(0);
    assert_eq!(group.reason, "advertisements cannot be sent on interface eth0");
    assert_eq!(group.instances.iter().find(|one| one.name == "outside").unwrap().link, "Mute");
    pair.dir1.run(&["nft", "delete table inet t"]);
    pair.one.wait_for("front", "Active");
    pair.all_settle(true);
}

#[test]
fn an_interface_that_vanishes_and_comes_back_with_another_index() {
    if !can_run() {
        return;
    }
    let pair = Pair::alike("");
    pair.dir1.ip("link set eth1 down");
    pair.dir1.ip("link set eth1 name was1");
    pair.one.wait_for("front", "Fault");
    eventually("the interface is missed", || {
        pair.one.status().groups[0].reason.contains("no interface eth1").then_some(())
    });
    pair.two.wait_for("front", "Active");
    pair.dir1.ip("link set was1 name eth1");
    pair.dir1.ip("link set eth1 up");
    pair.one.wait_for("front", "Active");
    pair.all_settle(true);
}

#[test]
fn a_commanded_switch_over_is_held_against_preemption_also_by_the_next_process() {
    if !can_run() {
        return;
    }
    let mut pair = Pair::alike("");
    let answer = block(pair.one.handle.switchover("front")).unwrap();
    assert!(answer.contains("192.16.193.2") || answer.contains("172.16.193.2"), "{answer}");
    pair.two.wait_for("front", "Active");
    pair.all_settle(false);
    assert!(pair.one.status().groups[0].hold);
    assert!(block(pair.one.handle.switchover("front")).unwrap_err().contains("not active"));
    assert!(block(pair.one.handle.switchover("back")).unwrap_err().contains("front"), "names what there is");

    // The one with the higher priority starts anew, and remembers.
    block(pair.one.handle.stop());
    pair.one = pair.dir1.start();
    pair.one.handle.configure(&[group(200, "")]);
    pair.one.wait_for("front", "Backup");
    assert!(pair.one.status().groups[0].hold);
    std::thread::sleep(Duration::from_secs(1));
    pair.one.wait_for("front", "Backup");

    // Switched back, it is active again, and the hold is over.
    block(pair.two.handle.switchover("front")).unwrap();
    pair.one.wait_for("front", "Active");
    assert!(!pair.one.status().groups[0].hold);
}

/// Whatever `preempt` says: it is not the better member that takes over, but the one that is in service.
#[test]
fn a_machine_out_of_service_hands_over_without_a_gap_and_is_the_last_to_take_over() {
    if !can_run() {
        return;
    }
    for preempts in [true, false] {
        let preempt = format!(r#"{{"preempt": {{"enabled": {preempts}, "delay": "0s"}}}}"#);
        let pair = Pair::alike(&preempt);
        pair.all_settle(true);
        let told = |priority: u8, stands_by: bool, relieves: bool| {
            [DirectorVrrpGroup { stands_by, relieves, ..group(priority, &preempt) }]
        };
        // Whoever has it not on the first must see it on the second after that.
        let gaps = std::thread::scope(|scope| {
            let looker = scope.spawn(|| {
                let (mut looks, mut gaps) = (0, 0);
                loop {
                    let (first, second) = (pair.dir1.has(OUTSIDE), pair.dir2.has(OUTSIDE));
                    looks += 1;
                    gaps += u32::from(!first && !second);
                    if !first && second || looks > 10_000 {
                        return gaps;
                    }
                }
            });
            pair.two.handle.configure(&told(100, false, true));
            pair.one.handle.configure(&told(200, true, false));
            looker.join().unwrap()
        });
        assert_eq!(gaps, 0);
        pair.all_settle(false);
        let group = pair.one.status().groups.remove(0);
        assert!(group.stands_by && group.priority == 1 && !group.hold, "{group:?}");
        pair.one.expect_history(&["Initialize -> Backup", "Backup -> Active", "Active -> Backup"]);

        // Somebody has to have the addresses; the other one takes them back though it preempts nobody else.
        pair.dir2.cable(0, false);
        pair.one.wait_for("front", "Active");
        pair.dir2.cable(0, true);
        pair.two.wait_for("front", "Active");
        pair.all_settle(false);
        pair.one.wait_for("front", "Backup");

        // In service again it is what it was, and takes over if that is what it does.
        pair.two.handle.configure(&told(100, false, false));
        pair.one.handle.configure(&told(200, false, false));
        if preempts {
            pair.one.wait_for("front", "Active");
        } else {
            eventually("it has its own priority", || {
                (pair.one.status().groups[0].priority == 200).then_some(())
            });
            std::thread::sleep(Duration::from_secs(1));
            pair.one.wait_for("front", "Backup");
        }
        pair.all_settle(preempts);
    }
}

#[test]
fn nobody_to_take_over_means_to_go_on() {
    if !can_run() {
        return;
    }
    let pair = Pair::alike("");
    block(pair.two.handle.stop());
    let error = block(pair.one.handle.switchover("front")).unwrap_err();
    assert!(error.contains("nobody took over"), "{error}");
    pair.one.expect_history(&["Initialize -> Backup", "Backup -> Active"]);
    assert!(pair.dir1.has(OUTSIDE) && pair.dir1.has(INSIDE));
}

/// The successor decides to take over, stands still for longer than anybody waits, and goes on in the middle of what it decided. By
/// then the other one is active again.
#[test]
fn who_stood_still_while_taking_over_says_nothing() {
    if !can_run() {
        return;
    }
    // dir1 outranks dir2: a member that does not may tell whoever follows it, once.
    let pair = Pair::alike(r#"{"preempt": {"enabled": false, "delay": "0s"}}"#);
    block(pair.one.handle.switchover("front")).unwrap();
    pair.two.wait_for("front", "Active");
    pair.all_settle(false);
    let received = || -> Vec<u64> {
        pair.two.status().groups[0].instances.iter().map(|router| router.received).collect()
    };
    let before = received();
    pair.dir1.stall_once(Duration::from_secs(2));
    let error = block(pair.two.handle.switchover("front")).unwrap_err();
    assert!(error.contains("nobody took over"), "{error}");
    pair.one.expect_history(&[
        "Initialize -> Backup",
        "Backup -> Active",
        "Active -> Backup",
        "Backup -> Active",
        "Active -> Backup",
    ]);
    pair.all_settle(false);
    assert_eq!(pair.two.state("front"), "Active");
    assert_eq!(received(), before);
}

/// With a long interval Active_Down_Interval is longer than anybody waits for a program to end.
#[test]
fn addresses_do_not_stay_when_the_end_comes_before_a_successor() {
    if !can_run() {
        return;
    }
    let net = Net::new();
    for (host, on_loss, stays) in [(1, "Release", false), (2, "Keep", true)] {
        let dir1 = net.machine(host);
        let one = dir1.start();
        let more = |interval: &str| {
            format!(r#"{{"advertisementInterval": "{interval}", "onAgentLoss": "{on_loss}"}}"#)
        };
        one.handle.configure(&[group(200, &more("100ms"))]);
        one.wait_for("front", "Active");
        one.handle.configure(&[group(200, &more("40s"))]);
        block(one.handle.stop_within(Duration::from_millis(500)));
        assert_eq!((dir1.has(OUTSIDE), dir1.has(INSIDE)), (stays, stays), "{on_loss}");
    }
}

#[test]
fn who_stops_keeps_the_addresses_until_the_successor_has_them() {
    if !can_run() {
        return;
    }
    let pair = Pair::alike("");
    let began = Instant::now();
    // Looked at all the while: at no moment is an address nowhere.
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let (dir1, dir2) = (&pair.dir1, &pair.dir2);
    std::thread::scope(|scope| {
        let looker = scope.spawn(move || {
            let mut looks = 0;
            while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                // The successor first: what it has by then it keeps.
                assert!(dir1.has(OUTSIDE) || dir2.has(OUTSIDE), "nobody has it after {looks} looks");
                looks += 1;
            }
            looks
        });
        block(pair.one.handle.stop());
        pair.two.wait_for("front", "Active");
        drop(stop);
        assert!(looker.join().unwrap() > 0);
    });
    pair.all_settle(false);
    assert!(began.elapsed() < crate::net::PATIENCE);
}

#[test]
fn a_dead_process_is_replaced_and_its_addresses_go_by_themselves() {
    if !can_run() {
        return;
    }
    let pair = Pair::alike("");
    // Without a word, as kill -9: the thread ends and touches nothing.
    drop(pair.one);
    pair.two.wait_for("front", "Active");
    // Both have them now; the kernel of the first lets go.
    eventually("the kernel of dir1 has dropped the addresses", || {
        (!pair.dir1.has(OUTSIDE) && !pair.dir1.has(INSIDE)).then_some(())
    });
    assert!(pair.dir2.has(OUTSIDE) && pair.dir2.has(INSIDE));
}

/// The better one never left Active, but the connections of the other one are its now.
#[test]
fn who_survives_a_split_brain_is_guarded_as_after_a_takeover() {
    if !can_run() {
        return;
    }
    let pair = Pair::alike(
        r#"{"instances": [{"name": "outside", "interface": "eth0", "virtualRouterId": 30, "addresses": ["192.16.193.30/32"]}]}"#,
    );
    let armed = |speaker: &crate::net::Speaker| speaker.armed.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!((armed(&pair.one), armed(&pair.two)), (1, 0));
    pair.dir1.silence(true);
    pair.two.wait_for("front", "Active");
    assert_eq!((armed(&pair.one), armed(&pair.two)), (1, 1));
    // For a second after it has taken over it is guarded anyway, and asserts nothing.
    std::thread::sleep(Duration::from_millis(1200));
    pair.dir1.silence(false);
    pair.two.wait_for("front", "Backup");
    eventually("the survivor is guarded", || (armed(&pair.one) >= 2).then_some(()));
    pair.one.expect_history(&["Initialize -> Backup", "Backup -> Active"]);
}

#[test]
fn a_process_that_comes_back_at_once_goes_on_and_one_that_comes_late_does_not() {
    if !can_run() {
        return;
    }
    // Slow enough to come back in time, on a slow machine as well.
    let slow = r#"{"advertisementInterval": "2s", "startupGrace": "1s"}"#;
    let net = Net::new();
    let dir1 = net.machine(1);
    let one = dir1.start();
    one.handle.configure(&[group(200, slow)]);
    one.wait_for("front", "Active");
    drop(one);
    let one = dir1.start();
    one.handle.configure(&[group(200, slow)]);
    one.wait_for("front", "Active");
    one.expect_history(&["Initialize -> Active"]);
    drop(one);
    // The addresses are gone by hand: they cannot be defended from the first moment on.
    dir1.ip(&format!("address delete {OUTSIDE}/32 dev eth0"));
    let one = dir1.start();
    one.handle.configure(&[group(200, slow)]);
    one.wait_for("front", "Active");
    one.expect_history(&["Initialize -> Backup", "Backup -> Active"]);
    drop(one);
    // Another configuration, without the group: what is left of it goes.
    let one = dir1.start();
    one.handle.configure(&[]);
    eventually("left-over addresses are swept", || (!dir1.has(OUTSIDE) && !dir1.has(INSIDE)).then_some(()));
}

#[test]
fn an_upgrade_changes_no_state_and_loses_no_advertisement() {
    if !can_run() {
        return;
    }
    let pair = Pair::alike("");
    let (old, new) = UnixStream::pair().unwrap();
    let successor = pair.dir1.start_with(Some(new));
    // What has happened is told a moment later.
    let two_before = ["Initialize -> Backup"];
    pair.two.expect_history(&two_before);
    std::thread::scope(|scope| {
        let giver = scope.spawn(|| block(give(&pair.one.handle, old)));
        successor.handle.configure(&[group(200, "")]);
        giver.join().unwrap().unwrap();
    });
    successor.wait_for("front", "Active");
    successor.expect_history(&["Active -> Active"]);
    let sent = successor.status().groups[0].instances[0].sent;
    eventually("it goes on speaking", || {
        (successor.status().groups[0].instances[0].sent > sent + 5).then_some(())
    });
    assert_eq!(pair.two.history(), two_before);
    assert_eq!(pair.two.status().groups[0].instances[0].accepted_priority_zero, 0);
    pair.all_settle(true);
    // It defends its addresses as the former one did.
    pair.dir1.cable(0, false);
    successor.wait_for("front", "Fault");
    pair.two.wait_for("front", "Active");
}

#[test]
fn an_upgrade_that_breaks_off_leaves_the_old_process_as_it_was() {
    if !can_run() {
        return;
    }
    let pair = Pair::alike("");
    let (old, new) = UnixStream::pair().unwrap();
    {
        use std::io::Write as _;
        (&new).write_all(b"state\n").unwrap();
    }
    std::thread::scope(|scope| {
        let giver = scope.spawn(|| block(give(&pair.one.handle, old)));
        // It takes what is sent, and dies before it says so.
        std::thread::sleep(Duration::from_millis(50));
        drop(new);
        assert!(giver.join().unwrap().is_err());
    });
    let sent = pair.one.status().groups[0].instances[0].sent;
    eventually("it goes on speaking", || {
        (pair.one.status().groups[0].instances[0].sent > sent + 5).then_some(())
    });
    assert_eq!(pair.one.state("front"), "Active");
    assert_eq!(pair.two.state("front"), "Backup");
}

#[test]
fn what_somebody_does_to_the_addresses_is_put_right() {
    if !can_run() {
        return;
    }
    let pair = Pair::alike("");
    pair.dir1.ip(&format!("address delete {OUTSIDE}/32 dev eth0"));
    eventually("it is back", || pair.dir1.has(OUTSIDE).then_some(()));
    assert!(pair.one.status().repaired >= 1);
    // By hand on the other one: not ours, it stays, and it is no reason to change anything.
    pair.dir2.ip(&format!("address add {OUTSIDE}/32 dev eth0"));
    std::thread::sleep(Duration::from_millis(500));
    assert!(pair.dir2.has(OUTSIDE));
    assert_eq!((pair.one.state("front"), pair.two.state("front")), ("Active".into(), "Backup".into()));
}

#[test]
fn a_configuration_changes_what_it_changes() {
    if !can_run() {
        return;
    }
    let pair = Pair::alike("");
    let more = r#"{"instances": [
        {"name": "outside", "interface": "eth0", "virtualRouterId": 30, "addresses": ["192.16.193.30/32", "192.16.193.31/24"]},
        {"name": "inside", "interface": "eth1", "virtualRouterId": 31, "addresses": ["172.16.193.254/16"], "label": "0",
         "excludedAddresses": ["172.16.193.77/32"]}]}"#;
    pair.two.handle.configure(&[group(100, more)]);
    pair.one.handle.configure(&[group(200, more)]);
    for address in [OUTSIDE, "192.16.193.31", "172.16.193.254", "172.16.193.77"] {
        eventually(&format!("{address} is on dir1"), || pair.dir1.has(address).then_some(()));
    }
    eventually("what is configured no more is gone", || (!pair.dir1.has(INSIDE)).then_some(()));
    assert!(
        pair.dir1.ip("address show dev eth1").contains("eth1:0"),
        "{}",
        pair.dir1.ip("address show dev eth1")
    );
    pair.one.expect_history(&["Initialize -> Backup", "Backup -> Active"]);
    pair.two.expect_history(&["Initialize -> Backup"]);
    // Without the group at all: it hands over and goes.
    pair.one.handle.configure(&[]);
    pair.two.wait_for("front", "Active");
    eventually("dir1 has none of its addresses", || {
        (!pair.dir1.has(OUTSIDE) && !pair.dir1.has("172.16.193.77")).then_some(())
    });
    assert_eq!(pair.one.state("front"), "none");
}

#[test]
fn both_families_unicast_and_a_key() {
    if !can_run() {
        return;
    }
    let net = Net::new();
    let (dir1, dir2) = (net.machine(1), net.machine(2));
    let keys = tempfile::tempdir().unwrap();
    let key = keys.path().join("key");
    std::fs::write(&key, "0123456789abcdef0123456789abcdef").unwrap();
    let more = |own: u8, peer: u8| {
        serde_json::json!({
            "instances": [
                {"name": "outside", "interface": "eth0", "virtualRouterId": 30,
                 "addresses": ["192.16.193.30/32", "2001:db8::30/64"]},
                {"name": "inside", "interface": "eth1", "virtualRouterId": 31, "addresses": ["172.16.193.253/16"]},
            ],
            "ownAddresses": {"inside": format!("172.16.193.{own}")},
            "unicastPeers": {"inside": [format!("172.16.193.{peer}")]},
            "minTtl": 255,
            "authentication": {"hmac": {"keys": [{"id": 1, "file": key}], "activeKey": 1}},
        })
        .to_string()
    };
    // Others can read the key: refused by name.
    let one = dir1.start();
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    one.handle.configure(&[group(200, &more(1, 2))]);
    let status = one.status();
    assert!(status.groups[0].refused.as_ref().is_some_and(|why| why.contains("chmod 600")), "{status:?}");
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    one.handle.retry();
    one.wait_for("front", "Active");
    let two = dir2.start();
    two.handle.configure(&[group(100, &more(2, 1))]);
    two.wait_for("front", "Backup");
    eventually("advertisements of all three virtual routers are accepted", || {
        two.status().groups[0].instances.iter().all(|one| one.accepted > 3).then_some(())
    });
    let routers = two.status().groups[0].instances.clone();
    assert_eq!(routers.len(), 3, "an instance of both families is two virtual routers");
    assert!(routers.iter().all(|one| one.rejected.is_empty()), "{routers:?}");
    for address in [OUTSIDE, "2001:db8::30", "fe80::200:5eff:fe00:21e"] {
        assert!(dir1.has(address) && !dir2.has(address), "{address}: {}", dir1.ip("address"));
    }
    // A third machine without the key, with the higher priority: no effect.
    let rogue = net.machine(3);
    let three = rogue.start();
    let mut plain: serde_json::Value = serde_json::from_str(&more(3, 2)).unwrap();
    plain["authentication"] = serde_json::Value::Null;
    three.handle.configure(&[group(250, &plain.to_string())]);
    eventually("what it says is refused", || {
        let rejected = two.status().groups[0].instances.iter().map(|one| one.rejected.len()).sum::<usize>();
        (rejected > 0).then_some(())
    });
    assert_eq!((one.state("front"), two.state("front")), ("Active".into(), "Backup".into()));
}

#[test]
fn members_that_are_configured_otherwise_are_named() {
    if !can_run() {
        return;
    }
    let pair = Pair::alike("");
    let other = r#"{"advertisementInterval": "200ms", "instances": [
        {"name": "outside", "interface": "eth0", "virtualRouterId": 30, "addresses": ["192.16.193.30/32"]},
        {"name": "inside", "interface": "eth1", "virtualRouterId": 31, "addresses": ["172.16.193.253/16", "172.16.193.77/16"]}]}"#;
    let named = || -> Vec<(String, String, String)> {
        let instances = pair.two.status().groups.remove(0).instances;
        let of = |one: bascule_agent::vrrp::InstanceStatus| {
            one.differences.into_iter().map(move |it| (one.name.clone(), it.what, it.peer))
        };
        instances.into_iter().flat_map(of).collect()
    };
    assert_eq!(named(), []);
    pair.one.handle.configure(&[group(200, other)]);
    let row = |name: &str, what: &str, peer: &str| (name.to_owned(), what.to_owned(), peer.to_owned());
    let expected = [
        row("outside", "interval", "192.16.193.1"),
        row("inside", "addresses", "172.16.193.1"),
        row("inside", "interval", "172.16.193.1"),
    ];
    eventually("the differences are named", || {
        let mut found = named();
        found.sort();
        let mut expected = expected.to_vec();
        expected.sort();
        (found == expected).then_some(())
    });
    // Nobody took over for that.
    assert_eq!((pair.one.state("front"), pair.two.state("front")), ("Active".into(), "Backup".into()));
    pair.two.handle.configure(&[group(100, other)]);
    eventually("alike again", || named().is_empty().then_some(()));
}
