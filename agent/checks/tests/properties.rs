//! Whatever servers send, the parsers of answers do not panic, and say the same however it is cut into pieces. (The part of
//! fuzzing that needs no nightly; see the folder `fuzz`.)

use bascule_checks::answer::{dns, http, icmp, smtp};
use proptest::{collection::vec, prelude::*, sample::select};

/// Status code, body and end of an answer that comes in pieces.
fn read_http(
    bytes: &[u8],
    sizes: &[usize],
    head_only: bool,
) -> (Option<u16>, Vec<u8>, Result<(), http::Fault>) {
    let mut reader = http::Reader::new(head_only);
    let mut body = Vec::new();
    for piece in pieces(bytes, sizes) {
        if let Err(fault) = reader.feed(piece, &mut |bytes| body.extend_from_slice(bytes)) {
            return (reader.status(), body, Err(fault));
        }
    }
    let end = reader.end();
    (reader.status(), body, end)
}

fn read_smtp(bytes: &[u8], sizes: &[usize]) -> Result<(Option<smtp::Reply>, usize), smtp::Fault> {
    let mut reader = smtp::Reader::default();
    let mut taken = 0;
    for piece in pieces(bytes, sizes) {
        let (reply, length) = reader.feed(piece)?;
        taken += length;
        if reply.is_some() {
            return Ok((reply, taken));
        }
    }
    Ok((None, taken))
}

/// Cuts bytes into pieces of these sizes, again and again.
fn pieces<'a>(mut bytes: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    let mut sizes = sizes.iter().cycle();
    while !bytes.is_empty() {
        let size = sizes.next().map_or(bytes.len(), |size| (*size).clamp(1, bytes.len()));
        let (piece, rest) = bytes.split_at(size);
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}

/// Bytes that look like HTTP often enough to get somewhere.
fn http_like() -> impl Strategy<Value = Vec<u8>> {
    let parts = select(vec![
        &b"HTTP/1.1 200 OK\r\n"[..],
        b"HTTP/1.0 204 \r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"Content-Length: 5\r\n",
        b"Content-Length: 18446744073709551615\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"transfer-encoding: gzip\r\n",
        b"\r\n",
        b"\n",
        b"5\r\nhello\r\n",
        b"ffffffffffffffff\r\n",
        b"0\r\n",
        b"0;ext=1\r\nTrailer: x\r\n\r\n",
        b": ",
        b"\x16\x03\x01",
    ]);
    let noise = vec(any::<u8>(), 0..8);
    vec(prop_oneof![4 => parts.prop_map(<[u8]>::to_vec), 1 => noise], 0..20).prop_map(|parts| parts.concat())
}

fn smtp_like() -> impl Strategy<Value = Vec<u8>> {
    let parts =
        select(vec![&b"250-"[..], b"250 ", b"220", b"STARTTLS", b"\r\n", b"\n", b"hello", b"\r", b"554 "]);
    let noise = vec(any::<u8>(), 0..4);
    vec(prop_oneof![6 => parts.prop_map(<[u8]>::to_vec), 1 => noise], 0..20).prop_map(|parts| parts.concat())
}

/// What random bytes hardly ever are.
#[test]
fn tls_byte_by_byte_is_tls() {
    for record in [&b"\x16\x03\x01\0\x05"[..], b"\x16\x02", b"\x15\x03\x01", b"\x16"] {
        assert_eq!(read_http(record, &[1], false), read_http(record, &[usize::MAX], false), "{record:?}");
    }
}

proptest! {
    #[test]
    fn random_bytes_as_http(
        bytes in prop_oneof![vec(any::<u8>(), 0..300), http_like()],
        sizes in vec(1_usize..40, 1..8),
        head_only: bool,
    ) {
        let whole = read_http(&bytes, &[usize::MAX], head_only);
        prop_assert!(whole.1.len() <= bytes.len());
        prop_assert_eq!(read_http(&bytes, &sizes, head_only), whole);
    }

    #[test]
    fn random_bodies_come_as_they_were_sent(
        body in vec(any::<u8>(), 0..500),
        cuts in vec(1_usize..100, 1..5),
        sizes in vec(1_usize..40, 1..8),
        framing in 0..3,
    ) {
        let mut answer = b"HTTP/1.1 200 OK\r\n".to_vec();
        match framing {
            0 => {
                answer.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
                answer.extend_from_slice(&body);
            }
            1 => {
                answer.extend_from_slice(b"\r\n");
                answer.extend_from_slice(&body);
            }
            _ => {
                answer.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
                for chunk in pieces(&body, &cuts) {
                    answer.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    answer.extend_from_slice(chunk);
                    answer.extend_from_slice(b"\r\n");
                }
                answer.extend_from_slice(b"0\r\n\r\n");
            }
        }
        prop_assert_eq!(read_http(&answer, &sizes, false), (Some(200), body, Ok(())));
    }

    #[test]
    fn random_bytes_as_smtp(
        bytes in prop_oneof![vec(any::<u8>(), 0..300), smtp_like()],
        sizes in vec(1_usize..40, 1..8),
    ) {
        prop_assert_eq!(read_smtp(&bytes, &sizes), read_smtp(&bytes, &[usize::MAX]));
    }

    #[test]
    fn random_bytes_as_dns(id: u16, name in "[a-z]{1,10}(\\.[a-z]{1,10}){0,3}", bytes in vec(any::<u8>(), 0..60)) {
        let query = dns::query(id, &dns::QueryName::parse(&name).unwrap(), dns::RecordType::Aaaa);
        let _ = dns::answer(&query, &bytes);
        let _ = dns::answer(&bytes, &query);
        // Nearly right, with some bytes changed.
        let mut nearly = query.clone();
        nearly[2] |= 0x80;
        for byte in bytes.chunks_exact(2) {
            let at = usize::from(byte[0]) % nearly.len();
            nearly[at] = byte[1];
        }
        if dns::answer(&query, &nearly).is_ok() {
            prop_assert_eq!(&nearly[..2], &query[..2]);
        }
    }

    #[test]
    fn random_bytes_as_icmp(v6: bool, raw: bool, payload in vec(any::<u8>(), 0..60), bytes in vec(any::<u8>(), 0..90)) {
        let kind = icmp::Kind { v6, raw };
        let sent = icmp::request(kind, 1, 2, &payload);
        if icmp::reply(kind, &sent, &bytes).is_ok() {
            prop_assert!(bytes.ends_with(&payload));
        }
        let _ = icmp::reply(kind, &bytes, &sent);
    }
}
