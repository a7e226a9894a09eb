//! The state machine by tables and properties, and the whole with real scripts.

mod machine;
mod properties;
mod scripts;
