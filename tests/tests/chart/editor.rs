//! Whoever may edit a namespace, and what he gets of the directors.

use anyhow::{Result, ensure};
use bascule_tests::operator::eventually;
use serde_json::{Value, json};

use crate::access::binding;
use crate::cluster::{Cluster, Identity};

const EVERY_RIGHT: &str = "apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: anything, namespace: tp}
rules: [{apiGroups: ['*'], resources: ['*'], verbs: ['*']}]
";

/// Somebody with every right in the namespace, which is more than `edit` gives, cannot write what agents carry out.
pub(crate) fn cannot_forge(cluster: &mut Cluster) -> Result<()> {
    cluster.kubectl("create serviceaccount anything -n tp")?;
    cluster.apply(EVERY_RIGHT)?;
    cluster.kubectl("create rolebinding anything -n tp --role=anything --serviceaccount=tp:anything")?;
    let anything = cluster.identity("anything -n tp")?;
    let words = ["'bascule-specs'", "only bascule-operator writes what agents carry out"];
    // One that is valid in every other respect: a real one with another name, address and target.
    let name = binding(cluster, "n1")?;
    let real = cluster.get(&format!("vsb {name} -n tp"))?;
    let mut forged = json!({"apiVersion": real["apiVersion"], "kind": real["kind"],
        "metadata": {"name": "forged", "namespace": "tp"}, "spec": real["spec"]});
    forged["spec"]["addresses"] = json!(["10.0.0.1"]);
    forged["spec"]["realServers"][0]["address"] = json!("127.0.0.1");
    cluster.refused(Some(&anything), "create", &forged.to_string(), &words)?;
    let forged = json!({"apiVersion": "bascule.dev/v1alpha1", "kind": "NatRuleBinding",
        "metadata": {"name": "forged", "namespace": "tp"},
        "spec": {"natRule": "forged", "director": "n1",
            "portForward": {"address": "192.16.193.20", "protocol": "TCP", "port": 53, "to": "172.16.193.30", "toPort": 53}}});
    cluster.refused(Some(&anything), "create", &forged.to_string(), &words)?;
    // Nor change one that is there, nor say that it serves.
    let mut real = real;
    real["spec"]["realServers"][0]["address"] = json!("127.0.0.1");
    cluster.refused(Some(&anything), "replace", &real.to_string(), &words)?;
    let status = json!({"apiVersion": "bascule.dev/v1alpha1", "kind": "VirtualServiceBinding",
        "metadata": {"name": name, "namespace": "tp"}, "status": {"realServersUp": 1}});
    let how = "apply --server-side --force-conflicts --subresource=status";
    cluster.refused(Some(&anything), how, &status.to_string(), &["'bascule-agents'"])?;
    // Nor hand one to another owner, with which it would go.
    real["spec"] = cluster.get(&format!("vsb {name} -n tp"))?["spec"].clone();
    real["metadata"]["ownerReferences"] = json!([]);
    cluster.refused(Some(&anything), "replace", &real.to_string(), &words)
}

/// With the chart's roles for editors: an address of the group and a target that is another machine, nothing else.
pub(crate) fn what_was_allowed(cluster: &mut Cluster) -> Result<()> {
    cluster.kubectl("create serviceaccount editor -n tp")?;
    // Nobody aggregates roles here (that is kube-controller-manager's), so that the chart's are bound by name.
    for role in ["edit", "bascule-edit", "bascule-view"] {
        cluster.kubectl(&format!(
            "create rolebinding editor-{role} -n tp --clusterrole={role} --serviceaccount=tp:editor"
        ))?;
    }
    let editor = cluster.identity("editor -n tp")?;
    for kind in ["VrrpGroup", "Director"] {
        let object = json!({"apiVersion": "bascule.dev/v1alpha1", "kind": kind, "metadata": {"name": "mine"}, "spec": {}});
        cluster.refused(Some(&editor), "create", &object.to_string(), &["forbidden"])?;
    }
    let check = json!({"apiVersion": "bascule.dev/v1alpha1", "kind": "HealthCheck", "metadata": {"name": "inside", "namespace": "tp"},
        "spec": {"tcp": {}, "address": "127.0.0.1", "port": 10250}});
    cluster.allowed(Some(&editor), "create", &check.to_string())?;

    let group = json!({"vrrpGroup": "front", "addresses": ["192.16.193.30"]});
    make(cluster, &editor, "good", &group, 81, "172.16.193.11", None)?;
    eventually("what is allowed is carried out", || {
        ensure!(bound(cluster, "good")? == 3, "{} bindings", bound(cluster, "good")?);
        Ok(())
    })?;
    let other = json!({"vrrpGroup": "front", "addresses": ["192.16.193.99"]});
    make(cluster, &editor, "address", &other, 82, "172.16.193.11", None)?;
    nothing(cluster, "address", "AddressNotInGroup")?;
    let alone = json!({"director": {"name": "n1", "interface": "eth0"}, "addresses": ["10.9.9.9"]});
    make(cluster, &editor, "placement", &alone, 83, "172.16.193.11", None)?;
    nothing(cluster, "placement", "NotAllowed")?;
    make(cluster, &editor, "loopback", &group, 84, "127.0.0.1", None)?;
    nothing(cluster, "loopback", "NotAllowed")?;
    // The service is there, and its real server counts as not checked: what is refused is the probe.
    make(cluster, &editor, "probe", &group, 85, "172.16.193.11", Some("inside"))?;
    because(cluster, "probe", "HealthCheckNotUsable")?;
    let config = cluster.kubectl("get vsb -n tp -o json")?;
    ensure!(!config.contains("127.0.0.1"), "a binding names the loopback address: {config}");
    Ok(())
}

fn make(
    cluster: &Cluster,
    who: &Identity,
    name: &str,
    placement: &Value,
    port: u16,
    server: &str,
    check: Option<&str>,
) -> Result<()> {
    let mut spec = json!({"ports": [{"port": port, "protocol": "TCP"}], "realServers": [{"name": "srv1", "address": server}]});
    for (key, value) in placement.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    if let Some(check) = check {
        spec["healthChecks"] = json!([check]);
    }
    let object = json!({"apiVersion": "bascule.dev/v1alpha1", "kind": "VirtualService",
        "metadata": {"name": name, "namespace": "tp"}, "spec": spec});
    cluster.allowed(Some(who), "create", &object.to_string())
}

/// How many bindings a service has.
fn bound(cluster: &Cluster, service: &str) -> Result<usize> {
    let names =
        cluster.kubectl(&format!("get vsb -n tp --field-selector spec.virtualService={service} -o name"))?;
    Ok(names.lines().count())
}

/// A condition of the service says so.
fn because(cluster: &Cluster, service: &str, reason: &str) -> Result<()> {
    eventually(&format!("{service} is told {reason}"), || {
        let object = cluster.get(&format!("vs {service} -n tp"))?;
        let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
        let said = conditions.filter(|one| one["status"] != "True").any(|one| one["reason"] == reason);
        ensure!(said, "{}", object["status"]);
        Ok(())
    })?;
    Ok(())
}

/// The service is refused for that reason, and nothing of it reaches a director.
fn nothing(cluster: &Cluster, service: &str, reason: &str) -> Result<()> {
    because(cluster, service, reason)?;
    ensure!(bound(cluster, service)? == 0, "{service} has bindings");
    Ok(())
}
