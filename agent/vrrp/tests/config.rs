//! What is refused, by name, and what is hardly meant.

mod common;

use std::time::Duration;

use bascule_vrrp::group::{ConfigError, Group, Tracker};
use bascule_vrrp::packet::{self, Family, Version, derived_link_local, virtual_mac};
use bascule_vrrp::{Authentication, GroupConfig, Input, InstanceConfig, Peers};
use common::{Bench, instance, ip, ms, one_network, two_networks, words};

fn with(change: impl FnOnce(&mut GroupConfig)) -> GroupConfig {
    let mut config = two_networks(100);
    change(&mut config);
    config
}

fn many(family: Family, count: u16) -> InstanceConfig {
    let address = |at: u16| match family {
        Family::Ipv4 => format!("10.0.{}.{}", at / 256, at % 256),
        Family::Ipv6 => format!("fe80::{at:x}"),
    };
    InstanceConfig {
        addresses: (0..count).map(|at| ip(&address(at))).collect(),
        ..instance("outside", 1, &[])
    }
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let table = [
        (with(|c| c.priority = 0), "priority 0: it is 1 to 253"),
        (with(|c| c.priority = 254), "254 is kept for preferred"),
        (with(|c| c.interval = ms(15)), "15ms cannot be sent: version 3 has steps of 10ms"),
        (with(|c| c.interval = ms(41_000)), "from 10ms to 40.95s (RFC 9568 section 5.2.7)"),
        (with(|c| c.version = Version::V2), "100ms cannot be sent: version 2 has whole seconds"),
        (with(|c| c.down_intervals = 0), "downIntervals 0: it is 1 to 100"),
        (with(|c| c.instances.clear()), "0 virtual routers"),
        (with(|c| c.instances[1].name = "outside".into()), "two instances have the name \"outside\""),
        (with(|c| c.instances[1].vrid = 0), "instance inside: a virtual router id is 1 to 255"),
        (
            with(|c| c.instances[1] = InstanceConfig { name: "inside".into(), ..c.instances[0].clone() }),
            "instances outside and inside have the same interface and virtual router id",
        ),
        (with(|c| c.instances[0].addresses.clear()), "instance outside: 0 IPv4 addresses"),
        (
            with(|c| c.instances[0] = many(Family::Ipv4, 256)),
            "instance outside: 256 IPv4 addresses, one advertisement holds 1 to 255",
        ),
        (
            with(|c| c.instances[0] = many(Family::Ipv6, 81)),
            "instance outside: 81 IPv6 addresses, one advertisement holds 1 to 80",
        ),
        (
            with(|c| {
                (c.version, c.interval) = (Version::V2, ms(1000));
                c.instances[0].addresses = vec![ip("2001:db8::30")];
            }),
            "instance outside: version 2 is for IPv4 only",
        ),
        (
            with(|c| c.instances[0].peers = Peers::Unicast { addresses: vec![ip("fe80::9")], min_ttl: 255 }),
            "instance outside: unicast needs the other members' IPv4 addresses",
        ),
        (
            with(|c| c.authentication = Authentication::Simple(packet::Authentication::simple(b"s3cret"))),
            "version 3 has no simple authentication: use hmac",
        ),
        (
            with(|c| c.trackers = vec![Tracker { name: "x".into(), weight: None }; 2]),
            "two things that are tracked have the name \"x\"",
        ),
        (
            with(|c| {
                c.trackers =
                    (0..129).map(|at| Tracker { name: at.to_string().into(), weight: None }).collect()
            }),
            "129 things are tracked: at most 128 can be",
        ),
    ];
    for (config, says) in table {
        let error: ConfigError = Group::new(config).expect_err(says);
        assert!(error.to_string().contains(says), "{error}");
    }
    for largest in [many(Family::Ipv4, 255), many(Family::Ipv6, 80)] {
        let mut bench = Bench::started(with(|c| c.instances = vec![largest]));
        bench.run_for(ms(1000));
        assert_eq!(bench.group.status().routers[0].counters.became_active, 1);
    }
}

