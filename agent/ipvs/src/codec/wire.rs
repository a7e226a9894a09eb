//! Netlink headers and attributes, written and read.

use super::DecodeError;

/// NLA_F_NESTED.
const NESTED: u16 = 0x8000;
/// NLA_TYPE_MASK: the type without its flags.
const TYPE_MASK: u16 = 0x3fff;

pub(super) const MESSAGE_HEADER: usize = 16;
pub(super) const GENERIC_HEADER: usize = 4;

/// Lengths are rounded up to a multiple of this (NLMSG_ALIGNTO, NLA_ALIGNTO).
pub(super) fn align(length: usize) -> usize {
    (length + 3) & !3
}

/// Where in the buffer a message begins; to be handed to [`finish`].
pub(super) fn start(
    buffer: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    command: u8,
    version: u8,
) -> usize {
    let at = buffer.len();
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(&kind.to_ne_bytes());
    buffer.extend_from_slice(&flags.to_ne_bytes());
    buffer.extend_from_slice(&sequence.to_ne_bytes());
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(&[command, version, 0, 0]);
    at
}

/// Writes the length of the message that began at `at`.
pub(super) fn finish(buffer: &mut [u8], at: usize) {
    let length = u32::try_from(buffer.len() - at).expect("a message is a few hundred bytes long");
    buffer[at..at + 4].copy_from_slice(&length.to_ne_bytes());
}

pub(super) fn put(buffer: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).expect("values are names, numbers and addresses");
    buffer.extend_from_slice(&length.to_ne_bytes());
    buffer.extend_from_slice(&kind.to_ne_bytes());
    buffer.extend_from_slice(value);
    buffer.resize(align(buffer.len()), 0);
}

pub(super) fn put_u8(buffer: &mut Vec<u8>, kind: u16, value: u8) {
    put(buffer, kind, &[value]);
}

pub(super) fn put_u16(buffer: &mut Vec<u8>, kind: u16, value: u16) {
    put(buffer, kind, &value.to_ne_bytes());
}

pub(super) fn put_be16(buffer: &mut Vec<u8>, kind: u16, value: u16) {
    put(buffer, kind, &value.to_be_bytes());
}

pub(super) fn put_u32(buffer: &mut Vec<u8>, kind: u16, value: u32) {
    put(buffer, kind, &value.to_ne_bytes());
}

/// A string with its NUL.
pub(super) fn put_text(buffer: &mut Vec<u8>, kind: u16, text: &str) {
    let length = u16::try_from(4 + text.len() + 1).expect("names are checked to be short");
    buffer.extend_from_slice(&length.to_ne_bytes());
    buffer.extend_from_slice(&kind.to_ne_bytes());
    buffer.extend_from_slice(text.as_bytes());
    buffer.push(0);
    buffer.resize(align(buffer.len()), 0);
}

/// Begins a nested attribute; to be handed to [`close`].
pub(super) fn open(buffer: &mut Vec<u8>, kind: u16) -> usize {
    let at = buffer.len();
    buffer.extend_from_slice(&[0; 2]);
    buffer.extend_from_slice(&(kind | NESTED).to_ne_bytes());
    at
}

pub(super) fn close(buffer: &mut [u8], at: usize) {
    let length = u16::try_from(buffer.len() - at).expect("a nest is a few hundred bytes long");
    buffer[at..at + 2].copy_from_slice(&length.to_ne_bytes());
}

/// One attribute.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attribute<'a> {
    /// Its type without flags.
    pub(super) kind: u16,
    pub(super) value: &'a [u8],
}

/// The attributes in `bytes`, until the first that is cut off.
pub(super) fn attributes(bytes: &[u8]) -> Attributes<'_> {
    Attributes { bytes }
}

pub(super) struct Attributes<'a> {
    bytes: &'a [u8],
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<Attribute<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes.is_empty() {
            return None;
        }
        let header = self.bytes.first_chunk::<4>();
        let parsed = header.and_then(|&[l0, l1, k0, k1]| {
            let length = usize::from(u16::from_ne_bytes([l0, l1]));
            let value = self.bytes.get(4..length)?;
            let rest = self.bytes.get(align(length)..).unwrap_or_default();
            Some((Attribute { kind: u16::from_ne_bytes([k0, k1]) & TYPE_MASK, value }, rest))
        });
        let Some((attribute, rest)) = parsed else {
            self.bytes = &[];
            return Some(Err(DecodeError::Truncated { what: "an attribute" }));
        };
        self.bytes = rest;
        Some(Ok(attribute))
    }
}

