//! `smtp` against servers that behave, and against those that do not.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::common::*;
use bascule_checks::{Probe, Smtp};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

const PLAIN: Smtp = Smtp { helo: None, start_tls: false };
const START_TLS: Smtp = Smtp { helo: None, start_tls: true };

async fn line<S: AsyncRead + Unpin>(stream: &mut S) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\r\n") && stream.read(&mut byte).await.is_ok_and(|length| length > 0) {
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

/// Greets, then expects each command and gives its answer.
async fn play<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    greeting: &str,
    script: &[(&str, &str)],
) -> bool {
    let mut sent = stream.write_all(greeting.as_bytes()).await.is_ok();
    for (command, answer) in script {
        sent = sent && line(stream).await == *command && stream.write_all(answer.as_bytes()).await.is_ok();
    }
    sent
}

async fn scripted(greeting: &'static str, script: &'static [(&'static str, &'static str)]) -> SocketAddr {
    server(move |mut stream| async move {
        play(&mut stream, greeting, script).await;
    })
    .await
}

const QUIT: (&str, &str) = ("QUIT\r\n", "221 bye\r\n");

#[tokio::test]
async fn a_server_that_greets() {
    let address =
        scripted("220-mx.example\r\n220 ESMTP\r\n", &[("HELO dir1.example\r\n", "250 hello\r\n"), QUIT])
            .await;
    passed(&probe(&Probe::Smtp(PLAIN), address, LONG).await, "greeted");

    let address = scripted("220 x\r\n", &[("HELO [10.0.0.1]\r\n", "250 hello\r\n"), QUIT]).await;
    let smtp = Smtp { helo: Some("[10.0.0.1]".into()), start_tls: false };
    passed(&probe(&Probe::Smtp(smtp), address, LONG).await, "greeted");
}

#[tokio::test]
async fn servers_that_do_not_serve() {
    for (greeting, script, words) in [
        ("554 no\r\n", &[][..], "greeting: 554, wanted 220"),
        ("SSH-2.0-OpenSSH\r\n", &[], "the server sent something that is not SMTP"),
        ("", &[], "the server closed the connection"),
        ("220 x\r\n", &[("HELO dir1.example\r\n", "501 no\r\n")], "HELO: 501, wanted 250"),
        ("220 x\r\n", &[("HELO dir1.example\r\n", "250 ok\r\n")], "QUIT: the server closed the connection"),
    ] {
        let address = scripted(greeting, script).await;
        let outcome = probe(&Probe::Smtp(PLAIN), address, LONG).await;
        // A server that ends while something is still to be read resets the connection.
        let reset = outcome.message().ends_with("connection reset");
        assert!(!outcome.is_passed() && (reset || outcome.message() == words), "{words}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_server_that_says_nothing() {
    let address = server(|mut stream| async move {
        let _ = stream.read(&mut [0]).await;
    })
    .await;
    failed(&probe(&Probe::Smtp(PLAIN), address, SHORT).await, "no answer within 300ms");
}

#[tokio::test]
async fn replies_without_end() {
    for (more, words) in [
        (&b"220-and so on\r\n"[..], "a reply of more than 100 lines"),
        (b"220 xxxxxxxxxxxxx", "a reply with a line of more than 2048 bytes"),
    ] {
        let address = server(move |mut stream| async move {
            let more = more.repeat(1000);
            while stream.write_all(&more).await.is_ok() {}
        })
        .await;
        failed(&probe(&Probe::Smtp(PLAIN), address, LONG).await, words);
    }
}

#[tokio::test]
async fn a_wrong_name_is_refused() {
    let target = target("127.0.0.1:25".parse().unwrap());
    for bad in ["", "a b", "a\r\nMAIL FROM:<a@b>", &"a".repeat(256)] {
        let probe = Probe::Smtp(Smtp { helo: Some(bad.into()), start_tls: false });
        assert!(prober().prepare(&probe, &target).is_err(), "{bad:?}");
    }
}

/// Offers STARTTLS with a certificate that nobody could verify, then goes on over TLS.
async fn start_tls(mut stream: TcpStream, answer: &str) {
    let offered = ("EHLO dir1.example\r\n", "250-mx\r\n250 STARTTLS\r\n");
    if !play(&mut stream, "220 x\r\n", &[offered, ("STARTTLS\r\n", answer)]).await {
        return;
    }
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(self_signed("mx.example")));
    let Ok(mut stream) = acceptor.accept(stream).await else { return };
    play(&mut stream, "", &[("EHLO dir1.example\r\n", "250 hello\r\n"), QUIT]).await;
    let _ = stream.shutdown().await;
}

#[tokio::test]
async fn starttls() {
    let address = server(|stream| start_tls(stream, "220 go\r\n")).await;
    passed(&probe(&Probe::Smtp(START_TLS), address, LONG).await, "greeted, STARTTLS done");
}

#[tokio::test]
async fn starttls_that_is_none() {
    let address = scripted("220 x\r\n", &[("EHLO dir1.example\r\n", "250 mx\r\n")]).await;
    let outcome = probe(&Probe::Smtp(START_TLS), address, LONG).await;
    failed(&outcome, "the server does not offer STARTTLS");

    let address = server(|stream| start_tls(stream, "454 not now\r\n")).await;
    let outcome = probe(&Probe::Smtp(START_TLS), address, LONG).await;
    failed(&outcome, "STARTTLS: 454, wanted 220");

    let address = server(|stream| start_tls(stream, "220 go\r\n250 injected\r\n")).await;
    let outcome = probe(&Probe::Smtp(START_TLS), address, LONG).await;
    failed(&outcome, "the server sent more after its answer to STARTTLS");

    let address = server(|mut stream| async move {
        let offered = ("EHLO dir1.example\r\n", "250 STARTTLS\r\n");
        play(&mut stream, "220 x\r\n", &[offered, ("STARTTLS\r\n", "220 go\r\n")]).await;
        let _ = stream.read(&mut [0; 4096]).await;
        let _ = stream.write_all(b"500 what?\r\n").await;
        let _ = stream.read(&mut [0]).await;
    })
    .await;
    let outcome = probe(&Probe::Smtp(START_TLS), address, LONG).await;
    failed(&outcome, "the server sent something that is not TLS");
}
