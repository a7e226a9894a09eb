//! What is wanted, planned, done and reported, against a model of the kernel.

use std::{
    cell::RefCell,
    io,
    os::fd::BorrowedFd,
    rc::Rc,
    time::{Duration, Instant},
};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{kernel::Events, *};
use crate::{
    plane::fixture::{all, config, key, one, server, web},
    reconcile::{
        FailureReason,
        runner::{Context, Plane as _},
    },
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn elements(desired: &Desired) -> Vec<String> {
    let text = |(set, key, data): (Set, &Key, u32)| {
        let mark = if set.maps() { format!(" → {data}") } else { String::new() };
        format!("{}: {}{mark}", set.name(), describe(set, key))
    };
    desired.elements().map(text).collect()
}

fn wanted_of(changes: Value) -> Vec<String> {
    let connected =
        Connected::from([(ip("172.16.193.10"), BTreeSet::from([(ip("172.16.0.0"), ip("172.16.255.255"))]))]);
    elements(&desired(&config([("web", web(changes))]), &connected))
}

#[test]
fn addresses_of_groups_that_take_nothing_themselves() {
    let director = |instances: Value| {
        let group = json!({"name": "g", "priority": 100, "version": 3, "advertisementInterval": "1s", "downIntervals": 3,
            "preempt": {}, "onAgentLoss": "Keep", "instances": instances});
        serde_json::from_value(json!({"director": "dir1", "vrrp": [group]})).unwrap()
    };
    let instance = |accept: bool, addresses: &[&str], excluded: &[&str]| {
        json!({"name": "a", "interface": "eth0", "virtualRouterId": 30, "accept": accept, "addresses": addresses,
            "excludedAddresses": excluded})
    };
    let mut desired = desired(&config([("web", web(json!({"sourceNat": "Always"})))]), &Connected::new());
    let without = elements(&desired);
    let both = director(json!([
        instance(false, &["10.0.0.1/24", "2001:db8::1/64"], &["10.0.0.9/32"]),
        instance(true, &["10.0.0.2/24"], &[]),
    ]));
    assert_eq!(desired.set_director(&both).len(), 4);
    let with = elements(&desired);
    let refused: Vec<_> = with.iter().filter(|element| !without.contains(element)).collect();
    assert_eq!(
        refused,
        [
            "refused4: 10.0.0.1",
            "refused4: 10.0.0.9",
            "refused6: 2001:db8::1",
            "refused6: fe80::200:5eff:fe00:21e"
        ]
    );
    assert_eq!(desired.set_director(&both).len(), 0);
    // A binding that goes takes nothing of it along.
    desired.set(&key("web"), None);
    assert_eq!(elements(&desired).len(), 4);
    // One that is given is the only one.
    let given = director(json!([instance(false, &["fe80::7/64", "10.0.0.1/24"], &[])]));
    assert_eq!(desired.set_director(&given).len(), 4);
    assert_eq!(elements(&desired), ["refused4: 10.0.0.1", "refused6: fe80::7"]);
    assert_eq!(desired.set_director(&director(json!([instance(true, &["10.0.0.1/24"], &[])]))).len(), 2);
    assert!(desired.sets().is_empty(), "no table");
}

#[test]
fn what_a_binding_needs() {
    assert_eq!(wanted_of(json!({})), Vec::<String>::new());
    assert_eq!(
        wanted_of(json!({"sourceNat": "Always"})),
        [
            "source_always4: 192.16.193.30 TCP 80 172.16.193.10",
            "source_always4: 192.16.193.30 TCP 80 172.16.193.40"
        ]
    );
    assert_eq!(
        wanted_of(json!({"sourceNat": "Auto", "realServers": [server("a", "172.16.193.10", json!({})),
            server("b", "172.16.193.40", json!({"forwarding": {"method": "DirectRouting"}}))]})),
        [
            "connected4: 172.16.0.0-172.16.255.255 172.16.193.10",
            "source_auto4: 192.16.193.30 TCP 80 172.16.193.10"
        ]
    );
    assert_eq!(
        wanted_of(
            json!({"sourceNat": "Always", "ports": [{"protocol": "UDP", "port": 0}], "realServers": [server("a", "172.16.193.10", json!({}))]})
        ),
        ["source_always_any4: 192.16.193.30 UDP 172.16.193.10"]
    );
    let mark = |source_nat: &str| {
        json!({"sourceNat": source_nat, "addresses": [], "ports": [], "realServers": [server("a", "172.16.193.10", json!({})), server("b", "2001:db8:1::1", json!({}))],
            "fwmark": {"mark": 7, "families": ["IPv4"], "match": {"addresses": ["10.0.0.1-10.0.0.2"], "ports": [{"protocol": "TCP", "port": 80}]}}})
    };
    assert_eq!(wanted_of(mark("Never")), ["mark4: 10.0.0.1 TCP 80 → 7", "mark4: 10.0.0.2 TCP 80 → 7"]);
    assert_eq!(wanted_of(mark("Always"))[2..], ["source_always_mark4: mark 7 172.16.193.10"]);
}

#[test]
fn two_marks_for_one_address_are_a_conflict_that_the_first_key_wins() {
    let marked = |mark: u32| {
        web(json!({"addresses": [], "ports": [], "fwmark": {"mark": mark, "families": ["IPv4"],
            "match": {"addresses": ["10.0.0.1"], "ports": [{"protocol": "TCP", "port": 80}]}}}))
    };
    let mut desired = Desired::default();
    desired.set(&key("b"), Some(&marked(8)));
    desired.set(&key("a"), Some(&marked(7)));
    assert_eq!(elements(&desired), ["mark4: 10.0.0.1 TCP 80 → 7"]);
    let contested: Vec<_> =
        desired.contested().map(|(element, owner, losers)| (element, owner.clone(), losers)).collect();
    assert_eq!(contested, [("10.0.0.1 TCP 80".to_owned(), key("a"), BTreeSet::from([key("b")]))]);
    desired.set(&key("a"), None);
    assert_eq!(elements(&desired), ["mark4: 10.0.0.1 TCP 80 → 8"]);
}

/// A model of nf_tables with our table in it.
#[derive(Default)]
struct Model {
    observed: Observed,
    events: Events,
    connected: Connected,
    /// Transactions that fail, with this.
    fail: Vec<i32>,
    log: Vec<String>,
    reads: usize,
}

#[derive(Clone, Default)]
struct Shared(Rc<RefCell<Model>>);

impl Io for Shared {
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    fn events(&mut self) -> io::Result<Events> {
        Ok(std::mem::take(&mut self.0.borrow_mut().events))
    }

    fn observe(&mut self) -> io::Result<Observed> {
        let mut model = self.0.borrow_mut();
        model.reads += 1;
        Ok(model.observed.clone())
    }

    fn connected(&mut self, hosts: &BTreeSet<IpAddr>) -> io::Result<Connected> {
        let mut connected = self.0.borrow().connected.clone();
        connected.retain(|host, _| hosts.contains(host));
        Ok(connected)
    }

    fn apply(&mut self, op: &Op) -> io::Result<()> {
        let mut model = self.0.borrow_mut();
        if let Some(errno) = model.fail.pop() {
            return Err(io::Error::from_raw_os_error(errno));
        }
        model.log.push(op.kind().to_owned());
        let held = std::mem::take(&mut model.observed);
        model.observed = match op {
            Op::Change { remove, add } => {
                let mut held = held;
                for (set, entries) in remove {
                    for key in entries.keys() {
                        if held.elements.entry(*set).or_default().remove(key).is_none() {
                            model.observed = held;
                            return Err(io::Error::from_raw_os_error(libc::ENOENT));
                        }
                    }
                }
                for (set, entries) in add {
                    held.elements.entry(*set).or_default().extend(entries.clone());
                }
                held
            }
            Op::Replace(elements) => Observed {
                exists: true,
                intact: Some(elements.keys().copied().collect()),
                elements: elements.clone(),
            },
            Op::Remove => Observed::default(),
        };
        Ok(())
    }
}

type Connect = Box<dyn FnMut() -> io::Result<Shared>>;

struct Bench {
    plane: NatPlane<Shared, Connect>,
    model: Shared,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let model = Shared::default();
        let connected = model.clone();
        let connect: Connect = Box::new(move || Ok(connected.clone()));
        Self { plane: NatPlane::new(connect), model, now: Instant::now() }
    }

    fn after(&mut self, milliseconds: u64) {
        self.now += Duration::from_millis(milliseconds);
        self.plane.turn(&Context { now: self.now, others_done: true, waited_for: &|| false });
    }

    fn start(&mut self, changes: Value) {
        self.plane.configure(&all(&config([("web", web(changes))])));
        self.after(0);
    }

    fn put(&mut self, changes: Value) {
        self.plane.configure(&one("web", Some(web(changes))));
        self.after(1);
    }

    fn log(&self) -> Vec<String> {
        self.model.0.borrow_mut().log.drain(..).collect()
    }

    fn repaired(&mut self) -> u64 {
        self.plane.report().repaired.values().sum()
    }

    fn drift(&mut self, change: impl FnOnce(&mut Observed)) {
        let mut model = self.model.0.borrow_mut();
        change(&mut model.observed);
        model.events.table = true;
    }
}

