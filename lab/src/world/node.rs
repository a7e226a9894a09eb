//! One machine of a world: its processes and files, as the lab reaches them.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::bond::Bonded;
use super::error::{Doing, Error, Result};
use super::files::Root;
use super::janitor::Registration;
use super::netlink::in_netns;
use super::process::Process;
use super::run::{Exec, Output, Spawn};
use super::watch::Watch;
use super::{WorldDir, inventory, mounts, protocol};
use crate::scenario::topology;

/// How long the first process of a node may take to start another.
pub(crate) const ANSWER: Duration = Duration::from_secs(30);

/// What all nodes of a world share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) registration: Registration,
    pub(crate) dir: WorldDir,
}

/// One end of a cable in a node, and the port of the switch at its other end.
#[derive(Clone, Debug)]
pub(crate) struct Cable {
    pub(crate) interface: String,
    pub(crate) network: String,
    pub(crate) port: String,
    pub(crate) mac: [u8; 6],
    pub(crate) port_mac: [u8; 6],
    pub(crate) mtu: u32,
    /// The bond that it belongs to.
    pub(crate) bonded: Option<Bonded>,
}

impl Cable {
    /// The port of the bridge: what frames are cut by.
    pub(crate) fn bridge_port(&self) -> &str {
        let aggregate = self.bonded.as_ref().and_then(|bonded| bonded.aggregate.as_deref());
        aggregate.unwrap_or(&self.port)
    }

    /// The interface by which the node speaks over it, and its hardware address.
    pub(crate) fn speaker(&self) -> (&str, &[u8; 6]) {
        self.bonded.as_ref().map_or((&self.interface, &self.mac), |bonded| (&bonded.interface, &bonded.mac))
    }
}

/// A machine. Cheap to clone; all calls block.
#[derive(Clone)]
pub struct Node(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) name: String,
    pub(crate) hostname: String,
    /// None: the switch, which has only a network and processes of its own.
    pub(crate) spec: Option<topology::Node>,
    pub(crate) cables: Vec<Cable>,
    pub(super) shared: Arc<Shared>,
    pub(super) mounts: Option<mounts::Config>,
    state: Mutex<State>,
    pub(crate) processes: Mutex<BTreeMap<String, Process>>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) booted: Option<Booted>,
    pub(super) frozen: bool,
    pub(super) boots: u32,
}

pub(super) struct Booted {
    pub(super) outer: Child,
    pub(super) pid: i32,
    /// Process 1 of the node: what is ended, whoever has its number by then.
    pub(super) first: OwnedFd,
    pub(super) network: Arc<OwnedFd>,
    /// The inode of its PID namespace.
    pub(super) processes: u64,
    pub(super) watch: Option<Watch>,
}

impl Node {
    pub(crate) fn new(
        shared: Arc<Shared>,
        name: &str,
        hostname: &str,
        spec: Option<topology::Node>,
        cables: Vec<Cable>,
    ) -> Self {
        let mounts = spec.as_ref().map(|spec| {
            let mut programs: Vec<_> = vec![("bascule-lab".to_owned(), shared.dir.program.clone())];
            programs.extend(shared.dir.programs.iter().map(|(name, path)| (name.clone(), path.clone())));
            mounts::Config {
                disk: shared.registration.node(name).join("disk"),
                programs,
                writable: writable(spec.files.keys().map(Path::new)),
            }
        });
        Self(Arc::new(Inner {
            name: name.to_owned(),
            hostname: hostname.to_owned(),
            spec,
            cables,
            shared,
            mounts,
            state: Mutex::default(),
            processes: Mutex::default(),
        }))
    }

