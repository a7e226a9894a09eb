//! What the API server's own Pod Security admission says of the pods.

use anyhow::{Context as _, Result, ensure};
use bascule_tests::operator::NAMESPACE;
use serde_json::{Value, json};

use crate::cluster::Cluster;

pub(crate) fn taken(cluster: &mut Cluster) -> Result<()> {
    for level in ["restricted", "privileged"] {
        cluster.apply(&format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {level}, labels: {{pod-security.kubernetes.io/enforce: {level}}}}}\n"
        ))?;
        // The pods' own ServiceAccounts have to be there.
        for name in ["bascule-operator", "bascule-agent"] {
            cluster.kubectl(&format!("create serviceaccount {name} -n {level}"))?;
        }
    }
    let operator = pod(cluster, "deployment bascule-operator", "restricted")?;
    cluster.allowed(None, "create --dry-run=server", &operator)?;
    // That of the hook before an uninstallation, which Helm alone makes.
    let objects = cluster.helm.objects(&[])?;
    let flush = objects.iter().find(|one| one["kind"] == "Job").context("the Job bascule-flush")?;
    let hook = &flush["metadata"]["annotations"]["helm.sh/hook"];
    ensure!(hook == "pre-delete" && flush["spec"]["backoffLimit"] == 0, "{flush}");
    let flush = of_template(flush, "restricted", "flushing", None)?.to_string();
    cluster.allowed(None, "create --dry-run=server", &flush)?;
    let agent = pod(cluster, "daemonset bascule-agent", "restricted")?;
    // It is on the host's network and has folders of the host, and nothing else is wrong with it but what it is for.
    let words = ["violates PodSecurity", "host namespaces", "NET_ADMIN", "hostPath"];
    cluster.refused(None, "create --dry-run=server", &agent, &words)?;
    let output = cluster.pipe(None, "create --dry-run=server", &agent)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    for wrong in
        ["privileged", "allowPrivilegeEscalation", "seccompProfile", "hostPort", "hostPID", "/proc mount"]
    {
        ensure!(!said.contains(wrong), "the agent's pod is refused for {wrong}: {said}");
    }
    let agent = pod(cluster, "daemonset bascule-agent", "privileged")?;
    cluster.allowed(None, "create --dry-run=server", &agent)
}

/// The pod that a workload's template becomes, as JSON.
fn pod(cluster: &Cluster, workload: &str, namespace: &str) -> Result<String> {
    let workload = cluster.get(&format!("{workload} -n {NAMESPACE}"))?;
    Ok(of_template(&workload, namespace, "judged", None)?.to_string())
}

/// A pod of a workload's template, on a node if one is named.
pub(crate) fn of_template(
    workload: &Value,
    namespace: &str,
    name: &str,
    node: Option<&str>,
) -> Result<Value> {
    let template = workload.pointer("/spec/template").context("a template")?;
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"], "spec": template["spec"]});
    pod["metadata"]["name"] = json!(name);
    pod["metadata"]["namespace"] = json!(namespace);
    if let Some(node) = node {
        pod["spec"]["nodeName"] = json!(node);
    }
    Ok(pod)
}
