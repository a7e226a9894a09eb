//! The probes of health checks: each connects to a target and says in an [`Outcome`] what it found.

pub use bascule_checks_core::Outcome;
