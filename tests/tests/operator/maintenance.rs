//! Machines that are out of service.

use anyhow::{Result, ensure};
use bascule_tests::operator::eventually;
use serde_json::{Value, json};

use crate::agent;
use crate::cluster::{Cluster, condition_of};

fn node(unschedulable: bool, labels: &Value) -> String {
    let spec = json!({"unschedulable": unschedulable});
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "dir1", "labels": labels}, "spec": spec})
        .to_string()
}

/// Waits until the members of the group are told that dir1 stands by, or that it does not.
fn stands_by(cluster: &Cluster, stands_by: bool) -> Result<()> {
    eventually("what the members are told", || {
        for (director, field) in [("dir1", "standsBy"), ("dir2", "relieves")] {
            let form = cluster.get(&format!("dc {director}"))?["spec"]["vrrp"][0].take();
            ensure!((form[field] == true) == stands_by, "{director}: {form}");
        }
        Ok(())
    })?;
    Ok(())
}

/// Writes of specs for agents.
fn specs(cluster: &Cluster) -> Result<(u64, u64)> {
    cluster.settled()?;
    let bindings = cluster.writes(&["kind=\"VirtualServiceBinding\"", "action=\"apply\""])?;
    Ok((cluster.writes(&["kind=\"DirectorConfig\"", "action=\"apply\""])?, bindings))
}

pub(crate) fn a_cordoned_node(cluster: &mut Cluster) -> Result<()> {
    cluster.apply(&node(false, &json!({})))?;
    let before = specs(cluster)?;
    cluster.kubectl("cordon dir1")?;
    stands_by(cluster, true)?;
    let told = cluster.because("director dir1", "Maintenance", "True", "Cordoned")?;
    ensure!(told["message"].as_str().is_some_and(|why| why.contains("cordoned")), "{told}");
    ensure!(cluster.kubectl("get dir dir1")?.contains("Cordoned"));
    eventually("an event", || {
        let events = cluster.kubectl("get events.events.k8s.io -n default -o jsonpath={.items[*].reason}")?;
        ensure!(events.contains("Cordoned"), "{events}");
        Ok(())
    })?;
    // One write a member, and none for what is on the group.
    let after = specs(cluster)?;
    ensure!((after.0 - before.0, after.1 - before.1) == (2, 0), "{before:?} {after:?}");
    // In service for a moment only: nobody is told.
    cluster.kubectl("uncordon dir1")?;
    cluster.kubectl("cordon dir1")?;
    ensure!(specs(cluster)? == after);
    stands_by(cluster, true)?;
    // The next operator finds it so.
    let next = cluster.another()?;
    std::mem::replace(&mut cluster.operator, next).kill();
    cluster.wait_until_it_leads()?;
    ensure!(specs(cluster)? == (0, 0), "{}", cluster.operator.log());
    // Another reason is another condition, and nothing else.
    cluster.apply(&node(false, &json!({"node.kubernetes.io/exclude-from-external-load-balancers": ""})))?;
    cluster.because("director dir1", "Maintenance", "True", "Excluded")?;
    ensure!(specs(cluster)? == (0, 0), "{}", cluster.operator.log());
    // And back, when that has lasted.
    cluster.apply(&node(false, &json!({"topology.kubernetes.io/zone": "north"})))?;
    stands_by(cluster, false)?;
    eventually("it is in service again, and somewhere", || {
        let director = cluster.get("director dir1")?;
        ensure!(condition_of(&director, "Maintenance").is_null(), "{}", director["status"]);
        ensure!(director["status"]["failureDomain"] == "north", "{}", director["status"]);
        ensure!(cluster.get("dc dir1")?["spec"]["failureDomain"] == "north");
        Ok(())
    })?;
    // A Node that is gone says nothing of its machine.
    cluster.kubectl("cordon dir1")?;
    stands_by(cluster, true)?;
    cluster.kubectl("delete node dir1")?;
    stands_by(cluster, false)?;
    agent::machine(cluster, "dir1", Some(("Active", 200)))?;
    agent::machine(cluster, "dir2", Some(("Backup", 100)))?;
    a_director_in_maintenance(cluster)
}

/// Declared, it is more: what is on the director alone takes no new connections.
fn a_director_in_maintenance(cluster: &Cluster) -> Result<()> {
    agent::live(cluster, "router")?;
    agent::machine(cluster, "router", None)?;
    agent::carried_out(cluster, "on-the-router", "router", 1, 1)?;
    cluster.condition("vs on-the-router -n tp", "Ready", "True")?;
    let patch = |maintenance: Value| {
        let patch = json!({"spec": {"maintenance": maintenance}}).to_string();
        cluster.server.kubectl_ok(["patch", "director", "router", "--type=merge", "-p", &patch])
    };
    patch(json!({"enabled": true, "drainTimeout": "5m"}))?;
    eventually("its agent is told", || {
        let told = cluster.get("dc router")?["spec"]["maintenance"].take();
        ensure!(told == json!({"enabled": true, "drainTimeout": "5m"}), "{told}");
        Ok(())
    })?;
    agent::machine(cluster, "router", None)?;
    cluster.because("director router", "Maintenance", "True", "Maintenance")?;
    cluster.because("vs on-the-router -n tp", "Ready", "False", "Maintenance")?;
    patch(Value::Null)?;
    eventually("its agent is told", || {
        ensure!(cluster.get("dc router")?["spec"]["maintenance"].is_null());
        Ok(())
    })?;
    agent::machine(cluster, "router", None)?;
    cluster.condition("vs on-the-router -n tp", "Ready", "True")?;
    agent::die(cluster, "router");
    Ok(())
}
