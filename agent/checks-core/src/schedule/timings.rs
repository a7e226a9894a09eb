//! When a check runs.

use std::time::Duration;

use crate::verdict::Thresholds;

/// Shortest interval.
pub const MIN_INTERVAL: Duration = Duration::from_millis(10);
/// Shortest timeout.
pub const MIN_TIMEOUT: Duration = Duration::from_millis(1);
/// Longest interval, retry interval and initial delay.
pub const MAX_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);
/// Largest rise and fall.
pub const MAX_COUNT: u32 = 100;

/// When a check runs and how many results change its verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timings {
    /// From start to start of two probes, [`MIN_INTERVAL`] to [`MAX_INTERVAL`] (keepalived: delay_loop).
    pub interval: Duration,
    /// How long a probe may take, [`MIN_TIMEOUT`] to `interval` (keepalived: connect_timeout).
    pub timeout: Duration,
    /// From start to start as long as the last probe failed, at least `timeout`; none: `interval` (keepalived:
    /// delay_before_retry).
    pub retry_interval: Option<Duration>,
    /// When the first probe starts, after the check was added; none: anywhere within `interval`, so that many checks spread over
    /// it evenly (keepalived: warmup, by chance).
    pub initial_delay: Option<Duration>,
    /// How many results change a verdict, 1 to [`MAX_COUNT`].
    pub thresholds: Thresholds,
}

/// Timings that make no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimingsError {
    /// The interval is out of bounds.
    #[error("interval {0:?} is not between 10ms and 24h")]
    Interval(Duration),
    /// The timeout is out of bounds.
    #[error("timeout {0:?} is not between 1ms and interval")]
    Timeout(Duration),
    /// The retry interval is out of bounds.
    #[error("retryInterval {0:?} is not between timeout and 24h")]
    RetryInterval(Duration),
    /// The initial delay is out of bounds.
    #[error("initialDelay {0:?} is longer than 24h")]
    InitialDelay(Duration),
    /// Rise or fall is out of bounds.
    #[error("{0} is not between 1 and 100, as rise and fall are")]
    Count(u32),
}

impl Timings {
    /// Every `interval`, with a timeout of three seconds or the interval, one pass to rise and three failures to fall.
    pub fn every(interval: Duration) -> Self {
        Self {
            interval,
            timeout: interval.min(Duration::from_secs(3)),
            retry_interval: None,
            initial_delay: None,
            thresholds: Thresholds { rise: 1, fall: 3 },
        }
    }

    /// Whether they make sense.
    pub fn check(&self) -> Result<(), TimingsError> {
        if !(MIN_INTERVAL..=MAX_INTERVAL).contains(&self.interval) {
            return Err(TimingsError::Interval(self.interval));
        }
        if !(MIN_TIMEOUT..=self.interval).contains(&self.timeout) {
            return Err(TimingsError::Timeout(self.timeout));
        }
        if let Some(retry) =
            self.retry_interval.filter(|retry| !(self.timeout..=MAX_INTERVAL).contains(retry))
        {
            return Err(TimingsError::RetryInterval(retry));
        }
        if let Some(delay) = self.initial_delay.filter(|delay| *delay > MAX_INTERVAL) {
            return Err(TimingsError::InitialDelay(delay));
        }
        for count in [self.thresholds.rise, self.thresholds.fall] {
            if !(1..=MAX_COUNT).contains(&count) {
                return Err(TimingsError::Count(count));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_refused() {
        let ms = Duration::from_millis;
        let good = Timings::every(Duration::from_secs(1));
        assert_eq!(good.check(), Ok(()));
        let zero = Thresholds { rise: 0, fall: 1 };
        let large = Thresholds { rise: 1, fall: 101 };
        for (bad, error) in [
            (Timings::every(ms(9)), TimingsError::Interval(ms(9))),
            (Timings { timeout: ms(1001), ..good }, TimingsError::Timeout(ms(1001))),
            (Timings { timeout: ms(0), ..good }, TimingsError::Timeout(ms(0))),
            (Timings { retry_interval: Some(ms(999)), ..good }, TimingsError::RetryInterval(ms(999))),
            (
                Timings { initial_delay: Some(MAX_INTERVAL + ms(1)), ..good },
                TimingsError::InitialDelay(MAX_INTERVAL + ms(1)),
            ),
            (Timings { thresholds: zero, ..good }, TimingsError::Count(0)),
            (Timings { thresholds: large, ..good }, TimingsError::Count(101)),
        ] {
            assert_eq!(bad.check(), Err(error));
        }
    }
}
