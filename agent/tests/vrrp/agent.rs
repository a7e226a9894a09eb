//! The agent as a program.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::net::Machine;

/// The agent as a program, ended with the test.
pub(crate) struct Agent(Child);

impl Agent {
    /// Starts as director dir1 with the manifests of `DIRECTORY/m`; the files of `DIRECTORY/f` may be checks.
    pub(crate) fn start(machine: &Machine, directory: &Path) -> Self {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &machine.namespace, env!("CARGO_BIN_EXE_bascule-agent")]);
        command.args(["--director", "dir1", "--manifests", "m", "--allow-file", "f", "--listen", "none"]);
        command.args(["--run-dir", "run", "--state-dir", "state"]);
        for name in ["BASCULE_MANIFESTS", "BASCULE_DIRECTOR", "BASCULE_LISTEN", "NOTIFY_SOCKET"] {
            command.env_remove(name);
        }
        let child = command.current_dir(directory).stdin(Stdio::null()).spawn().unwrap();
        Self(child)
    }

    /// SIGTERM; waits until it has ended.
    pub(crate) fn terminate(mut self) {
        let process = nix::unistd::Pid::from_raw(self.0.id().cast_signed());
        nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.0.wait().unwrap();
    }
}

/// SIGKILL, as a crash.
impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
