//! What is wanted, planned, done and reported, against a model of the kernel.

mod ending;

use std::{
    cell::RefCell,
    io,
    os::fd::BorrowedFd,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{encode, *};
use crate::{
    plane::{
        fixture::{all, config, key, one_rule, rule},
        nftables::NEW_RULE,
    },
    reconcile::{
        FailureReason,
        inbox::{Counted, Merged},
        runner::{Context, Plane as _},
    },
};

fn forward(port: u16, changes: &Value) -> Value {
    let mut forward = json!({"inInterface": "eth0", "protocol": "TCP", "port": port, "to": "172.16.193.30"});
    for (field, value) in changes.as_object().unwrap() {
        forward[field] = value.clone();
    }
    json!({"portForward": forward})
}

fn web(port: u16) -> Arc<NatRuleBindingSpec> {
    rule(forward(port, &json!({})), None)
}

fn table<'a>(rules: impl IntoIterator<Item = (&'a str, Value)>) -> Table {
    rules.into_iter().map(|(name, value)| (key(name), serde_json::from_value(value).unwrap())).collect()
}

/// The expressions of the rules that a table becomes, by chain in their order.
fn written(rules: &Table) -> Vec<Vec<String>> {
    let messages = encode::replace(rules, &BTreeMap::new());
    let rules = messages.iter().filter(|(kind, ..)| *kind == NEW_RULE);
    rules.map(|(_, _, message)| encode::expressions(message)).collect()
}

#[test]
fn each_kind_becomes_the_rules_that_it_needs() {
    let vrrp = "meta cmp immediate";
    let to = "objref immediate immediate nat";
    let in_by = format!("meta cmp meta cmp fib cmp meta cmp payload cmp {to}");
    let to_address = format!("meta cmp fib cmp payload cmp meta cmp payload cmp {to}");
    for (what, value, expected) in [
        ("of an interface: not what the machine sends itself", forward(80, &json!({})), vec![vrrp, &in_by]),
        (
            "of an address: that, too",
            forward(80, &json!({"inInterface": null, "address": "192.16.193.20"})),
            vec![vrrp, &to_address, vrrp, &to_address],
        ),
        (
            "anybody's IPv4, but not its own",
            json!({"masquerade": {"outInterface": "eth0"}}),
            vec![vrrp, "meta cmp meta cmp fib cmp objref masq"],
        ),
        (
            "networks: the narrowest first, one of them everything, one an address, one told twice",
            json!({"masquerade": {"outInterface": "eth0", "sources": ["::/0", "10.0.0.0/8", "10.0.0.1/32", "10.9.9.9/8"]}}),
            vec![
                vrrp,
                "meta cmp meta cmp payload cmp objref masq",
                "meta cmp meta cmp payload bitwise cmp objref masq",
                "meta cmp meta cmp objref masq",
            ],
        ),
        (
            "a certain source",
            json!({"sourceNat": {"outInterface": "eth0", "address": "192.16.193.20"}}),
            vec![vrrp, "meta cmp meta cmp fib cmp objref immediate nat"],
        ),
        (
            "both ways, and for the machine itself",
            json!({"staticNat": {"outside": "2001:db8::1", "inside": "fd00::1"}}),
            [vrrp, "meta cmp payload cmp objref immediate nat"].repeat(3),
        ),
    ] {
        let mut value = value;
        if let Some(forward) = value.get_mut("portForward").and_then(Value::as_object_mut) {
            forward.retain(|_, value| !value.is_null());
        }
        let lines: Vec<_> = written(&table([("a", value)])).iter().map(|line| line.join(" ")).collect();
        assert_eq!(lines, expected, "{what}");
    }
    assert_eq!(written(&Table::new()), Vec::<Vec<String>>::new());
}

