//! Linux IPVS over generic netlink: everything that the kernel's `IPVS` family (version 1, `linux/ip_vs.h`) offers.
//!
//! * [`Client`]: a blocking client. It asks for the family (which loads `ip_vs`), sends [`Command`]s one by one or in batches,
//!   and reads services, destinations, sync daemons, timeouts and version.
//! * [`codec`]: bytes in, bytes out, no socket. Encodes commands and requests, decodes the kernel's answers.
//!
//! Needs CAP_NET_ADMIN in the initial user namespace; everything is per network namespace, that of the thread that called
//! [`Client::connect`].
//!
//! ```no_run
//! use bascule_ipvs::{Client, Command, Destination, Forwarding, Protocol, Service, ServiceId};
//!
//! let mut client = Client::connect()?;
//! let web = ServiceId::Address { protocol: Protocol::Tcp, address: "192.16.193.30".parse()?, port: 80 };
//! let srv1 = Destination::new("172.16.193.10".parse()?, 80, Forwarding::Masquerade);
//! client.execute(&Command::NewService(Service::new(web, "rr")))?;
//! client.execute(&Command::NewDestination(web, srv1))?;
//! for entry in client.services()? {
//!     println!("{} {}", entry.service.id, entry.service.scheduler);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

pub mod codec;

mod client;
mod command;
mod daemon;
mod destination;
mod error;
mod scheduler;
mod service;
mod stats;

pub use client::{Client, Options, Page};
pub use command::Command;
pub use daemon::{Daemon, DaemonRole, Info, Timeouts};
pub use destination::{
    Destination, DestinationEntry, DestinationId, Forwarding, Tunnel, TunnelFlags, TunnelKind,
};
pub use error::{CommandError, Error, InvalidCommand};
pub use nix::errno::Errno;
pub use scheduler::{NO_SCHEDULER, Scheduler, SchedulerFlag, UnknownScheduler};
pub use service::{
    Family, Netmask, Protocol, Service, ServiceEntry, ServiceFlags, ServiceId, UnknownProtocol,
};
pub use stats::Stats64;
