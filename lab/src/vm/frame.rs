//! Frames: how the host's processes, the supervisor and the executor inside the virtual machine talk.
//!
//! A frame is a header of nine bytes (payload length and channel as little-endian `u32`, kind) and a payload of at most
//! [`MAX_PAYLOAD`] bytes. On the Unix socket between a client and the supervisor there is one client a connection and the channel
//! is 0; on the virtio-serial port the supervisor gives each client a channel of its own. Data flows under credit: a side sends at
//! most [`WINDOW`] bytes that the other has not yet consumed, so that a slow reader stops only its own sender and no queue grows.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use thiserror::Error;

/// Largest payload, in bytes.
pub const MAX_PAYLOAD: usize = 64 * 1024;
/// Bytes of data that may be under way on a channel in one direction.
pub const WINDOW: u32 = 256 * 1024;
/// Least cost of a data frame, in bytes of the window.
pub const MIN_COST: usize = 256;
/// Frames that may wait on a channel: all that the window admits, and some that need no credit.
pub const QUEUE: usize = WINDOW as usize / MIN_COST + 128;
/// Length of a frame's header, in bytes.
pub const HEADER: usize = 9;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The executor's first frame: who it is ([`super::message::Hello`]).
    Hello = 1,
    /// A client asks for something ([`super::message::Request`]).
    Request = 2,
    /// The request is finished ([`super::message::Done`]); the next one may follow.
    Done = 3,
    /// Data for the executor: the standard input of a command, the contents of a file.
    Input = 4,
    /// No more [`Kind::Input`].
    InputEnd = 5,
    /// Data from the executor: a command's standard output, or the contents of a file.
    Output = 6,
    /// Data from the executor: a command's standard error.
    ErrorOutput = 7,
    /// A directory entry follows ([`super::message::Entry`]), its contents as [`Kind::Output`].
    Entry = 8,
    /// So many bytes were consumed (`u32`): as many more may be sent.
    Credit = 9,
    /// A signal for the command (`u8`).
    Signal = 10,
    /// The terminal has a new size (rows and columns, `u16` each).
    Resize = 11,
    /// The client is gone: end what it started.
    Close = 12,
    /// Are you there?
    Ping = 13,
    /// Yes ([`super::message::Pong`]).
    Pong = 14,
    /// The supervisor tells a client how the boot goes ([`super::message::Boot`]).
    Boot = 15,
    /// A client asks the supervisor to end the machine; with a payload, only if it is the only client.
    Stop = 16,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Hello,
            2 => Self::Request,
            3 => Self::Done,
            4 => Self::Input,
            5 => Self::InputEnd,
            6 => Self::Output,
            7 => Self::ErrorOutput,
            8 => Self::Entry,
            9 => Self::Credit,
            10 => Self::Signal,
            11 => Self::Resize,
            12 => Self::Close,
            13 => Self::Ping,
            14 => Self::Pong,
            15 => Self::Boot,
            16 => Self::Stop,
            _ => return None,
        })
    }
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The channel; 0 between a client and the supervisor, and for what is between supervisor and executor.
    pub channel: u32,
    /// What it is.
    pub kind: Kind,
    /// At most [`MAX_PAYLOAD`] bytes.
    pub payload: Bytes,
}

impl Frame {
    /// A frame with a payload that is within the bound by construction.
    pub fn new(channel: u32, kind: Kind, payload: impl Into<Bytes>) -> Self {
        let payload = payload.into();
        debug_assert!(payload.len() <= MAX_PAYLOAD, "payload of {} bytes", payload.len());
        Self { channel, kind, payload }
    }

    /// A frame with a JSON payload. Fails when it would be larger than [`MAX_PAYLOAD`].
    pub fn json(channel: u32, kind: Kind, value: &impl serde::Serialize) -> Result<Self, FrameError> {
        let payload = serde_json::to_vec(value)?;
        if payload.len() > MAX_PAYLOAD {
            return Err(FrameError::TooLong(payload.len()));
        }
        Ok(Self { channel, kind, payload: payload.into() })
    }

    /// Credit for what `frame` took of the window.
    pub fn credit_for(frame: &Frame) -> Self {
        let bytes = u32::try_from(frame.cost()).expect("payloads are bounded");
        Self::new(frame.channel, Kind::Credit, bytes.to_le_bytes().to_vec())
    }

    /// The payload as JSON.
    pub fn parse<T: serde::de::DeserializeOwned>(&self) -> Result<T, FrameError> {
        Ok(serde_json::from_slice(&self.payload)?)
    }

