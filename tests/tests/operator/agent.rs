//! What an agent writes, written in its place.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bascule_tests::api_server::ApiServer;
use bascule_tests::die_with_us;
use serde_json::{Value, json};

use crate::cluster::Cluster;

const NAMESPACE: &str = bascule_tests::operator::NAMESPACE;
/// From one renewal of the Leases to the next.
const RENEWAL: Duration = Duration::from_secs(3);

/// The agents that live: their Leases are renewed, however long the test takes.
pub(crate) struct Agents {
    living: Arc<Mutex<BTreeSet<String>>>,
    address: String,
    proxy: Child,
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Agents {
    /// Nobody lives yet. The Leases go through a `kubectl proxy`: a process for each would be most of what the test does.
    pub(crate) fn start(server: &ApiServer) -> Result<Agents> {
        let mut command = server.kubectl();
        command.args(["proxy", "--port=0", "--address=127.0.0.1"]).stdout(Stdio::piped());
        let mut proxy = die_with_us(&mut command).spawn()?;
        let mut line = String::new();
        let stdout = proxy.stdout.take().context("no standard output")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line.trim().rsplit(' ').next().context("kubectl proxy says nothing")?.to_owned();
        let living: Arc<Mutex<BTreeSet<String>>> = Arc::default();
        let (stop, stopped) = mpsc::channel();
        let (renewed, to) = (Arc::clone(&living), address.clone());
        let thread = std::thread::spawn(move || {
            while stopped.recv_timeout(RENEWAL) == Err(mpsc::RecvTimeoutError::Timeout) {
                // Held meanwhile: who is told to stop does not come back.
                for director in &*renewed.lock().expect("nobody panics with it") {
                    // The API server may be gone on purpose.
                    let _ = now().and_then(|now| lease(&to, director, director, &now));
                }
            }
        });
        Ok(Agents { living, address, proxy, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        self.stop.take();
        let _ = self.proxy.kill();
        let _ = self.proxy.wait();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A director's agent lives from now on.
pub(crate) fn live(cluster: &Cluster, director: &str) -> Result<()> {
    cluster.agents.living.lock().expect("nobody panics with it").insert(director.to_owned());
    lease(&cluster.agents.address, director, director, &now()?)
}

/// It is not heard any more.
pub(crate) fn die(cluster: &Cluster, director: &str) {
    cluster.agents.living.lock().expect("nobody panics with it").remove(director);
}

/// It ends, and says so.
pub(crate) fn stop(cluster: &Cluster, director: &str) -> Result<()> {
    die(cluster, director);
    lease(&cluster.agents.address, director, "", &now()?)
}

/// It was heard long ago.
pub(crate) fn lived_once(cluster: &Cluster, director: &str) -> Result<()> {
    lease(&cluster.agents.address, director, director, "2026-01-01T00:00:00.000000Z")
}

fn now() -> Result<String> {
    let output = std::process::Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%S.%6NZ"]).output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn lease(address: &str, director: &str, holder: &str, renewed: &str) -> Result<()> {
    let name = format!("director-{director}");
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": 40, "renewTime": renewed},
    });
    let body = lease.to_string();
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    write!(
        stream,
        "PATCH /apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{name}?fieldManager=agent&force=true HTTP/1.1\r\n\
         Host: {address}\r\nContent-Type: application/apply-patch+yaml\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 20"), "{answer}");
    Ok(())
}

fn condition(type_: &str, status: bool, reason: &str, message: &str) -> Value {
    let status = if status { "True" } else { "False" };
    json!({"type": type_, "status": status, "reason": reason, "message": message, "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

/// Says of a binding that it is programmed and has so many real servers up.
pub(crate) fn carried_out(
    cluster: &Cluster,
    service: &str,
    director: &str,
    up: u32,
    total: u32,
) -> Result<()> {
    let ready = condition("Ready", up > 0, if up > 0 { "Ready" } else { "NoRealServer" }, "");
    report_binding(cluster, service, director, ready, up, total)
}

fn report_binding(
    cluster: &Cluster,
    service: &str,
    director: &str,
    ready: Value,
    up: u32,
    total: u32,
) -> Result<()> {
    let binding = cluster.binding(service, director)?;
    let status = json!({
        "apiVersion": "bascule.dev/v1alpha1", "kind": "VirtualServiceBinding",
        "metadata": {"name": binding["metadata"]["name"], "namespace": binding["metadata"]["namespace"]},
        "status": {
            "observedGeneration": binding["metadata"]["generation"],
            "conditions": [condition("Programmed", true, "Programmed", ""), ready],
            "realServersUp": up, "realServersTotal": total,
        },
    });
    cluster.report(&status.to_string())
}

/// Says of the binding of a NatRule that it is in the kernel.
pub(crate) fn rule_carried_out(cluster: &Cluster, binding: &Value) -> Result<()> {
    let status = json!({
        "apiVersion": "bascule.dev/v1alpha1", "kind": "NatRuleBinding",
        "metadata": {"name": binding["metadata"]["name"], "namespace": binding["metadata"]["namespace"]},
        "status": {
            "observedGeneration": binding["metadata"]["generation"],
            "conditions": [condition("Programmed", true, "Programmed", ""), condition("Ready", true, "Ready", "")],
        },
    });
    cluster.report(&status.to_string())
}

/// Says of a machine that it is programmed, and in what state it is in the group `front`.
pub(crate) fn machine(cluster: &Cluster, director: &str, state: Option<(&str, u8)>) -> Result<()> {
    let config = cluster.get(&format!("directorconfig {director}"))?;
    let vrrp: Vec<Value> = state
        .into_iter()
        .map(|(state, priority)| json!({"group": "front", "state": state, "priority": priority, "reason": "told by a test"}))
        .collect();
    let status = json!({
        "apiVersion": "bascule.dev/v1alpha1", "kind": "DirectorConfig", "metadata": {"name": director},
        "status": {
            "observedGeneration": config["metadata"]["generation"],
            "conditions": [condition("Programmed", true, "Programmed", ""), condition("Ready", true, "Ready", "")],
            "vrrp": vrrp, "agentVersion": "0.1.0", "kernel": "6.1.0-test",
        },
    });
    cluster.report(&status.to_string())
}
