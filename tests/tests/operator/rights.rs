//! What happens when a right is taken away: it is said which, everything else goes on, and with the right all is well again without a
//! restart. Verb by verb, each of all resources together: every resource has to be named.

use anyhow::{Result, ensure};
use bascule_tests::operator::eventually;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::disturbances::services;

const RIGHTS: &str = include_str!("../../../operator/deploy/rbac.yaml");

/// Gives the operator its rights, without one verb.
fn rights(cluster: &Cluster, without: Option<&str>) -> Result<()> {
    let asked = ["list", "watch", "create", "patch", "delete"].map(|verb| (verb, "directors.bascule.dev"));
    cluster.rights(RIGHTS, "bascule-operator", without, &asked)
}

/// Waits until the operator has said of each resource that it may not do that with it.
fn said(cluster: &Cluster, verb: &str, resources: &[&str]) -> Result<()> {
    eventually(&format!("the log says what it may not {verb}"), || {
        let log = cluster.operator.log();
        // Only what is seen without asking for more.
        let seen: Vec<&str> = log.lines().filter(|line| !line.contains("\"DEBUG\"")).collect();
        for resource in resources {
            let words = format!("cannot {verb} resource \\\"{resource}\\\"");
            ensure!(seen.iter().any(|line| line.contains(&words)), "nothing of {resource}");
        }
        Ok(())
    })?;
    Ok(())
}

const WATCHED: [&str; 10] = [
    "virtualservices",
    "healthchecks",
    "vrrpgroups",
    "natrules",
    "directors",
    "virtualservicebindings",
    "natrulebindings",
    "directorconfigs",
    "nodes",
    "leases",
];

/// A Director, and one of everything that is on it.
fn all_kinds(port: u16, interface: &str) -> String {
    let object = |kind: &str, namespace: Option<&str>, name: &str, spec: Value| {
        let metadata = json!({"name": name, "namespace": namespace});
        json!({"apiVersion": "bascule.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec})
    };
    let instance =
        json!({"name": "a", "interface": interface, "virtualRouterId": 77, "addresses": ["192.0.2.77/32"]});
    let items = [
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "labelled", "labels": {"bascule.dev/director": ""}}}),
        object(
            "Director",
            None,
            "here",
            json!({
                "sysctls": if port.is_multiple_of(2) { "Report" } else { "Manage" },
                "allow": [{"namespaces": ["tp"], "kinds": ["NatRule", "VirtualService"], "addresses": ["192.0.2.0/24"]}]
            }),
        ),
        object(
            "VrrpGroup",
            None,
            "here",
            json!({"members": [{"director": "here"}], "instances": [instance]}),
        ),
        object("HealthCheck", Some("tp"), "here", json!({"tcp": {}, "port": port})),
        object(
            "NatRule",
            Some("tp"),
            "here",
            json!({"director": "here", "masquerade": {"outInterface": interface}}),
        ),
        object(
            "VirtualService",
            Some("tp"),
            "here",
            json!({
                "director": {"name": "here"}, "addresses": ["192.0.2.1"], "ports": [{"port": port, "protocol": "TCP"}],
                "realServers": [{"name": "s", "address": "172.16.193.10"}],
            }),
        ),
    ];
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

/// Waits until all of it is carried, of that port, or nothing is left of it.
fn carried(cluster: &Cluster, port: Option<u16>) -> Result<()> {
    eventually("what is on the Director is what it should be", || {
        let binding = cluster.bindings("here")?;
        let ports: Vec<&Value> = binding.iter().map(|one| &one["spec"]["ports"][0]["port"]).collect();
        let rules = cluster.list("natrulebindings")?;
        let rules = rules.iter().filter(|one| one["spec"]["natRule"] == "here").count();
        let configs = cluster.kubectl("get dc -o name")?;
        let configs =
            configs.lines().filter(|name| name.ends_with("/here") || name.ends_with("/labelled")).count();
        let told = (ports.first().and_then(|port| port.as_u64()), rules, configs);
        let wanted = port.map_or((None, 0, 0), |port| (Some(u64::from(port)), 1, 2));
        ensure!(told == wanted, "{told:?}");
        Ok(())
    })?;
    if let Some(port) = port {
        for what in ["vs here -n tp", "nat here -n tp", "hc here -n tp", "vg here", "director here"] {
            eventually(&format!("{what} has its answer at port {port}"), || {
                let object = cluster.get(what)?;
                ensure!(
                    object["status"]["observedGeneration"] == object["metadata"]["generation"],
                    "{object}"
                );
                Ok(())
            })?;
        }
    }
    cluster.settled()
}

