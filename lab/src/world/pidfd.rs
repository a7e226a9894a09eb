//! Handles on processes, which never come to mean another process that has got the number of one that ended.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// A handle on a process (`pidfd_open(2)`, Linux 5.3).
pub(crate) fn open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: a system call with plain numbers; on success it returns a descriptor that is ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: just made.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A handle on a process if it is a child of `parent`, which is one that the caller has not collected: a number that somebody else has got
/// by now is refused.
pub(crate) fn open_child(pid: Pid, parent: Pid) -> io::Result<OwnedFd> {
    let handle = open(pid)?;
    // Read after the handle was made: the process that it means has this parent, or had ended before.
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let of = status.lines().find_map(|line| line.strip_prefix("PPid:")).map(str::trim);
    if of == Some(parent.to_string().as_str()) {
        Ok(handle)
    } else {
        Err(io::Error::new(io::ErrorKind::NotFound, format!("process {pid} is no child of {parent}")))
    }
}

/// Sends a signal (`pidfd_send_signal(2)`, Linux 5.1). ESRCH when the process has ended.
pub(crate) fn signal(process: BorrowedFd<'_>, signal: Signal) -> io::Result<()> {
    // SAFETY: a system call with plain numbers and no pointer but null.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            signal as i32,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn only_the_process_that_is_meant_is_signalled() {
        let own = Pid::from_raw(std::process::id().cast_signed());
        let mut child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().expect("sleep starts");
        let pid = Pid::from_raw(child.id().cast_signed());
        let stranger = open_child(own, pid).expect_err("this process is no child of its child");
        assert_eq!(stranger.kind(), io::ErrorKind::NotFound);
        let handle = open_child(pid, own).expect("its child");
        signal(handle.as_fd(), Signal::SIGKILL).expect("it runs");
        child.wait().expect("collected");
        // Whoever gets the number now is not meant.
        let error = signal(handle.as_fd(), Signal::SIGKILL).expect_err("it has ended");
        assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
    }
}
