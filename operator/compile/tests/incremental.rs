//! One change after the other comes to the same as everything at once, and says exactly what it changed.

use std::collections::{BTreeMap, BTreeSet};

use bascule_compile::{Change, Compiled, Compiler, Condition, Delta, Reason, Snapshot, Trust, compile};
use bascule_crds::{Kind, Object, ObjectRef};
use proptest::prelude::*;
use serde_json::{Value, json};

fn object(value: Value) -> Object {
    let parsed = match value["kind"].as_str().unwrap() {
        "VirtualService" => serde_json::from_value(value).map(|o| Object::VirtualService(Box::new(o))),
        "Director" => serde_json::from_value(value).map(|o| Object::Director(Box::new(o))),
        "HealthCheck" => serde_json::from_value(value).map(|o| Object::HealthCheck(Box::new(o))),
        "VrrpGroup" => serde_json::from_value(value).map(|o| Object::VrrpGroup(Box::new(o))),
        "NatRule" => serde_json::from_value(value).map(|o| Object::NatRule(Box::new(o))),
        "EndpointSlice" => serde_json::from_value(value).map(|o| Object::EndpointSlice(Box::new(o))),
        kind => panic!("no {kind} is made here"),
    };
    parsed.unwrap()
}

fn manifest(kind: &str, namespace: Option<&str>, name: &str, created: u32, spec: &Value) -> Object {
    let mut metadata = json!({"name": name, "creationTimestamp": format!("2026-01-01T00:00:{created:02}Z")});
    if let Some(namespace) = namespace {
        metadata["namespace"] = namespace.into();
    }
    object(json!({"apiVersion": "bascule.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}))
}

/// Few enough addresses, ports and names that objects meet.
fn service() -> impl Strategy<Value = Object> {
    let on_director = (prop_oneof![8 => Just("dir1"), 3 => Just("dir2"), 1 => Just("dir9")], 0..5u8)
        .prop_map(|(director, interface)| match interface {
            0 => json!({"director": {"name": director, "interface": "outside"}}),
            1 => json!({"director": {"name": director, "interface": "eth0"}}),
            2 => json!({"director": {"name": director, "interface": "eth1"}}),
            _ => json!({"director": {"name": director}}),
        });
    let in_group = prop_oneof![6 => Just("g0"), 4 => Just("g1"), 2 => Just("g2"), 1 => Just("g9")];
    let placement =
        prop_oneof![10 => on_director, 8 => in_group.prop_map(|group| json!({"vrrpGroup": group}))];
    let address = (1..8u8, 0..3u8).prop_map(|(first, more)| match more {
        0 => format!("10.0.0.{first}"),
        _ => format!("10.0.0.{first}-10.0.0.{}", first + more),
    });
    let what = prop_oneof![
        6 => (proptest::collection::vec(address.clone(), 1..3), proptest::collection::btree_set(80..82u16, 1..3)).prop_map(
            |(addresses, ports)| {
                let ports: Vec<_> = ports.iter().map(|p| json!({"protocol": "TCP", "port": p})).collect();
                json!({"addresses": addresses, "ports": ports})
            }
        ),
        // Every port beside one: the kernel asks for the one first.
        1 => address.clone().prop_map(|address| {
            let ports = json!([{"protocol": "TCP", "port": 0}, {"protocol": "TCP", "port": 80}]);
            json!({"addresses": [address], "ports": ports, "persistence": {"timeout": "5m"}})
        }),
        1 => (1..3u32).prop_map(|mark| json!({"fwmark": {"mark": mark, "family": "IPv4"}})),
        1 => (1..3u32, address).prop_map(|(mark, address)| {
            let what = json!({"addresses": [address], "ports": [{"protocol": "TCP", "port": 80}]});
            json!({"fwmark": {"mark": mark, "family": "IPv4", "match": what}})
        }),
    ];
    let extra = prop_oneof![
        12 => Just(json!({})),
        2 => Just(json!({"healthChecks": ["up"], "checkHost": "a"})),
        2 => Just(json!({"healthChecks": ["up", "other"], "quorum": {"weight": 2}})),
        1 => Just(json!({"quorum": {"hooks": {"up": {"program": "announce"}}}})),
        1 => Just(json!({"persistence": {"timeout": "6m", "ipv4Prefix": 24}})),
        1 => Just(json!({"sorryServers": [{"address": "172.16.0.99"}]})),
        1 => Just(json!({"realServersFrom": {"service": {"name": "web"}}, "realServers": []})),
    ];
    let server = prop_oneof![9 => Just("172.16.0.1"), 1 => Just("2001:db8::1"), 1 => Just("127.0.0.1")];
    let own = prop_oneof![
        6 => Just(Value::Null),
        1 => Just(json!([])),
        2 => Just(json!(["other"])),
    ];
    let server = (server, own);
    let identity = (prop_oneof![Just("a"), Just("b")], 0..4u8, 0..4u32);
    (identity, placement, what, extra, server).prop_map(
        |((namespace, n, created), director, what, extra, server)| {
            let (address, own) = server;
            let mut spec = json!({"realServers": [{"name": "s", "address": address, "healthChecks": own}]});
            for part in [director, what, extra] {
                spec.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
            }
            manifest("VirtualService", Some(namespace), &format!("vs{n}"), created, &spec)
        },
    )
}

/// Every matter that is one for those who name it, and some that are not.
fn check() -> impl Strategy<Value = Object> {
    let probe = prop_oneof![
        3 => Just(json!({"tcp": {}})),
        1 => Just(json!({"tcp": {}, "interval": "1s"})),
        1 => Just(json!({"tcp": {}, "port": 80})),
        1 => Just(json!({"tcp": {}, "address": "127.0.0.1"})),
        1 => Just(json!({"tcp": {}, "sourceAddress": "2001:db8::1"})),
        1 => Just(json!({"http": {"body": {"matches": "("}}})),
        1 => Just(json!({"exec": {"program": "script"}})),
        1 => Just(json!({"exec": {"program": "script", "dynamicWeight": true}})),
    ];
    let name = (prop_oneof![Just("a"), Just("b")], prop_oneof![2 => Just("up"), 1 => Just("other")]);
    (name, probe)
        .prop_map(|((namespace, name), spec)| manifest("HealthCheck", Some(namespace), name, 0, &spec))
}

fn director() -> impl Strategy<Value = Object> {
    let name = prop_oneof![4 => Just("dir1"), 4 => Just("dir2"), 1 => Just("dir3")];
    (name, 0..3u8, 0..4u8, 0..6u8).prop_map(|(name, alias, access, sync)| {
        let mut spec = json!({});
        if sync < 3 {
            let interface = if sync == 0 { "outside" } else { "eth0" };
            spec["connectionSync"] = json!({"interface": interface, "syncId": 1 + sync / 2});
        }
        if alias > 0 {
            spec["interfaceAliases"] = json!({"outside": format!("eth{}", alias - 1)});
        }
        if sync == 4 {
            spec["maintenance"] = json!({"enabled": true});
        }
        let (namespaces, networks) = match access {
            0 => (json!(["*"]), json!(["0.0.0.0/0"])),
            1 => (json!(["a"]), json!(["10.0.0.0/29"])),
            2 => (json!(["a", "b"]), json!(["10.0.0.0/30"])),
            _ => (json!([]), json!([])),
        };
        spec["allow"] =
            json!([{"namespaces": namespaces, "kinds": ["VirtualService"], "addresses": networks, "exec": access == 2}]);
        if access == 2 {
            spec["allow"][0]["kinds"] = json!(["VirtualService", "HealthCheck"]);
        }
        if access == 0 || sync == 3 {
            spec["allow"][0]["kinds"] = json!(["VirtualService", "NatRule"]);
        }
        if access == 0 {
            spec["allowedTargets"] = json!(["127.0.0.0/8"]);
            spec["failureDomain"] = "rack".into();
        }
        manifest("Director", None, name, 0, &spec)
    })
}

/// Few enough members, ids and addresses that groups meet, and so many machine services that a director has room for two.
fn group() -> impl Strategy<Value = Object> {
    let members = proptest::sample::subsequence(vec!["dir1", "dir2", "dir3", "dir4"], 1..4);
    let interface = prop_oneof![Just("eth0"), Just("eth1"), Just("outside")];
    let addresses = proptest::collection::btree_set(1..8u8, 1..4);
    let id = prop_oneof![1 => Just(0), 3 => 1..5u8, 1 => 101..104u8];
    let instance = (interface, id, addresses);
    let extra = prop_oneof![
        12 => Just(json!({})),
        1 => Just(json!({"preferred": "dir1"})),
        1 => Just(json!({"allow": [{"namespaces": ["a"], "kinds": ["VirtualService"]}]})),
        1 => Just(json!({"allow": [{"namespaces": ["a"], "kinds": ["HealthCheck"], "exec": true}]})),
        4 => Just(json!({"allow": [{"namespaces": ["a", "b"], "kinds": ["NatRule"], "addresses": ["10.0.0.0/30"]}]})),
        2 => Just(json!({"services": (0..6).map(|n| json!({"systemd": format!("s{n}")})).collect::<Vec<_>>()})),
        2 => Just(json!({"track": {
            "healthChecks": [{"namespace": "a", "name": "up"}, {"namespace": "b", "name": "up", "weight": -20}],
            "virtualServices": [{"namespace": "a", "name": "vs1"}],
        }})),
    ];
    (0..4u8, 0..4u32, members, instance.clone(), proptest::option::weighted(0.3, instance), extra).prop_map(
        |(n, created, members, first, second, extra)| {
            let instances: Vec<_> = [Some(first), second]
                .into_iter()
                .flatten()
                .enumerate()
                .map(|(i, (interface, id, addresses))| {
                    let addresses: Vec<_> =
                        addresses.iter().map(|last| format!("10.0.0.{last}/32")).collect();
                    let mut one =
                        json!({"name": format!("i{i}"), "interface": interface, "addresses": addresses});
                    // In a cluster one is allocated; of files such a group is refused.
                    if id > 0 {
                        one["virtualRouterId"] = json!(id);
                    }
                    one
                })
                .collect();
            let members: Vec<_> = members.iter().map(|director| json!({"director": director})).collect();
            let mut spec = json!({"members": members, "instances": instances});
            spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            manifest("VrrpGroup", None, &format!("g{n}"), created, &spec)
        },
    )
}

/// They meet each other and, with what they forward and exchange, the services.
fn nat_rule() -> impl Strategy<Value = Object> {
    let placement = prop_oneof![
        6 => Just(json!({"director": "dir1"})),
        2 => Just(json!({"director": "dir2"})),
        1 => Just(json!({"director": "dir9"})),
        3 => Just(json!({"vrrpGroup": "g0"})),
        2 => Just(json!({"vrrpGroup": "g1"})),
        1 => Just(json!({"vrrpGroup": "g9"})),
    ];
    let interface = || prop_oneof![Just("outside"), Just("eth0"), Just("eth1")];
    let address = || (1..5u8).prop_map(|last| format!("10.0.0.{last}"));
    let target = prop_oneof![8 => Just("172.16.0.1"), 1 => Just("127.0.0.1"), 1 => Just("169.254.1.1")];
    let forward = (proptest::option::of(interface()), proptest::option::of(address()), 80..82u16, target)
        .prop_map(|(interface, address, port, to)| {
            let mut forward = json!({"protocol": "TCP", "port": port, "to": to});
            match (interface, address) {
                (None, None) => forward["inInterface"] = "eth0".into(),
                (interface, address) => {
                    if let Some(interface) = interface {
                        forward["inInterface"] = interface.into();
                    }
                    if let Some(address) = address {
                        forward["address"] = address.into();
                    }
                }
            }
            json!({"portForward": forward})
        });
    let sources = || {
        let one = prop_oneof![Just("172.16.0.0/16"), Just("172.16.0.9/16"), Just("0.0.0.0/0")];
        proptest::collection::btree_set(one, 0..3)
    };
    let what = prop_oneof![
        5 => forward,
        2 => (interface(), sources()).prop_map(|(interface, sources)| {
            json!({"masquerade": {"outInterface": interface, "sources": sources}})
        }),
        2 => (interface(), sources(), address()).prop_map(|(interface, sources, address)| {
            json!({"sourceNat": {"outInterface": interface, "sources": sources, "address": address}})
        }),
        2 => (address(), 1..3u8).prop_map(|(outside, last)| {
            json!({"staticNat": {"outside": outside, "inside": format!("172.16.0.{last}")}})
        }),
    ];
    let identity = (prop_oneof![Just("a"), Just("b")], 0..4u8, 0..4u32);
    (identity, placement, what).prop_map(|((namespace, n, created), placement, what)| {
        let mut spec = placement;
        spec.as_object_mut().unwrap().extend(what.as_object().unwrap().clone());
        manifest("NatRule", Some(namespace), &format!("nat{n}"), created, &spec)
    })
}

fn change() -> impl Strategy<Value = Change> {
    let object = prop_oneof![
        8 => service(),
        4 => group(),
        3 => director(),
        4 => check(),
        5 => nat_rule(),
        1 => (1..3u8).prop_map(|last| object(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "ports": [],
            "metadata": {"name": "web-1", "namespace": "a", "labels": {"kubernetes.io/service-name": "web"}},
            "endpoints": [{"addresses": [format!("172.16.0.{last}")]}],
        }))),
    ];
    (object, prop::bool::weighted(0.75))
        .prop_map(|(object, put)| if put { Change::Put(object) } else { Change::Delete(object.reference()) })
}

/// What differs between the two, found by looking at everything.
fn difference(before: &Compiled, after: &Compiled) -> Delta {
    let mut delta = Delta::default();
    for name in before.nodes.keys().chain(after.nodes.keys()) {
        let (old, new) = (before.nodes.get(name), after.nodes.get(name));
        if old == new {
            continue;
        }
        let node = delta.nodes.entry(name.clone()).or_default();
        node.director = old.map(|n| &n.director) != new.map(|n| &n.director);
        let bindings =
            |node: Option<&bascule_compile::NodeConfig>| node.map(|n| n.bindings.clone()).unwrap_or_default();
        let (old, new) = (bindings(old), bindings(new));
        node.bindings =
            old.keys().chain(new.keys()).filter(|k| old.get(*k) != new.get(*k)).cloned().collect();
        let rules =
            |compiled: &Compiled| compiled.nodes.get(name).map(|n| n.nat_rules.clone()).unwrap_or_default();
        let (old, new) = (rules(before), rules(after));
        node.nat_rules =
            old.keys().chain(new.keys()).filter(|k| old.get(*k) != new.get(*k)).cloned().collect();
    }
    let objects = before.conditions.keys().chain(after.conditions.keys());
    delta.conditions =
        objects.filter(|o| before.conditions.get(*o) != after.conditions.get(*o)).cloned().collect();
    let machines = before.machines.keys().chain(after.machines.keys());
    delta.machines =
        machines.filter(|m| before.machines.get(*m) != after.machines.get(*m)).cloned().collect();
    delta
}

/// Whether groups left no place for what the VirtualService had: they took an address from its interface, or what it had was
/// of a group that has not got that any more.
fn moved_by_groups(before: &Compiled, after: &Compiled, key: &str) -> bool {
    let key = key.parse().unwrap();
    let bindings = before.nodes.iter().filter_map(|(name, node)| Some((name, node.bindings.get(&key)?)));
    let mut bindings = bindings.filter(|(name, _)| after.nodes.contains_key(*name));
    bindings.any(|(director, binding)| {
        let matched = binding.fwmark.as_ref().and_then(|fwmark| fwmark.match_.as_ref());
        let ranges = binding.addresses.iter().chain(matched.into_iter().flat_map(|m| &m.addresses));
        let addresses: Vec<_> = ranges.flat_map(|range| range.addresses()).collect();
        let group_has = |name: Option<&String>, address| {
            let mut groups = after.nodes[director].director.vrrp.iter();
            groups.any(|group| {
                let mut has = group.instances.iter().flat_map(|one| &one.addresses);
                name.is_none_or(|name| group.name == *name) && has.any(|one| one.address == address)
            })
        };
        match &binding.vrrp_group {
            Some(group) => {
                let mut groups = after.nodes[director].director.vrrp.iter();
                !groups.any(|one| one.name == *group)
                    || !addresses.iter().all(|address| group_has(Some(group), *address))
            }
            None => binding.interface.is_some() && addresses.iter().any(|address| group_has(None, *address)),
        }
    })
}

/// Whether this is no reason to lose what it had.
fn matters_not(reason: Reason) -> bool {
    reason == Reason::Conflicted || reason.leaves_in_force()
}

/// Those that had a binding or were in force, are still there with nothing wrong in themselves, and are not. A group takes its
/// addresses from interfaces.
fn lost(before: &Compiled, after: &Compiled) -> Vec<ObjectRef> {
    // With a director goes what it had.
    let nodes = before.nodes.iter().filter(|(name, _)| after.nodes.contains_key(*name));
    let had: BTreeSet<_> =
        nodes.flat_map(|(_, node)| node.bindings.keys().map(ToString::to_string)).collect();
    let has: BTreeSet<_> =
        after.nodes.values().flat_map(|node| node.bindings.keys().map(ToString::to_string)).collect();
    let sound = |conditions: &[Condition]| {
        conditions
            .iter()
            .all(|one| one.status || one.problems.iter().all(|problem| matters_not(problem.reason)))
    };
    let sound = after.conditions.iter().filter(|(_, conditions)| sound(conditions));
    let groups = |compiled: &Compiled| -> BTreeSet<String> {
        let nodes = compiled.nodes.values();
        nodes.flat_map(|node| node.director.vrrp.iter().map(|group| group.name.clone())).collect()
    };
    let (groups_before, groups_after) = (groups(before), groups(after));
    sound
        .map(|(reference, _)| reference)
        .filter(|reference| {
            if reference.kind == Kind::VrrpGroup {
                return groups_before.contains(&reference.name) && !groups_after.contains(&reference.name);
            }
            let key = format!("{}/{}", reference.namespace.as_deref().unwrap_or_default(), reference.name);
            let lost = reference.kind == Kind::VirtualService && had.contains(&key) && !has.contains(&key);
            lost && !moved_by_groups(before, after, &key)
        })
        .cloned()
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(384))]

    #[test]
    fn incremental_is_full(
        cluster in any::<bool>(),
        declared in any::<bool>(),
        batches in proptest::collection::vec(proptest::collection::vec(change(), 1..5), 1..14),
    ) {
        let trust = if cluster { Trust::Cluster } else { Trust::Files };
        let directors: BTreeSet<String> = declared.then(|| "dir1".to_owned()).into_iter().collect();
        let mut compiler = Compiler::new(trust);
        for director in &directors {
            compiler.declare_director(director);
        }
        let mut objects: BTreeMap<ObjectRef, Object> = BTreeMap::new();
        for batch in batches {
            let before = compiler.compiled().clone();
            for change in &batch {
                match change {
                    Change::Put(object) => objects.insert(object.reference(), object.clone()),
                    Change::Delete(reference) => objects.remove(reference),
                };
            }
            let checks_alone = batch.iter().all(|change| {
                let reference = match change {
                    Change::Put(object) => object.reference(),
                    Change::Delete(reference) => reference.clone(),
                };
                reference.kind == Kind::HealthCheck
            });
            let delta = compiler.apply(batch);
            // In a cluster a program may come to be in one.
            let bindings_stay = delta.nodes.values().all(|node| node.bindings.is_empty());
            prop_assert!(cluster || !checks_alone || bindings_stay, "{delta:?}");
            let full = compile(&Snapshot {
                trust,
                directors: directors.clone(),
                programmed: before.nodes.clone(),
                objects: objects.values().cloned().collect(),
            });
            prop_assert_eq!(compiler.compiled(), &full);
            let lost = if cluster { Vec::new() } else { lost(&before, &full) };
            prop_assert!(lost.is_empty(), "{lost:?} lost what they had to others");
            prop_assert_eq!(delta, difference(&before, &full));
            // Saying it again changes nothing.
            let again = compiler.apply(objects.values().cloned().map(Change::Put));
            prop_assert!(again.is_empty(), "{again:?}");
        }
    }
}

