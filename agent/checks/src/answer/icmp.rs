//! ICMP and ICMPv6 echo (RFC 792; RFC 4443, section 4).

/// Bytes of a header.
pub const HEADER: usize = 8;
/// Bytes of an IPv4 header at most, which a raw socket delivers with a packet.
pub const IPV4_HEADER_MAX: usize = 60;

/// Which ICMP, and what the kernel does of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// ICMPv6, else ICMP.
    pub v6: bool,
    /// A raw socket: identifier and checksum of ICMP are ours, and packets of ICMP come with their IPv4 header. Else a ping
    /// socket (SOCK_DGRAM), for which the kernel does all that.
    pub raw: bool,
}

impl Kind {
    const fn request(self) -> u8 {
        if self.v6 { 128 } else { 8 }
    }

    const fn reply(self) -> u8 {
        if self.v6 { 129 } else { 0 }
    }
}

/// An echo request, with its checksum where that is ours.
pub fn request(kind: Kind, id: u16, sequence: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(HEADER + payload.len());
    packet.extend_from_slice(&[kind.request(), 0, 0, 0]);
    packet.extend_from_slice(&id.to_be_bytes());
    packet.extend_from_slice(&sequence.to_be_bytes());
    packet.extend_from_slice(payload);
    if kind.raw && !kind.v6 {
        let checksum = checksum(&packet);
        packet[2..4].copy_from_slice(&checksum.to_be_bytes());
    }
    packet
}

/// Why a packet is not the reply to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTheReply {
    /// Something else, or the reply to another request: to be passed over.
    #[error("a packet that is no reply to the request")]
    Other,
    /// The reply to the request, with other bytes.
    #[error("the reply has other bytes than the request")]
    OtherPayload,
}

/// Reads a packet as the reply to a request that [`request`] made.
///
/// # Errors
///
/// It is none.
pub fn reply(kind: Kind, request: &[u8], packet: &[u8]) -> Result<(), NotTheReply> {
    let message = if kind.raw && !kind.v6 { without_ipv4(packet) } else { Some(packet) };
    let (header, payload) =
        message.and_then(|message| message.split_at_checked(HEADER)).ok_or(NotTheReply::Other)?;
    let (ours, sent) = request.split_at_checked(HEADER).ok_or(NotTheReply::Other)?;
    let same_id = !kind.raw || header[4..6] == ours[4..6];
    if header[..2] != [kind.reply(), 0] || !same_id || header[6..] != ours[6..] {
        return Err(NotTheReply::Other);
    }
    if payload == sent { Ok(()) } else { Err(NotTheReply::OtherPayload) }
}

/// What an IPv4 packet carries.
fn without_ipv4(packet: &[u8]) -> Option<&[u8]> {
    let first = packet.first()?;
    let length = usize::from(first & 0x0f) * 4;
    (first >> 4 == 4 && length >= 20).then_some(())?;
    packet.get(length..)
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)));
    let mut sum = words.fold(0_u32, |sum, word| {
        let sum = sum + word;
        (sum & 0xffff) + (sum >> 16)
    });
    sum = (sum & 0xffff) + (sum >> 16);
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: Kind = Kind { v6: false, raw: false };
    const RAW: Kind = Kind { v6: false, raw: true };
    const RAW6: Kind = Kind { v6: true, raw: true };

    #[test]
    fn requests() {
        assert_eq!(request(PING, 1, 2, b"ab"), b"\x08\0\0\0\0\x01\0\x02ab");
        let raw = request(RAW, 1, 2, b"abc");
        assert_eq!(checksum(&raw), 0, "a message with its checksum adds up to zero");
        assert_eq!(request(RAW6, 1, 2, b""), b"\x80\0\0\0\0\x01\0\x02");
    }

    #[test]
    fn replies() {
        let sent = request(PING, 1, 2, b"ab");
        assert_eq!(reply(PING, &sent, b"\0\0\x12\x34\xff\xff\0\x02ab"), Ok(()), "the kernel chose the id");
        for (packet, why) in [
            (&b"\x08\0\0\0\0\x01\0\x02ab"[..], NotTheReply::Other),
            (b"\0\x01\0\0\0\x01\0\x02ab", NotTheReply::Other),
            (b"\0\0\0\0\0\x01\0\x03ab", NotTheReply::Other),
            (b"\0\0\0\0\0\x01\0", NotTheReply::Other),
            (b"", NotTheReply::Other),
            (b"\0\0\0\0\0\x01\0\x02ac", NotTheReply::OtherPayload),
            (b"\0\0\0\0\0\x01\0\x02a", NotTheReply::OtherPayload),
        ] {
            assert_eq!(reply(PING, &sent, packet), Err(why), "{packet:?}");
        }
    }

    #[test]
    fn replies_of_raw_sockets() {
        let sent = request(RAW, 1, 2, b"ab");
        let mut packet = vec![0x45; 20];
        packet.extend_from_slice(b"\0\0\0\0\0\x01\0\x02ab");
        assert_eq!(reply(RAW, &sent, &packet), Ok(()));
        packet[25] = 9;
        assert_eq!(reply(RAW, &sent, &packet), Err(NotTheReply::Other), "another's id");
        for bad in [&b"\x45"[..], b"\x4f\0\0\0", b"\x65\0\0\0", b"\x41\0\0\0\0\0\0\0\0\x01\0\x02ab"] {
            assert_eq!(reply(RAW, &sent, bad), Err(NotTheReply::Other), "{bad:?}");
        }
        let sent = request(RAW6, 1, 2, b"ab");
        assert_eq!(reply(RAW6, &sent, b"\x81\0\0\0\0\x01\0\x02ab"), Ok(()));
    }
}
