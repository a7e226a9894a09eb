//! The two clocks.

use std::time::Duration;

use bascule_vrrp::{BootTime, Now, UnixTime};
use nix::time::{ClockId, clock_gettime};

/// Both clocks, now. CLOCK_BOOTTIME goes on while the machine is suspended.
pub(crate) fn now() -> Now {
    Now {
        boot: BootTime::from_duration(read(ClockId::CLOCK_BOOTTIME)),
        unix: UnixTime(read(ClockId::CLOCK_REALTIME)),
    }
}

fn read(clock: ClockId) -> Duration {
    // Both are there since Linux 2.6.39, and reading a clock that is there does not fail.
    clock_gettime(clock).map_or(Duration::ZERO, Duration::from)
}
