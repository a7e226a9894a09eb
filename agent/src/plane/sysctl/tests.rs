//! What is wanted, planned, done and reported, against a model of the kernel.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::BorrowedFd,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use bascule_crds::{DirectorConfigSpec, VirtualServiceBindingSpec};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    plane::fixture::{all, config, key, one, rule, server, web},
    reconcile::{
        FailureReason,
        runner::{Context, Plane as _, Turn},
    },
};

fn paths(spec: Arc<VirtualServiceBindingSpec>) -> Vec<String> {
    let desired = desired(&config([("web", spec)]));
    let own = [EXPIRE_NO_DESTINATION, EXPIRE_QUIESCENT];
    desired.values().map(|(path, _)| path.to_owned()).filter(|path| !own.contains(&path.as_str())).collect()
}

#[test]
fn what_a_binding_needs() {
    let six = json!([server("a", "2001:db8:1::1", json!({}))]);
    let direct = json!([server("a", "10.1.0.1", json!({"forwarding": {"method": "DirectRouting"}}))]);
    for (what, changes, expected) in [
        ("masquerading", json!({}), vec![FORWARD_IPV4]),
        ("direct routing", json!({"realServers": direct, "sourceNat": "Never"}), vec![]),
        ("IPv6", json!({"addresses": ["2001:db8::1"], "realServers": six}), vec![FORWARD_IPV6]),
        ("both", json!({"addresses": ["2001:db8::1", "10.0.0.1"]}), vec![FORWARD_IPV4, FORWARD_IPV6]),
        ("source NAT", json!({"sourceNat": "Auto"}), vec![FORWARD_IPV4, CONNTRACK]),
        (
            "addresses",
            json!({"interface": "enp0s3"}),
            vec!["net/ipv4/conf/enp0s3/promote_secondaries", FORWARD_IPV4],
        ),
        (
            "a mark",
            json!({"addresses": [], "ports": [], "fwmark": {"mark": 7, "families": ["IPv6"]}}),
            vec![FORWARD_IPV6],
        ),
    ] {
        assert_eq!(paths(web(changes)), expected, "{what}");
    }
    assert_eq!(desired(&config([])).values().count(), 0, "a director without services is left alone");
}

#[test]
fn what_a_nat_rule_needs() {
    let forward =
        |to: &str| json!({"portForward": {"inInterface": "eth0", "protocol": "TCP", "port": 80, "to": to}});
    let out = |sources: &[&str]| json!({"masquerade": {"outInterface": "eth0", "sources": sources}});
    let exchange = json!({"staticNat": {"outside": "2001:db8::1", "inside": "fd00::1"}});
    for (what, translation, expected) in [
        ("IPv4", forward("172.16.193.10"), vec![FORWARD_IPV4]),
        ("IPv6", forward("2001:db8::10"), vec![FORWARD_IPV6]),
        ("anybody's IPv4", out(&[]), vec![FORWARD_IPV4]),
        ("what it names", out(&["fd00::/8"]), vec![FORWARD_IPV6]),
        ("both", out(&["fd00::/8", "10.0.0.0/8"]), vec![FORWARD_IPV4, FORWARD_IPV6]),
        ("exchanged", exchange, vec![FORWARD_IPV6]),
    ] {
        let mut config = config([]);
        config.nat_rules.insert(key("nat"), rule(translation, Some("front")));
        let desired = desired(&config);
        let paths: Vec<_> = desired.values().map(|(path, _)| path).collect();
        assert_eq!(paths, expected, "{what}");
        for path in paths {
            assert_eq!(desired.who_needs(path), (BTreeSet::new(), BTreeSet::from([key("nat")])));
        }
    }
}

#[test]
fn a_rule_that_leads_to_a_service_has_its_connections_tracked() {
    let forward = |to: &str| {
        let forward = json!({"address": "10.9.9.9", "protocol": "TCP", "port": 8080, "to": to, "toPort": 80});
        rule(json!({"portForward": forward}), None)
    };
    let is_tracked = |desired: &Desired| desired.values().any(|(path, _)| path == CONNTRACK);
    let mut desired = Desired::default();
    let service = |addresses: Value| web(json!({"addresses": addresses}));
    desired.set(&key("web"), Some(&service(json!(["10.0.0.1-10.0.0.3", "10.0.0.9"]))));
    assert!(desired.set_rule(&key("nat"), Some(&forward("10.0.0.4"))), "forwarding");
    assert!(!is_tracked(&desired));
    assert!(desired.set_rule(&key("nat"), Some(&forward("10.0.0.2"))));
    assert!(is_tracked(&desired));
    assert_eq!(desired.who_needs(CONNTRACK).1, BTreeSet::from([key("nat")]));
    // Two services have it, and one goes.
    assert!(!desired.set(&key("b"), Some(&service(json!(["10.0.0.2"])))));
    assert!(!desired.set(&key("web"), Some(&service(json!(["10.0.0.1"])))));
    assert!(is_tracked(&desired));
    assert!(desired.set(&key("b"), None));
    assert!(!is_tracked(&desired));
    assert!(desired.set(&key("b"), Some(&service(json!(["10.0.0.0-10.0.0.2"])))));
    assert!(is_tracked(&desired));
    assert!(!desired.set_rule(&key("nat"), Some(&forward("10.0.0.2"))), "the same");
    assert!(desired.set_rule(&key("nat"), None));
    assert!(!is_tracked(&desired));
}