    /// Its name in the scenario.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The peer program that it runs in place of an agent.
    pub(crate) fn peer(&self) -> Option<&'static str> {
        let spec = self.0.spec.as_ref().filter(|spec| spec.agent.is_none())?;
        spec.peer.as_ref().map(topology::Peer::name)
    }

    /// What `uname -n` prints in it.
    pub fn hostname(&self) -> &str {
        &self.0.hostname
    }

    /// The number of its first process as the lab sees it; `None` while it is off.
    pub fn pid(&self) -> Option<i32> {
        self.state().booted.as_ref().map(|booted| booted.pid)
    }

    /// Whether it is on.
    pub fn is_up(&self) -> bool {
        self.pid().is_some()
    }

    /// Whether all its processes are stopped.
    pub fn is_frozen(&self) -> bool {
        self.state().frozen
    }

    /// How often it has been started.
    pub fn boots(&self) -> u32 {
        self.state().boots
    }

    /// The names of its interfaces that are plugged into networks.
    pub fn interfaces(&self) -> Vec<String> {
        self.0.cables.iter().map(|cable| cable.interface.clone()).collect()
    }

    /// The hardware address of an interface.
    pub fn mac(&self, interface: &str) -> Option<[u8; 6]> {
        self.cable(interface).ok().map(|cable| cable.mac)
    }

    /// The port of the switch into which an interface is plugged: an interface of [`super::World::switch`].
    pub fn port(&self, interface: &str) -> Option<String> {
        self.cable(interface).ok().map(|cable| cable.port.clone())
    }

    pub(crate) fn cable(&self, interface: &str) -> Result<&Cable> {
        self.0.cables.iter().find(|cable| cable.interface == interface).ok_or_else(|| {
            Error::wrong(format!(
                "{} has no interface {interface}; it has {}",
                self.name(),
                self.interfaces().join(", ")
            ))
        })
    }

    pub(crate) fn cables(&self) -> &[Cable] {
        &self.0.cables
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn folder(&self) -> PathBuf {
        self.0.shared.registration.node(self.name())
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder().join("init")
    }

    /// The folder of its logs, on the machine.
    pub fn logs(&self) -> PathBuf {
        self.0.shared.dir.logs.join(self.name())
    }

    pub(super) fn off(&self) -> Error {
        Error::wrong(format!("{} is off", self.name()))
    }

    /// All its processes, as the lab sees them.
    pub fn processes(&self) -> Vec<inventory::Listed> {
        let namespace = self.state().booted.as_ref().map(|booted| booted.processes);
        namespace.map(inventory::processes_in).unwrap_or_default()
    }

    /// The inode of its network namespace: the number in `net:[4026532000]`.
    pub fn network_namespace(&self) -> Result<u64> {
        let pid = self.pid().ok_or_else(|| self.off())?;
        Ok(std::fs::metadata(format!("/proc/{pid}/ns/net"))
            .doing(|| format!("looking at the network of {}", self.name()))?
            .ino())
    }

    pub(crate) fn network(&self) -> Result<Arc<OwnedFd>> {
        self.state().booted.as_ref().map(|booted| booted.network.clone()).ok_or_else(|| self.off())
    }

    /// Calls `f` on a thread of its own inside the node's network. Files are the machine's.
    pub fn in_netns<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        let network = self.network()?;
        in_netns(network.as_fd(), f).doing(|| format!("entering the network of {}", self.name()))
    }

    /// That it can do something now.
    pub(crate) fn awake(&self) -> Result<()> {
        let state = self.state();
        if state.booted.is_none() {
            return Err(self.off());
        }
        if state.frozen {
            return Err(Error::wrong(format!("{} is frozen", self.name())));
        }
        Ok(())
    }

    /// Runs a command and waits for its end.
    pub fn exec(&self, exec: &Exec) -> Result<Output> {
        self.awake()?;
        exec.run(self.name(), &self.socket(), &self.0.shared.dir.cancel)
    }

    /// Starts a process that goes on; its output is appended to `NAME.log` among the node's logs. The name must not be that of a process
    /// that still runs.
    pub fn spawn(&self, spawn: &Spawn) -> Result<Process> {
        self.awake()?;
        let mut registry = self.registry();
        if registry.get(&spawn.name).is_some_and(Process::alive) {
            return Err(Error::wrong(format!("{} runs on {} already", spawn.name, self.name())));
        }
        let process = spawn.start(self.name(), &self.socket(), &self.logs(), &self.0.shared.dir.cancel)?;
        registry.insert(spawn.name.clone(), process.clone());
        Ok(process)
    }

    /// Gives the name of a process free for another one, which may run beside it.
    pub fn set_aside(&self, name: &str) -> Result<()> {
        self.awake()?;
        match self.registry().remove(name) {
            Some(_) => Ok(()),
            None => Err(Error::wrong(format!("nothing called {name} was started on {}", self.name()))),
        }
    }

    pub(super) fn registry(&self) -> MutexGuard<'_, BTreeMap<String, Process>> {
        self.0.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process that was spawned last under that name, running or ended; none after a boot.
    pub fn process(&self, name: &str) -> Option<Process> {
        self.registry().get(name).cloned()
    }

    /// The running process of that name, or an error that says which there are.
    pub(crate) fn running(&self, name: &str) -> Result<Process> {
        self.awake()?;
        let registry = self.registry();
        let Some(process) = registry.get(name) else {
            let names: Vec<_> = registry.keys().map(String::as_str).collect();
            return Err(Error::wrong(format!(
                "nothing called {name} was started on {}; there is: {}",
                self.name(),
                if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
            )));
        };
        match process.exit() {
            None => Ok(process.clone()),
            Some(exit) => Err(Error::wrong(format!("{name} on {} has ended already ({exit})", self.name()))),
        }
    }

    /// Where a path of the node is on the machine, for programs of the machine. Symbolic links in it lead into the machine's own files:
    /// prefer [`Node::read_file`] and [`Node::write_file`].
    pub fn host_path(&self, path: &Path) -> Result<PathBuf> {
        let relative = path.strip_prefix("/").map_err(|_| not_absolute(path))?;
        Ok(self.root_path()?.join(relative))
    }

    fn root_path(&self) -> Result<PathBuf> {
        Ok(PathBuf::from(format!("/proc/{}/root", self.pid().ok_or_else(|| self.off())?)))
    }

    /// The root of its files, and the path in there: of the running node, or of its disk while it is off.
    fn root(&self, path: &Path) -> Result<(Root, PathBuf)> {
        if !path.is_absolute() {
            return Err(not_absolute(path));
        }
        let (root, inside) = if self.is_up() {
            (self.root_path()?, path.to_owned())
        } else {
            let mounts = self.0.mounts.as_ref().ok_or_else(|| self.off())?;
            let target = mounts::on_disk(mounts, path).ok_or_else(|| {
                Error::wrong(format!("{} is off, and {} is not on its disk", self.name(), path.display()))
            })?;
            let inside = target
                .strip_prefix(&mounts.disk)
                .map(|rest| Path::new("/").join(rest))
                .map_err(|_| not_absolute(path))?;
            (mounts.disk.clone(), inside)
        };
        let root = Root::open(&root).doing(|| format!("opening the files of {}", self.name()))?;
        Ok((root, inside))
    }

    /// Reads a file of the node; of its disk while it is off.
    pub fn read_file(&self, path: impl AsRef<Path>) -> Result<Vec<u8>> {
        let path = path.as_ref();
        let (root, inside) = self.root(path)?;
        root.read(&inside).doing(|| format!("reading {} on {}", path.display(), self.name()))
    }

    /// Opens a file of the node to read from it, however large it is; of its disk while it is off.
    pub(crate) fn open_file(&self, path: impl AsRef<Path>) -> Result<std::fs::File> {
        let path = path.as_ref();
        let (root, inside) = self.root(path)?;
        root.open_file(&inside).doing(|| format!("opening {} on {}", path.display(), self.name()))
    }

    /// Writes a file of the node, whole, by renaming, mode 0644; folders on the way are made. On its disk while it is off.
    pub fn write_file(&self, path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.write_file_mode(path, bytes, 0o644)
    }

    /// As [`Node::write_file`], with a mode.
    pub fn write_file_mode(&self, path: impl AsRef<Path>, bytes: impl AsRef<[u8]>, mode: u32) -> Result<()> {
        let path = path.as_ref();
        let (root, inside) = self.root(path)?;
        root.write(&inside, bytes.as_ref(), mode)
            .doing(|| format!("writing {} on {}", path.display(), self.name()))
    }

    /// Removes a file of the node.
    pub fn remove_file(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let (root, inside) = self.root(path)?;
        root.remove(&inside).doing(|| format!("removing {} on {}", path.display(), self.name()))
    }

    /// Sets what `net.ipv4.conf.default` and `net.ipv6.conf.default` get for the interfaces that are there already as well: `lo`, and the
    /// fallback devices of tunnels, which have taken over the machine's own defaults with the namespace.
    pub(crate) fn set_interface_defaults(&self, sysctls: &[(&str, &str)]) -> Result<()> {
        let base = self.root_path()?.join("proc/sys/net");
        self.in_netns(move || {
            for family in ["ipv4", "ipv6"] {
                let prefix = format!("net.{family}.conf.default.");
                let folder = base.join(family).join("conf");
                // Without IPv6 there is none.
                for interface in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                    if ["all", "default"].iter().any(|name| interface.file_name() == *name) {
                        continue;
                    }
                    for (key, value) in sysctls {
                        let Some(name) = key.strip_prefix(&prefix) else { continue };
                        match std::fs::write(interface.path().join(name), value) {
                            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                            other => other.doing(|| {
                                format!(
                                    "setting {key}={value} for {} on {}",
                                    interface.path().display(),
                                    self.name()
                                )
                            })?,
                        }
                    }
                }
            }
            Ok(())
        })?
    }

    /// Whether an interface is to get an IPv6 link-local address by itself.
    pub(crate) fn makes_link_locals(&self, interface: &str) -> Result<bool> {
        let folder = self.root_path()?.join("proc/sys/net/ipv6/conf").join(interface);
        // What cannot be read is not there: no IPv6 on that interface.
        self.in_netns(move || {
            let is = |name: &str, value: &str| {
                std::fs::read_to_string(folder.join(name)).is_ok_and(|text| text.trim() == value)
            };
            // `IN6_ADDR_GEN_MODE_NONE` of linux/if_link.h is 1.
            is("disable_ipv6", "0") && !is("addr_gen_mode", "1")
        })
    }

    /// Sets kernel parameters of its network. Those of interfaces that are not there are skipped if `partly`.
    pub(crate) fn set_sysctls<'a>(
        &self,
        sysctls: impl Iterator<Item = (&'a str, &'a str)> + Send,
        partly: bool,
    ) -> Result<()> {
        // The node's own /proc: the machine's may be read-only. Which network it shows depends on the thread.
        let base = self.root_path()?.join("proc/sys");
        self.in_netns(move || {
            for (key, value) in sysctls {
                let path = base.join(sysctl_path(key)?);
                match std::fs::write(&path, value) {
                    Err(error) if partly && error.kind() == std::io::ErrorKind::NotFound => {}
                    other => other.doing(|| format!("setting {key}={value} on {}", self.name()))?,
                }
            }
            Ok(())
        })?
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("name", &self.0.name).field("pid", &self.pid()).finish_non_exhaustive()
    }
}

