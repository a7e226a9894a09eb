//! The TP's service, through the addresses of its group.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use bascule_tests::operator::NAMESPACE;
use serde_json::{Value, json};

use crate::cluster::Cluster;

/// What is applied.
const MANIFESTS: &str = include_str!("tp.yaml");
/// The address of the service.
const ADDRESS: &str = "192.16.193.30";

pub(crate) fn alternates(cluster: &mut Cluster) -> Result<()> {
    cluster.kubectl("create namespace tp")?;
    cluster.apply(MANIFESTS)?;
    active(cluster, "dir1")?;
    cluster.eventually("the service is ready", |cluster| {
        let service = cluster.get("vs web -n tp")?;
        let conditions = service["status"]["conditions"].as_array().context("no conditions")?;
        let ready = conditions.iter().find(|one| one["type"] == "Ready").context("no Ready")?;
        ensure!(ready["status"] == "True", "{service}");
        Ok(())
    })?;
    let fetch = format!(
        "for turn in 1 2 3 4 5 6 7 8; do \
         ip netns exec ClientA curl -sS --max-time 5 http://{ADDRESS}/index.html | grep -o 'SRV[12]'; done"
    );
    let pages = cluster.machine.run(&fetch)?;
    let pages: Vec<&str> = pages.split_whitespace().collect();
    ensure!(pages.len() == 8, "{pages:?}");
    ensure!(pages.windows(2).all(|pair| pair[0] != pair[1]), "not in turn: {pages:?}");
    Ok(())
}

/// The group's active director is this one, and both are in the service.
pub(crate) fn active(cluster: &mut Cluster, director: &str) -> Result<()> {
    cluster.eventually(&format!("{director} is active"), |cluster| {
        let group = cluster.get("vrrpgroup front")?;
        ensure!(group["status"]["active"] == json!([director]), "{}", group["status"]);
        ensure!(group["status"]["redundancy"] == 1, "{}", group["status"]);
        Ok(())
    })
}

/// Deleting the pod of the active director's agent, as a drain does, hands the group over; with the next pod it comes back.
pub(crate) fn survives(cluster: &mut Cluster) -> Result<()> {
    let old = pod_of(cluster, "dir1")?;
    begin_load(cluster, "deleted")?;
    cluster.kubectl(&format!("delete pod {old} -n {NAMESPACE} --wait=false"))?;
    cluster.eventually("a new pod is ready", |cluster| {
        let new = pod_of(cluster, "dir1")?;
        ensure!(new != old, "{old} is still there");
        let pod = cluster.get(&format!("pod {new} -n {NAMESPACE}"))?;
        let conditions = pod["status"]["conditions"].as_array().context("no conditions")?;
        ensure!(conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"), "not ready");
        Ok(())
    })?;
    active(cluster, "dir1")?;
    let load = end_load(cluster, "deleted")?;
    println!("  while the pod was away: {load}");
    ensure!(load.longest_gap_ms <= 3000, "nobody served for too long: {load}");
    Ok(())
}

/// The agent's pod on a node that is not on its way out.
fn pod_of(cluster: &Cluster, node: &str) -> Result<String> {
    let pods = cluster.get(&format!("pod -n {NAMESPACE} -l app.kubernetes.io/component=agent"))?;
    let there =
        |pod: &&Value| pod["spec"]["nodeName"] == node && pod["metadata"]["deletionTimestamp"].is_null();
    let pods = pods["items"].as_array().context("no list")?;
    let pod = pods.iter().find(there).with_context(|| format!("no agent on {node}"))?;
    Ok(pod["metadata"]["name"].as_str().context("no name")?.to_owned())
}

/// What became of a load.
pub(crate) struct Load {
    /// Requests that were due.
    pub(crate) sent: usize,
    /// Why those that failed did, and how many.
    pub(crate) failed: BTreeMap<String, usize>,
    /// Good answers by server.
    pub(crate) by_server: BTreeMap<String, usize>,
    /// Between two good answers, by the time at which they were due.
    pub(crate) longest_gap_ms: u64,
}

impl std::fmt::Display for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Load { sent, failed, by_server, longest_gap_ms } = self;
        write!(
            f,
            "{sent} requests, answered {by_server:?}, failed {failed:?}, longest gap {longest_gap_ms} ms"
        )
    }
}

/// Starts a client: ten requests a second, each on a connection of its own, which fails if it is not answered within 2 s (the
/// machine is emulated) or if its first SYN was not.
pub(crate) fn begin_load(cluster: &mut Cluster, name: &str) -> Result<()> {
    let command = format!(
        "exec ip netns exec ClientA sh -c 'echo $$ >/tmp/{name}.pid; exec bascule-lab load --rate 10 --timeout 2s \
         --target http://{ADDRESS}/index.html --out /tmp/{name}.jsonl'"
    );
    let log = cluster.server.dir().join(format!("load-{name}.log"));
    cluster.machine.begin_passing(&command, log)?;
    cluster.eventually("the client has begun", |cluster| {
        cluster.machine.run(&format!("test -s /tmp/{name}.pid && sleep 3")).map(drop)
    })
}

/// Ends the client, once some more requests were due, and reads what it wrote down.
pub(crate) fn end_load(cluster: &mut Cluster, name: &str) -> Result<Load> {
    cluster.machine.run(&format!("sleep 3; kill -TERM $(cat /tmp/{name}.pid)"))?;
    cluster.eventually("the client has ended", |cluster| {
        cluster.machine.run(&format!("tail -n 1 /tmp/{name}.jsonl | grep -q '\"summary\"'")).map(drop)
    })?;
    let text = cluster.machine.run(&format!("cat /tmp/{name}.jsonl"))?;
    let mut load = Load { sent: 0, failed: BTreeMap::new(), by_server: BTreeMap::new(), longest_gap_ms: 0 };
    let mut last = None;
    for line in text.lines() {
        let line: Value = serde_json::from_str(line)?;
        let Some(scheduled) = line["scheduled"].as_u64() else { continue };
        load.sent += 1;
        if line["ok"] == true {
            let server = line["answerer"].as_str().unwrap_or("?").to_owned();
            *load.by_server.entry(server).or_default() += 1;
            let gap = scheduled.saturating_sub(last.unwrap_or(scheduled)) / 1_000_000;
            load.longest_gap_ms = load.longest_gap_ms.max(gap);
            last = Some(scheduled);
        } else {
            let why = line["error"].as_str().unwrap_or("no reason").to_owned();
            *load.failed.entry(why).or_default() += 1;
        }
    }
    ensure!(load.sent > 0 && last.is_some(), "nothing was answered: {load}");
    Ok(load)
}
