//! One row a mistake: what is refused, why, and at which field.

use bascule_compile::{
    Change, Compiler, ConditionType, Reason, Reason::Invalid, Reason::Unsupported, Trust, problems_of,
};
use bascule_crds::{Object, ObjectRef};
use serde_json::{Value, json};

/// A VirtualService in which nothing is wrong.
fn service() -> Value {
    json!({
        "director": {"name": "dir1"},
        "addresses": ["192.0.2.1"],
        "ports": [{"name": "http", "protocol": "TCP", "port": 80}],
        "realServers": [{"name": "srv1", "address": "172.16.0.1"}, {"name": "srv2", "address": "172.16.0.2"}],
    })
}

/// Replaces or adds fields; `null` removes one.
fn patched(mut spec: Value, patch: &Value) -> Value {
    for (field, value) in patch.as_object().unwrap() {
        if value.is_null() {
            spec.as_object_mut().unwrap().remove(field);
        } else {
            spec[field] = value.clone();
        }
    }
    spec
}

fn object(kind: &str, name: &str, spec: &Value) -> Object {
    let value = json!({
        "apiVersion": "bascule.dev/v1alpha1", "kind": kind, "metadata": {"name": name, "namespace": "tp"}, "spec": spec,
    });
    match kind {
        "VirtualService" => Object::VirtualService(serde_json::from_value(value).unwrap()),
        "Director" => Object::Director(serde_json::from_value(value).unwrap()),
        "HealthCheck" => Object::HealthCheck(serde_json::from_value(value).unwrap()),
        "VrrpGroup" => Object::VrrpGroup(serde_json::from_value(value).unwrap()),
        "NatRule" => Object::NatRule(serde_json::from_value(value).unwrap()),
        "EndpointSlice" => {
            let metadata =
                json!({"name": name, "namespace": "tp", "labels": {"kubernetes.io/service-name": "web"}});
            let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": kind, "metadata": metadata,
                "addressType": "IPv4", "endpoints": [], "ports": []});
            Object::EndpointSlice(serde_json::from_value(slice).unwrap())
        }
        _ => unreachable!("{kind}"),
    }
}

/// The reference says that this works in a cluster only.
fn documented(what: &str) {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/manifests.md");
    let page = std::fs::read_to_string(page).unwrap();
    let told = page.lines().find(|line| line.starts_with("In a cluster only")).unwrap();
    assert!(told.contains(&format!("`{what}`")), "{what} is not among: {told}");
}

/// The object is refused for exactly this, and not programmed.
fn refused(object: Object, reason: Reason, field: &str, words: &str) {
    let problems = problems_of(&object);
    assert!(
        problems.iter().any(|p| p.reason == reason && p.field == field && p.message.contains(words)),
        "{reason:?} at {field} with {words:?} is not among {problems:#?}"
    );
    let reference = object.reference();
    let mut compiler = Compiler::new(Trust::Files);
    compiler.declare_director("dir1");
    compiler.apply([Change::Put(object)]);
    let conditions = &compiler.compiled().conditions[&reference];
    let accepted = conditions.iter().find(|c| c.type_ == ConditionType::Accepted).unwrap();
    assert!(!accepted.status, "{field}");
    assert!(accepted.message.contains(field), "{}", accepted.message);
    let node = &compiler.compiled().nodes["dir1"];
    assert!(node.bindings.is_empty() && node.nat_rules.is_empty(), "{field}");
}

#[test]
fn the_unpatched_service_is_served() {
    let mut compiler = Compiler::new(Trust::Files);
    compiler.declare_director("dir1");
    compiler.apply([Change::Put(object("VirtualService", "web", &service()))]);
    assert_eq!(compiler.compiled().nodes["dir1"].bindings.len(), 1);
    let conditions = compiler.compiled().conditions.values().next().unwrap();
    assert!(conditions.iter().all(|c| c.status), "{conditions:?}");
}

