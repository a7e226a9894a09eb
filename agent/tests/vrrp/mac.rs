//! Virtual MAC addresses.

use std::{process::Command, thread, time::Duration};

use crate::agent::Agent;
use crate::net::{Machine, Net, block, can_run, eventually, group, in_namespace};

const ADDRESS: &str = "192.16.193.30";
const ADDRESS6: &str = "2001:db8::30";
const LINK: &str = "bsc.30.eth0";
const LINK6: &str = "bsc6.30.eth0";

const MORE: &str = r#"{"instances": [
    {"name": "outside", "interface": "eth0", "virtualRouterId": 30, "virtualMac": true,
     "addresses": ["192.16.193.30/24", "2001:db8::30/64"]}
]}"#;

/// A machine of which the sysctl plane has made what this needs.
pub(crate) fn machine(net: &Net, host: u8) -> Machine {
    let machine = net.machine(host);
    machine.ip(&format!("address add 2001:db8::{host}/64 dev eth0 nodad"));
    in_namespace(&machine.namespace, || {
        for (setting, value) in [("arp_ignore", "1"), ("arp_announce", "2")] {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/eth0/{setting}"), value).unwrap();
        }
    });
    machine
}

fn links(machine: &Machine) -> Vec<String> {
    let all = machine.ip("-o link show type macvlan");
    all.lines()
        .filter_map(|line| Some(line.split_whitespace().nth(1)?.split('@').next()?.to_owned()))
        .collect()
}

fn is_up(machine: &Machine, link: &str) -> bool {
    machine.ip(&format!("-o link show {link}")).contains(",UP")
}

/// The active one has the addresses on interfaces that are up, the other one has interfaces that are down.
fn expect(active: &Machine, backup: &Machine) {
    expect_on(active, backup, LINK6);
}

fn expect_on(active: &Machine, backup: &Machine, link6: &str) {
    eventually("the addresses are on the virtual router's interfaces", || {
        let on = |link: &str, address: &str| {
            active.ip(&format!("-o address show dev {link}")).contains(&format!(" {address}/"))
        };
        let up = on(LINK, ADDRESS) && on(link6, ADDRESS6) && is_up(active, LINK) && is_up(active, link6);
        let down = links(backup).len() == 2 && !is_up(backup, LINK) && !is_up(backup, link6);
        (up && down && !backup.has(ADDRESS) && !backup.has(ADDRESS6)).then_some(())
    });
}

/// Whether the client gets an answer.
pub(crate) fn pings(client: &Machine, target: &str) -> bool {
    let arguments = ["netns", "exec", &client.namespace, "ping", "-n", "-c", "1", "-W", "1", target];
    Command::new("ip").args(arguments).output().unwrap().status.success()
}

#[test]
fn clients_know_one_address_and_it_moves() {
    if !can_run() {
        return;
    }
    let net = Net::new();
    let (dir1, dir2, client) = (machine(&net, 1), machine(&net, 2), machine(&net, 9));
    let (one, two) = (dir1.start(), dir2.start());
    one.handle.configure(&[group(200, MORE)]);
    one.wait_for("front", "Active");
    two.handle.configure(&[group(100, MORE)]);
    two.wait_for("front", "Backup");
    expect(&dir1, &dir2);
    let shown =
        one.status().groups[0].instances.iter().map(|one| one.own_interface.clone()).collect::<Vec<_>>();
    assert_eq!(shown, [Some(LINK.to_owned()), Some(LINK6.to_owned())]);
    // What the client learns is the virtual router's MAC address, and nothing makes it think otherwise.
    let knows = |address: &str, mac: &str| {
        let shown = client.ip(&format!("neighbour show to {address}"));
        assert!(shown.contains(mac), "{shown}");
    };
    for (address, mac) in [(ADDRESS, "00:00:5e:00:01:1e"), (ADDRESS6, "00:00:5e:00:02:1e")] {
        eventually(&format!("{address} answers"), || pings(&client, address).then_some(()));
        knows(address, mac);
        // From here on it shall not ask again.
        client.ip(&format!("neighbour replace {address} lladdr {mac} nud permanent dev eth0"));
    }
    // Asked for an address of its own, each answers with its own MAC address.
    eventually("the director answers", || pings(&client, "192.16.193.1").then_some(()));
    knows("192.16.193.1", "02:00:00:00:00:01");

    block(one.handle.switchover("front")).unwrap();
    two.wait_for("front", "Active");
    expect(&dir2, &dir1);
    for address in [ADDRESS, ADDRESS6] {
        eventually(&format!("{address} answers after it moved"), || pings(&client, address).then_some(()));
    }
    // One that is preempted hears its rival although both have one MAC address.
    let dir3 = machine(&net, 3);
    let three = dir3.start();
    three.handle.configure(&[group(250, MORE)]);
    three.wait_for("front", "Active");
    two.wait_for("front", "Backup");
    expect(&dir3, &dir2);
    for address in [ADDRESS, ADDRESS6] {
        eventually(&format!("{address} answers"), || pings(&client, address).then_some(()));
    }
    // Advertisements come from the virtual MAC address too: the switch knows where it is.
    assert!(one.status().groups[0].instances.iter().all(|one| one.accepted > 0 && one.rejected.is_empty()));
    // Who ends takes his interfaces along.
    block(three.handle.stop());
    eventually("dir3 has none", || links(&dir3).is_empty().then_some(()));
    eventually("the next one answers", || pings(&client, ADDRESS).then_some(()));
}

