//! Pure: a snapshot of manifests in, what each director must do out.
//!
//! [`compile`] does it at once, [`Compiler`] keeps the answer up to date while objects change. The answer leaves no choice to
//! whoever carries it out: defaults are filled in, names are resolved, conflicts are decided. What is wrong with an object becomes
//! a [`Condition`] of that object and spares all others.

mod bind;
mod bounds;
mod checked;
mod checks;
mod claims;
mod compiler;
mod contest;
mod groups;
mod judge;
mod machine;
mod nat_rule;
mod problem;
mod service;
mod snapshot;
mod tracked;
mod types;
mod unsupported;
mod warnings;

pub use bounds::{MAX_ELEMENTS, MAX_PAIRS, MAX_SERVICES};
pub use checks::{MAX_AUTHORITIES, MAX_PATTERN};
pub use compiler::{Change, Compiler, Trust};
pub use judge::{SERVICE_LABEL, is_refused_whole, only_here, problems_of};
pub use machine::{Machine, OutOfService};
pub use snapshot::{Snapshot, compile};
pub use types::{
    BindingKey, CheckKey, Compiled, Condition, ConditionType, Delta, InvalidKey, NodeConfig, NodeDelta,
    Problem, Reason, Warning,
};
