//! `bascule-agent` told by the Kubernetes API: against a real kube-apiserver, with the operator beside it, and with exactly the rights of
//! `agent/deploy/rbac.yaml`, and those to Secrets that the chart gives. One test, because one server serves all; the parts build on each other.

#[path = "../operator/agent.rs"]
#[allow(dead_code, reason = "the operator's own tests use more of it")]
mod agent;
#[path = "../operator/cluster.rs"]
#[allow(dead_code, reason = "the operator's own tests use more of it")]
mod cluster;
mod endpoints;
mod flush;
mod follower;
mod machine;
mod rights;
mod running;
mod secrets;
mod source;

use std::time::Instant;

use anyhow::{Context as _, Result};

use cluster::Cluster;

/// A part's name and itself.
type Part = (&'static str, fn(&mut Cluster) -> Result<()>);

#[test]
fn against_a_real_api_server() {
    let mut parts: Vec<Part> = vec![
        ("what files give", source::what_files_give),
        ("a weight is one small update", source::a_weight_is_one_small_update),
        ("NatRules, too", source::nat_rules_too),
        ("what is deleted goes", source::what_is_deleted_goes),
        ("a form that cannot be used", source::a_form_that_cannot_be_used),
        ("the endpoints of a Service", endpoints::of_a_service),
        ("a Service that comes to be named", endpoints::a_service_that_comes_to_be_named),
        ("endpoints without an API server", endpoints::without_an_api_server),
        ("the API server is gone for a while", source::api_server_gone),
        ("a right that is missing", source::a_missing_right),
    ];
    if machine::can_run() {
        parts.push(("a machine is told by the API", running::a_machine_is_told));
        parts.push(("keys of a group in Secrets", secrets::keys_of_a_group));
        parts.push(("each right of an agent is missed", rights::each_right_is_missed));
    }
    let mut cluster = Cluster::start().expect("a cluster with the operator");
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
