//! How long a client waits: a machine that stands still takes nothing from it.

use std::time::Duration;

use tokio::time::Instant;

use super::clock::monotonic_ns;
use crate::canary::{Canary, KNOWN_AFTER, Span};

/// Waits for exchanges for as long as the machine ran meanwhile.
#[derive(Debug)]
pub(super) struct Patience {
    timeout: Duration,
    canary: Canary,
}

impl Patience {
    /// Whatever takes longer than `timeout` will have failed.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn new(timeout: Duration) -> std::io::Result<Self> {
        Ok(Self::with(timeout, Canary::start()?))
    }

    fn with(timeout: Duration, canary: Canary) -> Self {
        Self { timeout, canary }
    }

    /// What `exchange`, which was due `ago` before now, comes to within the time-out, counted from then. What the machine stood still
    /// meanwhile is added, up to as much again: so that, of the usual 500 ms, no answer passes that came only because TCP sent something
    /// once more, which takes a second at first (RFC 6298, section 2.1).
    pub(super) async fn within<T>(
        &self,
        ago: Duration,
        exchange: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        let now = monotonic_ns();
        let due = now.saturating_sub(u64::try_from(ago.as_nanos()).unwrap_or(u64::MAX));
        let elapsed = || Duration::from_nanos(monotonic_ns().saturating_sub(due));
        tokio::pin!(exchange);
        let mut limit = self.timeout;
        loop {
            let deadline = Instant::now() + limit.saturating_sub(elapsed());
            if let Ok(outcome) = tokio::time::timeout_at(deadline, &mut exchange).await {
                return outcome;
            }
            // Timers of a machine that stood still run out together: the canary has to come to its own as well.
            let outcome = tokio::time::timeout(KNOWN_AFTER, &mut exchange).await;
            let late = self.canary.lateness(Span { since: due, until: monotonic_ns() }).of_a_chain();
            limit = self.timeout + late.min(self.timeout);
            if elapsed() >= limit {
                anyhow::bail!("no answer within {} ms", self.timeout.as_millis());
            }
            if let Ok(outcome) = outcome {
                return outcome;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(200);

    async fn answer_after(patience: &Patience, time: Duration) -> anyhow::Result<()> {
        patience
            .within(Duration::ZERO, async {
                tokio::time::sleep(time).await;
                Ok(())
            })
            .await
    }

    #[tokio::test]
    async fn a_machine_that_stood_still_takes_no_time_from_the_wait() {
        let patience = Patience::with(TIMEOUT, Canary::resting());
        assert!(answer_after(&patience, Duration::from_mins(2)).await.is_err(), "nothing stood still");
        let still = |time: Duration| {
            let (canary, now) = (Canary::resting(), monotonic_ns());
            canary.note(now, now + u64::try_from(time.as_nanos()).unwrap());
            Patience::with(TIMEOUT, canary)
        };
        // Whatever this machine is like now: what was given up took longer than it was to, what was answered no longer.
        let long = still(Duration::from_mins(1));
        let began = Instant::now();
        assert!(answer_after(&long, Duration::from_mins(2)).await.is_err());
        assert!(began.elapsed() >= TIMEOUT * 2, "as much again, and no more");
        let part = still(Duration::from_millis(100));
        let began = Instant::now();
        assert!(answer_after(&part, Duration::from_mins(2)).await.is_err());
        assert!(began.elapsed() >= Duration::from_millis(300));
        assert!(answer_after(&long, Duration::ZERO).await.is_ok());
    }

    #[tokio::test]
    async fn what_was_due_before_has_waited_since_then() {
        let patience = Patience::with(TIMEOUT, Canary::resting());
        let waits = std::future::pending::<anyhow::Result<()>>();
        let began = Instant::now();
        let error = patience.within(TIMEOUT * 4, waits).await.unwrap_err();
        assert_eq!(error.to_string(), "no answer within 200 ms");
        assert!(began.elapsed() < Duration::from_mins(1));
    }
}
