//! A world: networks, machines and their files, made of namespaces, and gone without a trace afterwards.
//!
//! A [`Node`] is a network, UTS, mount, PID, IPC and cgroup namespace with a first process of the lab's own. All bridges are in the
//! namespace of a switch. Nothing is made in the machine's own namespaces except a folder below `/run/bascule-lab` and a group in the
//! cgroup2 file system; every process dies with the lab, and [`janitor::sweep`] removes the rest after a lab that was killed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc::Receiver;

mod cgroup;
mod cut;
mod error;
mod files;
mod init;
pub mod inventory;
pub mod janitor;
mod links;
mod mounts;
mod netlink;
mod node;
mod probe;
mod process;
mod protocol;
mod run;
mod spawner;
mod switch;
pub mod terminal;
mod watch;

pub(crate) use cut::Cut;
pub use error::{Doing, Error, Result};
pub(crate) use links::Interface;
pub use mounts::INSIDE;
pub use node::Node;
pub use probe::ETHERTYPE as PROBE_ETHERTYPE;
pub use process::Process;
pub use protocol::Exit;
pub use run::{Exec, Output, Spawn};
pub use watch::{Event, Watched, now};

use crate::scenario::topology::{self, Peer, Topology};
pub(crate) use links::Links;
pub(crate) use node::Cable;
use node::Shared;
pub(crate) use switch::Switch;

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
    host_lines: BTreeMap<String, Vec<String>>,
}

