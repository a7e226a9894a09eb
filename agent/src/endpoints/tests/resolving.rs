//! Tables of what endpoints come to.

use bascule_crds::VirtualServiceBindingSpec;
use serde_json::{Value, json};

use crate::endpoints::{MAX_SERVERS, Place, Resolved, Slice, resolve};
use crate::plane::fixture::web;

/// TCP ports 80 and 443 from the endpoints of Service web; `changes` replaces fields of the binding.
pub(super) fn binding(changes: &Value) -> VirtualServiceBindingSpec {
    let mut fields = json!({
        "realServers": [],
        "ports": [{"protocol": "TCP", "port": 80}, {"protocol": "TCP", "port": 443}],
        "realServersFrom": {"service": "web", "forwarding": {"method": "Masquerade"}, "targetPorts": ["http", 8443],
            "healthChecks": ["up"]},
    });
    fields.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    (*web(fields)).clone()
}

pub(super) fn slice(ports: &Value, endpoints: &Value) -> Slice {
    let six =
        endpoints.pointer("/0/addresses/0").and_then(Value::as_str).is_some_and(|one| one.contains(':'));
    let family = if six { "IPv6" } else { "IPv4" };
    let fields = json!({"addressType": family, "endpoints": endpoints, "ports": ports});
    Slice::read("web", fields).unwrap()
}

fn http(endpoints: Value) -> Slice {
    slice(&json!([{"name": "http", "port": 8080}]), &endpoints)
}

fn at(address: &str, conditions: &str) -> Value {
    let conditions = match conditions {
        "ready" => json!({"ready": true}),
        "finishing" => json!({"ready": false, "serving": true, "terminating": true}),
        "ended" => json!({"ready": false, "serving": false, "terminating": true}),
        _ => unreachable!("{conditions}"),
    };
    json!({"addresses": [address], "conditions": conditions})
}

fn here() -> Place {
    Place { director: "dir1".into(), zone: Some("a".into()), allowed: Vec::new() }
}

fn resolved(changes: &Value, slices: &[Slice]) -> Resolved {
    let spec = binding(changes);
    resolve(&spec, spec.real_servers_from.as_ref().unwrap(), slices, &here())
}

/// Address, ports, weight of each, and `d` where it drains.
fn lines(of: &Resolved) -> Vec<String> {
    let line = |one: &bascule_crds::binding::BindingRealServer| {
        let ports: Vec<_> = one.target_ports.iter().map(ToString::to_string).collect();
        format!("{} {} {}{}", one.address, ports.join(","), one.weight, if one.drain { "d" } else { "" })
    };
    of.servers.iter().map(line).collect()
}

#[test]
fn the_ready_serve_and_those_that_finish_drain() {
    let table: [(&str, Value, &[&str]); 5] = [
        (
            "all ready",
            json!([at("10.0.0.2", "ready"), at("10.0.0.1", "ready")]),
            &["10.0.0.1 8080,8443 1", "10.0.0.2 8080,8443 1"],
        ),
        (
            "one finishes",
            json!([at("10.0.0.1", "finishing"), at("10.0.0.2", "ready")]),
            &["10.0.0.1 8080,8443 0d", "10.0.0.2 8080,8443 1"],
        ),
        (
            "nobody is ready",
            json!([at("10.0.0.1", "finishing"), at("10.0.0.2", "ended")]),
            &["10.0.0.1 8080,8443 1"],
        ),
        ("all have ended", json!([at("10.0.0.1", "ended")]), &[]),
        ("none", json!([]), &[]),
    ];
    for (what, endpoints, wanted) in table {
        let of = resolved(&json!({}), &[http(endpoints)]);
        assert_eq!(lines(&of), wanted, "{what}");
        assert_eq!(of.remarks.is_empty(), !wanted.is_empty(), "{what}: {:?}", of.remarks);
        assert!(of.servers.iter().all(|one| one.health_checks == ["up"]), "{what}");
    }
    let none = resolved(&json!({}), &[]);
    assert!(
        none.servers.is_empty() && none.remarks[0].contains("no EndpointSlice of Service web"),
        "{none:?}"
    );
}

