//! One machine of a world: its processes and files, as the lab reaches them.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::error::{Doing, Error, Result};
use super::files::Root;
use super::init::{Config, SUBCOMMAND, Status};
use super::janitor::Registration;
use super::netlink::{in_netns, namespace_of};
use super::process::Process;
use super::run::{Exec, Output, Spawn};
use super::watch::{Sink, Watch};
use super::{WorldDir, cgroup, inventory, mounts, protocol, spawner};
use crate::scenario::topology;

/// How long a node may take from its start to taking requests. Generous: an emulated machine that is busy.
const BOOT: Duration = Duration::from_secs(60);
/// How long a node may take to end after SIGKILL.
const END: Duration = Duration::from_secs(20);
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
    shared: Arc<Shared>,
    mounts: Option<mounts::Config>,
    state: Mutex<State>,
    pub(crate) processes: Mutex<BTreeMap<String, Process>>,
}

#[derive(Default)]
struct State {
    booted: Option<Booted>,
    frozen: bool,
    boots: u32,
}

struct Booted {
    outer: Child,
    pid: i32,
    network: Arc<OwnedFd>,
    /// The inode of its PID namespace.
    processes: u64,
    watch: Option<Watch>,
}

/// A node that has been started and is not ready yet.
pub(crate) struct Starting {
    outer: Child,
    lines: Receiver<Status>,
    log: PathBuf,
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

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn folder(&self) -> PathBuf {
        self.0.shared.registration.node(self.name())
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder().join("init")
    }

    /// The folder of its logs, on the machine.
    pub fn logs(&self) -> PathBuf {
        self.0.shared.dir.logs.join(self.name())
    }

    fn off(&self) -> Error {
        Error::wrong(format!("{} is off", self.name()))
    }

