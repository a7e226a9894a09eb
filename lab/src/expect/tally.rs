//! A load's requests in numbers.

use std::collections::BTreeMap;
use std::time::Duration;

use super::requests::Load;
use super::{Finding, Lateness, Span, Verdict};
use crate::programs::record::Request;
use crate::scenario::expectation::Count;

/// As many kinds of failures are told.
const MAX_KINDS: usize = 5;

/// When a request was to begin, began, and ended.
#[derive(Clone, Copy)]
pub(super) struct Times {
    pub(super) seq: u64,
    pub(super) scheduled: u64,
    pub(super) started: u64,
    pub(super) ended: u64,
}

impl Times {
    pub(super) fn of(request: &Request) -> Self {
        let Request { seq, scheduled, started, ended, .. } = *request;
        Self { seq, scheduled, started, ended }
    }

    /// How late the load itself was with it.
    pub(super) fn own(self) -> Duration {
        Duration::from_nanos(self.started.saturating_sub(self.scheduled))
    }
}

/// Requests in numbers.
pub(super) struct Tally {
    pub(super) sent: u64,
    pub(super) ok: u64,
    /// Failed, but the machine itself was so late that this may be why.
    pub(super) unclear: u64,
    pub(super) answerers: BTreeMap<String, u64>,
    /// Who answered, in the order of the requests; `None` for those that are unclear. Those that failed otherwise are not in it.
    pub(super) turns: Vec<(Option<String>, Times)>,
    pub(super) first_failed: Option<u64>,
    /// Why requests failed, how many, and the first of them; in the order of the first ones, and not more than are told.
    kinds: Vec<Kind>,
}

/// Requests that failed alike.
struct Kind {
    error: String,
    first: u64,
    count: u64,
}

impl Tally {
    pub(super) fn of(requests: &[&Request], load: Load, lateness: &dyn Fn(Span) -> Lateness) -> Self {
        let mut tally = Self {
            sent: 0,
            ok: 0,
            unclear: 0,
            answerers: BTreeMap::new(),
            turns: Vec::new(),
            first_failed: None,
            kinds: Vec::new(),
        };
        for request in requests {
            tally.sent += 1;
            if request.ok {
                tally.ok += 1;
                let name = request.answerer.clone().unwrap_or_else(|| "?".into());
                tally.turns.push((Some(name.clone()), Times::of(request)));
                *tally.answerers.entry(name).or_default() += 1;
                continue;
            }
            tally.first_failed.get_or_insert(request.scheduled);
            tally.count_failed(request);
            let span = Span { since: request.scheduled, until: request.ended.max(request.scheduled + 1) };
            // An error that came before the time was up was not caused by slowness.
            let timed_out = request.again
                || span.until - span.since
                    >= u64::try_from(load.timeout.as_nanos()).unwrap_or(u64::MAX) * 9 / 10;
            let own = Times::of(request).own();
            if timed_out && lateness(span).sum.max(own) > load.timeout / 4 {
                tally.unclear += 1;
                tally.turns.push((None, Times::of(request)));
            }
        }
        tally
    }

    fn count_failed(&mut self, request: &Request) {
        let error = request.error.as_deref().unwrap_or("no reason");
        if let Some(kind) = self.kinds.iter_mut().find(|kind| kind.error == error) {
            kind.count += 1;
        } else if self.kinds.len() < MAX_KINDS {
            self.kinds.push(Kind { error: error.to_owned(), first: request.seq, count: 1 });
        }
    }

    pub(super) fn failed(&self) -> u64 {
        self.sent - self.ok
    }

    pub(super) fn by(&self, name: &str) -> u64 {
        self.answerers.get(name).copied().unwrap_or(0)
    }

    /// A number that may in truth be anything from `low` to `high`.
    pub(super) fn number(&self, count: Count, what: &str, seen: u64, low: u64, high: u64) -> Finding {
        let mut finding = Finding::of(count.admits(seen), format!("{count} {what}"), self.to_string());
        if finding.verdict == Verdict::Failed {
            finding.at = self.first_failed;
            if self.unclear > 0 && count.admits_any(low, high) {
                finding.verdict = Verdict::Undecided;
            }
        }
        finding
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} sent, {} ok, {} failed", self.sent, self.ok, self.failed())?;
        for (name, count) in &self.answerers {
            write!(f, ", {name} {count}")?;
        }
        if self.unclear > 0 {
            write!(f, "; {} of the failed while the machine itself was late", self.unclear)?;
        }
        for (place, Kind { error, first, count }) in self.kinds.iter().enumerate() {
            let comma = if place == 0 { ";" } else { "," };
            write!(f, "{comma} {count} with `{error}`, first request {first}")?;
        }
        let others = self.failed() - self.kinds.iter().map(|kind| kind.count).sum::<u64>();
        if others > 0 {
            write!(f, ", {others} otherwise")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(seq: u64, error: &str) -> Request {
        Request {
            seq,
            scheduled: seq,
            started: seq,
            ended: seq + 1,
            ok: false,
            answerer: None,
            status: None,
            error: Some(error.into()),
            again: false,
        }
    }

    #[test]
    fn failures_are_told_by_kind() {
        let load = Load { interval: Duration::from_millis(100), timeout: Duration::from_millis(500) };
        let tally = |errors: &[&str]| {
            let requests: Vec<Request> =
                errors.iter().zip(0..).map(|(error, seq)| failed(seq, error)).collect();
            Tally::of(&requests.iter().collect::<Vec<_>>(), load, &|_| Lateness::default()).to_string()
        };
        assert_eq!(
            tally(&["refused", "late", "refused"]),
            "3 sent, 0 ok, 3 failed; 2 with `refused`, first request 0, 1 with `late`, first request 1"
        );
        let many = tally(&["a", "b", "c", "d", "e", "f", "a", "g"]);
        assert!(
            many.starts_with("8 sent, 0 ok, 8 failed; 2 with `a`, first request 0, 1 with `b`"),
            "{many}"
        );
        assert!(many.ends_with("1 with `e`, first request 4, 2 otherwise"), "{many}");
    }
}
