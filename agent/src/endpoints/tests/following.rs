//! Bindings and slices in any order.

use std::sync::Arc;

use serde_json::{Value, json};

use super::resolving::{binding, slice};
use crate::endpoints::{Endpoints, Service, Slice};
use crate::plane::fixture::key;

fn of(service: &str, address: &str) -> Arc<Slice> {
    let ports = json!([{"name": "http", "port": 8080}]);
    let slice = slice(&ports, &json!([{"addresses": [address]}]));
    Arc::new(Slice { service: service.into(), ..slice })
}

fn from(service: &str) -> Value {
    json!({"realServersFrom": {"service": service, "forwarding": {"method": "Masquerade"}, "targetPorts": ["http", 443]}})
}

fn addresses(endpoints: &Endpoints, name: &str) -> Vec<String> {
    let spec = endpoints.resolved(&key(name)).expect("it names a Service");
    spec.real_servers.iter().map(|one| one.address.to_string()).collect()
}

#[test]
fn only_what_came_out_different_is_told() {
    let mut endpoints = Endpoints::new("dir1");
    endpoints.set_slice("tp", "web-1", Some(of("web", "10.0.0.1")));
    assert!(endpoints.settle().is_empty(), "nobody names it");
    endpoints.set_binding(&key("a"), Some(&Arc::new(binding(&from("web")))));
    endpoints.set_binding(&key("b"), Some(&Arc::new(binding(&from("other")))));
    assert_eq!(endpoints.settle(), [key("a"), key("b")].into());
    assert_eq!((addresses(&endpoints, "a"), addresses(&endpoints, "b")), (vec!["10.0.0.1".into()], vec![]));
    let before = Arc::clone(endpoints.resolved(&key("a")).unwrap());
    // The same again, another one's, one of another namespace.
    endpoints.set_slice("tp", "web-1", Some(of("web", "10.0.0.1")));
    endpoints.set_slice("tp", "third-1", Some(of("third", "10.0.0.9")));
    endpoints.set_slice("elsewhere", "web-1", Some(of("web", "10.0.0.9")));
    endpoints.set_binding(&key("a"), Some(&Arc::new(binding(&from("web")))));
    assert!(endpoints.settle().is_empty());
    assert!(Arc::ptr_eq(&before, endpoints.resolved(&key("a")).unwrap()), "the same piece of memory");
    endpoints.set_slice("tp", "web-2", Some(of("web", "10.0.0.2")));
    assert_eq!(endpoints.settle(), [key("a")].into());
    assert_eq!(addresses(&endpoints, "a"), ["10.0.0.1", "10.0.0.2"]);
    // A slice becomes another Service's.
    endpoints.set_slice("tp", "web-2", Some(of("other", "10.0.0.2")));
    assert_eq!(endpoints.settle(), [key("a"), key("b")].into());
    assert_eq!(
        (addresses(&endpoints, "a"), addresses(&endpoints, "b")),
        (vec!["10.0.0.1".into()], vec!["10.0.0.2".into()])
    );
    endpoints.set_slice("tp", "web-1", None);
    assert_eq!(endpoints.settle(), [key("a")].into());
    assert!(addresses(&endpoints, "a").is_empty());
    assert_eq!(endpoints.remarks().count(), 1, "and that is said");
}

#[test]
fn the_place_of_the_director_counts() {
    let mut endpoints = Endpoints::new("dir1");
    let hinted =
        |address: &str, zone: &str| json!({"addresses": [address], "hints": {"forZones": [{"name": zone}]}});
    let both = json!([hinted("10.0.0.1", "a"), hinted("10.0.0.2", "b")]);
    let slice = slice(&json!([{"name": "http", "port": 8080}]), &both);
    endpoints.set_slice("tp", "web-1", Some(Arc::new(slice)));
    endpoints.set_binding(&key("a"), Some(&Arc::new(binding(&from("web")))));
    endpoints.settle();
    assert_eq!(addresses(&endpoints, "a").len(), 2, "no zone is known");
    let config = serde_json::from_value(json!({"director": "dir1", "failureDomain": "b"})).unwrap();
    endpoints.set_director(&config);
    assert_eq!(endpoints.settle(), [key("a")].into());
    assert_eq!(addresses(&endpoints, "a"), ["10.0.0.2"]);
    endpoints.set_director(&config);
    assert!(endpoints.settle().is_empty());
}

#[test]
fn services_come_and_go_with_the_bindings_that_name_them() {
    let mut endpoints = Endpoints::new("dir1");
    let service = |name: &str| Service { namespace: "tp".into(), name: name.into() };
    endpoints.set_binding(&key("a"), Some(&Arc::new(binding(&from("web")))));
    endpoints.set_binding(&key("b"), Some(&Arc::new(binding(&from("web")))));
    assert!(endpoints.has_other_services() && !endpoints.has_other_services());
    endpoints.set_binding(&key("b"), None);
    assert!(endpoints.is_followed(&service("web")));
    endpoints.set_binding(&key("a"), Some(&Arc::new(binding(&from("other")))));
    assert!(endpoints.has_other_services());
    assert_eq!(endpoints.services().collect::<Vec<_>>(), [&service("other")]);
    let plain = json!({"realServersFrom": null});
    endpoints.set_binding(&key("a"), Some(&Arc::new(binding(&plain))));
    assert!(endpoints.services().next().is_none() && endpoints.resolved(&key("a")).is_none());
}