#[test]
fn an_interface_with_addresses_of_a_group_keeps_the_others() {
    let director: DirectorConfigSpec = serde_json::from_value(json!({"director": "dir1", "vrrp": [{
    "name": "front", "priority": 200, "version": 3, "advertisementInterval": "1s", "downIntervals": 3,
    "preempt": {"enabled": true, "delay": "0s"}, "onAgentLoss": "Release",
    "instances": [
        {"name": "outside", "interface": "eth0", "virtualRouterId": 30, "addresses": ["192.16.193.30/24"]},
        {"name": "inside", "interface": "eth1", "virtualRouterId": 31, "addresses": ["2001:db8::30/64"]},
    ]}]}))
    .unwrap();
    let mut desired = Desired::default();
    assert!(desired.set_director(&director));
    assert!(!desired.set_director(&director));
    let own: Vec<_> = desired.values().collect();
    assert_eq!(own, [("net/ipv4/conf/eth0/promote_secondaries", "1")]);
    desired.set(&key("web"), Some(&web(json!({"interface": "eth0"}))));
    let wanted = desired.values().filter(|(path, _)| path.ends_with("promote_secondaries"));
    assert_eq!(wanted.count(), 1, "once, also when a service has an address there");
}

#[test]
fn below_a_virtual_mac_address_arp_is_for_what_is_there() {
    let director = |family: &str, mac: bool| -> DirectorConfigSpec {
        serde_json::from_value(json!({"director": "dir1", "vrrp": [{
            "name": "front", "priority": 200, "version": 3, "advertisementInterval": "1s", "downIntervals": 3,
            "preempt": {"enabled": true, "delay": "0s"}, "onAgentLoss": "Release",
            "instances": [{"name": "outside", "interface": "eth0", "virtualRouterId": 30, "addresses": [family], "virtualMac": mac}],
        }]}))
        .unwrap()
    };
    let mut desired = Desired::default();
    desired.set_director(&director("192.16.193.30/24", true));
    let mut wanted: Vec<_> = desired.values().collect();
    wanted.sort_unstable();
    assert_eq!(
        wanted,
        [
            ("net/ipv4/conf/eth0/arp_announce", "2"),
            ("net/ipv4/conf/eth0/arp_ignore", "1"),
            ("net/ipv4/conf/eth0/promote_secondaries", "1")
        ]
    );
    assert!(desired.set_director(&director("192.16.193.30/24", false)));
    assert_eq!(desired.values().count(), 1);
    assert!(desired.set_director(&director("2001:db8::30/64", true)));
    assert_eq!(desired.values().count(), 0);
}

#[test]
fn the_directors_own_settings() {
    let director: DirectorConfigSpec = serde_json::from_value(
        json!({"director": "dir1", "expire": {"noDestination": false, "quiescentTemplate": true}}),
    )
    .unwrap();
    let mut desired = desired(&config([("web", web(json!({})))]));
    assert!(desired.set_director(&director));
    assert!(!desired.set_director(&director));
    let values: BTreeMap<_, _> = desired.values().collect();
    assert_eq!((values[EXPIRE_NO_DESTINATION], values[EXPIRE_QUIESCENT]), ("0", "1"));
}

fn values(pairs: &[(&str, &str)]) -> Observed {
    let values = pairs.iter().map(|(path, value)| ((*path).to_owned(), Some((*value).to_owned()))).collect();
    Observed { values, advertised: BTreeSet::new() }
}

const FINE: [(&str, &str); 2] = [(EXPIRE_NO_DESTINATION, "1"), (EXPIRE_QUIESCENT, "1")];