#[test]
fn what_does_not_exist_yet_is_refused_by_name() {
    // It is supported, but not with every firewall mark.
    let marked = json!({"addresses": null, "ports": null, "fwmark": {"mark": 1, "family": "IPv4"}, "sourceNat": "Auto"});
    let marked = object("VirtualService", "web", &patched(service(), &marked));
    refused(marked, Unsupported, "spec.sourceNat", "not supported by this version");
    let secret = json!({"name": "a", "key": "b"});
    for (field, authentication) in [
        (
            "spec.authentication.hmac.keys[0].secretRef",
            json!({"hmac": {"keys": [{"id": 1, "secretRef": secret}], "activeKey": 1}}),
        ),
        ("spec.authentication.simple.secretRef", json!({"simple": {"secretRef": secret}})),
    ] {
        let object = group(&json!({"authentication": authentication}));
        let mut compiler = Compiler::new(Trust::Cluster);
        compiler.declare_director("dir1");
        compiler.apply([Change::Put(object.clone())]);
        let carried = &compiler.compiled().nodes["dir1"].director.vrrp;
        assert_eq!(carried.len(), 1, "in a cluster: {:?}", compiler.compiled().conditions);
        refused(object, Unsupported, field, "Secrets need a cluster; use file");
        documented(&format!("VrrpGroup {}", field.replace("[0]", "[]")));
    }
}

#[test]
fn an_endpointslice_of_nobody_or_of_names_is_refused() {
    let slice = |change: &dyn Fn(&mut Value)| {
        let mut value = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "x", "namespace": "tp", "labels": {"kubernetes.io/service-name": "web"}},
            "endpoints": [], "ports": []});
        change(&mut value);
        Object::EndpointSlice(serde_json::from_value(value).unwrap())
    };
    assert_eq!(problems_of(&slice(&|_| ())), []);
    for label in [Value::Null, json!({}), json!({"kubernetes.io/service-name": ""})] {
        let nobody = slice(&|value| value["metadata"]["labels"] = label.clone());
        refused(nobody, Invalid, "metadata.labels", "must name the Service");
    }
    let names = slice(&|value| value["addressType"] = json!("FQDN"));
    refused(names, Unsupported, "addressType", "not supported by this version");
}

#[test]
fn a_nat_rule_contradicts_itself_at_a_field() {
    let forward = |patch: Value| {
        let plain = json!({"inInterface": "eth0", "protocol": "TCP", "port": 80, "to": "172.16.193.30"});
        json!({"portForward": patched(plain, &patch)})
    };
    let exchange = |outside: &str, inside: &str| json!({"staticNat": {"outside": outside, "inside": inside}});
    let source = |address: &str, source: &str| json!({"sourceNat": {"outInterface": "eth0", "address": address, "sources": [source]}});
    for (field, words, what) in [
        ("portForward.to", "a loopback address", forward(json!({"to": "127.0.0.1"}))),
        ("portForward.to", "a loopback address", forward(json!({"to": "::1"}))),
        ("portForward.to", "a multicast address", forward(json!({"to": "224.0.0.18"}))),
        ("portForward.address", "a loopback address", forward(json!({"address": "127.0.0.1"}))),
        ("portForward.to", "is IPv4, and address is IPv6", forward(json!({"address": "2001:db8::1"}))),
        ("portForward.to", "where the packets go without it", forward(json!({"address": "172.16.193.30"}))),
        (
            "portForward.to",
            "where the packets go without it",
            forward(json!({"address": "172.16.193.30", "toPort": 80})),
        ),
        ("sourceNat.address", "the unspecified address", source("0.0.0.0", "10.0.0.0/8")),
        ("sourceNat.sources[0]", "is IPv6, and address is IPv4", source("192.0.2.1", "2001:db8::/64")),
        ("staticNat.inside", "nothing to exchange", exchange("192.0.2.1", "192.0.2.1")),
        ("staticNat.inside", "is IPv6, and outside is IPv4", exchange("192.0.2.1", "2001:db8::1")),
        ("staticNat.outside", "a loopback address", exchange("127.0.0.1", "192.0.2.1")),
        ("staticNat.inside", "the broadcast address", exchange("192.0.2.1", "255.255.255.255")),
    ] {
        let object = object("NatRule", "x", &patched(what, &json!({"director": "dir1"})));
        refused(object, Invalid, &format!("spec.{field}"), words);
    }
    // To another port of the machine itself.
    let spec = forward(json!({"address": "172.16.193.30", "toPort": 8080}));
    assert_eq!(problems_of(&object("NatRule", "x", &patched(spec, &json!({"director": "dir1"})))), []);
}

