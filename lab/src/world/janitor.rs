//! Every run is registered in `/run/bascule-lab/RUN/` with who owns it, so that what a killed lab left is found and removed by the
//! next one. Only what is registered there is ever touched.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::cgroup;
use super::error::{Doing, Error, Result};
use super::{inventory, wallclock};

/// The folder of all runs.
pub const FOLDER: &str = "/run/bascule-lab";
const OWNER: &str = "owner.json";

/// A process that cannot be taken for another: number, start time, boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub started: u64,
    /// The boot's identifier.
    pub boot: String,
}

impl Identity {
    /// The identity of a process that runs now.
    pub fn of(pid: i32) -> Result<Self> {
        let process =
            inventory::process(pid).ok_or_else(|| Error::wrong(format!("there is no process {pid}")))?;
        Ok(Self { pid, started: process.started, boot: boot() })
    }

    /// Whether it still runs. What has ended and is not collected does not.
    pub fn alive(&self) -> bool {
        self.boot == boot()
            && inventory::process(self.pid)
                .is_some_and(|process| process.started == self.started && process.state != 'Z')
    }
}

fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Owner {
    process: Identity,
    label: String,
}

/// A registered run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its identifier.
    pub id: String,
    /// What it is for people: the scenario's name.
    pub label: String,
    /// The process that owns it.
    pub owner: i32,
    /// Whether that process lives.
    pub alive: bool,
    /// Its nodes.
    pub nodes: Vec<String>,
}

/// The registration of a run of our own. Dropping it does not remove it; [`Registration::remove`] does.
#[derive(Debug)]
pub struct Registration {
    /// The run's identifier: at most 12 characters.
    pub id: String,
    /// `/run/bascule-lab/ID`.
    pub folder: PathBuf,
}

impl Registration {
    /// Registers a run of this process.
    pub fn new(label: &str) -> Result<Self> {
        let folder = Path::new(FOLDER);
        let _lock = lock(true)?;
        for number in 0..1000 {
            let id = format!("{}-{number}", std::process::id());
            let path = folder.join(&id);
            match std::fs::create_dir(&path) {
                Ok(()) => {
                    let process = Identity::of(std::process::id().cast_signed())?;
                    let owner = Owner { process, label: label.to_owned() };
                    std::fs::create_dir(path.join("nodes"))
                        .and_then(|()| std::fs::write(path.join(OWNER), serde_json::to_vec(&owner)?))
                        .doing(|| format!("registering the run in {}", path.display()))?;
                    return Ok(Self { id, folder: path });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).doing(|| format!("making {}", path.display())),
            }
        }
        Err(Error::wrong(format!("{FOLDER} is full of runs of process {}", std::process::id())))
    }

    /// Where the files of one node are: its disk, its socket, its processes.
    pub fn node(&self, name: &str) -> PathBuf {
        self.folder.join("nodes").join(name)
    }

    /// Writes down which processes a node has on the outside, before anything can go wrong with them.
    pub fn note(&self, node: &str, processes: &[i32]) -> Result<()> {
        let identities = processes.iter().filter_map(|pid| Identity::of(*pid).ok()).collect::<Vec<_>>();
        let path = self.node(node).join("processes.json");
        let bytes = serde_json::to_vec(&identities).map_err(|error| Error::wrong(error.to_string()))?;
        std::fs::write(&path, bytes).doing(|| format!("writing {}", path.display()))
    }

    /// Removes everything that the run has outside of its processes. They have to be gone.
    pub fn remove(&self) -> Result<()> {
        clean(&self.folder, &self.id)?;
        let _lock = lock(false)?;
        // Another run may be in it; then it stays.
        let _ = std::fs::remove_dir(FOLDER);
        Ok(())
    }
}

/// The lock on the folder of runs: registering and removing never meet half-way.
fn lock(make: bool) -> Result<Option<Flock<File>>> {
    let what = || format!("locking {FOLDER}");
    loop {
        if make {
            std::fs::create_dir_all(FOLDER).doing(|| format!("making {FOLDER}"))?;
        }
        let file = match File::open(FOLDER) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !make => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).doing(what),
        };
        let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno).doing(what)?;
        // Whoever held it before may have removed the folder.
        let mine = lock.metadata().doing(what)?.ino();
        if std::fs::metadata(FOLDER).is_ok_and(|now| now.ino() == mine) {
            return Ok(Some(lock));
        }
    }
}

