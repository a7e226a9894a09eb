//! The API server: what is heard from it, and what is sent to it.

pub mod events;
pub mod watch;
pub mod write;

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// How long a connection may take until it is there.
const CONNECT: Duration = Duration::from_secs(4);

/// A client of the cluster that a kubeconfig names, or of the one that this runs in; and the namespace that it has by default.
pub async fn connect(kubeconfig: Option<&Path>) -> anyhow::Result<(Client, String)> {
    let mut config = match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path)
                .with_context(|| format!("--kubeconfig {} cannot be used", path.display()))?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("--kubeconfig {} cannot be used", path.display()))?
        }
        None => Config::incluster().context(
            "this is not a pod with a ServiceAccount's token; name the cluster with --kubeconfig FILE",
        )?,
    };
    config.connect_timeout = Some(CONNECT);
    // When to try again is decided here: never after the term of office.
    config.default_retry = false;
    let namespace = config.default_namespace.clone();
    let client = Client::try_from(config).context("the API server cannot be talked to")?;
    Ok((client, namespace))
}

/// An error and what is behind it, on one line: the outermost alone says little.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    // Errors end; who made them need not be trusted with that.
    for _ in 0..8 {
        let Some(inner) = cause else { break };
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_behind_an_error_is_told_once() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let error = kube::Error::Service(Box::new(refused));
        assert_eq!(causes(&error), "ServiceError: connection refused");
    }
}
