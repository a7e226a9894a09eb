//! What the nodes' kernels hold, before and after.

use anyhow::{Context as _, Result, ensure};
use bascule_tests::operator::NAMESPACE;

use crate::cluster::Cluster;
use crate::nodes::NODES;

/// What Bascule changes in a kernel, as the kernel's own tools print it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Tables {
    /// `/proc/net/ip_vs` without its header, which is not there before the module is.
    ipvs: String,
    /// Addresses of the interfaces that are the node's and not its pods'.
    addresses: String,
    /// nftables.
    nft: String,
}

impl Tables {
    pub(crate) fn of(cluster: &Cluster, node: &str) -> Result<Tables> {
        let there = |script: &str| cluster.machine.run(&format!("ip netns exec {node} sh -c '{script}'"));
        Ok(Tables {
            ipvs: there("tail -n +4 /proc/net/ip_vs 2>/dev/null || true")?,
            addresses: there("for i in lo eth0 enp0s3 enp0s8; do ip -brief address show dev $i; done")?,
            nft: there("nft list ruleset")?,
        })
    }
}

/// As docs/how-to/install-on-kubernetes.md has it: Helm's hook has the agents take everything away before they are removed.
pub(crate) fn uninstalled(cluster: &mut Cluster) -> Result<()> {
    for (node, before) in NODES.iter().zip(&cluster.before) {
        let held = Tables::of(cluster, node)?;
        ensure!(
            held.ipvs.contains("TCP"),
            "there is nothing to clean on {node}: {held:?} (before: {before:?})"
        );
    }
    cluster.helm.ok(["uninstall", "bascule", "--namespace", NAMESPACE])?;
    // At once: the Job has not ended before.
    clean(cluster)?;
    cluster.eventually("no pod is left", |cluster| {
        let pods = cluster.kubectl(&format!("get pod -n {NAMESPACE} -o name"))?;
        ensure!(pods.is_empty(), "{pods}");
        Ok(())
    })
}

/// No program of ours runs, and nothing that one made is left.
pub(crate) fn as_before(cluster: &mut Cluster) -> Result<()> {
    let left = cluster.machine.run("pgrep -a '^bascule-(agent|opera)' || true")?;
    ensure!(left.is_empty(), "{left}");
    clean(cluster)
}

fn clean(cluster: &Cluster) -> Result<()> {
    for (number, node) in NODES.iter().enumerate() {
        let before = cluster.before.get(number).context("nothing was looked at before")?;
        let now = Tables::of(cluster, node)?;
        ensure!(now == *before, "{node} is not as it was:\n{before:#?}\n{now:#?}");
    }
    Ok(())
}
