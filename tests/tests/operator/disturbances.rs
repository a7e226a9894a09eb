//! Crashes, pauses and a server that is gone.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use anyhow::{Context as _, Result, ensure};
use bascule_tests::operator::{Operator, eventually};
use serde_json::{Value, json};

use crate::cluster::Cluster;

/// So many services are applied at once.
const MANY: u16 = 150;

pub(crate) fn services(name: &str, first_port: u16, count: u16) -> String {
    let items: Vec<Value> = (0..count)
        .map(|n| {
            json!({
                "apiVersion": "bascule.dev/v1alpha1", "kind": "VirtualService",
                "metadata": {"name": format!("{name}-{n}"), "namespace": "tp"},
                "spec": {
                    "vrrpGroup": "front", "addresses": ["192.16.193.30"],
                    "ports": [{"port": first_port + n, "protocol": "TCP"}],
                    "realServers": [{"name": "srv1", "address": "172.16.193.10"}],
                },
            })
        })
        .collect();
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

/// Waits until there is a binding of each VirtualService on each of its directors, and nothing else.
pub(crate) fn consistent(cluster: &Cluster) -> Result<()> {
    eventually("bindings are what services need", || {
        let services = cluster.list("virtualservices")?;
        let wanted: usize =
            services.iter().map(|one| if one["spec"]["director"].is_object() { 1 } else { 2 }).sum();
        let bindings = cluster.list("virtualservicebindings")?;
        ensure!(bindings.len() == wanted, "{} bindings, {wanted} wanted", bindings.len());
        for service in services {
            let bound = bindings.iter().filter(|one| {
                one["metadata"]["ownerReferences"][0]["uid"] == service["metadata"]["uid"]
                    && one["spec"]["realServers"][0]["weight"] == service["spec"]["realServers"][0]["weight"]
            });
            ensure!(bound.count() >= 1, "{} has no binding of its own", service["metadata"]["name"]);
        }
        Ok(())
    })?;
    Ok(())
}

pub(crate) fn killed_in_the_middle(cluster: &mut Cluster) -> Result<()> {
    cluster.apply(&services("many", 3000, MANY))?;
    // Some are written, not all.
    eventually("it has begun", || {
        let there = cluster.list("virtualservicebindings")?.len();
        ensure!(there > 3, "{there}");
        Ok(())
    })?;
    let next = cluster.another()?;
    std::mem::replace(&mut cluster.operator, next).kill();
    cluster.wait_until_it_leads()?;
    consistent(cluster)?;
    cluster.settled()?;
    // Whoever begins anew writes nothing that is there.
    let before = cluster.list("virtualservicebindings")?;
    let next = cluster.another()?;
    std::mem::replace(&mut cluster.operator, next).kill();
    cluster.wait_until_it_leads()?;
    cluster.settled()?;
    let specs = cluster.writes(&["kind=\"VirtualServiceBinding\""])?
        + cluster.writes(&["kind=\"DirectorConfig\""])?;
    ensure!(specs == 0, "{specs} specs were written by one that found everything in order");
    let after = cluster.list("virtualservicebindings")?;
    ensure!(before == after, "something was written");
    Ok(())
}

pub(crate) fn api_server_gone(cluster: &mut Cluster) -> Result<()> {
    cluster.server.kill_api_server();
    std::thread::sleep(std::time::Duration::from_secs(15));
    cluster.server.restart_api_server()?;
    cluster.kubectl("delete vs many-0 many-1 -n tp")?;
    cluster.apply(&services("later", 4000, 2))?;
    consistent(cluster)?;
    cluster.wait_until_it_leads()?;
    let (code, body) = cluster.operator.get("/healthz")?;
    ensure!(code == 200, "{code} {body}");
    Ok(())
}

/// What happened while nobody watched is gone from etcd: a watch cannot go on where it was.
pub(crate) fn watches_expired(cluster: &mut Cluster) -> Result<()> {
    cluster.operator.signal(libc::SIGSTOP);
    let name = cluster.binding("many-2", "dir1")?["metadata"]["name"].as_str().context("no name")?.to_owned();
    cluster.kubectl(&format!("delete vsb -n tp {name}"))?;
    cluster.kubectl("delete vs many-3 -n tp")?;
    let list = cluster.kubectl("get --raw /apis/bascule.dev/v1alpha1/virtualservices?limit=1")?;
    let list: Value = serde_json::from_str(&list)?;
    let revision: u64 = list["metadata"]["resourceVersion"].as_str().context("no revision")?.parse()?;
    compact(cluster.server.etcd(), revision)?;
    // The server's memory of what happened goes with it.
    cluster.server.kill_api_server();
    cluster.server.restart_api_server()?;
    cluster.operator.signal(libc::SIGCONT);
    consistent(cluster)?;
    cluster.wait_until_it_leads()
}

/// Drops all that etcd remembers of what was before a revision.
fn compact(etcd: &str, revision: u64) -> Result<()> {
    let address = etcd.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address)?;
    let body = json!({"revision": revision.to_string(), "physical": true}).to_string();
    write!(
        stream,
        "POST /v3/kv/compaction HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    Ok(())
}

pub(crate) fn a_leader_that_was_stopped(cluster: &mut Cluster) -> Result<()> {
    let old = cluster.another()?;
    let old = std::mem::replace(&mut cluster.operator, old);
    eventually("the other one is ready to take over", || {
        let (code, body) = cluster.operator.get("/readyz")?;
        ensure!(code == 200, "{body}");
        Ok(())
    })?;
    ensure!(old.leads() && !cluster.operator.leads(), "two lead, or none");
    // It is stopped with work to do.
    cluster.apply(&services("many", 3000, MANY))?;
    old.signal(libc::SIGSTOP);
    cluster.wait_until_it_leads()?;
    consistent(cluster)?;
    // What the old one knows is not so any more.
    cluster.kubectl("delete vs -n tp --field-selector metadata.name!=web")?;
    cluster.apply(&services("later", 4000, 2))?;
    consistent(cluster)?;
    cluster.settled()?;
    let before = cluster.list("virtualservicebindings")?;
    old.signal(libc::SIGCONT);
    eventually("the old one sees that it is not the leader", || {
        ensure!(old.log().contains("not leading any more"), "{}", old.log());
        ensure!(old.metric("bascule_operator_leading", &[])? == 0);
        Ok(())
    })?;
    consistent(cluster)?;
    cluster.settled()?;
    let after = cluster.list("virtualservicebindings")?;
    ensure!(before == after, "the old one wrote something");
    ensure!(cluster.operator.leads() && !old.leads());
    Ok(())
}

/// One that is told to end gives the Lease up: the next one need not wait until it is stale.
pub(crate) fn an_end_in_order(cluster: &mut Cluster) -> Result<()> {
    let next = cluster.another()?;
    eventually("the other one is ready to take over", || {
        ensure!(next.get("/readyz")?.0 == 200);
        Ok(())
    })?;
    let old: Operator = std::mem::replace(&mut cluster.operator, next);
    let code = old.terminate()?;
    ensure!(code == 0, "exit code {code}");
    let lease = cluster.get("lease bascule-operator -n bascule-system")?;
    let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
    ensure!(holder.is_empty() || !holder.starts_with("operator-3"), "{lease}");
    cluster.wait_until_it_leads()?;
    let log = cluster.operator.log();
    ensure!(log.contains("leading"), "{log}");
    Ok(())
}
