//! Points in time that are handed in: this crate reads no clock.

use std::ops::Add;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point of `CLOCK_BOOTTIME`: nanoseconds since the machine started, the time that it was suspended included. All timers of
/// this crate are points of this clock, so that a suspended machine finds out how late it is. It is the same for all processes
/// of a machine, which is why state that holds such points can be handed to another process. (In a time namespace it is shifted:
/// do not hand state across one.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootTime(u64);

impl BootTime {
    /// The start of the machine.
    pub const ZERO: BootTime = BootTime(0);

    /// So many nanoseconds after the start.
    pub const fn from_nanos(nanos: u64) -> Self {
        BootTime(nanos)
    }

    /// So long after the start; 584 years are the most that fits, longer is cut to that.
    pub fn from_duration(since_boot: Duration) -> Self {
        BootTime(u64::try_from(since_boot.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Nanoseconds since the start.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero when it is not after it.
    pub const fn since(self, earlier: BootTime) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for BootTime {
    type Output = BootTime;

    /// Cut at the largest value instead of overflowing.
    fn add(self, later: Duration) -> BootTime {
        BootTime(self.0.saturating_add(u64::try_from(later.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// A point of `CLOCK_REALTIME`, as the time since 1970-01-01T00:00:00Z. Only the HMAC's sequence numbers use it; no timer does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixTime(pub Duration);

/// The two clocks, read at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// What timers go by.
    pub boot: BootTime,
    /// What sequence numbers of authenticated advertisements go by.
    pub unix: UnixTime,
}

/// The earlier of two points of which either may not exist.
pub(crate) fn earliest(a: Option<BootTime>, b: Option<BootTime>) -> Option<BootTime> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
