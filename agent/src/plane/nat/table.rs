//! What our nftables table consists of: sets and maps, and one rule for each.
//!
//! The rules never name a service: what differs from service to service is an element of a set, so that one changed service is
//! one changed element, and a packet costs a handful of lookups however many services there are.

use std::net::IpAddr;

/// Our table, of the family `inet`.
pub const TABLE: &str = "bascule";

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Version {
    /// Of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// Bytes of an address.
    pub fn length(self) -> usize {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }
}

/// How a service whose client addresses are rewritten is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum By {
    /// By virtual address, protocol and port.
    Port,
    /// By virtual address and protocol: a service on all ports.
    AnyPort,
    /// By firewall mark.
    Mark,
}

impl By {
    const ALL: [Self; 3] = [Self::Port, Self::AnyPort, Self::Mark];
}

/// A set or map of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Set {
    /// A map: packets to an address, protocol and port get a mark.
    Marks(Version),
    /// Pairs of a connected network and a real server that is reached through it.
    Connected(Version),
    /// Services and real servers whose clients' addresses are rewritten; only those in a connected network if `auto`.
    Source {
        /// The family.
        version: Version,
        /// How services are told apart.
        by: By,
        /// Only clients that the real server would answer past the director.
        auto: bool,
    },
    /// Addresses of groups with `accept: false`.
    Refused(Version),
}

impl Set {
    /// All there can be.
    pub fn all() -> impl Iterator<Item = Self> {
        Version::ALL.into_iter().flat_map(|version| {
            let sources = By::ALL.into_iter().flat_map(move |by| {
                [false, true].into_iter().map(move |auto| Self::Source { version, by, auto })
            });
            [Self::Marks(version), Self::Connected(version), Self::Refused(version)]
                .into_iter()
                .chain(sources)
        })
    }

    /// The family of its addresses.
    pub fn version(self) -> Version {
        match self {
            Self::Marks(version)
            | Self::Connected(version)
            | Self::Source { version, .. }
            | Self::Refused(version) => version,
        }
    }

    /// The name in the kernel.
    pub fn name(self) -> &'static str {
        use Version::{V4, V6};
        match self {
            Self::Marks(V4) => "mark4",
            Self::Marks(V6) => "mark6",
            Self::Connected(V4) => "connected4",
            Self::Connected(V6) => "connected6",
            Self::Refused(V4) => "refused4",
            Self::Refused(V6) => "refused6",
            Self::Source { version: V4, by: By::Port, auto: false } => "source_always4",
            Self::Source { version: V4, by: By::Port, auto: true } => "source_auto4",
            Self::Source { version: V4, by: By::AnyPort, auto: false } => "source_always_any4",
            Self::Source { version: V4, by: By::AnyPort, auto: true } => "source_auto_any4",
            Self::Source { version: V4, by: By::Mark, auto: false } => "source_always_mark4",
            Self::Source { version: V4, by: By::Mark, auto: true } => "source_auto_mark4",
            Self::Source { version: V6, by: By::Port, auto: false } => "source_always6",
            Self::Source { version: V6, by: By::Port, auto: true } => "source_auto6",
            Self::Source { version: V6, by: By::AnyPort, auto: false } => "source_always_any6",
            Self::Source { version: V6, by: By::AnyPort, auto: true } => "source_auto_any6",
            Self::Source { version: V6, by: By::Mark, auto: false } => "source_always_mark6",
            Self::Source { version: V6, by: By::Mark, auto: true } => "source_auto_mark6",
        }
    }

    /// The fields of its key, in order.
    pub fn fields(self) -> &'static [Field] {
        use Field::{Address, Mark, Port, Protocol};
        match self {
            Self::Marks(_) => &[Address, Protocol, Port],
            Self::Connected(_) => &[Address, Address],
            Self::Refused(_) => &[Address],
            Self::Source { by: By::Port, .. } => &[Address, Protocol, Port, Address],
            Self::Source { by: By::AnyPort, .. } => &[Address, Protocol, Address],
            Self::Source { by: By::Mark, .. } => &[Mark, Address],
        }
    }

    /// Whether its keys are ranges, from a first key to a last.
    pub fn ranges(self) -> bool {
        matches!(self, Self::Connected(_))
    }

    /// Whether it maps to a mark.
    pub fn maps(self) -> bool {
        matches!(self, Self::Marks(_))
    }

    /// Bytes of a key; each field takes a multiple of four.
    pub fn key_length(self) -> usize {
        self.fields().iter().map(|field| field.space(self.version())).sum()
    }
}