#[test]
fn counters_have_names_that_the_kernel_takes_and_no_two_the_same() {
    assert_eq!(encode::counter(&key("web")), "rule/tp/web");
    let long = |last: char| BindingKey::new(&"n".repeat(63), &format!("{}{last}", "w".repeat(252)));
    let (one, other) = (encode::counter(&long('a')), encode::counter(&long('b')));
    assert!(one.len() < 256 && one != other, "{one} {other}");
}

#[test]
fn a_rule_of_a_group_comes_and_goes_with_it() {
    let mut desired = Desired::default();
    desired.set(&key("always"), Some(&web(80)));
    desired.set(&key("group"), Some(&rule(forward(81, &json!({})), Some("front"))));
    let names = |table: Table| table.keys().map(|key| key.name.to_string()).collect::<Vec<_>>();
    let held = table([("group", forward(81, &json!({})))]);
    let role = |active| Roles::from([("front".into(), active)]);
    assert_eq!(names(desired.table(&Table::new())), ["always"], "not known: it does not come");
    assert_eq!(names(desired.table(&held)), ["always", "group"], "not known: it stays");
    assert_eq!(desired.resting(), BTreeSet::from([key("group")]));
    assert!(desired.set_roles(&role(true)) && !desired.set_roles(&role(true)));
    assert_eq!(names(desired.table(&Table::new())), ["always", "group"]);
    assert_eq!(desired.resting(), BTreeSet::new());
    assert!(desired.set_roles(&role(false)));
    assert_eq!(names(desired.table(&held)), ["always"]);
    desired.set_roles(&Roles::from([("other".into(), true)]));
    // Long after the start, nothing known is not active.
    let mut late = Desired::default();
    late.set(&key("group"), Some(&rule(forward(81, &json!({})), Some("front"))));
    assert!(late.settle() && !late.settle());
    assert_eq!(names(late.table(&held)), Vec::<String>::new());
}

/// A model of the kernel with our table in it.
#[derive(Default)]
struct Model {
    observed: Observed,
    changed: bool,
    /// Transactions, and ends, that fail with this.
    fail: Vec<i32>,
    fail_end: Vec<i32>,
    log: Vec<String>,
    ended: Vec<String>,
}

#[derive(Clone, Default)]
struct Shared(Rc<RefCell<Model>>);

impl Io for Shared {
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    fn changed(&mut self) -> io::Result<bool> {
        Ok(std::mem::take(&mut self.0.borrow_mut().changed))
    }

    fn observe(&mut self) -> io::Result<Observed> {
        Ok(self.0.borrow().observed.clone())
    }

    fn apply(&mut self, op: &Op, ending: &Table) -> io::Result<()> {
        let mut model = self.0.borrow_mut();
        if let Some(errno) = model.fail.pop() {
            return Err(io::Error::from_raw_os_error(errno));
        }
        model.log.push(op.kind().to_owned());
        let exists = matches!(op, Op::Replace { .. });
        model.observed = Observed { exists, intact: exists, rules: op.rules(), ending: ending.clone() };
        Ok(())
    }

    fn end(&mut self, gone: &Table, _standing: &Table) -> io::Result<usize> {
        let mut model = self.0.borrow_mut();
        if let Some(errno) = model.fail_end.pop() {
            return Err(io::Error::from_raw_os_error(errno));
        }
        model.ended.extend(gone.keys().map(|key| key.name.to_string()));
        model.observed.ending.clear();
        Ok(gone.len())
    }

    fn counts(&mut self) -> io::Result<BTreeMap<BindingKey, Count>> {
        let model = self.0.borrow();
        let count = Count { packets: 7, bytes: 420 };
        Ok(model.observed.rules.keys().map(|key| (key.clone(), count)).collect())
    }
}

type Connect = Box<dyn FnMut() -> io::Result<Shared>>;