/// One instance, patched.
fn instances(patch: Value) -> Value {
    let instance =
        json!({"name": "a", "interface": "eth0", "virtualRouterId": 1, "addresses": ["192.0.2.1/32"]});
    json!({"instances": [patched(instance, &patch)]})
}

/// A VrrpGroup of dir1 and dir2.
fn group(patch: &Value) -> Object {
    let spec =
        patched(instances(json!({})), &json!({"members": [{"director": "dir1"}, {"director": "dir2"}]}));
    object("VrrpGroup", "front", &patched(spec, patch))
}

#[test]
fn a_group_contradicts_itself_at_a_field() {
    let own = |a: &str, b: &str| json!([{"director": "dir1", "addresses": {"a": a}}, {"director": "dir2", "addresses": {"a": b}}]);
    let mixed = json!({"addresses": ["192.0.2.1/32", "2001:db8::1/128"]});
    let unicast = json!({"members": own("192.0.2.7", "192.0.2.8"), "peers": {"unicast": {}}});
    for (field, words, patch) in [
        (
            "spec.instances[0].label",
            "is for addresses on the interface itself",
            instances(json!({"virtualMac": true, "label": "0"})),
        ),
        (
            "spec.instances[0].routes[0].table",
            "255 is the table of the kernel's own addresses",
            instances(json!({"routes": [{"to": "198.51.100.0/24", "table": 255}]})),
        ),
        (
            "spec.instances[0].routes[0].via",
            "192.0.2.1 is an address of the group",
            instances(json!({"routes": [{"to": "198.51.100.0/24", "via": "192.0.2.1"}]})),
        ),
        (
            "spec.instances[0].routes[0].to",
            "the network is 198.51.100.0/24",
            instances(json!({"routes": [{"to": "198.51.100.7/24"}]})),
        ),
        (
            "spec.instances[0].routes[1].to",
            "stands in instances[0].routes[0] with the same table and metric",
            instances(json!({"routes": [{"to": "198.51.100.0/24"},
                {"to": "198.51.100.0/24", "via": "192.0.2.9", "table": 254, "metric": 0}]})),
        ),
        (
            "spec.instances[0].routes[1].to",
            "stands in instances[0].routes[0]",
            instances(
                json!({"routes": [{"to": "2001:db8::/48", "metric": 0}, {"to": "2001:db8::/48", "metric": 1024}]}),
            ),
        ),
        (
            "spec.instances[0].rules[0].from",
            "the network is 198.51.100.0/24",
            instances(json!({"rules": [{"from": "198.51.100.1/24", "table": 7}]})),
        ),
        (
            "spec.instances[0].rules[1].to",
            "instances[0].rules[0] sends the same into table 7",
            instances(json!({"rules": [{"to": "198.51.100.0/24", "table": 7},
                {"to": "198.51.100.0/24", "table": 7, "priority": 9}]})),
        ),
        (
            "spec.instances[0].virtualRouterId",
            "only in a cluster",
            instances(json!({"virtualRouterId": null})),
        ),
        (
            "spec.instances[0].addresses[1]",
            "stands in instances[0].addresses[0], too",
            instances(json!({"addresses": ["192.0.2.1/32", "192.0.2.1/24"]})),
        ),
        (
            "spec.instances[0].excludedAddresses[0]",
            "stands in instances[0].addresses[0], too",
            instances(json!({"excludedAddresses": ["192.0.2.1/32"]})),
        ),
        (
            "spec.instances[0].excludedAddresses[0]",
            "multicast",
            instances(json!({"excludedAddresses": ["224.0.0.18/32"]})),
        ),
        (
            "spec.members[1].addresses.a",
            "is a virtual address of the group",
            json!({"members": own("192.0.2.7", "192.0.2.1")}),
        ),
        (
            "spec.members[1].addresses.a",
            "is the address of member dir1 as well",
            json!({"members": own("192.0.2.7", "192.0.2.7")}),
        ),
        (
            "spec.members[0].addresses.a",
            "instance a has no IPv6 address",
            json!({"members": own("2001:db8::7", "192.0.2.7")}),
        ),
        (
            "spec.members[0].addresses.a",
            "by IPv4 only, and it has IPv6 addresses",
            patched(instances(mixed), &unicast),
        ),
    ] {
        refused(group(&patch), Invalid, field, words);
    }
    // In a cluster an id may be missing, and is allocated.
    let mut compiler = Compiler::new(Trust::Cluster);
    let object = group(&instances(json!({"virtualRouterId": null})));
    let reference = object.reference();
    compiler.apply([Change::Put(object)]);
    let accepted = &compiler.compiled().conditions[&reference][0];
    assert_eq!((accepted.status, accepted.reason), (true, Reason::Accepted), "{}", accepted.message);
}

