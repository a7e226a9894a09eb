//! What cannot be as it is written.

use std::time::Duration;

use anyhow::{Result, ensure};
use bascule_tests::operator::eventually;
use serde_json::json;

use crate::cluster::Cluster;

fn service(name: &str, port: u16) -> String {
    json!({
        "apiVersion": "bascule.dev/v1alpha1", "kind": "VirtualService", "metadata": {"name": name, "namespace": "tp"},
        "spec": {
            "vrrpGroup": "front", "addresses": ["192.16.193.30"], "ports": [{"port": port, "protocol": "TCP"}],
            "realServers": [{"name": "srv1", "address": "172.16.193.10"}],
        },
    })
    .to_string()
}

pub(crate) fn two_want_one_address(cluster: &mut Cluster) -> Result<()> {
    cluster.apply(&service("older", 81))?;
    cluster.condition("vs older -n tp", "Accepted", "True")?;
    // The API tells ages in whole seconds; of one age the name decides, as it does here.
    std::thread::sleep(Duration::from_millis(1100));
    cluster.apply(&service("a-younger", 81))?;
    let accepted = cluster.because("vs a-younger -n tp", "Accepted", "False", "Conflicted")?;
    ensure!(accepted["message"].as_str().is_some_and(|message| message.contains("older")), "{accepted}");
    ensure!(cluster.bindings("a-younger")?.is_empty(), "it has nothing");
    ensure!(cluster.bindings("older")?.len() == 2, "the older one has it");
    eventually("an event tells of it", || {
        let events = cluster.kubectl("get events.events.k8s.io -n tp -o jsonpath={.items[*].reason}")?;
        ensure!(events.contains("Conflicted"), "{events}");
        Ok(())
    })?;
    cluster.kubectl("delete vs older -n tp")?;
    cluster.condition("vs a-younger -n tp", "Accepted", "True")?;
    eventually("the younger one has it now", || {
        ensure!(cluster.bindings("a-younger")?.len() == 2 && cluster.bindings("older")?.is_empty());
        Ok(())
    })?;
    cluster.kubectl("delete vs a-younger -n tp")?;
    Ok(())
}

pub(crate) fn hostile_names(cluster: &mut Cluster) -> Result<()> {
    // The longest that users' objects may have, with dots, and two that differ in the last character only.
    let long = "n".repeat(63);
    let dotted = format!("{}.{}", "a".repeat(31), "b".repeat(31));
    let twin = format!("{}x", &long[..62]);
    ensure!(
        cluster.apply(&service(&"n".repeat(64), 1000)).is_err(),
        "the schema allows more than is thought here"
    );
    for (name, port) in [(&long, 1001), (&dotted, 1002), (&twin, 1003)] {
        cluster.apply(&service(name, port))?;
    }
    for name in [&long, &dotted, &twin] {
        eventually("bindings of a long name", || {
            let bindings = cluster.bindings(name)?;
            ensure!(bindings.len() == 2, "{bindings:?}");
            Ok(())
        })?;
        cluster.condition(&format!("vs {name} -n tp"), "Accepted", "True")?;
    }
    let group = json!({
        "apiVersion": "bascule.dev/v1alpha1", "kind": "VrrpGroup", "metadata": {"name": long},
        "spec": {
            "members": [{"director": "dir1"}],
            "instances": [{"name": "x", "interface": "eth7", "virtualRouterId": 77, "addresses": ["192.0.2.77/32"]}],
        },
    });
    cluster.apply(&group.to_string())?;
    // One of these has the name of the operators' own Lease.
    for name in [long.as_str(), "bascule-operator"] {
        let director = json!({"apiVersion": "bascule.dev/v1alpha1", "kind": "Director", "metadata": {"name": name}, "spec": {}});
        cluster.apply(&director.to_string())?;
        eventually("the configuration of a director", || {
            cluster.get(&format!("dc {name}"))?;
            Ok(())
        })?;
        crate::agent::live(cluster, name)?;
        crate::agent::machine(cluster, name, None)?;
        cluster.condition(&format!("director {name}"), "Ready", "True")?;
    }
    eventually("a group with a long name", || {
        let config = cluster.get("dc dir1")?;
        let groups = config["spec"]["vrrp"].as_array().map_or(0, Vec::len);
        ensure!(groups == 2, "{config}");
        Ok(())
    })?;
    let refused = cluster.writes(&["result=\"refused\""])?;
    ensure!(refused == 0, "{refused} writes were refused\n{}", cluster.operator.log());
    // A Node's name may be longer than a Director's: that is refused, and hinders nobody.
    let node = "x".repeat(253);
    let labels = json!({"bascule.dev/director": ""});
    let manifest = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node, "labels": labels}});
    cluster.apply(&manifest.to_string())?;
    eventually("the API server's words are in the log", || {
        ensure!(cluster.operator.log().contains("may not be more than 63 bytes"));
        Ok(())
    })?;
    cluster.kubectl(&format!("delete node {node}"))?;
    cluster.kubectl(&format!("delete vg {long}"))?;
    cluster.kubectl(&format!("delete director {long} bascule-operator"))?;
    cluster.kubectl(&format!("delete vs -n tp {long} {dotted} {twin}"))?;
    eventually("all of it goes", || {
        ensure!(cluster.list("virtualservicebindings")?.len() == 3);
        ensure!(cluster.list("directorconfigs")?.len() == 3);
        Ok(())
    })?;
    Ok(())
}

