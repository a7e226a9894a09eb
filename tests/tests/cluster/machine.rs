//! The lab's virtual machine, driven with `bascule-lab vm`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use bascule_tests::api_server::Children;
use bascule_tests::chart;
use tempfile::TempDir;

/// Where the machine shows this machine's files.
pub(crate) const HOST_VIEW: &str = "/usr/local/lib/bascule-vm/host";
/// Its address, and how it reaches this machine's loopback: QEMU's own network.
pub(crate) const GATEWAY: std::net::Ipv4Addr = std::net::Ipv4Addr::new(10, 0, 2, 2);
/// MiB. What is in memory: the programs, twice the images, and the pods.
const MEMORY: &str = "4096";
/// Seconds that a command in it may take, which are many: it is emulated, on a machine that does other work.
const BOUND: &str = "240";

/// The machine; it ends when this is dropped, and with it everything that runs there.
pub(crate) struct Machine {
    lab: PathBuf,
    state: PathBuf,
    // Calls that last as long as the machine, and calls that may end; before the folder of their state.
    lasting: Children,
    passing: Children,
    _own: Option<TempDir>,
}

impl Machine {
    pub(crate) fn start() -> Result<Machine> {
        let lab = lab()?;
        let own = tempfile::Builder::new().prefix("bascule-vm-").tempdir()?;
        // One that the caller names is the caller's to remove.
        let (state, own) = match std::env::var_os("BASCULE_VM_DIR") {
            Some(named) => (named.into(), None),
            None => (own.path().to_owned(), Some(own)),
        };
        let machine =
            Machine { lab, state, lasting: Children::default(), passing: Children::default(), _own: own };
        let output =
            machine.command(&["start", "--network", "--memory", MEMORY, "--idle", "300"]).output()?;
        ensure!(output.status.success(), "vm start: {}", String::from_utf8_lossy(&output.stderr));
        Ok(machine)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.lab);
        command.arg("vm").args(arguments).env("BASCULE_VM_DIR", &self.state).stdin(Stdio::null());
        command
    }

    /// A path of this machine as it is seen there.
    pub(crate) fn view(path: &Path) -> Result<String> {
        let path = path.canonicalize().with_context(|| path.display().to_string())?;
        Ok(format!("{HOST_VIEW}{}", path.display()))
    }

    /// Runs a script of `sh` there and returns what it printed; an error holds what it complained about.
    pub(crate) fn run(&self, script: &str) -> Result<String> {
        let words = ["exec", "--cwd", "/", "--", "timeout", BOUND, "sh", "-euc", script];
        let output = self.command(&words).output().context("bascule-lab vm exec")?;
        if !output.status.success() {
            bail!("in the machine: {script}\n{}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs a script there that must not end before the machine does; what it says is in `log`, here.
    pub(crate) fn begin(&mut self, script: &str, log: PathBuf) -> Result<()> {
        let mut command = self.command(&["exec", "--cwd", "/", "--", "sh", "-euc", script]);
        self.lasting.spawn(&mut command, log)
    }

    /// The same with one that may end.
    pub(crate) fn begin_passing(&mut self, script: &str, log: PathBuf) -> Result<()> {
        let mut command = self.command(&["exec", "--cwd", "/", "--", "sh", "-euc", script]);
        self.passing.spawn(&mut command, log)
    }

    /// That nothing that was begun has ended.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        self.lasting.check_alive()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.command(&["stop"]).output();
    }
}

/// The program: `BASCULE_LAB`, else the optimised one, else the one beside the tests.
fn lab() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("BASCULE_LAB") {
        return Ok(named.into());
    }
    let own = std::env::current_exe()?;
    let folder = own.parent().and_then(Path::parent).context("no folder of programs")?;
    let optimised = folder.with_file_name("release").join("bascule-lab");
    for program in [optimised, folder.join("bascule-lab")] {
        if program.exists() {
            return Ok(program);
        }
    }
    bail!("no bascule-lab in {} nor beside it: make build", folder.display())
}

/// The folder of the images that `scripts/images` has written: `BASCULE_IMAGES`, else `images` of the repository.
pub(crate) fn images() -> Result<PathBuf> {
    let folder =
        std::env::var_os("BASCULE_IMAGES").map_or_else(|| chart::root().join("images"), PathBuf::from);
    for name in ["bascule-agent.oci.tar", "bascule-operator.oci.tar"] {
        ensure!(folder.join(name).exists(), "{} has no {name}: make images", folder.display());
    }
    Ok(folder)
}
