//! `http` against servers that behave, and against those that do not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::common::*;
use bascule_checks::{Digest, Http, Method, Probe, StatusCodes, Version};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn http(http: Http) -> Probe {
    Probe::Http(http)
}

fn plain() -> Probe {
    http(Http::default())
}

#[tokio::test]
async fn a_page_passes() {
    let address = answering("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await;
    passed(&probe(&plain(), address, LONG).await, "GET /: 200");
    let page = http(Http { path: "/index.html".into(), ..Http::default() });
    passed(&probe(&page, address, LONG).await, "GET /index.html: 200");
}

#[tokio::test]
async fn the_status_code_decides() {
    let address = answering("HTTP/1.1 503 Service Unavailable\r\n\r\n").await;
    let page = Http { path: "/index.html".into(), ..Http::default() };
    let outcome = probe(&http(page.clone()), address, LONG).await;
    failed(&outcome, "GET /index.html: 503, wanted 200-299");
    let exactly = Http { status: StatusCodes::parse(&["200"]).unwrap(), ..page.clone() };
    failed(&probe(&http(exactly), address, LONG).await, "GET /index.html: 503, wanted 200");
    let also = Http { status: StatusCodes::parse(&["200", "500-599"]).unwrap(), ..page };
    passed(&probe(&http(also), address, LONG).await, "GET /index.html: 503");
}

#[tokio::test]
async fn a_redirect_is_a_status_code_and_is_not_followed() {
    let asked = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&asked);
    let address = server(move |mut stream| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move {
            head(&mut stream).await;
            let _ = stream.write_all(b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n").await;
        }
    })
    .await;
    failed(&probe(&plain(), address, LONG).await, "GET /: 302, wanted 200-299");
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn every_way_to_frame_a_body() {
    let digest = Digest::md5("5d41402abc4b2a76b9719d911017c592").unwrap(); // hello
    for (answer, what) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello and more", "length"),
        ("HTTP/1.0 200 OK\r\n\r\nhello", "close"),
        ("HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", "LF alone"),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nT: v\r\n\r\n",
            "chunks",
        ),
        (
            "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "interim",
        ),
    ] {
        let address = answering(answer).await;
        for version in [Version::V1_0, Version::V1_1] {
            let page = Http { digest: Some(digest.clone()), version, ..Http::default() };
            let outcome = probe(&http(page), address, LONG).await;
            assert!(outcome.is_passed(), "{what}: {outcome:?}");
        }
    }
}

