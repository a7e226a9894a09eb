//! A whole cluster: kubelets that run the images of `scripts/images` in pods, as the chart has them, on a kernel with IPVS.
//!
//! etcd, kube-apiserver, kube-controller-manager and kube-scheduler run here, at this machine's speed; two nodes, each a network
//! namespace with containerd and kubelet, in the lab's virtual machine, with the network of the TP: a client outside, two web
//! servers inside. Takes some minutes and 5 GB of memory: `make cluster` builds what it needs and runs it; `cargo test` does not.

mod cluster;
mod control_plane;
mod images;
mod kernel;
mod machine;
mod nodes;
mod pause;
mod pods;
mod service;
mod upgrade;

use std::time::Instant;

use anyhow::{Context as _, Result};

use cluster::Cluster;

/// A part's name and itself.
type Part = (&'static str, fn(&mut Cluster) -> Result<()>);

/// One test, because one cluster serves all; the parts build on each other.
#[test]
#[ignore = "boots a virtual machine and takes minutes: make cluster"]
fn pods_of_our_images_serve() {
    let parts: [Part; 8] = [
        ("two nodes are ready", nodes::ready),
        ("the chart is installed, and its pods run", pods::run),
        ("the agents have the capabilities that they need and no more", pods::confined),
        ("both servers answer in turn", service::alternates),
        ("an agent's pod is deleted: the other director serves, and it comes back", service::survives),
        ("an upgrade loses no request", upgrade::loses_nothing),
        ("uninstalled, and asked to be clean before", kernel::uninstalled),
        ("the nodes are as they were", kernel::as_before),
    ];
    let begin = Instant::now();
    let mut cluster = Cluster::start().expect("a control plane and a machine");
    println!("control plane and machine: ok in {:.1} s", begin.elapsed().as_secs_f64());
    // For whoever works at one part; what is left out is not missed by the others.
    let left_out = std::env::var("BASCULE_CLUSTER_LEAVE_OUT").unwrap_or_default();
    for (name, part) in parts {
        if left_out.split(',').any(|words| !words.is_empty() && name.contains(words)) {
            println!("{name}: left out");
            continue;
        }
        let begin = Instant::now();
        let result = part(&mut cluster).with_context(|| name.to_owned());
        let verdict = if result.is_ok() { "ok" } else { "FAILED" };
        println!("{name}: {verdict} in {:.1} s", begin.elapsed().as_secs_f64());
        if let Err(error) = result {
            // The next ones build on it.
            panic!("{error:?}\n{}", cluster.keep());
        }
    }
}
