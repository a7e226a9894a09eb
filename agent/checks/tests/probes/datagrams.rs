//! `dns`, `udp` and `ping`.

use std::net::SocketAddr;
use std::time::Duration;

use crate::common::*;
use bascule_checks::{Dns, Pattern, Ping, Probe, QueryName, RecordType, Target, Transport, Udp};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UdpSocket;

/// A UDP server: each datagram is answered with what `answer` makes of it.
async fn datagrams(answer: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
            for datagram in answer(&buffer[..length]) {
                let _ = socket.send_to(&datagram, peer).await;
            }
        }
    });
    address
}

/// An address on which nobody listens.
async fn nobody() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// The answer to a query, with a response code.
fn answered(query: &[u8], code: u8) -> Vec<u8> {
    let mut answer = query.to_vec();
    answer[2] |= 0x80;
    answer[3] = code;
    answer
}

fn dns(transport: Transport) -> Probe {
    let name = QueryName::parse("www.example").unwrap();
    Probe::Dns(Dns { name, record_type: RecordType::A, transport })
}

#[tokio::test]
async fn a_name_server_that_answers() {
    let address = datagrams(|query| vec![answered(query, 0)]).await;
    passed(&probe(&Probe::Dns(Dns::default()), address, LONG).await, "SOA of .: NOERROR");
    passed(&probe(&dns(Transport::Udp), address, LONG).await, "A of www.example: NOERROR");
}

#[tokio::test]
async fn a_name_server_that_fails() {
    for (code, words) in [(2, "SERVFAIL"), (3, "NXDOMAIN"), (5, "REFUSED"), (11, "RCODE 11")] {
        let address = datagrams(move |query| vec![answered(query, code)]).await;
        let outcome = probe(&dns(Transport::Udp), address, LONG).await;
        failed(&outcome, &format!("A of www.example: {words}, wanted NOERROR"));
    }
    let outcome = probe(&dns(Transport::Udp), nobody().await, LONG).await;
    failed(&outcome, "A of www.example: port unreachable (ICMP)");
}

#[tokio::test]
async fn answers_to_others_are_passed_over() {
    let strays = |query: &[u8]| {
        let mut other_id = answered(query, 0);
        other_id[0] ^= 1;
        let mut other_name = answered(query, 0);
        other_name[13] ^= 1;
        vec![b"garbage".to_vec(), other_id, query.to_vec(), other_name]
    };
    let address = datagrams(move |query| {
        let mut all = strays(query);
        all.push(answered(query, 0));
        all
    })
    .await;
    passed(&probe(&dns(Transport::Udp), address, LONG).await, "A of www.example: NOERROR");

    let address = datagrams(move |query| strays(query)[..2].to_vec()).await;
    let outcome = probe(&dns(Transport::Udp), address, SHORT).await;
    failed(&outcome, "A of www.example: no answer within 300ms, but an answer to another query (id)");
}

#[tokio::test]
async fn a_flood_of_strays_ends() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let (_, peer) = socket.recv_from(&mut [0; 2048]).await.unwrap();
        // Until nobody listens any more.
        while socket.send_to(b"garbage", peer).await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
    let outcome = probe(&dns(Transport::Udp), address, LONG).await;
    failed(
        &outcome,
        "A of www.example: more than 1000 datagrams that are no answer, but something that is not DNS",
    );
}

/// A name server over TCP that sends what `answer` makes of a query, byte by byte, and keeps the connection.
async fn over_tcp(answer: fn(&[u8]) -> Vec<u8>) -> SocketAddr {
    server(move |mut stream| async move {
        let length = stream.read_u16().await.unwrap();
        let mut query = vec![0; length.into()];
        stream.read_exact(&mut query).await.unwrap();
        for byte in answer(&query) {
            let _ = stream.write_all(&[byte]).await;
            tokio::task::yield_now().await;
        }
        let _ = tokio::time::timeout(LONG, stream.read(&mut [0])).await;
    })
    .await
}

