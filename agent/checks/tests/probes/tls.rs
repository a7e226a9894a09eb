//! HTTPS: certificates that are right and wrong, and what is no TLS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::common::*;
use bascule_checks::{Http, Outcome, PrepareError, Probe, Tls, Verify};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const DAY: Duration = Duration::from_secs(86_400);

/// An authority, and its certificate in PEM.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: Arc<str>,
}

impl Authority {
    fn new() -> Self {
        Self::named("authority")
    }

    fn named(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem().into();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// TLS of a server with a certificate of this authority.
    fn server(&self, names: &[&str], change: impl Fn(&mut CertificateParams)) -> rustls::ServerConfig {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        server_config(certificate.der().clone(), &key)
    }
}

/// An HTTPS server.
async fn https(config: rustls::ServerConfig) -> SocketAddr {
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    server(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => request.push(byte),
                    Err(_) => return,
                }
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            let _ = stream.shutdown().await;
        }
    })
    .await
}

async fn ask(address: SocketAddr, host: &str, verify: Verify) -> Outcome {
    let tls = Some(Tls { server_name: None, verify });
    probe(&Probe::Http(Http { tls, host: Some(host.into()), ..Http::default() }), address, LONG).await
}

#[tokio::test]
async fn a_certificate_that_is_right() {
    let authority = Authority::new();
    let address = https(authority.server(&["www.example", "127.0.0.1"], |_| ())).await;
    let full = || Verify::Authorities(Arc::clone(&authority.pem));
    passed(&ask(address, "www.example", full()).await, "GET /: 200");
    passed(&ask(address, "www.example:8443", full()).await, "GET /: 200");
    // The address is in the certificate, too.
    passed(&ask(address, "127.0.0.1", full()).await, "GET /: 200");
    let tls = Some(Tls { server_name: Some("www.example".into()), verify: full() });
    let by_name = Http { tls, host: Some("other.example".into()), ..Http::default() };
    passed(&probe(&Probe::Http(by_name), address, LONG).await, "GET /: 200");
}

#[tokio::test]
async fn a_certificate_for_another_name() {
    let authority = Authority::new();
    let address = https(authority.server(&["other.example"], |_| ())).await;
    let outcome = ask(address, "www.example", Verify::Authorities(Arc::clone(&authority.pem))).await;
    failed(&outcome, "GET /: certificate is for other.example, not www.example");
    let outcome = ask(address, "127.0.0.1", Verify::Authorities(authority.pem)).await;
    failed(&outcome, "GET /: certificate is for other.example, not 127.0.0.1");
    passed(&ask(address, "www.example", Verify::Nothing).await, "GET /: 200");
}

#[tokio::test]
async fn a_certificate_at_another_time() {
    let authority = Authority::new();
    let now = SystemTime::now();
    let hour = Duration::from_secs(3600);
    for (before, after, words) in [
        (now - 30 * DAY, now - 3 * DAY - hour, "certificate expired 3 days ago"),
        (now + 2 * DAY + hour, now + 30 * DAY, "certificate is valid in 2 days"),
    ] {
        let config = authority.server(&["www.example"], |params| {
            params.not_before = before.into();
            params.not_after = after.into();
        });
        let address = https(config).await;
        let outcome = ask(address, "www.example", Verify::Authorities(Arc::clone(&authority.pem))).await;
        failed(&outcome, &format!("GET /: {words}"));
        passed(&ask(address, "www.example", Verify::Nothing).await, "GET /: 200");
    }
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority() {
    let (ours, theirs) = (Authority::new(), Authority::named("another"));
    let words = "GET /: certificate is self-signed or of an unknown authority";
    let address = https(theirs.server(&["www.example"], |_| ())).await;
    failed(&ask(address, "www.example", Verify::Authorities(Arc::clone(&ours.pem))).await, words);
    let impostor = https(Authority::new().server(&["www.example"], |_| ())).await;
    let outcome = ask(impostor, "www.example", Verify::Authorities(Arc::clone(&ours.pem))).await;
    failed(&outcome, "GET /: certificate is not signed by the authority that it names");
    let address = https(self_signed("www.example")).await;
    failed(&ask(address, "www.example", Verify::Authorities(ours.pem)).await, words);
    passed(&ask(address, "www.example", Verify::Nothing).await, "GET /: 200");
}

#[tokio::test]
async fn what_is_no_tls() {
    for answer in ["HTTP/1.1 400 Bad Request\r\n\r\n", "SSH-2.0-OpenSSH_9.2\r\n", "\0\0\0\0\0\0\0\0"] {
        let address = server(move |mut stream| async move {
            let _ = stream.write_all(answer.as_bytes()).await;
            // Keeps it open, so that what came is not overtaken by a reset.
            let _ = tokio::time::timeout(LONG, stream.read(&mut [0; 4096])).await;
            let _ = tokio::time::timeout(LONG, stream.read(&mut [0; 4096])).await;
        })
        .await;
        let outcome = ask(address, "www.example", Verify::Nothing).await;
        failed(&outcome, "GET /: the server sent something that is not TLS");
    }
}

#[tokio::test]
async fn a_handshake_that_does_not_come() {
    let address = server(|mut stream| async move {
        while stream.read(&mut [0; 512]).await.is_ok_and(|length| length > 0) {}
    })
    .await;
    let http = Http { tls: Some(Tls { server_name: None, verify: Verify::Nothing }), ..Http::default() };
    let outcome = probe(&Probe::Http(http), address, SHORT).await;
    failed(&outcome, "GET /: connected, but no TLS handshake within 300ms");
}

#[tokio::test]
async fn a_connection_that_ends_within_the_handshake() {
    let address = server(|mut stream| async move {
        let _ = stream.read(&mut [0; 4096]).await;
    })
    .await;
    let outcome = ask(address, "www.example", Verify::Nothing).await;
    failed(&outcome, "GET /: the server closed the connection within TLS");
}

#[test]
fn settings_are_shared_and_wrong_ones_refused() {
    let prober = prober();
    let target = target("127.0.0.1:443".parse().unwrap());
    let prepare = |tls| prober.prepare(&Probe::Http(Http { tls: Some(tls), ..Http::default() }), &target);
    for pem in ["", "hello", "-----BEGIN CERTIFICATE-----\nhello\n-----END CERTIFICATE-----\n"] {
        let tls = Tls { server_name: None, verify: Verify::Authorities(pem.into()) };
        let PrepareError::Invalid(invalid) = prepare(tls).unwrap_err() else { panic!("{pem}") };
        assert_eq!(invalid.field(), "http.tls.caBundle");
    }
    let tls = Tls { server_name: Some("a b".into()), verify: Verify::Nothing };
    assert!(prepare(tls).is_err());
    assert!(prepare(Tls { server_name: None, verify: Verify::Authorities(Authority::new().pem) }).is_ok());
}
