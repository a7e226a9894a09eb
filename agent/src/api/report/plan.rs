//! Which statuses are written now: never what is there already, one object at most once in [`OBJECT`], all together at most
//! [`RATE`] a second.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bascule_crds::binding::{NatRuleBindingStatus, VirtualServiceBindingStatus};
use bascule_crds::common::Condition;
use bascule_crds::director_config::DirectorConfigStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::wanted::Wanted;
use crate::api::heard::{Place, What};
use crate::api::write::Failure;

/// From one write of an object's status to the next.
pub const OBJECT: Duration = Duration::from_secs(5);
/// The same where only words differ.
pub const TEXTS: Duration = Duration::from_secs(60);
/// Writes a second.
pub const RATE: u32 = 10;
/// Writes at a time.
pub const AT_ONCE: usize = 10;
/// How long is waited for a change to be carried out before it is said that it is not.
pub const PENDING: Duration = Duration::from_secs(10);
/// After a failure nothing is written for so long, doubled with every further one.
const PAUSE: Duration = Duration::from_secs(1);
/// At most so long.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// What is refused is tried again after so long, doubled up to [`MAX_REFUSED`].
const REFUSED: Duration = Duration::from_secs(10);
const MAX_REFUSED: Duration = Duration::from_secs(300);
/// The server's own wish counts up to this.
const MAX_WISH: Duration = Duration::from_secs(300);

/// An object whose status is this agent's, with what it should be.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its kind.
    pub what: What,
    /// It.
    pub place: Place,
    /// What it should be.
    pub wanted: Said,
    /// What the API server has.
    pub known: Value,
}

/// A status of any kind.
#[derive(Clone, Debug)]
pub enum Said {
    /// Of a binding.
    Binding(Wanted<VirtualServiceBindingStatus>),
    /// Of a NatRule's binding.
    Rule(Wanted<NatRuleBindingStatus>),
    /// Of the DirectorConfig.
    Config(Wanted<DirectorConfigStatus>),
}

/// A write that is due.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    /// The object's kind.
    pub what: What,
    /// The object.
    pub place: Place,
    /// Its status.
    pub status: Value,
}

#[derive(Debug, Default)]
struct Note {
    tried: Option<Instant>,
    pending_since: Option<Instant>,
    running: bool,
    refused: u32,
    refused_until: Option<Instant>,
    /// What the server said; said once.
    words: String,
}

/// Remembers what was written when.
#[derive(Debug)]
pub struct Planner {
    notes: BTreeMap<(What, Place), Note>,
    running: usize,
    /// Writes that may be begun now, in thousandths.
    credit: u32,
    filled: Instant,
    failures: u32,
    paused_until: Option<Instant>,
}

/// How much two statuses differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Difference {
    None,
    Texts,
    Facts,
}

impl Planner {
    /// Nothing was written yet.
    pub const fn new(now: Instant) -> Self {
        Self {
            notes: BTreeMap::new(),
            running: 0,
            credit: RATE * 1000,
            filled: now,
            failures: 0,
            paused_until: None,
        }
    }

    /// What is to be written now, of everything that there is; those that wait longest first, the machine before all.
    pub fn plan(
        &mut self,
        now: Instant,
        time: Timestamp,
        candidates: impl IntoIterator<Item = Candidate>,
    ) -> Vec<Write> {
        self.fill(now);
        let mut seen = BTreeMap::new();
        let mut due = Vec::new();
        for candidate in candidates {
            let key = (candidate.what, candidate.place.clone());
            let mut note = self.notes.remove(&key).unwrap_or_default();
            if let Some(status) = due_now(&mut note, now, time, &candidate) {
                due.push((candidate.what != What::Config, note.tried, key.clone(), status));
            }
            seen.insert(key, note);
        }
        // What is gone is forgotten, but for what is being written.
        self.notes.retain(|_, note| note.running);
        self.notes.extend(seen);
        if self.paused_until.is_some_and(|until| now < until) {
            return Vec::new();
        }
        due.sort_by(|a, b| (a.0, a.1, &a.2).cmp(&(b.0, b.1, &b.2)));
        let room = AT_ONCE.saturating_sub(self.running).min((self.credit / 1000) as usize);
        let mut writes = Vec::new();
        for (_, _, key, status) in due.into_iter().take(room) {
            if let Some(note) = self.notes.get_mut(&key) {
                (note.tried, note.running) = (Some(now), true);
            }
            self.running += 1;
            self.credit -= 1000;
            writes.push(Write { what: key.0, place: key.1, status });
        }
        writes
    }