/// Of a group whose last good form stays, what a director was not allowed to run does not come back when its HealthCheck goes: a program
/// that begins with what is in force knows nothing of it.
#[test]
fn a_last_good_form_is_what_the_directors_were_told() {
    let check = |spec: &Value| manifest("HealthCheck", Some("a"), "up", 0, spec);
    let program = check(&json!({"exec": {"program": "announce"}}));
    let group = |twice: bool| {
        let addresses = if twice { json!(["10.0.0.1/32", "10.0.0.1/32"]) } else { json!(["10.0.0.1/32"]) };
        let instance =
            json!({"name": "i0", "interface": "eth0", "virtualRouterId": 30, "addresses": addresses});
        let track = json!({"healthChecks": [{"namespace": "a", "name": "up"}]});
        let spec = json!({"members": [{"director": "dir1"}], "instances": [instance], "track": track});
        manifest("VrrpGroup", None, "front", 0, &spec)
    };
    let director = manifest("Director", None, "dir1", 0, &json!({}));
    let tracked = |compiler: &Compiler| {
        let track = &compiler.compiled().nodes["dir1"].director.vrrp[0].track;
        track.as_ref().map_or(0, |track| track.health_checks.len())
    };
    let full = |before: &Compiled, objects: Vec<Object>| {
        let programmed = before.nodes.clone();
        compile(&Snapshot { trust: Trust::Cluster, directors: BTreeSet::new(), programmed, objects })
    };
    for at_once in [true, false] {
        let mut compiler = Compiler::new(Trust::Cluster);
        compiler.apply([director.clone(), program.clone(), group(false)].map(Change::Put));
        assert_eq!(tracked(&compiler), 0, "nobody allows the program");
        let mut before = compiler.compiled().clone();
        let broken = Change::Put(group(true));
        let gone = Change::Delete(program.reference());
        if at_once {
            compiler.apply([broken, gone]);
        } else {
            compiler.apply([broken]);
            assert_eq!(
                *compiler.compiled(),
                full(&before, vec![director.clone(), program.clone(), group(true)])
            );
            before = compiler.compiled().clone();
            compiler.apply([gone]);
        }
        assert_eq!(tracked(&compiler), 0);
        assert_eq!(*compiler.compiled(), full(&before, vec![director.clone(), group(true)]));
        // What it wants now counts again once nothing is wrong with it.
        compiler.apply([Change::Put(group(false))]);
        assert_eq!(tracked(&compiler), 1, "of what is not there nobody knows that it is a program");
    }
}

