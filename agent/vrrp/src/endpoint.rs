//! One virtual router's end of the wire: what it sends becomes bytes and is signed; what it receives is checked (RFC 9568 section
//! 7.1) before it may change anything.

use std::net::IpAddr;

use crate::authentication::{self, AuthenticationError, Bound, Hmac, Mode, Senders, Sequence};
use crate::packet::{
    self, Advertisement, ChecksumForm, Datagram, DecodeError, EncodeError, Family, Path, TTL, Version,
};
use crate::time::UnixTime;
use crate::timers::Interval;

/// How a group authenticates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Authentication {
    /// Not at all.
    #[default]
    None,
    /// The password of version 2: it keeps out mistakes, no attacker.
    Simple(packet::Authentication),
    /// The trailer of keepalived 2.4.
    Hmac(Hmac),
}

/// How members reach each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Peers {
    /// By VRRP's multicast group; TTL or hop limit must be 255.
    #[default]
    Multicast,
    /// By these addresses, and from these only.
    Unicast {
        /// The other members' own addresses.
        addresses: Vec<IpAddr>,
        /// Least TTL or hop limit that is accepted.
        min_ttl: u8,
    },
}

/// What to do with an advertisement for other addresses than ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AddressCheck {
    /// Report it and take part all the same (RFC 9568 section 7.1): two members whose manifests differ for a moment must not
    /// become two active ones.
    #[default]
    Report,
    /// Drop it (RFC 3768 section 7.1, but for the owner's).
    Drop,
    /// Do not look.
    Ignore,
}

/// The checksum of version 3 over IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksum {
    /// What is sent.
    pub send: ChecksumForm,
    /// Whether the other form is accepted too.
    pub accept_other: bool,
}

impl Default for Checksum {
    /// Sends what keepalived and FRR send, accepts both.
    fn default() -> Self {
        Checksum { send: ChecksumForm::PseudoHeader, accept_other: true }
    }
}

/// Why what was received changes nothing. Each has a name for counting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// No valid advertisement.
    #[error("{0} ({section})", section = .0.section())]
    Decode(#[from] DecodeError),
    /// It crossed a router, or pretends not to come from this link.
    #[error("TTL or hop limit {found} is below {least} (RFC 9568 section 5.1.1.3)")]
    Ttl {
        /// On arrival.
        found: u8,
        /// What is asked for.
        least: u8,
    },
    /// From our own address: a loop in the network, or somebody else has the address.
    #[error(
        "it came from our own address {address}: a loop in the network, or somebody else has that address"
    )]
    OwnAddress {
        /// The address.
        address: IpAddr,
    },
    /// Unicast, and not one of the members.
    #[error("{address} is not a member")]
    NotAMember {
        /// Where it came from.
        address: IpAddr,
    },
    /// A source that no router on this link has.
    #[error("{address} cannot be a router's own address on this link (RFC 9568 section 7.2)")]
    Source {
        /// Where it came from.
        address: IpAddr,
    },
    /// Not sent to where the group's members listen.
    #[error("it was sent to {address}, not to the members' {expected}")]
    Destination {
        /// Where it went.
        address: IpAddr,
        /// Where it should.
        expected: &'static str,
    },
    /// The other version.
    #[error("it is of version {found}, the group speaks version {expected}")]
    Version {
        /// Its version.
        found: u8,
        /// Ours.
        expected: u8,
    },
    /// Another virtual router's.
    #[error("it is for virtual router {found}, not {expected}")]
    Vrid {
        /// Its VRID.
        found: u8,
        /// Ours.
        expected: u8,
    },
    /// Version 2 wants the same interval on all members.
    #[error(
        "its interval is {found:?}, ours {expected:?}: version 2 wants the same on all members (RFC 3768 section 7.1)"
    )]
    Interval {
        /// Its interval.
        found: Interval,
        /// Ours.
        expected: Interval,
    },
    /// Other addresses, with [`AddressCheck::Drop`].
    #[error("{0}")]
    Addresses(AddressesDiffer),
    /// Not authentic.
    #[error(transparent)]
    Authentication(#[from] AuthenticationError),
}

