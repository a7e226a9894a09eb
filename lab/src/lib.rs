//! Networks of namespaces, played failures, and what happened.

pub mod bench;
pub mod cli;
pub mod doctor;
pub mod expect;
pub mod fault;
pub mod programs;
pub mod run;
pub mod scenario;
pub mod vm;
pub mod world;
