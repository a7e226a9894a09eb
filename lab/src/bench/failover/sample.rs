//! What a gap is: from the answers of a client's pings.

use std::time::Duration;

use crate::programs::record::Request;

/// One event.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample {
    /// The longest time without an answer, in milliseconds.
    pub(super) gap: f64,
    /// Pings that were not answered in time.
    pub(super) lost: u32,
}

impl Sample {
    /// Of the pings that were due from `since` up to `until` (CLOCK_MONOTONIC, nanoseconds); none when none was answered.
    pub(super) fn of(requests: &[Request], since: u64, until: u64) -> Option<Self> {
        let within = || requests.iter().filter(|request| (since..until).contains(&request.scheduled));
        let mut answers: Vec<u64> =
            within().filter(|request| request.ok).map(|request| request.ended).collect();
        answers.sort_unstable();
        let gap = answers.windows(2).map(|pair| pair[1] - pair[0]).max()?;
        let lost = within().filter(|request| !request.ok).count();
        Some(Self {
            gap: Duration::from_nanos(gap).as_secs_f64() * 1000.0,
            lost: u32::try_from(lost).unwrap_or(u32::MAX),
        })
    }
}

/// How many of the last pings were answered, from the newest back to the first that was not.
pub(super) fn answered_last(requests: &[Request]) -> usize {
    let mut last: Vec<&Request> = requests.iter().rev().take(1000).collect();
    last.sort_by_key(|request| std::cmp::Reverse(request.scheduled));
    last.iter().take_while(|request| request.ok).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pings(answered: &[bool]) -> Vec<Request> {
        let mut requests: Vec<Request> = (0u64..)
            .zip(answered)
            .map(|(seq, ok)| Request {
                seq,
                scheduled: seq * 10_000_000,
                started: seq * 10_000_000,
                ended: seq * 10_000_000 + if *ok { 1_000_000 } else { 500_000_000 },
                ok: *ok,
                answerer: None,
                status: None,
                error: None,
                again: false,
            })
            .collect();
        // As they are recorded: by when they ended.
        requests.sort_by_key(|request| request.ended);
        requests
    }

    #[test]
    fn the_gap_is_between_two_answers() {
        let requests = pings(&[true, true, false, false, true, true]);
        let sample = Sample::of(&requests, 0, u64::MAX).unwrap();
        assert!((sample.gap - 30.0).abs() < 1e-9 && sample.lost == 2, "{sample:?}");
        let later = Sample::of(&requests, 40_000_000, u64::MAX).unwrap();
        assert!((later.gap - 10.0).abs() < 1e-9 && later.lost == 0, "{later:?}");
        assert_eq!(Sample::of(&pings(&[false; 5]), 0, u64::MAX), None);
        assert_eq!(answered_last(&requests), 2);
        assert_eq!(answered_last(&pings(&[true, false])), 0);
    }
}
