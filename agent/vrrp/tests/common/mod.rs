//! A group under test: its clock, and advertisements for it.
#![allow(dead_code, reason = "each test uses its part")]

use std::net::IpAddr;
use std::time::Duration;

use bascule_vrrp::group::{Change, Warning};
use bascule_vrrp::packet::{
    Advertisement, Authentication, ChecksumForm, Datagram, Family, Path, Version, encode,
};
use bascule_vrrp::timers::Interval;
use bascule_vrrp::{
    Action, BootTime, Group, GroupConfig, GroupState, Input, InstanceConfig, Link, Now, Peers, RouterId,
    UnixTime,
};

pub(crate) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// An instance `name` on an interface `eth-name`.
pub(crate) fn instance(name: &str, vrid: u8, addresses: &[&str]) -> InstanceConfig {
    InstanceConfig {
        name: name.into(),
        interface: format!("eth-{name}").into(),
        vrid,
        addresses: addresses.iter().map(|address| ip(address)).collect(),
        peers: Peers::Multicast,
    }
}

/// The two networks of a director: outside 192.16.193.0/24, inside 172.16.0.0/16.
pub(crate) fn two_networks(priority: u8) -> GroupConfig {
    let instances =
        vec![instance("outside", 30, &["192.16.193.30"]), instance("inside", 31, &["172.16.193.253"])];
    GroupConfig { interval: ms(100), ..GroupConfig::new("front", priority, instances) }
}

pub(crate) fn one_network(priority: u8) -> GroupConfig {
    let instances = vec![instance("outside", 30, &["192.16.193.30"])];
    GroupConfig { interval: ms(100), ..GroupConfig::new("front", priority, instances) }
}

/// A group and the time, which begins after an hour of uptime.
pub(crate) struct Bench {
    pub(crate) group: Group,
    pub(crate) now: Duration,
    /// By how much the wall clock is ahead.
    pub(crate) step: Duration,
}

impl Bench {
    pub(crate) fn new(config: GroupConfig) -> Self {
        Bench { group: Group::new(config).unwrap(), now: Duration::from_secs(3600), step: Duration::ZERO }
    }

    /// With all interfaces up, and started.
    pub(crate) fn started(config: GroupConfig) -> Self {
        let mut bench = Bench::new(config);
        bench.all_up();
        bench.feed(Input::Start { resume: false });
        bench
    }

    /// Started, and active after the silence.
    pub(crate) fn active(config: GroupConfig) -> Self {
        let mut bench = Bench::started(config);
        let interval = bench.group.config().interval;
        bench.run_for(interval * 10 + ms(1000));
        assert_eq!(bench.group.state(), GroupState::Active);
        bench
    }

    pub(crate) fn clock(&self) -> Now {
        Now {
            boot: BootTime::from_duration(self.now),
            unix: UnixTime(Duration::from_secs(1_700_000_000) + self.now + self.step),
        }
    }

    pub(crate) fn all_up(&mut self) {
        let ids: Vec<RouterId> = self.group.routers().map(|(id, _, _)| id.clone()).collect();
        for router in ids {
            let source = own(&router);
            self.feed(Input::Link { router, link: Link::Up { source } });
        }
    }

    pub(crate) fn feed(&mut self, input: Input<'_>) -> Vec<Action> {
        let now = self.clock();
        let actions = self.group.handle(now, input);
        // Carried out at once: nothing of it comes too late.
        assert!(!self.group.overtaken(now.boot), "{actions:?}");
        self.group.sent();
        actions
    }

    /// Timers exactly when they are due, for so long.
    pub(crate) fn run_for(&mut self, span: Duration) -> Vec<(Duration, Action)> {
        let (begin, end) = (self.now, self.now + span);
        let mut actions = Vec::new();
        while let Some(next) = self.group.next_deadline() {
            let next = Duration::from_nanos(next.as_nanos());
            if next > end {
                break;
            }
            self.now = next.max(self.now);
            let at = self.now.saturating_sub(begin);
            actions.extend(self.feed(Input::Timer).into_iter().map(|action| (at, action)));
        }
        self.now = end;
        actions
    }

