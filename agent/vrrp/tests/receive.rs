//! What is received changes nothing unless it is right, and a flood of the rest costs nothing.

mod common;

use std::net::IpAddr;

use bascule_vrrp::group::Counters;
use bascule_vrrp::packet::{self, Advertisement, ChecksumForm, Datagram, Version};
use bascule_vrrp::timers::Interval;
use bascule_vrrp::{
    Action, AddressCheck, Authentication, Checksum, GroupConfig, GroupState, Input, Peers, RouterId,
};
use common::{Bench, bytes, ip, ms, one_network, words};

fn advertisement() -> Advertisement {
    Advertisement {
        version: Version::V3,
        vrid: 30,
        priority: 250,
        interval: Interval::new(Version::V3, ms(100)).unwrap(),
        addresses: vec![ip("192.16.193.30")],
        authentication: packet::Authentication::None,
    }
}

const PEER: &str = "192.16.193.9";

/// A datagram as the kernel hands it over.
fn multicast(source: IpAddr, payload: &[u8]) -> Datagram<'_> {
    Datagram { source, destination: ip("224.0.0.18"), ttl: 255, payload }
}

fn counters(bench: &Bench) -> Counters {
    bench.group.status().routers[0].counters.clone()
}

/// Feeds `datagram` to an active group that must stay active. Returns under which name it was counted, and what was said.
fn rejected(config: GroupConfig, datagram: Datagram<'_>) -> (&'static str, String) {
    let mut bench = Bench::active(config);
    let router = bench.id("outside");
    let actions = bench.feed(Input::Datagram { router: &router, datagram });
    assert_eq!(bench.group.state(), GroupState::Active, "{actions:?}");
    let counters = counters(&bench);
    assert_eq!((counters.received, counters.accepted), (1, 0));
    let [Action::Warning(warning)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(counters.rejected.iter().collect::<Vec<_>>(), [(&warning.kind, &1)]);
    (warning.kind, warning.text.clone())
}

#[test]
fn what_is_wrong_is_dropped_by_name() {
    let good = bytes(&advertisement(), ip(PEER));
    let datagram = multicast(ip(PEER), &good);
    // The same is taken if nothing is wrong with it.
    let mut bench = Bench::active(one_network(100));
    let router = bench.id("outside");
    bench.feed(Input::Datagram { router: &router, datagram });
    assert_eq!(bench.group.state(), GroupState::Backup);

    let check = |datagram: Datagram<'_>, kind: &str, says: &str| {
        let (found, text) = rejected(one_network(100), datagram);
        assert_eq!(found, kind, "{text}");
        assert!(text.contains(says), "{text}");
    };
    check(Datagram { ttl: 254, ..datagram }, "ttl", "254 is below 255");
    check(
        Datagram { source: ip("192.16.193.2"), ..datagram },
        "own-address",
        "somebody else has that address",
    );
    check(Datagram { source: ip("224.0.0.5"), ..datagram }, "source", "RFC 9568 section 7.2");
    check(Datagram { source: ip("0.0.0.0"), ..datagram }, "source", "RFC 9568 section 7.2");
    check(Datagram { destination: ip("192.16.193.2"), ..datagram }, "destination", "multicast group");
    check(Datagram { payload: &good[..7], ..datagram }, "malformed", "RFC 9568 section 7.1");
    check(Datagram { payload: &[], ..datagram }, "malformed", "0 bytes");
    let mut damaged = good.clone();
    damaged[2] ^= 1;
    check(multicast(ip(PEER), &damaged), "checksum", "RFC 9568 section 5.2.8");
    let other = Advertisement { vrid: 31, ..advertisement() };
    check(multicast(ip(PEER), &bytes(&other, ip(PEER))), "vrid", "for virtual router 31, not 30");
    let old = Advertisement { version: Version::V2, interval: Interval::SECOND, ..advertisement() };
    check(multicast(ip(PEER), &bytes(&old, ip(PEER))), "version", "of version 2, the group speaks version 3");
}