fn web(n: u32, weight: u32) -> Object {
    let address = format!("10.{}.{}.{}", n >> 16 & 255, n >> 8 & 255, n & 255);
    let spec = json!({
        "director": {"name": "dir1", "interface": "eth0"},
        "addresses": [address],
        "ports": [{"protocol": "TCP", "port": 80}],
        "realServers": [{"name": "s1", "address": "172.16.0.1", "weight": weight}, {"name": "s2", "address": "172.16.0.2"}],
    });
    manifest("VirtualService", Some("tp"), &format!("web-{n}"), 0, &spec)
}

#[test]
fn a_change_among_ten_thousand_costs_only_itself() {
    let mut compiler = Compiler::new(Trust::Files);
    compiler.declare_director("dir1");
    let delta = compiler.apply((0..10_000).map(|n| Change::Put(web(n, 1))));
    assert_eq!(delta.nodes["dir1"].bindings.len(), 10_000);

    let before = compiler.evaluated();
    let delta = compiler.apply([Change::Put(web(1234, 7))]);
    assert_eq!(compiler.evaluated() - before, 1);
    assert_eq!(
        delta.nodes["dir1"].bindings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["tp/web-1234"]
    );
    assert!(!delta.nodes["dir1"].director && delta.conditions.is_empty());

    // A newcomer who wants what somebody has is looked at together with that one alone.
    let spec = json!({
        "director": {"name": "dir1"},
        "addresses": ["10.0.0.77"],
        "ports": [{"protocol": "TCP", "port": 80}],
        "realServers": [{"name": "s", "address": "172.16.0.1"}],
    });
    let before = compiler.evaluated();
    let late = manifest("VirtualService", Some("tp"), "a", 0, &spec);
    let delta = compiler.apply([Change::Put(late.clone())]);
    assert_eq!(compiler.evaluated() - before, 1);
    assert!(delta.nodes.is_empty());
    assert_eq!(delta.conditions, BTreeSet::from([late.reference()]));
    // And gets it when that one goes.
    let delta = compiler.apply([Change::Delete(web(77, 1).reference())]);
    assert_eq!(
        delta.nodes["dir1"].bindings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["tp/a", "tp/web-77"]
    );
}

