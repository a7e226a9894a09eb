//! What an agent does when one of its rights is taken away: it says which, goes on with all the rest, and with the right all is well
//! again without a restart. Verb by verb, each of all resources together: every resource has to be named.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use bascule_tests::operator::{NAMESPACE, eventually};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::follower::agent;
use crate::machine::{Agent, Machine};

const DIRECTOR: &str = "righted";
const RIGHTS: &str = include_str!("../../../agent/deploy/rbac.yaml");
/// What it reads from its start on.
const WATCHED: [&str; 4] = ["virtualservicebindings", "natrulebindings", "directorconfigs", "healthchecks"];

/// Gives the agent its rights, without one verb.
fn rights(cluster: &Cluster, without: Option<&str>) -> Result<()> {
    let lease = format!("leases.coordination.k8s.io/director-{DIRECTOR}");
    let asked = [
        ("list", "natrulebindings.bascule.dev"),
        ("watch", "natrulebindings.bascule.dev"),
        ("patch", &lease),
        ("create", &lease),
    ];
    cluster.rights(&RIGHTS.replace("dir1", DIRECTOR), &format!("bascule-agent-{DIRECTOR}"), without, &asked)
}

/// Waits until it has said of each resource that it may not do that with it.
fn said(agent: &Agent, verb: &str, resources: &[&str]) -> Result<()> {
    eventually(&format!("the log says what it may not {verb}"), || {
        let log = agent.log();
        for resource in resources {
            ensure!(log.contains(&format!("cannot {verb} resource \"{resource}\"")), "nothing of {resource}");
        }
        Ok(())
    })
    .with_context(|| agent.log())?;
    Ok(())
}

