//! Netlink messages in a datagram.

use super::{
    DecodeError,
    wire::{MESSAGE_HEADER, align},
};

/// Every request has it.
pub const NLM_F_REQUEST: u16 = 0x1;
/// Asks for an answer also when all went well.
pub const NLM_F_ACK: u16 = 0x4;
/// Asks for everything (NLM_F_ROOT | NLM_F_MATCH).
pub const NLM_F_DUMP: u16 = 0x300;
/// On an answer: what is dumped changed meanwhile, so that the dump may lack entries or have some twice.
pub const NLM_F_DUMP_INTR: u16 = 0x10;

const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_OVERRUN: u16 = 4;

/// A netlink message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// NLM_F_*.
    pub flags: u16,
    /// The number of the request that it answers.
    pub sequence: u32,
    /// What it carries.
    pub payload: Payload<'a>,
}

/// What a netlink message carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload<'a> {
    /// The answer to one request: an errno, 0 when it was carried out.
    Answer {
        /// The errno, positive.
        errno: i32,
    },
    /// The end of a dump.
    Done {
        /// 0, or the errno (positive) that ended it early.
        errno: i32,
    },
    /// Messages were lost.
    Overrun,
    /// To be ignored.
    Noop,
    /// A message of a family: generic netlink header and attributes.
    Family {
        /// The family's id.
        id: u16,
        /// Generic netlink header and attributes.
        bytes: &'a [u8],
    },
}

/// The messages of a datagram, until the first that is cut off.
pub fn messages(datagram: &[u8]) -> Messages<'_> {
    Messages { bytes: datagram }
}

/// See [`messages`].
#[derive(Clone, Debug)]
pub struct Messages<'a> {
    bytes: &'a [u8],
}

impl<'a> Messages<'a> {
    fn parse(&mut self) -> Result<Message<'a>, DecodeError> {
        const CUT: DecodeError = DecodeError::Truncated { what: "a netlink message" };
        let header = self.bytes.first_chunk::<MESSAGE_HEADER>().ok_or(CUT)?;
        let word =
            |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let length = usize::try_from(word(0)).map_err(|_| CUT)?;
        let bytes = self.bytes.get(MESSAGE_HEADER..length).ok_or(CUT)?;
        let payload = match half(4) {
            NLMSG_NOOP => Payload::Noop,
            NLMSG_ERROR => Payload::Answer { errno: errno(bytes).ok_or(CUT)? },
            // Linux always sends an errno; none is as good as 0.
            NLMSG_DONE if bytes.is_empty() => Payload::Done { errno: 0 },
            NLMSG_DONE => Payload::Done { errno: errno(bytes).ok_or(CUT)? },
            NLMSG_OVERRUN => Payload::Overrun,
            id => Payload::Family { id, bytes },
        };
        self.bytes = self.bytes.get(align(length)..).unwrap_or_default();
        Ok(Message { flags: half(6), sequence: word(8), payload })
    }
}

/// The kernel writes errnos as negative numbers.
fn errno(bytes: &[u8]) -> Option<i32> {
    bytes.first_chunk::<4>().map(|&number| i32::from_ne_bytes(number).wrapping_neg())
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes.is_empty() {
            return None;
        }
        let message = self.parse();
        if message.is_err() {
            self.bytes = &[];
        }
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&u32::try_from(16 + payload.len()).unwrap().to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&0x10_u16.to_ne_bytes());
        bytes.extend_from_slice(&sequence.to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(payload);
        bytes.resize(align(bytes.len()), 0);
        bytes
    }

    #[test]
    fn every_kind_is_told_apart() {
        let mut datagram = message(NLMSG_NOOP, 1, &[]);
        datagram.extend(message(NLMSG_ERROR, 2, &(-17_i32).to_ne_bytes()));
        datagram.extend(message(NLMSG_DONE, 3, &0_i32.to_ne_bytes()));
        datagram.extend(message(NLMSG_OVERRUN, 4, &[]));
        datagram.extend(message(0x21, 5, &[1, 1, 0]));
        let all: Vec<_> = messages(&datagram).collect::<Result<_, _>>().unwrap();
        assert_eq!(
            all.iter().map(|m| (m.sequence, m.payload)).collect::<Vec<_>>(),
            [
                (1, Payload::Noop),
                (2, Payload::Answer { errno: 17 }),
                (3, Payload::Done { errno: 0 }),
                (4, Payload::Overrun),
                (5, Payload::Family { id: 0x21, bytes: &[1, 1, 0] }),
            ]
        );
        assert!(all.iter().all(|m| m.flags == NLM_F_DUMP_INTR));
    }

    #[test]
    fn cut_messages_are_refused_once() {
        let whole = message(NLMSG_ERROR, 2, &(-17_i32).to_ne_bytes());
        for length in 1..whole.len() {
            let all: Vec<_> = messages(&whole[..length]).collect();
            assert_eq!(all.len(), 1);
            assert!(all[0].is_err(), "{length}");
        }
        assert!(messages(&message(NLMSG_ERROR, 1, &[1, 2])).next().unwrap().is_err());
        let mut short = whole.clone();
        short[0] = 3;
        assert!(messages(&short).next().unwrap().is_err(), "a length below the header's");
        let most_negative = message(NLMSG_ERROR, 2, &i32::MIN.to_ne_bytes());
        assert!(messages(&most_negative).next().unwrap().is_ok(), "does not overflow");
    }
}
