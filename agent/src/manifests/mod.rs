//! A directory of manifests as the source of the configuration.
//!
//! Pure: [`examine`](examine::examine) judges a file's bytes, the [`catalog::Catalog`] decides what files say that
//! appear, change, break and vanish, the [`engine::Engine`] compiles. I/O: [`disk`], [`watch`] and the
//! [`worker::Manifests`] thread, which does the work of a change and no more.

pub mod catalog;
pub mod check;
pub mod disk;
pub mod engine;
pub mod examine;
pub mod locate;
pub mod problem;
pub mod view;
pub mod worker;

pub use disk::FileName;
pub use problem::{Effect, Problem};
pub use view::{Condition, ObjectView, Summary, View};
pub use worker::{Manifests, Options};

#[cfg(test)]
mod tests;
