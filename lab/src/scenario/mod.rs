//! The scenario language: one YAML file with a topology, steps and expectations.

pub mod fault;
pub mod topology;
pub mod value;

pub use fault::Fault;
pub use topology::Topology;
pub use value::{Prefix, Span};
