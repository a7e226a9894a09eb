use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bascule_crds::VirtualServiceBindingSpec;
use bascule_ipvs::{Command, Error, Service, ServiceId};
use serde_json::json;

use crate::{
    plane::{
        fixture::{all, config, key, one, server, web},
        ipvs::{Drained, IpvsPlane, look::SAMPLES, model::Shared, named, worker::IpvsPlane as Worker},
    },
    reconcile::{
        FailureReason,
        inbox::{Counted, Merged},
        ledger::{Entry, Identity, Ledger},
        runner::{Context, Plane as _, Turn},
    },
};

type Connect = Box<dyn FnMut() -> Result<Shared, Error>>;

pub(super) struct Bench {
    pub(super) plane: Worker<Shared, Connect>,
    pub(super) model: Shared,
    now: Instant,
    directory: tempfile::TempDir,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::with(tempfile::tempdir().unwrap(), Shared::default(), false)
    }

    /// The next agent, with what this one has left in the kernel and in its directory.
    pub(super) fn restart(self) -> Self {
        Self::with(self.directory, self.model, false)
    }

    /// What a former agent would have left of what drains.
    pub(super) fn drained(&self) -> Vec<String> {
        let path = self.directory.path().join("drains");
        let drained: Ledger<Drained> = Ledger::read(&path, &Identity::here().unwrap());
        drained.entries().iter().map(Entry::line).collect()
    }

    fn with(directory: tempfile::TempDir, model: Shared, adopt: bool) -> Self {
        let (ledger, drained) = ledgers(&directory);
        let connected = model.clone();
        let connect: Connect = Box::new(move || Ok(connected.clone()));
        let pause = Box::new(model.clone());
        let plane = IpvsPlane::new(connect, pause, ledger, drained, adopt);
        Self { plane, model, now: Instant::now(), directory }
    }

    /// One turn after so many milliseconds.
    pub(super) fn after(&mut self, milliseconds: u64) -> Turn {
        self.now += Duration::from_millis(milliseconds);
        self.plane.turn(&Context { now: self.now, others_done: true, waited_for: &|| false })
    }

    pub(super) fn start(&mut self, bindings: &[(&str, Arc<VirtualServiceBindingSpec>)]) {
        let config = config(bindings.iter().map(|(name, spec)| (*name, Arc::clone(spec))));
        self.plane.configure(&all(&config));
        self.after(0);
    }

    pub(super) fn put(&mut self, name: &str, spec: Option<Arc<VirtualServiceBindingSpec>>) {
        self.plane.configure(&one(name, spec));
        self.after(1);
    }

    pub(super) fn commands(&mut self) -> Vec<String> {
        self.model.0.borrow_mut().log.drain(..).map(|command| command.to_string()).collect()
    }

    pub(super) fn failures(&mut self) -> Vec<(FailureReason, String)> {
        let failures = &self.plane.report().failures;
        failures.values().map(|failure| (failure.reason, failure.to_string())).collect()
    }

    pub(super) fn by_hand(&mut self, command: &Command) {
        self.model.0.borrow_mut().execute(command).unwrap();
    }

    fn repaired(&mut self) -> u64 {
        self.plane.report().repaired.values().sum()
    }
}

fn ledgers(directory: &tempfile::TempDir) -> (Ledger<ServiceId>, Ledger<Drained>) {
    let (at, here) = (|name| directory.path().join(name), Identity::here().unwrap());
    (Ledger::open(&at("ledger"), &here), Ledger::open(&at("drains"), &here))
}

fn many(count: usize) -> Vec<(String, Arc<VirtualServiceBindingSpec>)> {
    let spec = |number: usize| {
        web(json!({"addresses": [format!("10.{}.{}.{}", number >> 16, number >> 8 & 255, number & 255)]}))
    };
    (0..count).map(|number| (format!("web{number:05}"), spec(number))).collect()
}

pub(super) fn id() -> ServiceId {
    ServiceId::Address {
        protocol: bascule_ipvs::Protocol::Tcp,
        address: "192.16.193.30".parse().unwrap(),
        port: 80,
    }
}