impl Rejection {
    /// Its name in counters.
    pub const fn name(&self) -> &'static str {
        use AuthenticationError as A;
        match self {
            Self::Decode(DecodeError::Checksum { .. }) => "checksum",
            Self::Decode(DecodeError::ChecksumForm { .. }) => "checksum-form",
            Self::Decode(_) => "malformed",
            Self::Ttl { .. } => "ttl",
            Self::OwnAddress { .. } => "own-address",
            Self::NotAMember { .. } => "not-a-member",
            Self::Source { .. } => "source",
            Self::Destination { .. } => "destination",
            Self::Version { .. } => "version",
            Self::Vrid { .. } => "vrid",
            Self::Interval { .. } => "interval",
            Self::Addresses(_) => "addresses",
            Self::Authentication(A::Unsigned) => "unsigned",
            Self::Authentication(A::Malformed | A::Signature | A::UnknownKey { .. }) => "signature",
            Self::Authentication(A::Stale { .. }) => "stale",
            Self::Authentication(A::Replayed) => "replayed",
            Self::Authentication(A::Password) => "password",
        }
    }
}

/// Its addresses are not ours: manifests that differ, or two groups with one VRID on one network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "its addresses differ from ours ({missing} of ours are missing, {extra} of its are unknown): manifests that differ, or two groups \
     with one virtual router id on one network"
)]
pub struct AddressesDiffer {
    /// Addresses of ours that it does not have.
    pub missing: usize,
    /// Addresses that we do not have.
    pub extra: usize,
}

/// A valid advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Who sent it.
    pub source: IpAddr,
    /// Its priority, 0 to 255.
    pub priority: u8,
    /// Its Max_Advertise_Interval.
    pub interval: Interval,
    /// If its addresses are not ours.
    pub differ: Option<AddressesDiffer>,
    /// It is signed, and we have no key.
    pub signed_in_vain: bool,
}

/// What an endpoint must know of its virtual router.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) version: Version,
    pub(crate) family: Family,
    pub(crate) vrid: u8,
    pub(crate) interval: Interval,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) authentication: Authentication,
    pub(crate) peers: Peers,
    pub(crate) checksum: Checksum,
    pub(crate) address_check: AddressCheck,
}

impl Endpoint {
    /// Where its advertisements go: the multicast group, or each peer.
    pub(crate) fn destinations(&self) -> Vec<IpAddr> {
        match &self.peers {
            Peers::Multicast => vec![self.family.multicast()],
            Peers::Unicast { addresses, .. } => {
                addresses.iter().copied().filter(|address| Family::of(*address) == self.family).collect()
            }
        }
    }

    /// An advertisement of `priority`, signed if that is asked for.
    pub(crate) fn seal(
        &self,
        source: IpAddr,
        destination: IpAddr,
        priority: u8,
        sequence: &mut Sequence,
        now: UnixTime,
    ) -> Result<Vec<u8>, EncodeError> {
        let path = Path { source, destination, checksum: self.checksum.send };
        let advertisement = Advertisement {
            version: self.version,
            vrid: self.vrid,
            priority,
            interval: self.interval,
            addresses: self.addresses.clone(),
            authentication: match &self.authentication {
                Authentication::Simple(simple) => *simple,
                Authentication::None | Authentication::Hmac(_) => packet::Authentication::None,
            },
        };
        match &self.authentication {
            Authentication::Hmac(hmac) if hmac.mode != Mode::ReceiveOnly => {
                let message = packet::body(&advertisement, &path)?;
                *sequence = sequence.next(now, hmac.anti_replay.window());
                let bound = Bound { version: self.version, vrid: self.vrid, source };
                let trailer = authentication::sign(hmac.keys.active(), *sequence, &bound, &message);
                Ok(packet::seal_checksum(message, self.version, &path, Some(&trailer)))
            }
            _ => packet::encode(&advertisement, &path),
        }
    }

