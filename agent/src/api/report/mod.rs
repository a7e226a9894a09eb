//! What is written back: what became of each object here ([`wanted`]), and which of it is written now ([`plan`]). Both are pure.

pub mod plan;
pub mod wanted;
