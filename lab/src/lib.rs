//! Networks of namespaces, played failures, and what happened.

pub mod programs;
pub mod scenario;
