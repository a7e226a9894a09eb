//! What is wanted, planned, done and reported, against a model of the kernel.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    os::fd::BorrowedFd,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use bascule_crds::VirtualServiceBindingSpec;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    plane::fixture::{all, config, key, one, server, web},
    reconcile::{
        FailureReason,
        ledger::{Identity, Ledger},
        runner::{Context, Plane as _, Turn},
    },
};

const NOBODY: u8 = 0;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn held(place: &Place, mark: u8) -> Held {
    Held { prefix: place.prefix(), flags: flags(place), mark, preferred: preferred(place), valid: FOREVER }
}

fn on(interface: &str, addresses: &[&str]) -> Arc<VirtualServiceBindingSpec> {
    web(json!({"interface": interface, "addresses": addresses,
        "realServers": [server("a", "10.1.0.1", json!({})), server("b", "2001:db8:1::1", json!({}))]}))
}

/// A machine with enp0s3 (2) and lo (1).
fn machine() -> Observed {
    Observed { links: BTreeMap::from([(1, "lo".into()), (2, "enp0s3".into())]), addresses: BTreeMap::new() }
}

fn plan_all(desired: &Desired, observed: &Observed, noted: &[Place], marks: bool) -> Plan {
    let mut scope: BTreeSet<Place> = desired.places().keys().cloned().collect();
    scope.extend(observed.marked());
    scope.extend(noted.iter().cloned());
    plan(&scope, desired, observed, |place| noted.contains(place), marks)
}

fn texts(plan: &Plan) -> Vec<String> {
    plan.ops.iter().map(ToString::to_string).collect()
}

#[test]
fn addresses_of_a_binding_and_of_its_mark() {
    let places = |spec: Arc<VirtualServiceBindingSpec>| {
        let desired = desired(&config([("web", spec)]));
        desired.places().keys().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        places(on("enp0s3", &["192.16.193.30-192.16.193.31", "2001:db8::30"])),
        ["192.16.193.30/32 on enp0s3", "192.16.193.31/32 on enp0s3", "2001:db8::30/128 on enp0s3"]
    );
    assert_eq!(
        places(web(json!({}))),
        Vec::<String>::new(),
        "without an interface addresses are somebody else's matter"
    );
    let mark = json!({"interface": "enp0s3", "addresses": [], "ports": [], "fwmark": {"mark": 7, "families": ["IPv4"],
        "match": {"addresses": ["192.16.193.30"], "ports": [{"protocol": "TCP", "port": 80}]}}});
    assert_eq!(places(web(mark)), ["192.16.193.30/32 on enp0s3"]);
}

#[test]
fn a_table_of_states_and_what_is_done() {
    let place = Place::new("enp0s3", ip("192.16.193.30"));
    let six = Place::new("enp0s3", ip("2001:db8::30"));
    let wanted = desired(&config([("web", on("enp0s3", &["192.16.193.30", "2001:db8::30"]))]));
    let with = |four: Vec<Held>, sixes: Vec<Held>| {
        let mut observed = machine();
        observed.addresses.insert((place.address, 2), four);
        observed.addresses.insert((six.address, 2), sixes);
        observed
    };
    let ours = || with(vec![held(&place, MARK)], vec![held(&six, MARK)]);
    assert_eq!(
        texts(&plan_all(&wanted, &machine(), &[], true)),
        ["add 192.16.193.30/32 on enp0s3", "add 2001:db8::30/128 on enp0s3"]
    );
    assert_eq!(texts(&plan_all(&wanted, &ours(), &[], true)), Vec::<String>::new());
    assert_eq!(
        texts(&plan_all(&Desired::default(), &ours(), &[], true)),
        ["remove 192.16.193.30/32 from enp0s3", "remove 2001:db8::30/128 from enp0s3"]
    );
    // Somebody else's, with any prefix: used, and left there.
    let theirs = with(vec![Held { prefix: 24, ..held(&place, NOBODY) }], vec![held(&six, 2)]);
    assert_eq!(texts(&plan_all(&wanted, &theirs, &[], true)), Vec::<String>::new());
    assert_eq!(
        texts(&plan_all(&Desired::default(), &theirs, std::slice::from_ref(&place), true)),
        Vec::<String>::new()
    );
    // A kernel that keeps no marks: the ledger knows.
    let unmarked = with(vec![held(&place, NOBODY)], vec![held(&six, NOBODY)]);
    assert_eq!(
        texts(&plan_all(&Desired::default(), &unmarked, std::slice::from_ref(&place), false)),
        ["remove 192.16.193.30/32 from enp0s3"]
    );
    assert_eq!(
        texts(&plan_all(&Desired::default(), &unmarked, std::slice::from_ref(&place), true)),
        Vec::<String>::new()
    );
    // Each property that drifts is put right in place.
    for (what, four, sixes) in [
        ("valid", Held { valid: 60, ..held(&place, MARK) }, held(&six, MARK)),
        ("preferred", Held { preferred: 60, ..held(&place, MARK) }, held(&six, MARK)),
        ("preferred6", held(&place, MARK), Held { preferred: FOREVER, ..held(&six, MARK) }),
        ("tentative", held(&place, MARK), Held { flags: TENTATIVE, ..held(&six, MARK) }),
        ("duplicate", held(&place, MARK), Held { flags: DAD_FAILED, ..held(&six, MARK) }),
    ] {
        let plan = plan_all(&wanted, &with(vec![four], vec![sixes]), &[], true);
        assert_eq!(plan.ops.len(), 1, "{what}");
        assert!(matches!(plan.ops[0], Op::Change { .. }), "{what}: {:?}", plan.ops);
    }
    // Ours with a wrong prefix is replaced: the new one first.
    let wide = with(vec![Held { prefix: 24, ..held(&place, MARK) }], vec![held(&six, MARK)]);
    assert_eq!(
        texts(&plan_all(&wanted, &wide, &[], true)),
        ["add 192.16.193.30/32 on enp0s3", "remove 192.16.193.30/24 from enp0s3"]
    );
}

