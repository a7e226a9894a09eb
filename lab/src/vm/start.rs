//! Starting the machine's supervisor.

use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command as Process, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use tokio::net::UnixStream;

use super::client::{PATIENCE, log_tail};
use super::dir::StateDir;
use super::{Settings, find, programs};

/// Starts a supervisor and connects to it. If another call has done so meanwhile, connects to that one.
pub(super) async fn start_supervisor(dir: &StateDir, settings: &Settings) -> Result<UnixStream> {
    let kernel = find::kernel().map_err(|missing| anyhow!("{missing}; see `bascule-lab doctor`"))?;
    let vng = find::vng().map_err(|missing| anyhow!("{missing}; see `bascule-lab doctor`"))?;
    let qemu = find::qemu().map_err(|missing| anyhow!("{missing}; see `bascule-lab doctor`"))?;
    let executor = programs::own(dir)?.swap_remove(0).stripped;
    let _lock = dir.lock(PATIENCE)?;
    if let Ok(stream) = UnixStream::connect(dir.control_socket()).await {
        return Ok(stream);
    }
    if let Some(state) = dir.state() {
        // It no longer listens: it is ending, or cannot.
        let start = Instant::now();
        while state.process.is_alive() {
            if start.elapsed() > PATIENCE && !state.process.kill(PATIENCE) {
                bail!("an old supervisor (process {}) does not end", state.process.pid);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    dir.clean();
    let log = fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(dir.supervisor_log())
        .context("opening the supervisor's log")?;
    let mut command = Process::new("/proc/self/exe");
    command
        .arg("vm-supervise")
        .arg("--dir")
        .arg(dir.path())
        .arg("--vng")
        .arg(&vng)
        .arg("--qemu")
        .arg(&qemu)
        .arg("--kernel")
        .arg(&kernel.image)
        .args(["--release", &kernel.release])
        .arg("--executor")
        .arg(&executor)
        .args(["--cpus", &settings.cpus().to_string()])
        .args(["--memory-mib", &settings.memory_mib().to_string()])
        .args(["--accelerator", settings.accelerator.as_str()])
        .args(["--idle-seconds", &settings.idle.as_secs().to_string()])
        .args(settings.network.then_some("--network"))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    // SAFETY: setsid is a system call; it may be made between fork and exec.
    unsafe {
        command.pre_exec(|| {
            if libc::setsid() < 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let mut child = command.spawn().context("starting the virtual machine's supervisor")?;
    let start = Instant::now();
    loop {
        if let Ok(stream) = UnixStream::connect(dir.control_socket()).await {
            return Ok(stream);
        }
        if let Some(status) = child.try_wait()? {
            bail!("the virtual machine's supervisor ended at once ({status}): {}", log_tail(dir));
        }
        if start.elapsed() > PATIENCE {
            let _ = child.kill();
            bail!("the virtual machine's supervisor did not start within {} s", PATIENCE.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
