//! EndpointSlices beside the VirtualServices that name their Services.

use super::*;

const WEB: &str = "apiVersion: bascule.dev/v1alpha1
kind: VirtualService
metadata: {name: web, namespace: tp}
spec:
  director: {name: dir1}
  addresses: [10.0.0.1]
  ports: [{port: 80, protocol: TCP, targetPort: http}]
  realServersFrom: {service: {name: web}}
";

fn slice(name: &str, addresses: &[&str]) -> String {
    let endpoints: String =
        addresses.iter().map(|address| format!("  - {{addresses: [{address}]}}\n")).collect();
    format!(
        "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, namespace: tp, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{name: http, port: 8080, protocol: TCP}}]
endpoints:
{endpoints}"
    )
}

fn served(bench: &Bench) -> Vec<String> {
    let config = bench.engine.config().unwrap();
    let servers = &config.bindings[&BindingKey::new("tp", "web")].real_servers;
    servers.iter().map(|one| one.address.to_string()).collect()
}

#[test]
fn endpoints_in_the_directory_are_real_servers() {
    let mut bench = Bench::new();
    assert_eq!(
        bench.read(&[("web", WEB), ("other", &super::web("other", "10.0.0.9", 1))]),
        ["tp/other", "tp/web"]
    );
    assert_eq!(served(&bench), [""; 0]);
    assert_eq!(bench.engine.remarks().len(), 1);
    let one = slice("web-1", &["172.16.193.10"]);
    assert_eq!(bench.read(&[("slices", &one)]), ["tp/web"]);
    assert_eq!(served(&bench), ["172.16.193.10"]);
    assert!(bench.engine.remarks().is_empty() && bench.problems().is_empty(), "{:?}", bench.problems());
    let ours = ObjectRef::new(Kind::EndpointSlice, Some("tp"), "web-1");
    assert!(bench.engine.is_ours(&ours));
    let two = format!("{one}---\n{}", slice("web-2", &["172.16.193.40"]));
    assert_eq!(bench.read(&[("slices", &two)]), ["tp/web"]);
    assert_eq!(served(&bench), ["172.16.193.10", "172.16.193.40"]);
    // Another order says nothing else.
    let swapped = format!("{}---\n{one}", slice("web-2", &["172.16.193.40"]));
    assert_eq!(bench.read(&[("slices", &swapped)]), [""; 0]);
    // The binding changes and keeps its endpoints.
    assert_eq!(bench.read(&[("web", &WEB.replace("port: 80", "port: 81"))]), ["tp/web"]);
    assert_eq!(served(&bench).len(), 2);
    // A vanished file takes its own along.
    bench.engine.catalog.vanished(Instant::now(), "slices");
    bench.engine.catalog.expire(Instant::now() + 2 * SETTLE);
    assert_eq!(bench.step(), ["tp/web"]);
    assert_eq!(served(&bench), [""; 0]);
}

#[test]
fn a_slice_that_cannot_be_used_freezes_as_others_do() {
    let mut bench = Bench::new();
    let good = slice("web-1", &["172.16.193.10"]);
    bench.read(&[("web", WEB), ("slices", &good)]);
    for (bad, field) in [
        (good.replace("172.16.193.10", "2001:db8::1"), "endpoints[0].addresses"),
        (good.replace("172.16.193.10", "127.0.0.1"), "endpoints[0].addresses[0]"),
        (good.replace("port: 8080", "port: 0"), "ports[0].port"),
        (good.replace("kubernetes.io/service-name: web", "a: b"), "metadata.labels"),
        (good.replace("IPv4", "FQDN"), "addressType"),
        (good.replace("endpoints:", "endpoint:"), "endpoint"),
    ] {
        assert_eq!(bench.read(&[("slices", &bad)]), [""; 0], "{field}");
        assert_eq!(served(&bench), ["172.16.193.10"], "{field}");
        let problems = bench.problems();
        assert!(problems.iter().any(|one| one.contains(&format!(": {field}: "))), "{field}: {problems:?}");
        assert_eq!(bench.read(&[("slices", &good)]), [""; 0]);
        assert!(bench.problems().is_empty());
    }
    assert_eq!(bench.read(&[("slices", "kind: [")]), [""; 0], "unparsable");
    assert_eq!(served(&bench), ["172.16.193.10"]);
}

#[test]
fn endpoints_are_remembered() {
    let mut bench = Bench::new();
    bench.read(&[("web", WEB), ("slices", &slice("web-1", &["172.16.193.10"]))]);
    let saved: BTreeMap<String, Saved> =
        bench.last.saved.iter().filter_map(|(key, saved)| Some((key.clone(), saved.clone()?))).collect();
    let mut next = Bench::new();
    assert_eq!(next.engine.remember(saved), Vec::<String>::new());
    assert_eq!(served(&next), ["172.16.193.10"]);
}
