//! The small programs that run inside the nodes of a topology: servers that say who they are, open-loop clients, and
//! captures of a link. Each is a hidden subcommand of `bascule-lab`, so that a node needs no other binary.
//!
//! They share one time base: `CLOCK_MONOTONIC` in nanoseconds, which all nodes of a run read from the same kernel.

pub mod answer;
pub mod capture;
pub mod clock;
pub mod hold;
pub mod load;
mod packet_socket;
pub mod pcapng;
pub mod record;
pub mod serve;
