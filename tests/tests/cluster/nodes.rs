//! Two nodes: network namespaces of the machine, in each of which containerd and a kubelet run.

use std::fs;

use anyhow::Result;

use crate::cluster::{Cluster, TIMEOUT};
use crate::machine::{GATEWAY, HOST_VIEW, Machine, images};
use crate::pause;

/// Their names, which are those of the directors.
pub(crate) const NODES: [&str; 2] = ["dir1", "dir2"];
/// Prints the ends of the pods' logs, each in its node's own file system.
pub(crate) const LOGS: &str = "for id in $(pgrep -x kubelet); do \
     nsenter -t $id -m sh -c 'for log in /var/log/pods/*/*/*.log; do echo \"== $log\"; tail -n 60 \"$log\"; done'; done";

pub(crate) fn ready(cluster: &mut Cluster) -> Result<()> {
    let work = Machine::view(cluster.server.dir())?;
    let programs = Machine::view(&cluster.programs)?;
    let port = cluster.server.port();
    let world = include_str!("world.sh");
    cluster.machine.run(&format!("PORT={port} PROGRAMS={programs}\n{world}"))?;
    let pause = Machine::view(&pause::write(cluster.server.dir())?)?;
    let images = Machine::view(&images()?)?;
    for (number, node) in (1..).zip(NODES) {
        kubeconfig(cluster, node)?;
        let variables = format!(
            "export NODE={node} ADDRESS=10.9.0.1{number} PODS=10.244.{number}.0/24 WORK={work} PAUSE={} VERSION={}\n\
             export IMAGES='{pause} {images}/bascule-agent.oci.tar {images}/bascule-operator.oci.tar'\n",
            pause::NAME,
            env!("CARGO_PKG_VERSION"),
        );
        let script = cluster.server.dir().join(format!("{node}.sh"));
        fs::write(&script, format!("set -eu\n{variables}{}", include_str!("node.sh")))?;
        let begin = format!("exec ip netns exec {node} unshare -m sh {}", Machine::view(&script)?);
        let log = cluster.server.dir().join(format!("{node}.log"));
        cluster.machine.begin(&begin, log)?;
    }
    for (server, control) in [("SRV1", "srv1"), ("SRV2", "srv2")] {
        let log = cluster.server.dir().join(format!("{server}.log"));
        let serve = format!(
            "exec ip netns exec {server} bascule-lab serve --name {server} --control /tmp/{control}.sock --http 80"
        );
        cluster.machine.begin(&serve, log)?;
    }
    cluster.eventually("both have registered", |cluster| {
        cluster.kubectl(&format!("get node {}", NODES.join(" "))).map(drop)
    })?;
    cluster.kubectl(&format!("wait node --all --for=condition=Ready {TIMEOUT}"))?;
    Ok(())
}

/// What a kubelet has: the way to the API server as seen from the machine, its authority, and the token of its node.
fn kubeconfig(cluster: &Cluster, node: &str) -> Result<()> {
    let path =
        cluster.server.kubeconfig(&format!("{node}.kubeconfig"), &cluster.server.token_of_node(node)?)?;
    let text = fs::read_to_string(&path)?;
    let text = text
        .replace("https://127.0.0.1:", &format!("https://{GATEWAY}:"))
        .replace("certificate-authority: ", &format!("certificate-authority: {HOST_VIEW}"));
    Ok(fs::write(path, text)?)
}