#[test]
fn one_changed_weight_among_many_costs_one_command_and_a_few_questions() {
    let mut bench = Bench::new();
    let bindings = many(500);
    let bindings: Vec<_> = bindings.iter().map(|(name, spec)| (name.as_str(), Arc::clone(spec))).collect();
    bench.start(&bindings);
    assert_eq!(bench.commands().len(), 1500);
    assert!(bench.plane.report().settled);
    let reads = bench.model.0.borrow().reads;
    let changed = json!({"addresses": ["10.0.0.7"], "realServers": [server("srv1", "172.16.193.10", json!({"weight": 9})), server("srv2", "172.16.193.40", json!({}))]});
    bench.put("web00007", Some(web(changed)));
    assert_eq!(bench.commands(), ["change real server 172.16.193.10:80 of TCP 10.0.0.7:80"]);
    assert!(bench.model.0.borrow().reads - reads <= 3, "the work of one object");
}

#[test]
fn a_flush_is_noticed_at_the_next_tick_and_a_quiet_kernel_is_left_alone() {
    let mut bench = Bench::new();
    let bindings = many(300);
    let bindings: Vec<_> = bindings.iter().map(|(name, spec)| (name.as_str(), Arc::clone(spec))).collect();
    bench.start(&bindings);
    bench.commands();
    for _ in 0..30 {
        bench.after(1000);
    }
    assert_eq!(bench.commands(), Vec::<String>::new());
    bench.by_hand(&Command::Flush);
    bench.after(1000);
    assert_eq!(bench.commands().len(), 900);
    assert_eq!(bench.repaired(), 900);
}

#[test]
fn what_was_flushed_is_put_back_in_the_order_in_which_the_kernel_finds_it_soonest() {
    let mut bench = Bench::new();
    let bindings = many(300);
    let bindings: Vec<_> = bindings.iter().map(|(name, spec)| (name.as_str(), Arc::clone(spec))).collect();
    bench.start(&bindings);
    for _ in 0..3 {
        bench.after(500);
        bench.by_hand(&Command::Flush);
        bench.model.0.borrow_mut().walked = 0;
        bench.after(500);
        let model = bench.model.0.borrow();
        assert_eq!((model.table.len(), model.trash.len()), (300, 0));
        assert_eq!(model.walked, 600, "each of them was the first there");
        drop(model);
        for _ in 0..20 {
            bench.after(500);
        }
    }
}

#[test]
fn a_flush_is_noticed_at_once_behind_services_that_fail() {
    let mut bench = Bench::new();
    // Somebody else holds the first fifty.
    for number in 0..50 {
        let id = ServiceId::Address {
            protocol: bascule_ipvs::Protocol::Tcp,
            address: std::net::Ipv4Addr::new(10, 0, 0, number).into(),
            port: 80,
        };
        bench.by_hand(&Command::NewService(Service::new(id, "lc")));
    }
    let bindings = many(300);
    let bindings: Vec<_> = bindings.iter().map(|(name, spec)| (name.as_str(), Arc::clone(spec))).collect();
    bench.start(&bindings);
    assert_eq!(bench.failures().len(), 50);
    bench.commands();
    bench.plane.look_at_nothing_but_samples();
    // All but theirs.
    bench.model.0.borrow_mut().table.retain(|_, (service, _)| service.scheduler == "lc");
    bench.after(500);
    assert_eq!(bench.model.0.borrow().table.len(), 300);
}

#[test]
fn one_service_that_somebody_removes_is_put_back_alone() {
    let mut bench = Bench::new();
    let bindings = many(300);
    let bindings: Vec<_> = bindings.iter().map(|(name, spec)| (name.as_str(), Arc::clone(spec))).collect();
    bench.start(&bindings);
    bench.commands();
    bench.plane.look_at_nothing_but_samples();
    let gone = *bench.model.0.borrow().table.keys().next().unwrap();
    bench.by_hand(&Command::DelService(gone));
    let reads = bench.model.0.borrow().reads;
    bench.after(500);
    assert_eq!(bench.commands().len(), 3, "a service and two real servers");
    assert!(bench.model.0.borrow().reads - reads < 10, "not everything was read");
}