/// VirtualServices come first, and only those rules are looked at anew that wait for what changed.
#[test]
fn nat_rules_follow_what_services_leave() {
    let mut compiler = Compiler::new(Trust::Files);
    compiler.declare_director("dir1");
    let forward = |n: u32, address: &str| {
        let spec = json!({"director": "dir1", "portForward": {"address": address, "protocol": "TCP", "port": 80, "to": "172.16.0.9"}});
        Change::Put(manifest("NatRule", Some("tp"), &format!("nat-{n}"), 0, &spec))
    };
    compiler.apply((0..1_000).map(|n| forward(n, &format!("10.0.{}.{}", n >> 8 & 255, n & 255))));
    let delta = compiler.apply([Change::Put(web(77, 1))]);
    let names = |delta: &Delta| {
        let node = delta.nodes.get("dir1").cloned().unwrap_or_default();
        (
            node.bindings.len(),
            node.nat_rules.iter().map(ToString::to_string).collect::<Vec<_>>(),
            delta.conditions.len(),
        )
    };
    assert_eq!(names(&delta), (1, vec!["tp/nat-77".to_owned()], 2));
    assert_eq!(compiler.compiled().nodes["dir1"].nat_rules.len(), 999);
    // Another weight is nothing to it.
    assert_eq!(names(&compiler.apply([Change::Put(web(77, 2))])), (1, vec![], 0));
    // And it comes back when the service goes.
    let delta = compiler.apply([Change::Delete(web(77, 1).reference())]);
    assert_eq!(names(&delta), (1, vec!["tp/nat-77".to_owned()], 2));
}

