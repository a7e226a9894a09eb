//! The API types of Bascule: what users write and what the operator writes for agents.

pub mod manifest;