/// With its length before it.
fn framed(message: &[u8]) -> Vec<u8> {
    [&u16::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}

#[tokio::test]
async fn dns_over_tcp() {
    let address = over_tcp(|query| framed(&[answered(query, 0), vec![7; 40_000]].concat())).await;
    passed(&probe(&dns(Transport::Tcp), address, LONG).await, "A of www.example: NOERROR");
    let address = over_tcp(|query| framed(&answered(query, 2))).await;
    failed(&probe(&dns(Transport::Tcp), address, LONG).await, "A of www.example: SERVFAIL, wanted NOERROR");
    let address = over_tcp(|_| framed(b"")).await;
    failed(&probe(&dns(Transport::Tcp), address, LONG).await, "A of www.example: something that is not DNS");
    let address = over_tcp(|_| b"SSH-2.0".to_vec()).await;
    failed(
        &probe(&dns(Transport::Tcp), address, SHORT).await,
        "A of www.example: the answer did not end within 300ms",
    );
    let address = server(|mut stream| async move {
        let _ = stream.read(&mut [0; 512]).await;
    })
    .await;
    failed(
        &probe(&dns(Transport::Tcp), address, LONG).await,
        "A of www.example: the server closed the connection without an answer",
    );
}

#[tokio::test]
async fn udp_without_an_answer() {
    let silent = datagrams(|_| Vec::new()).await;
    let any = Probe::Udp(Udp::default());
    passed(&probe(&any, silent, SHORT).await, "not refused within 300ms");
    failed(&probe(&any, nobody().await, LONG).await, "port unreachable (ICMP)");
    let required = Probe::Udp(Udp { require_reply: true, ..Udp::default() });
    failed(&probe(&required, silent, SHORT).await, "no answer within 300ms");
}

#[tokio::test]
async fn udp_with_an_answer() {
    let echo = datagrams(|datagram| vec![datagram.to_vec()]).await;
    let payload = Udp::payload("00ff10").unwrap();
    passed(
        &probe(&Probe::Udp(Udp { payload: payload.clone(), ..Udp::default() }), echo, LONG).await,
        "answered",
    );
    let reply = |digits| {
        let reply = Some(Pattern::parse(digits).unwrap());
        Probe::Udp(Udp { payload: payload.clone(), require_reply: true, reply })
    };
    passed(&probe(&reply("00f?"), echo, LONG).await, "answered");
    let outcome = probe(&reply("00ff11"), echo, LONG).await;
    failed(&outcome, "the answer does not begin as it should");
    // keepalived would take an answer that is shorter than what it shall begin with.
    let outcome = probe(&reply("00ff1000"), echo, LONG).await;
    failed(&outcome, "the answer does not begin as it should");
}

#[tokio::test]
async fn pings() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        for size in [0, 1, 56, 20_000, 60_000] {
            let outcome = probe(&Probe::Ping(Ping { size }), address.parse().unwrap(), LONG).await;
            if outcome.message().starts_with("a ping needs") {
                eprintln!("not run here: {}", outcome.message());
                return;
            }
            passed(&outcome, "answered");
        }
    }
}

/// Raw sockets, which are the usual: `net.ipv4.ping_group_range` of a new namespace is empty.
#[test]
fn pings_from_a_source_address() {
    in_namespace(|| async {
        for (address, source) in [("127.0.0.1:0", "127.0.0.2"), ("[::1]:0", "::1")] {
            let source = Some(source.parse().unwrap());
            let target = Target { source, ..target(address.parse().unwrap()) };
            let prepared = prober().prepare(&Probe::Ping(Ping::default()), &target).unwrap();
            passed(&prepared.run(LONG).await, "answered");
        }
    });
}

/// A machine that is switched off: the kernel asks for its address three times, a second apart, and gives up.
#[test]
fn machines_that_are_switched_off() {
    in_namespace(|| async {
        run("ip", "link add v0 type veth peer name v1");
        run("ip", "link set v0 up");
        run("ip", "link set v1 up");
        run("ip", "address add 192.0.2.1/24 dev v0");
        run("ip", "address add 2001:db8::1/64 dev v0 nodad");
        for address in ["192.0.2.2:53", "[2001:db8::2]:53"] {
            let target = target(address.parse().unwrap());
            for silence in [Probe::Udp(Udp::default()), Probe::Ping(Ping::default())] {
                let prepared = prober().prepare(&silence, &target).unwrap();
                failed(&prepared.run(LONG).await, "host unreachable");
            }
        }
    });
}

#[tokio::test]
async fn many_at_once_do_not_wait_for_each_other() {
    let silent = datagrams(|_| Vec::new()).await;
    let required = Probe::Udp(Udp { require_reply: true, ..Udp::default() });
    let prepared = prober().prepare(&required, &target(silent)).unwrap();
    let start = std::time::Instant::now();
    let runs: Vec<_> = (0..200).map(|_| tokio::spawn(prepared.run(SHORT))).collect();
    for run in runs {
        failed(&run.await.unwrap(), "no answer within 300ms");
    }
    // One after the other would be a minute.
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}
