//! Netlink attributes: length, type, value, padded to four bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// NLA_F_NESTED.
const NESTED: u16 = 0x8000;
/// Without NLA_F_NESTED and NLA_F_NET_BYTEORDER.
const TYPE_MASK: u16 = 0x3fff;

/// Reads attributes one after another; ends at the first that does not fit.
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (header, _) = self.0.split_at_checked(4)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & TYPE_MASK;
        let value = self.0.get(4..length)?;
        self.0 = &self.0[length.next_multiple_of(4).min(self.0.len())..];
        Some((kind, value))
    }
}

/// The first attribute of a type.
pub(crate) fn find(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    Attributes(attributes).find(|(other, _)| *other == kind).map(|(_, value)| value)
}

/// A number in host order.
pub(crate) fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.get(..4)?.try_into().ok()?))
}

/// A string that ends with NUL.
pub(crate) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// An address of 4 or 16 bytes.
pub(crate) fn address(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?).into()),
        _ => None,
    }
}

/// The bytes of an address.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Writes attributes.
#[derive(Default)]
pub(crate) struct Writer {
    buffer: Vec<u8>,
}

impl Writer {
    /// Starts after a fixed header.
    pub(crate) fn after(header: &[u8]) -> Self {
        Self { buffer: header.to_vec() }
    }

    /// The bytes.
    pub(crate) fn finish(self) -> Vec<u8> {
        self.buffer
    }

    /// An attribute with these bytes, at most 65,531.
    pub(crate) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(4 + value.len()).expect("an attribute has at most 65,535 bytes");
        self.buffer.extend_from_slice(&length.to_ne_bytes());
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        self.buffer.extend_from_slice(value);
        self.buffer.resize(self.buffer.len().next_multiple_of(4), 0);
        self
    }

    /// A string with its NUL.
    pub(crate) fn string(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// A number in host order.
    pub(crate) fn host(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// A number in network order.
    pub(crate) fn network(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Attributes in an attribute.
    pub(crate) fn nest(self, kind: u16, write: impl FnOnce(Writer) -> Writer) -> Self {
        let inner = write(Writer::default()).finish();
        self.bytes(kind | NESTED, &inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let bytes = Writer::after(&[9; 8])
            .string(1, "lo")
            .nest(2, |nested| nested.network(3, 1).host(4, 2))
            .bytes(5, &[1, 2, 3, 4])
            .finish();
        let all: Vec<_> = Attributes(&bytes[8..]).collect();
        assert_eq!(all.len(), 3);
        assert_eq!(text(all[0].1), "lo");
        assert_eq!(find(all[1].1, 3), Some(&[0, 0, 0, 1][..]));
        assert_eq!(find(all[1].1, 4).and_then(number), Some(2));
        assert_eq!(address(all[2].1), Some("1.2.3.4".parse().unwrap()));
    }

    #[test]
    fn stops_at_a_length_that_does_not_fit() {
        assert_eq!(Attributes(&[200, 0, 1, 0, 1]).count(), 0);
        assert_eq!(Attributes(&[2, 0, 1, 0]).count(), 0);
        assert_eq!(Attributes(&[]).count(), 0);
    }
}
