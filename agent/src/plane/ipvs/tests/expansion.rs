use std::collections::BTreeSet;

use bascule_ipvs::{Family, Forwarding, ServiceFlags, ServiceId};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{
    plane::{
        fixture::{config, key, server, web},
        ipvs::{Desired, desired, expand},
    },
    reconcile::ledger::Entry as _,
};

fn ids(changes: Value) -> Vec<String> {
    expand(&web(changes), None).unwrap().iter().map(|wanted| wanted.service.id.to_string()).collect()
}

#[test]
fn addresses_times_ports_make_services() {
    let ports = json!([{"protocol": "TCP", "port": 80}, {"protocol": "UDP", "port": 53}]);
    let servers = json!([server("a", "172.16.193.10", json!({"targetPorts": [8080, 5353]}))]);
    let changes =
        json!({"addresses": ["10.0.0.1-10.0.0.2", "2001:db8::1"], "ports": ports, "realServers": servers});
    assert_eq!(
        ids(changes.clone()),
        [
            "TCP 10.0.0.1:80",
            "TCP 10.0.0.2:80",
            "TCP [2001:db8::1]:80",
            "UDP 10.0.0.1:53",
            "UDP 10.0.0.2:53",
            "UDP [2001:db8::1]:53"
        ]
    );
    let wanted = expand(&web(changes), None).unwrap();
    let targets: Vec<Vec<String>> = wanted
        .iter()
        .map(|wanted| wanted.destinations.iter().map(|destination| destination.id.to_string()).collect())
        .collect();
    assert_eq!(targets[0], ["172.16.193.10:8080"]);
    assert_eq!(targets[2], Vec::<String>::new(), "masquerading does not cross families");
    assert_eq!(targets[4], ["172.16.193.10:5353"]);
}

#[test]
fn a_tunnel_crosses_families_and_a_mark_keeps_the_port() {
    let tunnel = server("six", "2001:db8:1::1", json!({"forwarding": {"method": "Tunnel"}}));
    let wanted = expand(&web(json!({ "realServers": [tunnel] })), None).unwrap();
    assert_eq!(wanted[0].destinations.len(), 1);
    let servers = json!([
        server("a", "10.1.0.1", json!({"targetPorts": []})),
        server("b", "2001:db8:1::1", json!({"targetPorts": []}))
    ]);
    let mark = json!({"addresses": [], "ports": [], "fwmark": {"mark": 7, "families": ["IPv4", "IPv6"]}, "realServers": servers});
    let wanted = expand(&web(mark), None).unwrap();
    assert_eq!(wanted[0].service.id, ServiceId::Fwmark { mark: 7, family: Family::Ipv4 });
    assert_eq!(wanted[0].destinations[0].id.to_string(), "10.1.0.1:0");
    assert_eq!(wanted[1].destinations[0].id.to_string(), "[2001:db8:1::1]:0");
}

#[test]
fn an_endpoint_without_a_port_is_in_no_service_of_that_port() {
    let ports = json!([{"protocol": "TCP", "port": 80}, {"protocol": "TCP", "port": 443}, {"protocol": "UDP", "port": 0}]);
    let servers = json!([
        server("a", "10.1.0.1", json!({"targetPorts": [8080, 0, 0]})),
        server("b", "10.1.0.2", json!({"targetPorts": [0, 8443, 0]}))
    ]);
    let wanted = expand(&web(json!({"ports": ports, "realServers": servers})), None).unwrap();
    let of = |service: &str| -> Vec<String> {
        let wanted = wanted.iter().find(|wanted| wanted.service.id.to_string().ends_with(service)).unwrap();
        wanted.destinations.iter().map(|destination| destination.id.to_string()).collect()
    };
    assert_eq!(of(":80"), ["10.1.0.1:8080"]);
    assert_eq!(of(":443"), ["10.1.0.2:8443"]);
    assert_eq!(of(":0"), ["10.1.0.1:0", "10.1.0.2:0"], "any port is every port");
}

#[test]
fn flags_and_persistence() {
    let changes = json!({"scheduler": {"name": "mh", "fallback": true, "hashPort": true}, "onePacket": true,
        "addresses": ["10.0.0.1", "2001:db8::1"],
        "persistence": {"timeoutSeconds": 60, "ipv4Prefix": 24, "ipv6Prefix": 56, "engine": "sip"}});
    let wanted = expand(&web(changes), None).unwrap();
    let service = &wanted[0].service;
    assert_eq!(
        service.flags,
        ServiceFlags::PERSISTENT
            | ServiceFlags::ONE_PACKET
            | ServiceFlags::MH_FALLBACK
            | ServiceFlags::MH_PORT
    );
    assert_eq!(
        (service.timeout, service.netmask.prefix(), service.pe_name.as_deref()),
        (60, Some(24), Some("sip"))
    );
    assert_eq!(wanted[1].service.netmask.prefix(), Some(56));
    let plain = &expand(&web(json!({})), None).unwrap()[0];
    assert_eq!((plain.service.timeout, plain.service.netmask.prefix()), (0, Some(32)));
    assert!(plain.destinations.iter().all(|destination| destination.forwarding == Forwarding::Masquerade));
}