/// A write that the API server refuses is told of where the user looks, and hinders no other one.
pub(crate) fn a_refused_write(cluster: &mut Cluster) -> Result<()> {
    let policy = json!({"apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "not-this-one"},
            "spec": {
                "matchConstraints": {"resourceRules": [{"apiGroups": ["bascule.dev"], "apiVersions": ["*"], "operations": ["CREATE"], "resources": ["virtualservicebindings"]}]},
                "validations": [{"expression": "object.spec.virtualService != 'unwanted'", "message": "nobody wants it"}],
            },
        },
        {
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": "not-this-one"},
            "spec": {"policyName": "not-this-one", "validationActions": ["Deny"]},
        },
    ]});
    cluster.apply(&policy.to_string())?;
    // The policy is in force a moment after it is there.
    eventually("the policy", || {
        let binding = json!({
            "apiVersion": "bascule.dev/v1alpha1", "kind": "VirtualServiceBinding",
            "metadata": {"name": "probe", "namespace": "tp"},
            "spec": {"virtualService": "unwanted", "director": "dir1", "scheduler": {"name": "rr"}, "sourceNat": "Never"},
        });
        let refused = cluster.apply(&binding.to_string());
        ensure!(refused.is_err_and(|error| format!("{error:#}").contains("nobody wants it")));
        Ok(())
    })?;
    cluster.apply(&format!("{}\n---\n{}", service("unwanted", 2001), service("wanted", 2002)))?;
    eventually("the other one", || {
        ensure!(cluster.bindings("wanted")?.len() == 2);
        Ok(())
    })?;
    eventually("why", || {
        let programmed = cluster.because("vs unwanted -n tp", "Programmed", "False", "Rejected")?;
        ensure!(
            programmed["message"].as_str().is_some_and(|why| why.contains("nobody wants it")),
            "{programmed}"
        );
        let events = cluster.kubectl("get events.events.k8s.io -n tp -o jsonpath={.items[*].reason}")?;
        ensure!(events.contains("WriteRejected"), "{events}");
        Ok(())
    })?;
    let tried = cluster.writes(&["result=\"refused\"", "kind=\"VirtualServiceBinding\""])?;
    ensure!(tried <= 8, "{tried} tries");
    cluster.kubectl("delete validatingadmissionpolicybinding not-this-one")?;
    cluster.kubectl("delete validatingadmissionpolicy not-this-one")?;
    eventually("it is tried again by itself", || {
        ensure!(cluster.bindings("unwanted")?.len() == 2);
        Ok(())
    })?;
    cluster.kubectl("delete vs -n tp unwanted wanted")?;
    Ok(())
}

pub(crate) fn labelled_nodes(cluster: &mut Cluster) -> Result<()> {
    let node = |name: &str, labels: serde_json::Value| {
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}).to_string()
    };
    for (name, labels) in [
        ("worker-1", json!({"bascule.dev/director": ""})),
        ("worker-2", json!({"bascule.dev/director": "true"})),
        ("worker-3", json!({})),
        ("worker-4", json!({"bascule.dev/director": "false"})),
        // There is a Director of this name that a user wrote.
        ("dir1", json!({"bascule.dev/director": ""})),
    ] {
        cluster.apply(&node(name, labels))?;
    }
    eventually("a Director for each labelled Node", || {
        cluster.get("director worker-1")?;
        cluster.get("director worker-2")?;
        cluster.get("dc worker-1")?;
        Ok(())
    })?;
    cluster.settled()?;
    let names = cluster.kubectl("get directors -o name")?;
    ensure!(!names.contains("worker-3") && !names.contains("worker-4"), "{names}");
    // One that somebody deleted comes back; one that somebody changed is his, and stays without the label.
    cluster.kubectl("delete director worker-1")?;
    let patch = json!({"spec": {"failureDomain": "rack-1"}}).to_string();
    cluster.server.kubectl_ok(["patch", "director", "worker-2", "--type=merge", "-p", &patch])?;
    eventually("it comes back", || cluster.get("director worker-1").map(|_| ()))?;
    cluster.kubectl("label node worker-1 worker-2 dir1 bascule.dev/director-")?;
    eventually("what was made for the label goes with it", || {
        ensure!(!cluster.kubectl("get directors -o name")?.contains("worker-1"));
        ensure!(!cluster.kubectl("get dc -o name")?.contains("worker-1"));
        Ok(())
    })?;
    cluster.settled()?;
    let names = cluster.kubectl("get directors -o name")?;
    ensure!(names.contains("worker-2") && names.contains("dir1"), "{names}");
    cluster.kubectl("delete director worker-2")?;
    cluster.kubectl("delete node worker-1 worker-2 worker-3 worker-4 dir1")?;
    Ok(())
}
