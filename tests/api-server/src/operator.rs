//! The program `bascule-operator` beside a real API server, with exactly the rights that its manifests give it.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::{ApiServer, die_with_us};

/// Namespace of the operator and its Leases.
pub const NAMESPACE: &str = "bascule-system";
/// How long a condition is waited for: generous, whatever else the machine does.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A running operator; killed when dropped.
pub struct Operator {
    child: Child,
    log: PathBuf,
}

impl Operator {
    /// Starts one as the ServiceAccount of `operator/deploy/rbac.yaml`, which is applied already. `name` is that of its log.
    pub fn start(server: &ApiServer, kubeconfig: &Path, name: &str) -> Result<Operator> {
        Operator::start_program(&program()?, server, kubeconfig, name, "debug")
    }

    /// The same with another program, which logs as much as `level` says.
    pub fn start_program(
        program: &Path,
        server: &ApiServer,
        kubeconfig: &Path,
        name: &str,
        level: &str,
    ) -> Result<Operator> {
        let log = server.dir().join(format!("{name}.log"));
        let file = File::create(&log)?;
        let mut command = Command::new(program);
        command
            .env_clear()
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(["--namespace", NAMESPACE, "--identity", name, "--listen", "127.0.0.1:0"])
            .arg("--log-level")
            .arg(format!("info,kube_client=off,bascule_operator={level}"))
            .args(["--log-format", "json"])
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let child = die_with_us(&mut command)
            .spawn()
            .with_context(|| format!("{} cannot be started", program.display()))?;
        Ok(Operator { child, log })
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        let pid = libc::pid_t::try_from(self.child.id()).expect("a process id");
        // SAFETY: it is our child and not waited for yet, so that nobody else has its id.
        unsafe { libc::kill(pid, signal) };
    }

    /// Kills it, as a crash would.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Tells it to end and waits for that; returns its exit code.
    pub fn terminate(mut self) -> Result<i32> {
        self.signal(libc::SIGTERM);
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return status.code().context("it was killed by a signal");
            }
            if begin.elapsed() > PATIENCE {
                bail!("it has not ended for {PATIENCE:?}\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What it answers to `GET path`: the status code and the body.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        let log = self.log();
        let line =
            log.lines().find(|line| line.contains("serving /healthz")).context("it does not listen yet")?;
        let line: serde_json::Value = serde_json::from_str(line)?;
        let address = line["listen"].as_str().context("no address in its log")?.to_owned();
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP")?;
        let code = head.split(' ').nth(1).context("no status code")?.parse()?;
        Ok((code, body.to_owned()))
    }

    /// The sum of a counter over all labels that contain each of `labels`.
    pub fn metric(&self, name: &str, labels: &[&str]) -> Result<u64> {
        let (_, text) = self.get("/metrics")?;
        let mut sum = 0;
        for line in text.lines().filter(|line| line.starts_with(name)) {
            if labels.iter().all(|label| line.contains(label)) {
                let (_, value) = line.rsplit_once(' ').context("a line of metrics without a value")?;
                sum += value.parse::<u64>()?;
            }
        }
        Ok(sum)
    }

    /// Whether it leads and has listed everything.
    pub fn leads(&self) -> bool {
        let ready = self.get("/readyz").is_ok_and(|(code, _)| code == 200);
        ready && self.metric("bascule_operator_leading", &[]).is_ok_and(|leads| leads == 1)
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The operator's program, which cargo has built beside the tests.
///
/// # Errors
/// When it is not there.
pub fn program() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.parent().and_then(Path::parent).context("no folder of programs")?;
    let program = folder.join("bascule-operator");
    if !program.exists() {
        bail!("{} is not there: cargo build -p bascule-operator", program.display());
    }
    Ok(program)
}

/// Waits until `check` has nothing to complain about.
pub fn eventually(what: &str, mut check: impl FnMut() -> Result<()>) -> Result<Duration> {
    let begin = Instant::now();
    loop {
        match check() {
            Ok(()) => return Ok(begin.elapsed()),
            Err(error) if begin.elapsed() > PATIENCE => {
                return Err(error.context(format!("not for {PATIENCE:?}: {what}")));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}
