//! Whatever is written is read back; whatever is read does not panic; whatever happens to a group, its promises hold.

mod common;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use bascule_vrrp::group::{Change, Preempt, Snapshot, Tracker};
use bascule_vrrp::packet::{
    Advertisement, Authentication, ChecksumForm, Path, Version, decode, encode, ipv4_datagram,
};
use bascule_vrrp::router::StateName;
use bascule_vrrp::timers::Interval;
use bascule_vrrp::{Action, Group, GroupConfig, GroupState, Input, Link, RouterId};
use common::{Bench, instance, ip, ms};
use proptest::{collection::vec, prelude::*};

fn addresses() -> impl Strategy<Value = Vec<IpAddr>> {
    prop_oneof![
        vec(any::<u32>().prop_map(|bits| Ipv4Addr::from(bits).into()), 1..=255),
        vec(any::<u128>().prop_map(|bits| Ipv6Addr::from(bits).into()), 1..=80),
    ]
}

/// An advertisement that can be said, and the way it goes.
fn sayable() -> impl Strategy<Value = (Advertisement, Path)> {
    let fields = (addresses(), any::<bool>(), 1..=255_u8, any::<u8>(), 1..=4095_u64, 1..=255_u64);
    let rest = (any::<Option<[u8; 8]>>(), any::<u32>(), any::<u128>(), any::<bool>());
    (fields, rest).prop_map(|((addresses, old, vrid, priority, steps, seconds), (password, v4, v6, form))| {
        let (source, destination): (IpAddr, IpAddr) = match addresses[0] {
            IpAddr::V4(_) => (Ipv4Addr::from(v4).into(), ip("224.0.0.18")),
            IpAddr::V6(_) => (Ipv6Addr::from(v6).into(), ip("ff02::12")),
        };
        let version = if old && source.is_ipv4() { Version::V2 } else { Version::V3 };
        let (interval, authentication) = match version {
            Version::V2 => {
                let authentication = password.map_or(Authentication::None, Authentication::Simple);
                (ms(seconds * 1000), authentication)
            }
            Version::V3 => (ms(steps * 10), Authentication::None),
        };
        let interval = Interval::new(version, interval).unwrap();
        let checksum = if form { ChecksumForm::PseudoHeader } else { ChecksumForm::MessageOnly };
        let advertisement = Advertisement { version, vrid, priority, interval, addresses, authentication };
        (advertisement, Path { source, destination, checksum })
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read((advertisement, path) in sayable()) {
        let bytes = encode(&advertisement, &path).unwrap();
        let decoded = decode(&bytes, path.source, path.destination).unwrap();
        prop_assert_eq!(&decoded.advertisement, &advertisement);
        prop_assert_eq!(decoded.message, &bytes[..]);
        // One in 65,536 pseudo-headers sums to nothing, and both forms are right.
        if advertisement.version == Version::V3 && path.source.is_ipv4() && decoded.checksum != path.checksum {
            let other = Path { checksum: decoded.checksum, ..path };
            prop_assert_eq!(encode(&advertisement, &other).unwrap(), bytes);
        }
    }

    #[test]
    fn random_bytes_do_no_harm(bytes in vec(any::<u8>(), 0..300)) {
        let _ = ipv4_datagram(&bytes);
        let _ = decode(&bytes, ip("10.0.0.1"), ip("224.0.0.18"));
        let _ = decode(&bytes, ip("fe80::1"), ip("ff02::12"));
    }

    /// Random bytes seldom get past the checksum; an advertisement with some bytes changed and the checksum made right gets deep.
    #[test]
    fn damaged_advertisements_are_refused_or_say_something_else(
        (advertisement, path) in sayable(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        length in any::<prop::sample::Index>(),
    ) {
        let path = Path { checksum: ChecksumForm::MessageOnly, ..path };
        let mut bytes = encode(&advertisement, &path).unwrap();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if path.source.is_ipv4() {
            bytes[6..8].fill(0);
            let sum = bascule_vrrp::packet::internet_checksum(&[&bytes]);
            bytes[6..8].copy_from_slice(&sum.to_be_bytes());
        }
        if let Ok(decoded) = decode(&bytes, path.source, path.destination) {
            // What was read can be written again, and is read the same.
            let again = encode(&decoded.advertisement, &Path { checksum: decoded.checksum, ..path });
            if let Ok(again) = again {
                prop_assert_eq!(decode(&again, path.source, path.destination).unwrap().advertisement, decoded.advertisement);
            }
        }
        bytes.truncate(length.index(bytes.len()));
        let _ = decode(&bytes, path.source, path.destination);
    }
}

/// What happens to a group.
#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Sleep(u64),
    Hear { router: prop::sample::Index, host: u8, priority: u8, interval: u16 },
    Noise { router: prop::sample::Index, bytes: Vec<u8> },
    Link { router: prop::sample::Index, link: u8 },
    Tracked { fault: bool, failing: bool },
    Start { resume: bool },
    Switchover,
    Unhold,
    Stop,
    Halt,
    Configure { priority: u8, preferred: bool, preempt: bool, instances: usize },
    TakeOver,
}

fn step() -> impl Strategy<Value = Step> {
    let priority = prop_oneof![Just(0_u8), Just(100), Just(255), any::<u8>()];
    let hear = (any::<prop::sample::Index>(), 1..4_u8, priority, prop_oneof![Just(10_u16), 1..=4095_u16]);
    prop_oneof![
        6 => (0..500_u64).prop_map(Step::Wait),
        1 => (0..2000_u64).prop_map(Step::Sleep),
        6 => hear.prop_map(|(router, host, priority, interval)| Step::Hear { router, host, priority, interval }),
        1 => (any::<prop::sample::Index>(), vec(any::<u8>(), 0..60)).prop_map(|(router, bytes)| Step::Noise { router, bytes }),
        2 => (any::<prop::sample::Index>(), 0..8_u8).prop_map(|(router, link)| Step::Link { router, link }),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(fault, failing)| Step::Tracked { fault, failing }),
        2 => any::<bool>().prop_map(|resume| Step::Start { resume }),
        2 => Just(Step::Switchover),
        1 => Just(Step::Unhold),
        1 => Just(Step::Stop),
        1 => Just(Step::Halt),
        1 => (1..=253_u8, any::<bool>(), any::<bool>(), 1..=3_usize)
            .prop_map(|(priority, preferred, preempt, instances)| Step::Configure { priority, preferred, preempt, instances }),
        1 => Just(Step::TakeOver),
    ]
}

fn config(priority: u8, preferred: bool, preempt: bool, instances: usize) -> GroupConfig {
    let all = [
        instance("outside", 30, &["192.16.193.30"]),
        instance("inside", 31, &["172.16.193.253", "fe80::31"]),
        instance("third", 32, &["2001:db8::32"]),
    ];
    GroupConfig {
        interval: ms(if priority.is_multiple_of(2) { 100 } else { 250 }),
        preferred,
        preempt: Preempt { enabled: preempt, delay: ms(if priority > 200 { 700 } else { 0 }) },
        warn_after: Some(ms(150)),
        trackers: vec![
            Tracker { name: "weighs".into(), weight: Some(-50) },
            Tracker { name: "fault".into(), weight: None },
        ],
        ..GroupConfig::new("front", priority, all[..instances].to_vec())
    }
}

/// The kernel's side of the promises.
struct Model {
    bench: Bench,
    held: BTreeSet<RouterId>,
    state: GroupState,
    failing: BTreeSet<&'static str>,
    /// Virtual routers that may tell their successor once that they were active.
    untold: BTreeSet<RouterId>,
}

impl Model {
    fn new() -> Self {
        let bench = Bench::new(config(100, false, true, 2));
        Model {
            bench,
            held: BTreeSet::new(),
            state: GroupState::Initialize,
            failing: BTreeSet::new(),
            untold: BTreeSet::new(),
        }
    }

    fn router(&self, index: prop::sample::Index) -> RouterId {
        let ids: Vec<RouterId> = self.bench.group.routers().map(|(id, _, _)| id.clone()).collect();
        index.get(&ids).clone()
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Wait(millis) => {
                let end = self.bench.now + ms(*millis);
                while let Some(next) = self.bench.group.next_deadline() {
                    let next = Duration::from_nanos(next.as_nanos()).max(self.bench.now);
                    if next > end {
                        break;
                    }
                    self.bench.now = next;
                    self.feed(Input::Timer);
                    let again =
                        self.bench.group.next_deadline().map(|next| Duration::from_nanos(next.as_nanos()));
                    assert!(
                        again.is_none_or(|again| again > self.bench.now),
                        "it spins: {:?}",
                        self.bench.group
                    );
                }
                self.bench.now = end;
            }
            Step::Sleep(millis) => self.bench.now += ms(*millis),
            Step::Hear { router, host, priority, interval } => {
                self.hear(*router, *host, *priority, *interval)
            }
            Step::Noise { router, bytes } => {
                let router = self.router(*router);
                let before = (self.bench.group.state(), self.bench.group.next_deadline());
                let late =
                    self.bench.group.next_deadline().is_some_and(|next| next <= self.bench.clock().boot);
                let actions = self.bench.hear_bytes(&router, common::peer(&router, 9), bytes);
                self.judge(&actions);
                let after = (self.bench.group.state(), self.bench.group.next_deadline());
                assert!(late || before == after, "noise changed {before:?} to {after:?}");
            }
            Step::Link { router, link } => {
                let router = self.router(*router);
                let link = match link {
                    0 => Link::Down,
                    1 => Link::Missing,
                    2 => Link::NoAddress,
                    _ => Link::Up { source: common::own(&router) },
                };
                self.feed(Input::Link { router, link });
            }
            Step::Tracked { fault, failing } => {
                let name = if *fault { "fault" } else { "weighs" };
                if *failing {
                    self.failing.insert(name)
                } else {
                    self.failing.remove(name)
                };
                self.feed(Input::Tracked { name, failing: *failing });
            }
            Step::Start { resume } => {
                // Whoever goes on has the addresses still.
                if *resume && self.state == GroupState::Initialize {
                    self.held = self.bench.group.routers().map(|(id, _, _)| id.clone()).collect();
                }
                self.feed(Input::Start { resume: *resume });
            }
            Step::Switchover => self.feed(Input::Switchover),
            Step::Unhold => self.feed(Input::Unhold),
            Step::Stop => self.feed(Input::Stop),
            Step::Halt => self.feed(Input::Halt),
            Step::Configure { priority, preferred, preempt, instances } => {
                let config = Box::new(config(*priority, *preferred, *preempt, *instances));
                let fresh = Group::new((*config).clone()).unwrap();
                let links = fresh
                    .routers()
                    .map(|(id, _, _)| (id.clone(), Link::Up { source: common::own(id) }))
                    .collect();
                self.feed(Input::Configure { config, links });
            }
            Step::TakeOver => self.take_over(),
        }
    }

    fn hear(&mut self, router: prop::sample::Index, host: u8, priority: u8, interval: u16) {
        let router = self.router(router);
        let (_, _, vrid) = self.bench.group.routers().find(|(id, _, _)| **id == router).unwrap();
        let advertisement = Advertisement {
            version: Version::V3,
            vrid,
            priority,
            interval: Interval::new(Version::V3, ms(u64::from(interval) * 10)).unwrap(),
            addresses: vec![common::peer(&router, 77)],
            authentication: Authentication::None,
        };
        let source = common::peer(&router, host);
        let actions = self.bench.hear_bytes(&router, source, &common::bytes(&advertisement, source));
        self.judge(&actions);
    }

    fn take_over(&mut self) {
        let old = &self.bench.group;
        let snapshot = serde_json::to_string(&old.snapshot()).unwrap();
        let snapshot: Snapshot = serde_json::from_str(&snapshot).unwrap();
        let restored = Group::restore(old.config().clone(), snapshot, &[]).unwrap();
        assert!(restored.whole);
        let new = restored.group;
        assert_eq!(new.next_deadline(), old.next_deadline());
        assert_eq!((new.state(), new.hold(), new.priority()), (old.state(), old.hold(), old.priority()));
        self.bench.group = new;
    }

    fn feed(&mut self, input: Input<'_>) {
        let actions = self.bench.feed(input);
        self.judge(&actions);
    }

    fn judge(&mut self, actions: &[Action]) {
        for action in actions {
            match action {
                Action::HoldAddresses { router, .. } => {
                    self.held.insert(router.clone());
                }
                Action::DropAddresses { router } => {
                    self.held.remove(router);
                }
                Action::Announce { router, times } => {
                    assert!(
                        *times > 0 && self.held.contains(router),
                        "announced without addresses: {actions:?}"
                    );
                }
                Action::Changed(Change { from, to, reason }) => {
                    assert_eq!(*from, self.state, "{actions:?}");
                    assert!(from != to && (1..=128).contains(&reason.chars().count()), "{reason:?}");
                    self.state = *to;
                }
                Action::RenewAddresses { .. } => assert_eq!(self.state, GroupState::Active, "{actions:?}"),
                _ => {}
            }
        }
        let group = &self.bench.group;
        assert_eq!(group.state(), self.state);
        let expected = match self.state {
            GroupState::Active => StateName::Active,
            GroupState::Backup => StateName::Backup,
            GroupState::Initialize | GroupState::Fault => StateName::Initialize,
        };
        for status in group.status().routers {
            let waits = status.state == StateName::Initialize
                && (status.link == Link::Unknown || group.is_releasing());
            assert!(status.state == expected || waits, "{status:?} in {:?}", self.state);
            assert_eq!(self.held.contains(&status.id), status.state == StateName::Active, "{actions:?}");
        }
        assert!(self.held.iter().all(|id| group.routers().any(|(other, _, _)| other == id)), "left behind");
        assert!((1..=254).contains(&group.priority()));
        // A priority that is not 0 is its own, and said by an active group, or once by one that was active and holds nothing any more.
        let said = actions.iter().filter_map(|action| match action {
            Action::Send { router, bytes, .. } if bytes[2] != 0 => Some((router, bytes[2])),
            _ => None,
        });
        let said: Vec<(&RouterId, u8)> = said.collect();
        if self.state == GroupState::Active {
            self.untold = group.routers().map(|(id, _, _)| id.clone()).collect();
        } else {
            let may = self.state == GroupState::Backup && self.held.is_empty();
            let told = said.iter().all(|(router, _)| self.untold.remove(*router));
            assert!(said.is_empty() || may && told, "{actions:?}");
        }
        assert!(said.iter().all(|(_, priority)| *priority == group.priority()), "{said:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_group_keeps_its_promises(steps in vec(step(), 1..120)) {
        let mut model = Model::new();
        model.bench.all_up();
        model.feed(Input::Start { resume: false });
        for step in &steps {
            model.take(step);
        }
    }
}