fn remove(cluster: &Cluster) -> Result<()> {
    cluster.kubectl("delete node labelled")?;
    cluster.kubectl("delete vs,nat,hc here -n tp")?;
    cluster.kubectl("delete vg,director here")?;
    Ok(())
}

/// Begins with an operator that lacks the verb, and waits until it has said so; then it gets it.
fn from_the_start(cluster: &mut Cluster, verb: &str) -> Result<()> {
    rights(cluster, Some(verb))?;
    let next = cluster.another()?;
    let code = std::mem::replace(&mut cluster.operator, next).terminate()?;
    ensure!(code == 0, "exit code {code}");
    said(cluster, verb, &WATCHED)?;
    eventually("it is not ready, and says for what", || {
        let (code, body) = cluster.operator.get("/readyz")?;
        ensure!(code == 503, "{code} {body}");
        for kind in ["VirtualService", "NatRuleBinding", "Node", "Lease"] {
            ensure!(body.contains(kind), "{body}");
        }
        ensure!(body.contains(&format!("cannot {verb} resource")), "{body}");
        Ok(())
    })?;
    ensure!(cluster.operator.get("/healthz")?.0 == 200);
    rights(cluster, None)?;
    cluster.wait_until_it_leads()?;
    cluster.settled()
}

pub(crate) fn each_right_is_missed(cluster: &mut Cluster) -> Result<()> {
    from_the_start(cluster, "list")?;
    from_the_start(cluster, "watch")?;
    // It hears again.
    cluster.apply(&services("heard", 6000, 1))?;
    eventually("bindings of what came since", || {
        ensure!(cluster.bindings("heard-0")?.len() == 2);
        Ok(())
    })?;
    cluster.kubectl("delete vs heard-0 -n tp")?;

    rights(cluster, Some("create"))?;
    cluster.apply(&all_kinds(7000, "eth0"))?;
    said(
        cluster,
        "create",
        &["directors", "virtualservicebindings", "natrulebindings", "directorconfigs", "events"],
    )?;
    // What becomes of it is said where the user looks, with the server's words.
    let why = cluster.because("vs here -n tp", "Programmed", "False", "Rejected")?;
    ensure!(why["message"].as_str().is_some_and(|why| why.contains("cannot create resource")), "{why}");
    rights(cluster, None)?;
    carried(cluster, Some(7000))?;

    rights(cluster, Some("patch"))?;
    cluster.apply(&all_kinds(7001, "eth1"))?;
    said(
        cluster,
        "patch",
        &[
            "virtualservicebindings",
            "natrulebindings",
            "directorconfigs",
            "virtualservices/status",
            "healthchecks/status",
            "vrrpgroups/status",
            "natrules/status",
            "directors/status",
        ],
    )?;
    rights(cluster, None)?;
    carried(cluster, Some(7001))?;

    rights(cluster, Some("delete"))?;
    remove(cluster)?;
    said(cluster, "delete", &["directors"])?;
    eventually("it is still there: nobody may delete it", || {
        let left = cluster.get("director labelled")?;
        ensure!(left["metadata"]["deletionTimestamp"].is_null(), "{left}");
        Ok(())
    })?;
    rights(cluster, None)?;
    carried(cluster, None)?;

    // The Lease: who cannot renew it does not write.
    rights(cluster, Some("update"))?;
    said(cluster, "update", &["leases"])?;
    eventually("it is not ready", || {
        let (code, body) = cluster.operator.get("/readyz")?;
        ensure!(code == 503 && body.contains("Lease"), "{code} {body}");
        Ok(())
    })?;
    rights(cluster, None)?;
    cluster.wait_until_it_leads()?;
    cluster.settled()
}