/// The port at which the outside switch has learned a MAC address.
fn port_of(net: &Net, mac: &str) -> Option<String> {
    let shown =
        Command::new("bridge").args(["-n", net.switch(), "fdb", "show", "br", "br0"]).output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let line = shown.lines().find(|line| line.starts_with(mac))?;
    line.split_whitespace().nth(2).map(ToOwned::to_owned)
}

#[test]
fn unicast_goes_from_the_interface_below_and_clients_know_one_address() {
    if !can_run() {
        return;
    }
    let net = Net::new();
    let (dir1, dir2, client) = (machine(&net, 1), machine(&net, 2), machine(&net, 9));
    let more = |own: u8, peer: u8| {
        serde_json::json!({
            "instances": [
                {"name": "four", "interface": "eth0", "virtualRouterId": 30, "virtualMac": true,
                 "addresses": ["192.16.193.30/24"]},
                {"name": "six", "interface": "eth0", "virtualRouterId": 31, "virtualMac": true,
                 "addresses": ["fe80::30/64", "2001:db8::30/64"]},
            ],
            "ownAddresses": {"four": format!("192.16.193.{own}"), "six": format!("2001:db8::{own}")},
            "unicastPeers": {"four": [format!("192.16.193.{peer}")], "six": [format!("2001:db8::{peer}")]},
            "minTtl": 255,
            "gratuitousArp": {"repeatAfter": "0s", "refresh": "1s"},
        })
        .to_string()
    };
    let (one, two) = (dir1.start(), dir2.start());
    one.handle.configure(&[group(200, &more(1, 2))]);
    one.wait_for("front", "Active");
    two.handle.configure(&[group(100, &more(2, 1))]);
    two.wait_for("front", "Backup");
    expect_on(&dir1, &dir2, "bsc6.31.eth0");
    let macs = [(ADDRESS, "00:00:5e:00:01:1e"), (ADDRESS6, "00:00:5e:00:02:1f")];
    let answers = |port: &str| {
        for (address, mac) in macs {
            eventually(&format!("{address} answers"), || pings(&client, address).then_some(()));
            let shown = client.ip(&format!("neighbour show to {address}"));
            assert!(shown.contains(mac), "{shown}");
            // From here on it shall not ask again.
            client.ip(&format!("neighbour replace {address} lladdr {mac} nud permanent dev eth0"));
            eventually(&format!("the switch knows that {mac} is at {port}"), || {
                (port_of(&net, mac).as_deref() == Some(port)).then_some(())
            });
        }
    };
    answers("p1-0");
    // The peers know each other by their own MAC addresses, and hear each other.
    for peer in ["192.16.193.2", "2001:db8::2"] {
        let shown = dir1.ip(&format!("neighbour show to {peer} dev eth0"));
        assert!(shown.contains("02:00:00:00:00:02"), "{shown}");
    }
    eventually("advertisements are heard", || {
        two.status().groups[0].instances.iter().all(|one| one.accepted > 3).then_some(())
    });
    assert!(two.status().groups[0].instances.iter().all(|one| one.rejected.is_empty()));

    block(one.handle.switchover("front")).unwrap();
    two.wait_for("front", "Active");
    expect_on(&dir2, &dir1, "bsc6.31.eth0");
    answers("p2-0");
    // What a switch has forgotten it learns again although nobody asks.
    for (_, mac) in macs {
        let arguments = ["-n", net.switch(), "fdb", "del", mac, "dev", "p2-0", "master"];
        assert!(Command::new("bridge").args(arguments).status().unwrap().success());
        eventually("it is announced again", || port_of(&net, mac));
    }
    // Killed: the other one takes over, and the client goes on with the same MAC address.
    drop(two);
    one.wait_for("front", "Active");
    answers("p1-0");
}

