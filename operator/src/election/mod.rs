//! Who of several operators writes: a state machine around a Lease, with `now` as a parameter. It sends nothing; [`lease`] does.
//!
//! Safe without clocks that agree: who holds the Lease begins nothing [`Timing::renew`] after it *sent* its last renewal, and whatever it
//! began then has ended [`Timing::request`] later; who waits takes the Lease when it has not *seen* it change for its whole duration,
//! which is longer than both together. Both are measured by each one's own monotonic clock.

pub mod lease;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

/// How long what lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// A Lease that does not change for so long is anybody's.
    pub lease: Duration,
    /// So long after its last renewal was sent its holder begins requests.
    pub renew: Duration,
    /// From one renewal or look to the next.
    pub retry: Duration,
    /// So long a request may take, also every other one.
    pub request: Duration,
}

impl Timing {
    /// Those of Kubernetes' own controllers.
    pub const DEFAULT: Timing = Timing {
        lease: Duration::from_secs(15),
        renew: Duration::from_secs(10),
        retry: Duration::from_secs(2),
        request: Duration::from_secs(4),
    };

    /// Whether nobody can write while another one may.
    pub fn is_safe(&self) -> bool {
        self.renew + self.request < self.lease && self.retry + self.request < self.renew
    }
}

/// What a Lease says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Who holds it; empty: nobody.
    pub holder: String,
    /// How long it lasts without being renewed.
    pub duration: Duration,
    /// Its `resourceVersion`, which every renewal changes.
    pub version: String,
    /// How often it went to somebody else.
    pub transitions: i32,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing before then.
    Wait(Instant),
    /// Read the Lease.
    Read,
    /// Make it, held by us.
    Create,
    /// Take it or renew it, if it is still that version.
    Write {
        /// The version that is replaced.
        version: String,
        /// How often it has gone to somebody else then.
        transitions: i32,
        /// Whether it was ours already.
        renewal: bool,
    },
}

/// Why a write of the Lease failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It is not that version any more.
    Conflict,
    /// Nobody knows.
    Other,
}

/// What is known of the Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Known {
    /// Nothing: it has to be read.
    Nothing,
    /// It does not exist.
    Absent,
    /// That, since then.
    Record(Record, Instant),
}

/// One operator's view of the Lease.
#[derive(Clone, Debug)]
pub struct Election {
    me: String,
    timing: Timing,
    known: Known,
    /// What is known has just been read or written: it may be acted on.
    fresh: bool,
    /// When the last renewal was sent, while it is ours.
    renewed: Option<Instant>,
    next: Instant,
}

impl Election {
    /// Knows nothing; `me` is a name that nobody else has, and that this process had in no earlier life.
    pub fn new(me: String, timing: Timing, now: Instant) -> Election {
        Election { me, timing, known: Known::Nothing, fresh: false, renewed: None, next: now }
    }

    /// Our name.
    pub fn me(&self) -> &str {
        &self.me
    }

    /// Requests may begin until then; `None`: not at all.
    pub fn until(&self) -> Option<Instant> {
        self.renewed.map(|sent| sent + self.timing.renew)
    }

    /// Whether requests may begin.
    pub fn leads(&self, now: Instant) -> bool {
        self.until().is_some_and(|until| now < until)
    }

    /// What is to be done now.
    pub fn step(&mut self, now: Instant) -> Step {
        if self.renewed.is_some() && !self.leads(now) {
            // Too late: as anybody else.
            self.renewed = None;
            self.fresh = false;
        }
        if now < self.next {
            return Step::Wait(self.until().map_or(self.next, |until| until.min(self.next)));
        }
        let fresh = std::mem::take(&mut self.fresh);
        let renewal = self.renewed.is_some();
        match &self.known {
            Known::Absent if fresh => Step::Create,
            Known::Record(record, since) if renewal || fresh && is_free(record, *since, now) => Step::Write {
                version: record.version.clone(),
                transitions: record.transitions + i32::from(!renewal),
                renewal,
            },
            _ => Step::Read,
        }
    }

    /// The Lease was read; `None`: it does not exist.
    pub fn read(&mut self, answer: Result<Option<Record>, ()>, now: Instant) {
        let Ok(record) = answer else {
            self.next = now + self.timing.retry;
            return;
        };
        self.fresh = true;
        self.known = match record {
            None => {
                self.renewed = None;
                Known::Absent
            }
            Some(record) => {
                if record.holder != self.me {
                    self.renewed = None;
                }
                match &self.known {
                    Known::Record(before, since) if *before == record => Known::Record(record, *since),
                    _ => Known::Record(record, now),
                }
            }
        };
        let at_once = match &self.known {
            Known::Absent | Known::Nothing => true,
            Known::Record(record, since) => self.renewed.is_some() || is_free(record, *since, now),
        };
        if !at_once {
            self.next = now + self.timing.retry;
            self.fresh = false;
        }
    }

    /// The Lease was written, or not; `sent` is when that was begun.
    pub fn wrote(&mut self, answer: Result<Record, Failure>, sent: Instant, now: Instant) {
        match answer {
            Ok(record) => {
                self.known = Known::Record(record, now);
                self.renewed = Some(sent);
                self.next = now + self.timing.retry;
            }
            Err(Failure::Conflict) => {
                self.known = Known::Nothing;
                // A server that says so every time is not asked without a pause.
                self.next = now + self.timing.retry / 4;
            }
            Err(Failure::Other) => {
                // Perhaps it is written all the same: then the version is another one.
                self.known = Known::Nothing;
                self.next = now + self.timing.retry;
            }
        }
    }

    /// Gives the Lease up: what has to be written, if it is ours. Nothing may begin any more.
    pub fn release(&mut self, now: Instant) -> Option<Record> {
        let leads = self.leads(now);
        self.renewed = None;
        match &self.known {
            Known::Record(record, _) if leads => Some(record.clone()),
            _ => None,
        }
    }
}

/// Whether anybody may take it.
fn is_free(record: &Record, since: Instant, now: Instant) -> bool {
    record.holder.is_empty() || now >= since + record.duration
}