/// Exactly `N` bytes.
fn exactly<const N: usize>(value: &[u8], attribute: &'static str) -> Result<[u8; N], DecodeError> {
    value.try_into().map_err(|_| DecodeError::Length { attribute, length: value.len() })
}

pub(super) fn get_u8(value: &[u8], attribute: &'static str) -> Result<u8, DecodeError> {
    exactly::<1>(value, attribute).map(|[byte]| byte)
}

pub(super) fn get_u16(value: &[u8], attribute: &'static str) -> Result<u16, DecodeError> {
    exactly(value, attribute).map(u16::from_ne_bytes)
}

pub(super) fn get_be16(value: &[u8], attribute: &'static str) -> Result<u16, DecodeError> {
    exactly(value, attribute).map(u16::from_be_bytes)
}

pub(super) fn get_u32(value: &[u8], attribute: &'static str) -> Result<u32, DecodeError> {
    exactly(value, attribute).map(u32::from_ne_bytes)
}

pub(super) fn get_u64(value: &[u8], attribute: &'static str) -> Result<u64, DecodeError> {
    exactly(value, attribute).map(u64::from_ne_bytes)
}

pub(super) fn get_bytes<const N: usize>(
    value: &[u8],
    attribute: &'static str,
) -> Result<[u8; N], DecodeError> {
    exactly(value, attribute)
}

/// A string up to its NUL; none if it is empty, as `ipvsadm` sends where it has nothing to say. Bytes that are no UTF-8 (an
/// interface may have such a name) become U+FFFD.
pub(super) fn get_text(value: &[u8]) -> Option<String> {
    let text = value.split(|&byte| byte == 0).next().unwrap_or_default();
    (!text.is_empty()).then(|| String::from_utf8_lossy(text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_got() {
        let mut buffer = Vec::new();
        put_u8(&mut buffer, 1, 7);
        put_be16(&mut buffer, 2, 80);
        put_text(&mut buffer, 3, "wlc");
        let nest = open(&mut buffer, 4);
        put_u32(&mut buffer, 1, 9);
        close(&mut buffer, nest);
        let all: Vec<_> = attributes(&buffer).collect::<Result<_, _>>().unwrap();
        assert_eq!(all.iter().map(|a| a.kind).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(get_u8(all[0].value, ""), Ok(7));
        assert_eq!(all[1].value, [0, 80]);
        assert_eq!(all[2].value, b"wlc\0");
        assert_eq!(get_text(all[2].value).unwrap(), "wlc");
        let inner: Vec<_> = attributes(all[3].value).collect::<Result<_, _>>().unwrap();
        assert_eq!(get_u32(inner[0].value, ""), Ok(9));
    }

    #[test]
    fn cut_attributes_are_refused() {
        for bytes in [&[1][..], &[1, 0, 0], &[3, 0, 1, 0], &[0, 0, 1, 0], &[9, 0, 1, 0, 1, 2, 3, 4]] {
            let all: Vec<_> = attributes(bytes).collect();
            assert_eq!(all.len(), 1, "{bytes:?}");
            assert!(all[0].is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn padding_of_the_last_attribute_may_be_missing() {
        let all: Vec<_> = attributes(&[5, 0, 1, 0, 42]).collect::<Result<_, _>>().unwrap();
        assert_eq!(all[0].value, [42]);
    }

    #[test]
    fn wrong_lengths_are_refused() {
        assert!(get_u16(&[1], "").is_err());
        assert!(get_u16(&[1, 2, 3], "").is_err());
        assert!(get_u32(&[], "").is_err());
        assert_eq!(get_text(&[]), None);
        assert_eq!(get_text(&[0]), None);
        assert_eq!(get_text(b"eth0").unwrap(), "eth0", "a missing NUL is harmless");
    }
}