#[test]
fn version_2_wants_the_same_interval_and_password() {
    let config = |authentication| GroupConfig {
        version: Version::V2,
        interval: ms(1000),
        authentication,
        ..one_network(100)
    };
    let old = Advertisement { version: Version::V2, interval: Interval::SECOND, ..advertisement() };
    let slow = Advertisement { interval: Interval::new(Version::V2, ms(2000)).unwrap(), ..old.clone() };
    let check = |config: GroupConfig, advertisement: &Advertisement| {
        rejected(config, multicast(ip(PEER), &bytes(advertisement, ip(PEER)))).0
    };
    assert_eq!(check(config(Authentication::None), &slow), "interval");
    let secret = packet::Authentication::simple(b"s3cret");
    let simple = || config(Authentication::Simple(secret));
    assert_eq!(check(simple(), &old), "password");
    let guessed = packet::Authentication::simple(b"secret");
    assert_eq!(check(simple(), &Advertisement { authentication: guessed, ..old.clone() }), "password");
    let right = Advertisement { authentication: secret, ..old };
    assert_eq!(check(config(Authentication::None), &right), "password");
    let mut bench = Bench::active(simple());
    let router = bench.id("outside");
    bench.hear_bytes(&router, ip(PEER), &bytes(&right, ip(PEER)));
    assert_eq!(bench.group.state(), GroupState::Backup);
}

#[test]
fn unicast_takes_members_only() {
    let mut config = one_network(100);
    config.instances[0].peers =
        Peers::Unicast { addresses: vec![ip(PEER), ip("192.16.193.8")], min_ttl: 250 };
    let own = ip("192.16.193.2");
    let payload = |source| {
        let path = packet::Path { source, destination: own, checksum: ChecksumForm::PseudoHeader };
        packet::encode(&advertisement(), &path).unwrap()
    };
    let stranger = ip("192.16.193.77");
    let bytes = payload(stranger);
    let from_stranger = Datagram { source: stranger, destination: own, ttl: 255, payload: &bytes };
    assert_eq!(rejected(config.clone(), from_stranger).0, "not-a-member");
    let bytes = payload(ip(PEER));
    let datagram = Datagram { source: ip(PEER), destination: own, ttl: 250, payload: &bytes };
    assert_eq!(rejected(config.clone(), Datagram { ttl: 249, ..datagram }).0, "ttl");
    let by_multicast = Datagram { destination: ip("224.0.0.18"), ..datagram };
    assert_eq!(rejected(config.clone(), by_multicast).0, "destination");
    let mut bench = Bench::active(config);
    let router: RouterId = bench.id("outside");
    // Each peer is told.
    let sent: Vec<IpAddr> = bench
        .run_for(ms(100))
        .into_iter()
        .filter_map(|(_, action)| match action {
            Action::Send { destination, .. } => Some(destination),
            _ => None,
        })
        .collect();
    assert_eq!(sent, [ip(PEER), ip("192.16.193.8")]);
    bench.feed(Input::Datagram { router: &router, datagram });
    assert_eq!(bench.group.state(), GroupState::Backup);
}

#[test]
fn over_ipv6_only_link_local_routers_of_the_link_speak() {
    let mut config = one_network(100);
    config.instances[0].addresses = vec![ip("fe80::30"), ip("2001:db8::30")];
    let advertisement = Advertisement { addresses: config.instances[0].addresses.clone(), ..advertisement() };
    let datagram = |source, payload| Datagram { source, destination: ip("ff02::12"), ttl: 255, payload };
    let global = bytes(&advertisement, ip("2001:db8::9"));
    assert_eq!(rejected(config.clone(), datagram(ip("2001:db8::9"), &global)).0, "source");
    let mut bench = Bench::active(config);
    let router = bench.id("outside");
    let good = bytes(&advertisement, ip("fe80::9"));
    bench.feed(Input::Datagram { router: &router, datagram: datagram(ip("fe80::9"), &good) });
    assert_eq!(bench.group.state(), GroupState::Backup);
}