/// A part of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// An address of the set's family.
    Address,
    /// A protocol number.
    Protocol,
    /// A port.
    Port,
    /// A mark.
    Mark,
}

impl Field {
    /// Bytes of the value.
    pub fn length(self, version: Version) -> usize {
        match self {
            Self::Address => version.length(),
            Self::Protocol => 1,
            Self::Port => 2,
            Self::Mark => 4,
        }
    }

    /// Bytes in a key.
    pub fn space(self, version: Version) -> usize {
        self.length(version).next_multiple_of(4)
    }

    /// nft's number of the type (`enum datatypes` of its src/datatype.h), by which it prints elements.
    pub fn type_number(self, version: Version) -> u32 {
        match (self, version) {
            (Self::Address, Version::V4) => 7,
            (Self::Address, Version::V6) => 8,
            (Self::Protocol, _) => 12,
            (Self::Port, _) => 13,
            (Self::Mark, _) => 19,
        }
    }
}

/// A key in the kernel's form; of a range, its first key and then its last.
pub type Key = Vec<u8>;

/// Puts a key together.
#[derive(Default)]
pub(super) struct KeyWriter(Vec<u8>);

impl KeyWriter {
    fn put(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(super) fn address(self, address: IpAddr) -> Self {
        self.put(&crate::plane::attribute::octets(address))
    }

    pub(super) fn protocol(self, number: u8) -> Self {
        self.put(&[number])
    }

    pub(super) fn port(self, port: u16) -> Self {
        self.put(&port.to_be_bytes())
    }

    /// Marks are in the order of the machine.
    pub(super) fn mark(self, mark: u32) -> Self {
        self.put(&mark.to_ne_bytes())
    }

    pub(super) fn finish(self) -> Key {
        self.0
    }
}

/// A key as people read it.
pub(super) fn describe(set: Set, key: &[u8]) -> String {
    let mut parts = Vec::new();
    let (first, last) = key.split_at(set.key_length().min(key.len()));
    let mut at = 0;
    for field in set.fields() {
        let length = field.length(set.version());
        let (Some(value), end) = (first.get(at..at + length), last.get(at..at + length)) else { break };
        parts.push(match field {
            Field::Address => {
                let from = crate::plane::attribute::address(value);
                let to = end.and_then(crate::plane::attribute::address);
                match (from, to) {
                    (Some(from), Some(to)) if from != to => format!("{from}-{to}"),
                    (Some(from), _) => from.to_string(),
                    (None, _) => String::new(),
                }
            }
            Field::Protocol => match value[0] {
                6 => "TCP".to_owned(),
                17 => "UDP".to_owned(),
                132 => "SCTP".to_owned(),
                other => other.to_string(),
            },
            Field::Port => u16::from_be_bytes([value[0], value[1]]).to_string(),
            Field::Mark => format!("mark {}", u32::from_ne_bytes([value[0], value[1], value[2], value[3]])),
        });
        at += field.space(set.version());
    }
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_set_has_a_name_of_its_own_that_the_kernel_takes() {
        let names: BTreeSet<_> = Set::all().map(Set::name).collect();
        assert_eq!(names.len(), Set::all().count());
        assert!(names.iter().all(|name| name.len() < 32));
    }

    #[test]
    fn keys_are_padded_field_by_field_and_read_back() {
        let set = Set::Source { version: Version::V4, by: By::Port, auto: true };
        let key = KeyWriter::default()
            .address("192.16.193.30".parse().unwrap())
            .protocol(6)
            .port(80)
            .address("172.16.193.10".parse().unwrap())
            .finish();
        assert_eq!(key, [192, 16, 193, 30, 6, 0, 0, 0, 0, 80, 0, 0, 172, 16, 193, 10]);
        assert_eq!(key.len(), set.key_length());
        assert_eq!(describe(set, &key), "192.16.193.30 TCP 80 172.16.193.10");
        assert_eq!(Set::Source { version: Version::V6, by: By::Port, auto: false }.key_length(), 40);
    }
}
