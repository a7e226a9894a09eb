//! Why a program did not run to its end.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why a program did not run to its end: names the program, what is wrong, and the way out.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ExecError {
    /// The agent may run none.
    #[error("{}no program may be run: start the agent with --allow-exec DIR, a directory of root's with the programs",
        program.as_ref().map(|program| format!("{program}: ")).unwrap_or_default())]
    NoDirectory {
        /// The program.
        program: Option<String>,
    },
    /// It, or a directory on the way to it, could be changed by others, or is no program.
    #[error("{}: {why}", path.display())]
    Refused {
        /// What.
        path: PathBuf,
        /// Why, and the way out.
        why: String,
    },
    /// The user of `--exec-user` cannot be used.
    #[error("--exec-user {user}: {why}")]
    User {
        /// Its name.
        user: String,
        /// Why.
        why: String,
    },
    /// A program of the system is not there.
    #[error("{program} is not installed (looked in /usr/bin, /bin, /usr/sbin and /sbin)")]
    NotInstalled {
        /// The program.
        program: String,
    },
    /// It could not be started.
    #[error("{} cannot be started: {why}", path.display())]
    Start {
        /// The program.
        path: PathBuf,
        /// Why, and the way out.
        why: String,
    },
    /// It could not be started now: the machine lacks something, such as descriptors, memory or processes.
    #[error("{} cannot be started now: {why}", path.display())]
    Shortage {
        /// The program.
        path: PathBuf,
        /// What it lacks.
        why: String,
    },
    /// As many as may run at once ran all the time.
    #[error("{program}: no place for it within {after:?}: {at_once} programs run, and more may not at once")]
    Busy {
        /// The program.
        program: String,
        /// How long it waited.
        after: Duration,
        /// How many may.
        at_once: usize,
    },
    /// Its time was over.
    #[error("{program} was killed with its children: it had not ended after {after:?}{}",
        if last.is_empty() { String::new() } else { format!("; it said last: {last}") })]
    TimedOut {
        /// The program.
        program: String,
        /// Its time.
        after: Duration,
        /// The last line of its output, at most 80 characters.
        last: String,
    },
    /// Whoever called it wants it no more.
    #[error("{program} was cancelled")]
    Cancelled {
        /// The program.
        program: String,
    },
    /// The kernel refused something else.
    #[error("{program}: {what}: {why}")]
    System {
        /// The program.
        program: String,
        /// What was done.
        what: &'static str,
        /// The error.
        why: String,
    },
}

impl ExecError {
    /// Of a program that could not be started.
    pub(crate) fn start(path: &Path, error: &io::Error, why: String) -> Self {
        let path = path.to_owned();
        match error.raw_os_error() {
            // Of fork(2) and, for a user with as many processes as it may have (RLIMIT_NPROC), of execve(2).
            Some(libc::EAGAIN | libc::EMFILE | libc::ENFILE | libc::ENOMEM) => Self::Shortage { path, why },
            _ => Self::Start { path, why },
        }
    }

    /// Whether the program was not begun because the agent or its machine lacked what that takes: it says nothing about what the
    /// program would have found.
    pub fn is_shortage(&self) -> bool {
        matches!(self, Self::Shortage { .. } | Self::Busy { .. })
    }

    /// Whether it would be the same again a moment later: it cannot be run as things are.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::NoDirectory { .. }
            | Self::Refused { .. }
            | Self::User { .. }
            | Self::NotInstalled { .. }
            | Self::Start { .. } => true,
            Self::Shortage { .. }
            | Self::Busy { .. }
            | Self::TimedOut { .. }
            | Self::Cancelled { .. }
            | Self::System { .. } => false,
        }
    }
}
