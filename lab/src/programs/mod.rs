//! The small programs that run inside the nodes of a topology: servers that say who they are, open-loop clients, and
//! captures of a link. Each is a hidden subcommand of `bascule-lab`, so that a node needs no other binary.
//!
//! They share one time base: `CLOCK_MONOTONIC` in nanoseconds, which all nodes of a run read from the same kernel.

pub mod answer;
pub mod behaviour;
pub mod capture;
pub mod clock;
pub mod hold;
pub mod load;
mod packet_socket;
mod patience;
pub mod pcapng;
mod ping;
pub mod record;
pub mod rogue;
pub mod serve;
mod target;

use std::process::ExitCode;

/// The programs as subcommands.
#[derive(Debug, clap::Subcommand)]
pub enum Program {
    /// Small servers that say who they are.
    #[command(hide = true)]
    Serve(serve::ServeArgs),
    /// An open-loop client, or held connections.
    #[command(hide = true)]
    Load(load::LoadArgs),
    /// Every frame of a link into a pcapng file.
    #[command(hide = true)]
    CaptureLink(capture::CaptureArgs),
    /// Forged, repeated and malformed advertisements of VRRP.
    #[command(hide = true)]
    Rogue(rogue::RogueArgs),
}

impl Program {
    /// Runs it to its end.
    ///
    /// # Errors
    /// What kept it from running at all.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        go_first();
        match self {
            Self::Serve(args) => serve::run(args),
            Self::Load(args) => load::run(args),
            Self::CaptureLink(args) => capture::run(args),
            Self::Rogue(args) => rogue::run(&args),
        }
    }
}

/// How far these programs go before others, where they may (setpriority(2)).
const NICENESS: libc::c_int = -10;

/// Clients, servers and whoever listens on a cable are machines of their own: in the lab they share processors with the directors, and what
/// a director is busy with must not look like a slow network or a late client.
fn go_first() {
    // SAFETY: takes and returns numbers only. Where it is not allowed, all goes on at the usual priority.
    let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) };
}