struct Bench {
    plane: NatRulesPlane<Shared, Connect>,
    model: Shared,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        Self::on(Shared::default())
    }

    /// A process that starts on what another one left.
    fn on(model: Shared) -> Self {
        let connected = model.clone();
        let connect: Connect = Box::new(move || Ok(connected.clone()));
        Self { plane: NatRulesPlane::new(connect), model, now: Instant::now() }
    }

    fn after(&mut self, milliseconds: u64) {
        self.now += Duration::from_millis(milliseconds);
        self.plane.turn(&Context { now: self.now, others_done: true, waited_for: &|| false });
    }

    fn start(&mut self, rules: &[(&str, Arc<NatRuleBindingSpec>)]) {
        let mut config = config([]);
        config.nat_rules = rules.iter().map(|(name, rule)| (key(name), Arc::clone(rule))).collect();
        self.plane.configure(&all(&config));
        self.after(0);
    }

    fn put(&mut self, name: &str, rule: Option<Arc<NatRuleBindingSpec>>) {
        self.plane.configure(&one_rule(name, rule));
        self.after(1);
    }

    fn role(&mut self, group: &str, active: bool) {
        let roles = Roles::from([(group.into(), active)]);
        self.plane.configure(&Merged { roles, ..Merged::default() });
        self.after(1);
    }

    fn log(&self) -> Vec<String> {
        self.model.0.borrow_mut().log.drain(..).collect()
    }

    fn ended(&self) -> Vec<String> {
        self.model.0.borrow_mut().ended.drain(..).collect()
    }

    fn repaired(&mut self) -> u64 {
        self.plane.report().repaired.values().sum()
    }
}

#[test]
fn a_table_is_made_replaced_and_removed_and_connections_end() {
    let mut bench = Bench::new();
    bench.start(&[]);
    assert_eq!(bench.log(), Vec::<String>::new());
    assert!(bench.plane.report().settled);
    bench.put("a", Some(web(80)));
    assert_eq!((bench.log(), bench.ended()), (vec!["replace-table".to_owned()], vec![]));
    bench.put("b", Some(web(81)));
    assert_eq!((bench.log(), bench.ended()), (vec!["replace-table".to_owned()], vec![]));
    bench.put("b", Some(web(81)));
    assert_eq!(bench.log(), Vec::<String>::new(), "the same again");
    bench.put("b", Some(web(82)));
    assert_eq!((bench.log(), bench.ended()), (vec!["replace-table".to_owned()], vec!["b".to_owned()]));
    bench.put("a", None);
    assert_eq!((bench.log(), bench.ended()), (vec!["replace-table".to_owned()], vec!["a".to_owned()]));
    let Counted::NatRules(counts) = bench.plane.figures(bench.now) else { panic!("of rules") };
    assert_eq!(counts, BTreeMap::from([(key("b"), Count { packets: 7, bytes: 420 })]));
    bench.put("b", None);
    assert_eq!((bench.log(), bench.ended()), (vec!["remove-table".to_owned()], vec!["b".to_owned()]));
    assert_eq!(bench.repaired(), 0);
    bench.after(61_000);
    assert_eq!(bench.log(), Vec::<String>::new());
}

#[test]
fn drift_is_put_back_and_ends_nothing() {
    let mut bench = Bench::new();
    bench.start(&[("a", web(80))]);
    bench.log();
    let drift = |bench: &mut Bench, exists: bool| {
        let mut model = bench.model.0.borrow_mut();
        (model.observed.exists, model.observed.intact, model.changed) = (exists, false, true);
    };
    drift(&mut bench, false);
    bench.after(1);
    drift(&mut bench, true);
    bench.after(1);
    assert_eq!(bench.log(), ["replace-table", "replace-table"]);
    // Without a notification, at the next look.
    bench.model.0.borrow_mut().observed.intact = false;
    bench.after(61_000);
    assert_eq!((bench.log(), bench.repaired()), (vec!["replace-table".to_owned()], 3));
    assert_eq!(bench.ended(), Vec::<String>::new());
    // A table of our name that is not wanted.
    bench.put("a", None);
    bench.log();
    drift(&mut bench, true);
    bench.after(1);
    assert_eq!(bench.log(), ["remove-table"]);
}