/// The registered runs.
pub fn runs() -> Vec<Run> {
    let Ok(entries) = std::fs::read_dir(FOLDER) else { return Vec::new() };
    let mut runs: Vec<_> = entries
        .flatten()
        .filter_map(|entry| {
            let owner = owner(&entry.path())?;
            let mut nodes: Vec<_> = std::fs::read_dir(entry.path().join("nodes"))
                .ok()?
                .flatten()
                .map(|node| node.file_name().to_string_lossy().into_owned())
                // The switch.
                .filter(|name| !name.starts_with('.'))
                .collect();
            nodes.sort();
            Some(Run {
                id: entry.file_name().to_string_lossy().into_owned(),
                label: owner.label.clone(),
                owner: owner.process.pid,
                alive: owner.process.alive(),
                nodes,
            })
        })
        .collect();
    runs.sort_by(|a, b| a.id.cmp(&b.id));
    runs
}

fn owner(folder: &Path) -> Option<Owner> {
    serde_json::from_slice(&std::fs::read(folder.join(OWNER)).ok()?).ok()
}

/// Removes what dead owners left; returns the runs that were removed. Runs whose owner lives are left alone.
pub fn sweep() -> Result<Vec<String>> {
    let Some(_lock) = lock(false)? else { return Ok(Vec::new()) };
    let mut swept = Vec::new();
    let entries = std::fs::read_dir(FOLDER).doing(|| format!("reading {FOLDER}"))?;
    for entry in entries {
        let path = entry.doing(|| format!("reading {FOLDER}"))?.path();
        // A folder without a readable owner was left by a lab that died between two calls, under this lock.
        if !path.is_dir() || owner(&path).is_some_and(|owner| owner.process.alive()) {
            continue;
        }
        let id = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        end_processes(&path, &id)?;
        wallclock::back_after(&path)?;
        clean(&path, &id)?;
        swept.push(id);
    }
    let _ = std::fs::remove_dir(FOLDER);
    Ok(swept)
}

/// Kills what a dead run left; by the death of their parent they are ending already.
fn end_processes(folder: &Path, id: &str) -> Result<()> {
    let mut left = Vec::new();
    if let Ok(nodes) = std::fs::read_dir(folder.join("nodes")) {
        for node in nodes.flatten() {
            let path = node.path().join("processes.json");
            if let Ok(bytes) = std::fs::read(path)
                && let Ok(identities) = serde_json::from_slice::<Vec<Identity>>(&bytes)
            {
                left.extend(identities);
            }
        }
    }
    if let Some(mount) = cgroup::mount_point()
        && let Ok(groups) = std::fs::read_dir(mount.join(cgroup::FOLDER).join(id))
    {
        for group in groups.flatten().filter(|group| group.path().is_dir()) {
            // Kernels before 5.14 have no such file; the processes below are the ones that matter there.
            let _ = cgroup::kill(&group.path());
        }
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        left.retain(Identity::alive);
        if left.is_empty() {
            return Ok(());
        }
        for process in &left {
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
        if Instant::now() > deadline {
            return Err(Error::wrong(format!("processes of the dead run {id} do not end: {left:?}")));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Removes mounts below a run's folder, its groups, and the folder.
fn clean(folder: &Path, id: &str) -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut below: Vec<_> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4).map(|path| PathBuf::from(unescape(path))))
        .filter(|path| path.starts_with(folder))
        .collect();
    below.sort();
    for path in below.into_iter().rev() {
        umount2(&path, MntFlags::MNT_DETACH).doing(|| format!("unmounting {}", path.display()))?;
    }
    cgroup::remove_run(id).doing(|| format!("removing the groups of run {id}"))?;
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).doing(|| format!("removing {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// A path of `mountinfo`, where blanks are written in octal.
pub fn unescape(path: &str) -> String {
    path.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_not_fooled_by_a_number_alone() {
        let me = Identity::of(std::process::id().cast_signed()).unwrap();
        assert!(me.alive());
        assert!(!Identity { started: me.started + 1, ..me.clone() }.alive());
        assert!(!Identity { boot: "another".into(), ..me }.alive());
        assert!(Identity::of(-5).is_err());
    }

    #[test]
    fn paths_of_mounts_are_read() {
        assert_eq!(unescape("/a\\040b\\134c"), "/a b\\c");
    }
}
