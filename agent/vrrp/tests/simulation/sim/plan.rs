//! What a seed decides before anything runs: the group, its members, the network, how bad it gets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use bascule_vrrp::authentication::{self, AntiReplay, Hmac, Key, Keys, Mode};
use bascule_vrrp::group::{AgentLoss, Preempt, Tracker};
use bascule_vrrp::packet::{Family, Version};
use bascule_vrrp::{Authentication, GroupConfig, InstanceConfig, Peers};

use super::rng::Rng;

pub(crate) const MILLI: u64 = 1_000_000;
pub(crate) const SECOND: u64 = 1_000 * MILLI;

/// How bad the network and the machines are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    /// Of a thousand datagrams, so many are lost.
    pub(crate) loss: u64,
    /// And so many come twice.
    pub(crate) repeat: u64,
    /// A datagram takes so long, in nanoseconds; as it differs, they overtake each other.
    pub(crate) delay: (u64, u64),
    /// A timer is late by at most this.
    pub(crate) lateness: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) members: Vec<GroupConfig>,
    /// Own address of each member in each instance, by family.
    pub(crate) addresses: Vec<Vec<(Ipv4Addr, Ipv6Addr)>>,
    /// Each member's clock runs so many millionths too fast.
    pub(crate) drift_ppm: Vec<i64>,
    /// Each member's CLOCK_REALTIME is so many milliseconds ahead.
    pub(crate) skew_ms: Vec<i64>,
    pub(crate) storm: Weather,
    pub(crate) calm: Weather,
    /// How long the faults go on.
    pub(crate) chaos: u64,
    /// Faults come this far apart on average.
    pub(crate) fault_every: u64,
}

impl Plan {
    pub(crate) fn draw(seed: u64) -> Plan {
        let mut rng = Rng::new(seed);
        let count = 2 + rng.index(4);
        let version = if rng.chance(150) { Version::V2 } else { Version::V3 };
        let interval = match version {
            Version::V2 => SECOND,
            Version::V3 => rng.pick(&[10, 50, 100, 100, 250, 1000]) * MILLI,
        };
        let instances: Vec<InstanceConfig> =
            (0..=rng.index(3)).map(|at| instance(&mut rng, at, version)).collect();
        let drift = rng.pick(&[0, 50, 500, 5000]);
        let authentication = draw_authentication(&mut rng, version);
        let base = draw_group(&mut rng, version, interval, instances, authentication);
        let equal = rng.chance(150);
        let mut priorities: Vec<u8> = (0..count)
            .map(|at| if equal { 100 } else { u8::try_from(40 * at as u64 + rng.range(1, 40)).unwrap() })
            .collect();
        let turn = rng.index(count);
        priorities.rotate_left(turn);
        let highest = priorities.iter().copied().max().unwrap();
        let calm_delay = (interval / 1000, interval / 50);
        Plan {
            seed,
            members: priorities
                .iter()
                .map(|&priority| GroupConfig { priority, highest: priority == highest, ..base.clone() })
                .collect(),
            addresses: (0..count)
                .map(|member| own_addresses(&mut rng, member, base.instances.len()))
                .collect(),
            drift_ppm: (0..count)
                .map(|_| rng.range(0, 2 * drift).cast_signed() - drift.cast_signed())
                .collect(),
            skew_ms: (0..count).map(|_| rng.range(0, 2000).cast_signed() - 1000).collect(),
            storm: Weather {
                loss: rng.pick(&[0, 0, 20, 150, 400]),
                repeat: rng.pick(&[0, 0, 50, 300]),
                delay: rng.pick(&[calm_delay, (interval / 100, interval / 2), (0, interval * 3)]),
                lateness: rng.pick(&[interval / 100, interval / 10, interval * 2]),
            },
            calm: Weather { loss: 0, repeat: 0, delay: calm_delay, lateness: interval / 50 },
            chaos: interval * rng.range(20, 150),
            fault_every: interval * rng.pick(&[1, 3, 10, 30]),
        }
    }

    pub(crate) fn interval(&self) -> u64 {
        nanos(self.members[0].interval)
    }
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap()
}

fn draw_group(
    rng: &mut Rng,
    version: Version,
    interval: u64,
    instances: Vec<InstanceConfig>,
    authentication: Authentication,
) -> GroupConfig {
    let interval = Duration::from_nanos(interval);
    GroupConfig {
        version,
        interval,
        down_intervals: rng.pick(&[2, 3, 3, 3, 5]),
        warn_after: rng.chance(300).then_some(interval * 2),
        startup_grace: if rng.chance(300) { interval * 12 } else { Duration::ZERO },
        preempt: Preempt {
            enabled: rng.chance(700),
            delay: if rng.chance(300) { interval * 10 } else { Duration::ZERO },
        },
        trackers: vec![
            Tracker { name: "weighs".into(), weight: Some(rng.pick(&[-50, -253, 30])) },
            Tracker { name: "fault".into(), weight: None },
        ],
        authentication,
        on_agent_loss: if rng.chance(800) { AgentLoss::Release } else { AgentLoss::Keep },
        ..GroupConfig::new("front", 100, instances)
    }
}

fn draw_authentication(rng: &mut Rng, version: Version) -> Authentication {
    match (rng.index(4), version) {
        (0, Version::V2) => Authentication::Simple(bascule_vrrp::packet::Authentication::simple(b"s3cret")),
        (1, _) => {
            let keys = vec![Key::new(1, &[7; 32]).unwrap(), Key::new(2, &[8; 64]).unwrap()];
            let window = authentication::default_window(bascule_vrrp::timers::Interval::SECOND);
            Authentication::Hmac(Hmac {
                keys: Keys::new(keys, 1).unwrap(),
                mode: rng.pick(&[Mode::Enforce, Mode::Permissive]),
                anti_replay: rng.pick(&[AntiReplay::Monotonic, AntiReplay::Time { window }]),
            })
        }
        _ => Authentication::None,
    }
}

fn instance(rng: &mut Rng, at: usize, version: Version) -> InstanceConfig {
    let number = u8::try_from(at).unwrap();
    let v4 = IpAddr::from([10, number, 0, 30]);
    let v6: IpAddr = format!("2001:db8:{at}::30").parse().unwrap();
    let addresses = match (version, rng.index(4)) {
        (Version::V2, _) | (Version::V3, 0 | 1) => vec![v4],
        (Version::V3, 2) => vec![v6],
        (Version::V3, _) => vec![v4, v6],
    };
    InstanceConfig {
        name: format!("net{at}").into(),
        interface: format!("eth{at}").into(),
        vrid: 30 + number,
        addresses,
        peers: Peers::Multicast,
    }
}

/// Random, so that with equal priorities another member may win on each network; the member's number keeps them apart.
fn own_addresses(rng: &mut Rng, member: usize, instances: usize) -> Vec<(Ipv4Addr, Ipv6Addr)> {
    let member = u8::try_from(member).unwrap() + 1;
    (0..instances)
        .map(|at| {
            let random = u8::try_from(rng.range(1, 255)).unwrap();
            let v4 = Ipv4Addr::new(10, u8::try_from(at).unwrap(), random, member);
            let v6 = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, !u16::from(random), member.into());
            (v4, v6)
        })
        .collect()
}

pub(crate) fn own_address(addresses: (Ipv4Addr, Ipv6Addr), family: Family) -> IpAddr {
    match family {
        Family::Ipv4 => addresses.0.into(),
        Family::Ipv6 => addresses.1.into(),
    }
}
