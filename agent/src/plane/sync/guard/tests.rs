//! What is guarded, and what is planned.

use std::time::Duration;

use serde_json::json;

use super::*;
use crate::plane::{
    fixture::{key, web},
    netlink::Message,
    nftables::NEW_ELEMENTS,
};

fn guarded(changes: serde_json::Value) -> Vec<String> {
    let mut desired = Desired::default();
    desired.set(&key("web"), Some(&web(changes)));
    desired.elements.keys().map(|(set, key)| format!("{} {key:?}", set.name())).collect()
}

#[test]
fn the_tcp_ports_of_services_that_move_with_a_group() {
    let one = "ports4 [192, 16, 193, 30, 0, 80, 0, 0]";
    for (what, changes, expected) in [
        ("a director's own", json!({}), vec![]),
        ("of a group", json!({"vrrpGroup": "g"}), vec![one]),
        ("UDP", json!({"vrrpGroup": "g", "ports": [{"protocol": "UDP", "port": 80}]}), vec![]),
        (
            "every port",
            json!({"vrrpGroup": "g", "ports": [{"protocol": "TCP", "port": 0}]}),
            vec!["addresses4 [192, 16, 193, 30]"],
        ),
        (
            "a mark that we set",
            json!({"vrrpGroup": "g", "addresses": [], "ports": [], "fwmark": {"mark": 1, "families": ["IPv4"],
                "match": {"addresses": ["192.16.193.30"], "ports": [{"protocol": "TCP", "port": 80}, {"protocol": "UDP", "port": 53}]}}}),
            vec![one],
        ),
        (
            "a mark that somebody else sets",
            json!({"vrrpGroup": "g", "addresses": [], "ports": [], "fwmark": {"mark": 1, "families": ["IPv4"]}}),
            vec![],
        ),
    ] {
        assert_eq!(guarded(changes), expected, "{what}");
    }
    let six = guarded(json!({"vrrpGroup": "g", "addresses": ["2001:db8::1"]}));
    assert!(six.len() == 1 && six[0].starts_with("ports6 [32, 1, 13, 184, "), "{six:?}");
}

#[test]
fn a_service_of_two_bindings_stays_until_both_are_gone() {
    let mut desired = Desired { wanted: true, ..Desired::default() };
    let spec = web(json!({"vrrpGroup": "g"}));
    desired.set(&key("a"), Some(&spec));
    desired.set(&key("b"), Some(&spec));
    let mut observed = Observed::default();
    let op = plan(None, &desired, &observed).unwrap();
    observed.after(&op);
    assert_eq!(plan(None, &desired, &observed), None);
    let scope = desired.set(&key("a"), None);
    assert_eq!(plan(Some(&scope), &desired, &observed), None);
    let scope = desired.set(&key("b"), None);
    let op = plan(Some(&scope), &desired, &observed).unwrap();
    assert!(matches!(&op, Op::Change { remove, add } if remove.len() == 1 && add.is_empty()), "{op}");
    observed.after(&op);
    assert_eq!(plan(None, &desired, &observed), None);
    desired.wanted = false;
    assert_eq!(plan(None, &desired, &observed), Some(Op::Remove));
}

#[test]
fn what_is_armed_stays_armed_when_the_table_is_made_anew() {
    let desired = Desired { wanted: true, ..Desired::default() };
    let armed = BTreeMap::from([((Set::Armed(Version::V4), vec![10, 0, 0, 1]), Duration::from_millis(1500))]);
    let observed = Observed { exists: true, armed: armed.clone(), ..Observed::default() };
    assert_eq!(plan(None, &desired, &observed), Some(Op::Replace { services: BTreeSet::new(), armed }));
}

#[test]
fn arming_adds_removes_and_adds() {
    let addresses = ["10.0.0.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
    let messages = encode::arm(&addresses);
    assert_eq!(messages.len(), 9, "IPv4, IPv6, and that anything is");
    let read: Vec<_> = messages
        .iter()
        .filter(|(kind, ..)| *kind == NEW_ELEMENTS)
        .map(|(kind, _, payload)| Message { kind: *kind, port: 0, payload: payload.clone() })
        .collect();
    let (element, _) = encode::read_elements(Set::Armed(Version::V4), &read[0]).remove(0);
    assert_eq!(element, (Set::Armed(Version::V4), vec![10, 0, 0, 1]));
    assert_eq!(encode::arm(&[]).len(), 0);
    let many: Vec<IpAddr> = (0..1000u32).map(|number| IpAddr::V4(number.into())).collect();
    assert_eq!(encode::arm(&many).len(), 12, "in messages of a bounded size");
}
