//! A world: networks, machines and their files, made of namespaces, and gone without a trace afterwards.
//!
//! A [`Node`] is a network, UTS, mount, PID, IPC and cgroup namespace with a first process of the lab's own. All bridges are in the
//! namespace of a switch. Nothing is made in the machine's own namespaces except a folder below `/run/bascule-lab` and a group in the
//! cgroup2 file system; every process dies with the lab, and [`janitor::sweep`] removes the rest after a lab that was killed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc::Receiver;

mod bond;
mod boot;
mod cgroup;
mod cut;
mod error;
mod files;
mod impair;
mod init;
pub mod inventory;
pub mod janitor;
pub mod journal;
mod links;
mod mounts;
mod netlink;
mod node;
mod pidfd;
mod probe;
mod process;
mod protocol;
mod qdisc;
mod run;
mod setup;
mod spawner;
mod switch;
pub mod terminal;
pub(crate) mod wallclock;
mod watch;

pub(crate) use cut::Cut;
pub use error::{Doing, Error, Result};
pub(crate) use files::MAX_FILE;
pub(crate) use impair::Way;
pub(crate) use links::Interface;
pub use mounts::INSIDE;
pub use node::Node;
pub use probe::ETHERTYPE as PROBE_ETHERTYPE;
pub use process::Process;
pub use protocol::Exit;
pub(crate) use qdisc::{Counters, Netem};
pub use run::{Exec, Output, Spawn};
pub use watch::{Event, Watched, now};

use crate::cancel::Cancel;
use crate::scenario::topology::Topology;
pub(crate) use links::Links;
pub(crate) use node::Cable;
use node::Shared;
pub(crate) use setup::configure;
use setup::{SYSCTLS, await_link_locals, hosts, start_commands, write_files};
pub(crate) use switch::Switch;
use wallclock::WallClock;

/// Runs the hidden subcommand by which nodes are started, if that is what the arguments ask for. The first thing that `main` does,
/// while the process has one thread.
pub fn hidden_main() -> Option<ExitCode> {
    init::main()
}

/// What a world needs from outside.
#[derive(Clone, Debug)]
pub struct WorldDir {
    /// What the run is for people: the scenario's name.
    pub label: String,
    /// A folder of the machine for logs: `LOGS/NODE/PROCESS.log`.
    pub logs: PathBuf,
    /// The lab's own program, with the hidden subcommand.
    pub program: PathBuf,
    /// More programs, which each node gets as `/run/bascule-lab/bin/NAME`, first in its PATH.
    pub programs: BTreeMap<String, PathBuf>,
    /// Ends what is waited for: the start of nodes, commands, lines of processes.
    pub cancel: Cancel,
}

/// Told what is being done.
pub type Progress<'a> = dyn Fn(&str) + Send + Sync + 'a;

/// Networks and machines that run. Torn down when dropped, at the latest. All calls block.
pub struct World {
    shared: Arc<Shared>,
    switch: Switch,
    nodes: BTreeMap<String, Node>,
    sink: watch::Sink,
    events: Mutex<Option<Receiver<Watched>>>,
    down: Mutex<bool>,
    clock: WallClock,
    host_lines: BTreeMap<String, Vec<String>>,
}