    /// Starts its first process. The namespaces are there when [`Node::ready`] returns.
    pub(crate) fn start(&self) -> Result<Starting> {
        let what = || format!("starting the node {}", self.name());
        if self.is_up() {
            return Err(Error::wrong(format!("{} is on already", self.name())));
        }
        let folder = self.folder();
        std::fs::create_dir_all(folder.join("disk")).doing(what)?;
        std::fs::create_dir_all(self.logs()).doing(what)?;
        let socket = self.socket();
        match std::fs::remove_file(&socket) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).doing(what),
            _ => {}
        }
        let config = Config {
            parent: std::process::id().cast_signed(),
            hostname: self.hostname().to_owned(),
            socket,
            cgroup: cgroup::make(&self.0.shared.registration.id, self.name()),
            machine: self.0.mounts.clone(),
        };
        let path = folder.join("init.json");
        let bytes = serde_json::to_vec(&config).map_err(|error| Error::wrong(error.to_string()))?;
        std::fs::write(&path, bytes).doing(what)?;
        let log = self.logs().join("init.log");
        let errors = std::fs::OpenOptions::new().append(true).create(true).open(&log).doing(what)?;
        let mut command = Command::new(&self.0.shared.dir.program);
        command.arg(SUBCOMMAND).arg(&path).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
        let mut outer = spawner::spawn(command)
            .doing(|| format!("{} ({})", what(), self.0.shared.dir.program.display()))?;
        let output = outer.stdout.take().ok_or_else(|| Error::wrong("a pipe was asked for"))?;
        let (sender, lines) = channel();
        std::thread::Builder::new()
            .name(format!("boot {}", self.name()))
            .spawn(move || {
                for line in BufReader::new(output).lines().map_while(|line| line.ok()) {
                    let Ok(status) = serde_json::from_str(&line) else { continue };
                    if sender.send(status).is_err() {
                        return;
                    }
                }
            })
            .doing(what)?;
        Ok(Starting { outer, lines, log })
    }

    /// Waits until it takes requests, and begins to watch it.
    pub(crate) fn ready(&self, mut starting: Starting, sink: Option<Sink>) -> Result<()> {
        let booted = self.booted(&mut starting).and_then(|(pid, processes)| {
            let network =
                namespace_of(pid, "net").doing(|| format!("opening the network of {}", self.name()))?;
            let watch = sink.map(|sink| Watch::start(self.name(), network.as_fd(), sink)).transpose()?;
            Ok((pid, processes, network, watch))
        });
        match booted {
            Ok((pid, processes, network, watch)) => {
                let mut state = self.state();
                state.boots += 1;
                state.frozen = false;
                state.booted =
                    Some(Booted { outer: starting.outer, pid, network: Arc::new(network), processes, watch });
                Ok(())
            }
            Err(error) => {
                let _ = starting.outer.kill();
                let _ = starting.outer.wait();
                Err(error)
            }
        }
    }

    fn booted(&self, starting: &mut Starting) -> Result<(i32, u64)> {
        let deadline = Instant::now() + BOOT;
        let mut pid = None;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match starting.lines.recv_timeout(left) {
                Ok(Status::Forked { pid: forked }) => {
                    pid = Some(forked);
                    self.0
                        .shared
                        .registration
                        .note(self.name(), &[starting.outer.id().cast_signed(), forked])?;
                }
                Ok(Status::Ready) => break,
                Ok(Status::Failed { error }) => {
                    return Err(Error::wrong(format!("the node {} cannot start: {error}", self.name())));
                }
                Err(RecvTimeoutError::Timeout) => {
                    return Err(Error::wrong(format!(
                        "the node {} is not ready after {BOOT:?}",
                        self.name()
                    )));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let log = std::fs::read_to_string(&starting.log).unwrap_or_default();
                    let last: Vec<_> = log.lines().rev().take(3).collect();
                    return Err(Error::wrong(format!(
                        "the first process of {} ended at once (is {} the lab's own program?): {}",
                        self.name(),
                        self.0.shared.dir.program.display(),
                        last.join(" / ")
                    )));
                }
            }
        }
        // The two lines come from two processes and may overtake each other.
        let pid = match pid {
            Some(pid) => pid,
            None => match starting.lines.recv_timeout(END) {
                Ok(Status::Forked { pid }) => {
                    self.0
                        .shared
                        .registration
                        .note(self.name(), &[starting.outer.id().cast_signed(), pid])?;
                    pid
                }
                other => return Err(Error::wrong(format!("the node {} said {other:?}", self.name()))),
            },
        };
        let processes = std::fs::metadata(format!("/proc/{pid}/ns/pid"))
            .doing(|| format!("looking at the processes of {}", self.name()))?
            .ino();
        Ok((pid, processes))
    }

    /// Ends everything in it at once, without a word to anybody: SIGKILL to its first process, and with it to all. Its network goes
    /// with the last that holds it. What was watched is said to have gone at `at`. Fine if it is off.
    pub(crate) fn end(&self, at: u64) -> Result<()> {
        let Some(mut booted) = self.state().booted.take() else { return Ok(()) };
        self.state().frozen = false;
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(booted.pid), Signal::SIGKILL);
        let deadline = Instant::now() + END;
        loop {
            match booted.outer.try_wait().doing(|| format!("waiting for the end of {}", self.name()))? {
                Some(_) => break,
                None if Instant::now() > deadline => {
                    return Err(Error::wrong(format!("{} does not end", self.name())));
                }
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        if let Some(watch) = booted.watch.take() {
            watch.end(at);
        }
        self.registry().clear();
        if let Some(group) = self.cgroup() {
            cgroup::remove(&group).doing(|| format!("removing the group {}", group.display()))?;
        }
        Ok(())
    }

    /// Its group of processes, where there is one.
    fn cgroup(&self) -> Option<PathBuf> {
        let path = cgroup::mount_point()?
            .join(cgroup::FOLDER)
            .join(&self.0.shared.registration.id)
            .join(self.name());
        path.is_dir().then_some(path)
    }

    /// Stops or continues all its processes. Returns what shows it.
    pub(crate) fn freeze(&self, frozen: bool) -> Result<String> {
        let mut state = self.state();
        let booted = state.booted.as_ref().ok_or_else(|| self.off())?;
        let what = || format!("{} {}", if frozen { "freezing" } else { "thawing" }, self.name());
        let proof = if let Some(group) = self.cgroup() {
            cgroup::freeze(&group, frozen).doing(what)?;
            format!("cgroup.events: frozen {}", u8::from(frozen))
        } else {
            signal_all(booted.processes, frozen).doing(what)?
        };
        state.frozen = frozen;
        Ok(proof)
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
        exec.run(self.name(), &self.socket())
    }

    /// Starts a process that goes on; its output is appended to `NAME.log` among the node's logs. The name must not be that of a process
    /// that still runs.
    pub fn spawn(&self, spawn: &Spawn) -> Result<Process> {
        self.awake()?;
        let mut registry = self.registry();
        if registry.get(&spawn.name).is_some_and(Process::alive) {
            return Err(Error::wrong(format!("{} runs on {} already", spawn.name, self.name())));
        }
        let process = spawn.start(self.name(), &self.socket(), &self.logs())?;
        registry.insert(spawn.name.clone(), process.clone());
        Ok(process)
    }

    fn registry(&self) -> MutexGuard<'_, BTreeMap<String, Process>> {
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
        match registry.get(name) {
            Some(process) => match process.exit() {
                None => Ok(process.clone()),
                Some(exit) => {
                    Err(Error::wrong(format!("{name} on {} has ended already ({exit})", self.name())))
                }
            },
            None => {
                let names: Vec<_> = registry.keys().map(String::as_str).collect();
                Err(Error::wrong(format!(
                    "nothing called {name} was started on {}; there is: {}",
                    self.name(),
                    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
                )))
            }
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

/// SIGSTOP or SIGCONT to every process of a PID namespace, until all are stopped (or none).
fn signal_all(namespace: u64, stop: bool) -> std::io::Result<String> {
    let signal = if stop { Signal::SIGSTOP } else { Signal::SIGCONT };
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let processes = inventory::processes_in(namespace);
        let others: Vec<_> = processes
            .iter()
            .filter(|process| process.state != 'Z' && (process.state == 'T') != stop)
            .collect();
        if others.is_empty() {
            return Ok(format!(
                "{} processes are {}",
                processes.len(),
                if stop { "stopped" } else { "running again" }
            ));
        }
        for process in &others {
            // One that has just ended needs nothing.
            let _ = kill(Pid::from_raw(process.pid), signal);
        }
        if Instant::now() > deadline {
            return Err(std::io::Error::other(format!("{signal} has no effect on {others:?}")));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
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

    #[test]
    fn a_signal_that_does_not_stop_is_an_error() {
        // A namespace without processes is stopped already.
        assert!(signal_all(1, true).unwrap().starts_with("0 processes"));
    }
}