    /// Whether something may wait for a place that is taken now.
    pub const fn is_busy(&self) -> bool {
        self.running > 0
    }

    /// A write has ended. Returns what is to be said of it.
    pub fn done(
        &mut self,
        now: Instant,
        what: What,
        place: &Place,
        result: &Result<(), Failure>,
    ) -> Option<String> {
        self.running = self.running.saturating_sub(1);
        let mut note = self.notes.remove(&(what, place.clone())).unwrap_or_default();
        note.running = false;
        let mut say = None;
        match result {
            Ok(()) => {
                (self.failures, self.paused_until) = (0, None);
                (note.refused, note.refused_until) = (0, None);
                note.words.clear();
            }
            // The watch tells what is there now; the next look is in time.
            Err(Failure::Conflict) => {}
            Err(Failure::Refused(words)) => {
                let pause = (REFUSED * 2_u32.saturating_pow(note.refused.min(10))).min(MAX_REFUSED);
                note.refused = note.refused.saturating_add(1);
                note.refused_until = Some(now + pause);
                if note.words != *words {
                    say = Some(format!("the status of {what} {place} is refused: {words}"));
                    note.words.clone_from(words);
                }
            }
            Err(Failure::Later(wish, _)) => {
                let pause = (PAUSE * 2_u32.saturating_pow(self.failures.min(10))).min(MAX_PAUSE);
                self.failures = self.failures.saturating_add(1);
                let pause = pause.max(wish.unwrap_or_default().min(MAX_WISH));
                self.paused_until = Some(now + pause);
                // It was not written: it need not wait its turn again.
                note.tried = None;
            }
        }
        self.notes.insert((what, place.clone()), note);
        say
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled);
        let credit = u32::try_from(passed.as_millis() * u128::from(RATE)).unwrap_or(u32::MAX);
        self.credit = self.credit.saturating_add(credit).min(RATE * 1000);
        self.filled = now;
    }
}

/// What is to be written of a candidate, if it is due.
fn due_now(note: &mut Note, now: Instant, time: Timestamp, candidate: &Candidate) -> Option<Value> {
    let (pending, status) = match &candidate.wanted {
        Said::Binding(wanted) => (wanted.pending, binding(wanted, &candidate.known, time)),
        Said::Rule(wanted) => (wanted.pending, rule(wanted, &candidate.known, time)),
        Said::Config(wanted) => (wanted.pending, config(wanted, &candidate.known, time)),
    };
    if !pending {
        note.pending_since = None;
    }
    let pending_since = pending.then(|| *note.pending_since.get_or_insert(now));
    if note.running || note.refused_until.is_some_and(|until| now < until) {
        return None;
    }
    if pending_since.is_some_and(|since| now.saturating_duration_since(since) < PENDING) {
        return None;
    }
    let rest = match difference(&candidate.known, &status) {
        Difference::None => return None,
        Difference::Texts => TEXTS,
        Difference::Facts => OBJECT,
    };
    let rested = note.tried.is_none_or(|tried| now.saturating_duration_since(tried) >= rest);
    rested.then_some(status)
}

fn binding(wanted: &Wanted<VirtualServiceBindingStatus>, known: &Value, time: Timestamp) -> Value {
    let before: VirtualServiceBindingStatus = serde_json::from_value(known.clone()).unwrap_or_default();
    let mut status = wanted.status.clone();
    times(&mut status.conditions, &before.conditions, time);
    serde_json::to_value(status).unwrap_or_default()
}

fn rule(wanted: &Wanted<NatRuleBindingStatus>, known: &Value, time: Timestamp) -> Value {
    let before: NatRuleBindingStatus = serde_json::from_value(known.clone()).unwrap_or_default();
    let mut status = wanted.status.clone();
    times(&mut status.conditions, &before.conditions, time);
    serde_json::to_value(status).unwrap_or_default()
}

