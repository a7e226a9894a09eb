//! How it stands with the API server: pure, and what is logged of it is one line when it is lost and one when it is back.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::heard::{Trouble, What};

/// Being lost again within this time after it was said is not said again.
const QUIET: Duration = Duration::from_secs(60);

/// A watch that was refused is tried again after a minute at most (`default_backoff` of kube's watcher: 30 s and as much of jitter), and
/// nothing is heard where it is granted and nothing changes: after this time without another refusal it is.
const REFUSED_AGAIN: Duration = Duration::from_secs(90);

/// How it stands, for the status and the metrics.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LinkStatus {
    /// The API server; empty before its address is known.
    pub server: String,
    /// Whether its last answer is newer than the last failure.
    pub connected: bool,
    /// When it answered last.
    pub heard: Option<Instant>,
    /// Why nothing is heard of a kind, or of all.
    pub troubles: Vec<String>,
    /// Statuses written since the start.
    pub written: u64,
    /// Writes that failed since the start.
    pub failed: u64,
}

/// What is to be logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Say {
    /// Not good.
    Warn(String),
    /// Good again.
    Info(String),
}

#[derive(Debug, Default)]
pub(super) struct Link {
    heard: Option<Instant>,
    /// Why it is lost, if so.
    lost: Option<String>,
    said: Option<Instant>,
    /// The loss was said, and not yet that it is over.
    owed: bool,
    /// What is refused, why, and when it was last.
    denied: BTreeMap<&'static str, (String, Instant)>,
}

impl Link {
    /// An answer came.
    pub(super) fn heard(&mut self, now: Instant) -> Option<Say> {
        self.heard = Some(now);
        self.lost = None;
        std::mem::take(&mut self.owed).then(|| Say::Info("the API server answers".into()))
    }

    /// A kind is heard, or what else was denied is done.
    pub(super) fn granted(&mut self, what: &'static str) -> Option<Say> {
        self.denied.remove(what).map(|_| Say::Info(format!("{what}: the API server grants it now")))
    }

    /// Time has passed: which watches have not been refused again.
    pub(super) fn rest(&mut self, now: Instant) -> Vec<Say> {
        let over = |what: &str| {
            let refused = self.denied.get(what).map(|(_, at)| now.saturating_duration_since(*at));
            refused.is_some_and(|ago| ago > REFUSED_AGAIN)
        };
        let over: Vec<_> = What::ALL.into_iter().map(What::word).filter(|what| over(what)).collect();
        over.into_iter().filter_map(|what| self.granted(what)).collect()
    }

    /// Something failed. `what` is a kind or what else was tried.
    pub(super) fn failed(&mut self, now: Instant, what: &'static str, trouble: &Trouble) -> Option<Say> {
        match trouble {
            Trouble::Expired => None,
            Trouble::Denied(why) => {
                // It answers.
                self.heard = Some(now);
                let before = self.denied.insert(what, (why.clone(), now));
                before.is_none_or(|(before, _)| before != *why).then(|| {
                    Say::Warn(format!("{what}: the API server refuses: {why}; see agent/deploy/rbac.yaml"))
                })
            }
            Trouble::Unknown(why) | Trouble::Lost(why) => {
                self.lost = Some(why.clone());
                let quiet = self.said.is_some_and(|said| now.saturating_duration_since(said) < QUIET);
                if self.owed || quiet {
                    return None;
                }
                (self.said, self.owed) = (Some(now), true);
                Some(Say::Warn(format!(
                    "the API server does not answer: {why}; going on with what is known, and trying again"
                )))
            }
        }
    }

    /// How it stands.
    pub(super) fn status(&self, server: &str) -> LinkStatus {
        let denied = self.denied.iter().map(|(what, (why, _))| format!("{what}: {why}"));
        LinkStatus {
            server: server.to_owned(),
            connected: self.lost.is_none() && self.heard.is_some(),
            heard: self.heard,
            troubles: self.lost.iter().cloned().chain(denied).collect(),
            ..LinkStatus::default()
        }
    }
}

impl What {
    /// As it is told to people.
    pub(super) const fn word(self) -> &'static str {
        self.kind().as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_one_line_however_many_requests_fail() {
        let (mut link, start) = (Link::default(), Instant::now());
        let lost = Trouble::Lost("connection refused".into());
        assert_eq!(link.heard(start), None, "what is well from the start is not said");
        let said =
            (0..100).filter_map(|n| link.failed(start + Duration::from_secs(n), "Lease", &lost)).count();
        assert_eq!(said, 1);
        assert!(!link.status("s").connected);
        assert!(matches!(link.heard(start + Duration::from_secs(100)), Some(Say::Info(_))));
        assert!(link.status("s").connected);
        // One that comes and goes is said once a minute.
        let flapping = (0..59).filter_map(|n| {
            let now = start + Duration::from_secs(101 + n);
            link.heard(now).or(link.failed(now, "Lease", &lost))
        });
        assert!(flapping.count() <= 2);
    }

    #[test]
    fn what_is_denied_is_said_once_for_each_and_does_not_count_as_a_loss() {
        let (mut link, now) = (Link::default(), Instant::now());
        let denied = Trouble::Denied("cannot list resource \"healthchecks\"".into());
        assert!(matches!(link.failed(now, "HealthCheck", &denied), Some(Say::Warn(_))));
        assert_eq!(link.failed(now, "HealthCheck", &denied), None);
        assert!(matches!(link.failed(now, "DirectorConfig", &denied), Some(Say::Warn(_))));
        assert!(link.status("s").connected);
        assert_eq!(link.status("s").troubles.len(), 2);
        assert!(matches!(link.granted("HealthCheck"), Some(Say::Info(_))));
        assert_eq!(link.status("s").troubles.len(), 1);
    }

    #[test]
    fn a_watch_that_is_not_refused_any_more_is_granted() {
        let (mut link, start) = (Link::default(), Instant::now());
        let denied = Trouble::Denied("cannot watch".into());
        let _ = link.failed(start, "HealthCheck", &denied);
        let _ = link.failed(start, "Lease", &denied);
        assert_eq!(link.rest(start + REFUSED_AGAIN), []);
        let _ = link.failed(start + Duration::from_secs(30), "HealthCheck", &denied);
        assert_eq!(link.rest(start + REFUSED_AGAIN + Duration::from_secs(1)), [], "it was refused again");
        let said = link.rest(start + REFUSED_AGAIN + Duration::from_secs(31));
        assert!(matches!(&said[..], [Say::Info(what)] if what.starts_with("HealthCheck")), "{said:?}");
        // What is not tried by itself says nothing by being silent.
        assert_eq!(link.status("s").troubles.len(), 1);
    }
}
