//! The last good configuration, kept over restarts and reboots.
//!
//! Objects are kept as they were when they were last valid, by name, with the file that they came from. So an agent
//! that starts with manifests that are unreadable, invalid or absent goes on with what was in force. It is a journal:
//! a change costs one line, written behind the change's way to the kernel; from time to time it is written anew.
//!
//! This is no record of what is in the kernel; that is the ledger of the data planes, which a reboot empties.

mod journal;
mod keeper;

pub use journal::{Loaded, Saved, load};
pub use keeper::{Keeper, KeeperStatus};

/// Name of the journal in the state directory.
pub const FILE: &str = "last-good.journal";
