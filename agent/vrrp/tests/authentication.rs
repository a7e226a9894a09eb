//! The trailer of keepalived 2.4: what is signed, what is taken, what is not.

mod common;

use std::time::Duration;

use bascule_vrrp::authentication::{AntiReplay, Hmac, Key, KeyError, Keys, Mode, default_window};
use bascule_vrrp::timers::Interval;
use bascule_vrrp::{Action, Authentication, GroupConfig, GroupState, Input};
use common::{Bench, ip, ms, one_network, words};

fn key(id: u8) -> Key {
    Key::new(id, &[id; 32]).unwrap()
}

fn config(keys: &[u8], active: u8, mode: Mode) -> GroupConfig {
    let keys = Keys::new(keys.iter().map(|id| key(*id)).collect(), active).unwrap();
    let anti_replay = AntiReplay::Time { window: Duration::from_secs(5) };
    let authentication = Authentication::Hmac(Hmac { keys, mode, anti_replay });
    GroupConfig { authentication, ..one_network(100) }
}

/// What a group of this configuration, with priority 200 and its own address, says at the same time as `bench`.
fn said(config: &GroupConfig, now: Duration) -> Vec<u8> {
    let mut sender = Bench::active(GroupConfig { priority: 200, alone: true, ..config.clone() });
    sender.now = now;
    let actions = sender.feed(Input::Timer);
    actions
        .into_iter()
        .find_map(|action| match action {
            Action::Send { bytes, .. } => Some(bytes),
            _ => None,
        })
        .unwrap()
}

/// Whether `receiver` gives way to `bytes`, and what it warns of.
fn taken(receiver: &GroupConfig, bytes: &[u8], now: Duration) -> (bool, Vec<String>) {
    let mut bench = Bench::active(GroupConfig { alone: true, ..receiver.clone() });
    bench.now = now;
    bench.feed(Input::Timer);
    // The sender's own address is 192.16.193.2, the receiver gets another one.
    let router = bench.id("outside");
    let link = bascule_vrrp::Link::Up { source: ip("192.16.193.1") };
    bench.feed(Input::Link { router: router.clone(), link });
    let actions = bench.hear_bytes(&router, ip("192.16.193.2"), bytes);
    (bench.group.state() == GroupState::Backup, words(&actions))
}

const NOW: Duration = Duration::from_secs(4000);

/// The HMAC was calculated by another program, Python's `hmac`:
/// `hmac.new(bytes([7]) * 32, bytes.fromhex("04031e00" + "c010c102" + "00" * 12 + "311ec801000a0000c010c11e" + "01070000" +
/// "655400a0" + "0000" + "0000" + "00" * 16), "sha256").hexdigest()[:32]`
#[test]
fn the_trailer_is_as_the_draft_says() {
    let bytes = said(&config(&[7], 7, Mode::Enforce), NOW);
    assert_eq!(bytes.len(), 12 + 28);
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    // The checksum covers the message alone, without the trailer.
    assert_eq!(hex[..24], *"311ec801000a2404c010c11e");
    assert_eq!(hex[24..48], *"01070000655400a000000000");
    assert_eq!(hex[48..], *"fb47e715c10e5153501bf3b2817b29ef");
}

#[test]
fn what_is_right_is_taken_and_nothing_else() {
    let enforce = config(&[7], 7, Mode::Enforce);
    let bytes = said(&enforce, NOW);
    assert!(taken(&enforce, &bytes, NOW).0);
    let refused = |receiver: &GroupConfig, bytes: &[u8], now| {
        let (taken, words) = taken(receiver, bytes, now);
        assert!(!taken);
        words
    };
    // Any bit of it: of the message the checksum finds it first.
    for bit in 96..bytes.len() * 8 {
        let mut forged = bytes.clone();
        forged[bit / 8] ^= 1 << (bit % 8);
        let words = refused(&enforce, &forged, NOW);
        assert!(words == ["warning signature"] || words == ["warning stale"], "bit {bit}: {words:?}");
    }
    // A message of somebody without a key, with the right checksum.
    let unsigned = said(&one_network(100), NOW);
    assert_eq!(refused(&enforce, &unsigned, NOW), ["warning unsigned"]);
    let mut spliced = unsigned;
    spliced[2] = 254;
    spliced[6..8].copy_from_slice(&[0, 0]);
    let sum = bascule_vrrp::packet::internet_checksum(&[&spliced[..12]]);
    spliced[6..8].copy_from_slice(&sum.to_be_bytes());
    spliced.extend(&bytes[12..]);
    assert_eq!(refused(&enforce, &spliced, NOW), ["warning signature"]);
    assert_eq!(refused(&config(&[8], 8, Mode::Enforce), &bytes, NOW), ["warning signature"]);
    // The clocks.
    assert!(taken(&enforce, &bytes, NOW + ms(5000)).0);
    assert_eq!(refused(&enforce, &bytes, NOW + ms(6000)), ["warning stale"]);
    assert!(taken(&enforce, &bytes, NOW.saturating_sub(ms(5000))).0);
    assert_eq!(refused(&enforce, &bytes, NOW.saturating_sub(ms(6000))), ["warning stale"]);
}

