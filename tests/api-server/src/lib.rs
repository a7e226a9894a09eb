//! A real etcd and kube-apiserver for one process that tests or measures, on loopback ports that were free.

pub mod operator;

use std::fs::{self, File};
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

/// How long an API server may take until it is ready; it takes about 4 s on an idle machine of two cores.
const START_BOUND: Duration = Duration::from_secs(180);
/// How often another set of ports is tried when somebody took one of them in the meantime.
const ATTEMPTS: usize = 3;

/// An API server with its etcd. Both die with the thread that started them, and when this is dropped.
pub struct ApiServer {
    programs: PathBuf,
    // Before `dir`: the children end before their folder goes.
    children: Children,
    dir: TempDir,
    /// Where etcd's clients are.
    etcd: String,
    port: u16,
    /// The administrator's.
    token: String,
    options: Options,
}

/// What some tests ask of a server besides.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Address at which nodes and pods reach it, where that is not loopback; its certificate names it.
    pub advertised: Option<Ipv4Addr>,
    /// Nodes whose kubelets have a token each ([`ApiServer::token_of_node`]), with the rights of their node alone.
    pub nodes: Vec<String>,
}

impl ApiServer {
    /// Starts both and waits until the server says that it is ready.
    pub fn start() -> Result<ApiServer> {
        ApiServer::start_with(&Options::default())
    }

    /// The same, with more.
    pub fn start_with(options: &Options) -> Result<ApiServer> {
        let programs = programs()?;
        let mut attempt = 1;
        loop {
            match ApiServer::start_once(&programs, options) {
                Err(error)
                    if attempt < ATTEMPTS && format!("{error:#}").contains("address already in use") =>
                {
                    attempt += 1;
                }
                other => return other,
            }
        }
    }

    fn start_once(programs: &Path, options: &Options) -> Result<ApiServer> {
        let dir = tempfile::Builder::new().prefix("bascule-api-server-").tempdir()?;
        let at = |name: &str| dir.path().join(name);
        let [etcd_port, peer_port, api_port] = free_ports()?;
        let token = hex(&random()?);
        let mut tokens = format!("{token},admin,admin,system:masters\n");
        for node in &options.nodes {
            tokens += &format!("{},system:node:{node},{node},system:nodes\n", hex(&random()?));
        }
        write_private(&at("tokens.csv"), &tokens)?;
        write_private(&at("service-account.key"), &elliptic_key(&random()?))?;
        fs::write(
            at("kubeconfig"),
            format!(
                "apiVersion: v1\nkind: Config\n\
                 clusters: [{{name: c, cluster: {{server: \"https://127.0.0.1:{api_port}\", certificate-authority: {}}}}}]\n\
                 users: [{{name: u, user: {{token: {token}}}}}]\n\
                 contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\ncurrent-context: x\n",
                at("pki/apiserver.crt").display()
            ),
        )?;

        let mut children = Children::default();
        let etcd = format!("http://127.0.0.1:{etcd_port}");
        let peer = format!("http://127.0.0.1:{peer_port}");
        children.spawn(
            Command::new(programs.join("etcd"))
                .arg("--data-dir")
                .arg(at("etcd"))
                .args(["--listen-client-urls", &etcd, "--advertise-client-urls", &etcd])
                .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
                .args(["--initial-cluster", &format!("default={peer}"), "--unsafe-no-fsync"]),
            at("etcd.log"),
        )?;
        let mut server = ApiServer {
            programs: programs.to_owned(),
            children,
            dir,
            etcd,
            port: api_port,
            token,
            options: options.clone(),
        };
        server.begin_api_server()?;
        Ok(server)
    }

    /// Starts kube-apiserver, beside an etcd that runs, and waits until it is ready.
    fn begin_api_server(&mut self) -> Result<()> {
        let at = |name: &str| self.dir.path().join(name);
        let path = |flag: &str, name: &str| format!("--{flag}={}", at(name).display());
        let mut command = Command::new(self.programs.join("kube-apiserver"));
        if let Some(address) = self.options.advertised {
            command.arg(format!("--advertise-address={address}"));
        }
        let modes = if self.options.nodes.is_empty() { "RBAC" } else { "Node,RBAC" };
        if !self.options.nodes.is_empty() {
            command.arg("--enable-admission-plugins=NodeRestriction");
        }
        self.children.spawn(
            command
                .arg(format!("--etcd-servers={}", self.etcd))
                .arg(format!("--secure-port={}", self.port))
                .args(["--bind-address=127.0.0.1", "--service-cluster-ip-range=10.96.0.0/16"])
                .arg(format!("--authorization-mode={modes}"))
                .arg("--service-account-issuer=https://kubernetes.default.svc")
                .arg(path("cert-dir", "pki"))
                .arg(path("service-account-key-file", "service-account.key"))
                .arg(path("service-account-signing-key-file", "service-account.key"))
                .arg(path("token-auth-file", "tokens.csv")),
            at("kube-apiserver.log"),
        )?;
        self.wait_until_ready().with_context(|| self.logs())
    }

