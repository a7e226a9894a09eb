//! End-to-end tests of Bascule; see the files under `tests/`.
