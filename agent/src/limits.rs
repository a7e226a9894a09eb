//! How many descriptors this process may have open.
//!
//! The soft limit is what a process gets unless it asks for more: 1,024 almost everywhere, for the sake of programs that use
//! select(2), which writes beyond its tables at a descriptor above that. The hard limit is what it may ask for. So the agent asks
//! for it, and whatever it starts gets the limit back that the agent itself was started with (`LimitNOFILE` in systemd.exec(5)).

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Taken for the limit where it cannot be read: what POSIX systems have always given.
const USUAL: u64 = 1_024;

/// Soft and hard limit at the start, once [`raise`] has raised the soft one.
static FIRST: OnceLock<(u64, u64)> = OnceLock::new();

/// Raises the soft limit of this process to its hard limit. Should the kernel refuse, as a filter of system calls may, it stays.
pub(crate) fn raise() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
            let _ = FIRST.set((soft, hard));
        }
        Ok((soft, hard))
    });
    match raised {
        Ok((soft, hard)) => tracing::debug!(soft, hard, "open files: at most {hard}"),
        Err(error) => tracing::warn!("the limit of open files stays at {}: {error}", descriptors()),
    }
}

/// How many descriptors this process may have open now.
pub(crate) fn descriptors() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(USUAL, |(soft, _)| soft)
}

/// The limit of what this process starts: the one that it had itself at first. None: as it is.
pub(crate) fn of_children() -> Option<libc::rlimit> {
    FIRST.get().map(|(soft, hard)| libc::rlimit { rlim_cur: *soft, rlim_max: *hard })
}

/// Gives the calling process a limit that [`of_children`] returned. For a child between fork and exec: it only makes a system call.
pub(crate) fn set(limit: Option<libc::rlimit>) -> io::Result<()> {
    let Some(limit) = limit else { return Ok(()) };
    // SAFETY: reads a value that lives on the stack.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Has a command be started with the limit that this process had itself at first.
pub(crate) fn give_back(command: &mut Command) -> &mut Command {
    let limit = of_children();
    // SAFETY: one system call, on a value that is ready: async-signal-safe.
    unsafe { command.pre_exec(move || set(limit)) }
}