/// Bindings name checks: what one says is between it and those who run it.
#[test]
fn a_change_of_a_check_costs_its_users_only_when_it_is_another_matter_for_them() {
    let mut compiler = Compiler::new(Trust::Files);
    compiler.declare_director("dir1");
    let checked = |n: u32| {
        let Object::VirtualService(mut object) = web(n, 1) else { unreachable!("it is one") };
        object.spec.health_checks = vec![if n < 100 { "few" } else { "many" }.to_owned()];
        Change::Put(Object::VirtualService(object))
    };
    compiler.apply((0..10_000).map(checked));
    let check = |name: &str, spec: Value| manifest("HealthCheck", Some("tp"), name, 0, &spec);
    let mut counted = |change: Change| {
        let before = compiler.evaluated();
        let delta = compiler.apply([change]);
        assert!(delta.nodes.is_empty(), "{delta:?}");
        (compiler.evaluated() - before, delta.conditions.len())
    };
    // It comes: those who waited for it are told, and it is itself.
    assert_eq!(counted(Change::Put(check("few", json!({"tcp": {}})))), (100, 101));
    assert_eq!(counted(Change::Put(check("many", json!({"tcp": {}})))), (9_900, 9_901));
    for spec in [
        json!({"tcp": {}, "interval": "1s", "fall": 2}),
        json!({"http": {"path": "/alive"}}),
        json!({"tcp": {}, "mark": 7}),
    ] {
        assert_eq!(counted(Change::Put(check("many", spec))), (0, 0));
    }
    // Nobody here may be probed from there.
    let elsewhere = json!({"tcp": {}, "sourceAddress": "2001:db8::1"});
    assert_eq!(counted(Change::Put(check("few", elsewhere))), (100, 100));
    assert_eq!(counted(Change::Put(check("few", json!({"http": {"body": {"matches": "("}}})))), (100, 101));
    assert_eq!(counted(Change::Delete(check("few", json!({"tcp": {}})).reference())), (100, 101));
    assert_eq!(counted(Change::Put(check("nobody", json!({"tcp": {}})))), (0, 1));
}

