//! Groups of processes: by them a node is frozen and killed at once. Where there is no cgroup2 file system that can be written,
//! signals do the same, process by process.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The folder of all runs in the cgroup2 file system.
pub(crate) const FOLDER: &str = "bascule-lab";

/// How many processes and threads a node may have, where the kernel counts them by group.
const MAX_PROCESSES: &str = "8192";

/// Where the cgroup2 file system is mounted, if it is.
pub(crate) fn mount_point() -> Option<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    text.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        (right.split(' ').next() == Some("cgroup2"))
            .then(|| left.split(' ').nth(4).map(|path| PathBuf::from(super::janitor::unescape(path))))?
    })
}

/// Makes the group of one node; `None` where that is not possible.
pub(crate) fn make(run: &str, node: &str) -> Option<PathBuf> {
    let path = mount_point()?.join(FOLDER).join(run).join(node);
    std::fs::create_dir_all(&path).ok()?;
    // A fork bomb in a node is the node's problem. Where the controller is not given to us, it is the machine's.
    let _ = std::fs::write(path.join("pids.max"), MAX_PROCESSES);
    path.join("cgroup.procs").exists().then_some(path)
}

/// Kills everything in a group (`cgroup.kill`, Linux 5.14).
pub(crate) fn kill(path: &Path) -> io::Result<()> {
    std::fs::write(path.join("cgroup.kill"), "1")
}

/// Freezes or thaws a group and waits until the kernel says that it has.
pub(crate) fn freeze(path: &Path, frozen: bool) -> io::Result<()> {
    std::fs::write(path.join("cgroup.freeze"), if frozen { "1" } else { "0" })?;
    let wanted = format!("frozen {}", u8::from(frozen));
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let events = std::fs::read_to_string(path.join("cgroup.events"))?;
        if events.lines().any(|line| line == wanted) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(io::Error::other(format!("{} does not say `{wanted}`", path.display())));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Removes a group and those in it; processes that are just ending are waited for. A group that is not there is fine.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match std::fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Removes what a run left, and the folder of all runs when no other is there.
pub(crate) fn remove_run(run: &str) -> io::Result<()> {
    let Some(folder) = mount_point().map(|mount| mount.join(FOLDER)) else { return Ok(()) };
    remove(&folder.join(run))?;
    // Another run may be in it; then it stays.
    let _ = std::fs::remove_dir(&folder);
    Ok(())
}
