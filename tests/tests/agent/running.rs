//! The program on a machine, told by the API.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bascule_tests::operator::{NAMESPACE, eventually};
use serde_json::Value;

use crate::cluster::{Cluster, condition_of};
use crate::endpoints;
use crate::flush;
use crate::follower::{agent, with_rights_of};
use crate::machine::{Agent, Machine};
use crate::source::TP;

pub(crate) const ADDRESS: &str = "192.16.193.30/32";
const LOST: &str = "the API server does not answer";

const FLAPPING: &str = r"
apiVersion: bascule.dev/v1alpha1
kind: HealthCheck
metadata: {name: by-file, namespace: tp}
spec: {fall: 1, rise: 1, file: {name: alive}}
---
apiVersion: bascule.dev/v1alpha1
kind: VirtualService
metadata: {name: flapping, namespace: tp}
spec:
  vrrpGroup: front
  addresses: [192.16.193.30]
  ports: [{port: 81, protocol: TCP}]
  realServers: [{name: srv1, address: 172.16.193.10, healthChecks: [by-file]}]
";

pub(crate) fn a_machine_is_told(cluster: &mut Cluster) -> Result<()> {
    let kubeconfig = agent(cluster, "dir2")?;
    let text = fs::read_to_string(&kubeconfig)?;
    let port = text.split_once("https://127.0.0.1:").and_then(|(_, rest)| rest.split_once('"'));
    let machine = Machine::new(port.context("the port of the API server")?.0.parse()?)?;
    let directory = cluster.server.dir().join("dir2");
    cluster.apply(TP)?;
    let agent = Agent::start(&machine, &kubeconfig, "dir2", &directory, ("first", &[]))?;
    let result = as_told(cluster, &machine, &agent)
        .and_then(|()| flapping(cluster, &machine, &agent, &directory))
        .and_then(|()| endpoints::on_a_machine(cluster, &machine, &agent))
        .and_then(|()| flush::taken_away_and_back(cluster, &machine, &agent))
        .with_context(|| agent.log());
    result?;
    let agent = taken_over(cluster, &machine, agent, &kubeconfig, &directory)?;
    let agent = without_api_server(cluster, &machine, agent, &kubeconfig, &directory)?;
    an_end_in_order(cluster, agent)?;
    a_missing_right(cluster, &machine, &directory)
}

/// Addresses, statuses and signs of life.
fn as_told(cluster: &Cluster, machine: &Machine, agent: &Agent) -> Result<()> {
    eventually("the group's addresses are here", || {
        ensure!(machine.addresses("eth0")?.contains(ADDRESS), "{}", agent.log());
        Ok(())
    })?;
    eventually("the group knows who has them", || {
        let group = cluster.get("vg front")?;
        ensure!(group["status"]["active"] == serde_json::json!(["dir2"]), "{}", group["status"]);
        Ok(())
    })?;
    let has_ipvs = Path::new("/proc/net/ip_vs").exists();
    let truth = if has_ipvs { "True" } else { "False" };
    eventually("what became of the service is written back", || {
        let binding = cluster.binding("web", "dir2")?;
        let (status, generation) = (&binding["status"], &binding["metadata"]["generation"]);
        ensure!(status["observedGeneration"] == *generation && !generation.is_null(), "{binding}");
        let programmed = condition_of(&binding, "Programmed");
        ensure!(programmed["status"] == truth && programmed["reason"] != "Pending", "{status}");
        ensure!(
            status["realServersTotal"] == 2 && status["realServers"][1]["checks"][0]["name"] == "it-works",
            "{status}"
        );
        Ok(())
    })?;
    cluster.condition("vs web -n tp", "Programmed", truth)?;
    let config = cluster.get("directorconfig dir2")?;
    ensure!(config["status"]["observedGeneration"] == config["metadata"]["generation"], "{config}");
    ensure!(
        config["status"]["kernel"].is_string() && config["status"]["agentVersion"].is_string(),
        "{config}"
    );
    let director = cluster.get("director dir2")?;
    ensure!(
        director["status"]["kernel"] == config["status"]["kernel"],
        "the operator passes it on: {director}"
    );
    // What it says of itself.
    let status = agent.status(machine)?;
    ensure!(status["manifests"]["problems"] == serde_json::json!([]), "{status}");
    ensure!(status["vrrp"]["groups"][0]["state"] == "Active", "{status}");
    let plan = agent.call(
        machine,
        &[
            "plan",
            "--kubeconfig",
            &cluster.server.dir().join("bascule-agent-dir2.kubeconfig").display().to_string(),
            "--director",
            "dir2",
            "--run-dir",
            "run",
            "--state-dir",
            "state",
            "-o",
            "json",
        ],
    )?;
    let plan: Value = serde_json::from_slice(&plan.stdout)
        .with_context(|| String::from_utf8_lossy(&plan.stderr).into_owned())?;
    ensure!(plan["problems"] == serde_json::json!([]), "{plan}");
    let metrics = machine.get("/metrics")?;
    ensure!(metrics.contains("\nbascule_api_connected 1\n"), "{metrics}");
    ensure!(metrics.contains("\nbascule_api_last_heard_seconds "), "{metrics}");
    let ready = machine.get("/readyz")?;
    ensure!(
        has_ipvs || (ready.contains(" 503 ") && ready.contains("ipvs: ")),
        "all but IPVS is there: {ready}"
    );
    // Alive, and again.
    let renewed = || -> Result<Value> {
        let lease = cluster.get(&format!("lease director-dir2 -n {NAMESPACE}"))?;
        ensure!(lease["spec"]["holderIdentity"] == "dir2", "{lease}");
        Ok(lease["spec"]["renewTime"].clone())
    };
    for _ in 0..2 {
        let before = renewed()?;
        eventually("the Lease is renewed", || {
            ensure!(renewed()? != before);
            Ok(())
        })?;
    }
    Ok(())
}

