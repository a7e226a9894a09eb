//! Authentication of advertisements by the trailer of keepalived 2.4 (draft-cassen-vrrp-auth-hmac), in both versions and both
//! families. After the message:
//!
//! | Bytes | |
//! | --- | --- |
//! | 1 | 1: HMAC-SHA256, its first 16 bytes |
//! | 1 | id of the key, 1 to 255 |
//! | 2 | 0 |
//! | 4 | sequence: seconds since 1970, UTC |
//! | 2 | sequence: fraction of a second in 2^-16 s |
//! | 2 | sequence: counter |
//! | 16 | HMAC |
//!
//! The HMAC covers 20 bytes that are not sent (4 or 6, version, VRID, 0, source address in 16 bytes), the message with its checksum
//! as zero, the trailer up to the HMAC, and 16 zero bytes. The 64 bits of the sequence only grow, in the order of RFC 1982; but
//! where peers go by the clock, a sequence that a wrong clock left far ahead of it is given up ([`Sequence::next`]).

mod keys;
mod trailer;
mod verify;

pub use keys::{Key, KeyError, Keys, MAX_KEYS};
pub use trailer::{Sequence, TRAILER};
pub use verify::{AuthenticationError, MAX_SENDERS, Senders};

pub(crate) use trailer::{Bound, sign};
pub(crate) use verify::verify;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::timers::Interval;

/// What is signed and what is accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Signs, and accepts only what is signed.
    #[default]
    Enforce,
    /// Signs, and accepts what is not signed as well. What is signed must be right.
    Permissive,
    /// Does not sign; accepts what is not signed. What is signed must be right. The first step of a roll-out: a member that does
    /// not know the trailer may drop what carries one.
    ReceiveOnly,
}

/// How repeated advertisements are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AntiReplay {
    /// The sender's clock must be within this of the receiver's, and its sequence must grow.
    Time {
        /// 1 s to 300 s; see [`default_window`].
        window: Duration,
    },
    /// The sequence must grow. Needs no clocks that agree; what was recorded before the receiver started is accepted once.
    Monotonic,
}

impl AntiReplay {
    /// How far clocks may be apart, if they matter.
    pub const fn window(self) -> Option<Duration> {
        match self {
            AntiReplay::Time { window } => Some(window),
            AntiReplay::Monotonic => None,
        }
    }
}

/// Window where none is given: three intervals, at least 5 s, at most 300 s.
pub fn default_window(interval: Interval) -> Duration {
    (interval.duration() * 3).clamp(Duration::from_secs(5), Duration::from_secs(300))
}

/// Authentication by HMAC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hmac {
    /// The keys that are accepted and the one that signs.
    pub keys: Keys,
    /// What is signed and accepted.
    pub mode: Mode,
    /// How repeated advertisements are told.
    pub anti_replay: AntiReplay,
}
