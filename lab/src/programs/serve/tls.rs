//! TLS of a server: a file in PEM with its certificate, those that signed it, and its key.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// No file with a certificate is longer.
const FILE_MAX: u64 = 256 * 1024;
/// How long a client may take to agree.
const HANDSHAKE: Duration = Duration::from_secs(30);

/// What answers with the certificate of that file; whether it is valid is for the client to say.
pub(super) fn acceptor(path: &Path) -> anyhow::Result<TlsAcceptor> {
    let length = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
    anyhow::ensure!(length <= FILE_MAX, "{} is longer than {FILE_MAX} bytes", path.display());
    let pem = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let certificates = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| format!("the certificates in {}", path.display()))?;
    let key =
        PrivateKeyDer::from_pem_slice(&pem).with_context(|| format!("the key in {}", path.display()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("TLS versions")?
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .with_context(|| format!("certificate and key in {}", path.display()))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Agrees with a client; none when they do not agree, which is the client's affair.
pub(super) async fn agree(acceptor: &TlsAcceptor, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
    tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await.ok()?.ok()
}