#[test]
fn a_change_waits_for_one_page_of_a_look_only() {
    let mut bench = Bench::new();
    let bindings = many(2_000);
    let bindings: Vec<_> = bindings.iter().map(|(name, spec)| (name.as_str(), Arc::clone(spec))).collect();
    bench.start(&bindings);
    let mut longest = 0;
    for _ in 0..100 {
        bench.now += Duration::from_millis(500);
        let before = bench.model.0.borrow().reads;
        // Something comes with the first page, or the first real servers, that are read.
        let model = bench.model.clone();
        let waited_for = move || model.0.borrow().reads - before > SAMPLES + 1;
        bench.plane.turn(&Context { now: bench.now, others_done: true, waited_for: &waited_for });
        longest = longest.max(bench.model.0.borrow().reads - before);
    }
    assert!(longest <= SAMPLES + 1 + 16, "{longest} questions in one turn that something waited for");
    assert!(longest > SAMPLES, "it looked at all");
    // And yet it comes around: what somebody changed in the last service of the list is found.
    let last = *bench.model.0.borrow().table.keys().next_back().unwrap();
    bench.commands();
    bench.by_hand(&Command::SetService(Service::new(last, "lc")));
    let found = (0..600).any(|_| {
        bench.after(500);
        !bench.commands().is_empty()
    });
    assert!(found);
}

#[test]
fn pages_that_somebody_makes_overlap_or_lack_services_cost_questions_and_change_nothing() {
    let mut bench = Bench::new();
    let bindings = many(300);
    let bindings: Vec<_> = bindings.iter().map(|(name, spec)| (name.as_str(), Arc::clone(spec))).collect();
    bench.start(&bindings);
    bench.commands();
    for round in 0..60_u32 {
        // The list jumps, back or on.
        let position = bench.model.0.borrow().table.keys().nth((round * 37 % 300) as usize).copied();
        bench.model.0.borrow_mut().listed = position;
        bench.after(500);
    }
    assert_eq!(bench.commands(), Vec::<String>::new());
    assert_eq!(bench.repaired(), 0);
}

#[test]
fn any_single_change_is_found_within_the_period_of_a_look() {
    let mut bench = Bench::new();
    bench.start(&[("web", web(json!({})))]);
    bench.commands();
    let held = bench.model.0.borrow().table[&id()].clone();
    let destination = *held.1.values().next().unwrap();
    for (drift, repair) in [
        (Command::DelDestination(id(), destination.id), "add real server"),
        (Command::SetDestination(id(), destination.weight(99)), "change real server"),
        (
            Command::NewDestination(
                id(),
                bascule_ipvs::Destination::new("10.9.9.9".parse().unwrap(), 80, destination.forwarding),
            ),
            "remove real server",
        ),
        (Command::SetService(Service::new(id(), "lc")), "change service"),
        (Command::DelService(id()), "add service"),
    ] {
        let repaired = bench.repaired();
        bench.by_hand(&drift);
        bench.after(1000);
        let commands = bench.commands();
        assert!(commands.first().is_some_and(|command| command.starts_with(repair)), "{drift}: {commands:?}");
        assert_eq!(bench.repaired(), repaired + commands.len() as u64);
        assert_eq!(bench.model.0.borrow().table[&id()], held);
    }
}

#[test]
fn a_service_that_fails_is_tried_again_ever_less_often_and_at_once_when_it_changes() {
    let mut bench = Bench::new();
    bench.model.0.borrow_mut().unknown_scheduler = Some("mh".into());
    bench.start(&[
        ("bad", web(json!({"scheduler": {"name": "mh"}}))),
        ("good", web(json!({"addresses": ["10.0.0.1"]}))),
    ]);
    assert_eq!(bench.model.0.borrow().table.len(), 1, "the good one is there");
    let failures = bench.failures();
    assert_eq!(failures.len(), 1);
    assert!(failures[0].1.starts_with("TCP 192.16.193.30:80: cannot add service"), "{failures:?}");
    bench.commands();
    let mut attempts = 0;
    for _ in 0..600 {
        bench.after(1000);
        attempts += usize::from(!bench.commands().is_empty());
    }
    assert!((8..=18).contains(&attempts), "{attempts} attempts in ten minutes");
    assert_eq!(bench.repaired(), 0, "an attempt is no drift");
    bench.model.0.borrow_mut().unknown_scheduler = None;
    bench.put("bad", Some(web(json!({"scheduler": {"name": "mh"}, "realServers": []}))));
    assert_eq!(bench.failures(), []);
    assert_eq!(bench.model.0.borrow().table.len(), 2);
}

