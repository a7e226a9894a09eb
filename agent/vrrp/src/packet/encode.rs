//! An advertisement to bytes.

use std::net::IpAddr;

use super::checksum::{internet_checksum, pseudo_header};
use super::{Advertisement, Authentication, ChecksumForm, EncodeError, Family, HEADER, SIMPLE, Version};
use crate::timers::Interval;

/// Where an advertisement comes from and goes to: part of the checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// The sender's primary address (IPv4) or link-local address (IPv6; any own address when it is sent by unicast).
    pub source: IpAddr,
    /// The multicast group, or a peer.
    pub destination: IpAddr,
    /// Form of the checksum of version 3 over IPv4.
    pub checksum: ChecksumForm,
}

/// Where the checksum stands.
pub(crate) const CHECKSUM: std::ops::Range<usize> = 6..8;

/// The bytes of `advertisement`, checksum filled in. Linux calculates it again on an IPv6 socket with `IPV6_CHECKSUM` 6 and gets
/// the same.
pub fn encode(advertisement: &Advertisement, path: &Path) -> Result<Vec<u8>, EncodeError> {
    let bytes = body(advertisement, path)?;
    Ok(seal_checksum(bytes, advertisement.version, path, None))
}

/// Fills in the checksum. Over IPv6 it covers `trailer` as well, because the kernel, which knows nothing of trailers, calculates
/// and verifies it over the whole payload; over IPv4 only the message.
pub(crate) fn seal_checksum(
    mut message: Vec<u8>,
    version: Version,
    path: &Path,
    trailer: Option<&[u8]>,
) -> Vec<u8> {
    let covered = match path.source {
        IpAddr::V4(_) => &[],
        IpAddr::V6(_) => trailer.unwrap_or_default(),
    };
    let pseudo = if with_pseudo_header(version, path) {
        pseudo_header(path.source, path.destination, message.len() + covered.len()).unwrap_or_default()
    } else {
        Vec::new()
    };
    message[CHECKSUM].fill(0);
    let checksum = internet_checksum(&[&pseudo, &message, covered]).to_be_bytes();
    message[CHECKSUM].copy_from_slice(&checksum);
    message.extend_from_slice(trailer.unwrap_or_default());
    message
}

fn with_pseudo_header(version: Version, path: &Path) -> bool {
    match (version, path.source) {
        (Version::V2, _) => false,
        (Version::V3, IpAddr::V6(_)) => true,
        (Version::V3, IpAddr::V4(_)) => path.checksum == ChecksumForm::PseudoHeader,
    }
}

/// Everything but the checksum, which is zero.
pub(crate) fn body(advertisement: &Advertisement, path: &Path) -> Result<Vec<u8>, EncodeError> {
    let family = Family::of(path.source);
    let Advertisement { version, vrid, priority, interval, addresses, authentication } = advertisement;
    if *vrid == 0 {
        return Err(EncodeError::Vrid);
    }
    if *version == Version::V2 && family == Family::Ipv6 {
        return Err(EncodeError::Version2Ipv6);
    }
    let most = family.most_addresses();
    let count = match u8::try_from(addresses.len()) {
        Ok(count) if count > 0 && usize::from(count) <= most => count,
        _ => return Err(EncodeError::Count { count: addresses.len(), most }),
    };
    for address in addresses.iter().chain([&path.destination]) {
        if Family::of(*address) != family {
            return Err(EncodeError::Family { address: *address, source_address: path.source });
        }
    }
    let mut bytes = Vec::with_capacity(HEADER + addresses.len() * family.length() + SIMPLE);
    bytes.extend([version.number() << 4 | 1, *vrid, *priority, count]);
    bytes.extend(interval_field(*version, *interval, authentication)?);
    bytes.extend([0, 0]);
    for address in addresses {
        match address {
            IpAddr::V4(address) => bytes.extend(address.octets()),
            IpAddr::V6(address) => bytes.extend(address.octets()),
        }
    }
    match (version, authentication) {
        (Version::V3, _) => {}
        (Version::V2, Authentication::None) => bytes.extend([0; SIMPLE]),
        (Version::V2, Authentication::Simple(data)) => bytes.extend(data),
    }
    Ok(bytes)
}

/// Bytes 4 and 5: Auth Type and Adver Int in seconds, or four reserved bits that are zero and Max_Advertise_Interval.
fn interval_field(
    version: Version,
    interval: Interval,
    authentication: &Authentication,
) -> Result<[u8; 2], EncodeError> {
    let centiseconds = interval.centiseconds();
    let unsayable = EncodeError::Interval { centiseconds };
    match version {
        Version::V3 if *authentication != Authentication::None => Err(EncodeError::SimpleInV3),
        Version::V3 if centiseconds == 0 || interval > Interval::MAX_V3 => Err(unsayable),
        Version::V3 => Ok(centiseconds.to_be_bytes()),
        Version::V2 if centiseconds == 0 || !centiseconds.is_multiple_of(100) => Err(unsayable),
        Version::V2 => {
            let kind = u8::from(*authentication != Authentication::None);
            let seconds = u8::try_from(centiseconds / 100).map_err(|_| unsayable)?;
            Ok([kind, seconds])
        }
    }
}
