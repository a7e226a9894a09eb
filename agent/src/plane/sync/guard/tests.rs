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

/// A connection from a port of 10.0.0.100 to port 80 of 10.0.0.30.
fn connection(port: u16) -> Element {
    let [high, low] = port.to_be_bytes();
    (Set::Silenced(Version::V4), vec![10, 0, 0, 100, high, low, 0, 0, 10, 0, 0, 30, 0, 80, 0, 0])
}

#[test]
fn what_is_armed_or_silenced_stays_so_when_the_table_is_made_anew() {
    let desired = Desired { wanted: true, ..Desired::default() };
    let timed = BTreeMap::from([
        ((Set::Armed(Version::V4), vec![10, 0, 0, 1]), Duration::from_millis(1500)),
        (connection(4000), Duration::from_secs(600)),
    ]);
    let observed = Observed { exists: true, timed: timed.clone(), ..Observed::default() };
    assert_eq!(plan(None, &desired, &observed), Some(Op::Replace { services: BTreeSet::new(), timed }));
}

#[test]
fn of_a_table_that_anybody_made_no_more_is_kept_than_ours_would_hold() {
    let day = Duration::from_secs(86400);
    let mut timed: BTreeMap<_, _> =
        (0..20000_u16).map(|port| (connection(port), Duration::from_millis(port.into()))).collect();
    timed.insert((Set::Armed(Version::V4), vec![10, 0, 0, 1]), day);
    // Of another form: the kernel would refuse the whole transaction.
    timed.insert((Set::Armed(Version::V4), vec![10, 0, 0, 1, 0, 80, 0, 0]), day);
    timed.insert((Set::Silenced(Version::V6), vec![0; 16]), day);
    timed.insert((Set::Ports(Version::V4), vec![0; 8]), day);
    let kept = kept(&timed);
    assert_eq!(kept.len(), KEPT + 1);
    assert_eq!(kept[&(Set::Armed(Version::V4), vec![10, 0, 0, 1])], ARMED);
    assert!(kept.contains_key(&connection(19999)) && !kept.contains_key(&connection(0)), "the newest");
    // 8192 of 76 bytes each, and a message's header for so many.
    let mut messages = Vec::new();
    encode::keep(&kept, &mut messages);
    let bytes: usize = messages.iter().map(|(.., payload)| payload.len()).sum();
    assert!(bytes < 1 << 20, "{bytes}");
}

/// With the kernel's nf_tables, in a network namespace of its own; where that cannot be had it is not run.
#[test]
fn the_kernel_keeps_what_was_silenced() {
    let done = std::thread::spawn(|| {
        let unshared = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET);
        if unshared.is_err() {
            return None;
        }
        let mut kernel = Kernel::open().ok()?;
        let armed = (Set::Armed(Version::V4), vec![10, 0, 0, 30]);
        let mut timed: BTreeMap<_, _> = (0..20000_u16)
            .map(|port| (connection(port), Duration::from_secs(300 + u64::from(port % 300))))
            .collect();
        timed.insert(armed.clone(), ARMED);
        let desired = Desired { wanted: true, ..Desired::default() };
        let empty = plan(None, &desired, &Observed::default())?;
        match kernel.apply(&empty) {
            Ok(_) => {}
            Err(error) if crate::plane::nat::missing(&error).is_some() => return None,
            Err(error) => panic!("{error}"),
        }
        let observed = Observed { exists: true, timed, ..Observed::default() };
        let op = plan(None, &desired, &observed)?;
        let seal = kernel.apply(&op).unwrap().expect("nobody else is here");
        // Intact, it is not read; by anybody else's word it is made anew, with everything.
        let intact = kernel.observe(&|seen| seen == seal).unwrap();
        assert!(intact.intact && !intact.timed.keys().any(|(set, _)| matches!(set, Set::Silenced(_))));
        let broken = kernel.observe(&|_| false).unwrap();
        let op = plan(None, &desired, &broken)?;
        kernel.apply(&op).unwrap();
        let again = kernel.observe(&|_| false).unwrap();
        let silenced = |observed: &Observed| {
            let of = |(set, _): &&Element| matches!(set, Set::Silenced(_));
            observed.timed.keys().filter(of).cloned().collect::<BTreeSet<_>>()
        };
        assert_eq!(silenced(&again).len(), KEPT);
        assert_eq!(silenced(&again), silenced(&broken));
        assert!(again.timed.iter().all(|((set, _), left)| *left <= set.lasts().unwrap() && !left.is_zero()));
        // On a slow machine it may be over.
        assert!(again.timed.contains_key(&armed) || !broken.timed.contains_key(&armed));
        Some(())
    });
    let done = done.join().unwrap();
    let required = std::env::var_os("BASCULE_KERNEL_TESTS").is_some_and(|value| value == "require");
    assert!(
        done.is_some() || !required,
        "BASCULE_KERNEL_TESTS=require, but there are no rights, or no nf_tables"
    );
    if done.is_none() {
        eprintln!("not run here: needs root and nf_tables");
    }
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
