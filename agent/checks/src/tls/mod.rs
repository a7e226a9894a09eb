//! TLS: settings that probes share, the handshake, and errors in words.

mod words;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::course::{Course, Phase};
use crate::probe::Verify;
use crate::socket::Connection;
use crate::{Invalid, PrepareError};

pub(crate) use words::words;

/// Certificates of authorities in one bundle at most.
const AUTHORITIES_MAX: usize = 256;

/// What one configuration differs from others in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    verify: Verify,
    http: bool,
}

/// Configurations, one for each distinct set of settings.
///
/// Sessions are not resumed: a resumed one shows no certificate, so that one which expired would not be noticed as long as
/// the server knows the session, and a check is to prove that a client that comes for the first time is served.
#[derive(Debug)]
pub(crate) struct Configs {
    provider: Arc<CryptoProvider>,
    made: Mutex<HashMap<Key, Weak<ClientConfig>>>,
    /// The system's authorities, read when first needed.
    system: OnceLock<Result<Arc<RootCertStore>, String>>,
}

impl Configs {
    pub(crate) fn new() -> Self {
        Self {
            provider: Arc::new(rustls::crypto::ring::default_provider()),
            made: Mutex::default(),
            system: OnceLock::new(),
        }
    }

    /// The configuration for what is verified; with the protocol HTTP/1.1 named (ALPN) for HTTP.
    pub(crate) fn get(&self, verify: &Verify, http: bool) -> Result<Arc<ClientConfig>, PrepareError> {
        let key = Key { verify: verify.clone(), http };
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = made.get(&key).and_then(Weak::upgrade) {
            return Ok(config);
        }
        let config = Arc::new(self.make(&key)?);
        made.retain(|_, config| config.strong_count() > 0);
        made.insert(key, Arc::downgrade(&config));
        Ok(config)
    }

    fn make(&self, key: &Key) -> Result<ClientConfig, PrepareError> {
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| Invalid::new("http.tls", error.to_string()))?;
        let builder = match &key.verify {
            Verify::System => builder.with_root_certificates(self.system()?),
            Verify::Authorities(pem) => builder.with_root_certificates(authorities(pem)?),
            Verify::Nothing => {
                let algorithms = self.provider.signature_verification_algorithms;
                builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(algorithms)))
            }
        };
        let mut config = builder.with_no_client_auth();
        config.resumption = Resumption::disabled();
        if key.http {
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
        }
        Ok(config)
    }

    fn system(&self) -> Result<Arc<RootCertStore>, PrepareError> {
        let roots = self.system.get_or_init(|| {
            let found = rustls_native_certs::load_native_certs();
            let mut roots = RootCertStore::empty();
            let (added, _) = roots.add_parsable_certificates(found.certs);
            match found.errors.first() {
                _ if added > 0 => Ok(Arc::new(roots)),
                Some(error) => Err(error.to_string()),
                None => Err("none found".into()),
            }
        });
        roots.clone().map_err(PrepareError::NoAuthorities)
    }
}

/// The authorities of a bundle in PEM.
fn authorities(pem: &str) -> Result<RootCertStore, Invalid> {
    let invalid = |reason: String| Invalid::new("http.tls.caBundle", reason);
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|_| invalid("is not valid PEM".into()))?;
        roots.add(certificate).map_err(|_| {
            invalid(format!("certificate {} is not one of an authority", roots.roots.len() + 1))
        })?;
        if roots.roots.len() > AUTHORITIES_MAX {
            return Err(invalid(format!("has more than {AUTHORITIES_MAX} certificates")));
        }
    }
    if roots.is_empty() { Err(invalid("has no certificate".into())) } else { Ok(roots) }
}

/// Takes any certificate whose key the server proves to have.
#[derive(Debug)]
struct AnyCertificate(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

/// Does the handshake on a connection.
pub(crate) async fn handshake(
    connection: Connection,
    config: &Arc<ClientConfig>,
    name: &ServerName<'static>,
    course: &Course,
) -> Result<TlsStream<Connection>, String> {
    course.enter(Phase::Handshake);
    // The request follows the end of the handshake at once, in a segment of its own.
    connection.no_delay()?;
    let connector = TlsConnector::from(Arc::clone(config));
    connector.connect(name.clone(), connection).await.map_err(|error| words(&error))
}
