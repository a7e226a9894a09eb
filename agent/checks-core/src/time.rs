//! Points in time that are handed in: this crate reads no clock.

use std::{ops::Add, time::Duration};

use serde::{Deserialize, Serialize};

/// A point of a clock that never runs backwards and that is the same for all processes of a machine, which is why verdicts that
/// hold such points can be handed to another process: nanoseconds since the machine started (`CLOCK_BOOTTIME`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(u64);

impl Time {
    /// The start of the machine.
    pub const ZERO: Self = Self(0);

    /// So many nanoseconds after the start.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// So long after the start; 584 years are the most that fits, longer is cut to that.
    pub fn from_duration(since_start: Duration) -> Self {
        Self(nanos(since_start))
    }

    /// Nanoseconds since the start.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero when it is not after it.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    /// Cut at the largest value instead of overflowing.
    fn add(self, later: Duration) -> Self {
        Self(self.0.saturating_add(nanos(later)))
    }
}

/// Nanoseconds, cut at the largest value.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
