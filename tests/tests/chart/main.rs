//! The Helm chart: what it becomes, and what a real kube-apiserver makes of that. helm is the real one; there are no kubelets, so that
//! pods are judged but never run.

mod access;
mod cluster;
mod editor;
mod figures;
mod generated;
mod image;
mod lifecycle;
mod plain;
mod pods;
mod render;
mod schemas;

use std::time::Instant;

use anyhow::{Context as _, Result};

use cluster::Cluster;

/// A part's name and itself.
type Part = (&'static str, fn(&mut Cluster) -> Result<()>);

/// One test, because one server serves all; the parts build on each other.
#[test]
fn on_a_real_api_server() {
    let parts: [Part; 12] = [
        ("an older chart is installed", lifecycle::older),
        ("and upgraded", lifecycle::upgraded),
        ("the API server takes the pods", pods::taken),
        ("a cluster without directors goes on", access::leases_before_directors),
        ("the operator has the rights that it needs", access::operator),
        ("an agent writes for its own director alone", access::own_alone),
        ("a machine outside the cluster does, too", access::outside),
        ("an editor cannot forge", editor::cannot_forge),
        ("an editor gets what was allowed, and no more", editor::what_was_allowed),
        ("rolled back, uninstalled, installed again", lifecycle::back_and_again),
        ("plain manifests", plain::applied),
        ("a values file that is wrong", render::refused_values),
    ];
    let mut cluster = Cluster::start().expect("an API server");
    for (name, part) in parts {
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