fn not_absolute(path: &Path) -> Error {
    Error::wrong(format!("{} is not an absolute path", path.display()))
}

/// The path of a kernel parameter below `/proc/sys`. As with sysctl(8), a key with a slash is a path in which dots are dots:
/// `net/ipv4/conf/eth0.100/rp_filter`.
fn sysctl_path(key: &str) -> Result<String> {
    let path = if key.contains('/') { key.to_owned() } else { key.replace('.', "/") };
    if !path.starts_with("net/") || path.split('/').any(|part| part.is_empty() || part == "." || part == "..")
    {
        return Err(Error::wrong(format!(
            "{key} is not a parameter of a network (`net.…`); others belong to the whole machine and are left alone"
        )));
    }
    Ok(path)
}

/// The folders that have to be overlaid so that these files can be written: the nearest that are there, parents before children.
fn writable<'a>(files: impl Iterator<Item = &'a Path>) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = files
        .filter_map(|file| file.ancestors().skip(1).find(|folder| folder.is_dir()).map(Path::to_owned))
        .filter(|folder| {
            !mounts::OVERLAID
                .iter()
                .chain(&mounts::ON_DISK)
                .chain(&mounts::VOLATILE)
                .any(|known| folder.starts_with(known))
        })
        .collect();
    folders.sort();
    folders.dedup();
    // What is inside another is overlaid with it.
    let all = folders.clone();
    folders.retain(|folder| !all.iter().any(|other| other != folder && folder.starts_with(other)));
    folders
}

/// The socket of a node of a registered run, for those who are not its owner.
pub(crate) fn socket_of(run: &str, node: &str) -> Result<PathBuf> {
    let path = Path::new(super::janitor::FOLDER).join(run).join("nodes").join(node).join("init");
    if protocol::connect_to(&path).is_err() {
        return Err(Error::wrong(format!("the run {run} has no node {node} that is on")));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_parameters_of_the_network_are_set() {
        assert_eq!(sysctl_path("net.ipv4.ip_forward").unwrap(), "net/ipv4/ip_forward");
        assert_eq!(sysctl_path("net/ipv4/conf/e.1/rp_filter").unwrap(), "net/ipv4/conf/e.1/rp_filter");
        for key in ["kernel.hostname", "vm.swappiness", "net/../kernel/panic", "net..x", ""] {
            assert!(sysctl_path(key).is_err(), "{key}");
        }
    }

    #[test]
    fn files_outside_the_usual_folders_get_an_overlay_of_the_nearest_folder() {
        let files =
            ["/etc/ha.d/haresources", "/usr/share/nothing-here/a", "/usr/share/b", "/usr/c", "/var/lib/x"];
        assert_eq!(writable(files.iter().map(Path::new)), vec![PathBuf::from("/usr")]);
    }
}
