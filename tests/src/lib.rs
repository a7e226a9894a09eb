//! End-to-end tests of Bascule; see the files under `tests/`.

pub mod api_server;
pub mod operator;
