//! The Kubernetes API as the source of the configuration: what the operator wrote for this director, instead of a directory.
//!
//! Pure: [`heard`] judges objects, the [`source::Source`] decides what those that come, change, break and go mean for the
//! configuration, [`report`] what is to be written back and when. I/O: [`connect`], [`watch`], `secrets`, [`write`] and the [`Api`]
//! thread ([`worker`]), with a runtime of its own: whatever becomes of the API server, nothing else of the agent waits for it.

pub mod connect;
pub mod fetch;
pub mod heard;
mod link;
pub mod report;
mod secrets;
pub mod source;
pub mod wanted;
pub mod watch;
pub mod worker;
pub mod write;

pub use link::LinkStatus;
pub use worker::{Api, Options};
