//! One agent a run directory: two would fight over the same kernel tables.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

/// Name of the lock in the run directory.
const FILE: &str = "agent.lock";

/// Why the lock cannot be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum LockError {
    /// Another agent has it.
    #[error(
        "another bascule-agent{} runs with the run directory {}: stop it first, or give this one a --run-dir of its own \
         (and a network namespace of its own, where the kernel's tables are its own)",
        pid.map(|pid| format!(" (process {pid})")).unwrap_or_default(),
        directory.display()
    )]
    Taken {
        /// The directory.
        directory: PathBuf,
        /// The other process, as it wrote into the lock.
        pid: Option<u32>,
    },
    /// The directory cannot be used.
    #[error("the run directory {} cannot be used: {source}", directory.display())]
    Unusable {
        /// The directory.
        directory: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The lock, held until dropped (or the process ends, however it ends).
#[derive(Debug)]
pub(super) struct RunLock {
    _file: Flock<File>,
}

/// Makes the run directory where it is absent and locks it.
pub(super) fn lock(directory: &Path) -> Result<RunLock, LockError> {
    let unusable = |source| LockError::Unusable { directory: directory.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(unusable)?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(directory.join(FILE))
        .map_err(unusable)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut file) => {
            // Only for the message that the next one gets.
            let _ = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
            Ok(RunLock { _file: file })
        }
        Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
            let mut text = String::new();
            let _ = file.rewind().and_then(|()| (&mut file).take(20).read_to_string(&mut text));
            Err(LockError::Taken { directory: directory.to_owned(), pid: text.trim().parse().ok() })
        }
        Err((_, error)) => Err(unusable(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_holds_it_and_the_other_is_told_who() {
        let directory = tempfile::tempdir().unwrap();
        let run = directory.path().join("a/b");
        let held = lock(&run).unwrap();
        let refused = lock(&run).unwrap_err().to_string();
        assert!(refused.contains(&format!("(process {})", std::process::id())), "{refused}");
        assert!(refused.contains("--run-dir"), "{refused}");
        drop(held);
        lock(&run).unwrap();
    }

    #[test]
    fn a_directory_that_cannot_be_made_says_why() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(lock(&file.join("run")), Err(LockError::Unusable { .. })));
    }
}