#[test]
fn a_table_is_made_changed_element_by_element_and_removed() {
    let mut bench = Bench::new();
    bench.start(json!({}));
    assert_eq!(bench.log(), Vec::<String>::new());
    assert!(bench.plane.report().settled);
    bench.put(json!({"sourceNat": "Always"}));
    assert_eq!(bench.log(), ["replace-table"]);
    let reads = bench.model.0.borrow().reads;
    bench.put(json!({"sourceNat": "Always", "realServers": [server("a", "172.16.193.10", json!({}))]}));
    assert_eq!(bench.log(), ["change-elements"]);
    bench.put(
        json!({"sourceNat": "Always", "realServers": [server("a", "172.16.193.10", json!({"weight": 9}))]}),
    );
    assert_eq!(bench.log(), Vec::<String>::new(), "a weight is nothing to netfilter");
    assert_eq!(bench.model.0.borrow().reads, reads, "what we changed ourselves is not read back");
    bench.put(json!({}));
    assert_eq!(bench.log(), ["remove-table"]);
}

#[test]
fn drift_is_put_back_at_the_notification() {
    let mut bench = Bench::new();
    bench.start(json!({"sourceNat": "Always"}));
    bench.log();
    bench.drift(|held| *held = Observed::default());
    bench.after(1);
    assert_eq!(bench.log(), ["replace-table"]);
    bench.drift(|held| held.intact = None);
    bench.after(1);
    assert_eq!(bench.log(), ["replace-table"]);
    bench.drift(|held| held.elements.values_mut().for_each(BTreeMap::clear));
    bench.after(1);
    assert_eq!(bench.log(), ["change-elements"]);
    assert_eq!(bench.repaired(), 3);
    // Without a notification, at the next look.
    bench.model.0.borrow_mut().observed = Observed::default();
    bench.after(61_000);
    assert_eq!(bench.log(), ["replace-table"]);
    bench.after(1_000);
    assert_eq!(bench.log(), Vec::<String>::new());
}