#[test]
fn only_what_differs_is_set_and_router_advertisements_come_first() {
    let six = json!({"addresses": ["2001:db8::1"], "realServers": [server("a", "2001:db8:1::1", json!({}))]});
    let desired = desired(&config([("web", web(six))]));
    let mut observed = values(&FINE);
    observed.values.insert(FORWARD_IPV6.into(), Some("0".into()));
    observed.advertised = BTreeSet::from(["default".to_owned(), "eth0.7".to_owned()]);
    let texts: Vec<_> = plan(&desired, &observed).ops.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "set net.ipv6.conf.default.accept_ra from 1 to 2",
            "set net.ipv6.conf.eth0/7.accept_ra from 1 to 2",
            "set net.ipv6.conf.all.forwarding from 0 to 1",
        ]
    );
    observed.values.insert(FORWARD_IPV6.into(), Some("1".into()));
    assert_eq!(plan(&desired, &observed), Plan::default(), "accept_ra is nobody's business once it forwards");
    observed.values.insert(FORWARD_IPV6.into(), None);
    assert_eq!(plan(&desired, &observed).missing, BTreeSet::from([FORWARD_IPV6.to_owned()]));
}

/// A model of /proc/sys.
#[derive(Default)]
struct Model {
    values: BTreeMap<String, String>,
    notified: bool,
    read_only: bool,
    /// The next readings fail.
    unreadable: usize,
    /// Readings so far.
    reads: usize,
    writes: Vec<String>,
}

#[derive(Clone, Default)]
struct Shared(Rc<RefCell<Model>>);

impl Io for Shared {
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn notified(&mut self) -> io::Result<bool> {
        Ok(std::mem::take(&mut self.0.borrow_mut().notified))
    }

    fn observe(&mut self, desired: &Desired) -> io::Result<Observed> {
        let mut model = self.0.borrow_mut();
        model.reads += 1;
        if model.unreadable > 0 {
            model.unreadable -= 1;
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        let values =
            desired.values().map(|(path, _)| (path.to_owned(), model.values.get(path).cloned())).collect();
        Ok(Observed { values, advertised: BTreeSet::new() })
    }

    fn apply(&mut self, op: &Op) -> io::Result<()> {
        let mut model = self.0.borrow_mut();
        if model.read_only {
            return Err(io::Error::from_raw_os_error(libc::EROFS));
        }
        model.writes.push(op.to_string());
        model.values.insert(op.path.clone(), op.value.clone());
        Ok(())
    }
}

type Connect = Box<dyn FnMut() -> io::Result<Shared>>;

struct Bench {
    plane: SysctlPlane<Shared, Connect>,
    model: Shared,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let model = Shared::default();
        for path in [FORWARD_IPV4, FORWARD_IPV6, CONNTRACK, EXPIRE_NO_DESTINATION, EXPIRE_QUIESCENT] {
            model.0.borrow_mut().values.insert(path.into(), "0".into());
        }
        let connected = model.clone();
        let connect: Connect = Box::new(move || Ok(connected.clone()));
        Self { plane: SysctlPlane::new(connect), model, now: Instant::now() }
    }

    fn after(&mut self, milliseconds: u64) -> Turn {
        self.now += Duration::from_millis(milliseconds);
        self.plane.turn(&Context { now: self.now, others_done: true, waited_for: &|| false })
    }

    fn writes(&self) -> usize {
        self.model.0.borrow_mut().writes.drain(..).count()
    }
}

#[test]
fn sets_repairs_and_leaves_what_is_no_longer_needed() {
    let mut bench = Bench::new();
    bench.plane.configure(&all(&config([("web", web(json!({"sourceNat": "Always"})))])));
    bench.after(0);
    assert_eq!(bench.writes(), 4);
    bench.model.0.borrow_mut().values.insert(FORWARD_IPV4.into(), "0".into());
    bench.model.0.borrow_mut().notified = true;
    bench.after(1);
    assert_eq!(bench.model.0.borrow().values[FORWARD_IPV4], "1", "at once, for the kernel notifies");
    bench.model.0.borrow_mut().values.insert(CONNTRACK.into(), "0".into());
    bench.after(1_000);
    assert_eq!(bench.model.0.borrow().values[CONNTRACK], "1", "at the next look");
    assert_eq!(bench.plane.report().repaired["set-sysctl"], 2);
    bench.writes();
    bench.plane.configure(&one("web", None));
    bench.after(1);
    assert_eq!(bench.writes(), 0);
    assert_eq!(bench.model.0.borrow().values[FORWARD_IPV4], "1");
}

