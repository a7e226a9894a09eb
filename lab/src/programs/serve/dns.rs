//! A name server that has a start of authority for every name (RFC 1035), over UDP and TCP.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::super::behaviour::{Behaviour, Mode};
use super::Server;

/// The record type SOA.
const SOA: u16 = 6;
/// RCODE 2.
const SERVER_FAILURE: u8 = 2;

/// Questions on a connection, each with its length before it (section 4.2.2).
pub(super) async fn connection(
    server: &Server,
    mut stream: TcpStream,
    client: SocketAddr,
    local: Option<SocketAddr>,
) -> io::Result<()> {
    loop {
        let length = stream.read_u16().await?;
        let mut query = vec![0; usize::from(length)];
        stream.read_exact(&mut query).await?;
        server.count("dns", client, local, "");
        let behaviour = server.behaviour();
        match behaviour.mode {
            Mode::Ok | Mode::Refuse | Mode::Error => {}
            Mode::Slow => tokio::time::sleep(behaviour.delay()).await,
            Mode::Hang => std::future::pending().await,
        }
        let Some(answer) = answer(&query, &behaviour) else { return Ok(()) };
        stream.write_u16(u16::try_from(answer.len()).unwrap_or(0)).await?;
        stream.write_all(&answer).await?;
    }
}

/// The answer to a question; none to what is no question.
pub(super) fn answer(query: &[u8], behaviour: &Behaviour) -> Option<Vec<u8>> {
    let header: &[u8; 12] = query.get(..12)?.try_into().ok()?;
    // A question, a standard one, and one only.
    if header[2] & 0xf8 != 0 || header[4..6] != [0, 1] {
        return None;
    }
    let mut end = 12;
    loop {
        match *query.get(end)? {
            0 => break,
            length @ 1..=63 => end += usize::from(length) + 1,
            _ => return None,
        }
    }
    let question = query.get(12..end + 5)?;
    let kind = u16::from_be_bytes([question[question.len() - 4], question[question.len() - 3]]);
    let failed = behaviour.mode == Mode::Error;
    let answers = u8::from(!failed && kind == SOA);
    let mut answer = Vec::with_capacity(query.len() + 48);
    answer.extend(&header[..2]);
    // QR, AA, and RD as it came.
    answer.push(0x84 | (header[2] & 1));
    answer.push(if failed { SERVER_FAILURE } else { 0 });
    answer.extend([0, 1, 0, answers, 0, 0, 0, 0]);
    answer.extend(question);
    if answers > 0 {
        // The name of the question, SOA, IN, a minute, 24 bytes.
        answer.extend([0xc0, 12, 0, 6, 0, 1, 0, 0, 0, 60, 0, 24]);
        // Primary server and mailbox: the name itself; serial, refresh, retry, expire, minimum.
        answer.extend([0xc0, 12, 0xc0, 12]);
        for number in [1_u32, 3600, 600, 86_400, 60] {
            answer.extend(number.to_be_bytes());
        }
    }
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `tp.example SOA`, recursion desired.
    const QUERY: &[u8] =
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x02tp\x07example\x00\x00\x06\x00\x01";

    #[test]
    fn every_name_has_an_authority() {
        let told = answer(QUERY, &Behaviour::default()).unwrap();
        assert_eq!(told[..8], [0x12, 0x34, 0x85, 0, 0, 1, 0, 1]);
        assert_eq!(&told[12..QUERY.len()], &QUERY[12..]);
        assert_eq!(told.len(), QUERY.len() + 12 + 24);
        let failed = Behaviour { mode: Mode::Error, ..Behaviour::default() };
        assert_eq!(answer(QUERY, &failed).unwrap()[3..8], [2, 0, 1, 0, 0]);
        // The root, and another type.
        let root = b"\x12\x34\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x01";
        assert_eq!(answer(root, &Behaviour::default()).unwrap().len(), root.len());
    }

    #[test]
    fn what_is_no_question_is_not_answered() {
        for length in 0..QUERY.len() {
            assert_eq!(answer(&QUERY[..length], &Behaviour::default()), None, "{length} bytes");
        }
        let mut reply = QUERY.to_vec();
        reply[2] |= 0x80;
        assert_eq!(answer(&reply, &Behaviour::default()), None);
    }
}
