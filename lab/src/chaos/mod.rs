//! Random faults on the network of a scenario, and what has to be true throughout; what breaks it is reduced to few faults.
//!
//! `site` reads from topology and manifests who stands in for whom and how long that takes; `menu` says what can be broken; `plan`
//! draws from a seed what is broken when; `compile` makes an ordinary scenario of it, with the invariants as expectations; `reduce` is
//! delta debugging, and `hunt` tries its candidates. All of that is pure but for the player that `hunt` is given.

mod base;
mod compile;
mod hunt;
mod menu;
mod plan;
mod plant;
mod reduce;
mod session;
mod site;

pub(crate) use plant::Plant;
pub(crate) use session::{Chaos, Wanted, names};
