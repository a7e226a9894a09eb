//! What is wanted, planned, done and reported, against a model of the kernel.

use std::{cell::RefCell, collections::BTreeSet, io, os::fd::BorrowedFd, rc::Rc, time::Instant};

use bascule_crds::DirectorConfigSpec;
use bascule_ipvs::{Daemon, DaemonRole, Error};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    plane::fixture::{all, config, web},
    reconcile::{
        FailureReason,
        inbox::Merged,
        ledger::{Identity, Ledger},
        runner::{Context, Plane as _},
    },
};

fn director(sync: Value) -> DirectorConfigSpec {
    let mut spec = json!({"director": "dir1"});
    if !sync.is_null() {
        spec["connectionSync"] = sync;
    }
    serde_json::from_value(spec).unwrap()
}

fn wanted(more: Value) -> Wanted {
    let mut sync = json!({"interface": "eth1", "syncId": 51});
    for (field, value) in more.as_object().unwrap() {
        sync[field] = value.clone();
    }
    desired(&director(sync)).unwrap()
}

/// What the kernel makes of a daemon that it is told to start, and reports (`start_sync_thread`, Linux 6.1), on a link of this
/// MTU.
fn started_by_kernel(daemon: &Daemon, mtu: u16) -> Daemon {
    let mut held = daemon.clone();
    held.group.get_or_insert(GROUP);
    held.port.get_or_insert(PORT);
    held.ttl.get_or_insert(1);
    let headers = if held.group.unwrap().is_ipv4() { 28 } else { 48 };
    let (mtu, shortest) = match held.role {
        DaemonRole::Backup => (mtu.max(1500), 1024),
        DaemonRole::Master => (1500, 1),
    };
    held.max_length =
        Some(held.max_length.map_or(mtu - headers, |length| length.clamp(shortest, u16::MAX - headers)));
    held
}

proptest! {
    /// Applied, there is nothing left to do, whatever is left to the kernel.
    #[test]
    fn what_was_started_is_what_is_wanted(
        length in proptest::option::of(1u16..=65_507), six: bool, port in proptest::option::of(1u16..),
        ttl in proptest::option::of(1u8..), mtu in 68u16..,
    ) {
        let wanted = wanted(json!({
            "maxLength": length, "port": port, "ttl": ttl, "group": six.then_some("ff02::51"),
        }));
        let daemons = ROLES.map(|role| started_by_kernel(&wanted.daemon(role), mtu)).to_vec();
        let observed = Observed { daemons, link: Some(3) };
        prop_assert_eq!(plan(Some(&wanted), &observed, |_| Some(3)), Plan::default());
    }
}

#[test]
fn a_line_of_the_ledger_reads_back() {
    for note in [Note::Daemon { role: 1, index: 7 }, Note::Guard("ab12".into())] {
        assert_eq!(Note::parse(&note.line()), Some(note));
    }
    for line in ["", "daemon 1", "daemon x 1", "guard", "guard ", "daemon 1 2 3"] {
        assert_eq!(Note::parse(line), None, "{line}");
    }
}

#[test]
fn only_a_real_difference_replaces_a_daemon() {
    let usual = wanted(json!({}));
    let held = |role| started_by_kernel(&usual.daemon(role), 1500);
    let both = || Observed { daemons: ROLES.map(held).to_vec(), link: Some(3) };
    let words = |plan: &Plan| plan.ops.iter().map(ToString::to_string).collect::<Vec<_>>();
    let nobody = |_: DaemonRole| None;
    assert_eq!(
        plan(Some(&usual), &both(), nobody),
        Plan::default(),
        "started by somebody else, but as wanted"
    );
    for (what, more, replaced) in [
        ("another id", json!({"syncId": 52}), 2),
        ("another group", json!({"group": "239.1.1.1"}), 2),
        ("another port", json!({"port": 8849}), 2),
        ("another interface", json!({"interface": "eth2"}), 2),
        ("a TTL, which only a sender has", json!({"ttl": 2}), 1),
        ("short messages: the receiver still takes long ones", json!({"maxLength": 100}), 1),
        ("longer messages", json!({"maxLength": 4000}), 2),
    ] {
        let plan = plan(Some(&wanted(more)), &both(), nobody);
        assert_eq!(plan.ops.len(), 2 * replaced, "{what}: {:?}", words(&plan));
    }
    let mut observed = both();
    observed.daemons.retain(|daemon| daemon.role == DaemonRole::Backup);
    assert_eq!(
        words(&plan(Some(&usual), &observed, nobody)),
        ["start the master daemon on eth1, syncId 51, group 224.0.0.81 port 8848"]
    );
    let anew = plan(Some(&usual), &both(), |_| Some(2));
    assert_eq!(anew.ops.len(), 4, "an interface of the same name but another index");
    let gone = Observed { link: None, ..both() };
    let other = wanted(json!({"syncId": 9}));
    assert_eq!(plan(Some(&other), &gone, nobody).homeless.len(), 2, "the old ones run on");
    assert_eq!(plan(Some(&other), &gone, nobody).ops, []);
    assert_eq!(plan(None, &both(), nobody), Plan::default(), "somebody else's stay");
    let ours = plan(None, &both(), |role| (role == DaemonRole::Master).then_some(3));
    assert_eq!(words(&ours), ["stop the master daemon (connectionSync is no longer wanted)"]);
}

