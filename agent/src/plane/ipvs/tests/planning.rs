use std::collections::BTreeMap;

use bascule_ipvs::{Command, Timeouts};
use serde_json::{Value, json};

use crate::plane::{
    fixture::{server, web},
    ipvs::{Held, Observed, Plan, Wanted, expand, plan},
};

fn wanted(changes: Value) -> Wanted {
    expand(&web(changes), None).unwrap().remove(0)
}

fn held(of: &Wanted, ours: bool) -> Observed {
    let destinations = of.destinations.iter().map(|destination| (destination.id, *destination)).collect();
    let held = Held { service: of.service.clone(), destinations, ours };
    Observed { services: BTreeMap::from([(of.service.id, held)]), timeouts: Some(Timeouts::default()) }
}

fn plan_one(new: &Wanted, observed: &Observed, adopt: bool) -> Plan {
    plan([(new.service.id, Some(new))], None, observed, adopt)
}

/// The commands from one state of a service to another.
fn between(old: Value, new: Value) -> Vec<String> {
    let plan = plan_one(&wanted(new), &held(&wanted(old), true), false);
    plan.commands.iter().map(ToString::to_string).collect()
}

#[test]
fn each_changed_field_gives_exactly_one_command() {
    const SERVICE: &str = "change service TCP 192.16.193.30:80";
    let persistence = |timeout: u32, v4: u8, engine: Option<&str>| {
        let mut persistence = json!({"timeoutSeconds": timeout, "ipv4Prefix": v4, "ipv6Prefix": 128});
        if let Some(engine) = engine {
            persistence["engine"] = json!(engine);
        }
        json!({ "persistence": persistence })
    };
    for (old, new) in [
        (json!({}), json!({"scheduler": {"name": "wlc"}})),
        (json!({"scheduler": {"name": "sh"}}), json!({"scheduler": {"name": "sh", "fallback": true}})),
        (json!({"scheduler": {"name": "sh"}}), json!({"scheduler": {"name": "sh", "hashPort": true}})),
        (json!({}), json!({"onePacket": true})),
        (json!({}), persistence(60, 32, None)),
        (persistence(60, 32, None), persistence(61, 32, None)),
        (persistence(60, 32, None), persistence(60, 24, None)),
        (persistence(60, 32, None), persistence(60, 32, Some("sip"))),
    ] {
        assert_eq!(between(old.clone(), new.clone()), [SERVICE], "{old} {new}");
        assert_eq!(between(new.clone(), old.clone()), [SERVICE], "back: {old} {new}");
    }
    const SERVER: &str = "change real server 172.16.193.10:80 of TCP 192.16.193.30:80";
    let tunnel = |tunnel: Value| json!({"forwarding": {"method": "Tunnel", "tunnel": tunnel}});
    for (old, new) in [
        (json!({}), json!({"weight": 7})),
        (json!({}), json!({"weight": 0})),
        (json!({}), json!({"limits": {"upper": 9}})),
        (json!({"limits": {"upper": 9}}), json!({"limits": {"upper": 10}})),
        (json!({"limits": {"upper": 9}}), json!({"limits": {"upper": 9, "lower": 3}})),
        (json!({}), json!({"forwarding": {"method": "DirectRouting"}})),
        (json!({}), tunnel(json!({"type": "IPIP"}))),
        (tunnel(json!({"type": "IPIP"})), tunnel(json!({"type": "GRE"}))),
        (tunnel(json!({"type": "GRE"})), tunnel(json!({"type": "GRE", "checksum": "Full"}))),
        (tunnel(json!({"type": "GRE"})), tunnel(json!({"type": "GUE", "port": 6080}))),
        (tunnel(json!({"type": "GUE", "port": 6080})), tunnel(json!({"type": "GUE", "port": 6081}))),
        (
            tunnel(json!({"type": "GUE", "port": 6080})),
            tunnel(json!({"type": "GUE", "port": 6080, "checksum": "Remote"})),
        ),
    ] {
        let spec = |changes: &Value| json!({"realServers": [server("a", "172.16.193.10", changes.clone())]});
        assert_eq!(between(spec(&old), spec(&new)), [SERVER], "{old} {new}");
        assert_eq!(between(spec(&new), spec(&old)), [SERVER], "back: {old} {new}");
    }
    // Names, checks and the like are nothing to the kernel.
    let renamed = json!({"realServers": [server("x", "172.16.193.10", json!({"healthChecks": ["h"]})), server("y", "172.16.193.40", json!({}))]});
    assert_eq!(between(json!({}), renamed), Vec::<String>::new());
}

