//! Bytes to an advertisement.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum::{internet_checksum, pseudo_header};
use super::{Advertisement, Authentication, ChecksumForm, DecodeError, Family, HEADER, SIMPLE, Version};
use crate::authentication::TRAILER;
use crate::timers::Interval;

/// What [`decode`] read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// The advertisement.
    pub advertisement: Advertisement,
    /// The form in which its checksum is right; `PseudoHeader` for IPv6, `MessageOnly` for version 2.
    pub checksum: ChecksumForm,
    /// The message as it came, without what follows.
    pub message: &'a [u8],
    /// The 28 bytes after the message, if there are any.
    pub trailer: Option<&'a [u8; TRAILER]>,
}

/// Version and virtual router id, for finding out whose advertisement it is before reading it; `None` if it is too short.
pub fn peek(message: &[u8]) -> Option<(u8, u8)> {
    match message {
        [first, vrid, ..] if message.len() >= HEADER => Some((first >> 4, *vrid)),
        _ => None,
    }
}

/// Reads `bytes`, an IP payload that came from `source` to `destination`. The order of the checks is that of RFC 9568 section
/// 7.1, so that the error names the first thing wrong. The checksum may have either form: the caller decides which it accepts.
pub fn decode(bytes: &[u8], source: IpAddr, destination: IpAddr) -> Result<Decoded<'_>, DecodeError> {
    let family = Family::of(source);
    if family != Family::of(destination) {
        return Err(DecodeError::MixedFamilies { source_address: source, destination });
    }
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else {
        return Err(DecodeError::Truncated { length: bytes.len() });
    };
    let [first, vrid, priority, count, fourth, fifth, _, _] = *header;
    let version = match (first >> 4, family) {
        (2, Family::Ipv4) => Version::V2,
        (3, _) => Version::V3,
        (version, family) => return Err(DecodeError::Version { version, family }),
    };
    if first & 0xf != 1 {
        return Err(DecodeError::Type { kind: first & 0xf });
    }
    let addresses = usize::from(count) * family.length();
    let after = match version {
        Version::V2 => SIMPLE,
        Version::V3 => 0,
    };
    let needed = HEADER + addresses + after;
    let Some((message, trailing)) = bytes.split_at_checked(needed) else {
        return Err(DecodeError::Incomplete { count, needed, length: bytes.len() });
    };
    let trailer = match trailing {
        [] => None,
        extra => Some(extra.try_into().map_err(|_| DecodeError::Extra { extra: extra.len() })?),
    };
    let checksum = verify(version, message, bytes, source, destination)?;
    if vrid == 0 {
        return Err(DecodeError::Vrid);
    }
    if count == 0 {
        return Err(DecodeError::NoAddress);
    }
    let (interval, authentication) = match version {
        // The four bits before it are reserved, and ignored (section 5.2.6).
        Version::V3 => (u16::from_be_bytes([fourth & 0xf, fifth]), Authentication::None),
        Version::V2 => (u16::from(fifth) * 100, simple(fourth, &rest[addresses..addresses + SIMPLE])?),
    };
    if interval == 0 {
        return Err(DecodeError::Interval);
    }
    let advertisement = Advertisement {
        version,
        vrid,
        priority,
        interval: Interval::from_centiseconds(interval),
        addresses: read_addresses(family, &rest[..addresses]),
        authentication,
    };
    Ok(Decoded { advertisement, checksum, message, trailer })
}

fn simple(kind: u8, data: &[u8]) -> Result<Authentication, DecodeError> {
    match kind {
        0 => Ok(Authentication::None),
        1 => Ok(Authentication::simple(data)),
        kind => Err(DecodeError::AuthenticationType { kind }),
    }
}

fn read_addresses(family: Family, bytes: &[u8]) -> Vec<IpAddr> {
    match family {
        Family::Ipv4 => {
            bytes.as_chunks::<4>().0.iter().map(|octets| IpAddr::V4(Ipv4Addr::from(*octets))).collect()
        }
        Family::Ipv6 => {
            bytes.as_chunks::<16>().0.iter().map(|octets| IpAddr::V6(Ipv6Addr::from(*octets))).collect()
        }
    }
}

/// The form in which the checksum is right. Over IPv6 it covers the trailer, because the kernel's does.
fn verify(
    version: Version,
    message: &[u8],
    payload: &[u8],
    source: IpAddr,
    destination: IpAddr,
) -> Result<ChecksumForm, DecodeError> {
    let pseudo = |covered: &[u8]| pseudo_header(source, destination, covered.len()).unwrap_or_default();
    let right = |pseudo: &[u8], covered: &[u8]| internet_checksum(&[pseudo, covered]) == 0;
    let (form, with, covered) = match (version, source) {
        (Version::V2, _) => (ChecksumForm::MessageOnly, Vec::new(), message),
        (Version::V3, IpAddr::V6(_)) => (ChecksumForm::PseudoHeader, pseudo(payload), payload),
        (Version::V3, IpAddr::V4(_)) => {
            if right(&[], message) {
                return Ok(ChecksumForm::MessageOnly);
            }
            (ChecksumForm::PseudoHeader, pseudo(message), message)
        }
    };
    if right(&with, covered) {
        return Ok(form);
    }
    let found = u16::from_be_bytes([message[6], message[7]]);
    let mut blank = covered.to_vec();
    blank[super::encode::CHECKSUM].fill(0);
    Err(DecodeError::Checksum { found, expected: internet_checksum(&[&with, &blank]) })
}