#[test]
fn networks_are_followed_and_bursts_settle() {
    let mut bench = Bench::new();
    bench.model.0.borrow_mut().connected =
        Connected::from([(ip("172.16.193.10"), BTreeSet::from([(ip("172.16.0.0"), ip("172.16.255.255"))]))]);
    bench.start(json!({"sourceNat": "Auto"}));
    assert_eq!(bench.log(), ["replace-table"]);
    let connected =
        |bench: &Bench| bench.model.0.borrow().observed.elements[&Set::Connected(Version::V4)].len();
    assert_eq!(connected(&bench), 1);
    for _ in 0..5 {
        bench.model.0.borrow_mut().events.network = true;
        bench.model.0.borrow_mut().connected = Connected::new();
        bench.after(10);
    }
    assert_eq!(connected(&bench), 1, "not yet");
    bench.after(100);
    assert_eq!(bench.log(), ["change-elements"]);
    assert_eq!(connected(&bench), 0);
    assert_eq!(bench.repaired(), 0, "a network that changes is no drift");
}

#[test]
fn a_failed_transaction_is_made_anew_said_and_tried_again() {
    let mut bench = Bench::new();
    bench.start(json!({"sourceNat": "Always"}));
    bench.log();
    // Somebody took an element away a moment ago, and the notification has not come yet.
    bench.model.0.borrow_mut().observed.elements.values_mut().for_each(BTreeMap::clear);
    bench.put(json!({"sourceNat": "Always", "realServers": []}));
    assert!(bench.plane.report().failures.is_empty(), "{:?}", bench.plane.report().failures);
    bench.model.0.borrow_mut().fail = vec![libc::EOPNOTSUPP; 3];
    bench.put(json!({"sourceNat": "Auto"}));
    let failures = Arc::clone(&bench.plane.report().failures);
    let failure = failures.values().next().unwrap();
    assert_eq!((failure.reason, failure.bindings.contains(&key("web"))), (FailureReason::Missing, true));
    assert!(failure.message.contains("nf_tables"), "{}", failure.message);
    bench.after(1_100);
    assert!(bench.plane.report().failures.is_empty());
    assert_eq!(bench.repaired(), 0);
}

