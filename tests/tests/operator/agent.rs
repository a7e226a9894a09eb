//! What an agent writes, written in its place.

use anyhow::Result;
use serde_json::{Value, json};

use crate::cluster::Cluster;

const NAMESPACE: &str = bascule_tests::operator::NAMESPACE;

/// Renews a director's Lease.
pub(crate) fn live(cluster: &Cluster, director: &str) -> Result<()> {
    lease(cluster, director, director, &now(cluster)?)
}

/// Gives it up.
pub(crate) fn stop(cluster: &Cluster, director: &str) -> Result<()> {
    lease(cluster, director, "", &now(cluster)?)
}

fn now(cluster: &Cluster) -> Result<String> {
    // Of no use to the operator but for being another one: any clock will do.
    let output = std::process::Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%S.%6NZ"]).output()?;
    let _ = cluster;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Writes a director's Lease.
pub(crate) fn lease(cluster: &Cluster, director: &str, holder: &str, renewed: &str) -> Result<()> {
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": format!("director-{director}"), "namespace": NAMESPACE},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": 40, "renewTime": renewed},
    });
    cluster.apply(&lease.to_string())
}

fn condition(type_: &str, status: bool, reason: &str, message: &str) -> Value {
    let status = if status { "True" } else { "False" };
    json!({"type": type_, "status": status, "reason": reason, "message": message, "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

/// Says of a binding that it is programmed and has so many real servers up.
pub(crate) fn carried_out(
    cluster: &Cluster,
    service: &str,
    director: &str,
    up: u32,
    total: u32,
) -> Result<()> {
    let ready = condition("Ready", up > 0, if up > 0 { "Ready" } else { "NoRealServer" }, "");
    report_binding(cluster, service, director, ready, up, total)
}

fn report_binding(
    cluster: &Cluster,
    service: &str,
    director: &str,
    ready: Value,
    up: u32,
    total: u32,
) -> Result<()> {
    let binding = cluster.binding(service, director)?;
    let status = json!({
        "apiVersion": "bascule.dev/v1alpha1", "kind": "VirtualServiceBinding",
        "metadata": {"name": binding["metadata"]["name"], "namespace": binding["metadata"]["namespace"]},
        "status": {
            "observedGeneration": binding["metadata"]["generation"],
            "conditions": [condition("Programmed", true, "Programmed", ""), ready],
            "realServersUp": up, "realServersTotal": total,
        },
    });
    cluster.report(&status.to_string())
}

/// Says of a machine that it is programmed, and in what state it is in the group `front`.
pub(crate) fn machine(cluster: &Cluster, director: &str, state: Option<(&str, u8)>) -> Result<()> {
    let config = cluster.get(&format!("directorconfig {director}"))?;
    let vrrp: Vec<Value> = state
        .into_iter()
        .map(|(state, priority)| json!({"group": "front", "state": state, "priority": priority, "reason": "told by a test"}))
        .collect();
    let status = json!({
        "apiVersion": "bascule.dev/v1alpha1", "kind": "DirectorConfig", "metadata": {"name": director},
        "status": {
            "observedGeneration": config["metadata"]["generation"],
            "conditions": [condition("Programmed", true, "Programmed", ""), condition("Ready", true, "Ready", "")],
            "vrrp": vrrp, "agentVersion": "0.1.0", "kernel": "6.1.0-test",
        },
    });
    cluster.report(&status.to_string())
}
