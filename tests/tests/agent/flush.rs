//! `bascule-operator flush`, as the chart's hook runs it, with the rights of the operator and beside one that leads.

use anyhow::{Context as _, Result, ensure};
use bascule_tests::operator::{NAMESPACE, eventually, program};
use serde_json::json;

use crate::cluster::Cluster;
use crate::machine::{Agent, Machine};
use crate::running::ADDRESS;

/// One director answers and is clean; another one, whose agent is dead, is named, and so the call fails; then all is as it was, because
/// an operator leads again.
pub(crate) fn taken_away_and_back(cluster: &Cluster, machine: &Machine, agent: &Agent) -> Result<()> {
    let since = cluster.get("vg front")?["status"]["since"].clone();
    // Somebody spoke for it once.
    cluster.report(
        "apiVersion: bascule.dev/v1alpha1\nkind: DirectorConfig\nmetadata: {name: dir1}\nstatus: {observedGeneration: 1}\n",
    )?;
    let mut flush = std::process::Command::new(program()?);
    flush.env_clear().args(["flush", "--timeout", "25s", "--identity", "flush", "--namespace", NAMESPACE]);
    flush.arg("--kubeconfig").arg(&cluster.kubeconfig);
    flush.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let flush = bascule_tests::die_with_us(&mut flush).spawn().context("bascule-operator")?;
    let gone = eventually("nothing of the agent's is left", || {
        let config = cluster.get("directorconfig dir2")?;
        let (asked, done) = (&config["spec"]["flush"], &config["status"]["flushed"]);
        ensure!(asked.is_string() && asked == done, "{config}\n{}", agent.log());
        Ok(())
    });
    let there = machine.addresses("eth0")?;
    let output = flush.wait_with_output()?;
    let (said, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("  clean after {:.1} s", gone.with_context(|| format!("{said}{log}"))?.as_secs_f64());
    ensure!(!there.contains(ADDRESS), "it said that it was clean: {there}\n{}", agent.log());
    ensure!(output.status.code() == Some(1), "{}: {said}{log}", output.status);
    ensure!(said.contains("dir2 is clean"), "{said}");
    ensure!(
        said.contains("NOT CLEAN: dir1: its agent has not answered: it last spoke of generation 1"),
        "{said}"
    );
    ensure!(log.contains("helm uninstall --no-hooks"), "{log}");

    eventually("everything is as it was", || {
        let config = cluster.get("directorconfig dir2")?;
        ensure!(config["spec"]["flush"].is_null() && config["status"]["flushed"].is_null(), "{config}");
        ensure!(machine.addresses("eth0")?.contains(ADDRESS), "{}", agent.log());
        let status = &cluster.get("vg front")?["status"];
        ensure!(status["active"] == json!(["dir2"]) && status["since"] != since, "{status}");
        Ok(())
    })?;
    ensure!(!agent.log().contains("panicked"), "{}", agent.log());
    Ok(())
}
