//! Real servers that are the endpoints of a Service: EndpointSlices as Kubernetes writes them, and no binding that is written for them.

use anyhow::{Result, ensure};
use bascule_tests::operator::eventually;
use serde_json::{Value, json};

use crate::cluster::{Cluster, condition_of};
use crate::follower::Follower;
use crate::machine::{Agent, Machine};
use crate::source::{ensure_connected, follower};

/// How often endpoints change in a row.
const CHURN: usize = 40;

/// A VirtualService in front of a Service of the same name.
fn in_front(service: &str, port: u16) -> String {
    let manifest = json!({
        "apiVersion": "bascule.dev/v1alpha1", "kind": "VirtualService",
        "metadata": {"name": service, "namespace": "tp"},
        "spec": {
            "vrrpGroup": "front", "addresses": ["192.16.193.30"],
            "ports": [{"port": port, "protocol": "TCP", "targetPort": "http"}],
            "realServersFrom": {"service": {"name": service}},
        },
    });
    manifest.to_string()
}

/// A slice of a Service; of each endpoint its address and whether it is `ready` or `finishing`.
pub(crate) fn slice(service: &str, name: &str, endpoints: &[(&str, &str)]) -> String {
    let endpoint = |(address, state): &(&str, &str)| {
        let ready = *state == "ready";
        json!({"addresses": [address], "conditions": {"ready": ready, "serving": true, "terminating": !ready}})
    };
    let manifest = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "namespace": "tp", "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
    });
    manifest.to_string()
}

fn serve(follower: &Follower, service: &str, wanted: &[(&str, u32)]) -> Result<()> {
    let wanted: Vec<_> = wanted.iter().map(|(address, weight)| ((*address).to_owned(), *weight)).collect();
    let took = eventually(&format!("{service}: {wanted:?}"), || {
        let servers = follower.servers(service)?;
        ensure!(servers == wanted, "{servers:?} {:?}", follower.api.summary());
        Ok(())
    })?;
    println!("  {service} is served by {wanted:?} after {:.2} s", took.as_secs_f64());
    Ok(())
}

/// Created, scaled, rolled; and a churn that writes nothing.
pub(crate) fn of_a_service(cluster: &mut Cluster) -> Result<()> {
    let follower = follower(cluster)?;
    ensure_connected(&follower)?;
    // Others' slices are nobody's business here.
    cluster.apply(&slice("other", "other-1", &[("10.1.9.9", "ready")]))?;
    cluster.apply(&in_front("pods", 82))?;
    cluster.condition("vs pods -n tp", "Accepted", "True")?;
    serve(&follower, "pods", &[])?;
    cluster.apply(&slice("pods", "pods-1", &[("10.1.0.1", "ready")]))?;
    serve(&follower, "pods", &[("10.1.0.1", 1)])?;
    let (config, _) = follower.told()?;
    let key = bascule_compile::BindingKey::new("tp", "pods");
    ensure!(config.bindings[&key].real_servers[0].target_ports == [8080], "{config:?}");
    ensure!(serde_json::to_value(config.bindings[&key].source_nat)? == "Always", "as pods need it");
    cluster.apply(&slice("pods", "pods-2", &[("10.1.0.2", "ready"), ("10.1.0.3", "ready")]))?;
    serve(&follower, "pods", &[("10.1.0.1", 1), ("10.1.0.2", 1), ("10.1.0.3", 1)])?;
    // Rolled: the old ones finish while a new one serves, then they are gone.
    cluster.apply(&slice("pods", "pods-1", &[("10.1.0.1", "finishing"), ("10.1.0.4", "ready")]))?;
    serve(&follower, "pods", &[("10.1.0.1", 0), ("10.1.0.2", 1), ("10.1.0.3", 1), ("10.1.0.4", 1)])?;
    cluster.apply(&slice("pods", "pods-1", &[("10.1.0.4", "ready")]))?;
    cluster.kubectl("delete endpointslice pods-2 -n tp")?;
    serve(&follower, "pods", &[("10.1.0.4", 1)])?;
    // Who finishes takes what comes where nobody is ready.
    cluster.apply(&slice("pods", "pods-1", &[("10.1.0.4", "finishing")]))?;
    serve(&follower, "pods", &[("10.1.0.4", 1)])?;
    churn(cluster, &follower)?;
    let updates = follower.count();
    cluster.apply(&slice("other", "other-1", &[("10.1.9.8", "ready")]))?;
    cluster.apply(&slice("pods", "pods-3", &[]))?;
    cluster.settled()?;
    ensure!(follower.count() == updates, "what changes nothing is not told: {:?}", follower.update(updates));
    follower.end();
    Ok(())
}

/// Endpoints come and go, and no object of ours is written for it.
fn churn(cluster: &Cluster, follower: &Follower) -> Result<()> {
    cluster.settled()?;
    let versions = |cluster: &Cluster| -> Result<Vec<(Value, Value)>> {
        let bindings = cluster.bindings("pods")?;
        let of =
            |one: &Value| (one["metadata"]["resourceVersion"].clone(), one["metadata"]["generation"].clone());
        Ok(bindings.iter().map(of).collect())
    };
    let (before, writes) = (versions(cluster)?, cluster.writes(&[])?);
    ensure!(before.len() == 2, "one on each director: {before:?}");
    for round in 1..=CHURN {
        let address = format!("10.1.1.{round}");
        cluster.apply(&slice("pods", "pods-1", &[("10.1.0.4", "ready"), (&address, "ready")]))?;
    }
    serve(follower, "pods", &[("10.1.0.4", 1), (&format!("10.1.1.{CHURN}"), 1)])?;
    cluster.settled()?;
    let (after, more) = (versions(cluster)?, cluster.writes(&[])?);
    // The agents of this test write no status: nothing else touches a binding either.
    ensure!(before == after, "the bindings were written: {before:?} {after:?}");
    ensure!(more == writes, "the operator wrote {} times", more - writes);
    println!("  {CHURN} changes of endpoints: no write of the operator");
    Ok(())
}

