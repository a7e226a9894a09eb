//! Servers on loopback that behave as the tests want them to.

use std::future::Future;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bascule_checks::{Outcome, Probe, Prober, Settings, Target};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// How long a probe of a test may take where the machine shall not decide.
pub(crate) const LONG: Duration = Duration::from_secs(60);
/// How long a probe of a test takes that is to run into its timeout.
pub(crate) const SHORT: Duration = Duration::from_millis(300);

/// A TCP server: each connection is handed to `serve`.
pub(crate) async fn server<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// A server that reads a request's head, then sends these bytes and closes.
pub(crate) async fn answering(answer: impl Into<Vec<u8>>) -> SocketAddr {
    let answer = answer.into();
    server(move |mut stream| {
        let answer = answer.clone();
        async move {
            head(&mut stream).await;
            let _ = stream.write_all(&answer).await;
        }
    })
    .await
}

/// Reads up to an empty line.
pub(crate) async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).await.is_ok_and(|length| length > 0) {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

pub(crate) fn target(address: SocketAddr) -> Target {
    Target { address: address.ip(), port: address.port(), source: None, mark: None }
}

pub(crate) fn prober() -> Prober {
    Prober::new(Settings { helo: "dir1.example".into() })
}

/// Probes once, and holds the probe to its timeout, with a margin for a busy machine.
pub(crate) async fn probe(probe: &Probe, address: SocketAddr, timeout: Duration) -> Outcome {
    let prepared = prober().prepare(probe, &target(address)).unwrap();
    let start = Instant::now();
    let outcome = prepared.run(timeout).await;
    assert!(start.elapsed() < timeout + Duration::from_secs(20), "{:?}: {outcome:?}", start.elapsed());
    outcome
}

#[track_caller]
pub(crate) fn passed(outcome: &Outcome, message: &str) {
    assert_eq!((outcome.message(), outcome.is_passed()), (message, true));
}

#[track_caller]
pub(crate) fn failed(outcome: &Outcome, message: &str) {
    assert_eq!((outcome.message(), outcome.is_passed(), outcome.is_decided()), (message, false, true));
}

#[track_caller]
pub(crate) fn undecided(outcome: &Outcome, message: &str) {
    assert_eq!((outcome.message(), outcome.is_decided()), (message, false));
}

/// TLS of a server whose certificate signs itself.
pub(crate) fn self_signed(name: &str) -> rustls::ServerConfig {
    let certified = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    server_config(certified.cert.der().clone(), &certified.signing_key)
}

/// TLS of a server with a certificate.
pub(crate) fn server_config(
    certificate: rustls::pki_types::CertificateDer<'static>,
    key: &rcgen::KeyPair,
) -> rustls::ServerConfig {
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    rustls::ServerConfig::builder_with_provider(std::sync::Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap()
}

/// Runs `test` on a thread in a fresh network namespace, where it is root; elsewhere the test says that it does not run.
pub(crate) fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        if let Err(errno) = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET) {
            let required = std::env::var_os("BASCULE_KERNEL_TESTS").is_some_and(|value| value == "require");
            assert!(!required, "BASCULE_KERNEL_TESTS=require, but there is no network namespace ({errno})");
            eprintln!("not run here: no network namespace ({errno})");
            return;
        }
        run("ip", "link set lo up");
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a program in this thread's namespace; it must succeed.
pub(crate) fn run(program: &str, arguments: &str) {
    let output = std::process::Command::new(program).args(arguments.split_whitespace()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments}: {said}");
}