fn object(kind: &str, namespace: Option<&str>, name: &str, spec: Value) -> Value {
    let metadata = json!({"name": name, "namespace": namespace});
    json!({"apiVersion": "bascule.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec})
}

/// The director, and one of everything that is on it; each number is other specs of all that the agent answers for.
fn all_kinds(number: u8) -> String {
    let interface = if number.is_multiple_of(2) { "eth0" } else { "eth1" };
    let instance = json!({
        "name": "a", "interface": "eth0", "virtualRouterId": 62, "addresses": [format!("192.0.2.{number}/32")],
    });
    let service = json!({
        "director": {"name": DIRECTOR, "interface": "eth0"}, "addresses": ["192.0.2.200"],
        "ports": [{"port": 7000 + u16::from(number), "protocol": "TCP"}],
        "realServers": [{"name": "s", "address": "172.16.193.10", "healthChecks": [DIRECTOR]}],
    });
    let items = [
        object(
            "Director",
            None,
            DIRECTOR,
            json!({"allow": [
                {"namespaces": ["tp"], "kinds": ["NatRule", "VirtualService"], "addresses": ["192.0.2.0/24"]},
            ]}),
        ),
        object(
            "VrrpGroup",
            None,
            DIRECTOR,
            json!({"members": [{"director": DIRECTOR}], "instances": [instance]}),
        ),
        object("HealthCheck", Some("tp"), DIRECTOR, json!({"tcp": {}})),
        object(
            "NatRule",
            Some("tp"),
            DIRECTOR,
            json!({"director": DIRECTOR, "masquerade": {"outInterface": interface}}),
        ),
        object("VirtualService", Some("tp"), DIRECTOR, service),
    ];
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

/// A service whose real servers are the endpoints of a Service.
fn of_endpoints() -> String {
    let spec = json!({
        "director": {"name": DIRECTOR, "interface": "eth0"}, "addresses": ["192.0.2.201"],
        "ports": [{"port": 80, "protocol": "TCP"}], "realServersFrom": {"service": {"name": DIRECTOR}},
    });
    object("VirtualService", Some("tp"), "endpoints", spec).to_string()
}

/// Waits until the group's address of that number is there.
fn holds(machine: &Machine, agent: &Agent, number: u8) -> Result<()> {
    eventually("it does what it is told", || {
        let addresses = machine.addresses("eth0")?;
        ensure!(addresses.contains(&format!("192.0.2.{number}/32")), "{addresses}");
        Ok(())
    })
    .with_context(|| agent.log())?;
    Ok(())
}

/// Waits until all that it was told has its answer, and it lacks nothing.
fn is_well(cluster: &Cluster, machine: &Machine, agent: &Agent) -> Result<()> {
    let answered = |what: &str| -> Result<()> {
        let one = cluster.get(what)?;
        let (status, generation) = (&one["status"]["observedGeneration"], &one["metadata"]["generation"]);
        ensure!(status == generation && !generation.is_null(), "{what}: {one}");
        Ok(())
    };
    eventually("everything has its answer", || {
        answered(&format!("directorconfig {DIRECTOR}"))?;
        for (kind, field) in [("virtualservicebindings", "virtualService"), ("natrulebindings", "natRule")] {
            let all = cluster.list(kind)?;
            let mut own = all.iter().filter(|one| one["spec"][field] == DIRECTOR);
            let own = own.next().with_context(|| format!("no {kind} of {DIRECTOR}"))?;
            let name = own["metadata"]["name"].as_str().context("a name")?;
            answered(&format!("{kind} {name} -n tp"))?;
        }
        let lease = cluster.get(&format!("lease director-{DIRECTOR} -n {NAMESPACE}"))?;
        ensure!(lease["spec"]["holderIdentity"] == DIRECTOR, "{lease}");
        let status = agent.status(machine)?;
        ensure!(status["api"]["connected"] == true, "{}", status["api"]);
        ensure!(!status["api"].to_string().contains("cannot"), "{}", status["api"]);
        Ok(())
    })
    .with_context(|| agent.log())?;
    Ok(())
}

pub(crate) fn each_right_is_missed(cluster: &mut Cluster) -> Result<()> {
    let kubeconfig = agent(cluster, DIRECTOR)?;
    let text = fs::read_to_string(&kubeconfig)?;
    let port = text.split_once("https://127.0.0.1:").and_then(|(_, rest)| rest.split_once('"'));
    let machine = Machine::new(port.context("the port of the API server")?.0.parse()?)?;
    let folder = |name: &str| cluster.server.dir().join(format!("{DIRECTOR}-{name}"));
    cluster.apply(&all_kinds(1))?;

    rights(cluster, Some("list"))?;
    let first = Agent::start(&machine, &kubeconfig, DIRECTOR, &folder("list"), ("list", &[]))?;
    said(&first, "list", &WATCHED)?;
    let ready = machine.get("/readyz")?;
    ensure!(ready.contains(" 503 ") && ready.contains("cannot list resource"), "{ready}");
    ensure!(machine.get("/healthz")?.contains(" 200 "));
    rights(cluster, None)?;
    holds(&machine, &first, 1)?;
    is_well(cluster, &machine, &first)?;
    // What is read only where something needs it.
    rights(cluster, Some("list"))?;
    cluster.apply(&of_endpoints())?;
    said(&first, "list", &["endpointslices"])?;
    rights(cluster, None)?;
    is_well(cluster, &machine, &first)?;
    cluster.kubectl("delete vs endpoints -n tp")?;
    ensure!(first.terminate()? == 0);

    rights(cluster, Some("watch"))?;
    let agent = Agent::start(&machine, &kubeconfig, DIRECTOR, &folder("watch"), ("watch", &[]))?;
    said(&agent, "watch", &WATCHED)?;
    cluster.apply(&of_endpoints())?;
    rights(cluster, None)?;
    cluster.apply(&all_kinds(2))?;
    holds(&machine, &agent, 2)?;
    is_well(cluster, &machine, &agent)?;

    rights(cluster, Some("patch"))?;
    cluster.apply(&all_kinds(3))?;
    // Who may not speak is told all the same.
    holds(&machine, &agent, 3)?;
    let statuses = ["virtualservicebindings/status", "natrulebindings/status", "directorconfigs/status"];
    said(&agent, "patch", &statuses)?;
    said(&agent, "patch", &["leases"])?;
    rights(cluster, None)?;
    is_well(cluster, &machine, &agent)?;

    rights(cluster, Some("create"))?;
    cluster.kubectl(&format!("delete lease director-{DIRECTOR} -n {NAMESPACE}"))?;
    said(&agent, "create", &["leases"])?;
    rights(cluster, None)?;
    is_well(cluster, &machine, &agent)?;

    // It went on throughout.
    ensure!(!agent.log().contains("panicked"), "{}", agent.log());
    ensure!(machine.addresses("eth0")?.contains("192.0.2.3/32"));
    ensure!(agent.terminate()? == 0);
    cluster.kubectl(&format!("delete vs,nat,hc {DIRECTOR} -n tp"))?;
    cluster.kubectl("delete vs endpoints -n tp")?;
    cluster.kubectl(&format!("delete vg,director {DIRECTOR}"))?;
    Ok(())
}