#[tokio::test]
async fn digests_say_what_they_found() {
    let address = answering("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await;
    let sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    let right = Http { digest: Some(Digest::sha256(sha256).unwrap()), ..Http::default() };
    passed(&probe(&http(right), address, LONG).await, "GET /: 200");
    let wrong = Http { digest: Some(Digest::md5(&"0".repeat(32)).unwrap()), ..Http::default() };
    let outcome = probe(&http(wrong), address, LONG).await;
    failed(&outcome, "GET /: the body has md5 5d41402abc4b…, wanted 000000000000…");
}

#[tokio::test]
async fn what_a_body_must_look_like() {
    let address = answering("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nIt works!").await;
    let matches = |text: &str| http(Http { matches: Some(text.into()), ..Http::default() });
    passed(&probe(&matches("It [a-z]+"), address, LONG).await, "GET /: 200");
    failed(&probe(&matches("^works"), address, LONG).await, "GET /: the body does not match ^works");
    let not = |text: &str| http(Http { not_matches: Some(text.into()), ..Http::default() });
    passed(&probe(&not("(?i)error"), address, LONG).await, "GET /: 200");
    failed(&probe(&not("(?i)WORKS"), address, LONG).await, "GET /: the body matches (?i)WORKS");
}

#[tokio::test]
async fn the_request_is_as_it_was_told() {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let address = server(move |mut stream| {
        let sender = sender.clone();
        async move {
            let _ = sender.send(head(&mut stream).await);
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n").await;
        }
    })
    .await;
    let request = Http {
        method: Method::Head,
        version: Version::V1_0,
        host: Some("www.example".into()),
        path: "/?a=b".into(),
        headers: vec![("X-Check".into(), "yes".into())],
        ..Http::default()
    };
    // The length of the body that HEAD does not send is none of our business.
    passed(&probe(&http(request), address, LONG).await, "HEAD /?a=b: 200");
    let wanted = "HEAD /?a=b HTTP/1.0\r\nHost: www.example\r\nUser-Agent: Bascule\r\nAccept: */*\r\nConnection: close\r\nX-Check: yes\r\n\r\n";
    assert_eq!(receiver.recv().await.unwrap(), wanted);
}

/// What servers send that is not the answer it should be, and what is said about it.
#[tokio::test]
async fn broken_answers() {
    let many = "X: y\r\n".repeat(101);
    let interim = "HTTP/1.1 100 Continue\r\n\r\n".repeat(9);
    for (answer, words) in [
        ("", "the server closed the connection without an answer"),
        ("HTTP/1.1 200 OK\r\nX:", "the server closed the connection within the headers"),
        ("SSH-2.0-OpenSSH_9.2\r\n", "the server sent something that is not HTTP"),
        ("HTTP/2 200\r\n\r\n", "the server sent something that is not HTTP"),
        ("\x15\x03\x01\0\x02\x02\x16", "the server speaks TLS here, not HTTP"),
        ("HTTP/1.1 OK\r\n\r\n", "broken headers"),
        ("HTTP/1.1 200 OK\r\n: x\r\n\r\n", "broken headers"),
        (&format!("HTTP/1.1 200 OK\r\n{many}\r\n"), "more than 100 headers"),
        (&interim, "more than 8 interim answers (1xx)"),
        ("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "broken Content-Length"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", "broken Content-Length"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello",
            "the server closed the connection within the body",
        ),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhello", "broken chunks"),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
            "the server closed the connection within the body",
        ),
    ] {
        let address = answering(answer).await;
        failed(&probe(&plain(), address, LONG).await, &format!("GET /: {words}"));
    }
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing() {
    let address = server(|mut stream| async move {
        head(&mut stream).await;
        let _ = stream.read(&mut [0]).await;
    })
    .await;
    failed(&probe(&plain(), address, SHORT).await, "GET /: no answer within 300ms");
}

#[tokio::test]
async fn a_reset_within_the_body() {
    let address = server(|mut stream| async move {
        head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello").await;
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    })
    .await;
    let outcome = probe(&plain(), address, LONG).await;
    assert!(!outcome.is_passed());
    // The reset may overtake what came before it.
    let words = outcome.message();
    assert!(
        words == "GET /: connection reset within the body" || words == "GET /: connection reset",
        "{words}"
    );
}

/// A server that sends `head`, then `more` for ever; how much it could send is counted.
async fn endless(
    head_bytes: &'static [u8],
    more: &'static [u8],
    sent: Arc<AtomicU64>,
) -> std::net::SocketAddr {
    server(move |mut stream| {
        let sent = Arc::clone(&sent);
        async move {
            head(&mut stream).await;
            let _ = stream.write_all(head_bytes).await;
            let more = more.repeat(1000);
            while stream.write_all(&more).await.is_ok() {
                sent.fetch_add(more.len() as u64, Ordering::Relaxed);
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_gigabyte_of_headers() {
    for more in [&b"X-Header: and so on\r\n"[..], b"x"] {
        let sent = Arc::new(AtomicU64::new(0));
        let address = endless(b"HTTP/1.1 200 OK\r\nX: ", more, Arc::clone(&sent)).await;
        failed(&probe(&plain(), address, LONG).await, "GET /: more than 32 KiB of headers");
        // What the sockets hold is all that was taken.
        assert!(sent.load(Ordering::Relaxed) < 64 << 20);
    }
}

#[tokio::test]
async fn a_body_that_never_ends() {
    let sent = Arc::new(AtomicU64::new(0));
    let address = endless(b"HTTP/1.1 200 OK\r\n\r\n", b"hello ", Arc::clone(&sent)).await;
    // The begin is enough where only the status or the begin counts.
    passed(&probe(&plain(), address, LONG).await, "GET /: 200");
    let matches = http(Http { matches: Some("goodbye".into()), ..Http::default() });
    failed(&probe(&matches, address, LONG).await, "GET /: the body does not match goodbye");
    let digest = http(Http { digest: Some(Digest::md5(&"0".repeat(32)).unwrap()), ..Http::default() });
    failed(&probe(&digest, address, LONG).await, "GET /: the body is longer than 16 MiB, no digest");
    assert!(sent.load(Ordering::Relaxed) < 256 << 20);
}

#[tokio::test]
async fn endless_chunks_and_trailers() {
    let sent = Arc::new(AtomicU64::new(0));
    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunks = endless(head, b"1\r\nx\r\n", Arc::clone(&sent)).await;
    passed(&probe(&plain(), chunks, LONG).await, "GET /: 200");
    for (begin, more) in [
        (&b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;"[..], &b"x"[..]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"f"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"T: v\r\n"),
    ] {
        let address = endless(begin, more, Arc::clone(&sent)).await;
        failed(&probe(&plain(), address, LONG).await, "GET /: broken chunks");
    }
    assert!(sent.load(Ordering::Relaxed) < 256 << 20);
}

#[tokio::test]
async fn a_slow_drip_ends_at_the_timeout() {
    for (begin, words) in [
        ("", "GET /: the answer did not end within 300ms"),
        ("HTTP/1.1 200 OK\r\n\r\n", "GET /: the answer did not end within 300ms"),
    ] {
        let address = server(move |mut stream| async move {
            head(&mut stream).await;
            let drip = format!("{begin}HTTP/1.1 {}", "2".repeat(10_000));
            for byte in drip.into_bytes() {
                if stream.write_all(&[byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        failed(&probe(&plain(), address, SHORT).await, words);
    }
}

#[tokio::test]
async fn a_server_that_closes_first_sees_an_end_in_order() {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let address = server(move |mut stream| {
        let sender = sender.clone();
        async move {
            head(&mut stream).await;
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nhello").await;
            let _ = stream.shutdown().await;
            let _ = sender.send(stream.read(&mut [0; 8]).await.map_err(|error| error.kind()));
        }
    })
    .await;
    passed(&probe(&plain(), address, LONG).await, "GET /: 200");
    assert_eq!(receiver.recv().await.unwrap(), Ok(0));
}

#[tokio::test]
async fn an_expression_that_explodes_delays_no_other_probe() {
    let body = "a".repeat(64 * 1024);
    let page = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let address = answering(page).await;
    // Some hundred milliseconds of work each, on threads apart: the thread of the probes goes on meanwhile.
    let explodes = http(Http { matches: Some("(a|b)*a(a|b){900}c".into()), ..Http::default() });
    let prepared = prober().prepare(&explodes, &target(address)).unwrap();
    let runs: Vec<_> = (0..4).map(|_| tokio::spawn(prepared.run(LONG))).collect();
    passed(
        &probe(&http(Http { matches: Some("aa".into()), ..Http::default() }), address, LONG).await,
        "GET /: 200",
    );
    for run in runs {
        failed(&run.await.unwrap(), "GET /: the body does not match (a|b)*a(a|b){900}c");
    }
}

#[tokio::test]
async fn a_server_that_does_not_close_is_not_waited_for() {
    let address = server(|mut stream| async move {
        head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        // Ended in order by the other side.
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
    })
    .await;
    passed(&probe(&plain(), address, LONG).await, "GET /: 200");
}