/// What was dropped as nobody's is read when a binding names it, one by one and many at once.
pub(crate) fn a_service_that_comes_to_be_named(cluster: &mut Cluster) -> Result<()> {
    let follower = follower(cluster)?;
    ensure_connected(&follower)?;
    cluster.apply(&in_front("other", 83))?;
    serve(&follower, "other", &[("10.1.9.8", 1)])?;
    let many = 20_u16;
    for number in 0..many {
        let service = format!("many-{number}");
        cluster.apply(&slice(
            &service,
            &format!("{service}-1"),
            &[(&format!("10.1.8.{}", number + 1), "ready")],
        ))?;
    }
    cluster.operator.signal(libc::SIGSTOP);
    let applied =
        (0..many).try_for_each(|number| cluster.apply(&in_front(&format!("many-{number}"), 100 + number)));
    cluster.operator.signal(libc::SIGCONT);
    applied?;
    for number in 0..many {
        serve(&follower, &format!("many-{number}"), &[(&format!("10.1.8.{}", number + 1), 1)])?;
    }
    // Named no more, and named again.
    cluster.kubectl("delete vs other -n tp")?;
    eventually("it is gone", || {
        ensure!(follower.servers("other").is_err());
        Ok(())
    })?;
    cluster.apply(&slice("other", "other-1", &[("10.1.9.7", "ready")]))?;
    cluster.apply(&in_front("other", 83))?;
    serve(&follower, "other", &[("10.1.9.7", 1)])?;
    let all: Vec<_> = (0..many).map(|number| format!("many-{number}")).collect();
    cluster.kubectl(&format!("delete vs other {} -n tp", all.join(" ")))?;
    eventually("all are gone", || {
        ensure!(follower.servers("other").is_err() && follower.servers("many-0").is_err());
        Ok(())
    })?;
    follower.end();
    Ok(())
}

/// The last endpoints are on the disk, and what changed meanwhile is caught up with.
pub(crate) fn without_an_api_server(cluster: &mut Cluster) -> Result<()> {
    let last = [("10.1.0.4", 1), ("10.1.1.40", 1)];
    let follower = follower(cluster)?;
    ensure_connected(&follower)?;
    serve(&follower, "pods", &last)?;
    cluster.server.kill_api_server();
    eventually("the loss is noticed", || {
        ensure!(!follower.api.link().connected);
        Ok(())
    })?;
    serve(&follower, "pods", &last)?;
    follower.end();
    let follower = self::follower(cluster)?;
    serve(&follower, "pods", &last)?;
    ensure!(follower.count() == 1 && !follower.api.link().connected);
    cluster.server.restart_api_server()?;
    ensure_connected(&follower)?;
    cluster.wait_until_it_leads()?;
    cluster.apply(&slice("pods", "pods-1", &[("10.1.0.5", "ready")]))?;
    serve(&follower, "pods", &[("10.1.0.5", 1)])?;
    // While nobody looks.
    follower.end();
    cluster.kubectl("delete endpointslice pods-1 -n tp")?;
    cluster.apply(&slice("pods", "pods-4", &[("10.1.0.6", "ready")]))?;
    let follower = self::follower(cluster)?;
    serve(&follower, "pods", &[("10.1.0.6", 1)])?;
    cluster.kubectl("delete vs pods -n tp")?;
    eventually("it is gone", || {
        ensure!(follower.servers("pods").is_err());
        Ok(())
    })?;
    follower.end();
    Ok(())
}

/// A machine's agent says which endpoints it has, with the names of their pods, and what it lacks.
pub(crate) fn on_a_machine(cluster: &Cluster, machine: &Machine, agent: &Agent) -> Result<()> {
    cluster.apply(&in_front("machine", 84))?;
    eventually("it says that there is nothing", || {
        let binding = cluster.binding("machine", "dir2")?;
        let degraded = condition_of(&binding, "Degraded");
        let words = degraded["message"].as_str().unwrap_or_default();
        ensure!(words.contains("no EndpointSlice of Service machine"), "{}", binding["status"]);
        Ok(())
    })?;
    cluster.apply(&slice("machine", "machine-1", &[("10.1.2.1", "ready"), ("10.1.2.2", "finishing")]))?;
    eventually("the endpoints are in the status", || {
        let binding = cluster.binding("machine", "dir2")?;
        let status = &binding["status"];
        ensure!(status["realServersTotal"] == 2 && condition_of(&binding, "Degraded").is_null(), "{status}");
        let names: Vec<_> =
            status["realServers"].as_array().into_iter().flatten().map(|one| one["name"].clone()).collect();
        ensure!(names.contains(&json!("10.1.2.1")), "{status}");
        ensure!(binding["metadata"]["generation"] == 1, "{binding}");
        Ok(())
    })?;
    let status = agent.status(machine)?;
    let objects: Vec<_> =
        status["objects"].as_array().into_iter().flatten().map(|one| &one["object"]).collect();
    ensure!(objects.contains(&&json!("EndpointSlice tp/machine-1")), "{objects:?}");
    cluster.kubectl("delete vs machine -n tp")?;
    eventually("it is gone", || {
        let status = agent.status(machine)?;
        let objects = status["objects"].to_string();
        ensure!(!objects.contains("tp/machine"), "{objects}");
        Ok(())
    })?;
    Ok(())
}
