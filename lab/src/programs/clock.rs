//! The time base of everything that a run records.

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_MONOTONIC`; it never goes back and no step of the wall clock moves it.
pub fn monotonic_ns() -> u64 {
    now_ns(ClockId::CLOCK_MONOTONIC)
}

/// Nanoseconds of `CLOCK_REALTIME` since 1970: what packet timestamps are in.
pub fn realtime_ns() -> u64 {
    now_ns(ClockId::CLOCK_REALTIME)
}

fn now_ns(clock: ClockId) -> u64 {
    // Both clocks exist on every Linux; the call fails only for an unknown clock id.
    let now = clock_gettime(clock).expect("clock_gettime of a clock that every Linux has");
    u64::try_from(now.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_does_not_go_back() {
        let before = monotonic_ns();
        assert!(monotonic_ns() >= before);
        assert!(realtime_ns() > 1_600_000_000_000_000_000);
    }
}
