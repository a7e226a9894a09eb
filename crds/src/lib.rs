//! The API types of Bascule: what users write and what the operator writes for agents.

pub mod manifest;

/// Judges manifests.
pub mod validate {
    pub mod structural;
}