#[derive(Default)]
struct Model {
    daemons: Vec<Daemon>,
    link: Option<u32>,
    refuses: bool,
    applied: Vec<Op>,
    guard: guard::Observed,
    no_nftables: bool,
    guard_changed: bool,
    guard_deaf: bool,
    guard_ops: Vec<guard::Op>,
}

#[derive(Clone, Default)]
struct Shared(Rc<RefCell<Model>>);

impl Io for Shared {
    type Guard = Shared;

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn changed(&mut self) -> io::Result<bool> {
        Ok(false)
    }

    fn observe(&mut self, interface: Option<&str>) -> Result<Observed, Error> {
        let model = self.0.borrow();
        Ok(Observed { daemons: model.daemons.clone(), link: model.link.filter(|_| interface.is_some()) })
    }

    fn apply(&mut self, op: &Op) -> Result<(), (FailureReason, String)> {
        let mut model = self.0.borrow_mut();
        if model.refuses {
            return Err((FailureReason::Refused, "no".into()));
        }
        model.applied.push(op.clone());
        match op {
            Op::Start(daemon, _) => {
                assert!(model.daemons.iter().all(|held| held.role != daemon.role), "EEXIST");
                model.daemons.push(started_by_kernel(daemon, 1500));
            }
            Op::Stop(role, _) => model.daemons.retain(|held| held.role != *role),
        }
        Ok(())
    }

    fn guard(&mut self) -> io::Result<Shared> {
        if self.0.borrow().no_nftables {
            return Err(io::Error::from_raw_os_error(libc::EPROTONOSUPPORT));
        }
        Ok(self.clone())
    }
}

impl guard::Io for Shared {
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn changed(&mut self) -> io::Result<bool> {
        let mut model = self.0.borrow_mut();
        if std::mem::take(&mut model.guard_deaf) {
            model.guard_changed = false;
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        Ok(std::mem::take(&mut model.guard_changed))
    }

    fn observe(&mut self, ours: &dyn Fn(&str) -> bool) -> io::Result<guard::Observed> {
        let mut observed = self.0.borrow().guard.clone();
        observed.intact &= ours("seal");
        Ok(observed)
    }

    fn apply(&mut self, op: &guard::Op) -> io::Result<Option<String>> {
        let mut model = self.0.borrow_mut();
        model.guard.after(op);
        model.guard_ops.push(op.clone());
        Ok(matches!(op, guard::Op::Replace { .. }).then(|| "seal".to_owned()))
    }

    fn dropped(&mut self) -> io::Result<Option<u64>> {
        Ok(Some(0))
    }
}

struct Bench {
    kernel: Shared,
    plane: SyncPlane<Shared, Box<dyn FnMut() -> io::Result<Shared>>>,
    now: Instant,
    directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self::with(Shared::default(), tempfile::tempdir().unwrap())
    }

    fn with(kernel: Shared, directory: tempfile::TempDir) -> Self {
        kernel.0.borrow_mut().link = Some(3);
        let ledger = Ledger::open(&directory.path().join("ledger"), &Identity::here().unwrap());
        let io = kernel.clone();
        let connect: Box<dyn FnMut() -> io::Result<Shared>> = Box::new(move || Ok(io.clone()));
        Self { kernel, plane: SyncPlane::new(connect, ledger), now: Instant::now(), directory }
    }

    fn restarted(self) -> Self {
        Self::with(self.kernel, self.directory)
    }

    fn tell(&mut self, sync: Value) {
        let change = Merged { serial: 1, director: Some(director(sync)), ..Merged::default() };
        self.plane.configure(&change);
        self.pass();
    }

    /// A turn, some seconds later than the last.
    fn pass(&mut self) -> Option<Instant> {
        self.now = self.now.max(Instant::now()) + std::time::Duration::from_secs(3);
        self.plane.turn(&Context { now: self.now, others_done: true, waited_for: &|| false }).next
    }

    fn applied(&self) -> Vec<String> {
        std::mem::take(&mut self.kernel.0.borrow_mut().applied).iter().map(ToString::to_string).collect()
    }

    fn failures(&mut self) -> Vec<String> {
        self.plane.report().failures.values().map(ToString::to_string).collect()
    }
}

fn sync() -> Value {
    json!({"interface": "eth1", "syncId": 51})
}

