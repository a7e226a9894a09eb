use std::sync::Arc;
use std::time::{Duration, Instant};

use bascule_checks_core::Health;
use bascule_checks_core::Time;
use bascule_checks_core::pool::{Families, Pool, Reading, Server, Standing};
use bascule_crds::VirtualServiceBindingSpec;
use bascule_ipvs::{Destination, Forwarding};
use serde_json::{Value, json};

use super::working::{Bench, id};
use crate::{
    plane::{
        fixture::{all, config, key, server, web},
        ipvs::{Clock, Drained, Drains, desired_after},
    },
    reconcile::{Lives, inbox::Merged, runner::Plane as _},
};

/// The service without srv2, with a time to drain.
fn only_srv1(more: Value) -> Arc<VirtualServiceBindingSpec> {
    let mut fields =
        json!({"drainTimeout": "10s", "realServers": [server("srv1", "172.16.193.10", json!({}))]});
    for (field, value) in more.as_object().unwrap() {
        fields[field] = value.clone();
    }
    web(fields)
}

const REMOVED: &str = "remove real server 172.16.193.40:80 of TCP 192.16.193.30:80";

/// An agent in which srv2 has just begun to drain.
fn draining() -> Bench {
    let mut bench = Bench::new();
    bench.start(&[("web", web(json!({})))]);
    bench.put("web", Some(only_srv1(json!({}))));
    bench.commands();
    bench
}

#[test]
fn a_removed_server_drains() {
    let mut bench = Bench::new();
    bench.start(&[("web", web(json!({})))]);
    bench.commands();
    bench.put("web", Some(only_srv1(json!({}))));
    assert_eq!(bench.commands(), ["change real server 172.16.193.40:80 of TCP 192.16.193.30:80"]);
    // It is put back as it is, also when another change comes.
    bench.put("web", Some(only_srv1(json!({"scheduler": {"name": "wlc"}}))));
    assert_eq!(bench.commands().len(), 1, "the scheduler");
    // The model has no connections: once one could have come to be, it goes.
    bench.after(2_000);
    assert_eq!(bench.commands(), ["remove real server 172.16.193.40:80 of TCP 192.16.193.30:80"]);
    // What comes back meanwhile drains no longer; without a time nothing drains.
    bench.put("web", Some(web(json!({}))));
    bench.put("web", Some(only_srv1(json!({}))));
    bench.put("web", Some(web(json!({}))));
    bench.after(2_000);
    bench.commands();
    bench.put("web", Some(only_srv1(json!({"drainTimeout": "0s"}))));
    assert_eq!(bench.commands(), ["remove real server 172.16.193.40:80 of TCP 192.16.193.30:80"]);
}

#[test]
fn what_drains_goes_on_draining_in_the_next_agent() {
    let bench = draining();
    assert_eq!(bench.drained().len(), 1, "{:?}", bench.drained());
    let mut bench = bench.restart();
    bench.start(&[("web", only_srv1(json!({})))]);
    assert_eq!(bench.commands(), Vec::<String>::new(), "it stays, with weight 0");
    // And in the next but one, whose first configuration is another.
    let mut bench = bench.restart();
    bench.start(&[("web", only_srv1(json!({"scheduler": {"name": "wlc"}, "drainTimeout": "0s"})))]);
    assert_eq!(bench.commands().len(), 1, "the scheduler");
    bench.after(2_000);
    assert_eq!(bench.commands(), [REMOVED]);
    assert_eq!(bench.drained(), Vec::<String>::new());
    let mut bench = bench.restart();
    bench.start(&[("web", only_srv1(json!({"scheduler": {"name": "wlc"}})))]);
    assert_eq!(bench.commands(), Vec::<String>::new());
}

#[test]
fn what_came_back_while_no_agent_ran_drains_no_longer() {
    // Alive.
    let mut bench = draining().restart();
    bench.start(&[("web", web(json!({})))]);
    assert_eq!(bench.commands().len(), 1, "its weight");
    assert_eq!(bench.drained(), Vec::<String>::new());
    // And dead: its connections are to end now.
    let mut bench = draining().restart();
    let reading = |health| vec![Reading { health, weight: None }];
    let servers = [Health::Up, Health::Down].map(|health| Server {
        weight: 1,
        drain: false,
        families: Families::IPV4,
        checks: reading(health),
    });
    let judged = Pool { servers: servers.into(), ..Pool::default() }.judge(Standing::Met);
    let live = [(key("web"), Arc::new(judged))].into();
    bench.plane.configure(&Merged { live, ..all(&config([("web", web(json!({})))])) });
    bench.after(0);
    assert_eq!(bench.commands(), [REMOVED]);
    assert_eq!(bench.drained(), Vec::<String>::new());
}

#[test]
fn what_drains_goes_with_its_service() {
    let mut bench = draining().restart();
    bench.start(&[("mail", web(json!({"addresses": ["10.0.0.25"]})))]);
    assert!(bench.commands().contains(&"remove service TCP 192.16.193.30:80".to_owned()));
    assert_eq!(bench.drained(), Vec::<String>::new());
    bench.after(2_000);
    assert_eq!(bench.failures(), []);
}

#[test]
fn time_goes_on_while_no_agent_runs_and_a_plan_knows_what_drains() {
    let clock = Clock::now();
    let now = Instant::now();
    let destination = Destination::new([172, 16, 193, 40].into(), 80, Forwarding::Masquerade);
    let wanted = |until: Time| {
        let drained = Drained::new(id(), &destination, until);
        let config = config([("web", only_srv1(json!({})))]);
        let mut desired = desired_after(Drains::restore([&drained], &clock), &config, &Lives::new(), now);
        let wanted = desired.services()[&id()].wanted.destinations.clone();
        let ended = desired.end_drain(id(), &[], now + Duration::from_millis(1), Duration::from_secs(60));
        (wanted, ended)
    };
    let (planned, ended) = wanted(clock.time(now) + Duration::from_secs(10));
    assert_eq!(planned.iter().map(|one| one.weight).collect::<Vec<_>>(), [1, 0]);
    assert!(!ended, "ten seconds are left");
    let (_, ended) = wanted(Time::from_nanos(1));
    assert!(ended, "its time was up before this agent began");
}
