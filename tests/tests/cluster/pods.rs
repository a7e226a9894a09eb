//! What the chart starts, and what the kernel says that it may.

use anyhow::{Context as _, Result, ensure};
use bascule_tests::chart::CHART;
use bascule_tests::operator::NAMESPACE;

use crate::cluster::{Cluster, TIMEOUT};
use crate::kernel::Tables;
use crate::nodes::NODES;

/// Values of every installation: images that are there already, and whatever the agents can have.
pub(crate) const VALUES: [&str; 3] =
    ["agent.image.pullPolicy=Never", "operator.image.pullPolicy=Never", "agent.realtime=true"];
/// The bits of NET_ADMIN, NET_RAW and SYS_NICE (linux/capability.h).
const CAPABILITIES: u64 = 1 << 12 | 1 << 13 | 1 << 23;

/// As docs/how-to/install-on-kubernetes.md has it.
pub(crate) fn run(cluster: &mut Cluster) -> Result<()> {
    for node in NODES {
        cluster.before.push(Tables::of(cluster, node)?);
    }
    cluster.kubectl(&format!("create namespace {NAMESPACE}"))?;
    cluster.kubectl(&format!("label namespace {NAMESPACE} pod-security.kubernetes.io/enforce=privileged"))?;
    let values = VALUES.iter().flat_map(|value| ["--set", *value]);
    cluster.helm.ok(["install", "bascule", CHART, "--namespace", NAMESPACE].into_iter().chain(values))?;
    cluster.kubectl(&format!("label node {} bascule.dev/director=", NODES.join(" ")))?;
    rolled_out(cluster)?;
    for node in NODES {
        cluster.kubectl(&format!("get director {node}"))?;
    }
    Ok(())
}

/// All pods are there, ready, and of the newest kind.
pub(crate) fn rolled_out(cluster: &mut Cluster) -> Result<()> {
    // One that speaks to a DaemonSet of no nodes would be content too soon.
    cluster.eventually("an agent for each node", |cluster| {
        let set = cluster.get(&format!("daemonset bascule-agent -n {NAMESPACE}"))?;
        ensure!(set["status"]["desiredNumberScheduled"] == NODES.len(), "{}", set["status"]);
        Ok(())
    })?;
    for workload in ["deployment/bascule-operator", "daemonset/bascule-agent"] {
        cluster.kubectl(&format!("rollout status {workload} -n {NAMESPACE} {TIMEOUT}"))?;
    }
    Ok(())
}

/// Not what the pod asks for, but what the kernel says of its process.
pub(crate) fn confined(cluster: &mut Cluster) -> Result<()> {
    let agents = cluster.machine.run("pgrep -x bascule-agent")?;
    let agents: Vec<&str> = agents.split_whitespace().collect();
    ensure!(agents.len() == NODES.len(), "agents in the machine: {agents:?}");
    for agent in agents {
        let status = cluster.machine.run(&format!("cat /proc/{agent}/status"))?;
        let field = |name: &str| -> Result<&str> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            Ok(line.with_context(|| format!("no {name} in {status}"))?.trim())
        };
        for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
            let bits = u64::from_str_radix(field(set)?, 16)?;
            ensure!(bits == CAPABILITIES, "{set} {bits:#x}, not {CAPABILITIES:#x}");
        }
        ensure!(field("NoNewPrivs:")? == "1", "it could gain privileges");
        ensure!(field("Seccomp:")? == "2", "no filter of system calls");
        // proc(5): mount id, parent, device, root, mount point, options
        let mounts = cluster.machine.run(&format!("cat /proc/{agent}/mountinfo"))?;
        let root = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|line| line[4] == "/");
        let options = root.context("no root is mounted")?[5];
        ensure!(options.split(',').any(|option| option == "ro"), "its root can be written: {options}");
    }
    Ok(())
}