/// What every network namespace starts with: the kernel's own defaults. (New namespaces copy IPv4's from the machine.) No duplicate
/// address detection, no router is looked for.
const SYSCTLS: [(&str, &str); 26] = [
    ("net.ipv4.ip_forward", "0"),
    ("net.ipv4.conf.all.accept_redirects", "1"),
    ("net.ipv4.conf.default.accept_redirects", "1"),
    ("net.ipv4.conf.all.send_redirects", "1"),
    ("net.ipv4.conf.default.send_redirects", "1"),
    ("net.ipv4.conf.all.secure_redirects", "1"),
    ("net.ipv4.conf.default.secure_redirects", "1"),
    ("net.ipv4.conf.all.accept_source_route", "0"),
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.default.rp_filter", "0"),
    ("net.ipv4.conf.all.arp_ignore", "0"),
    ("net.ipv4.conf.default.arp_ignore", "0"),
    ("net.ipv4.conf.all.arp_announce", "0"),
    ("net.ipv4.conf.default.arp_announce", "0"),
    ("net.ipv4.conf.all.arp_filter", "0"),
    ("net.ipv4.conf.default.arp_filter", "0"),
    ("net.ipv4.conf.all.promote_secondaries", "0"),
    ("net.ipv4.conf.default.promote_secondaries", "0"),
    ("net.ipv4.conf.all.accept_local", "0"),
    ("net.ipv4.conf.default.accept_local", "0"),
    ("net.ipv4.conf.all.route_localnet", "0"),
    ("net.ipv4.conf.default.route_localnet", "0"),
    ("net.ipv6.conf.all.accept_dad", "0"),
    ("net.ipv6.conf.default.accept_dad", "0"),
    ("net.ipv6.conf.default.accept_ra", "0"),
    ("net.ipv6.conf.default.router_solicitations", "0"),
];

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
            self.start_commands(node, progress)?;
        }
        Ok(())
    }

    /// Links, kernel parameters, addresses, routes, files.
    fn prepare(&self, node: &Node) -> Result<()> {
        let Some(spec) = &node.0.spec else { return Ok(()) };
        let sysctls = || spec.sysctls.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        node.set_sysctls(SYSCTLS.into_iter(), true)?;
        node.set_sysctls(sysctls(), true)?;
        self.switch.wire(node)?;
        self.configure(node, None)?;
        node.set_sysctls(sysctls(), false)?;
        if node.boots() == 1 {
            self.write_files(node, spec)?;
        }
        Ok(())
    }

    /// Takes the links up (or only one of them), with their addresses and the node's routes; what is there already stays.
    pub(crate) fn configure(&self, node: &Node, only: Option<&str>) -> Result<()> {
        let Some(spec) = &node.0.spec else { return Ok(()) };
        let network = node.network()?;
        let mut links = Links::open(network.as_fd())?;
        links.set_up("lo", true)?;
        // Somebody who sets accept_dad wants it.
        let detect =
            spec.sysctls.iter().any(|(key, value)| key.ends_with("accept_dad") && value.trim() != "0");
        let on_node = |error: Error| Error::wrong(format!("{}: {error}", node.name()));
        for link in spec.links.iter().filter(|link| only.is_none_or(|only| only == &*link.interface)) {
            links.set_up(&link.interface, true).map_err(on_node)?;
            for address in &link.addresses {
                links.add_address(&link.interface, address, detect).map_err(on_node)?;
            }
        }
        // While another link is down by a fault, routes over it are refused; they come with that link.
        let all_up = links
            .interfaces()?
            .iter()
            .filter(|interface| spec.links.iter().any(|link| *link.interface == interface.name))
            .all(|interface| interface.up);
        for route in &spec.routes {
            match links.add_route(route) {
                Err(error) if all_up => return Err(on_node(error)),
                _ => {}
            }
        }
        Ok(())
    }

    fn check_cables(&self, node: &Node) -> Result<()> {
        for cable in node.0.cables.iter() {
            // What a fault holds down comes with its heal.
            if self.switch.is_unplugged(cable) || self.switch.is_cut(&cable.port) {
                continue;
            }
            self.switch.wait_until_plugged(node, cable)?;
        }
        Ok(())
    }

    fn write_files(&self, node: &Node, spec: &topology::Node) -> Result<()> {
        node.write_file("/etc/hostname", format!("{}\n", node.hostname()))?;
        let mut lines = vec!["127.0.0.1\tlocalhost".to_owned(), "::1\tlocalhost ip6-localhost".to_owned()];
        lines.extend(spec.hosts.iter().map(|(address, names)| format!("{address}\t{}", names.join(" "))));
        let told: Vec<&str> = spec.hosts.values().flatten().map(String::as_str).collect();
        for (name, addresses) in &self.host_lines {
            // What the scenario says of a name goes.
            if !told.contains(&name.as_str()) {
                lines.extend(addresses.iter().cloned());
            }
        }
        node.write_file("/etc/hosts", lines.join("\n") + "\n")?;
        if let Some(agent) = &spec.agent {
            for (name, text) in &agent.manifests {
                node.write_file(Path::new("/etc/bascule").join(name), text)?;
            }
            // It watches the folder, which has to be there also without manifests.
            node.exec(&Exec::new(["mkdir", "-p", "/etc/bascule"]))?.checked()?;
        }
        if let Some(Peer::Keepalived(keepalived)) = &spec.peer {
            node.write_file("/etc/keepalived/keepalived.conf", &keepalived.config)?;
        }
        for (path, text) in &spec.files {
            // A script is made to be run.
            let mode = if text.starts_with("#!") { 0o755 } else { 0o644 };
            node.write_file_mode(path, text, mode)?;
        }
        Ok(())
    }

    fn start_commands(&self, node: &Node, progress: &Progress<'_>) -> Result<()> {
        let Some(spec) = &node.0.spec else { return Ok(()) };
        for line in &spec.exec {
            progress(&format!("{}: {line}", node.name()));
            node.exec(&Exec::shell(line))
                .and_then(Output::checked)
                .map_err(|error| Error::wrong(format!("{}: {error}", node.name())))?;
        }
        Ok(())
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
            .and_then(|()| self.start_commands(node, &|_| {}));
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
        let mut failure = None;
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

/// Lines of `/etc/hosts` by node: its addresses, the node's own name and its host name.
fn hosts(topology: &Topology) -> BTreeMap<String, Vec<String>> {
    topology
        .nodes
        .iter()
        .map(|node| {
            let names = if node.hostname() == &*node.name {
                node.name.to_string()
            } else {
                format!("{} {}", node.hostname(), node.name)
            };
            // One of each family: a name that stands for several networks would be a guess.
            let addresses: Vec<IpAddr> = node
                .links
                .iter()
                .flat_map(|link| &link.addresses)
                .map(|address| address.prefix().address)
                .collect();
            let first = [IpAddr::is_ipv4, IpAddr::is_ipv6]
                .into_iter()
                .filter_map(|family| addresses.iter().find(|address| family(address)));
            (node.name.to_string(), first.map(|address| format!("{address}\t{names}")).collect())
        })
        .collect()
}