#[test]
fn a_service_that_somebody_adds_right_before_us_is_seen_as_theirs() {
    let mut bench = Bench::new();
    bench.model.0.borrow_mut().meanwhile.push_back(vec![Command::NewService(Service::new(id(), "lc"))]);
    bench.start(&[("web", web(json!({})))]);
    let failures = bench.failures();
    assert_eq!(failures.len(), 1);
    assert_eq!(failures[0].0, FailureReason::Conflict);
    assert_eq!(bench.model.0.borrow().table[&id()].0.scheduler, "lc");
    assert!(bench.model.0.borrow().table[&id()].1.is_empty(), "our real servers are not left in it");
    // It stays theirs also when we no longer want the address.
    bench.put("web", None);
    assert!(bench.model.0.borrow().table.contains_key(&id()));
}

#[test]
fn only_what_we_put_into_somebody_elses_service_is_taken_out_of_it_and_if_need_be_later() {
    let mut bench = Bench::new();
    {
        // Their real server stands where one of ours would: the kernel says that it is there.
        let mut model = bench.model.0.borrow_mut();
        let theirs = bascule_ipvs::Destination::new(
            "172.16.193.10".parse().unwrap(),
            80,
            bascule_ipvs::Forwarding::Masquerade,
        );
        model.meanwhile.push_back(vec![
            Command::NewService(Service::new(id(), "lc")),
            Command::NewDestination(id(), theirs.weight(7)),
        ]);
        // The kernel does not answer the command that takes ours out.
        model.lost_at = Some(2);
    }
    bench.start(&[("web", web(json!({})))]);
    assert_eq!(bench.model.0.borrow().table[&id()].1.len(), 2);
    bench.after(1100);
    let model = bench.model.0.borrow();
    let (service, held) = &model.table[&id()];
    let weights: Vec<_> = held.values().map(|held| held.weight).collect();
    assert_eq!((service.scheduler.as_str(), weights), ("lc", vec![7]));
    drop(model);
    assert_eq!(bench.failures()[0].0, FailureReason::Conflict);
}

#[test]
fn whoever_adopts_takes_a_service_over_that_somebody_adds_right_before_us() {
    let mut bench = Bench::with(tempfile::tempdir().unwrap(), Shared::default(), true);
    bench.model.0.borrow_mut().meanwhile.push_back(vec![Command::NewService(Service::new(id(), "lc"))]);
    bench.start(&[("web", web(json!({})))]);
    assert_eq!(bench.failures(), []);
    let model = bench.model.0.borrow();
    assert_eq!((model.table[&id()].0.scheduler.as_str(), model.table[&id()].1.len()), ("rr", 2));
}

