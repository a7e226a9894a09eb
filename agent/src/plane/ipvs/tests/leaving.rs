//! A director that is out of service.

use serde_json::{Value, json};

use super::working::Bench;
use crate::{
    plane::fixture::{all, config, web},
    reconcile::{inbox::Merged, runner::Plane as _},
};

fn director(maintenance: &Value) -> Merged {
    let director = json!({"director": "dir1", "maintenance": maintenance});
    Merged { director: Some(serde_json::from_value(director).unwrap()), ..Merged::default() }
}

/// A service on this director alone, and one of a group.
fn two() -> Bench {
    let mut bench = Bench::new();
    bench.start(&[
        ("web", web(json!({}))),
        ("front", web(json!({"vrrpGroup": "front", "addresses": ["192.0.2.1"]}))),
    ]);
    bench.commands();
    bench
}

fn both(verb: &str) -> Vec<String> {
    ["172.16.193.10", "172.16.193.40"]
        .map(|server| format!("{verb} real server {server}:80 of TCP 192.16.193.30:80"))
        .to_vec()
}

#[test]
fn what_is_on_it_alone_takes_nothing_new_and_keeps_what_it_has() {
    let mut bench = two();
    bench.plane.configure(&director(&json!({"enabled": true})));
    bench.after(1);
    assert_eq!(bench.commands(), both("change"));
    // Without a time connections may last as long as they like.
    bench.after(86_400_000);
    assert_eq!(bench.commands(), Vec::<String>::new());
    // What comes meanwhile takes nothing new either.
    bench.put("later", Some(web(json!({"addresses": ["192.0.2.2"]}))));
    assert_eq!(bench.commands().len(), 3);
    bench.plane.configure(&director(&json!({"enabled": false})));
    bench.after(1);
    let commands = bench.commands();
    assert_eq!(commands.len(), 4, "{commands:?}");
    assert!(both("change").iter().all(|one| commands.contains(one)), "{commands:?}");
}

#[test]
fn their_time_is_up_once_and_a_new_agent_gives_it_anew() {
    let mut bench = two();
    bench.plane.configure(&director(&json!({"enabled": true, "drainTimeout": "10s"})));
    bench.after(1);
    assert_eq!(bench.commands(), both("change"));
    // Another change of the director gives no more.
    bench.after(5_000);
    bench.plane.configure(&director(&json!({"enabled": true, "drainTimeout": "10s"})));
    bench.after(1);
    assert_eq!(bench.commands(), Vec::<String>::new());
    bench.after(15_000);
    assert_eq!(bench.commands(), both("remove"));
    bench.after(60_000);
    assert_eq!(bench.commands(), Vec::<String>::new());
    // More time, and a little more than that.
    bench.plane.configure(&director(&json!(null)));
    bench.after(1);
    assert_eq!(bench.commands().len(), 2);
    let mut bench = bench.restart();
    let mut config = config([("web", web(json!({})))]);
    config.director.maintenance =
        Some(serde_json::from_value(json!({"enabled": true, "drainTimeout": "10s"})).unwrap());
    bench.plane.configure(&all(&config));
    bench.after(0);
    let commands = bench.commands();
    assert!(both("change").iter().all(|one| commands.contains(one)), "{commands:?}");
}
