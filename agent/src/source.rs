//! Where the configuration comes from: a directory, or the Kubernetes API.

use std::sync::Arc;
use std::time::Duration;

use crate::api::{Api, LinkStatus};
use crate::manifests::{Manifests, Summary, View};
use crate::status::Gatherer;

/// The running source.
#[derive(Debug)]
pub enum Source {
    /// A directory.
    Manifests(Manifests),
    /// The Kubernetes API.
    Api(Api),
}

impl Source {
    /// Looks at everything again, soon.
    pub fn rescan(&self) {
        match self {
            Self::Manifests(manifests) => manifests.rescan(),
            Self::Api(api) => api.rescan(),
        }
    }

    /// Everything that it says. None when it is busy for longer than `wait`, or ended.
    pub async fn view(&self, wait: Duration) -> Option<Arc<View>> {
        match self {
            Self::Manifests(manifests) => manifests.view(wait).await,
            Self::Api(api) => api.view(wait).await,
        }
    }

    /// The figures, at once.
    pub fn summary(&self) -> Summary {
        match self {
            Self::Manifests(manifests) => manifests.summary(),
            Self::Api(api) => api.summary(),
        }
    }

    /// How it stands with the API server; none with a directory.
    pub fn link(&self) -> Option<LinkStatus> {
        match self {
            Self::Manifests(_) => None,
            Self::Api(api) => Some(api.link()),
        }
    }

    /// Tells the source, from now on, what became of what it said.
    pub fn report(&self, gatherer: &Arc<Gatherer>) {
        if let Self::Api(api) = self {
            api.report(gatherer);
        }
    }

    /// Whether its thread works.
    pub fn is_alive(&self) -> bool {
        match self {
            Self::Manifests(manifests) => manifests.is_alive(),
            Self::Api(api) => api.is_alive(),
        }
    }

    /// Ends it. With `leave` it says that nobody follows. No update comes after this.
    pub fn stop(&self, leave: bool) {
        match self {
            Self::Manifests(manifests) => manifests.stop(),
            Self::Api(api) => api.stop(leave),
        }
    }
}