#[test]
fn an_address_that_moves_is_there_before_it_goes() {
    let old = Place::new("lo", ip("192.16.193.30"));
    let mut observed = machine();
    observed.addresses.insert((old.address, 1), vec![held(&old, MARK)]);
    let wanted = desired(&config([("web", on("enp0s3", &["192.16.193.30"]))]));
    assert_eq!(
        texts(&plan_all(&wanted, &observed, &[], true)),
        ["add 192.16.193.30/32 on enp0s3", "remove 192.16.193.30/32 from lo"]
    );
}

#[test]
fn a_missing_interface_is_named() {
    let wanted = desired(&config([("web", on("enp0s8", &["192.16.193.30"]))]));
    let plan = plan_all(&wanted, &machine(), &[], true);
    assert_eq!((plan.ops.len(), plan.homeless.len()), (0, 1));
    assert!(homeless(plan.homeless.first().unwrap()).contains("enp0s8"));
}

/// A model of the kernel's addresses.
#[derive(Default)]
struct Model {
    observed: Observed,
    events: Vec<Event>,
    lost: bool,
    refuse: Option<i32>,
    /// The next attempts to hear notifications fail.
    deaf: usize,
    log: Vec<String>,
}

impl Model {
    fn happens(&mut self, event: Event) {
        self.observed.update(&event);
        self.events.push(event);
    }
}

#[derive(Clone, Default)]
struct Shared(Rc<RefCell<Model>>);

impl Io for Shared {
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn events(&mut self) -> io::Result<(Vec<Event>, bool)> {
        let mut model = self.0.borrow_mut();
        if model.deaf > 0 {
            model.deaf -= 1;
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        let lost = std::mem::take(&mut model.lost);
        Ok((std::mem::take(&mut model.events), lost))
    }

    fn observe(&mut self) -> io::Result<Observed> {
        Ok(self.0.borrow().observed.clone())
    }

    fn apply(&mut self, op: &Op) -> io::Result<()> {
        let mut model = self.0.borrow_mut();
        if let Some(errno) = model.refuse {
            return Err(io::Error::from_raw_os_error(errno));
        }
        model.log.push(op.to_string());
        let event = match op {
            Op::Add { place, index } | Op::Change { place, index } => {
                let exists = model.observed.addresses.get(&(place.address, *index));
                let exists = exists.is_some_and(|held| held.iter().any(|held| held.prefix == place.prefix()));
                if exists && matches!(op, Op::Add { .. }) {
                    return Err(io::Error::from_raw_os_error(libc::EEXIST));
                }
                Event::Address { address: place.address, index: *index, held: held(place, MARK) }
            }
            Op::Remove { place, index, prefix } => {
                Event::AddressGone { address: place.address, index: *index, prefix: *prefix }
            }
        };
        model.happens(event);
        Ok(())
    }
}

type Connect = Box<dyn FnMut() -> io::Result<Shared>>;

struct Bench {
    plane: AddressPlane<Shared, Connect>,
    model: Shared,
    now: Instant,
    _directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let model = Shared::default();
        model.0.borrow_mut().observed = machine();
        let connected = model.clone();
        let ledger = Ledger::open(&directory.path().join("ledger"), &Identity::here().unwrap());
        let connect: Connect = Box::new(move || Ok(connected.clone()));
        Self { plane: AddressPlane::new(connect, ledger), model, now: Instant::now(), _directory: directory }
    }

