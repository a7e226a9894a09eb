//! What an agent does when one of its rights is taken away: it says which, goes on with all the rest, and with the right all is well
//! again without a restart. Verb by verb, each of all resources together: every resource has to be named.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use bascule_tests::operator::{NAMESPACE, eventually};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::endpoints::slice;
use crate::follower::agent;
use crate::machine::{Agent, Machine};

const DIRECTOR: &str = "righted";
const RIGHTS: &str = include_str!("../../../agent/deploy/rbac.yaml");
/// What it reads from its start on.
const WATCHED: [&str; 4] = ["virtualservicebindings", "natrulebindings", "directorconfigs", "healthchecks"];

/// Gives the agent its rights, without one verb.
fn rights(cluster: &Cluster, without: Option<&str>) -> Result<()> {
    let lease = format!("leases.coordination.k8s.io/director-{DIRECTOR}");
    let config = format!("directorconfigs.bascule.dev/{DIRECTOR}");
    let asked = [
        ("list", "natrulebindings.bascule.dev"),
        ("watch", "natrulebindings.bascule.dev"),
        ("list", &config),
        ("watch", &config),
        ("patch", &lease),
        ("create", &lease),
    ];
    cluster.rights(&RIGHTS.replace("dir1", DIRECTOR), &format!("bascule-agent-{DIRECTOR}"), without, &asked)
}

/// Waits until it has said of each resource that it may not do that with it, behind that many bytes of its log.
fn said(agent: &Agent, since: usize, verb: &str, resources: &[&str]) -> Result<()> {
    eventually(&format!("the log says what it may not {verb}"), || {
        let log = agent.log().split_off(since);
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

fn port(number: u8) -> u16 {
    7000 + u16::from(number)
}

fn interface(number: u8) -> &'static str {
    if number.is_multiple_of(2) { "eth0" } else { "eth1" }
}

/// The director, and one of everything that is on it; each number is other specs of all that the agent answers for.
fn all_kinds(number: u8) -> String {
    let instance = json!({
        "name": "a", "interface": "eth0", "virtualRouterId": 62, "addresses": [format!("192.0.2.{number}/32")],
    });
    let service = json!({
        "director": {"name": DIRECTOR, "interface": "eth0"}, "addresses": ["192.0.2.200"],
        "ports": [{"port": port(number), "protocol": "TCP"}],
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
        object("HealthCheck", Some("tp"), DIRECTOR, json!({"tcp": {}, "fall": number})),
        object(
            "NatRule",
            Some("tp"),
            DIRECTOR,
            json!({"director": DIRECTOR, "masquerade": {"outInterface": interface(number)}}),
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

/// Waits until all that it was told, of that number, has its answer, and it lacks nothing.
fn is_well(cluster: &Cluster, machine: &Machine, agent: &Agent, number: u8) -> Result<()> {
    let address = format!("192.0.2.{number}/32");
    let answered = |what: &str, told: &dyn Fn(&Value) -> bool| -> Result<()> {
        let one = cluster.get(what)?;
        ensure!(told(&one["spec"]), "{what} is not written yet: {one}");
        let (status, generation) = (&one["status"]["observedGeneration"], &one["metadata"]["generation"]);
        ensure!(status == generation && !generation.is_null(), "{what}: {one}");
        Ok(())
    };
    eventually("everything has its answer", || {
        answered(&format!("directorconfig {DIRECTOR}"), &|spec| spec.to_string().contains(&address))?;
        let own = |kind: &str, field: &str| -> Result<String> {
            let all = cluster.list(kind)?;
            let mut own = all.iter().filter(|one| one["spec"][field] == DIRECTOR);
            let own = own.next().with_context(|| format!("no {kind} of {DIRECTOR}"))?;
            Ok(format!("{kind} {} -n tp", own["metadata"]["name"].as_str().context("a name")?))
        };
        answered(&own("virtualservicebindings", "virtualService")?, &|spec| {
            spec["ports"][0]["port"] == port(number)
        })?;
        answered(&own("natrulebindings", "natRule")?, &|spec| {
            spec["masquerade"]["outInterface"] == interface(number)
        })?;
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
    said(&first, 0, "list", &WATCHED)?;
    let ready = machine.get("/readyz")?;
    ensure!(ready.contains(" 503 ") && ready.contains("cannot list resource"), "{ready}");
    ensure!(machine.get("/healthz")?.contains(" 200 "));
    rights(cluster, None)?;
    holds(&machine, &first, 1)?;
    is_well(cluster, &machine, &first, 1)?;
    // What is read only where something needs it.
    let since = first.log().len();
    rights(cluster, Some("list"))?;
    cluster.apply(&of_endpoints())?;
    said(&first, since, "list", &["endpointslices"])?;
    rights(cluster, None)?;
    is_well(cluster, &machine, &first, 1)?;
    ensure!(first.terminate()? == 0);

    rights(cluster, Some("watch"))?;
    let agent = Agent::start(&machine, &kubeconfig, DIRECTOR, &folder("watch"), ("watch", &[]))?;
    said(&agent, 0, "watch", &WATCHED)?;
    said(&agent, 0, "watch", &["endpointslices"])?;
    rights(cluster, None)?;
    // Something of each kind, for each watch to be heard.
    cluster.apply(&all_kinds(2))?;
    cluster.apply(&slice(DIRECTOR, DIRECTOR, &[("10.1.0.62", "ready")]))?;
    holds(&machine, &agent, 2)?;
    is_well(cluster, &machine, &agent, 2)?;

    let since = agent.log().len();
    rights(cluster, Some("patch"))?;
    cluster.apply(&all_kinds(3))?;
    // Who may not speak is told all the same.
    holds(&machine, &agent, 3)?;
    let statuses = ["virtualservicebindings/status", "natrulebindings/status", "directorconfigs/status"];
    said(&agent, since, "patch", &statuses)?;
    said(&agent, since, "patch", &["leases"])?;
    rights(cluster, None)?;
    is_well(cluster, &machine, &agent, 3)?;

    let since = agent.log().len();
    rights(cluster, Some("create"))?;
    cluster.kubectl(&format!("delete lease director-{DIRECTOR} -n {NAMESPACE}"))?;
    said(&agent, since, "create", &["leases"])?;
    rights(cluster, None)?;
    is_well(cluster, &machine, &agent, 3)?;

    // It went on throughout.
    ensure!(!agent.log().contains("panicked"), "{}", agent.log());
    ensure!(machine.addresses("eth0")?.contains("192.0.2.3/32"));
    ensure!(agent.terminate()? == 0);
    cluster.kubectl(&format!("delete vs,nat,hc {DIRECTOR} -n tp"))?;
    cluster.kubectl("delete vs endpoints -n tp")?;
    cluster.kubectl(&format!("delete endpointslice {DIRECTOR} -n tp"))?;
    cluster.kubectl(&format!("delete vg,director {DIRECTOR}"))?;
    Ok(())
}
