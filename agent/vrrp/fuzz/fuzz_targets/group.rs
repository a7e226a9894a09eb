//! Bytes from the network never make a group panic, and never make one that demands signatures change.
#![no_main]

use std::net::IpAddr;
use std::time::Duration;

use bascule_vrrp::authentication::{AntiReplay, Hmac, Key, Keys, Mode};
use bascule_vrrp::packet::{Datagram, Family};
use bascule_vrrp::{
    Authentication, BootTime, Group, GroupConfig, GroupState, Input, InstanceConfig, Link, Now, Peers, UnixTime,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(key) = Key::new(1, &[7; 32]) else { return };
    let Ok(keys) = Keys::new(vec![key], 1) else { return };
    let anti_replay = AntiReplay::Time { window: Duration::from_secs(300) };
    for authentication in
        [Authentication::None, Authentication::Hmac(Hmac { keys, mode: Mode::Enforce, anti_replay })]
    {
        let demands = authentication != Authentication::None;
        let after = play(authentication, bytes);
        assert!(!demands || after == GroupState::Active);
    }
});

/// An active group, to which every piece of `bytes` is a datagram.
fn play(authentication: Authentication, bytes: &[u8]) -> GroupState {
    let instance = InstanceConfig {
        name: "outside".into(),
        interface: "eth0".into(),
        vrid: 30,
        addresses: vec![IpAddr::from([192, 16, 193, 30])],
        peers: Peers::Multicast,
    };
    let config = GroupConfig { authentication, ..GroupConfig::new("front", 100, vec![instance]) };
    let Ok(mut group) = Group::new(config) else { return GroupState::Initialize };
    let at = |seconds| Now {
        boot: BootTime::from_duration(Duration::from_secs(seconds)),
        unix: UnixTime(Duration::from_secs(1_700_000_000 + seconds)),
    };
    let Some(router) = group.routers().map(|(id, _, _)| id.clone()).next() else { return group.state() };
    let source = IpAddr::from([192, 16, 193, 2]);
    group.handle(at(1), Input::Link { router: router.clone(), link: Link::Up { source } });
    group.handle(at(1), Input::Start { resume: true });
    for payload in bytes.split(|byte| *byte == 0xa5) {
        let source = IpAddr::from([192, 16, 193, 9]);
        let datagram = Datagram { source, destination: Family::Ipv4.multicast(), ttl: 255, payload };
        group.handle(at(2), Input::Datagram { router: &router, datagram });
    }
    group.state()
}