    fn after(&mut self, milliseconds: u64, others_done: bool) -> Turn {
        self.now += Duration::from_millis(milliseconds);
        self.plane.turn(&Context { now: self.now, others_done, waited_for: &|| false })
    }

    fn start(&mut self, spec: Arc<VirtualServiceBindingSpec>) {
        self.plane.configure(&all(&config([("web", spec)])));
        self.after(0, true);
    }

    fn log(&self) -> Vec<String> {
        self.model.0.borrow_mut().log.drain(..).collect()
    }

    fn repaired(&mut self) -> u64 {
        self.plane.report().repaired.values().sum()
    }
}

#[test]
fn a_new_address_waits_for_its_service_but_not_for_ever() {
    let mut bench = Bench::new();
    bench.plane.configure(&all(&config([("web", on("enp0s3", &["192.16.193.30"]))])));
    let turn = bench.after(0, false);
    assert!(!turn.done && turn.next.is_some());
    assert!(bench.plane.report().pending.contains(&key("web")));
    assert_eq!(bench.log(), Vec::<String>::new());
    let turn = bench.after(5, true);
    assert!(turn.done && bench.plane.report().settled);
    assert!(bench.plane.report().pending.is_empty());
    assert_eq!(bench.log(), ["add 192.16.193.30/32 on enp0s3"]);
    // A repair waits for nobody; a change whose service hangs does not wait for ever.
    bench.plane.configure(&one("mail", Some(on("enp0s3", &["192.16.193.31"]))));
    bench.model.0.borrow_mut().happens(Event::AddressGone {
        address: ip("192.16.193.30"),
        index: 2,
        prefix: 32,
    });
    bench.after(1, false);
    assert_eq!(bench.log(), ["add 192.16.193.30/32 on enp0s3"]);
    let turn = bench.after(10_000, false);
    assert!(turn.done);
    assert_eq!(bench.log(), ["add 192.16.193.31/32 on enp0s3"]);
    assert_eq!(bench.repaired(), 1);
}

#[test]
fn a_change_is_not_done_while_the_kernel_is_lost() {
    let mut bench = Bench::new();
    bench.start(on("enp0s3", &["192.16.193.30"]));
    bench.log();
    bench.model.0.borrow_mut().deaf = 2;
    bench.plane.configure(&one("web", None));
    assert!(!bench.after(1, true).done);
    assert!(!bench.after(1, true).done);
    bench.after(1_000, true);
    assert!(bench.plane.report().missing.is_some(), "for the second time");
    assert!(bench.after(2_000, true).done);
    assert_eq!(bench.plane.report().missing, None);
    assert_eq!(bench.log(), ["remove 192.16.193.30/32 from enp0s3"]);
}

#[test]
fn notifications_are_answered_and_our_own_are_not() {
    let mut bench = Bench::new();
    bench.start(on("enp0s3", &["192.16.193.30"]));
    bench.log();
    for _ in 0..3 {
        bench.after(10, true);
    }
    assert_eq!(bench.log(), Vec::<String>::new());
    let place = Place::new("enp0s3", ip("192.16.193.30"));
    let changed = Held { valid: 60, preferred: 60, ..held(&place, MARK) };
    bench.model.0.borrow_mut().happens(Event::Address { address: place.address, index: 2, held: changed });
    bench.after(1, true);
    assert_eq!(bench.log(), ["change 192.16.193.30/32 on enp0s3"]);
    // Lost notifications: everything is read anew.
    {
        let mut model = bench.model.0.borrow_mut();
        model.observed.addresses.clear();
        model.lost = true;
    }
    bench.after(1, true);
    assert_eq!(bench.log(), ["add 192.16.193.30/32 on enp0s3"]);
    assert_eq!(bench.repaired(), 2);
    // Addresses that are nobody's business of ours.
    let other = Place::new("enp0s3", ip("10.0.0.1"));
    bench.model.0.borrow_mut().happens(Event::Address {
        address: other.address,
        index: 2,
        held: held(&other, 0),
    });
    bench.after(1, true);
    assert_eq!(bench.log(), Vec::<String>::new());
}

#[test]
fn an_interface_that_comes_late_or_is_renamed() {
    let mut bench = Bench::new();
    bench.model.0.borrow_mut().observed.links.remove(&2);
    bench.start(on("enp0s3", &["192.16.193.30"]));
    let failures = Arc::clone(&bench.plane.report().failures);
    let failure = failures.values().next().unwrap();
    assert_eq!((failure.reason, failure.bindings.contains(&key("web"))), (FailureReason::Missing, true));
    bench.model.0.borrow_mut().happens(Event::Link { index: 9, name: "eth7".into() });
    bench.after(1, true);
    assert_eq!(bench.log(), Vec::<String>::new());
    bench.model.0.borrow_mut().happens(Event::Link { index: 9, name: "enp0s3".into() });
    bench.after(1, true);
    assert_eq!(bench.log(), ["add 192.16.193.30/32 on enp0s3"]);
    assert!(bench.plane.report().failures.is_empty());
    assert_eq!(bench.repaired(), 0, "an interface that comes is no drift");
    bench.model.0.borrow_mut().happens(Event::Link { index: 9, name: "lan".into() });
    bench.after(1, true);
    assert_eq!(bench.plane.report().failures.len(), 1);
}

