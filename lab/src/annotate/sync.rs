//! Messages of IPVS's connection synchronisation, version 1 (`net/netfilter/ipvs/ip_vs_sync.c`: `ip_vs_sync_mesg`, `ip_vs_sync_v4`,
//! `ip_vs_sync_v6`).

use std::net::SocketAddr;

use super::note::Note;
use super::packet::{Transport, address, u16_at};
use super::{Book, Look};

/// The port that the kernel uses unless told.
const PORT: u16 = 8848;
/// So many connections of a message are named.
const NAMED: usize = 3;
/// Version of the messages.
const VERSION: u8 = 1;
/// Of a connection's type: it is one of IPv6.
const SIX: u8 = 1;

pub(super) fn look(look: &Look<'_>, book: &mut Book) {
    if look.copy {
        return;
    }
    let Some(Transport::Udp { ports: (_, PORT), data }) = look.frame.ip().map(|ip| ip.transport()) else {
        return;
    };
    let Some((id, count, connections)) = read(data, look) else { return };
    book.put(look.sent, Note::Sync { who: look.sender(), id, count, connections });
}

fn read(data: &[u8], look: &Look<'_>) -> Option<(u8, usize, Vec<String>)> {
    // Version 0 has the number of connections where this one has 0.
    if *data.first()? != 0 || *data.get(5)? != VERSION || usize::from(u16_at(data, 2)?) > data.len() {
        return None;
    }
    let (id, count) = (*data.get(1)?, usize::from(*data.get(4)?));
    let mut connections = Vec::new();
    let mut rest = data.get(8..)?;
    while connections.len() < count.min(NAMED) {
        let size = usize::from(u16_at(rest, 2)? & 0x0fff);
        connections.push(connection(rest, look)?);
        // Each begins at a multiple of four.
        rest = rest.get(size.next_multiple_of(4)..).filter(|_| size > 0)?;
    }
    Some((id, count, connections))
}

/// `CLIENT -> SERVER` of a connection, or of a template (a client without a port).
fn connection(bytes: &[u8], look: &Look<'_>) -> Option<String> {
    let six = *bytes.first()? & SIX != 0;
    let length = if six { 16 } else { 4 };
    let (client_port, server_port) = (u16_at(bytes, 10)?, u16_at(bytes, 14)?);
    let (client, server) = (address(bytes, 24, six)?, address(bytes, 24 + 2 * length, six)?);
    let client =
        if client_port == 0 { client.to_string() } else { SocketAddr::new(client, client_port).to_string() };
    Some(format!("{client} → {}", look.known.endpoint(server, server_port)))
}