    /// Kills kube-apiserver, as a crash would. etcd lives on.
    pub fn kill_api_server(&mut self) {
        self.children.kill_last();
    }

    /// Starts kube-apiserver again, on the same port and with the same certificates.
    pub fn restart_api_server(&mut self) -> Result<()> {
        let begin = Instant::now();
        loop {
            match self.begin_api_server() {
                Ok(()) => return Ok(()),
                // The kernel may not have let go of the port yet.
                Err(error) if format!("{error:#}").contains("ended:") && begin.elapsed() < START_BOUND => {
                    self.children.kill_last();
                    std::thread::sleep(Duration::from_millis(500));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The address at which etcd serves clients, gRPC and its JSON gateway alike.
    pub fn etcd(&self) -> &str {
        &self.etcd
    }

    /// The port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The token of a node's kubelet.
    pub fn token_of_node(&self, node: &str) -> Result<String> {
        let tokens = fs::read_to_string(self.dir.path().join("tokens.csv"))?;
        let line = tokens.lines().find(|line| line.ends_with(&format!(",{node},system:nodes")));
        let (token, _) =
            line.and_then(|line| line.split_once(',')).with_context(|| format!("no node {node}"))?;
        Ok(token.to_owned())
    }

    /// Applies the definitions of Bascule's kinds and what the operator may do, from this source tree, and waits until the kinds are served.
    pub fn install(&self) -> Result<()> {
        let root = sources()?;
        for manifests in ["crds/yaml", "operator/deploy/rbac.yaml"] {
            let path = root.join(manifests).display().to_string();
            self.kubectl_ok(["apply", "--server-side", "-f", &path])?;
        }
        self.kubectl_ok(["wait", "crd", "--all", "--for=condition=Established", "--timeout=120s"])?;
        Ok(())
    }

    /// Gives the agent of a director its rights, from this source tree; returns where its kubeconfig is.
    pub fn install_agent(&self, director: &str) -> Result<PathBuf> {
        let path = sources()?.join("agent/deploy/rbac.yaml");
        let rights = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        if rights.contains('*') {
            bail!("{} has a wildcard: name what the agent may do", path.display());
        }
        let own = self.dir.path().join(format!("agent-{director}.yaml"));
        fs::write(&own, rights.replace("dir1", director))?;
        let args = ["apply", "--server-side", "--force-conflicts", "--field-manager=user", "-f"];
        let own = own.display().to_string();
        self.kubectl_ok(args.into_iter().chain([own.as_str()]))?;
        let account = format!("bascule-agent-{director}");
        self.kubeconfig_of(&account, &format!("{account}.kubeconfig"))
    }

    /// Writes a kubeconfig with a token of that ServiceAccount in [`operator::NAMESPACE`], for twelve hours; returns where it is.
    pub fn kubeconfig_of(&self, account: &str, name: &str) -> Result<PathBuf> {
        let token =
            self.kubectl_ok(["create", "token", account, "-n", operator::NAMESPACE, "--duration=12h"])?;
        self.kubeconfig(name, token.trim())
    }

    /// Writes a kubeconfig for whoever has that token, and returns where it is.
    pub fn kubeconfig(&self, name: &str, token: &str) -> Result<PathBuf> {
        let admin = fs::read_to_string(self.dir.path().join("kubeconfig"))?;
        let own = admin.split_once("token: ").and_then(|(_, rest)| rest.split_once('}'));
        let (own, _) = own.context("the administrator's kubeconfig has no token")?;
        let path = self.dir.path().join(name);
        write_private(&path, &admin.replace(own, token))?;
        Ok(path)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let begin = Instant::now();
        loop {
            self.children.check_alive()?;
            // The certificate is written by the server itself, so that its absence is part of not being ready.
            let answer = self.kubectl().args(["get", "--raw", "/readyz"]).output()?;
            if answer.status.success() && answer.stdout == b"ok" {
                return Ok(());
            }
            if begin.elapsed() > START_BOUND {
                bail!(
                    "kube-apiserver is not ready after {START_BOUND:?}: {}",
                    String::from_utf8_lossy(&answer.stderr).trim()
                );
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The certificates that its own is to be verified with, in PEM.
    pub fn certificate(&self) -> PathBuf {
        self.dir.path().join("pki/apiserver.crt")
    }

    /// What the administrator shows in `Authorization: Bearer`.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// A folder of one's own that lives as long as the server.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// `kubectl` as the cluster's administrator.
    pub fn kubectl(&self) -> Command {
        let mut command = Command::new(self.programs.join("kubectl"));
        command
            .env_clear()
            .env("HOME", self.dir.path())
            .env("KUBECONFIG", self.dir.path().join("kubeconfig"))
            .env("KUBECACHEDIR", self.dir.path().join("kubectl-cache"))
            .stdin(Stdio::null());
        command
    }

    /// Runs `kubectl` and returns what it printed; an error holds what it complained about.
    pub fn kubectl_ok<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        let mut command = self.kubectl();
        command.args(args);
        let Output { status, stdout, stderr } = command.output().context("kubectl cannot be run")?;
        if !status.success() {
            bail!("{command:?}: {status}\n{}", String::from_utf8_lossy(&stderr));
        }
        Ok(String::from_utf8(stdout)?)
    }

    /// The ends of the programs' logs, to be shown when something failed.
    pub fn logs(&self) -> String {
        ["etcd.log", "kube-apiserver.log"]
            .map(|name| {
                let text = fs::read(self.dir.path().join(name)).unwrap_or_default();
                let text = String::from_utf8_lossy(&text);
                let lines: Vec<_> = text.lines().collect();
                format!("--- end of {name}\n{}\n", lines[lines.len().saturating_sub(30)..].join("\n"))
            })
            .concat()
    }

    /// Ends the programs and leaves their folder behind, for a look at the logs; returns where.
    pub fn keep_logs(self) -> PathBuf {
        drop(self.children);
        self.dir.keep()
    }
}

/// Has a program that is started end with the thread that starts it, however that ends.
pub fn die_with_us(command: &mut Command) -> &mut Command {
    // SAFETY: prctl is async-signal-safe, and nothing else happens between fork and exec.
    unsafe {
        command.pre_exec(|| {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == -1 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        })
    }
}

/// Bascule's source tree: the current directory or the nearest above it that holds one. It is looked for when the program runs: what is
/// shipped (`bascule-lab bench operator`) names no path of the machine that built it.
fn sources() -> Result<PathBuf> {
    let current = std::env::current_dir()?;
    current
        .ancestors()
        .find(|folder| {
            folder.join("scripts/kubernetes-programs").is_file() && folder.join("crds/yaml").is_dir()
        })
        .map(Path::to_owned)
        .with_context(|| {
            format!(
                "{} is not in Bascule's source tree, whose manifests are installed: change to it",
                current.display()
            )
        })
}

/// Where kube-apiserver, etcd and kubectl are; builds them first where that has not happened yet.
fn programs() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("BASCULE_KUBERNETES_PROGRAMS") {
        return Ok(folder.into());
    }
    let script = sources()?.join("scripts/kubernetes-programs");
    let output = Command::new(&script)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("{} cannot be run", script.display()))?;
    if !output.status.success() {
        bail!("{}: {}; what it says is above", script.display(), output.status);
    }
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim_end()))
}

/// Started programs; dropping kills exactly these.
#[derive(Default)]
pub struct Children(Vec<(Child, PathBuf)>);

impl Children {
    /// Starts one more, which writes what it says into `log`.
    pub fn spawn(&mut self, command: &mut Command, log: PathBuf) -> Result<()> {
        let file = File::create(&log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = die_with_us(command).spawn().with_context(|| format!("{command:?} cannot be started"))?;
        self.0.push((child, log));
        Ok(())
    }

    fn kill_last(&mut self) {
        if let Some((mut child, _)) = self.0.pop() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// That none has ended.
    pub fn check_alive(&mut self) -> Result<()> {
        for (child, log) in &mut self.0 {
            if let Some(status) = child.try_wait()? {
                bail!("the program that writes {} ended: {status}", log.display());
            }
        }
        Ok(())
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        // The API server first: without etcd it would only complain.
        for (child, _) in self.0.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn free_ports<const N: usize>() -> Result<[u16; N]> {
    // All are held until all are known, so that none is given twice.
    let mut listeners = Vec::with_capacity(N);
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        *port = listener.local_addr()?.port();
        listeners.push(listener);
    }
    Ok(ports)
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(())
}

fn random() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    // As a scalar of P-256 it has to be below the group's order, which begins with 32 bits of ones.
    bytes[0] &= 0x7f;
    bytes[31] |= 1;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

/// A private key of P-256 in PEM (RFC 5915, without the optional public key), for signing tokens of service accounts.
fn elliptic_key(scalar: &[u8; 32]) -> String {
    // SEQUENCE { INTEGER 1, OCTET STRING scalar, [0] { OID 1.2.840.10045.3.1.7 } }
    let mut der = vec![0x30, 49, 0x02, 1, 1, 0x04, 32];
    der.extend(scalar);
    der.extend([0xa0, 10, 0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07]);
    debug_assert_eq!(der.len(), 51);
    format!("-----BEGIN EC PRIVATE KEY-----\n{}\n-----END EC PRIVATE KEY-----\n", base64(&der))
}

/// Base64 of a length divisible by three, thus without padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    assert!(bytes.len().is_multiple_of(3));
    let sextet = |n: u32, shift: u32| char::from(ALPHABET[(n >> shift & 63) as usize]);
    bytes
        .chunks_exact(3)
        .flat_map(|c| {
            let n = u32::from_be_bytes([0, c[0], c[1], c[2]]);
            [sextet(n, 18), sextet(n, 12), sextet(n, 6), sextet(n, 0)]
        })
        .collect()
}