#[test]
fn what_is_hardly_meant_is_warned_of() {
    let warnings = |config: GroupConfig| -> Vec<String> {
        Group::new(config.clone()).unwrap();
        config.warnings().iter().map(ToString::to_string).collect()
    };
    assert_eq!(warnings(two_networks(100)), Vec::<String>::new());
    // heartbeat: initdead at least twice deadtime.
    let config = with(|c| c.startup_grace = ms(700));
    assert!(warnings(config)[0].starts_with("startupGrace 700ms is below twice the 360.9375ms"));
    assert_eq!(warnings(with(|c| c.startup_grace = ms(722))), Vec::<String>::new());
    assert!(
        warnings(with(|c| c.down_intervals = 1))[0].contains("a single lost advertisement is a takeover")
    );
    assert!(warnings(with(|c| c.warn_after = Some(ms(400))))[0].starts_with("warnAfter 400ms is not below"));
}

#[test]
fn what_was_agreed_on_by_all_is_the_same_on_all() {
    assert_eq!(derived_link_local(30), "fe80::200:5eff:fe00:21e".parse::<std::net::Ipv6Addr>().unwrap());
    assert_eq!(virtual_mac(Family::Ipv4, 30), [0, 0, 0x5e, 0, 1, 30]);
    assert_eq!(virtual_mac(Family::Ipv6, 255), [0, 0, 0x5e, 0, 2, 255]);
}

#[test]
fn another_configuration_disturbs_only_what_it_changes() {
    let mut bench = Bench::active(two_networks(200));
    let configure = |bench: &mut Bench, config: GroupConfig| {
        let fresh = Group::new(config.clone()).unwrap();
        let up = |id: &bascule_vrrp::RouterId| bascule_vrrp::Link::Up { source: common::own(id) };
        let links = fresh.routers().map(|(id, _, _)| (id.clone(), up(id))).collect();
        words(&bench.feed(Input::Configure { config: Box::new(config), links }))
    };
    // A weight: nothing is said on the wire, the addresses are looked at.
    let said = configure(&mut bench, two_networks(150));
    assert_eq!(said, ["outside holds", "outside announces 1", "inside holds", "inside announces 1"]);
    assert_eq!(bench.group.priority(), 150);
    // Another instance joins as active, at once.
    let mut three = two_networks(150);
    three.instances.push(instance("third", 32, &["10.0.0.30"]));
    let said = configure(&mut bench, three);
    assert_eq!(said[..3], ["third says 150", "third holds", "third announces 5"]);
    // And goes, with its addresses and nothing else.
    let said = configure(&mut bench, two_networks(150));
    assert_eq!(said[0], "third drops");
    assert!(!said[1..].iter().any(|word| word.contains("drops") || word.contains("says")), "{said:?}");
    // What is refused changes nothing.
    let refused = GroupConfig { priority: 0, ..two_networks(150) };
    let said = words(&bench.feed(Input::Configure { config: Box::new(refused), links: Vec::new() }));
    assert_eq!((said, bench.group.priority()), (vec!["warning configuration".to_owned()], 150));
    // Another version is another protocol.
    let old = GroupConfig { version: Version::V2, interval: Duration::from_secs(1), ..two_networks(150) };
    let said = configure(&mut bench, old);
    assert_eq!(said[..2], ["outside says 0", "outside drops"]);
    assert!(said.ends_with(&["Initialize to Backup".to_owned()]), "{said:?}");
}

/// A shorter interval counts at once, a longer one from the next advertisement on.
#[test]
fn another_interval_comes_into_force() {
    let mut bench = Bench::active(GroupConfig { interval: ms(1000), ..one_network(100) });
    bench.run_for(ms(400));
    bench.feed(Input::Configure { config: Box::new(one_network(100)), links: Vec::new() });
    let sent = bench
        .run_for(ms(1000))
        .iter()
        .filter(|(_, action)| matches!(action, bascule_vrrp::Action::Send { .. }))
        .count();
    assert!((9..=10).contains(&sent), "{sent}");
}