#[test]
fn a_group_takes_its_rules_along_and_a_restart_takes_nothing() {
    let follows = || rule(forward(80, &json!({})), Some("front"));
    let mut bench = Bench::new();
    bench.role("front", true);
    assert_eq!(bench.log(), Vec::<String>::new(), "nothing is configured yet");
    bench.start(&[("a", follows())]);
    assert_eq!(bench.log(), ["replace-table"]);
    assert!(bench.plane.report().resting.is_empty());
    bench.role("front", true);
    assert_eq!(bench.log(), Vec::<String>::new());
    // Another process, and nothing is known of the group yet.
    let mut second = Bench::on(bench.model.clone());
    second.start(&[("a", follows())]);
    second.after(1_000);
    assert_eq!(second.log(), Vec::<String>::new());
    second.role("front", false);
    assert_eq!((second.log(), second.ended()), (vec!["remove-table".to_owned()], vec!["a".to_owned()]));
    assert_eq!(*second.plane.report().resting, BTreeSet::from([key("a")]));
    second.role("front", true);
    assert_eq!(second.log(), ["replace-table"]);
    // One of which nothing becomes known.
    let mut third = Bench::on(second.model.clone());
    third.start(&[("a", follows())]);
    third.after(59_000);
    assert_eq!(third.log(), Vec::<String>::new());
    third.after(2_000);
    assert_eq!(third.log(), ["remove-table"]);
}

#[test]
fn what_fails_is_said_and_tried_again() {
    let mut bench = Bench::new();
    bench.start(&[("a", web(80))]);
    bench.log();
    // Somebody changed the table a moment ago, and the notification has not come yet.
    bench.model.0.borrow_mut().fail = vec![libc::EBUSY];
    bench.put("a", Some(web(81)));
    assert!(bench.plane.report().failures.is_empty());
    assert_eq!((bench.log(), bench.ended()), (vec!["replace-table".to_owned()], vec!["a".to_owned()]));
    bench.model.0.borrow_mut().fail = vec![libc::EOPNOTSUPP; 3];
    bench.put("b", Some(web(82)));
    let failures = Arc::clone(&bench.plane.report().failures);
    let failure = failures.values().next().unwrap();
    assert_eq!(failure.reason, FailureReason::Missing);
    assert!(failure.nat_rules.contains(&key("b")) && failure.message.contains("nft_nat"), "{failure:?}");
    bench.after(1_100);
    assert!(bench.plane.report().failures.is_empty());
    assert_eq!(bench.log(), ["replace-table"]);
    // Connections that cannot be ended at once end later, or are given up.
    bench.model.0.borrow_mut().fail_end = vec![libc::EBUSY];
    bench.put("b", None);
    assert_eq!((bench.log(), bench.ended()), (vec!["replace-table".to_owned()], vec![]));
    bench.after(1_100);
    assert_eq!((bench.log(), bench.ended()), (vec![], vec!["b".to_owned()]));
    bench.model.0.borrow_mut().fail_end = vec![libc::EBUSY; 100];
    bench.put("a", None);
    for _ in 0..20 {
        bench.after(60_000);
    }
    assert_eq!(bench.model.0.borrow().fail_end.len(), 95, "five times");
    // A crash between the transaction and the end: the next process does it.
    let model = Shared::default();
    model.0.borrow_mut().observed.ending = table([("c", forward(80, &json!({})))]);
    let mut next = Bench::on(model);
    next.start(&[]);
    assert_eq!(next.ended(), ["c"]);
}

