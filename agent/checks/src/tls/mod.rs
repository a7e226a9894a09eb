//! TLS: settings that probes share, the handshake, and errors in words.

mod words;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

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
pub const AUTHORITIES_MAX: usize = 256;

/// From looking for the system's authorities in vain to looking again: thousands of checks may ask at once.
const AGAIN: Duration = Duration::from_secs(10);

/// What one configuration differs from others in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    verify: Verify,
    http: bool,
}

/// What looking for the system's authorities came to, and when that was.
#[derive(Debug)]
struct Authorities {
    found: Result<Arc<RootCertStore>, String>,
    since: Instant,
}

impl Authorities {
    fn load() -> Self {
        let loaded = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(loaded.certs);
        let found = match loaded.errors.first() {
            _ if added > 0 => Ok(Arc::new(roots)),
            Some(error) => Err(error.to_string()),
            None => Err("none found".into()),
        };
        Self { found, since: Instant::now() }
    }

    fn is_of_use(&self) -> bool {
        self.found.is_ok() || self.since.elapsed() < AGAIN
    }
}

/// Configurations, one for each distinct set of settings.
///
/// Sessions are not resumed: a resumed one shows no certificate, so that one which expired would not be noticed as long as
/// the server knows the session, and a check is to prove that a client that comes for the first time is served.
#[derive(Debug)]
pub(crate) struct Configs {
    provider: Arc<CryptoProvider>,
    made: Mutex<HashMap<Key, Weak<ClientConfig>>>,
    /// The system's authorities, read when first needed. Where there were none, they are looked for again: somebody may have done
    /// as the message says.
    system: Mutex<Option<Authorities>>,
}

impl Configs {
    pub(crate) fn new() -> Self {
        Self {
            provider: Arc::new(rustls::crypto::ring::default_provider()),
            made: Mutex::default(),
            system: Mutex::default(),
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
        self.look(Authorities::load).map_err(PrepareError::NoAuthorities)
    }

    fn look(&self, load: impl FnOnce() -> Authorities) -> Result<Arc<RootCertStore>, String> {
        let mut system = self.system.lock().unwrap_or_else(PoisonError::into_inner);
        match &*system {
            Some(authorities) if authorities.is_of_use() => authorities.found.clone(),
            _ => system.insert(load()).found.clone(),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_are_looked_for_until_there_are_some() {
        let configs = Configs::new();
        let none = |since| Authorities { found: Err("none found".into()), since };
        let long_ago = Instant::now().checked_sub(2 * AGAIN).unwrap();
        assert!(configs.look(|| none(long_ago)).is_err());
        assert!(configs.look(|| none(Instant::now() + AGAIN)).is_err(), "looked again");
        assert!(configs.look(|| panic!("not at once")).is_err());
        configs.system.lock().unwrap().as_mut().unwrap().since = long_ago;
        let found = || Authorities { found: Ok(Arc::new(RootCertStore::empty())), since: long_ago };
        assert!(configs.look(found).is_ok());
        assert!(configs.look(|| panic!("once is enough")).is_ok());
    }
}