#[test]
fn a_kernel_without_nftables_matters_only_where_it_is_needed() {
    let mut plane: NatPlane<Shared, _> =
        NatPlane::new(|| Err(io::Error::from_raw_os_error(libc::EPROTONOSUPPORT)));
    plane.configure(&all(&config([("web", web(json!({})))])));
    plane.turn(&Context { now: Instant::now(), others_done: true, waited_for: &|| false });
    assert_eq!((plane.report().settled, plane.report().missing.clone()), (true, None));
    plane.configure(&one("web", Some(web(json!({"sourceNat": "Always"})))));
    plane.turn(&Context {
        now: Instant::now() + Duration::from_secs(2),
        others_done: true,
        waited_for: &|| false,
    });
    assert!(plane.report().missing.as_ref().unwrap().contains("nf_tables"));
    assert!(plane.report().failures.values().next().unwrap().bindings.contains(&key("web")));
}

fn small() -> impl Strategy<Value = Vec<(&'static str, Option<Arc<VirtualServiceBindingSpec>>)>> {
    let source_nat = prop_oneof![Just("Never"), Just("Auto"), Just("Always")];
    let service = (1u8..3, source_nat, proptest::collection::btree_set(1u8..4, 0..3), any::<bool>());
    let spec = service.prop_map(|(address, source_nat, servers, marked)| {
        let servers: Vec<_> = servers.iter().map(|number| server(&format!("s{number}"), &format!("10.1.0.{number}"), json!({}))).collect();
        let mut changes = json!({"addresses": [format!("10.0.0.{address}")], "sourceNat": source_nat, "realServers": servers});
        if marked {
            changes["fwmark"] = json!({"mark": address, "families": ["IPv4"], "match": {"addresses": ["10.0.9.9"], "ports": [{"protocol": "TCP", "port": 80}]}});
            changes["addresses"] = json!([]);
            changes["ports"] = json!([]);
        }
        web(changes)
    });
    proptest::collection::vec(
        (prop_oneof![Just("a"), Just("b"), Just("c")], proptest::option::of(spec)),
        1..10,
    )
}

proptest! {
    #[test]
    fn key_by_key_gives_the_same_as_all_at_once_in_the_kernel_too(changes in small()) {
        let connected: Connected = (1..4).map(|number| (ip(&format!("10.1.0.{number}")), BTreeSet::from([(ip("10.1.0.0"), ip("10.1.0.255"))]))).collect();
        let mut by_key = Desired::default();
        by_key.set_connected(&connected);
        let mut config = config([]);
        let mut io = Shared::default();
        for (name, spec) in changes {
            let affected = by_key.set(&key(name), spec.as_ref());
            match spec {
                Some(spec) => config.bindings.insert(key(name), spec),
                None => config.bindings.remove(&key(name)),
            };
            let whole = desired(&config, &connected);
            prop_assert_eq!(elements(&by_key), elements(&whole));
            prop_assert_eq!(by_key.sets(), whole.sets());
            // Only what was said to be affected is looked at, and that is enough.
            let observed = io.observe().unwrap();
            if let Some(op) = plan(Some(&affected), &by_key, &observed) {
                io.apply(&op).unwrap();
            }
            prop_assert_eq!(plan(None, &by_key, &io.observe().unwrap()), None);
        }
    }
}
