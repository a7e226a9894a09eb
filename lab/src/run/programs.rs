//! What runs in the nodes: servers, agents, peers; what starts them and what has to run again after a boot.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::error::{Error, Result};
use super::peers;
use crate::fault::AGENT;
use crate::programs::behaviour;
use crate::scenario::step::{Mode, ServerMode};
use crate::scenario::topology::{Ipvsadm, Node as Spec, Peer, Server, Topology};
use crate::world::{Exec, Node, Process, Spawn, World};

/// Where an agent finds its manifests.
pub(super) const MANIFESTS: &str = "/etc/bascule";
/// Where the second copy of an agent's program is: what a package's upgrade leaves.
const UPGRADED: &str = "/var/lib/bascule-upgrade/bascule-agent";
/// How long a program may take to start; under emulation that is long.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// The programs of all nodes.
pub(super) struct Programs<'a> {
    topology: &'a Topology,
    world: &'a World,
    /// What has to run, by node; the programs that a fault or a step ended are not in it.
    wanted: BTreeMap<String, BTreeSet<String>>,
    /// Agents that run from the upgraded file.
    upgraded: BTreeSet<String>,
}

impl<'a> Programs<'a> {
    pub(super) fn new(topology: &'a Topology, world: &'a World) -> Self {
        Self { topology, world, wanted: BTreeMap::new(), upgraded: BTreeSet::new() }
    }

    /// Starts everything that runs from the start: the servers of all nodes, then peers and agents.
    pub(super) fn start_all(&mut self) -> Result<()> {
        for spec in &self.topology.nodes {
            self.start_servers(spec)?;
        }
        for spec in &self.topology.nodes {
            self.start_managers(spec)?;
        }
        Ok(())
    }

    /// Starts everything of a node that has just booted.
    pub(super) fn start_node(&mut self, name: &str) -> Result<()> {
        let spec = self.spec(name)?;
        self.start_servers(spec)?;
        self.start_managers(spec)
    }

    fn start_servers(&mut self, spec: &Spec) -> Result<()> {
        for server in &spec.servers {
            self.start_server(spec, server)?;
        }
        Ok(())
    }

    fn start_managers(&mut self, spec: &Spec) -> Result<()> {
        if let Some(peer) = spec.peer.as_ref().filter(|peer| peer.start()) {
            self.start_peer(spec, peer)?;
        }
        if spec.agent.as_ref().is_some_and(|agent| agent.start) {
            self.start_agent(&spec.name)?;
        }
        Ok(())
    }