#[test]
fn what_was_recorded_is_not_taken_again() {
    let enforce = config(&[7], 7, Mode::Enforce);
    let (first, second) = (said(&enforce, NOW), said(&enforce, NOW + ms(100)));
    let mut bench = Bench::active(enforce);
    bench.now = NOW;
    let router = bench.id("outside");
    let source = bascule_vrrp::Link::Up { source: ip("192.16.193.1") };
    bench.feed(Input::Link { router: router.clone(), link: source });
    let mut hear = |bytes: &[u8]| words(&bench.hear_bytes(&router, ip("192.16.193.2"), bytes));
    assert_eq!(hear(&second), ["outside says 100"], "it was active itself");
    assert_eq!(hear(&second), ["warning replayed"]);
    assert_eq!(hear(&first), Vec::<String>::new(), "the warning is not repeated within ten seconds");
    let counters = bench.group.status().routers[0].counters.clone();
    assert_eq!((counters.accepted, counters.rejected["replayed"]), (1, 2));
    // Somebody else's recording does not fit: the source is bound. (Its checksum is made right.)
    let mut second = second;
    second[6..8].fill(0);
    let sum = bascule_vrrp::packet::internet_checksum(&[&second[..12]]);
    second[6..8].copy_from_slice(&sum.to_be_bytes());
    let stolen = bench.hear_bytes(&router, ip("192.16.193.3"), &second);
    assert_eq!(words(&stolen), ["warning signature"]);
}

/// NTP, or a battery: the active member's clock is an hour ahead for a moment.
#[test]
fn a_clock_that_was_an_hour_ahead_costs_nothing_once_it_is_right_again() {
    let hour = Duration::from_secs(3600);
    let enforce = config(&[7], 7, Mode::Enforce);
    let mut sender = Bench::active(GroupConfig { priority: 200, alone: true, ..enforce.clone() });
    let mut receiver = Bench::started(GroupConfig { priority: 100, ..enforce });
    let router = receiver.id("outside");
    let own = bascule_vrrp::Link::Up { source: ip("192.16.193.1") };
    receiver.feed(Input::Link { router: router.clone(), link: own });
    (sender.now, receiver.now) = (NOW, NOW);
    let say = |sender: &mut Bench, receiver: &mut Bench, step: Duration, both: bool| {
        sender.now += ms(100);
        receiver.now += ms(100);
        sender.step = step;
        receiver.step = if both { step } else { Duration::ZERO };
        let actions = sender.feed(Input::Timer);
        let bytes = actions.into_iter().find_map(|action| match action {
            Action::Send { bytes, .. } => Some(bytes),
            _ => None,
        });
        receiver.hear_bytes(&router, ip("192.16.193.2"), &bytes.unwrap());
        let status = receiver.group.status().routers.remove(0);
        (status.counters.accepted, status.stale)
    };
    assert_eq!(say(&mut sender, &mut receiver, Duration::ZERO, false), (1, vec![]));
    for count in 1..=3 {
        let (accepted, stale) = say(&mut sender, &mut receiver, hour, false);
        let shown: Vec<_> = stale.iter().map(|peer| (peer.source, peer.seconds, peer.refused)).collect();
        // One or two may be recordings; all of them are the clock.
        let all = vec![(ip("192.16.193.2"), -3600, 3)];
        assert_eq!((accepted, shown), (1, if count < 3 { vec![] } else { all }));
    }
    // Right again: what it says is taken from the first on, and status has nothing to say.
    assert_eq!(say(&mut sender, &mut receiver, Duration::ZERO, false), (2, vec![]));
    // Both clocks were wrong, as by one NTP server.
    assert_eq!(say(&mut sender, &mut receiver, hour, true), (3, vec![]));
    assert_eq!(say(&mut sender, &mut receiver, Duration::ZERO, true), (4, vec![]));
}

