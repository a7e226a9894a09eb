use bascule_compile::{BindingKey, Snapshot, Trust, compile};
use bascule_crds::{DirectorConfig, NatRuleBinding, VirtualServiceBinding, manifest, validate};

use super::*;
use crate::bound::Binds;
use crate::index::{Heard, Item, Source};
use crate::names;

const MANIFESTS: &str = "
apiVersion: bascule.dev/v1alpha1
kind: Director
metadata: {name: dir1, uid: uid-dir1}
spec:
  allow:
    - {namespaces: [tp], kinds: [VirtualService], addresses: [192.0.2.0/24]}
    - {namespaces: [tp], kinds: [NatRule]}
---
apiVersion: bascule.dev/v1alpha1
kind: VirtualService
metadata: {name: web, namespace: tp, uid: uid-web}
spec:
  director: {name: dir1}
  addresses: [192.0.2.1]
  ports: [{port: 80, protocol: TCP}]
  realServers: [{name: srv1, address: 172.16.193.10}]
---
apiVersion: bascule.dev/v1alpha1
kind: NatRule
metadata: {name: out, namespace: tp, uid: uid-out}
spec: {director: dir1, masquerade: {outInterface: eth0}}
";

/// The index with these manifests, and what they come to.
fn world() -> (Index, Compiled) {
    let mut index = Index::default();
    let mut snapshot = Snapshot::new(Trust::Cluster);
    for document in manifest::parse(MANIFESTS).unwrap() {
        let object = validate::judge(&document.value).unwrap();
        let (source, place) = (Source::of(object.kind()).unwrap(), Place::from(&object.reference()));
        index.take_in(Heard::There(source, place, None, Box::new(Item::User(object.clone()))));
        snapshot.objects.push(object);
    }
    let compiled = compile(&snapshot);
    assert_eq!(compiled.nodes["dir1"].bindings.len(), 1, "{:?}", compiled.conditions);
    assert_eq!(compiled.nodes["dir1"].nat_rules.len(), 1, "{:?}", compiled.conditions);
    (index, compiled)
}

fn key() -> BindingKey {
    BindingKey::new("tp", "web")
}

fn canonical() -> Place {
    Place { namespace: "tp".into(), name: names::binding("web", "dir1") }
}

/// The binding as it should be, at some place, changed.
fn put(index: &mut Index, compiled: &Compiled, place: &Place, change: impl FnOnce(&mut Value)) {
    let mut object = json!({
        "apiVersion": API_VERSION, "kind": "VirtualServiceBinding",
        "metadata": {
            "name": place.name, "namespace": "tp", "uid": format!("uid-{}", place.name), "resourceVersion": "7",
            "labels": {MANAGED_BY: MANAGER},
            "ownerReferences": [{"apiVersion": API_VERSION, "kind": "VirtualService", "name": "web", "uid": "uid-web"}],
        },
        "spec": *compiled.nodes["dir1"].bindings[&key()],
    });
    change(&mut object);
    let binding: VirtualServiceBinding = serde_json::from_value(object).unwrap();
    let item = Box::new(Item::Binding(binding.into()));
    index.take_in(Heard::There(Source::VirtualServiceBinding, place.clone(), None, item));
}

/// A write in short.
fn told(write: &Write) -> String {
    let name = &write.target.place.name;
    let name = if *name == canonical().name { "it" } else { name };
    match &write.action {
        Action::Apply(body) => {
            let meta = &body["metadata"];
            let version = meta["resourceVersion"].as_str().unwrap_or("none");
            assert_eq!(meta["uid"].is_string(), meta["resourceVersion"].is_string());
            assert_eq!(meta["ownerReferences"][0]["uid"], "uid-web");
            format!("apply {name} at version {version}")
        }
        Action::Strip { version, pointers } => {
            format!("strip {name} at version {version}: {}", pointers.join(" "))
        }
        Action::Delete { uid, version } => {
            assert_eq!(*uid, Some(format!("uid-{}", write.target.place.name)));
            format!("delete {name} at version {}", version.as_deref().unwrap_or("none"))
        }
    }
}