/// A group with one instance.
fn front(addresses: &[&str], priority: u8, members: &[&str]) -> Object {
    let members: Vec<_> =
        members.iter().map(|director| json!({"director": director, "priority": priority})).collect();
    let instance = json!({"name": "a", "interface": "eth0", "virtualRouterId": 1, "addresses": addresses});
    manifest("VrrpGroup", None, "front", 0, &json!({"members": members, "instances": [instance]}))
}

fn in_front(n: u32) -> Object {
    let spec = json!({
        "vrrpGroup": "front",
        "addresses": ["192.0.2.1"],
        "ports": [{"protocol": "TCP", "port": 1000 + n}],
        "realServers": [{"name": "s", "address": "172.16.0.1"}],
    });
    manifest("VirtualService", Some("tp"), &format!("front-{n}"), 0, &spec)
}

#[test]
fn a_change_of_a_group_costs_its_users_and_only_where_it_concerns_them() {
    let mut compiler = Compiler::new(Trust::Files);
    compiler.declare_director("dir1");
    compiler.apply((0..5_000).map(|n| Change::Put(web(n, 1))));
    compiler.apply((0..100).map(|n| Change::Put(in_front(n))));
    assert!(compiler.compiled().nodes["dir1"].bindings.len() == 5_000);

    let counted = |compiler: &mut Compiler, change: Change| {
        let before = compiler.evaluated();
        let delta = compiler.apply([change]);
        (compiler.evaluated() - before, delta)
    };
    let (cost, delta) = counted(&mut compiler, Change::Put(front(&["192.0.2.1/32"], 100, &["dir1", "dir2"])));
    assert_eq!(cost, 100);
    assert_eq!(delta.nodes["dir1"].bindings.len(), 100);
    assert_eq!(delta.nodes["dir2"].bindings, delta.nodes["dir1"].bindings);

    // A priority is the machines' business alone.
    let (cost, delta) = counted(&mut compiler, Change::Put(front(&["192.0.2.1/32"], 90, &["dir1", "dir2"])));
    assert_eq!(cost, 0);
    assert!(delta.nodes.values().all(|node| node.director && node.bindings.is_empty()), "{delta:?}");

    // A member that is exchanged takes its bindings with it, and the others' stay as they are.
    let (cost, delta) = counted(&mut compiler, Change::Put(front(&["192.0.2.1/32"], 90, &["dir1", "dir3"])));
    assert_eq!(cost, 100);
    assert!(!delta.nodes.contains_key("dir1"), "{delta:?}");
    assert_eq!((delta.nodes["dir2"].bindings.len(), delta.nodes["dir3"].bindings.len()), (100, 100));
    assert!(!compiler.compiled().nodes.contains_key("dir2"));

    // An address of somebody's interface concerns that one, too.
    let both = ["192.0.2.1/32", "10.0.0.7/32"];
    let (cost, delta) = counted(&mut compiler, Change::Put(front(&both, 90, &["dir1", "dir3"])));
    assert_eq!(cost, 101);
    assert_eq!(delta.nodes["dir1"].bindings.len(), 1);
    let (cost, delta) = counted(&mut compiler, Change::Delete(front(&both, 90, &["dir1"]).reference()));
    assert_eq!(cost, 101);
    assert_eq!(delta.nodes["dir1"].bindings.len(), 101);
}
