//! What an IPv4 raw socket returns begins with the IP header.

use std::net::{IpAddr, Ipv4Addr};

use super::{DecodeError, IP_PROTOCOL};

/// A received IP payload and what its header said. For IPv6, whose raw sockets do not return the header, the fields come from
/// `recvmsg` (`IPV6_PKTINFO`, `IPV6_HOPLIMIT`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Where it came from.
    pub source: IpAddr,
    /// Where it went.
    pub destination: IpAddr,
    /// TTL or hop limit on arrival.
    pub ttl: u8,
    /// What follows the IP header.
    pub payload: &'a [u8],
}

/// Takes the IPv4 header off `packet` (RFC 791 section 3.1). What follows the length that it names is padding and is left out.
pub fn ipv4_datagram(packet: &[u8]) -> Result<Datagram<'_>, DecodeError> {
    let incomplete = DecodeError::IpHeader { length: packet.len() };
    let Some(header) = packet.first_chunk::<20>() else {
        return Err(incomplete);
    };
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let words = usize::from(header[0] & 0xf);
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    if header[0] >> 4 != 4 || words < 5 {
        return Err(incomplete);
    }
    let payload = packet.get(words * 4..length).ok_or(incomplete)?;
    if header[9] != IP_PROTOCOL {
        return Err(DecodeError::Protocol { protocol: header[9] });
    }
    // More fragments, or an offset.
    if fragment & 0x3fff != 0 {
        return Err(DecodeError::Fragment);
    }
    let address =
        |at: usize| IpAddr::V4(Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]));
    Ok(Datagram { source: address(12), destination: address(16), ttl: header[8], payload })
}
