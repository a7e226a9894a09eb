//! The trailer's bytes.

use std::net::IpAddr;
use std::time::Duration;

use hmac::Mac;
use serde::{Deserialize, Serialize};

use super::Key;
use crate::packet::Version;
use crate::time::UnixTime;

/// Length of the trailer.
pub const TRAILER: usize = 28;
/// Of it, what the HMAC covers.
const COVERED: usize = 12;
/// HMAC-SHA256, cut to 128 bits.
const KIND: u8 = 1;

/// 64 bits that only grow: seconds, fraction, counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sequence(pub u64);

impl Sequence {
    /// What the clock says, the counter zero. The seconds wrap in 2106, as the order does.
    pub fn at(time: UnixTime) -> Self {
        let seconds = time.0.as_secs() & 0xffff_ffff;
        let fraction = (u64::from(time.0.subsec_nanos()) << 16) / 1_000_000_000;
        Sequence(seconds << 32 | fraction << 16)
    }

    /// The next after this one: the clock's value, or one more where the clock has not gone on.
    ///
    /// With the `window` of [`AntiReplay::Time`](super::AntiReplay::Time) it is the clock's value, too, where this one is ahead of
    /// the clock by more than that: the clock was wrong and was set back. Peers whose clocks are right took nothing that was so far
    /// ahead, and one that only counted on would be stale for them until the clock has come there, be it hours.
    #[must_use]
    pub fn next(self, time: UnixTime, window: Option<Duration>) -> Self {
        let clock = Sequence::at(time);
        let is_first = self == Sequence::default();
        let was_wrong = window.is_some_and(|window| self.is_ahead(time, window));
        if is_first || was_wrong || clock.is_after(self) { clock } else { Sequence(self.0.wrapping_add(1)) }
    }

    /// Whether it is ahead of `time` by more than `window`, in whole seconds.
    pub(super) fn is_ahead(self, time: UnixTime, window: Duration) -> bool {
        let seconds = self.seconds_behind(time);
        seconds < 0 && u64::from(seconds.unsigned_abs()) > window.as_secs()
    }

    /// Order of RFC 1982.
    pub const fn is_after(self, other: Sequence) -> bool {
        self.0.wrapping_sub(other.0).cast_signed() > 0
    }

    /// Seconds by which `time` is ahead of it, negative when it is behind, in the order of RFC 1982.
    pub(super) fn seconds_behind(self, time: UnixTime) -> i32 {
        let clock = Sequence::at(time).0 >> 32;
        let (clock, own) = (clock as u32, (self.0 >> 32) as u32);
        clock.wrapping_sub(own).cast_signed()
    }
}

/// What the HMAC binds beside the message, so that a trailer fits no other virtual router and no other sender.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    pub(crate) version: Version,
    pub(crate) vrid: u8,
    pub(crate) source: IpAddr,
}

impl Bound {
    fn bytes(&self) -> [u8; 20] {
        let mut bytes = [0; 20];
        bytes[1] = self.version.number();
        bytes[2] = self.vrid;
        match self.source {
            IpAddr::V4(source) => {
                bytes[0] = 4;
                bytes[4..8].copy_from_slice(&source.octets());
            }
            IpAddr::V6(source) => {
                bytes[0] = 6;
                bytes[4..].copy_from_slice(&source.octets());
            }
        }
        bytes
    }
}

/// The trailer's fields but for the HMAC.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields {
    pub(super) key: u8,
    pub(super) sequence: Sequence,
}

impl Fields {
    /// `None` if the kind or the reserved bits are not as they should be.
    pub(super) fn read(trailer: &[u8; TRAILER]) -> Option<Self> {
        let ([kind, key, 0, 0], rest) = trailer.split_first_chunk::<4>()? else { return None };
        let sequence = Sequence(u64::from_be_bytes(*rest.first_chunk::<8>()?));
        (*kind == KIND).then_some(Fields { key: *key, sequence })
    }

    fn write(self) -> [u8; COVERED] {
        let mut bytes = [0; COVERED];
        bytes[0] = KIND;
        bytes[1] = self.key;
        bytes[4..].copy_from_slice(&self.sequence.0.to_be_bytes());
        bytes
    }

    /// The HMAC's state over everything that it covers. The checksum counts as zero whatever stands there.
    pub(super) fn digest(self, key: &Key, bound: &Bound, message: &[u8]) -> hmac::Hmac<sha2::Sha256> {
        let mut mac = key.mac();
        mac.update(&bound.bytes());
        mac.update(&message[..6]);
        mac.update(&[0, 0]);
        mac.update(&message[8..]);
        mac.update(&self.write());
        mac.update(&[0; TRAILER - COVERED]);
        mac
    }
}

/// The trailer of `message`, which has at least the eight bytes of the fixed fields.
pub(crate) fn sign(key: &Key, sequence: Sequence, bound: &Bound, message: &[u8]) -> [u8; TRAILER] {
    let fields = Fields { key: key.id(), sequence };
    let digest = fields.digest(key, bound, message).finalize().into_bytes();
    let mut trailer = [0; TRAILER];
    trailer[..COVERED].copy_from_slice(&fields.write());
    trailer[COVERED..].copy_from_slice(&digest[..TRAILER - COVERED]);
    trailer
}

/// The HMAC in a trailer.
pub(super) fn tag(trailer: &[u8; TRAILER]) -> &[u8] {
    &trailer[COVERED..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, nanos: u32) -> UnixTime {
        UnixTime(Duration::new(seconds, nanos))
    }

    #[test]
    fn sequences_grow_whatever_the_clock_does() {
        let first = Sequence::default().next(at(1_700_000_000, 500_000_000), None);
        assert_eq!(first.0, 1_700_000_000 << 32 | 0x8000 << 16);
        let same = first.next(at(1_700_000_000, 500_000_000), None);
        assert_eq!(same.0, first.0 + 1);
        let back = same.next(at(1_600_000_000, 0), None);
        assert_eq!(back.0, first.0 + 2);
        assert!(back.is_after(same) && !same.is_after(back) && !same.is_after(same));
    }

    #[test]
    fn the_year_2106_is_an_instant_like_any_other() {
        let before = Sequence::at(at(u64::from(u32::MAX), 999_999_999));
        let after = before.next(at(u64::from(u32::MAX) + 1, 0), None);
        assert_eq!(after.0, 0);
        assert!(after.is_after(before));
        assert_eq!(before.seconds_behind(at(u64::from(u32::MAX) + 6, 0)), 6);
        assert_eq!(after.seconds_behind(at(u64::from(u32::MAX), 0)), -1);
        let first = Sequence::default().next(at(1 << 31 | 7, 0), None);
        assert_eq!(first.0 >> 32, 1 << 31 | 7, "the first one is the clock's after 2038, too");
    }

    #[test]
    fn a_clock_that_was_ahead_and_is_right_again_is_believed_where_peers_go_by_it() {
        let window = Some(Duration::from_secs(5));
        let wrong = Sequence::at(at(1_700_003_600, 0));
        let right = at(1_700_000_000, 0);
        assert_eq!(wrong.next(right, window), Sequence::at(right));
        assert_eq!(wrong.next(right, None).0, wrong.0 + 1, "peers go by the order alone");
        // Peers have taken this one.
        let near = Sequence::at(at(1_700_000_005, 0));
        assert_eq!(near.next(right, window).0, near.0 + 1);
    }
}