/// Each step of the roll-out understands the one before and the one after.
#[test]
fn a_roll_out_in_three_steps_is_hitless() {
    let none = one_network(100);
    let receive = config(&[7], 7, Mode::ReceiveOnly);
    let permissive = config(&[7], 7, Mode::Permissive);
    let enforce = config(&[7], 7, Mode::Enforce);
    let steps = [none, receive, permissive, enforce];
    for pair in steps.windows(2) {
        for (sender, receiver) in [(&pair[0], &pair[1]), (&pair[1], &pair[0])] {
            let (taken, words) = taken(receiver, &said(sender, NOW), NOW);
            assert!(taken, "{sender:?} to {receiver:?}: {words:?}");
        }
    }
    // What is signed must be right in every mode.
    let mut forged = said(&steps[3], NOW);
    *forged.last_mut().unwrap() ^= 1;
    for receiver in &steps[1..] {
        assert!(!taken(receiver, &forged, NOW).0, "{receiver:?}");
    }
    assert_eq!(said(&steps[1], NOW).len(), 12, "ReceiveOnly does not sign");
}

#[test]
fn keys_are_rotated_without_a_gap() {
    let steps = [
        config(&[1], 1, Mode::Enforce),
        config(&[1, 2], 1, Mode::Enforce),
        config(&[1, 2], 2, Mode::Enforce),
        config(&[2], 2, Mode::Enforce),
    ];
    for pair in steps.windows(2) {
        assert!(taken(&pair[1], &said(&pair[0], NOW), NOW).0);
        assert!(taken(&pair[0], &said(&pair[1], NOW), NOW).0);
    }
    assert_eq!(taken(&steps[3], &said(&steps[0], NOW), NOW).1, ["warning signature"]);
}

/// Over IPv6 the kernel calculates and verifies the checksum over the whole payload, trailer included.
#[test]
fn over_ipv6_the_checksum_covers_the_trailer() {
    let mut v6 = config(&[7], 7, Mode::Enforce);
    v6.instances[0].addresses = vec![ip("fe80::30")];
    let bytes = said(&v6, NOW);
    let mut pseudo = Vec::new();
    pseudo.extend(std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2).octets());
    pseudo.extend(bascule_vrrp::packet::MULTICAST_V6.octets());
    pseudo.extend([0, 0, 0, u8::try_from(bytes.len()).unwrap(), 0, 0, 0, 112]);
    assert_eq!(bytes.len(), 8 + 16 + 28);
    assert_eq!(bascule_vrrp::packet::internet_checksum(&[&pseudo, &bytes]), 0);
    let mut bench = Bench::started(v6);
    let router = bench.id("outside");
    let link = bascule_vrrp::Link::Up { source: ip("fe80::1") };
    bench.feed(Input::Link { router: router.clone(), link });
    bench.now = NOW;
    bench.hear_bytes(&router, ip("fe80::2"), &bytes);
    assert_eq!(bench.group.status().routers[0].counters.accepted, 1);
}

#[test]
fn keys_that_are_too_short_or_twice_are_refused() {
    assert_eq!(Key::new(1, &[0; 31]).unwrap_err(), KeyError::Length { id: 1, length: 31 });
    assert_eq!(Key::new(1, &[0; 65]).unwrap_err(), KeyError::Length { id: 1, length: 65 });
    assert_eq!(Key::new(0, &[0; 32]).unwrap_err(), KeyError::Id);
    assert_eq!(Keys::new(vec![key(1), key(1)], 1).unwrap_err(), KeyError::Twice { id: 1 });
    assert_eq!(Keys::new(vec![key(1)], 2).unwrap_err(), KeyError::Active { id: 2 });
    assert_eq!(Keys::new((1..10).map(key).collect(), 2).unwrap_err(), KeyError::TooMany { count: 9 });
    assert!(!format!("{:?}", config(&[7], 7, Mode::Enforce)).contains("bytes"), "keys are not shown");
}

#[test]
fn the_window_is_three_intervals_within_bounds() {
    use bascule_vrrp::packet::Version;
    for (version, interval, window) in
        [(Version::V3, 100, 5000), (Version::V3, 4000, 12_000), (Version::V2, 255_000, 300_000)]
    {
        assert_eq!(default_window(Interval::new(version, ms(interval)).unwrap()), ms(window));
    }
}