#[test]
fn what_somebody_does_to_the_interfaces_is_put_right_and_a_crash_leaves_none() {
    if !can_run() {
        return;
    }
    let net = Net::new();
    let (dir1, dir2) = (machine(&net, 1), machine(&net, 2));
    let (mut one, two) = (dir1.start(), dir2.start());
    // Somebody's own, which is left alone.
    dir1.ip("link add link eth0 name mine type macvlan mode bridge");
    one.handle.configure(&[group(200, MORE)]);
    one.wait_for("front", "Active");
    two.handle.configure(&[group(100, MORE)]);
    two.wait_for("front", "Backup");
    let backed_up = || {
        eventually("all is as it was", || {
            let there = |link: &str, address: &str| {
                let shown = Command::new("ip")
                    .args(["-n", &dir1.namespace, "-o", "address", "show", "dev", link])
                    .output()
                    .unwrap();
                String::from_utf8_lossy(&shown.stdout).contains(&format!(" {address}/"))
            };
            let all = there(LINK, ADDRESS) && there(LINK6, ADDRESS6);
            (all && is_up(&dir1, LINK) && is_up(&dir1, LINK6)).then_some(())
        });
    };
    backed_up();
    for harm in
        [format!("link delete {LINK}"), format!("link set {LINK6} down"), format!("link set {LINK} down")]
    {
        dir1.ip(&harm);
        backed_up();
    }
    dir2.ip(&format!("link set {LINK} up"));
    eventually("a backup's is down again", || (!is_up(&dir2, LINK)).then_some(()));
    one.expect_history(&["Initialize -> Backup", "Backup -> Active"]);
    // The interface below is not there for a moment: with it went the one above.
    dir1.ip("link set eth0 down");
    one.wait_for("front", "Fault");
    two.wait_for("front", "Active");
    dir1.ip("link set eth0 up");
    one.wait_for("front", "Active");
    backed_up();

    drop(one);
    assert_eq!(links(&dir1).len(), 3, "a crash leaves them");
    // Who comes back too late is a backup: its interfaces are wanted, and off.
    two.wait_for("front", "Active");
    eventually("the addresses went by themselves, the interfaces stay up", || {
        (!dir1.has(ADDRESS) && !dir1.has(ADDRESS6) && is_up(&dir1, LINK) && is_up(&dir1, LINK6)).then_some(())
    });
    one = dir1.start();
    one.handle.configure(&[group(50, MORE)]);
    one.wait_for("front", "Backup");
    eventually("they are off", || (!is_up(&dir1, LINK) && !is_up(&dir1, LINK6)).then_some(()));
    drop(one);
    one = dir1.start();
    one.handle.configure(&[]);
    eventually("swept", || (links(&dir1) == ["mine"]).then_some(()));
    two.wait_for("front", "Active");
    // Switched off and on in a running group.
    let plain = MORE.replace("\"virtualMac\": true,", "");
    two.handle.configure(&[group(100, &plain)]);
    eventually("the address is on the interface itself", || {
        (dir2.ip("-o address show dev eth0").contains(ADDRESS) && links(&dir2).is_empty()).then_some(())
    });
    two.handle.configure(&[group(100, MORE)]);
    eventually("and back", || {
        let back =
            links(&dir2).len() == 2 && dir2.ip(&format!("-o address show dev {LINK}")).contains(ADDRESS);
        (back && !dir2.ip("-o address show dev eth0").contains(&format!(" {ADDRESS}/"))).then_some(())
    });
    assert_eq!(two.state("front"), "Active");
    thread::sleep(Duration::from_millis(300));
    assert_eq!(two.state("front"), "Active");
}

