//! x
#![forbid(unsafe_code)]

pub mod authentication;
pub mod foreign;
pub mod group;
pub mod packet;
pub mod resume;
pub mod router;
pub mod timers;

mod endpoint;
mod time;

pub use endpoint::{AddressCheck, AddressesDiffer, Authentication, Checksum, Heard, Peers, Rejection};
pub use group::{Action, Group, GroupConfig, GroupState, Input, InstanceConfig, Link, RouterId};
pub use time::{BootTime, Now, UnixTime};