#[test]
fn a_kernel_without_nftables_matters_only_where_it_is_needed() {
    let mut plane: NatRulesPlane<Shared, _> =
        NatRulesPlane::new(|| Err(io::Error::from_raw_os_error(libc::EPROTONOSUPPORT)));
    plane.configure(&all(&config([])));
    let now = Instant::now();
    plane.turn(&Context { now, others_done: true, waited_for: &|| false });
    assert_eq!((plane.report().settled, plane.report().missing.clone()), (true, None));
    plane.configure(&one_rule("a", Some(web(80))));
    let now = now + Duration::from_secs(2);
    plane.turn(&Context { now, others_done: true, waited_for: &|| false });
    assert!(plane.report().missing.as_ref().unwrap().contains("nf_tables"));
    assert!(plane.report().failures.values().next().unwrap().nat_rules.contains(&key("a")));
}

#[test]
fn operations_say_what_they_do() {
    let op = Op::Replace {
        rules: table([
            ("a", forward(80, &json!({"toPort": 8080, "address": "192.16.193.20"}))),
            ("b", json!({"masquerade": {"outInterface": "eth0", "sources": ["172.16.0.0/16"]}})),
            ("c", json!({"sourceNat": {"outInterface": "eth0", "address": "192.16.193.21"}})),
        ]),
        ending: table([("d", json!({"staticNat": {"outside": "192.16.193.22", "inside": "172.16.193.10"}}))]),
    };
    assert_eq!(
        op.to_string(),
        "make table inet bascule_nat anew with [tp/a: TCP port 80 of 192.16.193.20 on eth0 → 172.16.193.30 port 8080] \
         [tp/b: masquerade out of eth0 172.16.0.0/16] [tp/c: 192.16.193.21 as source out of eth0]; ends the connections of \
         [tp/d: 192.16.193.22 ↔ 172.16.193.10]"
    );
    assert_eq!(Op::Remove { ending: Table::new() }.to_string(), "remove table inet bascule_nat");
}

#[derive(Clone, Debug)]
enum Step {
    Put(&'static str, Option<(u16, bool)>),
    Role(bool),
    Drift,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let name = prop_oneof![Just("a"), Just("b"), Just("c")];
    prop_oneof![
        6 => (name, proptest::option::of((80u16..83, any::<bool>()))).prop_map(|(name, rule)| Step::Put(name, rule)),
        3 => any::<bool>().prop_map(Step::Role),
        1 => Just(Step::Drift),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #[test]
    fn after_every_step_there_is_nothing_left_to_do(steps in proptest::collection::vec(step(), 1..20)) {
        let mut bench = Bench::new();
        bench.start(&[]);
        bench.role("front", false);
        let mut rules: BTreeMap<&str, Arc<NatRuleBindingSpec>> = BTreeMap::new();
        let mut active = false;
        for step in steps {
            match step {
                Step::Put(name, wanted) => {
                    let made = wanted.map(|(port, follows)| rule(forward(port, &json!({})), follows.then_some("front")));
                    match &made {
                        Some(rule) => drop(rules.insert(name, Arc::clone(rule))),
                        None => drop(rules.remove(name)),
                    }
                    bench.put(name, made);
                }
                Step::Role(now) => {
                    active = now;
                    bench.role("front", now);
                }
                Step::Drift => {
                    let mut model = bench.model.0.borrow_mut();
                    (model.observed.exists, model.observed.intact, model.changed) = (false, false, true);
                    drop(model);
                    bench.after(1);
                }
                Step::Restart => {
                    bench = Bench::on(bench.model.clone());
                    let all: Vec<_> = rules.iter().map(|(name, rule)| (*name, Arc::clone(rule))).collect();
                    bench.start(&all);
                    bench.role("front", active);
                }
            }
            let held = bench.model.0.borrow().observed.clone();
            let wanted: Table = rules
                .iter()
                .filter(|(_, rule)| active || rule.vrrp_group.is_none())
                .map(|(name, rule)| (key(name), rule.translation.clone()))
                .collect();
            prop_assert_eq!(&held.rules, &wanted);
            prop_assert_eq!(held.exists, !wanted.is_empty());
            bench.log();
            bench.model.0.borrow_mut().changed = true;
            bench.after(1);
            prop_assert_eq!(bench.log(), Vec::<String>::new());
        }
    }
}