/// What a group has that is carried out is not refused.
#[test]
fn what_a_group_may_use_is_not_refused() {
    for patch in [
        json!({"services": [{"systemd": "postfix.service"}], "notify": {"eventStream": true}}),
        json!({"authentication": {"hmac": {"keys": [{"id": 1, "file": "/etc/key"}], "activeKey": 1}}}),
        json!({"track": {"interfaces": [{"name": "eth1"}]}, "preferred": "dir2", "onAgentLoss": "Keep"}),
        json!({"warnAfter": "2s", "startupGrace": "30s"}),
        instances(json!({"label": "0", "excludedAddresses": ["192.0.2.9/32"]})),
    ] {
        assert_eq!(problems_of(&group(&patch)), [], "{patch}");
    }
}

/// They are Kubernetes' own there.
#[test]
fn nothing_is_said_of_the_endpointslices_of_a_cluster() {
    let mut compiler = Compiler::new(Trust::Cluster);
    compiler.apply([Change::Put(object("EndpointSlice", "web-1", &json!({})))]);
    assert!(compiler.compiled().conditions.is_empty());
}

#[test]
fn what_is_in_this_version_is_not_refused() {
    for patch in [
        json!({"drain": {"timeout": "30s"}, "checkHost": "www.example.org", "quorum": {}}),
        json!({"onFailure": "Quiesce", "initialState": "Down", "healthChecks": ["up"], "sorryServers": []}),
        json!({"sourceNat": "Never", "onePacket": false}),
    ] {
        assert_eq!(problems_of(&object("VirtualService", "web", &patched(service(), &patch))), [], "{patch}");
    }
    for spec in [
        json!({"maintenance": {"enabled": true, "drainTimeout": "1h"}}),
        json!({"failureDomain": "rack1", "serviceAccount": {"namespace": "a", "name": "b"}}),
    ] {
        assert_eq!(problems_of(&object("Director", "dir1", &spec)), [], "{spec}");
    }
}

