//! Whether a director's agent lives: it renews a Lease. The first word of a Lease is judged by its time, all others by when they were
//! heard, so that clocks that differ hide nobody for long and bring nobody back.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Core, Moment};
use crate::index::LeaseFacts;
use crate::names;
use crate::status::Life;

/// So long after its last renewal a director counts as unknown.
pub const STALE: Duration = Duration::from_secs(40);

/// A director's Lease.
#[derive(Clone, Debug)]
struct Sign {
    renewed: Option<Time>,
    /// When it is stale.
    until: Instant,
    alive: bool,
    /// Nobody holds it: the agent has ended and said so.
    released: bool,
}

/// The life signs of all directors.
#[derive(Debug, Default)]
pub(super) struct Signs(BTreeMap<String, Sign>);

impl Signs {
    /// Takes in what a director's Lease says, and says whether something else is to be said of its life then.
    fn hear(&mut self, director: &str, facts: Option<&LeaseFacts>, now: &Moment) -> bool {
        let before = self.life(director);
        self.note(director, facts, now);
        before != self.life(director)
    }

    fn note(&mut self, director: &str, facts: Option<&LeaseFacts>, now: &Moment) {
        let Some(facts) = facts else {
            self.0.remove(director);
            return;
        };
        let released = facts.holder.is_empty() || facts.renewed.is_none();
        let left = match self.0.get(director) {
            Some(sign) if sign.renewed == facts.renewed => sign.until.saturating_duration_since(now.instant),
            Some(_) => STALE,
            None => STALE.saturating_sub(age(facts.renewed.as_ref(), now)),
        };
        let alive = !released && !left.is_zero();
        let sign = Sign { renewed: facts.renewed.clone(), until: now.instant + left, alive, released };
        self.0.insert(director.to_owned(), sign);
    }

    /// The directors that have become stale.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<String> {
        let stale = self.0.iter_mut().filter(|(_, sign)| sign.alive && sign.until <= now);
        stale
            .map(|(director, sign)| {
                sign.alive = false;
                director.clone()
            })
            .collect()
    }

    /// When the next one becomes stale.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.0.values().filter(|sign| sign.alive).map(|sign| sign.until).min()
    }

    /// Whether a director's agent lives.
    pub(super) fn life(&self, director: &str) -> Life {
        match self.0.get(director) {
            Some(sign) if sign.alive => Life::Alive,
            Some(sign) if sign.released => Life::Unknown("its agent was stopped".into()),
            Some(_) => Life::Unknown(format!("its agent has not been heard for {} s", STALE.as_secs())),
            None => Life::Unknown("no agent has reported there".into()),
        }
    }
}

fn age(renewed: Option<&Time>, now: &Moment) -> Duration {
    let seconds = renewed.map_or(i64::MAX, |time| now.time.0.as_second().saturating_sub(time.0.as_second()));
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

impl Core {
    /// A Lease of that name came, went or was renewed; says whose it is, if that one has begun or ceased to live.
    pub(super) fn hear(&mut self, lease: &str, now: &Moment) -> Option<String> {
        let director = names::director_of(lease)?.to_owned();
        self.signs.hear(&director, self.index.lease(lease), now).then_some(director)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    fn moment(begin: Instant, seconds: i64) -> Moment {
        let after = Duration::from_secs(u64::try_from(seconds).unwrap());
        Moment::new(begin + after, time(seconds))
    }

    fn time(seconds: i64) -> Time {
        Time(Timestamp::from_second(1_000_000 + seconds).unwrap())
    }

    fn lease(holder: &str, renewed: i64) -> LeaseFacts {
        LeaseFacts { namespace: "bascule".into(), holder: holder.into(), renewed: Some(time(renewed)) }
    }

    #[test]
    fn a_director_lives_as_long_as_its_lease_is_renewed() {
        let begin = Instant::now();
        let mut signs = Signs::default();
        assert!(matches!(signs.life("dir1"), Life::Unknown(_)));
        assert!(signs.hear("dir1", Some(&lease("dir1", 0)), &moment(begin, 10)));
        assert_eq!(signs.life("dir1"), Life::Alive);
        // Judged by its time at first: 30 s are left.
        assert_eq!(signs.next_deadline(), Some(begin + Duration::from_secs(40)));
        // A renewal counts from when it is heard, whatever time it has.
        assert!(!signs.hear("dir1", Some(&lease("dir1", -500)), &moment(begin, 20)));
        assert_eq!(signs.next_deadline(), Some(begin + Duration::from_secs(60)));
        // The same once more is no renewal.
        assert!(!signs.hear("dir1", Some(&lease("dir1", -500)), &moment(begin, 50)));
        assert_eq!(signs.expire(begin + Duration::from_secs(59)), Vec::<String>::new());
        assert_eq!(signs.expire(begin + Duration::from_secs(60)), ["dir1"]);
        assert_eq!(signs.next_deadline(), None);
        assert!(signs.hear("dir1", Some(&lease("dir1", 61)), &moment(begin, 61)));
        // Given up: at once.
        assert!(signs.hear("dir1", Some(&lease("", 62)), &moment(begin, 62)));
        assert_eq!(signs.life("dir1"), Life::Unknown("its agent was stopped".into()));
        assert!(signs.hear("dir1", Some(&lease("dir1", 63)), &moment(begin, 63)));
        assert!(signs.hear("dir1", None, &moment(begin, 64)));
    }

    #[test]
    fn a_lease_that_was_stale_already_brings_nobody_to_life() {
        let mut signs = Signs::default();
        // Something else is said of it all the same.
        assert!(signs.hear("dir1", Some(&lease("dir1", 0)), &moment(Instant::now(), 41)));
        assert_eq!(signs.life("dir1"), Life::Unknown("its agent has not been heard for 40 s".into()));
    }
}
