//! What is planned, and that messages read back as written.

use serde_json::json;

use super::message;
use super::*;
use crate::plane::netlink::Message;

fn wanted(routes: &serde_json::Value, rules: &serde_json::Value) -> Wanted {
    let instance = json!({"name": "a", "interface": "eth0", "addresses": ["10.0.0.1/32"], "routes": routes, "rules": rules});
    let mut wanted = Wanted::default();
    wanted.add(&serde_json::from_value(instance).unwrap());
    wanted
}

fn everything() -> Wanted {
    wanted(
        &json!([
            {"to": "192.0.2.7/24"},
            {"to": "0.0.0.0/0", "via": "192.0.2.1", "source": "10.0.0.1", "table": 1000, "metric": 7},
            {"to": "2001:db8:1::/48", "via": "fe80::1", "interface": "eth1"},
        ]),
        &json!([
            {"from": "10.0.0.0/8", "table": 1000},
            {"from": "0.0.0.0/0", "to": "192.0.2.9/24", "table": 7, "priority": 100},
            {"to": "2001:db8::/32", "table": 7},
        ]),
    )
}

fn index(name: &str) -> Option<u32> {
    match name {
        "eth0" => Some(2),
        "eth1" => Some(3),
        _ => None,
    }
}

/// What the kernel says of it after it took a change.
fn echo(op: &Op) -> Event {
    let (kind, _, payload) = message::change(op);
    let event = message::read(&Message { kind, port: 0, payload }).expect("it is ours");
    match event {
        // The kernel chooses the place.
        Event::Rule(rule) if rule.priority == 0 => Event::Rule(HeldRule { priority: 32765, ..rule }),
        other => other,
    }
}

fn carried_out(ops: &[Op]) -> Held {
    let mut held = Held::default();
    for op in ops {
        held.update(echo(op));
    }
    held
}

#[test]
fn what_was_carried_out_leaves_nothing_to_do() {
    let wanted = everything();
    let (ops, homeless) = plan(&wanted, &Held::default(), index);
    assert!(homeless.is_empty());
    let shown: Vec<_> = ops.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "route 192.0.2.0/24 dev eth0",
            "route default table 1000 metric 7 via 192.0.2.1 dev eth0 src 10.0.0.1",
            "route 2001:db8:1::/48 via fe80::1 dev eth1",
            "rule from 10.0.0.0/8 lookup 1000",
            "rule from all to 192.0.2.0/24 lookup 7 priority 100",
            "rule from all to 2001:db8::/32 lookup 7",
        ]
    );
    let mut held = carried_out(&ops);
    assert_eq!((held.routes.len(), held.rules.len()), (3, 3));
    assert_eq!(plan(&wanted, &held, index).0, []);
    // What we remember and what the kernel says are the same.
    let before = held.clone();
    ops.iter().filter(|op| !matches!(op, Op::AddRule(_))).for_each(|op| held.after(op));
    assert_eq!(held, before);

    let (ops, _) = plan(&Wanted::default(), &held, index);
    assert!(matches!(ops[..3], [Op::RemoveRule(_), Op::RemoveRule(_), Op::RemoveRule(_)]), "rules first");
    assert_eq!(ops.len(), 6);
    assert!(ops.iter().all(|op| held.update(echo(op))), "all of it is news");
    assert!(held.is_empty());
}

#[test]
fn a_route_gives_way_to_its_changed_form_and_comes_before_what_is_removed() {
    let before = wanted(
        &json!([{"to": "192.0.2.0/24", "via": "10.0.0.2"}]),
        &json!([{"from": "10.0.0.0/8", "table": 5}]),
    );
    let held = carried_out(&plan(&before, &Held::default(), index).0);
    let after = wanted(
        &json!([{"to": "192.0.2.0/24", "via": "10.0.0.3"}, {"to": "198.51.100.0/24", "interface": "eth9"}]),
        &json!([{"from": "10.0.0.0/8", "table": 6}]),
    );
    let (ops, homeless) = plan(&after, &held, index);
    assert!(matches!(&ops[..], [Op::AddRoute { replace: true, .. }, Op::AddRule(_), Op::RemoveRule(_)]));
    assert_eq!(homeless.len(), 1);
    // A place that is asked for counts, the kernel's choice is as good as any other.
    let placed = wanted(&json!([]), &json!([{"from": "10.0.0.0/8", "table": 5, "priority": 9}]));
    let (ops, _) = plan(&placed, &Held { rules: held.rules.clone(), ..Held::default() }, index);
    assert!(matches!(&ops[..], [Op::AddRule(_), Op::RemoveRule(_)]));
}

#[test]
fn what_two_groups_want_alike_is_wanted_once() {
    let mut both = everything();
    let instance = json!({"name": "b", "interface": "eth0", "addresses": ["10.0.0.2/32"],
        "routes": [{"to": "192.0.2.0/24", "metric": 0}, {"to": "192.0.2.0/24", "metric": 1}],
        "rules": [{"from": "10.0.0.0/8", "table": 1000}]});
    both.add(&serde_json::from_value(instance).unwrap());
    assert_eq!((both.routes.len(), both.rules.len()), (4, 3));
}

#[test]
fn what_is_not_ours_is_not_heard() {
    let (ops, _) = plan(&everything(), &Held::default(), index);
    for op in &ops {
        let (kind, _, mut payload) = message::change(op);
        let last = payload.len() - 4;
        match op {
            Op::AddRoute { .. } => payload[5] = 3,
            _ => payload[last] = 18,
        }
        assert_eq!(message::read(&Message { kind, port: 0, payload }), None, "{op}");
    }
    for length in 0..12 {
        assert_eq!(message::read(&Message { kind: 24, port: 0, payload: vec![2; length] }), None);
    }
}
