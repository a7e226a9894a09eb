//! A real API server, the operator beside it, and agents on machines of their own, whose loopback leads to the API server.

use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bascule_api_server::ApiServer;
use bascule_api_server::operator::{NAMESPACE, Operator};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::runtime::Runtime;

use super::api::{Api, Connection};
use super::journal::Journal;
use super::shape::{self, Shape};
use super::writes::Writes;
use crate::bench::{Bench, last_word, said};
use crate::world::{Exec, Process, Spawn, World, WorldDir};

/// Where an agent has what it needs to reach the API server.
const KUBECONFIG: &str = "/var/lib/bench/kubeconfig";
const CERTIFICATE: &str = "/var/lib/bench/apiserver.crt";
/// What its simulated kernel was told.
const JOURNAL: &str = "/var/lib/bench/kernel.journal";
/// Connections on which objects are made.
const MAKERS: u32 = 8;
/// How long nothing of ours is written until that counts as quiet; an agent writes a binding's status once in five seconds at most.
const QUIET: Duration = Duration::from_secs(12);
/// From one look at the API server's figures to the next.
const LOOK: Duration = Duration::from_secs(1);
/// How long it may take until all is quiet.
const PATIENCE: Duration = Duration::from_secs(900);

/// All of it.
pub(super) struct Site<'a> {
    pub(super) bench: &'a Bench,
    pub(super) shape: Shape,
    // In this order: the agents end before their machines, all before the server.
    pub(super) agents: Vec<Agent>,
    operator: Option<Operator>,
    program: PathBuf,
    world: World,
    pub(super) api: Api,
    pub(super) runtime: Runtime,
    server: ApiServer,
    logs: PathBuf,
}

/// An agent and what its kernel was told.
pub(super) struct Agent {
    pub(super) process: Process,
    pub(super) journal: Journal,
}

impl Drop for Site<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.world.tear_down() {
            self.bench.say(&format!("{error}; the lab's next start tries again"));
        }
        for name in ["etcd.log", "kube-apiserver.log", "operator.log"] {
            // Only for whoever wants to read on.
            let _ = std::fs::copy(self.server.dir().join(name), self.logs.join(name));
        }
    }
}

impl<'a> Site<'a> {
    /// The API server with our kinds, and machines; neither the operator nor an agent runs yet.
    pub(super) fn new(bench: &'a Bench, shape: Shape, operator: &Path) -> Result<Self> {
        bench.check()?;
        bench.say("etcd and kube-apiserver start (they are built first, for minutes, where that has not happened yet)");
        let server = ApiServer::start()?;
        server.install()?;
        server.kubectl_ok(["create", "namespace", shape::NAMESPACE])?;
        let logs = bench.folder.join("logs");
        let dir = WorldDir {
            label: format!("bench {}", bench.name),
            logs: logs.clone(),
            program: bench.program.clone(),
            programs: bench.agent.iter().map(|path| ("bascule-agent".to_owned(), path.clone())).collect(),
            cancel: bench.cancel.clone(),
        };
        let world = World::build(&shape.topology()?, &dir, &|_| {})?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let api = Api::of(&server)?;
        let program = operator.to_owned();
        let site = Self {
            bench,
            shape,
            agents: Vec::new(),
            operator: None,
            program,
            world,
            api,
            runtime,
            server,
            logs,
        };
        for agent in 0..shape.agents {
            site.prepare(&Shape::director(agent))?;
        }
        Ok(site)
    }

    /// What the operator's program says of its version.
    pub(super) fn version(&self) -> Result<String> {
        Ok(last_word(&said(&self.program, "--version")?))
    }

    /// Gives an agent its rights, and its machine a way to the API server.
    fn prepare(&self, director: &str) -> Result<()> {
        let kubeconfig = self.server.install_agent(director)?;
        let text = std::fs::read_to_string(&kubeconfig).context("reading a kubeconfig")?;
        let certificate = self.server.certificate();
        let node = self.world.node(director)?;
        node.write_file(KUBECONFIG, text.replace(&certificate.display().to_string(), CERTIFICATE))?;
        node.write_file(CERTIFICATE, std::fs::read(&certificate).context("reading the certificate")?)?;
        let port = self.server.port();
        let listener = node
            .in_netns(|| TcpListener::bind(("127.0.0.1", port)))?
            .with_context(|| format!("listening on port {port} of {director}"))?;
        std::thread::Builder::new().name("relay".into()).spawn(move || relay(&listener, port))?;
        Ok(())
    }

    /// Makes the groups, their directors and the services.
    pub(super) fn fill(&self) -> Result<()> {
        let shape = self.shape;
        let begun = Instant::now();
        self.runtime.block_on(async {
            let mut connection = self.api.connect().await?;
            for agent in 0..shape.agents {
                let director = json!({
                    "apiVersion": "bascule.dev/v1alpha1", "kind": "Director",
                    "metadata": {"name": Shape::director(agent)}, "spec": {"sysctls": "Manage"},
                });
                connection.create("/apis/bascule.dev/v1alpha1/directors", &director).await?;
            }
            for group in 0..shape.groups() {
                let object = shape.group_object(group);
                connection.create("/apis/bascule.dev/v1alpha1/vrrpgroups", &object).await?;
            }
            let makers = (0..MAKERS).map(|maker| self.make(maker));
            futures::future::try_join_all(makers).await
        })?;
        let took = begun.elapsed().as_secs_f64();
        self.bench.say(&format!("{} services were made in {took:.1} s", shape.services));
        Ok(())
    }