#[test]
fn contradictions_are_refused_at_their_field() {
    let servers = |list: Value| json!({"realServers": list});
    let server = |more: Value| patched(json!({"name": "a", "address": "172.16.0.1"}), &more);
    let mark = |more: Value| {
        patched(json!({"addresses": null, "ports": null, "fwmark": {"mark": 1, "family": "IPv4"}}), &more)
    };
    let rows = [
        ("spec.addresses[0]", "unspecified", json!({"addresses": ["0.0.0.0"]})),
        ("spec.addresses[1]", "multicast", json!({"addresses": ["192.0.2.1", "224.0.0.18"]})),
        ("spec.addresses[0]", "broadcast", json!({"addresses": ["255.255.255.255"]})),
        ("spec.addresses[0]", "written as IPv6", json!({"addresses": ["::ffff:192.0.2.1"]})),
        ("spec.addresses[0]", "more than 256", json!({"addresses": ["10.0.0.0-10.0.1.0"]})),
        ("spec.addresses[1]", "in common with", json!({"addresses": ["192.0.2.1-192.0.2.9", "192.0.2.9"]})),
        (
            "spec.addresses[1]",
            "no real server and no sorry server is IPv6",
            json!({"addresses": ["192.0.2.1", "2001:db8::1"]}),
        ),
        ("spec.addresses[0]", "no real server and no sorry server is IPv4", json!({"realServers": []})),
        (
            "spec.fwmark.family",
            "no real server and no sorry server is IPv6",
            mark(json!({"fwmark": {"mark": 1, "family": "IPv6"}})),
        ),
        (
            "spec.fwmark.match.addresses[0]",
            "but the mark is for IPv4",
            mark(json!({"fwmark": {"mark": 1, "family": "IPv4",
                "match": {"addresses": ["2001:db8::1"], "ports": [{"protocol": "TCP", "port": 80}]}}})),
        ),
        (
            "spec.director.interface",
            "names no address",
            mark(json!({"director": {"name": "dir1", "interface": "eth0"}})),
        ),
        ("spec.ports[0].port", "needs persistence", json!({"ports": [{"protocol": "TCP", "port": 0}]})),
        (
            "spec.ports[0].targetPort",
            "each keeps its number",
            json!({"ports": [{"protocol": "TCP", "port": 0, "targetPort": 80}], "persistence": {}}),
        ),
        (
            "spec.ports[0].targetPort",
            "give a number",
            json!({"ports": [{"protocol": "TCP", "port": 80, "targetPort": "http"}]}),
        ),
        (
            "spec.ports[1]",
            "twice",
            json!({"ports": [{"protocol": "TCP", "port": 80}, {"protocol": "TCP", "port": 80, "targetPort": 81}]}),
        ),
        (
            "spec.ports[1].name",
            "called http",
            json!({"ports": [{"name": "http", "protocol": "TCP", "port": 80}, {"name": "http", "protocol": "TCP", "port": 81}]}),
        ),
        (
            "spec.ports[0].targetPort",
            "only Masquerade can",
            json!({"ports": [{"protocol": "TCP", "port": 80, "targetPort": 8080}], "forwarding": {"method": "DirectRouting"}}),
        ),
        (
            "spec.realServers[0].targetPorts.http",
            "Tunnel cannot change a port, 80 to 8080",
            servers(json!([server(
                json!({"targetPorts": {"http": 8080}, "forwarding": {"method": "Tunnel"}})
            )])),
        ),
        (
            "spec.realServers[0].targetPorts.https",
            "no port of the service is called https",
            servers(json!([server(json!({"targetPorts": {"https": 8443}}))])),
        ),
        (
            "spec.realServers[0].address",
            "unspecified",
            servers(json!([server(json!({"address": "0.0.0.0"}))])),
        ),
        (
            "spec.realServers[1].address",
            "those of real server a",
            servers(json!([server(json!({})), server(json!({"name": "b"}))])),
        ),
        (
            "spec.realServers[1].address",
            "never be used",
            servers(json!([server(json!({})), {"name": "b", "address": "2001:db8::1"}])),
        ),
        (
            "spec.sorryServers[0].port",
            "DirectRouting cannot change a port, 80 to 8080",
            json!({"sorryServers": [
                {"address": "172.16.0.99", "port": 8080, "forwarding": {"method": "DirectRouting"}}]}),
        ),
        (
            "spec.sorryServers[0].port",
            "each keeps its number",
            json!({"ports": [{"protocol": "TCP", "port": 80}, {"protocol": "TCP", "port": 0}], "persistence": {},
                "sorryServers": [{"address": "172.16.0.99", "port": 80}]}),
        ),
        (
            "spec.sorryServers[0].port",
            "a firewall mark has no port",
            mark(json!({"sorryServers": [{"address": "172.16.0.99", "port": 80}]})),
        ),
        ("spec.sorryServers[0].address", "unspecified", json!({"sorryServers": [{"address": "0.0.0.0"}]})),
        (
            "spec.sorryServers[1].address",
            "there can be one",
            json!({"sorryServers": [{"address": "172.16.0.98"}, {"address": "172.16.0.99"}]}),
        ),
        (
            "spec.sorryServers[0].address",
            "those of real server srv2",
            json!({"sorryServers": [{"address": "172.16.0.2"}]}),
        ),
        (
            "spec.sorryServers[0].address",
            "never be used",
            json!({"sorryServers": [{"address": "2001:db8::99"}]}),
        ),
        (
            "spec.sourceNat",
            "needs real servers reached by Masquerade",
            json!({"sourceNat": "Always", "forwarding": {"method": "DirectRouting"}}),
        ),
        ("spec.persistence.timeout", "whole seconds", json!({"persistence": {"timeout": "1500ms"}})),
        ("spec.persistence.timeout", "whole seconds", json!({"persistence": {"timeout": "0s"}})),
    ];
    for (field, words, patch) in rows {
        refused(object("VirtualService", "web", &patched(service(), &patch)), Invalid, field, words);
    }
}

