//! The virtual machine: a distribution kernel for scenarios that the host's kernel cannot play.
//!
//! ```text
//!  host                                                     machine
//!  bascule-lab run ──┐                                       ┌─ bascule-lab run --kernel host
//!  bascule-lab exec ─┼─ control.sock ─ supervisor ─ QEMU ─ virtio-serial ─ executor ─┼─ bascule-lab exec …
//!  make test ────────┘    (0600)        (lives on)           └─ a test's program
//! ```
//! The first call starts the supervisor, which boots the machine with virtme-ng; later calls find it. Several calls at once share
//! it. It ends when nobody has called for ten minutes and no topology is up in it, with `bascule-lab vm stop`, and when the
//! supervisor dies. Only root and the user who started it can reach it: the channel is a Unix socket in a directory of that user's.

mod client;
mod console;
pub mod dir;
pub mod executor;
pub mod find;
pub mod frame;
mod interact;
pub mod kvm;
pub mod launch;
pub mod message;
pub mod programs;
mod start;
pub mod supervise;
mod terminal;
mod transfer;

use std::time::Duration;

pub use client::Vm;
pub use interact::Interaction;

/// What drives the machine's processors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Accelerator {
    /// Hardware virtualisation when a test boot shows that it works, else emulation.
    #[default]
    Auto,
    /// Hardware virtualisation only.
    Kvm,
    /// Emulation only.
    Tcg,
}

impl Accelerator {
    fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// How a machine is started when there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Processors; `None`: as many as the host has, at least 2, at most 8.
    pub cpus: Option<u32>,
    /// Memory in MiB; `None`: 2048.
    pub memory_mib: Option<u32>,
    /// What drives the processors.
    pub accelerator: Accelerator,
    /// A network card, on which the host's loopback is 10.0.2.2.
    pub network: bool,
    /// Without a client for so long, it is ended.
    pub idle: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cpus: None,
            memory_mib: None,
            accelerator: Accelerator::Auto,
            network: false,
            idle: Duration::from_secs(600),
        }
    }
}

impl Settings {
    fn cpus(&self) -> u32 {
        let host = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        self.cpus.unwrap_or_else(|| u32::try_from(host.clamp(2, 8)).unwrap_or(2))
    }

    fn memory_mib(&self) -> u32 {
        self.memory_mib.unwrap_or(2048)
    }
}