#[test]
fn duplicates_collapse_and_the_livelier_counts() {
    let (one, two) = (
        http(json!([at("10.0.0.1", "finishing")])),
        http(json!([at("10.0.0.1", "ready"), at("10.0.0.2", "ready")])),
    );
    let wanted = ["10.0.0.1 8080,8443 1", "10.0.0.2 8080,8443 1"];
    assert_eq!(lines(&resolved(&json!({}), &[one.clone(), two.clone()])), wanted);
    assert_eq!(lines(&resolved(&json!({}), &[two, one])), wanted);
    // Rolled from one port to another: two servers at one address, and 8443 is in the kernel's table once.
    let (old, new) = (json!([{"name": "http", "port": 8080}]), json!([{"name": "http", "port": 9090}]));
    let both =
        [slice(&old, &json!([at("10.0.0.1", "ready")])), slice(&new, &json!([at("10.0.0.1", "ready")]))];
    assert_eq!(lines(&resolved(&json!({}), &both)), ["10.0.0.1 8080,8443 1", "10.0.0.1 9090,0 1"]);
}

#[test]
fn ports_are_found_by_name_and_protocol() {
    let from = |ports: Value| json!({"realServersFrom": {"service": "web", "forwarding": {"method": "Masquerade"}, "targetPorts": ports}});
    let ports = json!([{"name": "http", "port": 8080}, {"name": "dns", "port": 5353, "protocol": "UDP"}, {"name": "", "port": 99}]);
    let slice = slice(&ports, &json!([at("10.0.0.1", "ready")]));
    for (targets, wanted) in [
        (json!(["http", "http"]), Some("10.0.0.1 8080,8080 1")),
        (json!([7, 8]), Some("10.0.0.1 7,8 1")),
        (json!(["http", "dns"]), Some("10.0.0.1 8080,0 1")),
        (json!(["dns", "other"]), None),
    ] {
        let of = resolved(&from(targets.clone()), std::slice::from_ref(&slice));
        assert_eq!(lines(&of).first().map(String::as_str), wanted, "{targets}");
        let told = of.remarks.iter().any(|one| one.contains("have no port of the name"));
        assert_eq!(told, wanted.is_none(), "{:?}", of.remarks);
    }
}

#[test]
fn a_family_that_the_service_does_not_have_is_left_out() {
    let slices = [http(json!([at("10.0.0.1", "ready")])), http(json!([at("fd00::1", "ready")]))];
    assert_eq!(lines(&resolved(&json!({}), &slices)), ["10.0.0.1 8080,8443 1"]);
    let both = json!({"addresses": ["192.0.2.1", "2001:db8::1"]});
    assert_eq!(lines(&resolved(&both, &slices)).len(), 2);
    // Readiness counts in each family by itself.
    let slices = [slices[0].clone(), http(json!([at("fd00::1", "finishing")]))];
    assert_eq!(lines(&resolved(&both, &slices)), ["10.0.0.1 8080,8443 1", "fd00::1 8080,8443 1"]);
    let six = json!({"addresses": ["2001:db8::1"]});
    let of = resolved(&six, &slices[..1]);
    assert!(of.servers.is_empty() && of.remarks[0].ends_with("is ready and IPv6"), "{of:?}");
    // Only a tunnel crosses.
    let tunnel = json!({"addresses": ["2001:db8::1"], "realServersFrom": {"service": "web", "forwarding": {"method": "Tunnel"}, "targetPorts": [80, 443]}});
    assert_eq!(lines(&resolved(&tunnel, &slices[..1])), ["10.0.0.1 80,443 1"]);
}

#[test]
fn hints_count_where_all_that_are_ready_have_them() {
    let one = |address: &str, zones: Value, nodes: Value| {
        let mut one = at(address, "ready");
        one["hints"] = json!({"forZones": zones, "forNodes": nodes});
        one
    };
    let (a, b, dir1, none) =
        (json!([{"name": "a"}]), json!([{"name": "b"}]), json!([{"name": "dir1"}]), json!(null));
    let addresses = |endpoints: Value| -> Vec<String> {
        resolved(&json!({}), &[http(endpoints)]).servers.iter().map(|one| one.address.to_string()).collect()
    };
    let [first, second] = ["10.0.0.1", "10.0.0.2"];
    assert_eq!(
        addresses(json!([one(first, a.clone(), none.clone()), one(second, b.clone(), none.clone())])),
        [first]
    );
    assert_eq!(
        addresses(json!([one(first, a.clone(), none.clone()), at(second, "ready")])),
        [first, second],
        "one has none"
    );
    assert_eq!(
        addresses(json!([one(first, b.clone(), none.clone()), one(second, b.clone(), none)])),
        [first, second],
        "none here"
    );
    let nodes = json!([one(first, a.clone(), json!([{"name": "dir2"}])), one(second, b, dir1.clone())]);
    assert_eq!(addresses(nodes), [second], "a node before a zone");
    // One that finishes has no hints, and is kept from nobody.
    let mut slices = json!([one(first, a, dir1), at(second, "finishing")]);
    slices[1]["hints"] = json!(null);
    assert_eq!(addresses(slices), [first, second]);
}