#[test]
fn an_address_or_port_is_another_real_server_and_comes_before_the_old_goes() {
    let spec = |changes: Value| json!({"realServers": [server("a", "172.16.193.10", changes)]});
    assert_eq!(
        between(spec(json!({})), spec(json!({"targetPorts": [8080]}))),
        [
            "add real server 172.16.193.10:8080 to TCP 192.16.193.30:80",
            "remove real server 172.16.193.10:80 of TCP 192.16.193.30:80"
        ]
    );
}

#[test]
fn additions_come_first_then_changes_then_removals() {
    let one = wanted(json!({"addresses": ["10.0.0.1"]}));
    let two = wanted(json!({"addresses": ["10.0.0.2"], "scheduler": {"name": "wlc"}, "realServers": [
        server("new", "10.1.0.9", json!({})), server("up", "10.1.0.1", json!({"weight": 5})), server("down", "10.1.0.2", json!({"weight": 0}))]}));
    let two_held = wanted(json!({"addresses": ["10.0.0.2"], "realServers": [
        server("down", "10.1.0.2", json!({})), server("up", "10.1.0.1", json!({"weight": 0})), server("gone", "10.1.0.8", json!({}))]}));
    let three = wanted(json!({"addresses": ["10.0.0.3"]}));
    let mut observed = held(&two_held, true);
    observed.services.extend(held(&three, true).services);
    let scope = [(one.service.id, Some(&one)), (two.service.id, Some(&two)), (three.service.id, None)];
    let timeouts = Timeouts { tcp: 900, tcp_fin: 0, udp: 0 };
    let commands: Vec<_> =
        plan(scope, Some(timeouts), &observed, false).commands.iter().map(ToString::to_string).collect();
    assert_eq!(
        commands,
        [
            "set timeouts",
            "add service TCP 10.0.0.1:80",
            "add real server 172.16.193.10:80 to TCP 10.0.0.1:80",
            "add real server 172.16.193.40:80 to TCP 10.0.0.1:80",
            "add real server 10.1.0.9:80 to TCP 10.0.0.2:80",
            "change service TCP 10.0.0.2:80",
            "change real server 10.1.0.1:80 of TCP 10.0.0.2:80",
            "change real server 10.1.0.2:80 of TCP 10.0.0.2:80",
            "remove real server 10.1.0.8:80 of TCP 10.0.0.2:80",
            "remove service TCP 10.0.0.3:80",
        ]
    );
}

#[test]
fn whose_a_service_is_decides() {
    let ours = wanted(json!({}));
    let other = wanted(json!({"scheduler": {"name": "wlc"}}));
    let id = ours.service.id;
    let nobody: Option<&Wanted> = None;

    // Identical and not in the ledger: ours from now on, without a command.
    let plan_identical = plan_one(&ours, &held(&ours, false), false);
    assert_eq!((plan_identical.commands.len(), plan_identical.claims.contains(&id)), (0, true));
    // Different and not in the ledger: a conflict, and not touched.
    let plan_foreign = plan_one(&ours, &held(&other, false), false);
    assert_eq!((plan_foreign.commands.len(), plan_foreign.conflicts.contains(&id)), (0, true));
    // The same with another real server only.
    let servers = wanted(json!({"realServers": [server("a", "10.1.0.1", json!({}))]}));
    assert!(plan_one(&ours, &held(&servers, false), false).conflicts.contains(&id));
    // Adopted: changed in place and ours.
    let adopted = plan_one(&ours, &held(&other, false), true);
    assert_eq!((adopted.commands.len(), adopted.claims.contains(&id), adopted.conflicts.len()), (1, true, 0));
    assert!(matches!(adopted.commands[0], Command::SetService(_)));
    // In the ledger: put right.
    let repaired = plan_one(&ours, &held(&other, true), false);
    assert_eq!((repaired.commands.len(), repaired.conflicts.len(), repaired.claims.len()), (1, 0, 0));
    // No longer wanted: goes if it is ours.
    assert_eq!(plan([(id, nobody)], None, &held(&ours, true), true).commands, [Command::DelService(id)]);
    assert_eq!(plan([(id, nobody)], None, &held(&ours, false), true), Plan::default());
}

#[test]
fn only_timeouts_that_differ_are_set() {
    let held = Timeouts { tcp: 900, tcp_fin: 120, udp: 300 };
    let nothing: [(bascule_ipvs::ServiceId, Option<&Wanted>); 0] = [];
    let set = |wanted: Timeouts| {
        let observed = Observed { timeouts: Some(held), ..Observed::default() };
        plan(nothing, Some(wanted), &observed, false).commands
    };
    assert_eq!(set(held), []);
    assert_eq!(set(Timeouts::default()), [], "what is not given is left alone");
    let expected = Timeouts { tcp: 0, tcp_fin: 0, udp: 10 };
    assert_eq!(set(Timeouts { tcp: 900, tcp_fin: 0, udp: 10 }), [Command::SetConfig(expected)]);
}
