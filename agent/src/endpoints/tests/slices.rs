//! Slices as the API server has them, and as it never would.

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::endpoints::{Life, Slice};

fn read(fields: Value) -> Result<Slice, String> {
    Slice::read("web", fields)
}

fn of(endpoint: Value) -> Result<Slice, String> {
    read(
        json!({"addressType": "IPv4", "endpoints": [endpoint], "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]}),
    )
}

#[test]
fn what_is_not_said_counts_as_in_the_api() {
    for (conditions, life) in [
        (json!(null), Some(Life::Serves)),
        (json!({}), Some(Life::Serves)),
        (json!({"ready": true}), Some(Life::Serves)),
        (json!({"ready": false}), None),
        // publishNotReadyAddresses.
        (json!({"ready": true, "serving": false, "terminating": true}), Some(Life::Serves)),
        (json!({"ready": false, "serving": true, "terminating": true}), Some(Life::Finishes)),
        (json!({"ready": false, "serving": false, "terminating": true}), None),
        (json!({"ready": false, "terminating": true}), None),
        (json!({"ready": false, "serving": true}), None),
    ] {
        let slice = of(json!({"addresses": ["10.0.0.1"], "conditions": conditions})).unwrap();
        assert_eq!(slice.endpoints.first().map(|one| one.life), life, "{conditions}");
    }
    let unnamed = read(
        json!({"addressType": "IPv6", "endpoints": [{"addresses": ["fd00::1", "fd00::2"]}], "ports": [{"port": 1}, {"name": "any"}]}),
    );
    let unnamed = unnamed.unwrap();
    assert_eq!((unnamed.ports.len(), &*unnamed.ports[0].name, unnamed.ports[0].number), (1, "", 1));
    assert_eq!(unnamed.endpoints.len(), 1, "only the first address has a meaning");
    assert_eq!(read(json!({"addressType": "IPv4", "endpoints": null, "ports": null})).unwrap().endpoints, []);
}

#[test]
fn pods_zones_and_nodes_come_along() {
    let slice = of(json!({
        "addresses": ["10.0.0.1"], "nodeName": "n", "zone": "z",
        "targetRef": {"kind": "Pod", "name": "web-1"},
        "hints": {"forZones": [{"name": "a"}, {"name": "b"}], "forNodes": [{"name": "dir1"}]},
    }));
    let endpoint = slice.unwrap().endpoints.remove(0);
    assert_eq!(
        (endpoint.pod.as_deref(), endpoint.zones.len(), &*endpoint.nodes[0]),
        (Some("web-1"), 2, "dir1")
    );
    for (kind, name) in [("Node", "n"), ("Pod", "no\nname"), ("Pod", ""), ("Pod", "-a"), ("Pod", "A")] {
        let slice =
            of(json!({"addresses": ["10.0.0.1"], "targetRef": {"kind": kind, "name": name}})).unwrap();
        assert_eq!(slice.endpoints[0].pod, None, "{kind} {name:?}");
    }
}

#[test]
fn what_cannot_be_used_names_its_field() {
    let many = vec![json!({"addresses": ["10.0.0.1"]}); 1_001];
    let port = |port: Value| json!({"addressType": "IPv4", "endpoints": [], "ports": [port]});
    for (fields, words) in [
        (json!({"addressType": "FQDN", "endpoints": []}), "addressType: is FQDN, and endpoints must be"),
        (json!({}), "addressType: is , and"),
        (json!({"addressType": "IPv4", "endpoints": many}), "endpoints: has 1001, more than 1000"),
        (json!({"addressType": "IPv4", "endpoints": 7}), "endpoints: "),
        (
            json!({"addressType": "IPv4", "endpoints": [{"addresses": []}]}),
            "endpoints[0].addresses: is empty",
        ),
        (
            json!({"addressType": "IPv4", "endpoints": [{"addresses": ["x"]}]}),
            "endpoints[0].addresses[0]: `x` is not",
        ),
        (
            json!({"addressType": "IPv6", "endpoints": [{"addresses": ["10.0.0.1"]}]}),
            "endpoints[0].addresses[0]: 10.0.0.1 is not IPv6",
        ),
        (port(json!({"port": 0})), "ports[0].port: 0 is not from 1 to 65535"),
        (port(json!({"port": 65536})), "ports[0].port: 65536 is not"),
        (port(json!({"port": 1, "protocol": "ICMP"})), "ports[0].protocol: ICMP is none of"),
    ] {
        let why = read(fields.clone()).expect_err("refused");
        assert!(why.contains(words), "{why}: {fields}");
        assert!(why.split_once(": ").is_some(), "a field and words: {why}");
    }
}

/// Any JSON.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[ -~\u{e9}\u{1f600}]{0,80}".prop_map(Value::from),
        Just(json!("10.0.0.1")),
        Just(json!("IPv4")),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        let keys = prop_oneof![
            Just("addressType"),
            Just("endpoints"),
            Just("addresses"),
            Just("conditions"),
            Just("ready"),
            Just("ports"),
            Just("port"),
            Just("name"),
            Just("protocol"),
            Just("hints"),
            Just("forZones"),
            Just("targetRef"),
            Just("kind"),
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((keys, inner), 0..5).prop_map(|fields| {
                Value::Object(fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
            }),
        ]
    })
}

proptest! {
    /// Nothing that can be sent brings the decoder down, and what is read comes back from the disk as it was.
    #[test]
    fn nothing_brings_the_decoder_down(address_type in prop_oneof![Just(json!("IPv4")), Just(json!("IPv6")), anything()],
                                       endpoints in anything(), ports in anything()) {
        if let Ok(slice) = read(json!({"addressType": address_type, "endpoints": endpoints, "ports": ports})) {
            let kept = serde_json::to_value(&slice).unwrap();
            prop_assert_eq!(serde_json::from_value::<Slice>(kept).unwrap(), slice);
        }
    }
}