#[test]
fn addresses_that_mean_another_machine_everywhere_need_permission() {
    let slices = [http(json!([at("127.0.0.1", "ready"), at("10.0.0.1", "ready"), at("224.0.0.1", "ready")]))];
    let of = resolved(&json!({}), &slices);
    assert_eq!(lines(&of), ["10.0.0.1 8080,8443 1"]);
    assert!(
        of.remarks[0].starts_with("2 endpoints are not used: 127.0.0.1, a loopback address"),
        "{:?}",
        of.remarks
    );
    let spec = binding(&json!({}));
    let place = Place { allowed: vec!["127.0.0.0/8".parse().unwrap()], ..here() };
    let of = resolve(&spec, spec.real_servers_from.as_ref().unwrap(), &slices, &place);
    assert_eq!(of.servers.len(), 2);
}

#[test]
fn a_sorry_server_is_no_endpoint() {
    let sorry = json!({"sorryServers": [{"name": "sorry-ipv4", "address": "10.0.0.1", "weight": 1, "targetPorts": [8080, 9],
        "forwarding": {"method": "Masquerade"}}]});
    let of = resolved(&sorry, &[http(json!([at("10.0.0.1", "ready"), at("10.0.0.2", "ready")]))]);
    assert_eq!(lines(&of), ["10.0.0.1 0,8443 1", "10.0.0.2 8080,8443 1"]);
    assert!(of.remarks[0].contains("10.0.0.1 is a sorry server"), "{:?}", of.remarks);
}

#[test]
fn a_mark_has_no_ports() {
    let mark = json!({"addresses": [], "ports": [], "fwmark": {"mark": 7, "families": ["IPv4"]},
        "realServersFrom": {"service": "web", "forwarding": {"method": "Masquerade"}}});
    let both = [
        http(json!([at("10.0.0.1", "ready")])),
        slice(
            &json!([]),
            &json!([at("10.0.0.1", "ready"), at("fd00::1", "ready")].iter().take(1).collect::<Vec<_>>()),
        ),
    ];
    assert_eq!(lines(&resolved(&mark, &both)), ["10.0.0.1  1"]);
}

#[test]
fn any_size_and_bounded_with_a_word() {
    let slices = |count: usize| -> Vec<Slice> {
        let address = |n: usize| format!("10.{}.{}.{}", n / 65_536, n / 256 % 256, n % 256);
        let all: Vec<_> = (1..=count).map(|n| at(&address(n), "ready")).collect();
        all.chunks(100).map(|chunk| http(json!(chunk))).collect()
    };
    let of = resolved(&json!({}), &slices(1_000));
    assert_eq!((of.servers.len(), of.remarks.len()), (1_000, 0), "no limit of 256");
    let of = resolved(&json!({}), &slices(MAX_SERVERS + 1));
    assert_eq!(of.servers.len(), MAX_SERVERS);
    assert!(of.remarks[0].contains("has 4097 endpoints that are IPv4: the first 4096"), "{:?}", of.remarks);
    // As many as fit into the kernel's table: 2 ports × 65536 / 2 addresses.
    let many =
        json!({"addresses": (0..128).map(|n| format!("192.{n}.0.0-192.{n}.0.255")).collect::<Vec<_>>()});
    let of = resolved(&many, &slices(100));
    assert_eq!(of.servers.len(), 16, "{:?}", of.remarks);
}

#[test]
fn names_tell_endpoints_apart() {
    let pod = |address: &str, name: &str| {
        let mut one = at(address, "ready");
        one["targetRef"] = json!({"kind": "Pod", "name": name});
        one
    };
    let both = json!({"addresses": ["192.0.2.1", "2001:db8::1"]});
    let slices = [
        http(json!([pod("10.0.0.1", "web-1"), pod("10.0.0.2", "web-2"), at("10.0.0.3", "ready")])),
        http(json!([pod("fd00::2", "web-2")])),
    ];
    let names: Vec<_> = resolved(&both, &slices).servers.into_iter().map(|one| one.name).collect();
    assert_eq!(names, ["web-1", "web-2.10.0.0.2", "10.0.0.3", "web-2.fd00-0-0-0-0-0-0-2"]);
}
