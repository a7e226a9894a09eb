//! Members whose configuration differs are named.

mod common;

use std::net::IpAddr;

use bascule_vrrp::packet::{self, Advertisement, Datagram, Version};
use bascule_vrrp::timers::Interval;
use bascule_vrrp::{Authentication, GroupConfig, Input, Peers};
use common::{Bench, bytes, ip, ms, one_network};

const PEER: &str = "192.16.193.9";

/// As a member says it that is configured as [`one_network`].
fn alike() -> Advertisement {
    Advertisement {
        version: Version::V3,
        vrid: 30,
        priority: 200,
        interval: Interval::new(Version::V3, ms(100)).unwrap(),
        addresses: vec![ip("192.16.193.30")],
        authentication: packet::Authentication::None,
    }
}

fn feed(bench: &mut Bench, source: IpAddr, advertisement: &Advertisement) -> Vec<bascule_vrrp::Action> {
    let payload = bytes(advertisement, source);
    let router = bench.id("outside");
    let datagram = Datagram { source, destination: ip("224.0.0.18"), ttl: 255, payload: &payload };
    bench.feed(Input::Datagram { router: &router, datagram })
}

fn found(bench: &Bench) -> Vec<(&'static str, String, String)> {
    let differences = bench.group.status().routers.remove(0).differences;
    differences.into_iter().map(|one| (one.what, one.peer.to_string(), one.text)).collect()
}

#[test]
fn each_difference_is_named_until_the_peer_says_otherwise() {
    let v2 = |priority| GroupConfig { version: Version::V2, interval: ms(1000), ..one_network(priority) };
    let in_v2 = || Advertisement {
        version: Version::V2,
        interval: Interval::new(Version::V2, ms(1000)).unwrap(),
        ..alike()
    };
    let highest = |priority| GroupConfig { highest: true, ..one_network(priority) };
    let unicast = |priority| {
        let mut config = one_network(priority);
        config.instances[0].peers = Peers::Unicast { addresses: vec![ip("192.16.193.8")], min_ttl: 255 };
        config
    };
    let password = |priority| GroupConfig {
        authentication: Authentication::Simple(packet::Authentication::simple(b"secret")),
        ..v2(priority)
    };
    let slower = Interval::new(Version::V3, ms(1000)).unwrap();
    let rows: Vec<(&str, &str, GroupConfig, Advertisement)> = vec![
        (
            "addresses",
            "1 of ours are missing, 1 of its",
            one_network(100),
            Advertisement { addresses: vec![ip("192.16.193.31")], ..alike() },
        ),
        ("interval", "is 1s, ours 100ms", one_network(100), Advertisement { interval: slower, ..alike() }),
        ("priority", "is 100, as ours", one_network(100), Advertisement { priority: 100, ..alike() }),
        ("priority", "no member has more than our 150", highest(150), alike()),
        ("version", "version 2, the group speaks version 3", one_network(100), in_v2()),
        (
            "interval",
            "version 2 wants the same",
            v2(100),
            Advertisement { interval: Interval::new(Version::V2, ms(3000)).unwrap(), ..in_v2() },
        ),
        ("authentication", "password", password(100), in_v2()),
        ("members", "is not a member", unicast(100), alike()),
    ];
    for (what, says, config, advertisement) in rows {
        let mut bench = Bench::started(config);
        let actions = feed(&mut bench, ip(PEER), &advertisement);
        let found = found(&bench);
        let [(kind, peer, text)] = &found[..] else { panic!("{what}: {found:?}") };
        assert_eq!((*kind, peer.as_str()), (what, PEER));
        assert!(text.contains(says), "{text}");
        let warned = actions.iter().any(
            |action| matches!(action, bascule_vrrp::Action::Warning(warning) if warning.text.contains(PEER)),
        );
        assert!(warned, "{what}: {actions:?}");
    }
}

#[test]
fn who_agrees_again_is_forgotten_and_others_are_not() {
    let mut bench = Bench::started(one_network(100));
    let odd = Advertisement { addresses: vec![ip("192.16.193.31")], ..alike() };
    feed(&mut bench, ip(PEER), &odd);
    // Somebody else agrees: that says nothing of this one.
    feed(&mut bench, ip("192.16.193.8"), &alike());
    assert_eq!(found(&bench).len(), 1);
    feed(&mut bench, ip(PEER), &alike());
    assert_eq!(found(&bench), []);
    // Our own configuration changes: what was heard was of the former one.
    feed(&mut bench, ip(PEER), &odd);
    let mut config = one_network(100);
    config.instances[0].addresses = vec![ip("192.16.193.31")];
    bench.feed(Input::Configure { config: Box::new(config), links: Vec::new() });
    assert_eq!(found(&bench), []);
    feed(&mut bench, ip(PEER), &odd);
    assert_eq!(found(&bench), []);
    // A flood of sources is one difference.
    for last in 10..250 {
        feed(&mut bench, ip(&format!("192.16.193.{last}")), &alike());
    }
    assert_eq!(found(&bench).len(), 1);
}

#[test]
fn weights_and_priority_0_are_no_difference() {
    let mut config = GroupConfig { highest: true, ..one_network(100) };
    let tracker = bascule_vrrp::group::Tracker { name: "interface eth1".into(), weight: Some(-50) };
    config.trackers = vec![tracker];
    let mut bench = Bench::started(config);
    for priority in [100, 150, 0] {
        feed(&mut bench, ip(PEER), &Advertisement { priority, ..alike() });
        assert_eq!(found(&bench), [], "{priority}");
    }
}
