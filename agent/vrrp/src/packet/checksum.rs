//! The checksum, and the trap in it: over IPv4 version 3 is spoken in two forms.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::IP_PROTOCOL;

/// What the checksum of version 3 over IPv4 covers. RFC 5798 section 5.2.8 was read both ways, and RFC 9568 section 5.2.8 decided
/// against what most programs (keepalived, FRR by default) send. Over IPv6 the pseudo-header is always part of it, in version 2
/// never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ChecksumForm {
    /// Pseudo-header and message: RFC 5798, keepalived, FRR unless told otherwise.
    #[default]
    PseudoHeader,
    /// The message alone: RFC 9568.
    MessageOnly,
}

/// The ones' complement of the ones' complement sum of 16-bit words (RFC 1071), an odd last byte padded with zero. Over data that
/// hold their own checksum it is zero.
pub fn internet_checksum(parts: &[&[u8]]) -> u16 {
    let mut sum: u64 = 0;
    for part in parts {
        let mut words = part.chunks_exact(2);
        for word in &mut words {
            sum += u64::from(u16::from_be_bytes([word[0], word[1]]));
        }
        if let [last] = words.remainder() {
            sum += u64::from(u16::from_be_bytes([*last, 0]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    #[expect(clippy::cast_possible_truncation, reason = "folded to 16 bits just above")]
    let folded = sum as u16;
    !folded
}

/// The pseudo-header: of IPv6 (RFC 8200 section 8.1) or of IPv4 (as TCP's, RFC 9293 section 3.1). Sums do not mind where the
/// length stands, so each is written in its own layout for readability only. `None` for addresses of two families.
pub(super) fn pseudo_header(source: IpAddr, destination: IpAddr, length: usize) -> Option<Vec<u8>> {
    let length = u16::try_from(length).ok()?.to_be_bytes();
    let mut header = Vec::with_capacity(40);
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            header.extend(source.octets());
            header.extend(destination.octets());
            header.extend([0, IP_PROTOCOL, length[0], length[1]]);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            header.extend(source.octets());
            header.extend(destination.octets());
            header.extend([0, 0, length[0], length[1], 0, 0, 0, IP_PROTOCOL]);
        }
        _ => return None,
    }
    Some(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 1071 section 3.
    #[test]
    fn sums_as_rfc_1071() {
        assert_eq!(internet_checksum(&[&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]), !0xddf2);
        assert_eq!(internet_checksum(&[&[0xff; 4096]]), 0);
        assert_eq!(internet_checksum(&[&[0x12]]), !0x1200);
    }
}