/// The two forms of version 3's checksum over IPv4.
#[test]
fn both_checksums_are_taken_or_one_and_the_other_is_named() {
    for (send, other) in [
        (ChecksumForm::PseudoHeader, ChecksumForm::MessageOnly),
        (ChecksumForm::MessageOnly, ChecksumForm::PseudoHeader),
    ] {
        let path = packet::Path { source: ip(PEER), destination: ip("224.0.0.18"), checksum: other };
        let payload = packet::encode(&advertisement(), &path).unwrap();
        let checksum = |accept_other| Checksum { send, accept_other };
        let strict = GroupConfig { checksum: checksum(false), ..one_network(100) };
        let (kind, text) = rejected(strict, multicast(ip(PEER), &payload));
        assert_eq!(kind, "checksum-form");
        let names = match other {
            ChecksumForm::PseudoHeader => "with pseudo-header (RFC 5798)",
            ChecksumForm::MessageOnly => "without pseudo-header (RFC 9568)",
        };
        assert!(text.contains(names), "{text}");
        let mut bench = Bench::active(GroupConfig { checksum: checksum(true), ..one_network(100) });
        let router = bench.id("outside");
        bench.hear_bytes(&router, ip(PEER), &payload);
        assert_eq!(bench.group.state(), GroupState::Backup);
    }
}

#[test]
fn other_addresses_are_reported_or_dropped() {
    let other =
        Advertisement { addresses: vec![ip("192.16.193.31"), ip("192.16.193.32")], ..advertisement() };
    let payload = bytes(&other, ip(PEER));
    let mut bench = Bench::active(one_network(100));
    let router = bench.id("outside");
    let actions = bench.hear_bytes(&router, ip(PEER), &payload);
    assert_eq!(words(&actions), ["warning addresses", "outside drops", "Active to Backup"]);
    let Action::Warning(warning) = &actions[0] else { panic!() };
    assert!(warning.text.contains("1 of ours are missing, 2 of its are unknown"), "{}", warning.text);
    let strict = GroupConfig { address_check: AddressCheck::Drop, ..one_network(100) };
    assert_eq!(rejected(strict.clone(), multicast(ip(PEER), &payload)).0, "addresses");
    // But for the owner's (RFC 3768 section 7.1).
    let owner = Advertisement { priority: 255, ..other };
    let mut bench = Bench::active(strict);
    bench.hear_bytes(&router, ip(PEER), &bytes(&owner, ip(PEER)));
    assert_eq!(bench.group.state(), GroupState::Backup);
}

#[test]
fn members_of_one_priority_are_named() {
    let mut bench = Bench::started(one_network(100));
    assert_eq!(words(&bench.hear("outside", 100)), ["warning same-priority"]);
    assert_eq!(words(&bench.hear("outside", 100)), Vec::<String>::new());
}

/// Ten thousand a second of every kind: no transition, one warning of a kind in ten seconds, no amplification.
#[test]
fn a_flood_costs_no_takeover_and_no_log() {
    let mut bench = Bench::active(one_network(100));
    let router = bench.id("outside");
    let good = bytes(&Advertisement { priority: 50, ..advertisement() }, ip(PEER));
    let release = bytes(&Advertisement { priority: 0, ..advertisement() }, ip(PEER));
    let mut damaged = good.clone();
    damaged[7] ^= 0x55;
    let mut seen: Vec<String> = Vec::new();
    let mut sent = 0;
    for round in 0..30_000_u32 {
        let datagram = match round % 4 {
            0 => multicast(ip(PEER), &good),
            1 => multicast(ip(PEER), &release),
            2 => multicast(ip(PEER), &damaged),
            _ => Datagram { ttl: 3, ..multicast(ip(PEER), &good) },
        };
        let actions = bench.feed(Input::Datagram { router: &router, datagram });
        let timers = bench.run_for(std::time::Duration::from_micros(100));
        for action in actions.iter().chain(timers.iter().map(|(_, action)| action)) {
            match action {
                Action::Send { .. } => sent += 1,
                Action::RenewAddresses { .. } | Action::Announce { .. } => {}
                other => seen.extend(words(std::slice::from_ref(other))),
            }
        }
    }
    assert_eq!(bench.group.state(), GroupState::Active);
    seen.sort();
    assert_eq!(seen, ["warning also-active", "warning checksum", "warning ttl"]);
    // 3 s: 30 of its own, and at most four answers an interval.
    assert!((30..=160).contains(&sent), "{sent}");
    assert_eq!(counters(&bench).rejected["ttl"], 7500);
}
