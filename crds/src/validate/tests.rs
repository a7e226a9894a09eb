use super::*;
use crate::manifest;

fn violations(text: &str) -> Vec<Violation> {
    judge(&manifest::parse(text).unwrap()[0].value).expect_err(text)
}

const GOOD: &str = "\
apiVersion: bascule.dev/v1alpha1
kind: VirtualService
metadata: {name: web, namespace: tp}
spec:
  director: {name: load-balancer, interface: enp0s3}
  addresses: [192.16.193.30]
  ports: [{port: 80, protocol: TCP}]
  scheduler: {name: rr}
  realServers:
    - {name: srv1, address: 172.16.193.10}
    - {name: srv2, address: 172.16.193.40, weight: 2}
";

#[test]
fn every_schema_compiles() {
    for kind in Kind::ALL {
        make_ready(&compiled(kind).root);
    }
}

/// Compiles every pattern and every rule at a place and below it.
fn make_ready(node: &node::Node) {
    for rule in &node.rules {
        assert_eq!(
            rule.program().references().has_variable("oldSelf"),
            rule.is_transition,
            "{}",
            rule.source
        );
    }
    match &node.kind {
        node::Kind::Object { properties, others, .. } => {
            properties.values().for_each(|property| make_ready(&property.node));
            others.iter().for_each(|others| make_ready(others));
        }
        node::Kind::Array { items, .. } => items.iter().for_each(|items| make_ready(items)),
        node::Kind::String { pattern, .. } | node::Kind::IntOrString { pattern, .. } => {
            if let Some(pattern) = pattern {
                pattern.regex();
            }
        }
        _ => {}
    }
}

#[test]
fn a_good_manifest_is_decoded_with_its_defaults() {
    let Object::VirtualService(web) = judge(&manifest::parse(GOOD).unwrap()[0].value).unwrap() else {
        panic!("a VirtualService")
    };
    assert_eq!(web.metadata.name.as_deref(), Some("web"));
    assert_eq!(web.spec.real_servers[0].weight, 1);
    assert_eq!(web.spec.real_servers[1].weight, 2);
}

#[test]
fn what_is_wrong_is_named() {
    for (from, to, path, message) in [
        ("kind: VirtualService", "kind: VirtualServer", "kind", "is not a kind that is known here"),
        ("v1alpha1", "v1", "apiVersion", "should be `bascule.dev/v1alpha1`"),
        ("name: web", "name: Web", "metadata.name", "is not a name"),
        ("name: web, ", "", "metadata.name", "is required"),
        ("namespace: tp", "namespace: t.p", "metadata.namespace", "is not a namespace"),
        ("namespace: tp", "label: tp", "metadata.label", "unknown field"),
        ("  scheduler", "  schedular", "spec.schedular", "did you mean `scheduler`"),
        ("port: 80", "port: 80000", "spec.ports[0].port", "80000"),
        ("port: 80", "port: 0", "spec.ports", "port 0 (every port) needs persistence"),
        (
            "addresses: [192.16.193.30]",
            "fwmark: {mark: 1, family: IPv4}",
            "spec.ports",
            "a firewall mark has no ports",
        ),
        ("weight: 2", "weight: 65536", "spec.realServers[1].weight", "65536"),
        ("name: srv2", "name: srv1", "spec.realServers[1]", ""),
    ] {
        let found = violations(&GOOD.replacen(from, to, 1));
        assert!(
            found.iter().any(|violation| violation.path == path && violation.message.contains(message)),
            "{from} -> {to}: {found:?}"
        );
    }
    assert_eq!(violations("[1, 2]").len(), 1);
}

/// What a rule reads decides whether it is evaluated again: too little here would let a bad manifest pass.
#[test]
fn rules_say_what_they_read() {
    let spec = &compiled(Kind::VirtualService).root.property("spec").unwrap();
    let reads = |message: &str| {
        let rule = spec.rules.iter().find(|rule| rule.message.starts_with(message)).expect(message);
        rule.reads.as_ref().expect(message).join(" ")
    };
    assert_eq!(reads("port 0 (every port)"), "persistence ports");
    assert_eq!(reads("a firewall mark without match"), "director fwmark");
    assert_eq!(
        reads("nobody serves IPv4"),
        "addresses forwarding fwmark realServers realServersFrom sorryServers"
    );
    assert!(spec.rules.iter().all(|rule| rule.reads.is_some()));
    // Rules of a list read all of it.
    assert!(spec.property("ports").unwrap().rules.iter().all(|rule| rule.reads.is_none()));
}
