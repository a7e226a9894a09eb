//! End-to-end tests of Bascule; see the files under `tests/`.

pub mod bad_line;
pub mod chart;
pub mod helm;
pub mod widens;

pub use bascule_api_server as api_server;
pub use bascule_api_server::{die_with_us, operator};
