//! Whether an advertisement is what a holder of a key sent, and sent just now.

use std::net::IpAddr;
use std::time::Duration;

use hmac::Mac;
use serde::{Deserialize, Serialize};

use super::trailer::{Fields, tag};
use super::{Bound, Hmac, Mode, Sequence, TRAILER};
use crate::time::UnixTime;

/// Senders whose sequence is remembered; of more, the one that was silent longest is forgotten.
pub const MAX_SENDERS: usize = 64;

/// The last sequence of each sender, the one heard last at the end. Only what was verified gets in, so that nobody without a key
/// can push others out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Senders(Vec<(IpAddr, Sequence)>);

impl Senders {
    /// Takes `sequence` if it is after the sender's last one. One that is ahead of our clock by more than the window was taken
    /// while both clocks were wrong: it counts no more, or the sender would be mute until the clocks have come there.
    fn accept(
        &mut self,
        sender: IpAddr,
        sequence: Sequence,
        now: UnixTime,
        window: Option<Duration>,
    ) -> Result<(), AuthenticationError> {
        if let Some(at) = self.0.iter().position(|(address, _)| *address == sender) {
            let (_, last) = self.0[at];
            let counts = !window.is_some_and(|window| last.is_ahead(now, window));
            if counts && !sequence.is_after(last) {
                return Err(AuthenticationError::Replayed);
            }
            self.0.remove(at);
        } else if self.0.len() >= MAX_SENDERS {
            self.0.remove(0);
        }
        self.0.push((sender, sequence));
        Ok(())
    }
}

/// Why an advertisement is not authentic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthenticationError {
    /// No trailer, and one is demanded.
    #[error("it is not signed")]
    Unsigned,
    /// Another kind, or reserved bits set.
    #[error("its trailer is malformed")]
    Malformed,
    /// The sender's clock is too far from ours.
    #[error("its time is {seconds} s behind ours: look at the clocks, or it was recorded")]
    Stale {
        /// How far; negative when it is ahead.
        seconds: i32,
    },
    /// A key that is not configured here.
    #[error("it is signed with key {id}, which is not known here")]
    UnknownKey {
        /// The key's id.
        id: u8,
    },
    /// Another key of the same id, or forged.
    #[error("its signature is wrong: another key of the same id, or a forgery")]
    Signature,
    /// Its sequence does not grow: it was recorded and sent again, or the network doubled it.
    #[error("its sequence did not grow: it was recorded and sent again")]
    Replayed,
    /// The password of version 2 is another one, or missing.
    #[error("its password is another one")]
    Password,
}

/// Checks the trailer of `message`. The window comes first, so that a flood of recorded advertisements costs no digests; the
/// sender's sequence comes last, so that only what is authentic moves it.
pub(crate) fn verify(
    hmac: &Hmac,
    senders: &mut Senders,
    now: UnixTime,
    bound: &Bound,
    message: &[u8],
    trailer: Option<&[u8; TRAILER]>,
) -> Result<(), AuthenticationError> {
    let Some(trailer) = trailer else {
        return match hmac.mode {
            Mode::Enforce => Err(AuthenticationError::Unsigned),
            Mode::Permissive | Mode::ReceiveOnly => Ok(()),
        };
    };
    let fields = Fields::read(trailer).ok_or(AuthenticationError::Malformed)?;
    let window = hmac.anti_replay.window();
    if let Some(window) = window {
        let seconds = fields.sequence.seconds_behind(now);
        if u64::from(seconds.unsigned_abs()) > window.as_secs() {
            return Err(AuthenticationError::Stale { seconds });
        }
    }
    let key = hmac.keys.get(fields.key).ok_or(AuthenticationError::UnknownKey { id: fields.key })?;
    // In constant time.
    fields
        .digest(key, bound, message)
        .verify_truncated_left(tag(trailer))
        .map_err(|_| AuthenticationError::Signature)?;
    senders.accept(bound.source, fields.sequence, now, window)
}