/// So many ranges of 256 addresses.
fn ranges(count: usize) -> Value {
    (0..count).map(|n| format!("10.0.{n}.0-10.0.{n}.255")).collect::<Vec<_>>().into()
}

fn ports(count: usize) -> Value {
    (1..=count).map(|port| json!({"protocol": "TCP", "port": port})).collect::<Vec<_>>().into()
}

fn masqueraded(count: usize) -> Value {
    (0..count)
        .map(|n| json!({"name": format!("s{n}"), "address": format!("172.16.0.{n}")}))
        .collect::<Vec<_>>()
        .into()
}

/// What the agent would refuse to program is refused before it takes the place of a form that works.
#[test]
fn what_is_too_large_for_the_kernel_is_refused_with_its_figures() {
    let of = |addresses: usize, port: usize, servers: usize| json!({"addresses": ranges(addresses), "ports": ports(port), "realServers": masqueraded(servers)});
    let marked = |source_nat: &str| {
        let matched = json!({"addresses": ranges(64), "ports": ports(64)});
        json!({"addresses": null, "ports": null, "sourceNat": source_nat,
            "fwmark": {"mark": 1, "family": "IPv4", "match": matched}})
    };
    for patch in [of(4, 64, 16), of(64, 4, 16), of(64, 1, 64), marked("Never")] {
        assert_eq!(problems_of(&object("VirtualService", "web", &patched(service(), &patch))), []);
    }
    for (field, words, patch) in [
        ("spec.addresses", "1280 addresses × 52 ports are 66560 services", of(5, 52, 1)),
        ("spec.addresses", "1024 addresses × 64 ports × 17 real servers are 1114112 entries", of(4, 64, 17)),
        (
            "spec.fwmark.match.addresses",
            "1048576 pairs of an address and a port to mark and 2 entries for sourceNat",
            marked("Always"),
        ),
    ] {
        refused(object("VirtualService", "web", &patched(service(), &patch)), Invalid, field, words);
    }
}