#[test]
fn what_cannot_be_set_is_said_with_who_needs_it() {
    let mut bench = Bench::new();
    bench.model.0.borrow_mut().read_only = true;
    bench.model.0.borrow_mut().values.remove(CONNTRACK);
    bench.plane.configure(&all(&config([("web", web(json!({"sourceNat": "Always"})))])));
    bench.after(0);
    let failures = Arc::clone(&bench.plane.report().failures);
    let forward = &failures["net.ipv4.ip_forward"];
    assert!(forward.message.contains("read-only"), "{}", forward.message);
    assert!(forward.bindings.contains(&key("web")));
    let conntrack = &failures["net.ipv4.vs.conntrack"];
    assert_eq!(conntrack.reason, FailureReason::Missing);
    assert!(conntrack.message.contains("CONFIG_IP_VS_NFCT"), "{}", conntrack.message);
    bench.model.0.borrow_mut().read_only = false;
    bench.model.0.borrow_mut().values.insert(CONNTRACK.into(), "0".into());
    bench.after(1_100);
    assert!(bench.plane.report().failures.is_empty(), "{:?}", bench.plane.report().failures);
    assert!(bench.plane.report().repaired.is_empty());
}

#[test]
fn a_setting_that_never_comes_is_looked_for_ever_less_often() {
    let mut bench = Bench::new();
    bench.model.0.borrow_mut().values.remove(CONNTRACK);
    bench.plane.configure(&all(&config([("web", web(json!({"sourceNat": "Always"})))])));
    let mut turn = bench.after(0);
    let start = bench.now;
    let mut looks = Vec::new();
    while bench.now < start + Duration::from_secs(10) {
        let next = turn.next.unwrap();
        looks.push((next - bench.now).as_millis());
        bench.now = next;
        turn = bench.after(0);
    }
    assert_eq!(looks[..5], [200, 400, 800, 1000, 1000]);
    bench.model.0.borrow_mut().values.insert(CONNTRACK.into(), "0".into());
    bench.after(1_000);
    assert!(bench.plane.report().failures.is_empty());
    let next = bench.after(0).next.unwrap();
    assert!(next > bench.now + Duration::from_millis(200), "and then not at all");
}

#[test]
fn what_cannot_be_read_is_not_done() {
    let mut bench = Bench::new();
    bench.model.0.borrow_mut().unreadable = 2;
    bench.plane.configure(&all(&config([("web", web(json!({})))])));
    assert!(!bench.after(0).done);
    assert!(!bench.after(1).done);
    bench.after(1_000);
    assert!(bench.plane.report().missing.is_some(), "for the second time");
    assert!(bench.after(2_000).done);
    assert_eq!((bench.plane.report().missing.clone(), bench.writes()), (None, 3));
}

#[test]
fn with_report_it_only_says() {
    let mut bench = Bench::new();
    let mut config = config([("web", web(json!({})))]);
    config.director = serde_json::from_value(json!({"director": "dir1", "sysctls": "Report"})).unwrap();
    bench.plane.configure(&all(&config));
    bench.after(0);
    assert_eq!(bench.writes(), 0);
    let failures = Arc::clone(&bench.plane.report().failures);
    assert!(failures.values().all(|failure| failure.reason == FailureReason::NotManaged));
    assert!(failures["net.ipv4.ip_forward"].message.contains("is 0 and must be 1"));
}

proptest! {
    #[test]
    fn key_by_key_gives_the_same_as_all_at_once(changes in proptest::collection::vec(
        (prop_oneof![Just("a"), Just("b"), Just("c")], proptest::option::of((any::<bool>(), any::<bool>(), prop_oneof![Just("Never"), Just("Auto")], proptest::option::of("[ab]")))), 0..12)
    ) {
        let mut by_key = Desired::default();
        let mut config = config([]);
        by_key.set_director(&config.director);
        for (name, parts) in changes {
            let spec = parts.map(|(six, direct, source_nat, interface)| {
                let method = if direct { "DirectRouting" } else { "Masquerade" };
                let (address, real) = if six { ("2001:db8::1", "2001:db8:1::1") } else { ("10.0.0.1", "10.1.0.1") };
                let mut changes = json!({"addresses": [address], "sourceNat": source_nat, "realServers": [server("a", real, json!({"forwarding": {"method": method}}))]});
                if let Some(interface) = interface {
                    changes["interface"] = json!(interface);
                }
                web(changes)
            });
            let before: Vec<String> = by_key.values().map(|(path, _)| path.to_owned()).collect();
            let changed = by_key.set(&key(name), spec.as_ref());
            match spec {
                Some(spec) => config.bindings.insert(key(name), spec),
                None => config.bindings.remove(&key(name)),
            };
            prop_assert_eq!(&by_key, &desired(&config));
            let after: Vec<String> = by_key.values().map(|(path, _)| path.to_owned()).collect();
            prop_assert!(before == after || changed);
        }
    }
}
