//! What can go wrong while a world is built, changed or removed.

use std::io;

/// An error of the harness itself, never of what it tests.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call to the system failed.
    #[error("{what}: {source}")]
    System {
        /// What was being done, with the node or path it was done to.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// Something is not as it has to be; the text says what, where, and the way out where there is one.
    #[error("{0}")]
    Wrong(String),
    /// It was given up because the run was told to end.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// An error with a text of its own.
    pub fn wrong(text: impl Into<String>) -> Self {
        Self::Wrong(text.into())
    }

    /// The same with what it is about in front.
    #[must_use]
    pub(crate) fn of(self, what: &str) -> Self {
        match self {
            Self::Interrupted => Self::Interrupted,
            error => Self::Wrong(format!("{what}: {error}")),
        }
    }
}

/// The result of everything that touches the system here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Says what was being done when a call failed.
pub trait Doing<T> {
    /// Turns the failure into an [`Error`] that begins with `what()`.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::System { what: what(), source })
    }
}

impl<T> Doing<T> for nix::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|errno| Error::System { what: what(), source: errno.into() })
    }
}