#[test]
fn a_binding_becomes_what_it_should_be() {
    type Before = fn(&mut Index, &mut Compiled);
    let cases: [(&str, Before, &[&str]); 12] = [
        ("it is not there", |_, _| {}, &["apply it at version none"]),
        ("it is as it should be", |index, compiled| put(index, compiled, &canonical(), |_| {}), &[]),
        (
            "a value is another one",
            |index, compiled| {
                put(index, compiled, &canonical(), |one| one["spec"]["onFailure"] = json!("Quiesce"))
            },
            &["apply it at version 7"],
        ),
        (
            "something is missing",
            |index, compiled| {
                put(index, compiled, &canonical(), |one| one["spec"]["realServers"] = json!([]))
            },
            &["apply it at version 7"],
        ),
        (
            "something was added",
            |index, compiled| {
                put(index, compiled, &canonical(), |one| one["spec"]["checkHost"] = json!("a.example"))
            },
            &["strip it at version 7: /spec/checkHost"],
        ),
        (
            "an element was added",
            |index, compiled| {
                put(index, compiled, &canonical(), |one| {
                    one["spec"]["addresses"] = json!(["192.0.2.9", "192.0.2.1"])
                });
            },
            &["strip it at version 7: /spec/addresses/0"],
        ),
        (
            "it belongs to one that had this name before",
            |index, compiled| {
                put(index, compiled, &canonical(), |one| {
                    one["metadata"]["ownerReferences"][0]["uid"] = json!("old")
                });
            },
            &["apply it at version 7"],
        ),
        (
            "somebody took our label off",
            |index, compiled| put(index, compiled, &canonical(), |one| one["metadata"]["labels"] = json!({})),
            &["apply it at version 7"],
        ),
        (
            "nobody wants it any more",
            |index, compiled| {
                put(index, compiled, &canonical(), |_| {});
                compiled.nodes.clear();
            },
            &["delete it at version 7"],
        ),
        (
            "there is another one for the same",
            |index, compiled| {
                put(index, compiled, &canonical(), |_| {});
                put(index, compiled, &Place { namespace: "tp".into(), name: "by-hand".into() }, |_| {});
            },
            &["delete by-hand at version 7"],
        ),
        (
            "its VirtualService is gone, and that is not compiled yet",
            |index, compiled| {
                put(index, compiled, &canonical(), |_| {});
                let place = Place { namespace: "tp".into(), name: "web".into() };
                index.take_in(Heard::Gone(Source::VirtualService, place, None));
            },
            &["delete it at version 7"],
        ),
        (
            "its VirtualService cannot be read",
            |index, compiled| {
                put(index, compiled, &canonical(), |_| {});
                let place = Place { namespace: "tp".into(), name: "web".into() };
                index.take_in(Heard::Gone(Source::VirtualService, place.clone(), None));
                index.take_in(Heard::Unreadable(Source::VirtualService, place, None, "odd".into()));
                compiled.nodes.clear();
            },
            &[],
        ),
    ];
    for (what, before, writes) in cases {
        let (mut index, mut compiled) = world();
        before(&mut index, &mut compiled);
        let planned = binding(&index, &compiled, &Bound::new(Binds::VirtualService, key(), "dir1"));
        assert_eq!(planned.iter().map(told).collect::<Vec<_>>(), writes, "{what}");
    }
}

#[test]
fn a_name_that_something_else_has_is_freed_first() {
    let (mut index, compiled) = world();
    put(&mut index, &compiled, &canonical(), |one| one["spec"]["virtualService"] = json!("else"));
    let planned = binding(&index, &compiled, &Bound::new(Binds::VirtualService, key(), "dir1"));
    assert_eq!(planned.iter().map(told).collect::<Vec<_>>(), ["delete it at version 7"]);
}

#[test]
fn a_configuration_becomes_what_it_should_be() {
    let (mut index, compiled) = world();
    let there = |change: &dyn Fn(&mut Value)| {
        let mut object = json!({
            "apiVersion": API_VERSION, "kind": "DirectorConfig",
            "metadata": {
                "name": "dir1", "uid": "uid-dc", "resourceVersion": "7", "labels": {MANAGED_BY: MANAGER},
                "ownerReferences": [{"apiVersion": API_VERSION, "kind": "Director", "name": "dir1", "uid": "uid-dir1"}],
            },
            "spec": compiled.nodes["dir1"].director,
        });
        change(&mut object);
        let config: DirectorConfig = serde_json::from_value(object).unwrap();
        let item = Box::new(Item::Config(Box::new(config)));
        Heard::There(Source::DirectorConfig, Place::cluster("dir1"), None, item)
    };
    let verb = |index: &Index, compiled: &Compiled| {
        config(index, compiled, "dir1").map(|write| match write.action {
            Action::Apply(body) => format!("apply {}", body["metadata"]["resourceVersion"]),
            Action::Strip { pointers, .. } => format!("strip {pointers:?}"),
            Action::Delete { uid, .. } => format!("delete {uid:?}"),
        })
    };
    assert_eq!(verb(&index, &compiled).as_deref(), Some("apply null"));
    for (change, wanted) in [
        (&(|_: &mut Value| {}) as &dyn Fn(&mut Value), None),
        (&|one: &mut Value| one["spec"]["sysctls"] = json!("Report"), Some("apply \"7\"")),
        (
            &|one: &mut Value| one["spec"]["timeouts"] = json!({"udp": "7s"}),
            Some("strip [\"/spec/timeouts\"]"),
        ),
        (&|one: &mut Value| one["spec"]["director"] = json!("dir2"), Some("delete Some(\"uid-dc\")")),
    ] {
        index.take_in(there(change));
        assert_eq!(verb(&index, &compiled).as_deref(), wanted);
    }
    assert_eq!(verb(&index, &Compiled::default()).as_deref(), Some("delete Some(\"uid-dc\")"));
}

