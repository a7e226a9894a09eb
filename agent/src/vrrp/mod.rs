//! VRRP on this machine: which groups' addresses are here.
//!
//! One thread ([`thread`]) speaks and listens, with real-time priority where it may. It owns the raw sockets ([`wire`]), the groups'
//! addresses ([`kernel`]) and the library's state machines ([`member`]), and waits for nobody: keys are read before it gets them,
//! log lines, hooks and the disk are another thread's ([`voice`]). What it does is in [`driver`], [`holding`] (addresses), [`routing`] (routes and rules), [`mac`] (virtual MAC addresses), [`life`] (beginning and end of a group),
//! [`yielding`] (services that are stopped before a hand-over) and [`change`]; what it decides is decided by
//! `bascule_vrrp`, which has neither sockets nor a clock.
//!
//! ```text
//! configuration ─► Handle ─► GroupPlan ─► ┌────────────────────────┐ ─► advertisements, gratuitous ARP
//! switchover, stop, status ─────────────► │ thread: poll, turn     │ ─► addresses (rtnetlink)
//! rtnetlink, protocol 112 ──────────────► │  Driver ─► Group       │ ─► record in /run
//!                                         └───────────┬────────────┘
//!                                                     └─► voice: log, transitions, services, disk
//! ```

mod addresses;
mod announce;
mod change;
mod clock;
mod config;
mod driver;
mod handle;
mod holding;
mod inherit;
mod kernel;
mod life;
mod mac;
mod member;
mod network;
mod packet_socket;
mod record;
mod routing;
mod secret;
mod status;
mod thread;
mod voice;
mod wire;
mod yielding;

pub use driver::Arm;
pub use handle::{Handle, Options, SpawnError};
pub use inherit::give;
pub use status::{DifferenceStatus, ForeignStatus, GroupStatus, InstanceStatus, VrrpStatus};
pub use voice::{Observer, Transition, Yield};

pub use config::{SERVICES, check_tracker, service_tracker};
