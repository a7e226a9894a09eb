//! The header of a synchronisation message (struct ip_vs_sync_mesg and ip_vs_sync_mesg_v0, net/netfilter/ipvs/ip_vs_sync.c).
//!
//! ```text
//! version 1:  reserved(8) = 0   syncid(8)  size(16)  nr_conns(8)  version(8) = 1  spare(16)
//! version 0:  nr_conns(8)       syncid(8)  size(16)
//! ```
//! The size counts the whole message, in network order. The kernel takes a message for version 1 when the first byte is 0, the
//! sixth 1 and the spare 0 (`ip_vs_process_message`), else for version 0.

/// Bytes of a header of version 1, the longer one.
pub(super) const LONGEST: usize = 8;
const SHORTEST: usize = 4;

/// What a message says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// 0 or 1.
    pub(super) version: u8,
    /// Who shall take it.
    pub(super) sync_id: u8,
    /// Bytes of the message.
    pub(super) size: u16,
    /// Connections in it.
    pub(super) connections: u8,
}

/// Reads the header of a datagram of `length` bytes of which at least the first [`LONGEST`] are in `bytes`; none where the kernel
/// would throw it away.
pub(super) fn decode(bytes: &[u8], length: usize) -> Option<Header> {
    let [first, sync_id, high, low] = *bytes.first_chunk::<SHORTEST>()?;
    let size = u16::from_be_bytes([high, low]);
    if usize::from(size) != length {
        return None;
    }
    match bytes.get(SHORTEST..LONGEST) {
        Some([connections, 1, 0, 0]) if first == 0 => {
            Some(Header { version: 1, sync_id, size, connections: *connections })
        }
        _ => Some(Header { version: 0, sync_id, size, connections: first }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(header: Header) -> Vec<u8> {
        let [high, low] = header.size.to_be_bytes();
        let mut bytes = match header.version {
            1 => vec![0, header.sync_id, high, low, header.connections, 1, 0, 0],
            _ => vec![header.connections, header.sync_id, high, low],
        };
        bytes.resize(usize::from(header.size), 7);
        bytes
    }

    #[test]
    fn what_the_kernel_sends_is_read() {
        // Of a master of Linux 6.1 with syncid 51: one IPv4 connection of 36 bytes.
        let message = [0, 51, 0, 44, 1, 1, 0, 0];
        assert_eq!(decode(&message, 44), Some(Header { version: 1, sync_id: 51, size: 44, connections: 1 }));
        for (bytes, length) in [(&message[..], 43), (&message[..3], 3), (&[][..], 0)] {
            assert_eq!(decode(bytes, length), None, "{bytes:?} of {length}");
        }
    }

    proptest! {
        #[test]
        fn reads_back_what_was_written(version in 0u8..2, sync_id: u8, size in 8u16.., connections in 1u8..) {
            let header = Header { version, sync_id, size, connections };
            let bytes = encode(header);
            prop_assert_eq!(decode(&bytes, bytes.len()), Some(header));
            // Only the beginning is needed.
            prop_assert_eq!(decode(&bytes[..LONGEST], bytes.len()), Some(header));
            prop_assert_eq!(decode(&bytes, bytes.len() - 1), None);
        }

        #[test]
        fn noise_is_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40), length in 0usize..70_000) {
            if let Some(header) = decode(&bytes, length) {
                prop_assert_eq!(usize::from(header.size), length);
                prop_assert!(header.version <= 1 && bytes.len() >= SHORTEST);
            }
        }
    }
}
