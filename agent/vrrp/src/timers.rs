//! Intervals and what the RFCs derive from them (RFC 9568 section 6.1, RFC 3768 section 6.1).

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::packet::Version;

/// Advertisement_Interval, as exact as the wire has it: hundredths of a second. What is derived from it is calculated in
/// nanoseconds: a Skew_Time in whole hundredths would be zero at an interval of 10 ms, and all backups would rise at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Interval(u16);

impl Interval {
    /// One second, the default of both versions.
    pub const SECOND: Interval = Interval(100);
    /// 40.95 s, the most that the 12 bits of Max_Advertise_Interval hold (RFC 9568 section 5.2.7).
    pub const MAX_V3: Interval = Interval(4095);
    /// 255 s, the most that the 8 bits of Adver Int hold (RFC 3768 section 5.3.7).
    pub const MAX_V2: Interval = Interval(25_500);

    /// `interval` if `version` can say it: version 3 from 10 ms to 40.95 s in steps of 10 ms, version 2 whole seconds from 1 to
    /// 255.
    pub fn new(version: Version, interval: Duration) -> Result<Self, IntervalError> {
        let (step, most) = match version {
            Version::V2 => (Duration::from_secs(1), Self::MAX_V2),
            Version::V3 => (Duration::from_millis(10), Self::MAX_V3),
        };
        let refused = IntervalError { version, interval };
        if interval.is_zero()
            || !interval.as_nanos().is_multiple_of(step.as_nanos())
            || interval > most.duration()
        {
            return Err(refused);
        }
        u16::try_from(interval.as_millis() / 10).map(Interval).map_err(|_| refused)
    }

    pub(crate) const fn from_centiseconds(centiseconds: u16) -> Self {
        Interval(centiseconds)
    }

    /// Hundredths of a second.
    pub const fn centiseconds(self) -> u16 {
        self.0
    }

    /// As a duration.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0 as u64 * 10)
    }
}

/// An interval that the version cannot say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub struct IntervalError {
    version: Version,
    interval: Duration,
}

impl fmt::Display for IntervalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bounds = match self.version {
            Version::V2 => "version 2 has whole seconds from 1s to 255s (RFC 3768 section 5.3.7)",
            Version::V3 => "version 3 has steps of 10ms from 10ms to 40.95s (RFC 9568 section 5.2.7)",
        };
        write!(f, "an advertisement interval of {:?} cannot be sent: {bounds}", self.interval)
    }
}

/// Skew_Time: the lower the priority, the longer a backup waits on top. Version 3: (256 - Priority) / 256 of
/// Active_Adver_Interval; version 2: of one second, whatever the interval.
pub fn skew_time(version: Version, priority: u8, active_adver_interval: Interval) -> Duration {
    let whole = match version {
        Version::V2 => Interval::SECOND,
        Version::V3 => active_adver_interval,
    };
    whole.duration() * (256 - u32::from(priority)) / 256
}

/// Active_Down_Interval: `down_intervals` (3 in the RFCs) times Active_Adver_Interval, and Skew_Time.
pub fn active_down_interval(
    version: Version,
    priority: u8,
    active_adver_interval: Interval,
    down_intervals: u32,
) -> Duration {
    active_adver_interval.duration() * down_intervals + skew_time(version, priority, active_adver_interval)
}

/// How long after its last advertisement an active router can be sure that no peer has taken over: the Active_Down_Interval of a
/// peer with the highest priority that a backup can have.
pub fn patience(version: Version, interval: Interval, down_intervals: u32) -> Duration {
    active_down_interval(version, 254, interval, down_intervals)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn intervals_are_what_the_wire_can_say() {
        for (version, interval, centiseconds) in [
            (Version::V3, ms(10), Some(1)),
            (Version::V3, ms(100), Some(10)),
            (Version::V3, ms(40_950), Some(4095)),
            (Version::V3, ms(40_960), None),
            (Version::V3, ms(15), None),
            (Version::V3, ms(0), None),
            (Version::V3, Duration::from_nanos(10_000_001), None),
            (Version::V2, ms(1000), Some(100)),
            (Version::V2, ms(255_000), Some(25_500)),
            (Version::V2, ms(256_000), None),
            (Version::V2, ms(1500), None),
            (Version::V2, ms(100), None),
            (Version::V2, Duration::MAX, None),
        ] {
            assert_eq!(
                Interval::new(version, interval).ok().map(Interval::centiseconds),
                centiseconds,
                "{version:?} {interval:?}"
            );
        }
    }

    #[test]
    fn nothing_is_cut_off() {
        let ten_ms = Interval::from_centiseconds(1);
        assert_eq!(skew_time(Version::V3, 100, ten_ms), Duration::from_nanos(6_093_750));
        assert_eq!(skew_time(Version::V3, 254, ten_ms), Duration::from_nanos(78_125));
        assert_eq!(skew_time(Version::V3, 0, Interval::MAX_V3), ms(40_950));
        assert_eq!(
            active_down_interval(Version::V3, 200, Interval::SECOND, 3),
            Duration::from_nanos(3_218_750_000)
        );
        assert_eq!(
            active_down_interval(Version::V3, 1, Interval::MAX_V3, 100),
            Duration::from_nanos(4_135_790_039_062)
        );
    }

    /// Version 2 takes the part of a second, not of the interval (RFC 3768 section 6.1).
    #[test]
    fn version_2_skews_by_a_second() {
        let five = Interval::new(Version::V2, ms(5000)).unwrap();
        assert_eq!(skew_time(Version::V2, 128, five), ms(500));
        assert_eq!(active_down_interval(Version::V2, 128, five, 3), ms(15_500));
    }
}
