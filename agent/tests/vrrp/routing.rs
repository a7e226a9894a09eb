//! Routes and policy rules that move with a group.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::net::{Machine, Net, PATIENCE, Speaker, block, can_run, eventually, group};

const ADDRESS: &str = "192.16.193.30";

/// One that goes through a gateway from a table of its own, with the rule that leads there; one on the link; one of IPv6.
const MORE: &str = r#"{"instances": [
    {"name": "outside", "interface": "eth0", "virtualRouterId": 30, "addresses": ["192.16.193.30/32"],
     "routes": [{"to": "198.51.100.0/24"},
                {"to": "203.0.113.0/24", "via": "192.16.193.20", "source": "192.16.193.30", "table": 300, "metric": 5},
                {"to": "2001:db8:77::/48", "via": "fe80::9"}],
     "rules": [{"from": "10.9.0.0/16", "table": 300}, {"to": "2001:db8:9::/48", "table": 301, "priority": 77}]},
    {"name": "inside", "interface": "eth1", "virtualRouterId": 31, "addresses": ["172.16.193.253/16"]}
]}"#;

/// What there is of ours, a line each.
fn ours(machine: &Machine) -> Vec<String> {
    let mut found = Vec::new();
    for what in [
        "-4 route show table all proto 112",
        "-6 route show table all proto 112",
        "rule show",
        "-6 rule show",
    ] {
        let shown = machine.ip(what);
        let lines = shown.lines().filter(|line| !what.contains("rule") || line.ends_with("proto 112"));
        found.extend(lines.map(|line| line.trim().to_owned()));
    }
    found
}

fn wait_for(machine: &Machine, count: usize, what: &str) {
    let until = Instant::now() + PATIENCE;
    while ours(machine).len() != count {
        assert!(Instant::now() < until, "{what}: not {count} but {:#?}", ours(machine));
        thread::sleep(Duration::from_millis(5));
    }
}

struct Pair {
    one: Speaker,
    two: Speaker,
    dir1: Machine,
    dir2: Machine,
    _net: Net,
}

fn pair() -> Pair {
    let net = Net::new();
    let (dir1, dir2) = (net.machine(1), net.machine(2));
    let (one, two) = (dir1.start(), dir2.start());
    one.handle.configure(&[group(200, MORE)]);
    one.wait_for("front", "Active");
    two.handle.configure(&[group(100, MORE)]);
    two.wait_for("front", "Backup");
    Pair { one, two, dir1, dir2, _net: net }
}

#[test]
fn routes_and_rules_are_where_the_addresses_are() {
    if !can_run() {
        return;
    }
    let pair = pair();
    wait_for(&pair.dir1, 5, "active");
    let shown = ours(&pair.dir1).join("\n");
    for part in [
        "198.51.100.0/24 dev eth0 scope link",
        "203.0.113.0/24 via 192.16.193.20 dev eth0 table 300 src 192.16.193.30 metric 5",
        "2001:db8:77::/48 via fe80::9 dev eth0 metric 1024",
        "from 10.9.0.0/16 lookup 300 proto 112",
        "77:\tfrom all to 2001:db8:9::/48 lookup 301 proto 112",
    ] {
        assert!(shown.contains(part), "{part} is not in\n{shown}");
    }
    assert_eq!(ours(&pair.dir2), [""; 0]);

    block(pair.one.handle.switchover("front")).unwrap();
    wait_for(&pair.dir2, 5, "successor");
    wait_for(&pair.dir1, 0, "former");
    // It hands everything back when it ends in order.
    block(pair.two.handle.stop());
    wait_for(&pair.dir1, 5, "back");
    wait_for(&pair.dir2, 0, "ended");
}

#[test]
fn what_somebody_removes_comes_back_and_what_is_somebodys_stays() {
    if !can_run() {
        return;
    }
    let pair = pair();
    let machine = &pair.dir1;
    wait_for(machine, 5, "active");
    for removal in [
        "route del 198.51.100.0/24",
        "route del 203.0.113.0/24 table 300",
        "-6 route del 2001:db8:77::/48",
        "rule del from 10.9.0.0/16 lookup 300",
        "-6 rule del to 2001:db8:9::/48 lookup 301",
        // With it the kernel removes the route whose source it is, and says nothing of that.
        "address del 192.16.193.30/32 dev eth0",
    ] {
        machine.ip(removal);
        wait_for(machine, 5, removal);
    }
    eventually("the address is back", || machine.has(ADDRESS).then_some(()));
    assert!(pair.one.status().repaired >= 6);
    assert_eq!(pair.one.status().groups[0].lacking, [""; 0]);
    // Somebody's own is left alone, also where it is in the way.
    block(pair.one.handle.switchover("front")).unwrap();
    wait_for(machine, 0, "former");
    machine.ip("route add 198.51.100.0/24 via 192.16.193.20");
    machine.ip("route add 198.51.101.0/24 via 192.16.193.20");
    block(pair.two.handle.switchover("front")).unwrap();
    wait_for(machine, 4, "all but the one that is taken");
    let lacking = eventually("it says so", || pair.one.status().groups[0].lacking.first().cloned());
    assert!(
        lacking.starts_with("route 198.51.100.0/24 dev eth0: one that was not made by this agent"),
        "{lacking}"
    );
    machine.ip("route del 198.51.100.0/24");
    wait_for(machine, 5, "room again");
    eventually("it lacks nothing", || pair.one.status().groups[0].lacking.is_empty().then_some(()));
    assert!(machine.ip("route").contains("198.51.101.0/24 via 192.16.193.20"));
}

#[test]
fn a_changed_configuration_and_a_crash_leave_nothing_behind() {
    if !can_run() {
        return;
    }
    let mut pair = pair();
    wait_for(&pair.dir1, 5, "active");
    let other = MORE.replace("192.16.193.20", "192.16.193.21").replace("198.51.100.0/24", "198.51.102.0/24");
    pair.one.handle.configure(&[group(200, &other)]);
    eventually("the changed ones are there", || {
        let shown = ours(&pair.dir1).join("\n");
        let all =
            ["203.0.113.0/24 via 192.16.193.21", "198.51.102.0/24"].iter().all(|part| shown.contains(part));
        (all && !shown.contains("198.51.100.0/24") && ours(&pair.dir1).len() == 5).then_some(())
    });
    pair.one.expect_history(&["Initialize -> Backup", "Backup -> Active"]);

    // A process that dies leaves them; the next one, which has no such group any more, finds them by their mark.
    drop(pair.one);
    pair.one = pair.dir1.start();
    assert_eq!(ours(&pair.dir1).len(), 5);
    pair.one.handle.configure(&[]);
    wait_for(&pair.dir1, 0, "swept");
    pair.two.wait_for("front", "Active");
    wait_for(&pair.dir2, 5, "taken over");
}