/// The same of rules, whose bindings are of another kind, with another key.
#[test]
fn a_binding_of_a_rule_becomes_what_it_should_be() {
    type Before = fn(&mut Index, &Place, &mut Compiled, &mut Value);
    let key = || BindingKey::new("tp", "out");
    let place = Place { namespace: "tp".into(), name: names::binding("out", "dir1") };
    let cases: [(&str, Option<Before>, &[&str]); 9] = [
        ("it is not there", None, &["apply it at version none"]),
        ("it is as it should be", Some(|_, _, _, _| {}), &[]),
        (
            "a value is another one",
            Some(|_, _, _, one| one["spec"]["masquerade"]["outInterface"] = json!("eth9")),
            &["apply it at version 7"],
        ),
        (
            "something was added",
            Some(|_, _, _, one| one["spec"]["vrrpGroup"] = json!("front")),
            &["strip it at version 7: /spec/vrrpGroup"],
        ),
        (
            "it belongs to one that had this name before",
            Some(|_, _, _, one| one["metadata"]["ownerReferences"][0]["uid"] = json!("old")),
            &["apply it at version 7"],
        ),
        (
            "somebody took our label off",
            Some(|_, _, _, one| one["metadata"]["labels"] = json!({})),
            &["apply it at version 7"],
        ),
        (
            "whom it is for was changed, by one that may",
            Some(|_, _, _, one| one["spec"]["natRule"] = json!("else")),
            &["delete it at version 7"],
        ),
        (
            "nobody wants it any more",
            Some(|_, _, compiled, _| compiled.nodes.clear()),
            &["delete it at version 7"],
        ),
        (
            "its NatRule cannot be read",
            Some(|index, place, compiled, _| {
                let rule = Place { name: "out".into(), ..place.clone() };
                index.take_in(Heard::Gone(Source::NatRule, rule.clone(), None));
                index.take_in(Heard::Unreadable(Source::NatRule, rule, None, "odd".into()));
                compiled.nodes.clear();
            }),
            &[],
        ),
    ];
    for (what, before, writes) in cases {
        let (mut index, mut compiled) = world();
        if let Some(before) = before {
            let mut object = json!({
                "apiVersion": API_VERSION, "kind": "NatRuleBinding",
                "metadata": {
                    "name": place.name, "namespace": "tp", "uid": "uid-nat", "resourceVersion": "7",
                    "labels": {MANAGED_BY: MANAGER},
                    "ownerReferences": [{"apiVersion": API_VERSION, "kind": "NatRule", "name": "out", "uid": "uid-out"}],
                },
                "spec": *compiled.nodes["dir1"].nat_rules[&key()],
            });
            before(&mut index, &place, &mut compiled, &mut object);
            let binding: NatRuleBinding = serde_json::from_value(object).unwrap();
            let item = Box::new(Item::Binding(binding.into()));
            index.take_in(Heard::There(Source::NatRuleBinding, place.clone(), None, item));
        }
        let planned = binding(&index, &compiled, &Bound::new(Binds::NatRule, key(), "dir1"));
        let told = |write: &Write| {
            assert_eq!((write.target.kind, &write.target.place), (Kind::NatRuleBinding, &place), "{what}");
            match &write.action {
                Action::Apply(body) => {
                    assert_eq!(body["metadata"]["ownerReferences"][0]["uid"], "uid-out");
                    format!(
                        "apply it at version {}",
                        body["metadata"]["resourceVersion"].as_str().unwrap_or("none")
                    )
                }
                Action::Strip { version, pointers } => {
                    format!("strip it at version {version}: {}", pointers.join(" "))
                }
                Action::Delete { version, .. } => {
                    format!("delete it at version {}", version.as_deref().unwrap_or("none"))
                }
            }
        };
        assert_eq!(planned.iter().map(told).collect::<Vec<_>>(), writes, "{what}");
    }
}
