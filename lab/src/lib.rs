//! Networks of namespaces, played failures, and what happened.

pub mod expect;
pub mod fault;
pub mod programs;
pub mod scenario;
pub mod vm;
pub mod world;