fn config(wanted: &Wanted<DirectorConfigStatus>, known: &Value, time: Timestamp) -> Value {
    let before: DirectorConfigStatus = serde_json::from_value(known.clone()).unwrap_or_default();
    let mut status = wanted.status.clone();
    times(&mut status.conditions, &before.conditions, time);
    for group in &mut status.vrrp {
        let same = before.vrrp.iter().find(|one| one.group == group.group && one.state == group.state);
        let near = |a: &Time, b: &Time| a.0.as_second().abs_diff(b.0.as_second()) <= 2;
        if let Some(Some(told)) = same.map(|one| &one.last_transition)
            && group.last_transition.as_ref().is_some_and(|now| near(now, told))
        {
            group.last_transition = Some(told.clone());
        }
    }
    serde_json::to_value(status).unwrap_or_default()
}

/// A condition has had its status since it was first said.
fn times(conditions: &mut [Condition], before: &[Condition], time: Timestamp) {
    let now = Timestamp::from_second(time.as_second()).unwrap_or(time);
    for condition in conditions {
        let same = before.iter().find(|one| one.type_ == condition.type_ && one.status == condition.status);
        condition.last_transition_time = same.map_or(Time(now), |one| one.last_transition_time.clone());
    }
}

fn difference(known: &Value, wanted: &Value) -> Difference {
    if known == wanted {
        return Difference::None;
    }
    let (mut known, mut wanted) = (known.clone(), wanted.clone());
    without_texts(&mut known);
    without_texts(&mut wanted);
    if known == wanted { Difference::Texts } else { Difference::Facts }
}

