//! The manifests without Helm.

use anyhow::{Result, ensure};
use bascule_tests::chart;
use bascule_tests::operator::NAMESPACE;

use crate::cluster::Cluster;

/// Applied over the definitions that a release has left, applied again, and deleted but for the definitions.
pub(crate) fn applied(cluster: &mut Cluster) -> Result<()> {
    let folder = chart::root().join("deploy/kubernetes");
    let folder = folder.display();
    let first = cluster.kubectl(&format!("apply --server-side --force-conflicts -k {folder}"))?;
    ensure!(first.contains("daemonset.apps/bascule-agent serverside-applied"), "{first}");
    let versions = || {
        cluster.kubectl(
            "get crd,clusterrole,validatingadmissionpolicy -o jsonpath={.items[*].metadata.resourceVersion}",
        )
    };
    let before = versions()?;
    cluster.kubectl(&format!("apply --server-side -k {folder}"))?;
    ensure!(before == versions()?, "applied again, something changes");
    let level = cluster.kubectl(&format!(
        "get namespace {NAMESPACE} -o jsonpath={{.metadata.labels.pod-security\\.kubernetes\\.io/enforce}}"
    ))?;
    ensure!(level == "privileged", "{level}");
    cluster.get("healthcheck kept -n tp")?;
    // What the chart would make, but for Helm's own marks.
    let image = cluster.kubectl(&format!(
        "get daemonset bascule-agent -n {NAMESPACE} -o jsonpath={{.spec.template.spec.containers[0].image}}"
    ))?;
    ensure!(image.starts_with("bascule/bascule-agent:"), "{image}");
    cluster.kubectl(&format!("delete --wait=false -f {folder}/bascule.yaml"))?;
    cluster.get("healthcheck kept -n tp")?;
    Ok(())
}
