//! A client of the API server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use super::heard::Trouble;

/// How long a connection may take until it is there.
const CONNECT: Duration = Duration::from_secs(4);
/// How long the answer to a single request may take.
pub const PATIENCE: Duration = Duration::from_secs(8);

/// Which cluster.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// A kubeconfig, whose current context counts; none: the one that this runs in.
    pub kubeconfig: Option<PathBuf>,
    /// The namespace of the Leases; none: that of the context or of the pod.
    pub namespace: Option<String>,
}

/// The API server, and how to talk to it.
#[derive(Clone)]
pub struct Connection {
    /// The client.
    pub client: Client,
    /// The namespace of the Leases.
    pub namespace: String,
    /// The server's address.
    pub server: String,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("server", &self.server).finish_non_exhaustive()
    }
}

/// Makes a client; nothing is sent yet. In a runtime only.
pub async fn connect(cluster: &Cluster) -> anyhow::Result<Connection> {
    // Only fails where one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut config = config(cluster.kubeconfig.as_deref()).await?;
    config.connect_timeout = Some(CONNECT);
    // When to try again is decided here.
    config.default_retry = false;
    let namespace = cluster.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
    let client = Client::try_from(config).context("the API server cannot be talked to")?;
    Ok(Connection { client, namespace, server })
}

async fn config(kubeconfig: Option<&Path>) -> anyhow::Result<Config> {
    let Some(path) = kubeconfig else {
        return Config::incluster().context(
            "this is not a pod with a ServiceAccount's token; name the cluster with --kubeconfig FILE",
        );
    };
    let unusable = || format!("--kubeconfig {} cannot be used", path.display());
    let file = Kubeconfig::read_from(path).with_context(unusable)?;
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.with_context(unusable)
}

/// What an error of a request means.
pub(super) fn trouble(error: &kube::Error) -> Trouble {
    match error {
        kube::Error::Api(status) => trouble_of(status.code, &status.message),
        other => Trouble::Lost(causes(other)),
    }
}

/// What an answer of that code means.
pub(super) fn trouble_of(code: u16, message: &str) -> Trouble {
    match code {
        401 => {
            Trouble::Unknown("it does not know the token or certificate that this agent shows (401)".into())
        }
        403 => Trouble::Denied(message.to_owned()),
        404 => Trouble::Denied(format!("{message} (404): are the definitions (crds/yaml) installed?")),
        410 => Trouble::Expired,
        _ => Trouble::Lost(format!("{code} {message}")),
    }
}

/// An error and what is behind it, on one line: the outermost alone says little.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
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