    fn spec(&self, name: &str) -> Result<&'a Spec> {
        self.topology.node(name).ok_or_else(|| Error::harness(format!("there is no node {name}")))
    }

    fn spawn(&mut self, node: &str, spawn: &Spawn, name: &str) -> Result<Process> {
        let process = self.world.node(node)?.spawn(spawn)?;
        self.wanted.entry(node.into()).or_default().insert(name.into());
        Ok(process)
    }

    fn start_server(&mut self, spec: &Spec, server: &Server) -> Result<()> {
        let says = server.says.as_ref().unwrap_or(&spec.name);
        let mut argv: Vec<String> =
            ["bascule-lab", "serve", "--name", says, "--control", &control(&server.name)]
                .map(Into::into)
                .into();
        for (option, listeners) in [
            ("--http", &server.http),
            ("--https", &server.https),
            ("--tcp", &server.tcp),
            ("--udp", &server.udp),
            ("--smtp", &server.smtp),
            ("--dns", &server.dns),
        ] {
            for listen in listeners {
                argv.extend([option.to_owned(), listen.to_string()]);
            }
        }
        for (option, value) in [("--certificate", &server.certificate), ("--host", &server.host)] {
            if let Some(value) = value {
                argv.extend([option.to_owned(), value.clone()]);
            }
        }
        let process = self.spawn(&spec.name, &Spawn::new(&server.name, argv), &server.name)?;
        process.wait_for_line("ready", PATIENCE)?;
        Ok(())
    }

    fn start_peer(&mut self, spec: &Spec, peer: &Peer) -> Result<()> {
        match peers::command(peer) {
            Some(argv) => self.spawn(&spec.name, &Spawn::new(peer.name(), argv), peer.name()).map(drop),
            // Nothing stays: it is done when the lines have been run.
            None => {
                let lines = Exec::new(["/bin/sh", "-e", Ipvsadm::FILE]).timeout(PATIENCE);
                self.world.node(&spec.name)?.exec(&lines)?.checked()?;
                Ok(())
            }
        }
    }

    /// What decides on a node: its agent, or the peer program in its place.
    pub(super) fn manager(&self, node: &str) -> &'static str {
        let spec = self.topology.node(node).filter(|spec| spec.agent.is_none());
        spec.and_then(|spec| spec.peer.as_ref()).map_or(AGENT, Peer::name)
    }

    /// Starts the agent of a node, or the peer program in its place.
    pub(super) fn start_manager(&mut self, node: &str) -> Result<()> {
        let spec = self.spec(node)?;
        match &spec.peer {
            Some(peer) if spec.agent.is_none() => self.start_peer(spec, peer),
            _ => self.start_agent(node),
        }
    }

    /// Starts a server or the peer program that was stopped.
    pub(super) fn start_service(&mut self, node: &str, service: &str) -> Result<()> {
        let spec = self.spec(node)?;
        if let Some(server) = spec.servers.iter().find(|server| &*server.name == service) {
            return self.start_server(spec, server);
        }
        match &spec.peer {
            Some(peer) => self.start_peer(spec, peer),
            None => Err(Error::harness(format!("{node} has no service {service}"))),
        }
    }

    /// Starts the agent of a node.
    pub(super) fn start_agent(&mut self, node: &str) -> Result<()> {
        self.spawn_agent(node, &[])
    }

    /// Starts the agent of a node as the successor of the one that runs.
    pub(super) fn take_over_agent(&mut self, node: &str) -> Result<()> {
        self.spawn_agent(node, &["--take-over"])
    }

    fn spawn_agent(&mut self, node: &str, more: &[&str]) -> Result<()> {
        let spec = self.spec(node)?;
        let agent = spec.agent.as_ref().ok_or_else(|| Error::harness(format!("{node} has no agent")))?;
        let program = if self.upgraded.contains(node) { UPGRADED } else { "bascule-agent" };
        let mut argv: Vec<String> =
            [program, "--manifests", MANIFESTS, "--director", &director(spec)].map(Into::into).into();
        argv.extend(agent.arguments.iter().cloned());
        argv.extend(more.iter().map(|argument| (*argument).to_owned()));
        self.spawn(node, &Spawn::new(AGENT, argv), AGENT)?;
        Ok(())
    }

    /// Puts a second copy of the agent's program on the node's disk, which the next start runs.
    pub(super) fn upgrade_agent(&mut self, node: &str) -> Result<()> {
        let copy = format!(
            "mkdir -p {folder} && nice -n 19 cp \"$(command -v bascule-agent)\" {UPGRADED}.new && chmod 755 {UPGRADED}.new && mv {UPGRADED}.new {UPGRADED}",
            folder = Path::new(UPGRADED).parent().unwrap_or(Path::new("/")).display()
        );
        self.world.node(node)?.exec(&Exec::shell(&copy).timeout(PATIENCE))?.checked()?;
        self.upgraded.insert(node.to_owned());
        Ok(())
    }

    /// What follows has ended because somebody wanted it to.
    pub(super) fn not_wanted(&mut self, node: &str, program: &str) {
        if let Some(programs) = self.wanted.get_mut(node) {
            programs.remove(program);
        }
    }

    /// Nothing of the node runs any more, and that was wanted.
    pub(super) fn off(&mut self, node: &str) {
        self.wanted.remove(node);
    }

    /// Programs that should run and have ended by themselves: node, program, how.
    pub(super) fn ended(&self) -> Vec<(String, String, String)> {
        let mut ended = Vec::new();
        for (node, programs) in &self.wanted {
            let Ok(node) = self.world.node(node) else { continue };
            for program in programs {
                if let Some(exit) = node.process(program).and_then(|process| process.exit()) {
                    ended.push((node.name().to_owned(), program.clone(), exit.to_string()));
                }
            }
        }
        ended
    }

    /// Ends the agents and peers in order, so that their last words are in the logs.
    pub(super) fn stop_managers(&self) {
        let mut processes = Vec::new();
        for (node, programs) in &self.wanted {
            let Ok(node) = self.world.node(node) else { continue };
            if node.is_frozen() {
                continue;
            }
            for program in programs.iter().filter(|program| is_manager(program)) {
                processes.extend(node.process(program));
            }
        }
        for process in &processes {
            // One that has ended needs no signal.
            let _ = process.signal(nix::sys::signal::Signal::SIGTERM);
        }
        for process in &processes {
            let _ = process.stop(Duration::from_secs(20));
        }
    }

    /// The status of an error where none is told: that of a web server; a mail server has its own.
    fn web_status(&self, mode: &ServerMode) -> Option<u16> {
        let node = self.topology.node(&mode.node)?;
        let server = node.servers.iter().find(|server| server.name == mode.server)?;
        server.smtp.is_empty().then_some(503)
    }

    /// Tells a server how to behave.
    pub(super) fn tell(&self, mode: &ServerMode) -> Result<()> {
        let behaviour = behaviour::Behaviour {
            mode: match mode.mode {
                Mode::Ok => behaviour::Mode::Ok,
                Mode::Error => behaviour::Mode::Error,
                Mode::Slow => behaviour::Mode::Slow,
                Mode::Hang => behaviour::Mode::Hang,
                Mode::Refuse => behaviour::Mode::Refuse,
            },
            delay_ms: match (mode.mode, mode.delay) {
                (Mode::Slow, delay) => Some(
                    delay.map_or(1000, |delay| u64::try_from(delay.get().as_millis()).unwrap_or(u64::MAX)),
                ),
                _ => None,
            },
            status: if mode.mode == Mode::Error {
                mode.status.or_else(|| self.web_status(mode))
            } else {
                None
            },
            body: mode.body.clone(),
            certificate: mode.certificate.as_ref().map(PathBuf::from),
        };
        let node = self.world.node(&mode.node)?;
        let answer = ask(&node, &mode.server, &json!({ "set": behaviour }))?;
        if answer.get("ok") == Some(&Value::Bool(true)) {
            Ok(())
        } else {
            Err(Error::harness(format!("{} of {} does not obey: {answer}", mode.server, mode.node)))
        }
    }
}

/// Whether a program is what is tested, an agent or a peer, and not the lab's own.
pub(super) fn is_manager(program: &str) -> bool {
    program == AGENT || Peer::NAMES.contains(&program)
}

/// The Director that a node's agent is.
pub(super) fn director(spec: &Spec) -> String {
    let given = spec.agent.as_ref().and_then(|agent| agent.director.as_ref());
    given.map_or_else(|| spec.name.to_lowercase(), ToString::to_string)
}

/// The control socket of a server, inside its node.
fn control(server: &str) -> String {
    format!("/run/bascule-lab/serve-{server}.sock")
}

/// One order to a server and its answer.
fn ask(node: &Node, server: &str, order: &Value) -> Result<Value> {
    let failed = |error: &dyn std::fmt::Display| {
        Error::harness(format!("telling {server} of {}: {error}", node.name()))
    };
    let path: PathBuf = node.host_path(Path::new(&control(server)))?;
    let mut stream = UnixStream::connect(&path).map_err(|error| failed(&error))?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(|error| failed(&error))?;
    stream.write_all(format!("{order}\n").as_bytes()).map_err(|error| failed(&error))?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).map_err(|error| failed(&error))?;
    serde_json::from_str(&line).map_err(|error| failed(&error))
}
