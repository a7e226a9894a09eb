//! What the frames of kind JSON say.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Version of frames and messages. Host and machine must agree; a client that meets another one starts the machine anew.
pub const PROTOCOL: u32 = 2;

/// The executor's first words, and what a client learns of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hello {
    /// [`PROTOCOL`] of the executor.
    pub protocol: u32,
    /// Release of its kernel, as `uname -r` says.
    pub kernel: String,
    /// Processors that are online.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
}

/// How the boot goes, from the supervisor to each client. `Ready` and `Failed` are the last of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "state")]
pub enum Boot {
    /// Still booting.
    Booting {
        /// Since the start, in seconds.
        seconds: u64,
        /// What is being done now.
        what: String,
    },
    /// The executor answers.
    Ready {
        /// What it said.
        hello: Hello,
        /// `KVM` or `TCG`.
        accelerator: String,
        /// How long the boot took, in milliseconds.
        boot_millis: u64,
        /// Commands that live on after their call (a topology that is up).
        kept: u32,
        /// Clients that are connected, this one included.
        clients: u32,
        /// The supervisor's process.
        supervisor: u32,
    },
    /// It did not boot, or is gone.
    Failed {
        /// Why.
        reason: String,
        /// The last lines of its console.
        console: Vec<String>,
    },
}

/// What a client asks for. One at a time on a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Request {
    /// Run a command.
    Run(Command),
    /// Write a file; its contents follow as input.
    Put {
        /// Absolute path; missing directories are made.
        path: String,
        /// Permission bits.
        mode: u32,
    },
    /// Copy a file of the host, which the machine sees, into its own memory.
    Copy {
        /// Absolute path on the host, whether the machine hides it or not.
        from: String,
        /// Absolute path; missing directories are made.
        path: String,
        /// Permission bits.
        mode: u32,
        /// Its length in bytes: another one is refused.
        length: u64,
    },
    /// Read a file or a whole directory.
    Get {
        /// Absolute path.
        path: String,
    },
    /// Is there a file?
    Has {
        /// Absolute path.
        path: String,
    },
    /// Remove a file or a whole directory below the machine's own directories.
    Remove {
        /// Absolute path.
        path: String,
    },
    /// Make files and directories of the host visible at their own path where the machine hides them (below `/tmp` and `/run`,
    /// for instance).
    Expose {
        /// Absolute paths.
        paths: Vec<String>,
    },
}

/// A command to run in the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Command {
    /// Program and arguments.
    pub arguments: Vec<String>,
    /// Variables beside the executor's own.
    pub environment: BTreeMap<String, String>,
    /// Working directory; `/` when it is not there.
    pub directory: Option<String>,
    /// Give it a terminal.
    pub terminal: Option<Terminal>,
    /// Its standard input is what the client sends, else `/dev/null`.
    pub input: bool,
    /// What it leaves running lives on when it has ended by itself (a keeper).
    pub keep: bool,
    /// Milliseconds that it is given to end after its client has gone, before everything it started is killed.
    pub grace_millis: u64,
}

/// A terminal's size and kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Terminal {
    /// Rows.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
    /// `TERM`.
    pub kind: String,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Done {
    /// As asked.
    Ok,
    /// The answer to [`Request::Has`].
    Present(bool),
    /// The command exited with this code.
    Exited(i32),
    /// The command was ended by this signal.
    Signaled(i32),
    /// The command could not be started.
    NotStarted(String),
    /// It could not be done.
    Failed(String),
}

/// An entry of a directory that is being fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Entry {
    /// Path below what was asked for; empty for itself.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// A directory; else a regular file, whose contents follow.
    pub directory: bool,
}

/// The executor is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pong {
    /// Commands that live on after their call.
    pub kept: u32,
}