    /// Checks what was received. What is cheap comes first, so that a flood costs little.
    pub(crate) fn open(
        &self,
        own: Option<IpAddr>,
        senders: &mut Senders,
        now: UnixTime,
        datagram: &Datagram<'_>,
    ) -> Result<Heard, Rejection> {
        self.check_path(own, datagram)?;
        let decoded = packet::decode(datagram.payload, datagram.source, datagram.destination)?;
        let advertisement = &decoded.advertisement;
        if advertisement.vrid != self.vrid {
            return Err(Rejection::Vrid { found: advertisement.vrid, expected: self.vrid });
        }
        if advertisement.version != self.version {
            let (found, expected) = (advertisement.version.number(), self.version.number());
            return Err(Rejection::Version { found, expected });
        }
        let two_forms = self.version == Version::V3 && self.family == Family::Ipv4;
        if two_forms && decoded.checksum != self.checksum.send && !self.checksum.accept_other {
            return Err(DecodeError::ChecksumForm { found: decoded.checksum }.into());
        }
        if self.version == Version::V2 && advertisement.interval != self.interval {
            return Err(Rejection::Interval { found: advertisement.interval, expected: self.interval });
        }
        self.authenticate(senders, now, datagram.source, &decoded)?;
        let differ = self.compare(&advertisement.addresses);
        match (self.address_check, differ) {
            // RFC 3768 section 7.1 lets the owner's pass.
            (AddressCheck::Drop, Some(differ)) if advertisement.priority != packet::PRIORITY_OWNER => {
                Err(Rejection::Addresses(differ))
            }
            (check, differ) => Ok(Heard {
                source: datagram.source,
                priority: advertisement.priority,
                interval: advertisement.interval,
                differ: differ.filter(|_| check != AddressCheck::Ignore),
                signed_in_vain: decoded.trailer.is_some()
                    && !matches!(self.authentication, Authentication::Hmac(_)),
            }),
        }
    }

    fn check_path(&self, own: Option<IpAddr>, datagram: &Datagram<'_>) -> Result<(), Rejection> {
        let address = datagram.source;
        let least = match &self.peers {
            Peers::Multicast => TTL,
            Peers::Unicast { min_ttl, .. } => *min_ttl,
        };
        if datagram.ttl < least {
            return Err(Rejection::Ttl { found: datagram.ttl, least });
        }
        if own == Some(address) {
            return Err(Rejection::OwnAddress { address });
        }
        let multicast = datagram.destination.is_multicast();
        match &self.peers {
            Peers::Unicast { addresses, .. } if !addresses.contains(&address) => {
                Err(Rejection::NotAMember { address })
            }
            Peers::Unicast { .. } if multicast => {
                Err(Rejection::Destination { address: datagram.destination, expected: "own addresses" })
            }
            Peers::Multicast if datagram.destination != self.family.multicast() => {
                Err(Rejection::Destination { address: datagram.destination, expected: "multicast group" })
            }
            Peers::Multicast if !can_be_a_router(address) => Err(Rejection::Source { address }),
            _ => Ok(()),
        }
    }

    fn authenticate(
        &self,
        senders: &mut Senders,
        now: UnixTime,
        source: IpAddr,
        decoded: &packet::Decoded<'_>,
    ) -> Result<(), AuthenticationError> {
        let found = decoded.advertisement.authentication;
        match &self.authentication {
            Authentication::Simple(expected) if found == *expected => Ok(()),
            Authentication::None if found == packet::Authentication::None => Ok(()),
            Authentication::None | Authentication::Simple(_) => Err(AuthenticationError::Password),
            Authentication::Hmac(hmac) => {
                let bound = Bound { version: self.version, vrid: self.vrid, source };
                authentication::verify(hmac, senders, now, &bound, decoded.message, decoded.trailer)
            }
        }
    }

    fn compare(&self, theirs: &[IpAddr]) -> Option<AddressesDiffer> {
        // The usual case costs no search.
        if self.addresses == theirs {
            return None;
        }
        let missing = self.addresses.iter().filter(|address| !theirs.contains(address)).count();
        let extra = theirs.iter().filter(|address| !self.addresses.contains(address)).count();
        (missing + extra > 0).then_some(AddressesDiffer { missing, extra })
    }
}

/// Advertisements come from a router's primary IPv4 address or its link-local IPv6 address (RFC 9568 section 7.2).
fn can_be_a_router(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            !(address.is_unspecified()
                || address.is_multicast()
                || address.is_broadcast()
                || address.is_loopback())
        }
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}
