//! `helm upgrade` while a client asks.

use anyhow::{Result, ensure};
use bascule_tests::chart::CHART;
use bascule_tests::operator::NAMESPACE;
use serde_json::json;

use crate::cluster::Cluster;
use crate::pods::{VALUES, rolled_out};
use crate::service::{active, begin_load, end_load};

/// Other images on both nodes and for the operators: no request fails, and no group changes its state.
pub(crate) fn loses_nothing(cluster: &mut Cluster) -> Result<()> {
    active(cluster, "dir1")?;
    let before = cluster.get("vrrpgroup front")?;
    ensure!(before["status"]["since"].is_string(), "{}", before["status"]);
    begin_load(cluster, "upgrade")?;
    let values = VALUES.into_iter().chain(["agent.image.tag=next", "operator.image.tag=next"]);
    let values = values.flat_map(|value| ["--set", value]);
    cluster.helm.ok(["upgrade", "bascule", CHART, "--namespace", NAMESPACE].into_iter().chain(values))?;
    rolled_out(cluster)?;
    let pods = cluster.get(&format!("pod -n {NAMESPACE} -l app.kubernetes.io/component=agent"))?;
    for pod in pods["items"].as_array().into_iter().flatten() {
        if pod["metadata"]["deletionTimestamp"].is_null() {
            let image = pod["spec"]["containers"][0]["image"].as_str().unwrap_or_default();
            ensure!(image.ends_with(":next"), "a pod of the old kind is left: {image}");
        }
    }
    let load = end_load(cluster, "upgrade")?;
    println!("  during the upgrade: {load}");
    ensure!(load.failed.is_empty(), "requests failed: {load}");
    let now = cluster.get("vrrpgroup front")?;
    ensure!(now["status"]["active"] == json!(["dir1"]), "{}", now["status"]);
    ensure!(
        now["status"]["since"] == before["status"]["since"],
        "the group changed its state: {} {}",
        before["status"],
        now["status"]
    );
    Ok(())
}