    /// The number of a [`Kind::Credit`] frame.
    pub fn credited(&self) -> Result<u32, FrameError> {
        let bytes = self.payload.as_ref().try_into().map_err(|_| FrameError::Payload(self.kind))?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// What a data frame costs of the [`WINDOW`]: its length, at least [`MIN_COST`], so that the number of frames under way
    /// is bounded, too.
    pub fn cost(&self) -> usize {
        self.payload.len().max(MIN_COST)
    }

    /// The frame as bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEADER + self.payload.len());
        out.put_u32_le(u32::try_from(self.payload.len()).expect("payloads are bounded"));
        out.put_u32_le(self.channel);
        out.put_u8(self.kind as u8);
        out.put_slice(&self.payload);
        out.freeze()
    }
}

/// Why bytes are not a frame. The stream cannot be used any further.
#[derive(Debug, Error)]
pub enum FrameError {
    /// The header announces more than a frame may hold.
    #[error("a frame of {0} bytes; at most {MAX_PAYLOAD} are allowed")]
    TooLong(usize),
    /// A kind that this version does not know.
    #[error("a frame of unknown kind {0}")]
    Kind(u8),
    /// The payload does not have the form of its kind.
    #[error("a {0:?} frame with a payload of the wrong form")]
    Payload(Kind),
    /// The payload is not the JSON that it should be.
    #[error("a frame whose JSON cannot be read: {0}")]
    Json(#[from] serde_json::Error),
}

/// Cuts a stream of bytes into frames. Holds at most one incomplete frame and what was pushed last.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
}

impl Decoder {
    /// Adds what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete frame, `None` when more bytes are needed. After an error the stream is out of step and must be closed.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator would end at the first time that bytes are missing"
    )]
    pub fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        if self.buffer.len() < HEADER {
            return Ok(None);
        }
        let length = u32::from_le_bytes(self.buffer[0..4].try_into().expect("four bytes")) as usize;
        let channel = u32::from_le_bytes(self.buffer[4..8].try_into().expect("four bytes"));
        if length > MAX_PAYLOAD {
            return Err(FrameError::TooLong(length));
        }
        let kind = Kind::from_byte(self.buffer[8]).ok_or(FrameError::Kind(self.buffer[8]))?;
        if self.buffer.len() < HEADER + length {
            return Ok(None);
        }
        self.buffer.advance(HEADER);
        Ok(Some(Frame { channel, kind, payload: self.buffer.split_to(length).freeze() }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_frame() -> impl Strategy<Value = Frame> {
        (any::<u32>(), 1..=16_u8, proptest::collection::vec(any::<u8>(), 0..2000)).prop_map(
            |(channel, kind, payload)| {
                Frame::new(channel, Kind::from_byte(kind).expect("a kind of the range"), payload)
            },
        )
    }

    proptest! {
        #[test]
        fn frames_survive_any_cutting_of_the_stream(
            frames in proptest::collection::vec(any_frame(), 0..8),
            cuts in proptest::collection::vec(1..700_usize, 1..20),
        ) {
            let stream: Vec<u8> = frames.iter().flat_map(|frame| frame.encode().to_vec()).collect();
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            let mut rest = stream.as_slice();
            let mut cuts = cuts.iter().cycle();
            while !rest.is_empty() {
                let (now, later) = rest.split_at((*cuts.next().expect("endless")).min(rest.len()));
                rest = later;
                decoder.push(now);
                while let Some(frame) = decoder.next().expect("only frames were sent") {
                    seen.push(frame);
                }
            }
            prop_assert_eq!(seen, frames);
        }

        #[test]
        fn junk_ends_in_an_error_or_in_bounded_waiting(junk in proptest::collection::vec(any::<u8>(), 0..4000)) {
            let mut decoder = Decoder::default();
            decoder.push(&junk);
            let mut taken = 0;
            loop {
                match decoder.next() {
                    Ok(Some(frame)) => taken += HEADER + frame.payload.len(),
                    Ok(None) => {
                        prop_assert_eq!(decoder.buffer.len(), junk.len() - taken);
                        break;
                    }
                    Err(_) => break,
                }
            }
            prop_assert!(taken <= junk.len());
        }
    }

    #[test]
    fn a_length_beyond_the_bound_is_refused_before_anything_is_kept() {
        let mut decoder = Decoder::default();
        decoder.push(&[0xff, 0xff, 0xff, 0x7f, 0, 0, 0, 0, 2]);
        assert!(matches!(decoder.next(), Err(FrameError::TooLong(_))));
    }
}
