//! Virtual router ids that are left out: found once, kept, and one for the whole cluster each.

use std::collections::BTreeMap;

use bascule_compile::{
    Change, Compiled, Compiler, ConditionType, NodeConfig, Reason, Snapshot, Trust, compile,
};
use bascule_crds::{Kind, Object, ObjectRef};
use serde_json::{Value, json};

fn object(value: Value) -> Object {
    match value["kind"].as_str().unwrap() {
        "Director" => Object::Director(Box::new(serde_json::from_value(value).unwrap())),
        _ => Object::VrrpGroup(Box::new(serde_json::from_value(value).unwrap())),
    }
}

fn director(name: &str) -> Object {
    object(
        json!({"apiVersion": "bascule.dev/v1alpha1", "kind": "Director", "metadata": {"name": name}, "spec": {}}),
    )
}

/// A group on one director, made in that second: its instances on interfaces, with an id or without; and the ids that its status has.
fn group(name: &str, second: u8, on: &str, instances: &[(&str, Option<u8>)], pins: &[(&str, u8)]) -> Object {
    let instance = |(n, (interface, id)): (usize, &(&str, Option<u8>))| {
        // Addresses are no matter here: each has its own.
        let last = name.bytes().map(u32::from).sum::<u32>() % 250;
        let mut one = json!({
            "name": format!("i{n}"), "interface": interface,
            "addresses": [format!("10.{}.{n}.{last}/32", name.len() * 16 + usize::from(name.as_bytes()[0] % 16))],
        });
        if let Some(id) = id {
            one["virtualRouterId"] = json!(id);
        }
        one
    };
    let pins: Vec<_> = pins.iter().map(|(name, id)| json!({"name": name, "virtualRouterId": id})).collect();
    object(json!({
        "apiVersion": "bascule.dev/v1alpha1", "kind": "VrrpGroup",
        "metadata": {"name": name, "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z")},
        "spec": {"members": [{"director": on}], "instances": instances.iter().enumerate().map(instance).collect::<Vec<_>>()},
        "status": {"instances": pins},
    }))
}

fn all(groups: Vec<Object>, programmed: BTreeMap<String, NodeConfig>) -> Compiled {
    let mut snapshot = Snapshot::new(Trust::Cluster);
    snapshot.objects = vec![director("dir1"), director("dir2")];
    snapshot.objects.extend(groups);
    snapshot.programmed = programmed;
    compile(&snapshot)
}

/// The ids in force, as `group/instance=id`.
fn ids(compiled: &Compiled) -> Vec<String> {
    let forms = compiled.nodes.values().flat_map(|node| &node.director.vrrp);
    let mut ids: Vec<String> = forms
        .flat_map(|form| {
            form.instances
                .iter()
                .map(|one| format!("{}/{}={}", form.name, one.name, one.virtual_router_id.unwrap()))
        })
        .collect();
    ids.sort();
    ids
}

fn accepted(compiled: &Compiled, group: &str) -> (bool, Reason) {
    let conditions = &compiled.conditions[&ObjectRef::new(Kind::VrrpGroup, None, group)];
    let accepted = conditions.iter().find(|one| one.type_ == ConditionType::Accepted).unwrap();
    (accepted.status, accepted.reason)
}

fn nothing() -> BTreeMap<String, NodeConfig> {
    BTreeMap::new()
}

#[test]
fn each_is_another_one_in_the_whole_cluster() {
    // The two directors may well share a network, and 102 is somebody's elsewhere.
    let compiled = all(
        vec![
            group("a", 1, "dir1", &[("eth0", None), ("eth1", None)], &[]),
            group("b", 2, "dir2", &[("eth0", None), ("eth1", Some(102))], &[]),
        ],
        nothing(),
    );
    assert_eq!(ids(&compiled), ["a/i0=101", "a/i1=103", "b/i0=104", "b/i1=102"]);
}

#[test]
fn the_elder_is_served_first_and_nobody_takes_what_another_one_has() {
    let groups = || {
        vec![
            group("a", 2, "dir1", &[("eth0", None)], &[]),
            group("b", 1, "dir1", &[("eth1", None)], &[]),
            group("c", 3, "dir2", &[("eth0", None)], &[("i0", 101)]),
        ]
    };
    assert_eq!(ids(&all(groups(), nothing())), ["a/i0=103", "b/i0=102", "c/i0=101"]);
}

