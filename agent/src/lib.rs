//! The node agent: manifests become IPVS services, addresses and rules of this machine's kernel.
//!
//! [`manifests`] reads a directory, compiles it and says what changed, or [`api`] follows what the operator wrote; [`endpoints`] puts the endpoints of Services in; [`reconcile`] has the kernel's tables ([`plane`]) follow;
//! [`checks`] finds out which real servers are alive; [`vrrp`] settles with the other directors who has a group's addresses, with keys of
//! files or of [`secrets`];
//! [`state`] keeps the last good configuration; [`status`] and [`http`] tell how it goes; [`cli`] is the program.

pub mod api;
pub mod checks;
pub mod cli;
pub mod endpoints;
pub mod exec;
pub mod groups;
pub mod http;
mod limits;
pub mod manifests;
mod memory;
pub mod notify;
pub mod plane;
mod priority;
pub mod reconcile;
pub mod secrets;
pub mod services;
pub mod source;
pub mod state;
pub mod status;
pub mod vrrp;
mod watch;
