//! New connections wait while the kernel changes a scheduler.

use std::sync::Arc;

use bascule_crds::VirtualServiceBindingSpec;
use bascule_ipvs::{Command, Service};
use serde_json::{Value, json};

use super::working::{Bench, id};
use crate::plane::fixture::{server, web};

fn scheduled(by: &str, more: Value) -> Arc<VirtualServiceBindingSpec> {
    let mut changes = json!({"scheduler": {"name": by}});
    for (field, value) in more.as_object().unwrap() {
        changes[field] = value.clone();
    }
    web(changes)
}

impl Bench {
    fn story(&self) -> Vec<String> {
        std::mem::take(&mut self.model.0.borrow_mut().story)
    }

    fn refused(&self) -> usize {
        self.model.0.borrow().refusing.len()
    }
}

#[test]
fn the_change_of_a_scheduler_is_between_hold_and_release_and_nothing_else_is() {
    let mut bench = Bench::new();
    bench.start(&[("web", scheduled("rr", json!({})))]);
    assert_eq!(bench.story().len(), 3, "nothing is held for a new service");
    let servers = json!({"realServers": [
        server("srv1", "172.16.193.10", json!({"weight": 9})), server("srv3", "172.16.193.50", json!({}))]});
    bench.put("web", Some(scheduled("wlc", servers.clone())));
    assert_eq!(
        bench.story(),
        [
            "load wlc",
            "add real server 172.16.193.50:80 to TCP 192.16.193.30:80",
            "hold TCP 192.16.193.30:80",
            "change service TCP 192.16.193.30:80",
            "release",
            "change real server 172.16.193.10:80 of TCP 192.16.193.30:80",
            "remove real server 172.16.193.40:80 of TCP 192.16.193.30:80",
        ]
    );
    let mut persistent = servers;
    persistent["persistence"] = json!({"timeoutSeconds": 60, "ipv4Prefix": 32, "ipv6Prefix": 128});
    bench.put("web", Some(scheduled("wlc", persistent)));
    assert_eq!(bench.story(), ["change service TCP 192.16.193.30:80"], "the scheduler stays");
    assert_eq!(bench.refused(), 0);
}

#[test]
fn what_somebody_else_changed_is_put_back_with_a_pause_too() {
    let mut bench = Bench::new();
    bench.start(&[("web", web(json!({})))]);
    bench.by_hand(&Command::SetService(Service::new(id(), "lc")));
    bench.story();
    bench.after(1000);
    assert_eq!(
        bench.story(),
        ["load rr", "hold TCP 192.16.193.30:80", "change service TCP 192.16.193.30:80", "release"]
    );
}

#[test]
fn what_is_held_goes_on_when_the_kernel_is_lost_or_refuses() {
    let mut bench = Bench::new();
    bench.start(&[("web", web(json!({})))]);
    bench.story();
    bench.model.0.borrow_mut().lost = 1;
    bench.put("web", Some(scheduled("wlc", json!({}))));
    assert_eq!(bench.story(), ["load wlc", "hold TCP 192.16.193.30:80", "release"]);
    assert!(bench.model.0.borrow().held.is_empty());
    bench.after(1100);
    assert_eq!(bench.model.0.borrow().table[&id()].0.scheduler, "wlc");
    bench.story();

    bench.model.0.borrow_mut().unknown_scheduler = Some("mh".into());
    bench.put("web", Some(scheduled("mh", json!({}))));
    assert_eq!(bench.failures().len(), 1);
    assert_eq!(
        bench.story(),
        ["load mh", "hold TCP 192.16.193.30:80", "change service TCP 192.16.193.30:80", "release"]
    );
    assert_eq!(bench.refused(), 0);
}

#[test]
fn many_changes_are_held_a_few_at_a_time_and_none_is_left_out() {
    const MANY: usize = 100;
    let mut bench = Bench::new();
    let all = |by: &str| -> Vec<(String, Arc<VirtualServiceBindingSpec>)> {
        (0..MANY)
            .map(|number| {
                (format!("web{number}"), scheduled(by, json!({"addresses": [format!("10.0.0.{number}")]})))
            })
            .collect()
    };
    let start = |bench: &mut Bench, by: &str| {
        let bindings = all(by);
        let bindings: Vec<_> =
            bindings.iter().map(|(name, spec)| (name.as_str(), Arc::clone(spec))).collect();
        bench.start(&bindings);
        bench.story()
    };
    start(&mut bench, "rr");
    let story = start(&mut bench, "wlc");
    assert_eq!(bench.refused(), 0);
    let holds: Vec<_> = story.iter().filter(|line| line.starts_with("hold")).collect();
    assert!(holds.len() >= MANY / 8, "{} pauses", holds.len());
    assert!(holds.iter().all(|line| line.matches("TCP").count() <= 8));
    assert_eq!(story.iter().filter(|line| line.starts_with("change service")).count(), MANY);
    assert_eq!(story.iter().filter(|line| *line == "load wlc").count(), 1, "once for all");
    assert_eq!(story.iter().filter(|line| *line == "release").count(), 1, "one after another");
    assert_eq!(story.last().map(String::as_str), Some("release"));
}