/// A check that flaps again and again is written once in five seconds.
fn flapping(cluster: &Cluster, machine: &Machine, agent: &Agent, directory: &Path) -> Result<()> {
    cluster.apply(FLAPPING)?;
    eventually("the real server is known to be down", || {
        let binding = cluster.binding("flapping", "dir2")?;
        ensure!(binding["status"]["realServers"][0]["state"] == "Down", "{}", binding["status"]);
        Ok(())
    })?;
    let name =
        cluster.binding("flapping", "dir2")?["metadata"]["name"].as_str().context("a name")?.to_owned();
    let mut watch = cluster.server.kubectl();
    watch.args(["get", "vsb", &name, "-n", "tp", "--watch-only", "-o", "name"]);
    let mut watch = watch.stdout(Stdio::piped()).spawn()?;
    let lines = BufReader::new(watch.stdout.take().context("its output")?).lines();
    let writes = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&writes);
    let counting = std::thread::spawn(move || {
        for _ in lines.map_while(Result::ok) {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    let begin = Instant::now();
    let file = directory.join("files/alive");
    let mut flaps = 0;
    // Long enough for several writes, however late they come.
    while writes.load(Ordering::SeqCst) < 3 {
        ensure!(begin.elapsed() < bascule_tests::operator::PATIENCE, "its status is not written");
        if file.exists() {
            fs::remove_file(&file)?
        } else {
            fs::write(&file, "")?
        }
        flaps += 1;
        std::thread::sleep(Duration::from_millis(370));
    }
    let (count, took) = (writes.load(Ordering::SeqCst), begin.elapsed());
    let _ = watch.kill();
    let _ = watch.wait();
    let _ = counting.join();
    println!("  {flaps} flaps in {:.1} s: {count} writes", took.as_secs_f64());
    // Between the first and the last of them there are five seconds each.
    let most = 2 + usize::try_from(took.as_secs() / 5)?;
    ensure!(count <= most && flaps > 2 * count, "{count} writes of {flaps} flaps in {took:?}");
    cluster.kubectl("delete vs flapping -n tp")?;
    eventually("it is gone from the agent", || {
        let status = agent.status(machine)?;
        ensure!(status["manifests"]["objects"] == 3, "{status}");
        Ok(())
    })?;
    Ok(())
}

/// An upgrade: the group stays where it is, and nobody takes the agent for stopped. Twice: the second time as in a DaemonSet, where
/// the agent that was taken over must not end, because its container would be started again.
fn taken_over(
    cluster: &Cluster,
    machine: &Machine,
    agent: Agent,
    kubeconfig: &Path,
    directory: &Path,
) -> Result<Agent> {
    let since = cluster.get("vg front")?["status"]["since"].clone();
    std::fs::write(directory.join("token"), "secret\n")?;
    let more = ["--take-over", "--linger", "--metrics-token", "token"];
    let next = Agent::start(machine, kubeconfig, "dir2", directory, ("next", &more))?;
    let code = agent.ended()?;
    ensure!(code == 0, "exit code {code}");
    lives(cluster, machine, &next)?;
    eventually("the figures are for who shows the token", || {
        let answer = machine.get("/metrics")?;
        ensure!(answer.starts_with("HTTP/1.1 401 ") && !answer.contains("bascule_"), "{answer}");
        let answer = machine.get_as("/metrics", "secret")?;
        ensure!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("bascule_ready"), "{answer}");
        Ok(())
    })?;

    let mut lingering = next;
    let next = Agent::start(machine, kubeconfig, "dir2", directory, ("surge", &["--take-over"]))?;
    lives(cluster, machine, &next)?;
    ensure!(lingering.runs()?, "it ended instead of waiting for the signal: {}", lingering.log());
    ensure!(lingering.log().contains("nothing is left to do"), "{}", lingering.log());
    let code = lingering.terminate()?;
    ensure!(code == 0, "exit code {code}");
    lives(cluster, machine, &next)?;
    let group = cluster.get("vg front")?;
    ensure!(group["status"]["since"] == since && !since.is_null(), "no state changed: {group}");
    Ok(next)
}

/// The agent is the one that answers, is told by the API, and renews the Lease, which nobody has given up.
fn lives(cluster: &Cluster, machine: &Machine, agent: &Agent) -> Result<()> {
    let lease = || cluster.get(&format!("lease director-dir2 -n {NAMESPACE}"));
    let renewed = lease()?;
    ensure!(renewed["spec"]["holderIdentity"] == "dir2", "{renewed}");
    eventually("the next one lives and is told", || {
        let status = agent.status(machine)?;
        ensure!(status["pid"] == agent.id() && status["api"]["connected"] == true, "{status}");
        ensure!(lease()?["spec"]["renewTime"] != renewed["spec"]["renewTime"]);
        Ok(())
    })
    .with_context(|| agent.log())?;
    Ok(())
}

/// Nothing changes while the API server is gone; an agent that starts meanwhile goes on.
fn without_api_server(
    cluster: &mut Cluster,
    machine: &Machine,
    agent: Agent,
    kubeconfig: &Path,
    directory: &Path,
) -> Result<Agent> {
    cluster.server.kill_api_server();
    eventually("the loss is said", || {
        ensure!(agent.log().contains(LOST), "{}", agent.log());
        Ok(())
    })?;
    ensure!(machine.addresses("eth0")?.contains(ADDRESS), "{}", agent.log());
    let metrics = machine.get("/metrics")?;
    ensure!(metrics.contains("\nbascule_api_connected 0\n"), "{metrics}");
    let lines = agent.log().lines().filter(|line| line.contains(LOST)).count();
    ensure!(lines == 1, "{lines} lines");
    agent.kill();
    let agent = Agent::start(machine, kubeconfig, "dir2", directory, ("second", &[]))?;
    eventually("it goes on from the disk", || {
        let status = agent.status(machine)?;
        let group = &status["vrrp"]["groups"][0];
        ensure!(group["state"] == "Active" && status["manifests"]["objects"] == 3, "{status}");
        ensure!(machine.addresses("eth0")?.contains(ADDRESS));
        Ok(())
    })
    .with_context(|| agent.log())?;
    cluster.server.restart_api_server()?;
    cluster.wait_until_it_leads()?;
    cluster.apply(&TP.replace("172.16.193.40, weight: 2}", "172.16.193.40, weight: 9}"))?;
    eventually("it has caught up and says so", || {
        let binding = cluster.binding("web", "dir2")?;
        ensure!(binding["spec"]["realServers"][1]["weight"] == 9, "{binding}");
        ensure!(binding["status"]["observedGeneration"] == binding["metadata"]["generation"], "{binding}");
        Ok(())
    })
    .with_context(|| agent.log())?;
    Ok(agent)
}

/// Whoever ends says so, and the operator hears it at once.
fn an_end_in_order(cluster: &Cluster, agent: Agent) -> Result<()> {
    let code = agent.terminate()?;
    ensure!(code == 0, "exit code {code}");
    let lease = cluster.get(&format!("lease director-dir2 -n {NAMESPACE}"))?;
    ensure!(lease["spec"]["holderIdentity"] == "", "{lease}");
    cluster.because("director dir2", "Ready", "Unknown", "DirectorUnknown")?;
    Ok(())
}

/// A right that is missing is said with its verb and resource, once.
fn a_missing_right(cluster: &Cluster, machine: &Machine, directory: &Path) -> Result<()> {
    let kubeconfig = with_rights_of(cluster, "nobody")?;
    let agent = Agent::start(machine, &kubeconfig, "dir2", &directory.join("nobody"), ("nobody", &[]))?;
    for words in ["cannot list resource \"virtualservicebindings\"", "cannot patch resource \"leases\""] {
        eventually("it says what it lacks", || {
            ensure!(agent.log().contains(words), "{}", agent.log());
            Ok(())
        })?;
    }
    let lines = agent.log().lines().filter(|line| line.contains("\"virtualservicebindings\"")).count();
    ensure!(lines == 1, "{lines} lines\n{}", agent.log());
    Ok(())
}