    /// An advertisement of a peer, whose address ends in 9, with the group's own addresses.
    pub(crate) fn hear(&mut self, instance: &str, priority: u8) -> Vec<Action> {
        self.hear_from(instance, 9, priority)
    }

    pub(crate) fn hear_from(&mut self, instance: &str, host: u8, priority: u8) -> Vec<Action> {
        let (id, _, vrid) = self.group.routers().find(|(id, _, _)| &*id.instance == instance).unwrap();
        let id = id.clone();
        let addresses = self.group.config().instances.iter().find(|one| &*one.name == instance).unwrap();
        let advertisement = Advertisement {
            version: self.group.config().version,
            vrid,
            priority,
            interval: Interval::new(self.group.config().version, self.group.config().interval).unwrap(),
            addresses: addresses.addresses.clone(),
            authentication: Authentication::None,
        };
        let source = peer(&id, host);
        self.hear_bytes(&id, source, &bytes(&advertisement, source))
    }

    pub(crate) fn hear_bytes(&mut self, router: &RouterId, source: IpAddr, payload: &[u8]) -> Vec<Action> {
        let datagram = Datagram { source, destination: Family::of(source).multicast(), ttl: 255, payload };
        self.feed(Input::Datagram { router, datagram })
    }

    pub(crate) fn id(&self, instance: &str) -> RouterId {
        self.group.routers().find(|(id, _, _)| &*id.instance == instance).unwrap().0.clone()
    }

    pub(crate) fn link(&mut self, instance: &str, up: bool) -> Vec<Action> {
        let router = self.id(instance);
        let link = if up { Link::Up { source: own(&router) } } else { Link::Down };
        self.feed(Input::Link { router, link })
    }

    pub(crate) fn reason(&self) -> String {
        self.group.status().reason
    }
}

/// Own addresses end in 2.
pub(crate) fn own(router: &RouterId) -> IpAddr {
    peer(router, 2)
}

pub(crate) fn peer(router: &RouterId, host: u8) -> IpAddr {
    match (router.family, &*router.instance) {
        (Family::Ipv4, "inside") => IpAddr::from([172, 16, 193, host]),
        (Family::Ipv4, _) => IpAddr::from([192, 16, 193, host]),
        (Family::Ipv6, _) => IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, u16::from(host)]),
    }
}

pub(crate) fn bytes(advertisement: &Advertisement, source: IpAddr) -> Vec<u8> {
    let destination = Family::of(source).multicast();
    encode(advertisement, &Path { source, destination, checksum: ChecksumForm::PseudoHeader }).unwrap()
}

/// What was done, in short words.
pub(crate) fn words(actions: &[Action]) -> Vec<String> {
    actions
        .iter()
        .map(|action| match action {
            Action::Send { router, bytes, .. } => format!("{} says {}", router.instance, bytes[2]),
            Action::HoldAddresses { router, .. } => format!("{} holds", router.instance),
            Action::RenewAddresses { .. } => "renew".into(),
            Action::DropAddresses { router } => format!("{} drops", router.instance),
            Action::Announce { router, times } => format!("{} announces {times}", router.instance),
            Action::Changed(Change { from, to, .. }) => format!("{from:?} to {to:?}"),
            Action::Warning(Warning { kind, .. }) => format!("warning {kind}"),
            Action::Switchover(outcome) => format!("switch-over {outcome:?}"),
            Action::Stopped { addresses_left } => format!("stopped, addresses left: {addresses_left}"),
            Action::Remember { hold } => format!("remember hold {hold}"),
        })
        .collect()
}

/// Changes of state among what was done, with when.
pub(crate) fn changes(actions: &[(Duration, Action)]) -> Vec<(u64, GroupState)> {
    actions
        .iter()
        .filter_map(|(at, action)| match action {
            Action::Changed(change) => Some((u64::try_from(at.as_micros()).unwrap(), change.to)),
            _ => None,
        })
        .collect()
}

pub(crate) const V3: Version = Version::V3;
