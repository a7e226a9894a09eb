//! Health checking without I/O.

mod outcome;

pub use outcome::{MESSAGE_MAX, Outcome};
