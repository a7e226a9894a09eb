//! Each fault takes effect, says so, and heals; one that cannot is an error.

use std::process::Command;
use std::time::Duration;

use bascule_lab::fault::{self, Restart};
use bascule_lab::world::inventory::Listed;
use bascule_lab::world::{Exec, Exit, Node, Spawn};

use crate::common::{a_fault, build, is_deaf, not_root, pings, serve, shell, until};

#[test]
fn every_fault_takes_effect_and_heals() {
    if not_root() {
        return;
    }
    let (world, _folder) = build();
    let (client, dir1, dir2, srv1) = (
        world.node("ClientA").unwrap(),
        world.node("dir1").unwrap(),
        world.node("dir2").unwrap(),
        world.node("srv1").unwrap(),
    );
    let check = |text: &str, broken: &dyn Fn(&str)| {
        let fault = a_fault(text);
        let injected = fault::inject(&world, &fault).unwrap();
        assert!(injected.at <= injected.done && !injected.proof.is_empty());
        broken(&injected.proof);
        // Twice is an error and changes nothing.
        assert!(fault::inject(&world, &fault).is_err(), "{text} twice");
        let healed = fault::heal(&world, &fault).unwrap();
        assert!(healed.at >= injected.done && healed.restart == Restart::Nothing);
        assert!(pings(&client, "172.16.193.10"), "after {text}");
        assert!(pings(&client, "192.16.193.2") && pings(&srv1, "172.16.193.2"), "after {text}");
        assert!(pings(&client, "2001:db8:2::10"), "after {text}");
    };
    check(r#"{"adminDown": {"node": "dir1", "interface": "enp0s8"}}"#, &|_| {
        assert!(!shell(&dir1, "ip link show enp0s8").contains("UP"));
        assert!(is_deaf(&client, "172.16.193.10"));
    });
    // What heals it brings back what the kernel threw away.
    assert!(shell(&dir1, "ip -6 addr show enp0s8").contains("2001:db8:2::254/64"));
    check(r#"{"adminDown": {"node": "srv1", "interface": "enp0s3"}}"#, &|_| {
        assert!(!shell(&srv1, "ip route").contains("default"));
    });
    check(r#"{"carrierLost": {"node": "srv1", "interface": "enp0s3"}}"#, &|_| {
        assert_eq!(shell(&srv1, "cat /sys/class/net/enp0s3/carrier"), "0\n");
        assert!(shell(&srv1, "ip link show enp0s3").contains("NO-CARRIER,BROADCAST,MULTICAST,UP"));
        assert!(is_deaf(&client, "172.16.193.10"));
    });
    let carrier = || shell(&srv1, "cat /sys/class/net/enp0s3/carrier");
    let count = |node: &Node, what: &str| -> u64 {
        shell(node, &format!("cat /sys/class/net/enp0s3/statistics/{what}")).trim().parse().unwrap()
    };
    check(r#"{"blackhole": {"node": "srv1", "interface": "enp0s3"}}"#, &|_| {
        assert_eq!(carrier(), "1\n");
        assert!(is_deaf(&client, "172.16.193.10"));
    });
    check(r#"{"blackhole": {"node": "srv1", "interface": "enp0s3", "direction": "in"}}"#, &|_| {
        let before = count(&srv1, "rx_packets");
        assert!(is_deaf(&client, "172.16.193.10"));
        assert_eq!(count(&srv1, "rx_packets"), before, "nothing comes in");
    });
    check(r#"{"blackhole": {"node": "srv1", "interface": "enp0s3", "direction": "out"}}"#, &|_| {
        let before = count(&srv1, "rx_packets");
        assert!(is_deaf(&client, "172.16.193.10"));
        assert!(count(&srv1, "rx_packets") > before, "requests still come in");
    });
    check(r#"{"partition": {"network": "outside", "groups": [["ClientA", "dir1"], ["dir2"]]}}"#, &|proof| {
        assert!(proof.contains("4 of 4"), "{proof}");
        assert!(is_deaf(&client, "192.16.193.2") && is_deaf(&dir2, "192.16.193.1"));
        assert!(pings(&client, "192.16.193.1"), "inside a group frames pass");
        assert!(pings(&srv1, "172.16.193.2"), "another network is not touched");
    });
    check(r#"{"freezeNode": {"node": "srv1"}}"#, &|_| {
        assert!(is_deaf(&client, "172.16.193.10"));
        assert!(srv1.exec(&Exec::shell("true")).unwrap_err().to_string().contains("frozen"));
        let states: Vec<_> = srv1.processes().into_iter().map(|process| process.state).collect();
        assert!(!states.is_empty());
    });

    // The agent, here a clock: it stands still, and its node forwards on.
    let clock = "while :; do date +%s%N > /run/tick; sleep 0.02; done";
    let agent = dir1.spawn(&Spawn::new(fault::AGENT, ["sh", "-c", clock])).unwrap();
    let tick = || dir1.read_file("/run/tick").unwrap_or_default();
    until("the agent runs", || !tick().is_empty());
    check(r#"{"freezeAgent": {"node": "dir1"}}"#, &|_| {
        let before = tick();
        assert!(pings(&client, "172.16.193.10"), "the kernel lives on");
        assert_eq!(tick(), before);
    });
    let before = tick();
    until("the agent runs again", || tick() != before);
    let kill_agent = a_fault(r#"{"killAgent": {"node": "dir1"}}"#);
    fault::inject(&world, &kill_agent).unwrap();
    assert_eq!(agent.exit(), Some(Exit::Signal(9)));
    assert!(fault::inject(&world, &kill_agent).is_err());
    assert_eq!(fault::heal(&world, &kill_agent).unwrap().restart, Restart::Agent { node: "dir1".into() });
    dir1.spawn(&Spawn::new(fault::AGENT, ["sh", "-c", clock])).unwrap();
    assert!(fault::heal(&world, &kill_agent).is_err(), "it runs");

    serve(&srv1);
    let stop = a_fault(r#"{"stopService": {"node": "srv1", "service": "server"}}"#);
    fault::inject(&world, &stop).unwrap();
    assert!(fault::inject(&world, &stop).is_err());
    let restart = Restart::Service { node: "srv1".into(), service: "server".into() };
    assert_eq!(fault::heal(&world, &stop).unwrap().restart, restart);

    // Two at once: the first heal does not end the second.
    let both = [
        a_fault(r#"{"blackhole": {"node": "srv1", "interface": "enp0s3"}}"#),
        a_fault(r#"{"blackhole": {"node": "srv1", "interface": "enp0s3", "direction": "in"}}"#),
    ];
    for fault in &both {
        fault::inject(&world, fault).unwrap();
    }
    let healed = fault::heal(&world, &both[0]).unwrap();
    assert!(healed.proof.contains("another fault"), "{}", healed.proof);
    assert!(is_deaf(&client, "172.16.193.10"));
    fault::heal(&world, &both[1]).unwrap();
    assert!(pings(&client, "172.16.193.10"));
}

#[test]
fn a_packet_filter_drops_one_port_and_a_full_disk_takes_nothing() {
    if not_root() {
        return;
    }
    let (world, _folder) = build();
    let (dir2, srv1) = (world.node("dir2").unwrap(), world.node("srv1").unwrap());
    serve(&srv1);
    let connects = || {
        let target = std::net::SocketAddr::from(([172, 16, 193, 10], 80));
        dir2.in_netns(|| std::net::TcpStream::connect_timeout(&target, Duration::from_secs(2)).is_ok())
            .unwrap()
    };
    assert!(connects());
    for direction in ["in", "out", "both"] {
        let node = if direction == "out" { "dir2" } else { "srv1" };
        let filter = a_fault(&format!(
            r#"{{"packetFilter": {{"node": "{node}", "protocol": "tcp", "port": 80, "direction": "{direction}"}}}}"#
        ));
        let proof = fault::inject(&world, &filter).unwrap().proof;
        assert!(proof.contains("a packet for tcp 80 was dropped"), "{proof}");
        assert!(!connects(), "{direction}");
        assert!(pings(&dir2, "172.16.193.10"), "only that port");
        assert!(fault::inject(&world, &filter).unwrap_err().to_string().contains("already"));
        let proof = fault::heal(&world, &filter).unwrap().proof;
        assert!(proof.contains("it had dropped"), "{proof}");
        assert!(connects(), "after {direction}");
        assert!(fault::heal(&world, &filter).unwrap_err().to_string().contains("not in effect"));
    }
    let udp = a_fault(r#"{"packetFilter": {"node": "srv1", "protocol": "udp", "port": 53}}"#);
    fault::inject(&world, &udp).unwrap();
    assert!(connects());
    // What somebody takes away is not in effect any more.
    shell(&srv1, "nft flush ruleset");
    assert!(fault::heal(&world, &udp).is_err());

    let full = a_fault(r#"{"diskFull": {"node": "srv1"}}"#);
    let write = || srv1.exec(&Exec::shell("head -c 9000 /dev/zero >/run/something")).unwrap();
    shell(&srv1, "echo before >/run/before");
    let proof = fault::inject(&world, &full).unwrap().proof;
    assert!(proof.contains("ENOSPC"), "{proof}");
    let output = write();
    assert!(!output.success() && output.error_text().contains("No space left"), "{}", output.error_text());
    assert_eq!(shell(&srv1, "cat /run/before"), "before\n");
    assert!(dir2.exec(&Exec::shell("head -c 9000 /dev/zero >/run/something")).unwrap().success());
    assert!(fault::inject(&world, &full).unwrap_err().to_string().contains("full already"));
    fault::heal(&world, &full).unwrap();
    assert!(write().success());
    assert!(fault::heal(&world, &full).unwrap_err().to_string().contains("not full by a fault"));
    // A boot empties it.
    fault::inject(&world, &full).unwrap();
    fault::inject(&world, &a_fault(r#"{"reboot": {"node": "srv1"}}"#)).unwrap();
    assert!(write().success());

    // The clock of this machine is not the lab's; in a machine of the lab's own this test is not played.
    let clock = a_fault(r#"{"clockStep": {"forward": "1h"}}"#);
    assert!(fault::inject(&world, &clock).unwrap_err().to_string().contains("--kernel vm"));
    assert!(fault::heal(&world, &clock).unwrap_err().to_string().contains("not moved"));
}

/// In a kernel with netem; `tests/machine` plays the same in scenarios in a kernel that has it.
#[test]
fn a_bad_cable_loses_and_delays_also_after_a_boot() {
    if not_root() {
        return;
    }
    let (world, _folder) = build();
    let (client, dir1) = (world.node("ClientA").unwrap(), world.node("dir1").unwrap());
    let late = a_fault(
        r#"{"impair": {"node": "srv1", "interface": "enp0s3", "delay": "150ms", "jitter": "10ms", "rate": "10mbit"}}"#,
    );
    match fault::inject(&world, &late) {
        Err(error) if error.to_string().contains("no netem") => {
            assert!(pings(&client, "172.16.193.10"), "nothing is left of what failed");
            eprintln!("not run here: {error}");
            return;
        }
        other => {
            let proof = other.unwrap().proof;
            assert!(proof.contains("out 150ms ± 10ms late, at most 10mbit; a probe took"), "{proof}");
            assert!(proof.contains("in 150ms"), "{proof}");
        }
    }
    let round_trip = |node: &Node| -> f64 {
        let text = shell(node, "ping -n -c 1 -W 5 172.16.193.10 | sed -n 's/.*time=\\([0-9.]*\\) ms/\\1/p'");
        text.trim().parse().unwrap()
    };
    assert!(round_trip(&dir1) >= 279.0, "both ways");
    assert!(fault::inject(&world, &late).unwrap_err().to_string().contains("already"));
    // The cable stays as it is.
    fault::inject(&world, &a_fault(r#"{"reboot": {"node": "srv1"}}"#)).unwrap();
    assert!(round_trip(&dir1) >= 279.0, "after a boot");
    // Other faults of a bad cable take effect and heal.
    for text in [
        r#"{"adminDown": {"node": "srv1", "interface": "enp0s3"}}"#,
        r#"{"blackhole": {"node": "srv1", "interface": "enp0s3"}}"#,
        r#"{"partition": {"network": "inside", "groups": [["dir1", "srv1"], ["dir2"]]}}"#,
        r#"{"freezeNode": {"node": "srv1"}}"#,
    ] {
        fault::inject(&world, &a_fault(text)).unwrap();
        fault::heal(&world, &a_fault(text)).unwrap();
    }
    fault::heal(&world, &late).unwrap();
    assert!(fault::heal(&world, &late).unwrap_err().to_string().contains("not in effect"));
    assert!(pings(&client, "172.16.193.10"));

    let lost =
        a_fault(r#"{"impair": {"node": "srv1", "interface": "enp0s3", "direction": "in", "loss": "100%"}}"#);
    let proof = fault::inject(&world, &lost).unwrap().proof;
    assert!(proof.contains("in 100% lost; the 1. probe was lost"), "{proof}");
    assert!(is_deaf(&client, "172.16.193.10"));
    fault::heal(&world, &lost).unwrap();
    assert!(pings(&client, "172.16.193.10"));
    let rest = a_fault(
        r#"{"impair": {"node": "srv1", "interface": "enp0s3", "delay": "20ms", "loss": "20%", "duplicate": "50%", "reorder": "30%"}}"#,
    );
    fault::inject(&world, &rest).unwrap();
    let healed = fault::heal(&world, &rest).unwrap().proof;
    assert!(healed.contains("frames had been lost") && healed.contains("probes pass both ways"), "{healed}");
}

#[test]
fn a_fault_that_cannot_take_effect_is_an_error() {
    if not_root() {
        return;
    }
    let (world, _folder) = build();
    let refused = |text: &str, why: &str| {
        let error = fault::inject(&world, &a_fault(text)).unwrap_err().to_string();
        assert!(error.contains(why) && error.contains("did not take effect"), "{text}: {error}");
    };
    refused(r#"{"adminDown": {"node": "nobody", "interface": "enp0s3"}}"#, "no node nobody");
    refused(r#"{"adminDown": {"node": "dir1", "interface": "eth9"}}"#, "it has enp0s3, enp0s8");
    refused(r#"{"carrierLost": {"node": "dir1", "interface": "eth9"}}"#, "no interface eth9");
    refused(r#"{"freezeAgent": {"node": "dir1"}}"#, "nothing called agent");
    refused(r#"{"killAgent": {"node": "dir1"}}"#, "nothing called agent");
    refused(r#"{"stopService": {"node": "srv1", "service": "apache2"}}"#, "nothing called apache2");
    refused(r#"{"partition": {"network": "outside", "groups": [["ClientA"], ["srv1"]]}}"#, "srv1 is not on");
    refused(r#"{"partition": {"network": "outside", "groups": [["ClientA"], ["ClientA"]]}}"#, "two groups");

    // An interface that is down already: nothing could be seen to change.
    let srv1 = world.node("srv1").unwrap();
    shell(&srv1, "ip link set enp0s3 down");
    refused(r#"{"adminDown": {"node": "srv1", "interface": "enp0s3"}}"#, "down already");
    refused(r#"{"carrierLost": {"node": "srv1", "interface": "enp0s3"}}"#, "is down");
    refused(r#"{"blackhole": {"node": "srv1", "interface": "enp0s3"}}"#, "no frame could be seen");
    refused(r#"{"partition": {"network": "inside", "groups": [["srv1"], ["dir2"]]}}"#, "no two nodes");
    // A program that ignores the signal.
    let deaf = "trap '' TERM; echo ready; while :; do sleep 0.1; done";
    let process = srv1.spawn(&Spawn::new("deaf", ["sh", "-c", deaf])).unwrap();
    process.wait_for_line("ready", Duration::from_secs(20)).unwrap();
    refused(r#"{"stopService": {"node": "srv1", "service": "deaf"}}"#, "has not ended");
    shell(&srv1, "ip link set enp0s3 up");

    // Nothing to heal.
    for text in [
        r#"{"blackhole": {"node": "dir2", "interface": "enp0s3"}}"#,
        r#"{"carrierLost": {"node": "dir2", "interface": "enp0s3"}}"#,
        r#"{"partition": {"network": "outside", "groups": [["ClientA"], ["dir1"]]}}"#,
        r#"{"freezeNode": {"node": "dir2"}}"#,
        r#"{"crash": {"node": "dir2"}}"#,
        r#"{"reboot": {"node": "dir2"}}"#,
    ] {
        assert!(fault::heal(&world, &a_fault(text)).is_err(), "{text}");
    }
    fault::inject(&world, &a_fault(r#"{"crash": {"node": "dir2"}}"#)).unwrap();
    for kind in ["crash", "reboot", "freezeNode", "killAgent"] {
        refused(&format!(r#"{{"{kind}": {{"node": "dir2"}}}}"#), "is off");
    }
    refused(r#"{"adminDown": {"node": "dir2", "interface": "enp0s3"}}"#, "is off");
    refused(r#"{"blackhole": {"node": "dir2", "interface": "enp0s3"}}"#, "no frame could be seen");

    // A rule that somebody takes away from under a fault: it is not in effect, and says so.
    world
        .switch()
        .exec(&Exec::new(["nft", "flush", "chain", "bridge", "bascule", "entering"]))
        .unwrap()
        .checked()
        .unwrap();
    refused(
        r#"{"blackhole": {"node": "dir1", "interface": "enp0s3", "direction": "out"}}"#,
        "was not swallowed",
    );
}

const WITHOUT: &str = "BASCULE_LAB_TEST_WITHOUT_CGROUP2";

/// Machines whose cgroup file system is of the old kind: the same by signals. Played by this test again, where the file system is hidden.
#[test]
fn without_cgroup2_a_node_is_frozen_by_signals() {
    const THIS: &str = "faults::without_cgroup2_a_node_is_frozen_by_signals";
    if not_root() {
        return;
    }
    if std::env::var_os(WITHOUT).is_none() {
        let script = r#"
            for path in $(awk '/ - cgroup2 / {print $5}' /proc/self/mountinfo); do umount -l "$path" || exit 1; done
            exec "$@""#;
        let status = Command::new("unshare")
            .args(["--mount", "sh", "-c", script, "sh"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", THIS, "--nocapture", "--test-threads=1"])
            .env(WITHOUT, "1")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let (world, _folder) = build();
    let (client, srv1) = (world.node("ClientA").unwrap(), world.node("srv1").unwrap());
    let clock = "while :; do date +%s%N > /run/tick; sleep 0.02; done";
    srv1.spawn(&Spawn::new("clock", ["sh", "-c", clock])).unwrap();
    let tick = || srv1.read_file("/run/tick").unwrap_or_default();
    until("the clock runs", || !tick().is_empty());
    let freeze = a_fault(r#"{"freezeNode": {"node": "srv1"}}"#);
    let proof = fault::inject(&world, &freeze).unwrap().proof;
    assert!(proof.contains("processes are stopped"), "{proof}");
    // One that ended just before stays a zombie: its parent is stopped, too.
    let processes = srv1.processes();
    let still = |process: &Listed| process.state == 'Z' || process.stands_still(&processes);
    assert!(processes.iter().all(still), "{processes:?}");
    let before = tick();
    assert!(is_deaf(&client, "172.16.193.10"));
    assert_eq!(tick(), before);
    fault::heal(&world, &freeze).unwrap();
    until("the clock runs again", || tick() != before);
    assert!(pings(&client, "172.16.193.10"));
    fault::inject(&world, &freeze).unwrap();
    fault::inject(&world, &a_fault(r#"{"reboot": {"node": "srv1"}}"#)).unwrap();
    assert!(pings(&client, "172.16.193.10"));
    fault::inject(&world, &freeze).unwrap();
    world.tear_down().unwrap();
}
