//! Where the lab keeps what lives between calls: sockets, logs, stripped programs.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

/// Longest path of a directory in which sockets can be bound (`sun_path` holds 108 bytes).
const MAX_PATH: usize = 90;

/// The virtual machine's directory for what lives between calls: `BASCULE_VM_DIR`, else `/run/bascule-vm` for root, else
/// `bascule-vm` below `XDG_RUNTIME_DIR`, else `/tmp/bascule-vm-UID`. It need not exist.
fn default_directory() -> PathBuf {
    if let Some(path) = std::env::var_os("BASCULE_VM_DIR").filter(|path| !path.is_empty()) {
        return PathBuf::from(path);
    }
    let user = nix::unistd::geteuid();
    if user.is_root() {
        return PathBuf::from("/run/bascule-vm");
    }
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty()) {
        Some(path) => PathBuf::from(path).join("bascule-vm"),
        None => PathBuf::from(format!("/tmp/bascule-vm-{user}")),
    }
}

/// The directory of a virtual machine's supervisor.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
}

impl StateDir {
    /// Makes it, readable by its owner only, and checks that it belongs to us.
    pub fn open() -> Result<Self> {
        Self::open_at(&default_directory())
    }

    /// The same at a given place.
    pub fn open_at(path: &Path) -> Result<Self> {
        let path = std::path::absolute(path)?;
        let text = path.to_str().context("the virtual machine's directory must be UTF-8")?;
        if text.len() > MAX_PATH || text.contains([',', ' ', '\'', '"', '\\', '\n']) {
            bail!(
                "{text}: cannot hold the virtual machine's sockets (at most {MAX_PATH} bytes, no comma, space or quote); \
                 set BASCULE_VM_DIR to another directory"
            );
        }
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("making {}", path.display()))?;
        let owner = fs::symlink_metadata(&path)?.uid();
        let user = nix::unistd::geteuid().as_raw();
        if owner != user {
            bail!("{} belongs to user {owner}, not to user {user}", path.display());
        }
        Ok(Self { path })
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The socket on which the supervisor serves clients.
    pub fn control_socket(&self) -> PathBuf {
        self.path.join("control.sock")
    }

    /// The socket to which QEMU connects the machine's virtio-serial port.
    pub fn machine_socket(&self) -> PathBuf {
        self.path.join("machine.sock")
    }

    /// What the supervisor says.
    pub fn supervisor_log(&self) -> PathBuf {
        self.path.join("supervisor.log")
    }

    /// What the machine's console said, from its start.
    pub fn console_log(&self) -> PathBuf {
        self.path.join("console.log")
    }

    /// Stripped programs.
    pub fn programs(&self) -> PathBuf {
        self.path.join("programs")
    }

    /// Temporary files of the programs that start the machine.
    pub fn temporary(&self) -> PathBuf {
        self.path.join("tmp")
    }

    fn state_file(&self) -> PathBuf {
        self.path.join("state.json")
    }

    /// Holds the others off while a supervisor is started. Waits at most `patience`.
    pub fn lock(&self, patience: Duration) -> Result<Flock<fs::File>> {
        let path = self.path.join("lock");
        let start = Instant::now();
        let mut file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("opening {}", path.display()))?;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(lock),
                Err((back, _)) if start.elapsed() < patience => {
                    file = back;
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err((_, error)) => {
                    bail!("{} is held by another call for {} s ({error})", path.display(), patience.as_secs())
                }
            }
        }
    }

    /// The supervisor that wrote its state last, if any did.
    pub fn state(&self) -> Option<State> {
        serde_json::from_slice(&fs::read(self.state_file()).ok()?).ok()
    }

    /// Notes the supervisor.
    pub fn write_state(&self, state: &State) -> Result<()> {
        let temporary = self.path.join("state.json.new");
        let mut file = fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .with_context(|| format!("creating {}", temporary.display()))?;
        file.write_all(&serde_json::to_vec_pretty(state)?)?;
        fs::rename(&temporary, self.state_file()).context("noting the supervisor")
    }

    /// Removes what belongs to a supervisor that is no more: sockets, temporary files, state.
    pub fn clean(&self) {
        for file in [self.control_socket(), self.machine_socket(), self.state_file()] {
            let _ = fs::remove_file(file);
        }
        let _ = fs::remove_dir_all(self.temporary());
    }
}

/// Who supervises the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct State {
    /// Its process.
    pub process: ProcessId,
    /// Version of its protocol.
    pub protocol: u32,
    /// Processors of the machine.
    pub cpus: u32,
    /// Memory of the machine in MiB.
    pub memory_mib: u32,
    /// Whether it has a network card.
    #[serde(default)]
    pub network: bool,
    /// Kernel image.
    pub kernel: PathBuf,
}

/// A process that cannot be mistaken for a later one with its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProcessId {
    /// Its number.
    pub pid: i32,
    /// Its start in clock ticks since boot (`/proc/PID/stat`, field 22).
    pub start_ticks: u64,
}

impl ProcessId {
    /// This process.
    pub fn own() -> Result<Self> {
        Self::of(std::process::id().cast_signed()).context("reading /proc/self/stat")
    }

    /// The process that has this number now; `None` when there is none or it has ended.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may hold anything; field 3 follows its last parenthesis.
        let (_, rest) = stat.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        let state = fields.next()?;
        if matches!(state, "Z" | "X") {
            return None;
        }
        Some(Self { pid, start_ticks: fields.nth(18)?.parse().ok()? })
    }

    /// Whether it still runs.
    pub fn is_alive(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }

    /// Kills it and waits until it is gone, at most `patience`. True when it is gone.
    pub fn kill(&self, patience: Duration) -> bool {
        let start = Instant::now();
        while self.is_alive() {
            if start.elapsed() > patience {
                return false;
            }
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(self.pid),
                nix::sys::signal::Signal::SIGKILL,
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start() {
        let own = ProcessId::own().expect("this process runs");
        assert!(own.is_alive());
        assert!(!ProcessId { start_ticks: own.start_ticks + 1, ..own }.is_alive());
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().expect("sleep starts");
        let id = ProcessId::of(child.id().cast_signed()).expect("it runs");
        assert!(id.kill(Duration::from_secs(10)));
        child.wait().expect("it was killed");
    }

    #[test]
    fn a_directory_that_cannot_hold_sockets_is_refused() {
        let base = tempfile::tempdir().expect("a temporary directory");
        for name in ["x".repeat(120), "a,b".to_owned(), "a b".to_owned()] {
            let error = StateDir::open_at(&base.path().join(name)).expect_err("must be refused");
            assert!(error.to_string().contains("BASCULE_VM_DIR"), "{error}");
        }
    }

    #[test]
    fn state_is_read_as_it_was_written_and_cleaned() {
        let base = tempfile::tempdir().expect("a temporary directory");
        let dir = StateDir::open_at(&base.path().join("vm")).expect("a short path");
        assert_eq!(dir.state(), None);
        let state = State {
            process: ProcessId::own().expect("this process runs"),
            protocol: 1,
            cpus: 2,
            memory_mib: 1024,
            network: true,
            kernel: "/boot/vmlinuz".into(),
        };
        dir.write_state(&state).expect("writable");
        assert_eq!(dir.state(), Some(state));
        dir.clean();
        assert_eq!(dir.state(), None);
    }
}