#[test]
fn both_run_always_and_come_back() {
    let mut bench = Bench::new();
    bench.tell(sync());
    assert_eq!(bench.applied().len(), 2);
    assert_eq!(bench.plane.report().repaired.len(), 0);
    assert!(bench.pass().is_some(), "looks again");
    assert_eq!(bench.applied().len(), 0);
    bench.kernel.0.borrow_mut().daemons.clear();
    bench.pass();
    assert_eq!(bench.applied().len(), 2);
    assert_eq!(bench.plane.report().repaired["start-sync-daemon"], 2);
    // Its successor knows which are its own.
    let mut bench = bench.restarted();
    bench.tell(sync());
    assert_eq!(bench.applied().len(), 0);
    bench.tell(Value::Null);
    assert_eq!(bench.applied().len(), 2);
    assert_eq!(bench.pass(), None, "nothing to look after");
}

#[test]
fn what_somebody_else_started_stays_without_connection_sync() {
    let mut bench = Bench::new();
    let daemon = started_by_kernel(&wanted(json!({"syncId": 5})).daemon(DaemonRole::Master), 1500);
    bench.kernel.0.borrow_mut().daemons.push(daemon);
    bench.tell(Value::Null);
    assert_eq!(bench.applied().len(), 0);
    bench.tell(sync());
    assert_eq!(bench.applied().len(), 3, "the kernel has one master: it is replaced");
}

#[test]
fn a_missing_interface_is_said_and_noticed_when_it_comes() {
    let mut bench = Bench::new();
    bench.kernel.0.borrow_mut().link = None;
    bench.tell(sync());
    let failures = bench.failures();
    assert_eq!(failures.len(), 2, "{failures:?}");
    assert!(failures.iter().all(|failure| failure.contains("no interface eth1")), "{failures:?}");
    assert!(bench.plane.report().missing.is_none(), "the director is ready all the same");
    bench.kernel.0.borrow_mut().link = Some(8);
    bench.pass();
    assert_eq!((bench.applied().len(), bench.failures()), (2, vec![]));
    // Made anew under the same name: the daemons would neither send nor hear.
    bench.kernel.0.borrow_mut().link = Some(9);
    bench.pass();
    assert_eq!(bench.applied().len(), 4);
}

#[test]
fn a_refusal_is_said_and_tried_again() {
    let mut bench = Bench::new();
    bench.kernel.0.borrow_mut().refuses = true;
    bench.tell(sync());
    assert_eq!(bench.failures().len(), 2);
    bench.kernel.0.borrow_mut().refuses = false;
    for _ in 0..10 {
        bench.pass();
    }
    assert_eq!((bench.applied().len(), bench.failures()), (2, vec![]));
}

#[test]
fn the_guard_is_there_with_connection_sync_only_and_put_back() {
    let mut bench = Bench::new();
    let mut config = config([
        ("web", web(json!({"vrrpGroup": "front"}))),
        ("alone", web(json!({"addresses": ["192.16.193.31"]}))),
    ]);
    bench.plane.configure(&all(&config));
    bench.pass();
    assert!(!bench.kernel.0.borrow().guard.exists);
    config.director = director(sync());
    bench.plane.configure(&all(&config));
    bench.pass();
    let one = BTreeSet::from([(
        guard::Set::Ports(crate::plane::nat::Version::V4),
        vec![192, 16, 193, 30, 0, 80, 0, 0],
    )]);
    assert_eq!(bench.kernel.0.borrow().guard.services, one, "not that of a director alone");
    bench.kernel.0.borrow_mut().guard = guard::Observed::default();
    bench.kernel.0.borrow_mut().guard_changed = true;
    bench.pass();
    assert_eq!(bench.kernel.0.borrow().guard.services, one);
    assert_eq!(bench.plane.report().repaired["replace-guard"], 1);
    // What happened while nobody could hear is looked for.
    bench.kernel.0.borrow_mut().guard = guard::Observed::default();
    bench.kernel.0.borrow_mut().guard_deaf = true;
    bench.pass();
    assert_eq!(bench.kernel.0.borrow().guard.services, one);
    assert_eq!(bench.plane.report().repaired["replace-guard"], 2);
    // The next one finds it as it should be.
    bench.kernel.0.borrow_mut().guard_ops.clear();
    let mut bench = bench.restarted();
    bench.plane.configure(&all(&config));
    bench.pass();
    assert_eq!(bench.kernel.0.borrow().guard_ops, []);
    bench.tell(Value::Null);
    assert!(!bench.kernel.0.borrow().guard.exists);
}

#[test]
fn without_nftables_the_daemons_run_all_the_same() {
    let mut bench = Bench::new();
    bench.kernel.0.borrow_mut().no_nftables = true;
    bench.tell(sync());
    assert_eq!(bench.applied().len(), 2);
    let failures = bench.failures();
    assert!(failures.len() == 1 && failures[0].contains("nft_socket"), "{failures:?}");
    bench.kernel.0.borrow_mut().no_nftables = false;
    bench.pass();
    assert_eq!(bench.failures(), Vec::<String>::new());
}