#[test]
fn an_agent_that_comes_back_at_once_goes_on_with_its_interfaces() {
    if !can_run() {
        return;
    }
    let net = Net::new();
    let dir1 = machine(&net, 1);
    // Slow enough for any machine to be back in time.
    let mut slow: serde_json::Value = serde_json::from_str(MORE).unwrap();
    slow["advertisementInterval"] = "2s".into();
    slow["alone"] = true.into();
    let one = dir1.start();
    one.handle.configure(&[group(200, &slow.to_string())]);
    one.wait_for("front", "Active");
    eventually("up", || (is_up(&dir1, LINK) && is_up(&dir1, LINK6) && dir1.has(ADDRESS6)).then_some(()));
    let index =
        |link: &str| dir1.ip(&format!("-o link show {link}")).split(':').next().map(ToOwned::to_owned);
    let before = (index(LINK), index(LINK6));
    drop(one);
    let one = dir1.start();
    one.handle.configure(&[group(200, &slow.to_string())]);
    one.wait_for("front", "Active");
    one.expect_history(&["Initialize -> Active"]);
    assert!(is_up(&dir1, LINK) && is_up(&dir1, LINK6) && dir1.has(ADDRESS6) && dir1.has(ADDRESS));
    assert_eq!((index(LINK), index(LINK6)), before, "the same ones");
}

const MANIFEST: &str = "
apiVersion: bascule.dev/v1alpha1
kind: VrrpGroup
metadata: {name: front}
spec:
  members: [{director: dir1, priority: 200}, {director: dir2, priority: 100}]
  advertisementInterval: 100ms
  instances:
    - {name: outside, interface: eth0, virtualRouterId: 30, virtualMac: true, addresses: [192.16.193.30/24]}
";

const OTHER: &str = "
apiVersion: bascule.dev/v1alpha1
kind: HealthCheck
metadata: {name: answers, namespace: tp}
spec: {tcp: {}}
";

#[test]
fn what_a_killed_agent_leaves_the_next_one_removes_when_it_is_not_wanted() {
    if !can_run() {
        return;
    }
    let net = Net::new();
    let dir1 = machine(&net, 1);
    let directory = tempfile::tempdir().unwrap();
    let manifest = directory.path().join("m/front.yaml");
    std::fs::create_dir(directory.path().join("m")).unwrap();
    std::fs::create_dir(directory.path().join("f")).unwrap();
    let on_it = || links(&dir1) == [LINK] && is_up(&dir1, LINK) && dir1.has(ADDRESS);
    // Without virtualMac; with another id; without the group.
    let plain = MANIFEST.replace("virtualMac: true, ", "");
    let other = MANIFEST.replace("virtualRouterId: 30", "virtualRouterId: 31");
    for (next, left) in [(Some(plain), vec![]), (Some(other), vec!["bsc.31.eth0"]), (None, vec![])] {
        std::fs::write(&manifest, MANIFEST).unwrap();
        let agent = Agent::start(&dir1, directory.path());
        eventually("active", || on_it().then_some(()));
        drop(agent);
        assert_eq!(links(&dir1), [LINK], "killed, it leaves it");
        match &next {
            Some(next) => std::fs::write(&manifest, next).unwrap(),
            // A directory without anything would be taken for a mistake.
            None => std::fs::write(&manifest, OTHER).unwrap(),
        }
        let agent = Agent::start(&dir1, directory.path());
        eventually("swept", || (links(&dir1) == left).then_some(()));
        drop(agent);
    }
}

/// Elected is not programmed.
#[test]
fn an_address_that_the_kernel_refuses_is_in_status() {
    if !can_run() {
        return;
    }
    let net = Net::new();
    let dir1 = machine(&net, 1);
    let one = dir1.start();
    one.handle.configure(&[group(200, MORE)]);
    one.wait_for("front", "Active");
    eventually("it has the address", || dir1.has(ADDRESS).then_some(()));
    assert_eq!(one.status().groups[0].lacking, [""; 0]);
    // Without IPv6 its addresses go, and cannot be added.
    let ipv6 = |disabled: &str| {
        in_namespace(&dir1.namespace, || {
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{LINK6}/disable_ipv6"), disabled).unwrap();
        });
    };
    ipv6("1");
    let what = format!("address {ADDRESS6} on {LINK6}: ");
    eventually("it says so", || {
        one.status().groups[0].lacking.iter().any(|lacking| lacking.starts_with(&what)).then_some(())
    });
    assert_eq!(one.state("front"), "Active");
    ipv6("0");
    eventually("it lacks nothing", || {
        (one.status().groups[0].lacking.is_empty() && dir1.has(ADDRESS6)).then_some(())
    });
}