#[test]
fn what_the_kernel_refuses_is_tried_again() {
    let mut bench = Bench::new();
    bench.model.0.borrow_mut().refuse = Some(libc::EACCES);
    bench.start(on("enp0s3", &["2001:db8::30"]));
    let failures = Arc::clone(&bench.plane.report().failures);
    let failure = failures.values().next().unwrap();
    assert!(failure.message.contains("disable_ipv6"), "{}", failure.message);
    bench.model.0.borrow_mut().refuse = None;
    bench.after(1_100, true);
    assert_eq!(bench.log(), ["add 2001:db8::30/128 on enp0s3"]);
    assert!(bench.plane.report().failures.is_empty());
}

fn small() -> impl Strategy<Value = Vec<(&'static str, Option<Arc<VirtualServiceBindingSpec>>)>> {
    let spec = (
        prop_oneof![Just("lo"), Just("enp0s3"), Just("gone")],
        proptest::collection::btree_set(1u8..4, 1..3),
    );
    let spec = spec.prop_map(|(interface, numbers)| {
        let addresses: Vec<_> = numbers.iter().map(|number| format!("10.0.0.{number}")).collect();
        on(interface, &addresses.iter().map(String::as_str).collect::<Vec<_>>())
    });
    proptest::collection::vec(
        (prop_oneof![Just("a"), Just("b"), Just("c")], proptest::option::of(spec)),
        0..10,
    )
}

proptest! {
    #[test]
    fn key_by_key_gives_the_same_as_all_at_once(changes in small()) {
        let mut by_key = Desired::default();
        let mut config = config([]);
        for (name, spec) in changes {
            let before = by_key.places().keys().cloned().collect::<BTreeSet<_>>();
            let affected = by_key.set(&key(name), spec.as_ref());
            match spec {
                Some(spec) => config.bindings.insert(key(name), spec),
                None => config.bindings.remove(&key(name)),
            };
            prop_assert_eq!(&by_key, &desired(&config));
            let after = by_key.places().keys().cloned().collect::<BTreeSet<_>>();
            prop_assert!(before.symmetric_difference(&after).all(|place| affected.contains(place)));
        }
    }

    #[test]
    fn applying_the_plan_gives_what_is_wanted_and_spares_what_is_not_ours(
        changes in small(), held_ones in proptest::collection::btree_map((1u8..4, 1u32..3), (prop_oneof![Just(32u8), Just(24)], prop_oneof![Just(NOBODY), Just(2), Just(MARK)], any::<bool>()), 0..6),
    ) {
        let mut config = config([]);
        config.bindings.extend(changes.into_iter().filter_map(|(name, spec)| Some((key(name), spec?))));
        let wanted = desired(&config);
        let mut io = Shared::default();
        io.0.borrow_mut().observed = machine();
        for ((number, index), (prefix, mark, broken)) in &held_ones {
            let held = Held { prefix: *prefix, flags: 0, mark: *mark, preferred: FOREVER, valid: if *broken { 9 } else { FOREVER } };
            io.0.borrow_mut().observed.update(&Event::Address { address: ip(&format!("10.0.0.{number}")), index: *index, held });
        }
        let foreign = |observed: &Observed| {
            let mut all: Vec<_> = observed.addresses.iter().flat_map(|(place, held)| held.iter().map(move |held| (*place, held.clone()))).collect();
            all.retain(|(_, held)| held.mark != MARK);
            all
        };
        let observed = io.observe().unwrap();
        let before = foreign(&observed);
        let made = plan_all(&wanted, &observed, &[], true);
        for op in &made.ops {
            io.apply(op).unwrap();
        }
        let now = io.observe().unwrap();
        prop_assert_eq!(foreign(&now), before);
        for place in wanted.places().keys().filter(|place| !made.homeless.contains(*place)) {
            let index = if place.interface.as_ref() == "lo" { 1 } else { 2 };
            prop_assert!(now.addresses.contains_key(&(place.address, index)));
        }
        for place in now.marked() {
            prop_assert!(wanted.places().contains_key(&place));
        }
        prop_assert_eq!(plan_all(&wanted, &now, &[], true).ops, vec![]);
    }
}
