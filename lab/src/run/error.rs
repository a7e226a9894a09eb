//! Why a run could not be played to its end.

use crate::world;

/// Never a fault of what is tested.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The harness itself failed.
    #[error("{0}")]
    Harness(String),
    /// Somebody interrupted it.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    pub(super) fn harness(text: impl Into<String>) -> Self {
        Self::Harness(text.into())
    }
}

impl From<world::Error> for Error {
    fn from(error: world::Error) -> Self {
        match error {
            world::Error::Interrupted => Self::Interrupted,
            error => Self::Harness(error.to_string()),
        }
    }
}

pub(super) type Result<T, E = Error> = std::result::Result<T, E>;
