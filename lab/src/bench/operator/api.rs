//! The API server as its administrator sees it: HTTP/1.1 over TLS, on connections that are kept.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bascule_api_server::ApiServer;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, IpAddr, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::journal::monotonic;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Most of an answer that an error shows.
const SHOWN: usize = 500;

/// Where it is and how to be believed.
#[derive(Clone)]
pub(super) struct Api {
    tls: TlsConnector,
    port: u16,
    authorization: String,
}

/// A connection; one request at a time.
pub(super) struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    authorization: String,
}

/// What was answered, with 2xx.
pub(super) struct Answer {
    pub(super) body: Bytes,
    /// When it had come, in nanoseconds of CLOCK_MONOTONIC.
    pub(super) at: u64,
}

impl Api {
    /// That server, for its administrator.
    pub(super) fn of(server: &ApiServer) -> Result<Self> {
        let path = server.certificate();
        let pem = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.with_context(|| format!("a certificate in {}", path.display()))?;
            roots.add(certificate).with_context(|| format!("a certificate in {}", path.display()))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("TLS versions")?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let authorization = format!("Bearer {}", server.token());
        Ok(Self { tls: TlsConnector::from(Arc::new(config)), port: server.port(), authorization })
    }

    /// One more connection.
    pub(super) async fn connect(&self) -> Result<Connection> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.context("connecting")?;
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(IpAddr::from(std::net::IpAddr::from([127, 0, 0, 1])));
        let stream = self.tls.connect(name, stream).await.context("agreeing on TLS")?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It ends with the sender; why it ends otherwise is told by the next request.
        tokio::spawn(connection);
        Ok(Connection { sender, authorization: self.authorization.clone() })
    }
}

impl Connection {
    /// Asks and waits for the whole answer. An error unless that is 2xx.
    pub(super) async fn ask(
        &mut self,
        method: Method,
        path: &str,
        kind: &str,
        body: Vec<u8>,
    ) -> Result<Answer> {
        let what = format!("{method} {path}");
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "127.0.0.1")
            .header(AUTHORIZATION, &self.authorization)
            .header(CONTENT_TYPE, kind)
            .body(Full::new(Bytes::from(body)))?;
        let asking = async {
            self.sender.ready().await?;
            let response = self.sender.send_request(request).await?;
            let status = response.status();
            let body = response.into_body().collect().await?.to_bytes();
            anyhow::Ok((status, Answer { body, at: monotonic() }))
        };
        let answer = tokio::time::timeout(PATIENCE, asking).await;
        let (status, answer) = answer
            .with_context(|| format!("{what}: no answer within {} s", PATIENCE.as_secs()))?
            .with_context(|| what.clone())?;
        let text = || String::from_utf8_lossy(&answer.body[..answer.body.len().min(SHOWN)]).into_owned();
        ensure!(status.is_success(), "{what}: {status}: {}", text());
        Ok(answer)
    }

    /// Reads an object or a list.
    pub(super) async fn get(&mut self, path: &str) -> Result<Value> {
        let answer = self.ask(Method::GET, path, "application/json", Vec::new()).await?;
        serde_json::from_slice(&answer.body).with_context(|| format!("GET {path}: no JSON"))
    }

    /// Makes an object.
    pub(super) async fn create(&mut self, path: &str, object: &Value) -> Result<Answer> {
        self.ask(Method::POST, path, "application/json", serde_json::to_vec(object)?).await
    }

    /// Changes an object with a JSON patch (RFC 6902).
    pub(super) async fn patch(&mut self, path: &str, patch: &Value) -> Result<Answer> {
        self.ask(Method::PATCH, path, "application/json-patch+json", serde_json::to_vec(patch)?).await
    }
}
