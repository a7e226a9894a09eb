//! What holds whatever the slices say.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::json;

use super::resolving::binding;
use crate::endpoints::{Endpoint, Life, Place, Port, Slice, resolve};
use crate::plane::ipvs::expand;
use bascule_crds::common::Protocol;

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let address = prop_oneof![
        6 => (1u8..8).prop_map(|last| [10, 0, 0, last].into()),
        2 => (1u16..4).prop_map(|last| [0xfd00, 0, 0, 0, 0, 0, 0, last].into()),
        1 => Just([127, 0, 0, 1].into()),
    ];
    let life = prop_oneof![Just(Life::Serves), Just(Life::Finishes)];
    let pod = prop::option::of(prop_oneof![
        Just("web-1".to_owned()),
        Just("web-2".to_owned()),
        Just("10.0.0.1".to_owned())
    ]);
    let zones = prop_oneof![Just(vec![]), Just(vec!["a".to_owned()]), Just(vec!["b".to_owned()])];
    (address, life, pod, zones).prop_map(|(address, life, pod, zones)| Endpoint {
        address,
        life,
        pod,
        zones,
        nodes: vec![],
    })
}

fn slice() -> impl Strategy<Value = Slice> {
    let port = (prop_oneof![Just("http"), Just("https"), Just("")], 8080u16..8083)
        .prop_map(|(name, number)| Port { name: name.into(), protocol: Protocol::Tcp, number });
    (prop::collection::vec(endpoint(), 0..6), prop::collection::vec(port, 0..3))
        .prop_map(|(endpoints, ports)| Slice { service: "web".into(), endpoints, ports })
}

proptest! {
    #[test]
    fn the_kernel_can_hold_it_and_the_order_does_not_matter(
        slices in prop::collection::vec(slice(), 0..6),
        shape in 0..5usize,
    ) {
        let from = |ports: serde_json::Value| json!({"service": "web", "forwarding": {"method": "Masquerade"}, "targetPorts": ports});
        let sorry = json!([{"name": "sorry-ipv4", "address": "10.0.0.1", "weight": 1, "targetPorts": [8080, 8443], "forwarding": {"method": "Masquerade"}}]);
        let shapes = [
            json!({}),
            json!({"addresses": ["192.0.2.1", "2001:db8::1"]}),
            json!({"realServersFrom": from(json!(["http", "https"])), "sorryServers": sorry}),
            json!({"addresses": [], "ports": [], "fwmark": {"mark": 7, "families": ["IPv4"]}, "realServersFrom": from(json!([]))}),
            json!({"ports": [{"protocol": "TCP", "port": 0}, {"protocol": "TCP", "port": 80}], "realServersFrom": from(json!([0, "http"]))}),
        ];
        let spec = binding(&shapes[shape]);
        let place = Place { director: "dir1".into(), zone: Some("a".into()), allowed: vec![] };
        let resolved = |slices: &[Slice]| resolve(&spec, spec.real_servers_from.as_ref().unwrap(), slices, &place);
        let one = resolved(&slices);
        let mut reversed = slices.clone();
        reversed.reverse();
        prop_assert_eq!(&resolved(&reversed), &one);
        let names: BTreeSet<_> = one.servers.iter().map(|server| &server.name).collect();
        prop_assert_eq!(names.len(), one.servers.len(), "names are different");
        // Every one of a family serves, or one of that family does.
        for server in one.servers.iter().filter(|server| server.drain) {
            let family = server.address.is_ipv4();
            prop_assert_eq!(server.weight, 0);
            prop_assert!(one.servers.iter().any(|other| other.address.is_ipv4() == family && !other.drain));
        }
        let whole = bascule_crds::VirtualServiceBindingSpec { real_servers: one.servers.clone(), ..spec.clone() };
        let services = expand(&whole, None);
        prop_assert!(services.is_ok(), "{:?}", services);
        let there: BTreeSet<_> = services.unwrap().iter().flat_map(|one| one.destinations.iter().map(|d| d.id.address)).collect();
        for server in &one.servers {
            prop_assert!(there.contains(&server.address), "{server:?} is nowhere");
        }
    }
}