impl World {
    /// Builds it: machines started, links up, addresses, routes and kernel parameters set, files written, start commands run, and
    /// frames seen to pass on every cable. What was made is removed again if something fails.
    pub fn build(topology: &Topology, dir: &WorldDir, progress: &Progress<'_>) -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            return Err(Error::wrong("building networks needs root"));
        }
        let mut cables = switch::cables(topology)?;
        std::fs::create_dir_all(&dir.logs).doing(|| format!("making {}", dir.logs.display()))?;
        let registration = janitor::Registration::new(&dir.label)?;
        let shared = Arc::new(Shared { registration, dir: dir.clone() });
        let result = Self::with(topology, &shared, &mut cables, progress);
        if result.is_err() {
            // What failed is what matters; a later sweep tries again.
            let _ = shared.registration.remove();
        }
        result
    }

    fn with(
        topology: &Topology,
        shared: &Arc<Shared>,
        cables: &mut BTreeMap<String, Vec<node::Cable>>,
        progress: &Progress<'_>,
    ) -> Result<Self> {
        let mut nodes = BTreeMap::new();
        for spec in &topology.nodes {
            if let Some(path) = spec
                .files
                .keys()
                .find(|path| !path.starts_with('/') || Path::new(path).parent() == Some(Path::new("/")))
            {
                return Err(Error::wrong(format!(
                    "{}: {path}: not a path below a folder of the root",
                    spec.name
                )));
            }
            let cables = cables.remove(&*spec.name).unwrap_or_default();
            let node = Node::new(shared.clone(), &spec.name, spec.hostname(), Some(spec.clone()), cables);
            if nodes.insert(spec.name.to_string(), node).is_some() {
                return Err(Error::wrong(format!("two nodes are called {}", spec.name)));
            }
        }
        progress("networks");
        let switch_node = Node::new(shared.clone(), switch::NAME, "switch", None, Vec::new());
        let starting = switch_node.start()?;
        switch_node.ready(starting, None)?;
        let switch = match Switch::new(switch_node.clone(), topology) {
            Ok(switch) => switch,
            Err(error) => {
                // The error above is what matters.
                let _ = switch_node.end(now());
                return Err(error);
            }
        };
        let (sink, events) = watch::Sink::new();
        // From here on dropping it removes everything.
        let world = Self {
            shared: shared.clone(),
            switch,
            nodes,
            sink,
            events: Mutex::new(Some(events)),
            down: Mutex::new(false),
            clock: WallClock::default(),
            host_lines: hosts(topology),
        };
        world.boot_all(progress)?;
        Ok(world)
    }

    fn boot_all(&self, progress: &Progress<'_>) -> Result<()> {
        // All at once: each waits mostly for its own start.
        let mut starting = Vec::new();
        for node in self.nodes.values() {
            progress(&format!("starting {}", node.name()));
            starting.push((node, node.start()));
        }
        let mut failure = None;
        for (node, started) in starting {
            // All are waited for, so that what started is known and can be ended.
            if let Err(error) = started.and_then(|started| node.ready(started, Some(self.sink.clone()))) {
                failure.get_or_insert(error);
            }
        }
        if let Some(error) = failure {
            return Err(error);
        }
        for node in self.nodes.values() {
            progress(&format!("links of {}", node.name()));
            self.prepare(node)?;
        }
        for node in self.nodes.values() {
            self.check_cables(node)?;
        }
        for node in self.nodes.values() {
            start_commands(node, progress)?;
        }
        Ok(())
    }

    /// Links, kernel parameters, addresses, routes, files: all that is done before frames are seen to pass.
    fn prepare(&self, node: &Node) -> Result<()> {
        let Some(spec) = &node.0.spec else { return Ok(()) };
        let sysctls = || spec.sysctls.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        node.set_sysctls(SYSCTLS.into_iter(), true)?;
        node.set_interface_defaults(&SYSCTLS)?;
        node.set_sysctls(sysctls(), true)?;
        self.switch.wire(node)?;
        bond::bond(node)?;
        // Again, now that the interfaces are there, and before they are up and have addresses.
        node.set_sysctls(sysctls(), true)?;
        configure(node, None)?;
        node.set_sysctls(sysctls(), false)?;
        if node.boots() == 1 {
            write_files(node, spec, &self.host_lines)?;
        }
        Ok(())
    }

    fn check_cables(&self, node: &Node) -> Result<()> {
        for cable in &node.0.cables {
            // What a fault holds down comes with its heal.
            if self.switch.is_unplugged(cable)
                || self.switch.is_cut(cable.bridge_port())
                || self.switch.is_impaired(cable)
            {
                continue;
            }
            self.switch.wait_until_plugged(node, cable)?;
        }
        await_link_locals(node)
    }

    /// Its identifier among the registered runs.
    pub fn id(&self) -> &str {
        &self.shared.registration.id
    }

    /// A machine by its name.
    pub fn node(&self, name: &str) -> Result<Node> {
        self.nodes.get(name).cloned().ok_or_else(|| {
            let names: Vec<_> = self.nodes.keys().map(String::as_str).collect();
            Error::wrong(format!("there is no node {name}; there are {}", names.join(", ")))
        })
    }

    /// All machines, by name.
    pub fn nodes(&self) -> Vec<Node> {
        self.nodes.values().cloned().collect()
    }

    /// The switch: a node whose interfaces are the bridges (named like their networks where the name fits) and the ports
    /// ([`Node::port`]), and whose files are the machine's. Captures that have to outlive a node's crash run here.
    pub fn switch(&self) -> Node {
        self.switch.node.clone()
    }

    pub(crate) fn cabling(&self) -> &Switch {
        &self.switch
    }

    /// Moves the wall clock of the machine, which has to be the lab's own. By how much it was seen to move, in nanoseconds.
    pub(crate) fn step_clock(&self, by: i128) -> Result<i128> {
        self.clock.step(&self.shared.registration.folder, by)
    }

    /// Moves it back; how far it then is from where it was, in nanoseconds. `None` if it is not moved.
    pub(crate) fn clock_back(&self) -> Result<Option<i128>> {
        self.clock.back(&self.shared.registration.folder)
    }

    /// What happens to addresses and links of all nodes, also over reboots. Can be taken once.
    pub fn watch(&self) -> Option<Receiver<Watched>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Ends a node as a loss of power does: everything in it gone at once, its ports with it. Its frames should be cut before.
    pub(crate) fn power_off(&self, node: &Node, at: u64) -> Result<()> {
        node.end(at)?;
        self.switch.unwire(node)
    }

    /// Starts a node that is off, with its disk, links, addresses, routes and start commands as at the beginning. `connect` is called
    /// when its network is set up.
    pub(crate) fn power_on(&self, node: &Node, connect: impl FnOnce() -> Result<()>) -> Result<()> {
        let starting = node.start()?;
        node.ready(starting, Some(self.sink.clone()))?;
        let result = self
            .prepare(node)
            .and_then(|()| connect())
            .and_then(|()| self.check_cables(node))
            .and_then(|()| start_commands(node, &|_| {}));
        if result.is_err() {
            // A node that is half up would pretend.
            let _ = self.power_off(node, now());
        }
        result
    }

    /// Removes everything that was made. Can be called again.
    pub fn tear_down(&self) -> Result<()> {
        let mut down = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        if *down {
            return Ok(());
        }
        let at = now();
        let mut failure = self.clock_back().err();
        for node in self.nodes.values().chain([&self.switch.node]) {
            if let Err(error) = node.end(at) {
                failure.get_or_insert(error);
            }
        }
        if let Err(error) = self.shared.registration.remove() {
            failure.get_or_insert(error);
        }
        match failure {
            None => {
                *down = true;
                Ok(())
            }
            Some(error) => Err(error),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Err(error) = self.tear_down() {
            tracing::warn!("{error}; the next start of the lab tries again");
        }
    }
}