#[test]
fn a_check_that_cannot_be_run_is_refused_at_its_field() {
    let http = |more: Value| json!({"http": more});
    let tls = |bundle: &str| http(json!({"scheme": "HTTPS", "tls": {"caBundle": bundle}}));
    for (field, words, spec) in [
        ("spec.http.body.matches", "unclosed group", http(json!({"body": {"matches": "("}}))),
        ("spec.http.body.matches", "look-around", http(json!({"body": {"matches": "(?<=a)b"}}))),
        ("spec.http.body.notMatches", "backreferences", http(json!({"body": {"notMatches": r"(a)\1"}}))),
        (
            "spec.http.body.matches",
            "repetitions",
            http(json!({"body": {"matches": "(((a{50}){50}){50}){50}"}})),
        ),
        ("spec.http.tls.caBundle", "without its end", tls("-----BEGIN CERTIFICATE-----\nAAAA")),
        (
            "spec.http.tls.caBundle",
            "certificate 1 is broken",
            tls("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"),
        ),
        (
            "spec.http.tls.serverName",
            "a..b is not the name",
            http(json!({"scheme": "HTTPS", "tls": {"serverName": "a..b"}})),
        ),
        ("spec.http.host", "set tls.serverName", http(json!({"scheme": "HTTPS", "host": "a..b:8443"}))),
        ("spec.address", "multicast", json!({"tcp": {}, "address": "224.0.0.18"})),
        ("spec.sourceAddress", "unspecified", json!({"tcp": {}, "sourceAddress": "::"})),
        ("spec.address", "link-local", json!({"tcp": {}, "address": "fe80::1"})),
        ("spec.sourceAddress", "link-local", json!({"tcp": {}, "sourceAddress": "fe80::1"})),
    ] {
        let object = object("HealthCheck", "up", &spec);
        let problems = problems_of(&object);
        assert!(
            problems.iter().any(|p| p.reason == Invalid && p.field == field && p.message.contains(words)),
            "{field} with {words:?} is not among {problems:#?}"
        );
        let reference = object.reference();
        let mut compiler = Compiler::new(Trust::Files);
        compiler.apply([Change::Put(object)]);
        assert!(!compiler.compiled().conditions[&reference][0].status, "{field}");
    }
    for spec in [
        json!({"tcp": {}, "port": 80, "address": "127.0.0.1", "sourceAddress": "127.0.0.2", "mark": 7}),
        http(json!({"body": {"matches": "(?i)it +works", "notMatches": "[[:digit:]]{3}"}})),
        json!({"exec": {"program": "check", "args": ["a"], "dynamicWeight": true}}),
    ] {
        assert_eq!(problems_of(&object("HealthCheck", "up", &spec)), []);
    }
}

/// Nobody is told of a mistake in a field that he did not write.
#[test]
fn what_sourcenat_is_unless_told_contradicts_nothing() {
    let fields = |patch: Value| {
        let problems = problems_of(&object("VirtualService", "web", &patched(service(), &patch)));
        problems.into_iter().map(|problem| (problem.reason, problem.field)).collect::<Vec<_>>()
    };
    let from = json!({"service": {"name": "web"}});
    for method in ["Masquerade", "DirectRouting", "Tunnel"] {
        let patch = json!({"realServers": null, "realServersFrom": from, "forwarding": {"method": method}});
        assert_eq!(fields(patch), [], "{method}");
    }
    // Sorry servers alone: their own method counts, not the service's.
    let sorry = |own: &str, service: &str| {
        json!({"realServers": null, "sourceNat": "Always", "forwarding": {"method": service},
            "sorryServers": [{"address": "172.16.0.99", "forwarding": {"method": own}}]})
    };
    assert_eq!(fields(sorry("Masquerade", "DirectRouting")), []);
    assert_eq!(fields(sorry("DirectRouting", "Masquerade")), [(Invalid, "spec.sourceNat".to_owned())]);
}

#[test]
fn one_bad_object_spares_the_others() {
    let mut compiler = Compiler::new(Trust::Files);
    compiler.declare_director("dir1");
    let bad = patched(service(), &json!({"addresses": ["192.0.2.2"], "realServers": []}));
    compiler.apply([
        Change::Put(object("VirtualService", "bad", &bad)),
        Change::Put(object("VirtualService", "good", &service())),
    ]);
    let names: Vec<_> = compiler.compiled().nodes["dir1"].bindings.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["tp/good"]);
    let reference: ObjectRef = object("VirtualService", "bad", &bad).reference();
    assert!(!compiler.compiled().conditions[&reference][0].status);
}
