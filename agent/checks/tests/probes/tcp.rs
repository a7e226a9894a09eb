//! `tcp`, and what all probes over connections have in common.

use std::time::Duration;

use crate::common::*;
use bascule_checks::{Invalid, PrepareError, Probe, Target};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

#[tokio::test]
async fn an_accepted_connection_passes_and_ends_in_order() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    passed(&probe(&Probe::Tcp, address, LONG).await, "connected");
    let (mut stream, _) = listener.accept().await.unwrap();
    // A reset would be an error.
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
}

#[tokio::test]
async fn ipv6() {
    let listener = TcpListener::bind("[::1]:0").await.unwrap();
    passed(&probe(&Probe::Tcp, listener.local_addr().unwrap(), LONG).await, "connected");
}

#[tokio::test]
async fn a_closed_port_refuses() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    failed(&probe(&Probe::Tcp, address, LONG).await, "connection refused");
}

#[tokio::test]
async fn nobody_answers() {
    // A listener whose queue is full: the kernel drops further SYNs, as a host does that is gone.
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let mut outcome = probe(&Probe::Tcp, address, SHORT).await;
    for _ in 0..16 {
        if !outcome.is_passed() {
            break;
        }
        outcome = probe(&Probe::Tcp, address, SHORT).await;
    }
    failed(&outcome, "no connection within 300ms");
}

#[tokio::test]
async fn from_a_source_address() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut target = target(listener.local_addr().unwrap());
    target.source = Some("127.0.0.99".parse().unwrap());
    let outcome = prober().prepare(&Probe::Tcp, &target).unwrap().run(LONG).await;
    passed(&outcome, "connected");
    assert_eq!(listener.accept().await.unwrap().1.ip().to_string(), "127.0.0.99");

    target.source = Some("192.0.2.1".parse().unwrap());
    let outcome = prober().prepare(&Probe::Tcp, &target).unwrap().run(LONG).await;
    // That is no word about the target: it may be a group's address, which is elsewhere now.
    undecided(&outcome, "this machine has no address 192.0.2.1 to probe from");
}

#[tokio::test]
async fn with_a_mark() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut target = target(listener.local_addr().unwrap());
    target.mark = Some(7);
    let outcome = prober().prepare(&Probe::Tcp, &target).unwrap().run(LONG).await;
    let allowed = socket2::SockRef::from(&listener).set_mark(7).is_ok();
    if allowed {
        passed(&outcome, "connected");
    } else {
        failed(&outcome, "mark 7 needs the capability CAP_NET_ADMIN");
    }
}

#[tokio::test]
async fn a_dropped_probe_closes_its_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = target(listener.local_addr().unwrap());
    let prepared = prober().prepare(&Probe::Http(bascule_checks::Http::default()), &target).unwrap();
    let running = tokio::spawn(prepared.run(LONG));
    let (mut stream, _) = listener.accept().await.unwrap();
    head(&mut stream).await;
    running.abort();
    // Given up: reset, not left to wait for a server that hangs.
    let end = tokio::time::timeout(LONG, stream.read(&mut [0; 8])).await.unwrap();
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

/// Of one port that a connection may have, the kernel chooses that one, which here is the port that is probed.
#[test]
fn a_connection_to_itself_is_nobody_elses() {
    in_namespace(|| async {
        // Of this thread's namespace: /proc/sys/net is that of whoever opens it.
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "50001 50001").unwrap();
        let outcome = probe(&Probe::Tcp, "127.0.0.1:50001".parse().unwrap(), LONG).await;
        failed(&outcome, "connection refused");
    });
}

#[test]
fn what_cannot_be_probed() {
    let prober = prober();
    let fine = Target { address: [10, 0, 0, 1].into(), port: 80, source: None, mark: None };
    let refused = |target: &Target| match prober.prepare(&Probe::Tcp, target).unwrap_err() {
        PrepareError::Invalid(invalid) => invalid.field(),
        error @ PrepareError::NoAuthorities(_) => panic!("{error}"),
    };
    assert_eq!(refused(&Target { port: 0, ..fine.clone() }), "port");
    assert_eq!(refused(&Target { address: [0, 0, 0, 0].into(), ..fine.clone() }), "address");
    assert_eq!(refused(&Target { address: "ff02::1".parse().unwrap(), ..fine.clone() }), "address");
    assert_eq!(refused(&Target { source: Some("::1".parse().unwrap()), ..fine.clone() }), "sourceAddress");
    let error: Invalid = bascule_checks::StatusCodes::parse(&["ok"]).unwrap_err();
    assert!(error.to_string().starts_with("http.statusCodes: must be"), "{error}");
    assert!(prober.prepare(&Probe::Tcp, &fine).is_ok());
}

#[test]
fn ten_thousand_probes_fit_into_memory() {
    let prober = prober();
    let target = target("127.0.0.1:80".parse().unwrap());
    let tls = bascule_checks::Tls { server_name: None, verify: bascule_checks::Verify::Nothing };
    let https = bascule_checks::Http { tls: Some(tls), ..Default::default() };
    for probe in [Probe::Tcp, Probe::Http(bascule_checks::Http::default()), Probe::Http(https)] {
        let size = size_of_val(&prober.prepare(&probe, &target).unwrap().run(LONG));
        assert!(size <= 4096, "{size} bytes for each run of {probe:?}");
    }
}

#[tokio::test]
async fn no_time_at_all_is_a_verdict() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let outcome = probe(&Probe::Tcp, listener.local_addr().unwrap(), Duration::ZERO).await;
    // Connecting on loopback needs no waiting, so either may come first.
    assert!(outcome.is_passed() || outcome.message() == "no connection within 0ms", "{outcome:?}");
}