#[test]
fn what_is_said_of_failures_is_made_anew_only_for_changes_that_may_concern_them() {
    let mut bench = Bench::new();
    bench.by_hand(&Command::NewService(Service::new(id(), "lc")));
    let mail = || web(json!({"addresses": ["10.0.0.25"]}));
    bench.start(&[("web", web(json!({}))), ("mail", mail())]);
    let said = Arc::clone(&bench.plane.report().failures);
    let bindings = |bench: &mut Bench| {
        let failures = Arc::clone(&bench.plane.report().failures);
        let all: std::collections::BTreeSet<_> =
            failures.values().flat_map(|failure| failure.bindings.clone()).collect();
        all.iter().map(|key| key.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(bindings(&mut bench), ["web"]);
    bench.put("mail", Some(web(json!({"addresses": ["10.0.0.26"]}))));
    assert!(Arc::ptr_eq(&said, &bench.plane.report().failures), "nobody asked for it");
    // Another binding takes the address: the same failure, of somebody else.
    bench.plane.configure(&Merged {
        serial: 3,
        bindings: [(key("web"), None), (key("other"), Some(web(json!({}))))].into(),
        ..Merged::default()
    });
    bench.after(1);
    assert_eq!(bindings(&mut bench), ["other"]);
    // One that cannot be carried out, and then can.
    let unsound = json!({"addresses": ["10.0.0.25"], "realServers": [server("srv1", "10.1.0.1", json!({"targetPorts": []}))]});
    bench.put("mail", Some(web(unsound)));
    assert_eq!(bindings(&mut bench), ["mail", "other"]);
    bench.put("mail", Some(mail()));
    assert_eq!(bindings(&mut bench), ["other"]);
    // Two for one address.
    bench.put("news", Some(mail()));
    assert_eq!(bindings(&mut bench), ["news", "other"]);
    bench.put("news", None);
    bench.put("other", None);
    assert_eq!(bench.failures(), []);
}

#[test]
fn what_goes_under_our_hands_is_put_right_at_once() {
    let mut bench = Bench::new();
    bench.start(&[("web", web(json!({})))]);
    bench.commands();
    bench.model.0.borrow_mut().meanwhile.push_back(vec![Command::Flush]);
    bench.put("web", Some(web(json!({"scheduler": {"name": "wlc"}}))));
    assert_eq!(bench.failures(), []);
    let model = bench.model.0.borrow();
    let (service, destinations) = &model.table[&id()];
    assert_eq!((service.scheduler.as_str(), destinations.len()), ("wlc", 2));
}

#[test]
fn losing_the_kernel_is_said_and_survived() {
    let mut bench = Bench::new();
    bench.model.0.borrow_mut().lost = 1;
    bench.start(&[("web", web(json!({})))]);
    assert!(!bench.plane.report().settled);
    assert!(bench.plane.report().last_error.as_ref().unwrap().contains("no answer"));
    bench.after(1100);
    assert!(bench.plane.report().settled);
    assert_eq!(bench.model.0.borrow().table.len(), 1);
}

#[test]
fn a_change_is_not_done_while_the_kernel_is_lost() {
    let mut bench = Bench::new();
    bench.start(&[("web", web(json!({})))]);
    bench.model.0.borrow_mut().lost = 2;
    bench.plane.configure(&one("web", Some(web(json!({"scheduler": {"name": "lc"}})))));
    assert!(!bench.after(1).done, "nothing was written");
    assert_eq!(bench.plane.report().missing, None, "it may be for once");
    assert!(!bench.after(100).done, "nor is it before the next attempt");
    bench.after(1000);
    assert!(bench.plane.report().missing.as_ref().is_some_and(|missing| missing.contains("no answer")));
    let turn = bench.after(2000);
    assert!(turn.done);
    assert_eq!(bench.plane.report().missing, None);
    assert_eq!(bench.model.0.borrow().table[&id()].0.scheduler, "lc");
}

#[test]
fn without_ipvs_it_says_what_is_missing_stays_up_and_works_once_it_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let (ledger, drained) = ledgers(&directory);
    let model = Shared::default();
    let (connected, mut attempts) = (model.clone(), 0);
    let connect = move || {
        attempts += 1;
        if attempts < 4 {
            Err(Error::Missing { advice: "modprobe ip_vs".into() })
        } else {
            Ok(connected.clone())
        }
    };
    let mut plane = IpvsPlane::new(connect, Box::new(model.clone()), ledger, drained, false);
    plane.configure(&all(&config([("web", web(json!({})))])));
    let mut now = Instant::now();
    let mut waits = Vec::new();
    for _ in 0..4 {
        let turn = plane.turn(&Context { now, others_done: true, waited_for: &|| false });
        assert!(turn.done, "as far as possible");
        let missing = plane.report().missing.clone();
        if let Some(missing) = missing {
            assert!(missing.contains("modprobe ip_vs"), "{missing}");
            waits.push((turn.next.unwrap() - now).as_secs());
        }
        now = turn.next.unwrap();
    }
    assert_eq!(waits, [1, 2, 4]);
    assert_eq!(plane.report().missing, None);
    assert!(plane.report().settled);
    assert_eq!(model.0.borrow().table.len(), 1);
}

#[test]
fn without_ipvs_nothing_is_missing_where_nobody_wants_a_service() {
    let directory = tempfile::tempdir().unwrap();
    let (ledger, drained) = ledgers(&directory);
    let connect = || Err::<Shared, _>(Error::Missing { advice: "modprobe ip_vs".into() });
    let mut plane = IpvsPlane::new(connect, Box::new(Shared::default()), ledger, drained, false);
    let now = Instant::now();
    let turn = |plane: &mut IpvsPlane<Shared, _>| {
        let turn = plane.turn(&Context { now, others_done: true, waited_for: &|| false });
        (turn.done, plane.report().settled, plane.report().missing.is_some())
    };
    plane.configure(&all(&config([])));
    assert_eq!(turn(&mut plane), (true, true, false));
    // At once, without trying again.
    plane.configure(&one("web", Some(web(json!({})))));
    assert_eq!(turn(&mut plane), (true, true, true));
    plane.configure(&one("web", None));
    assert_eq!(turn(&mut plane), (true, true, false));
}

#[test]
fn a_new_agent_removes_what_the_ledger_says_is_ours_and_nothing_else() {
    let mut first = Bench::new();
    first.start(&[("web", web(json!({}))), ("mail", web(json!({"addresses": ["10.0.0.25"]})))]);
    let foreign = ServiceId::Fwmark { mark: 9, family: bascule_ipvs::Family::Ipv4 };
    first.by_hand(&Command::NewService(Service::new(foreign, "rr")));
    first.commands();
    let mut second = Bench::with(first.directory, first.model, false);
    second.start(&[("web", web(json!({})))]);
    assert_eq!(second.commands(), ["remove service TCP 10.0.0.25:80"]);
    assert!(second.model.0.borrow().table.contains_key(&foreign));
    assert_eq!(second.repaired(), 0);
}

#[test]
fn bindings_that_are_not_in_a_new_whole_configuration_go() {
    let mut bench = Bench::new();
    bench.start(&[("web", web(json!({}))), ("mail", web(json!({"addresses": ["10.0.0.25"]})))]);
    bench.commands();
    bench.start(&[("mail", web(json!({"addresses": ["10.0.0.25"]})))]);
    assert_eq!(bench.commands(), ["remove service TCP 192.16.193.30:80"]);
}

#[test]
fn a_service_with_a_refused_real_server_is_ours_all_the_same() {
    let mut first = Bench::new();
    first.model.0.borrow_mut().refused_address = Some("172.16.193.40".parse().unwrap());
    first.start(&[("web", web(json!({})))]);
    assert_eq!(first.failures().len(), 1);
    let mut second = Bench::with(first.directory, first.model, false);
    second.start(&[]);
    assert_eq!(second.model.0.borrow().table.len(), 0);
}

#[test]
fn ten_thousand_services_are_no_trouble() {
    let mut bench = Bench::new();
    let bindings = many(10_000);
    let bindings: Vec<_> = bindings.iter().map(|(name, spec)| (name.as_str(), Arc::clone(spec))).collect();
    let started = Instant::now();
    bench.start(&bindings);
    eprintln!("programmed in {:?}", started.elapsed());
    assert_eq!(bench.model.0.borrow().table.len(), 10_000);
    let started = Instant::now();
    bench.start(&bindings);
    eprintln!("nothing changed: {:?}", started.elapsed());
    // Quadratic work would take minutes.
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn counters_of_a_big_table_come_from_the_looks() {
    let mut bench = Bench::new();
    let bindings = many(400);
    let bindings: Vec<_> = bindings.iter().map(|(name, spec)| (name.as_str(), Arc::clone(spec))).collect();
    bench.start(&bindings);
    let reads = bench.model.0.borrow().reads;
    for _ in 0..60 {
        bench.after(1000);
    }
    assert!(bench.model.0.borrow().reads > reads);
    let Counted::Services(figures) = bench.plane.figures(bench.now) else { panic!("of services") };
    let counters = named(&figures, bench.now);
    assert_eq!(counters.services.len(), 400);
    assert_eq!(counters.services[7].binding, crate::plane::fixture::key("web00007"));
    assert_eq!(counters.services[7].destinations[0].name, "srv1");
    assert!(counters.age <= Duration::from_secs(60));
}
