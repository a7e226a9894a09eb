//! End-to-end tests of Bascule; see the files under `tests/`.

pub mod api_server;
pub mod bad_line;
pub mod chart;
pub mod helm;
pub mod operator;

use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Has a program that is started end with the thread that starts it, however that ends.
pub fn die_with_us(command: &mut Command) -> &mut Command {
    // SAFETY: prctl is async-signal-safe, and nothing else happens between fork and exec.
    unsafe {
        command.pre_exec(|| {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == -1 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        })
    }
}