#[test]
fn what_is_in_force_stays_and_what_is_pinned_comes_back() {
    let first = all(vec![group("a", 1, "dir1", &[("eth0", None)], &[("i0", 7)])], nothing());
    assert_eq!(ids(&first), ["a/i0=7"]);
    // The status is lost, or says something else: what directors do counts.
    for pins in [&[][..], &[("i0", 9)]] {
        let again = all(vec![group("a", 1, "dir1", &[("eth0", None)], pins)], first.nodes.clone());
        assert_eq!(ids(&again), ["a/i0=7"]);
    }
    // The configurations are lost.
    let again = all(vec![group("a", 1, "dir1", &[("eth0", None)], &[("i0", 7)])], nothing());
    assert_eq!(ids(&again), ["a/i0=7"]);
    // One that was named and is not any more stays.
    let named = all(vec![group("a", 1, "dir1", &[("eth0", Some(33))], &[])], nothing());
    let left_out = all(vec![group("a", 1, "dir1", &[("eth0", None)], &[])], named.nodes);
    assert_eq!(ids(&left_out), ["a/i0=33"]);
}

#[test]
fn a_named_id_wins_by_age() {
    let ours = |second| group("ours", second, "dir1", &[("eth0", None)], &[("i0", 50)]);
    // An elder that names it gets it: another one is found.
    let compiled = all(vec![ours(2), group("named", 1, "dir1", &[("eth0", Some(50))], &[])], nothing());
    assert_eq!(ids(&compiled), ["named/i0=50", "ours/i0=101"]);
    assert_eq!(accepted(&compiled, "ours"), (true, Reason::Accepted));
    // A younger one does not.
    let compiled = all(vec![ours(2), group("named", 3, "dir1", &[("eth0", Some(50))], &[])], nothing());
    assert_eq!(ids(&compiled), ["ours/i0=50"]);
    assert_eq!(accepted(&compiled, "named"), (false, Reason::Conflicted));
    // On another interface it is nobody's matter.
    let compiled = all(vec![ours(2), group("named", 1, "dir1", &[("eth1", Some(50))], &[])], nothing());
    assert_eq!(ids(&compiled), ["named/i0=50", "ours/i0=50"]);
}

#[test]
fn where_none_is_left_it_is_said_until_one_is() {
    let mut compiler = Compiler::new(Trust::Cluster);
    let full = (1..=255u8).map(|id| group(&format!("g{id:03}"), 1, "nowhere", &[("eth0", Some(id))], &[]));
    let objects = [director("dir1"), group("late", 2, "dir1", &[("eth0", None), ("eth1", Some(9))], &[])];
    compiler.apply(full.chain(objects).map(Change::Put));
    assert_eq!(accepted(compiler.compiled(), "late"), (false, Reason::Conflicted));
    assert_eq!(ids(compiler.compiled()), Vec::<String>::new());
    compiler.apply([Change::Delete(ObjectRef::new(Kind::VrrpGroup, None, "g200"))]);
    assert_eq!(ids(compiler.compiled()), ["late/i0=200", "late/i1=9"]);
    assert_eq!(accepted(compiler.compiled(), "late"), (true, Reason::Accepted));
    // It stays, whatever becomes free.
    compiler.apply([Change::Delete(ObjectRef::new(Kind::VrrpGroup, None, "g101"))]);
    assert_eq!(ids(compiler.compiled()), ["late/i0=200", "late/i1=9"]);
}

#[test]
fn an_elder_that_comes_later_moves_it() {
    let mut compiler = Compiler::new(Trust::Cluster);
    let ours = group("ours", 2, "dir1", &[("eth0", None)], &[]);
    compiler.apply([director("dir1"), ours].map(Change::Put));
    assert_eq!(ids(compiler.compiled()), ["ours/i0=101"]);
    let delta = compiler.apply([Change::Put(group("elder", 1, "dir1", &[("eth0", Some(101))], &[]))]);
    assert_eq!(ids(compiler.compiled()), ["elder/i0=101", "ours/i0=102"]);
    assert!(delta.nodes["dir1"].director);
}
