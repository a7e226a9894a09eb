use std::sync::Arc;

use bascule_checks_core::Health;
use bascule_checks_core::pool::{Families, Pool, Reading, Server, Standing};
use serde_json::json;

use super::working::Bench;
use crate::{
    plane::fixture::{all, config, key, one, server, web},
    reconcile::{inbox::Merged, runner::Plane as _},
};

#[test]
fn verdicts_come_with_the_binding_and_alone() {
    let judge = |up: [bool; 2]| {
        let reading = |up| Reading { health: if up { Health::Up } else { Health::Down }, weight: None };
        let servers = up.map(|up| Server {
            weight: 1,
            drain: false,
            families: Families::IPV4,
            checks: vec![reading(up)],
        });
        let pool = Pool { servers: servers.into(), sorry: Families::IPV4, ..Pool::default() };
        Arc::new(pool.judge(Standing::Met))
    };
    let sorry = json!({"sorryServers": [server("sorry-ipv4", "172.16.193.99", json!({}))]});
    let mut bench = Bench::new();
    let config = config([("web", web(sorry.clone()))]);
    let live = |up| Merged { live: [(key("web"), judge(up))].into(), ..Merged::default() };
    bench.plane.configure(&Merged { live: live([true, false]).live, ..all(&config) });
    bench.after(0);
    assert_eq!(bench.commands().len(), 2, "the service and the one that lives");
    bench.plane.configure(&live([false, false]));
    bench.after(1);
    assert_eq!(
        bench.commands(),
        [
            "add real server 172.16.193.99:80 to TCP 192.16.193.30:80",
            "remove real server 172.16.193.10:80 of TCP 192.16.193.30:80"
        ]
    );
    // Said again: nothing to do. Of a binding that is not there: nothing either.
    bench.plane.configure(&live([false, false]));
    bench.plane.configure(&Merged { live: [(key("gone"), judge([true, true]))].into(), ..Merged::default() });
    bench.after(1);
    assert_eq!(bench.commands(), Vec::<String>::new());
    // A judgement that is not of these real servers counts for nothing.
    bench.plane.configure(&Merged {
        live: live([false, false]).live,
        ..one("web", Some(web(json!({"realServers": [server("srv1", "172.16.193.10", json!({}))]}))))
    });
    bench.after(1);
    assert_eq!(bench.commands().len(), 2, "the real server comes, the sorry server goes");
}
