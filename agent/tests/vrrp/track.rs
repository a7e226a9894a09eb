//! What groups track: health checks and virtual services.

use std::{fs, time::Duration};

use crate::agent::Agent;
use crate::net::{Net, can_run, eventually, group};
use crate::pair::{OUTSIDE, Pair};

const CHECK: &str = "health check tp/upstream";
const SERVICE: &str = "virtual service tp/web";
const TRACK: &str = r#"{"track": {"healthChecks": [{"namespace": "tp", "name": "upstream"}],
    "virtualServices": [{"namespace": "tp", "name": "web", "weight": -150}]}}"#;

#[test]
fn a_check_that_fails_is_a_fault_and_a_quorum_with_a_weight_costs_priority() {
    if !can_run() {
        return;
    }
    let pair = Pair::alike(TRACK);
    pair.one.handle.tracked("front", CHECK, true);
    pair.one.wait_for("front", "Fault");
    let status = pair.one.status().groups.remove(0);
    assert!(status.reason.contains(CHECK), "{}", status.reason);
    assert_eq!(status.failing, [CHECK]);
    pair.two.wait_for("front", "Active");
    pair.all_settle(false);
    pair.one.handle.tracked("front", CHECK, false);
    pair.one.wait_for("front", "Active");

    pair.one.handle.tracked("front", SERVICE, true);
    pair.two.wait_for("front", "Active");
    pair.one.wait_for("front", "Backup");
    let status = pair.one.status().groups.remove(0);
    assert_eq!((status.priority, status.failing), (50, vec![SERVICE.to_owned()]));
    pair.all_settle(false);
    // Not tracked any more, it costs nothing; tracked again, it does.
    pair.one.handle.configure(&[group(200, "")]);
    pair.one.wait_for("front", "Active");
    pair.one.handle.configure(&[group(200, TRACK)]);
    pair.two.wait_for("front", "Active");
    pair.one.handle.tracked("front", SERVICE, false);
    pair.one.wait_for("front", "Active");
    pair.all_settle(true);
}

#[test]
fn who_begins_with_a_failing_check_never_has_the_addresses() {
    if !can_run() {
        return;
    }
    let net = Net::new();
    let dir1 = net.machine(1);
    let one = dir1.start();
    // Known before the group is, as by a process that comes after another one.
    one.handle.tracked("front", CHECK, true);
    one.handle.configure(&[group(200, TRACK)]);
    one.wait_for("front", "Fault");
    one.expect_history(&["Initialize -> Fault"]);
    one.handle.tracked("front", CHECK, false);
    one.wait_for("front", "Active");
}

/// Files stand for whatever is checked: there is one probe that is watched and needs no patience.
const MANIFESTS: &str = "
apiVersion: bascule.dev/v1alpha1
kind: VrrpGroup
metadata: {name: front}
spec:
  members: [{director: dir1, priority: 200}]
  advertisementInterval: 100ms
  instances: [{name: outside, interface: eth0, virtualRouterId: 30, addresses: [192.16.193.30/32]}]
  track:
    healthChecks: [{namespace: tp, name: in-service}]
    virtualServices: [{namespace: tp, name: web}]
---
apiVersion: bascule.dev/v1alpha1
kind: HealthCheck
metadata: {name: in-service, namespace: tp}
spec: {file: {name: in-service}, fall: 1}
---
apiVersion: bascule.dev/v1alpha1
kind: HealthCheck
metadata: {name: srv1, namespace: tp}
spec: {file: {name: srv1}, fall: 1}
---
apiVersion: bascule.dev/v1alpha1
kind: HealthCheck
metadata: {name: srv2, namespace: tp}
spec: {file: {name: srv2}, fall: 1}
---
apiVersion: bascule.dev/v1alpha1
kind: VirtualService
metadata: {name: web, namespace: tp}
spec:
  vrrpGroup: front
  addresses: [192.16.193.30]
  ports: [{port: 80, protocol: TCP}]
  quorum: {weight: 2}
  realServers:
    - {name: srv1, address: 172.16.193.10, healthChecks: [srv1]}
    - {name: srv2, address: 172.16.193.40, healthChecks: [srv2]}
";

#[test]
fn from_the_manifests_to_the_addresses() {
    if !can_run() {
        return;
    }
    let net = Net::new();
    let dir1 = net.machine(1);
    let directory = tempfile::tempdir().unwrap();
    let at = |path: &str| directory.path().join(path);
    for part in ["m", "f"] {
        fs::create_dir(at(part)).unwrap();
    }
    fs::write(at("m/all.yaml"), MANIFESTS).unwrap();
    for part in ["f/in-service", "f/srv1", "f/srv2"] {
        fs::write(at(part), "").unwrap();
    }
    let agent = Agent::start(&dir1, directory.path());
    eventually("everything passes", || dir1.has(OUTSIDE).then_some(()));
    for part in ["f/in-service", "f/srv1", "f/srv2"] {
        fs::remove_file(at(part)).unwrap();
        eventually(&format!("without {part} the address goes"), || (!dir1.has(OUTSIDE)).then_some(()));
        fs::write(at(part), "").unwrap();
        eventually(&format!("with {part} it comes back"), || dir1.has(OUTSIDE).then_some(()));
    }
    // Somebody removes the check: nobody loses an address by that.
    let without = MANIFESTS.replace("name: in-service, namespace: tp}", "name: other, namespace: tp}");
    fs::remove_file(at("f/in-service")).unwrap();
    eventually("the address goes", || (!dir1.has(OUTSIDE)).then_some(()));
    fs::write(at("m/all.yaml"), without).unwrap();
    eventually("a check that is not there does not fail", || dir1.has(OUTSIDE).then_some(()));
    std::thread::sleep(Duration::from_millis(200));
    assert!(dir1.has(OUTSIDE));
    drop(agent);
}