fn without_texts(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("message");
            // That of a condition is a fact; a group's is a sentence.
            if fields.contains_key("group") {
                fields.remove("reason");
            }
            fields.values_mut().for_each(without_texts);
        }
        Value::Array(values) => values.iter_mut().for_each(without_texts),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(up: u32, message: &str) -> Wanted<VirtualServiceBindingStatus> {
        let condition = Condition {
            type_: "Programmed".into(),
            status: "True".into(),
            reason: "Programmed".into(),
            message: message.into(),
            observed_generation: Some(1),
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        };
        let status = VirtualServiceBindingStatus {
            observed_generation: Some(1),
            conditions: vec![condition],
            real_servers_up: Some(up),
            ..VirtualServiceBindingStatus::default()
        };
        Wanted { status, pending: false }
    }

    fn candidate(name: &str, wanted: Wanted<VirtualServiceBindingStatus>, known: &Value) -> Candidate {
        let place = Place { namespace: "tp".into(), name: name.into() };
        Candidate { what: What::Bindings, place, wanted: Said::Binding(wanted), known: known.clone() }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// Plays seconds of looks, ten a second, at objects that answer at once; returns when each was written.
    fn play(seconds: u64, mut wanted: impl FnMut(u64) -> Vec<Candidate>) -> Vec<(u64, Write)> {
        let start = Instant::now();
        let mut planner = Planner::new(start);
        let mut known: BTreeMap<Place, Value> = BTreeMap::new();
        let mut writes = Vec::new();
        for tick in 0..seconds * 10 {
            let now = start + Duration::from_millis(tick * 100);
            let candidates = wanted(tick).into_iter().map(|mut one| {
                one.known = known.get(&one.place).cloned().unwrap_or(one.known);
                one
            });
            let candidates: Vec<_> = candidates.collect();
            let time = at(1000 + i64::try_from(tick / 10).unwrap());
            for write in planner.plan(now, time, candidates) {
                assert_eq!(planner.done(now, write.what, &write.place, &Ok(())), None);
                known.insert(write.place.clone(), write.status.clone());
                writes.push((tick, write));
            }
        }
        writes
    }

    #[test]
    fn what_flaps_is_written_once_in_five_seconds() {
        let writes =
            play(60, |tick| vec![candidate("web", said(u32::from(tick % 2 == 0), ""), &Value::Null)]);
        assert!((2..=12).contains(&writes.len()), "{}", writes.len());
        for pair in writes.windows(2) {
            assert!(pair[1].0 - pair[0].0 >= 50, "{} and {}", pair[0].0, pair[1].0);
        }
    }

    #[test]
    fn what_is_there_is_not_written_and_words_alone_wait_longer() {
        let writes = play(30, |_| vec![candidate("web", said(1, ""), &Value::Null)]);
        assert_eq!(writes.len(), 1);
        let there = writes[0].1.status.clone();
        // Also not by another process, which finds it there.
        assert!(play(30, |_| vec![candidate("web", said(1, ""), &there)]).is_empty());
        let writes = play(121, |tick| vec![candidate("web", said(1, &tick.to_string()), &there)]);
        assert_eq!(writes.len(), 3, "once in a minute");
        // A condition keeps the time of its change.
        let time = |write: &Write| write.status["conditions"][0]["lastTransitionTime"].clone();
        assert!(writes.iter().all(|(_, write)| time(write) == time(&writes[0].1)));
    }

    #[test]
    fn all_together_are_ten_a_second_and_each_has_its_turn() {
        let all = |_| (0..300).map(|n| candidate(&format!("s{n:03}"), said(1, ""), &Value::Null)).collect();
        let writes = play(31, all);
        assert_eq!(writes.len(), 300);
        for second in 1..31 {
            let count = writes.iter().filter(|(tick, _)| tick / 10 == second).count();
            assert!(count <= 10, "{count} in second {second}");
        }
    }

    #[test]
    fn nothing_is_said_of_a_change_that_is_being_carried_out_unless_that_takes_long() {
        let pending = || Wanted { pending: true, ..said(0, "") };
        let writes = play(9, |_| vec![candidate("web", pending(), &Value::Null)]);
        assert!(writes.is_empty());
        let writes = play(20, |_| vec![candidate("web", pending(), &Value::Null)]);
        assert_eq!(writes.iter().map(|(tick, _)| *tick).collect::<Vec<_>>(), [100]);
    }

    #[test]
    fn a_failover_is_at_most_two_writes() {
        use bascule_crds::director_config::GroupState;
        use bascule_crds::vrrp_group::VrrpState;

        // A second of hesitation: Backup, Active with one priority and another, then steady for a minute.
        let config = |tick: u64| {
            let (state, priority, since) = match tick {
                0..100 => (VrrpState::Backup, 100, 0),
                100..103 => (VrrpState::Active, 100, 1010),
                103..105 => (VrrpState::Backup, 90, 1010),
                _ => (VrrpState::Active, 110, 1010),
            };
            let group = GroupState {
                group: "front".into(),
                state,
                priority,
                last_transition: Some(Time(at(since))),
                reason: Some(format!("heard nothing for {tick} ms")),
            };
            let status = DirectorConfigStatus { vrrp: vec![group], ..DirectorConfigStatus::default() };
            let place = Place { namespace: String::new(), name: "dir1".into() };
            let wanted = Said::Config(Wanted { status, pending: false });
            vec![Candidate { what: What::Config, place, wanted, known: Value::Null }]
        };
        let writes: Vec<_> = play(59, config).into_iter().map(|(tick, _)| tick).collect();
        assert_eq!(writes, [0, 100, 150], "the state before, and two");
    }

    #[test]
    fn failures_pause_all_and_refusals_the_one() {
        let start = Instant::now();
        let mut planner = Planner::new(start);
        let one = || vec![candidate("web", said(1, ""), &Value::Null)];
        let two =
            || vec![candidate("web", said(1, ""), &Value::Null), candidate("x", said(1, ""), &Value::Null)];
        let lost = || Err(Failure::Later(None, crate::api::heard::Trouble::Lost("refused".into())));
        let mut now = start;
        for _ in 0..10 {
            let writes = planner.plan(now, at(1), one());
            assert_eq!(writes.len(), 1);
            planner.done(now, writes[0].what, &writes[0].place, &lost());
            assert!(planner.plan(now + PAUSE / 2, at(1), two()).is_empty(), "all wait");
            now += MAX_PAUSE;
        }
        // The server's wish.
        let writes = planner.plan(now, at(1), one());
        let wish = Some(Duration::from_secs(200));
        let trouble = crate::api::heard::Trouble::Lost("429".into());
        planner.done(now, writes[0].what, &writes[0].place, &Err(Failure::Later(wish, trouble)));
        assert!(planner.plan(now + Duration::from_secs(199), at(1), one()).is_empty());
        now += Duration::from_secs(200);
        let writes = planner.plan(now, at(1), two());
        assert_eq!(writes.len(), 2);
        let refused = Err(Failure::Refused("no".into()));
        assert!(planner.done(now, writes[0].what, &writes[0].place, &refused).is_some(), "said");
        assert_eq!(planner.done(now, writes[1].what, &writes[1].place, &Ok(())), None);
        now += REFUSED;
        let writes = planner.plan(now, at(1), one());
        assert_eq!(writes.len(), 1, "tried again");
        assert_eq!(planner.done(now, writes[0].what, &writes[0].place, &refused), None, "said once");
        assert!(planner.plan(now + REFUSED, at(1), one()).is_empty(), "later and later");
    }
}