    /// Makes every so many-th service.
    async fn make(&self, maker: u32) -> Result<()> {
        let mut connection = self.api.connect().await?;
        let path = format!("/apis/bascule.dev/v1alpha1/namespaces/{}/virtualservices", shape::NAMESPACE);
        for service in (maker..self.shape.services).step_by(MAKERS as usize) {
            self.bench.check()?;
            connection.create(&path, &self.shape.service_object(service)).await?;
            if service % 2000 == 0 && service > 0 {
                self.bench.say(&format!("{service} of {} services are made", self.shape.services));
            }
        }
        Ok(())
    }

    /// Starts the operator and all agents.
    pub(super) fn start(&mut self) -> Result<()> {
        let kubeconfig = self.server.kubeconfig_of("bascule-operator", "operator.kubeconfig")?;
        let operator = Operator::start_program(&self.program, &self.server, &kubeconfig, "operator", "info")?;
        self.operator = Some(operator);
        for agent in 0..self.shape.agents {
            let director = Shape::director(agent);
            let node = self.world.node(&director)?;
            node.write_file(JOURNAL, b"")?;
            let argv = ["bascule-agent", "--kubeconfig", KUBECONFIG, "--namespace", NAMESPACE];
            let more = ["--director", &director, "--simulated-ipvs", JOURNAL, "--nothing-is-forwarded"];
            let process = node.spawn(&Spawn::new("agent", argv.into_iter().chain(more)))?;
            self.agents.push(Agent { process, journal: Journal::new(node.open_file(JOURNAL)?) });
        }
        Ok(())
    }

    /// An error when one of ours has ended.
    pub(super) fn alive(&self) -> Result<()> {
        for agent in &self.agents {
            if let Some(exit) = agent.process.exit() {
                bail!("an agent ended ({exit}); see {}", self.logs.display());
            }
        }
        self.bench.check()
    }

    /// The operator's process.
    pub(super) fn operator_id(&self) -> Option<u32> {
        self.operator.as_ref().map(Operator::id)
    }

    /// Where to read on.
    pub(super) fn hint(&self) -> String {
        format!("see {}", self.logs.display())
    }

    /// What was written so far.
    pub(super) fn writes(&self, connection: &mut Connection) -> Result<Writes> {
        let asking = connection.ask(hyper::Method::GET, "/metrics", "text/plain", Vec::new());
        let answer = self.runtime.block_on(asking)?;
        Ok(Writes::read(&String::from_utf8_lossy(&answer.body)))
    }

    /// Waits until nothing of ours is written any more; what was written until then.
    pub(super) fn quiet(&self, connection: &mut Connection) -> Result<Writes> {
        let begun = Instant::now();
        let (mut last, mut still) = (self.writes(connection)?, Instant::now());
        while still.elapsed() < QUIET {
            if begun.elapsed() > PATIENCE {
                bail!("objects are still written after {} s; {}", PATIENCE.as_secs(), self.hint());
            }
            self.bench.pause(LOOK)?;
            let now = self.writes(connection)?;
            if now != last {
                (last, still) = (now, Instant::now());
            }
        }
        Ok(last)
    }

    /// One more connection to the API server.
    pub(super) fn connect(&self) -> Result<Connection> {
        self.runtime.block_on(self.api.connect())
    }

    /// Has a director give away its groups, and waits for the command's end.
    pub(super) fn switch_over(&self, director: &str, group: &str) -> Result<()> {
        let output = self.world.node(director)?.exec(&Exec::new(["bascule-agent", "switchover", group]))?;
        output.checked()?;
        Ok(())
    }

    /// Kills an agent, as a crash would.
    pub(super) fn kill(&mut self, agent: u32) -> Result<()> {
        let at = usize::try_from(agent)?;
        anyhow::ensure!(at < self.agents.len(), "there is no agent {agent}");
        let agent = self.agents.remove(at);
        agent.process.signal(Signal::SIGKILL)?;
        Ok(())
    }
}

/// Takes connections of a machine to the API server. Its threads end with the connections, the listening one with the process.
fn relay(listener: &TcpListener, port: u16) {
    for near in listener.incoming().map_while(Result::ok) {
        // Nobody there: the other end finds its connection closed.
        let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else { continue };
        let _ = (near.set_nodelay(true), far.set_nodelay(true));
        for (from, to) in [(near.try_clone(), far.try_clone()), (Ok(far), Ok(near))] {
            let (Ok(mut from), Ok(mut to)) = (from, to) else { continue };
            std::thread::spawn(move || {
                // A connection that breaks is a connection that ends.
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Both);
                let _ = from.shutdown(Shutdown::Both);
            });
        }
    }
}
