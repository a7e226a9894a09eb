//! What makes pods of workloads and finds nodes for them: kube-controller-manager and kube-scheduler, beside the API server.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use bascule_tests::api_server::{ApiServer, Children};

/// Starts both; they die with what is returned.
pub(crate) fn start(server: &ApiServer, programs: &Path) -> Result<Children> {
    let at = |name: &str| server.dir().join(name);
    let path = |flag: &str, name: &str| format!("--{flag}={}", at(name).display());
    let mut children = Children::default();
    children.spawn(
        Command::new(programs.join("kube-controller-manager"))
            .args([path("kubeconfig", "kubeconfig"), path("root-ca-file", "pki/apiserver.crt")])
            .arg(path("service-account-private-key-file", "service-account.key"))
            // Nodes that are emulated on a busy machine may be late with their signs of life.
            .arg("--node-monitor-grace-period=180s")
            .args(["--use-service-account-credentials", "--leader-elect=false", "--secure-port=0"]),
        at("kube-controller-manager.log"),
    )?;
    children.spawn(
        Command::new(programs.join("kube-scheduler"))
            .arg(path("kubeconfig", "kubeconfig"))
            .args(["--leader-elect=false", "--secure-port=0"]),
        at("kube-scheduler.log"),
    )?;
    Ok(children)
}

/// Where the programs are, of nodes too; builds them first where that has not happened yet.
pub(crate) fn programs() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("BASCULE_NODE_PROGRAMS") {
        return Ok(folder.into());
    }
    let script = bascule_tests::chart::root().join("scripts/kubernetes-programs");
    let output = Command::new(&script).arg("node").stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("{} cannot be run", script.display()))?;
    ensure!(output.status.success(), "{}: {}; what it says is above", script.display(), output.status);
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim_end()))
}