#[test]
fn what_is_too_big_or_says_one_thing_twice_is_refused_with_a_way_out() {
    let big = json!({"addresses": ["2001:db8::-2001:db8::1:0"]});
    let problem = expand(&web(big), None).unwrap_err();
    assert!(problem.contains("65536") && problem.contains("split"), "{problem}");
    let twice =
        json!({"realServers": [server("a", "10.1.0.1", json!({})), server("b", "10.1.0.1", json!({}))]});
    let problem = expand(&web(twice), None).unwrap_err();
    assert!(problem.contains("real server b") && problem.contains("10.1.0.1:80"), "{problem}");
    let without = json!({"realServers": [server("a", "10.1.0.1", json!({"targetPorts": []}))]});
    assert!(expand(&web(without), None).unwrap_err().contains("target port"));
    assert_eq!(
        ids(json!({"addresses": ["10.0.0.1", "10.0.0.1-10.0.0.2"]})).len(),
        2,
        "one address said twice is one service"
    );
}

#[test]
fn the_binding_whose_key_comes_first_has_a_contested_service() {
    let mut desired = Desired::default();
    let owner =
        |desired: &Desired| desired.services().values().next().map(|entry| entry.owner.name.to_string());
    let now = std::time::Instant::now();
    desired.set(&key("b"), Some(&web(json!({}))), None, now);
    assert_eq!(desired.set(&key("c"), Some(&web(json!({}))), None, now).len(), 0);
    assert_eq!(owner(&desired).as_deref(), Some("b"));
    assert_eq!(desired.set(&key("a"), Some(&web(json!({"scheduler": {"name": "wlc"}}))), None, now).len(), 1);
    assert_eq!(owner(&desired).as_deref(), Some("a"));
    let losers: BTreeSet<_> = desired.contested().values().flatten().map(ToString::to_string).collect();
    assert_eq!(losers, BTreeSet::from(["tp/b".to_owned(), "tp/c".to_owned()]));
    desired.set(&key("a"), None, None, now);
    assert_eq!(owner(&desired).as_deref(), Some("b"));
    desired.set(&key("b"), None, None, now);
    desired.set(&key("c"), None, None, now);
    assert_eq!(desired, Desired::default());
}

#[test]
fn ledger_lines_read_back() {
    for id in expand(&web(json!({"addresses": ["10.0.0.1", "2001:db8::1"]})), None)
        .unwrap()
        .iter()
        .map(|wanted| wanted.service.id)
    {
        assert_eq!(ServiceId::parse(&id.line()), Some(id));
    }
    let mark = ServiceId::Fwmark { mark: 4_294_967_295, family: Family::Ipv6 };
    assert_eq!(ServiceId::parse(&mark.line()), Some(mark));
    for nonsense in ["", "6 10.0.0.1", "fwmark 7 5", "6 10.0.0.1 80 x", "6 10.0.0 80"] {
        assert_eq!(ServiceId::parse(nonsense), None, "{nonsense}");
    }
}

/// A small world in which bindings often want the same.
fn small_spec() -> impl Strategy<Value = Option<std::sync::Arc<bascule_crds::VirtualServiceBindingSpec>>> {
    let addresses = proptest::collection::btree_set(1u8..4, 0..3);
    let servers = proptest::collection::btree_map(1u8..4, 0u32..3, 0..3);
    proptest::option::of((addresses, servers, prop_oneof![Just("rr"), Just("wlc")])).prop_map(|parts| {
        parts.map(|(addresses, servers, scheduler)| {
            let addresses: Vec<_> = addresses.iter().map(|number| format!("10.0.0.{number}")).collect();
            let servers: Vec<_> = servers
                .iter()
                .map(|(number, weight)| {
                    server(&format!("s{number}"), &format!("10.1.0.{number}"), json!({ "weight": weight }))
                })
                .collect();
            web(json!({"addresses": addresses, "realServers": servers, "scheduler": {"name": scheduler}}))
        })
    })
}

pub(super) fn changes()
-> impl Strategy<Value = Vec<(&'static str, Option<std::sync::Arc<bascule_crds::VirtualServiceBindingSpec>>)>>
{
    proptest::collection::vec((prop_oneof![Just("a"), Just("b"), Just("c")], small_spec()), 0..12)
}

proptest! {
    #[test]
    fn key_by_key_gives_the_same_as_all_at_once(changes in changes()) {
        let now = std::time::Instant::now();
        let mut desired_by_key = Desired::default();
        let mut config = config([]);
        desired_by_key.set_director(&config.director);
        for (name, spec) in changes {
            let before = desired_by_key.services().clone();
            let affected = desired_by_key.set(&key(name), spec.as_ref(), None, now);
            match spec {
                Some(spec) => config.bindings.insert(key(name), spec),
                None => config.bindings.remove(&key(name)),
            };
            prop_assert_eq!(&desired_by_key, &desired(&config, &crate::reconcile::Lives::new(), now));
            // Whatever changed was said to be affected.
            for id in before.keys().chain(desired_by_key.services().keys()) {
                let wanted = |all: &std::collections::BTreeMap<ServiceId, crate::plane::ipvs::Entry>| all.get(id).map(|entry| entry.wanted.clone());
                prop_assert!(wanted(&before) == wanted(desired_by_key.services()) || affected.contains(id));
            }
        }
    }
}
