//! Why a probe cannot be run at all.

/// A setting that no probe can be made of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Invalid {
    field: &'static str,
    reason: String,
}

impl Invalid {
    pub(crate) fn new(field: &'static str, reason: impl Into<String>) -> Self {
        Self { field, reason: reason.into() }
    }

    /// Which field of a HealthCheck's spec, such as `http.path`.
    pub fn field(&self) -> &'static str {
        self.field
    }

    /// What is wrong with it.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

/// Why a probe cannot be made ready.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrepareError {
    /// A setting is wrong.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// Certificates shall be verified against the system's authorities, and there are none.
    #[error(
        "this machine has no certificate authorities ({0}): install ca-certificates, or set http.tls.caBundle"
    )]
    NoAuthorities(String),
}

/// Why a page was not fetched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The request cannot be made.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// It failed, in words for a person.
    #[error("{0}")]
    Failed(String),
}
