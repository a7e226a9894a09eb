//! The control plane, the machine, helm.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bascule_tests::api_server::{ApiServer, Children, Options};
use bascule_tests::helm::Helm;
use serde_json::Value;

use crate::control_plane;
use crate::kernel::Tables;
use crate::machine::{GATEWAY, Machine};
use crate::nodes::NODES;

/// How long a condition is waited for: nodes are emulated, and several programs start on each.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);
/// For `kubectl wait` and `rollout status`.
pub(crate) const TIMEOUT: &str = "--timeout=300s";

/// Everything that a part needs.
pub(crate) struct Cluster {
    // Before the server that it speaks to.
    control_plane: Children,
    pub(crate) machine: Machine,
    pub(crate) helm: Helm,
    pub(crate) server: ApiServer,
    /// Where the programs of nodes are.
    pub(crate) programs: PathBuf,
    /// What the nodes' kernels held before anything was installed.
    pub(crate) before: Vec<Tables>,
}

impl Cluster {
    pub(crate) fn start() -> Result<Cluster> {
        let programs = control_plane::programs()?;
        let nodes = NODES.map(str::to_owned).to_vec();
        let server = ApiServer::start_with(&Options { advertised: Some(GATEWAY), nodes })?;
        let control_plane = control_plane::start(&server, &programs)?;
        let helm = Helm::new(Some(server.dir().join("kubeconfig")))?;
        let machine = Machine::start()?;
        Ok(Cluster { control_plane, machine, helm, server, programs, before: Vec::new() })
    }

    pub(crate) fn kubectl(&self, args: &str) -> Result<String> {
        self.server.kubectl_ok(args.split_whitespace())
    }

    /// An object as it is, or a list.
    pub(crate) fn get(&self, what: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.kubectl(&format!("get {what} -o json"))?)?)
    }

    /// Applies manifests as the administrator.
    pub(crate) fn apply(&self, manifests: &str) -> Result<()> {
        let mut command = self.server.kubectl();
        command.args(["apply", "--server-side", "-f", "-"]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().context("no standard input")?.write_all(manifests.as_bytes())?;
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "apply: {}\n{manifests}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Waits until `check` has nothing to complain about.
    pub(crate) fn eventually(
        &mut self,
        what: &str,
        mut check: impl FnMut(&Cluster) -> Result<()>,
    ) -> Result<()> {
        let begin = Instant::now();
        loop {
            self.control_plane.check_alive()?;
            self.machine.check_alive()?;
            match check(self) {
                Ok(()) => return Ok(()),
                Err(error) if begin.elapsed() > PATIENCE => {
                    return Err(error.context(format!("not for {PATIENCE:?}: {what}")));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(500)),
            }
        }
    }

    /// Ends everything and says where the logs are, and what is known of the pods.
    pub(crate) fn keep(self) -> String {
        let told = ["get nodes,pods,bascule -A -o wide", "get events -A --sort-by=.lastTimestamp"]
            .map(|args| self.kubectl(args).unwrap_or_else(|error| format!("{error:#}\n")));
        let logs = self.machine.run(crate::nodes::LOGS).unwrap_or_else(|error| format!("{error:#}\n"));
        let _ = fs::write(self.server.dir().join("pods.log"), logs);
        let Cluster { control_plane, machine, helm: _, server, .. } = self;
        drop((control_plane, machine));
        format!("{}all logs are in {}", told.concat(), server.keep_logs().display())
    }
}
