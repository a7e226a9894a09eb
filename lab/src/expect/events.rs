//! What agents told on their streams of events.

use serde::Deserialize;

use super::{Finding, Span, Verdict};
use crate::scenario::events::EventExpectation;
use crate::scenario::expectation::{Count, Limits};

/// A line of a stream, as far as it is known here; others are left alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Told {
    /// When, by the wall clock of the agent: RFC 3339.
    pub time: String,
    /// The VrrpGroup whose transition it is.
    pub group: Option<String>,
    /// Or the VirtualService of which something changed.
    pub virtual_service: Option<String>,
    /// Which real server of it.
    pub real_server: Option<String>,
    /// Or its quorum: Met or Lost.
    pub quorum: Option<String>,
    /// From which state.
    pub from: Option<String>,
    /// To which.
    pub to: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// Whether it is a state told at connect.
    pub present: bool,
    /// So many lines were not told.
    pub missed: Option<u64>,
}

/// What was heard of a node's agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Events and when each was read: CLOCK_MONOTONIC, nanoseconds.
    events: Vec<(u64, Told)>,
    /// How many are known to be missing.
    lost: u64,
    /// Whether its stream was ever there.
    connected: bool,
}

/// So many events of a node are kept; more are counted as lost.
const MOST: usize = 100_000;

impl Heard {
    /// Its stream is there.
    pub fn connect(&mut self) {
        self.connected = true;
    }

    /// So many events could not be read.
    pub fn lose(&mut self, count: u64) {
        self.lost = self.lost.saturating_add(count);
    }

    /// Takes a line in; `false` for one that is no news.
    pub fn put(&mut self, at: u64, told: Told) -> bool {
        if let Some(count) = told.missed {
            self.lose(count);
            return false;
        }
        let known = |(_, other): &(u64, Told)| {
            other.group == told.group && other.time == told.time && other.to == told.to
        };
        if told.present && self.events.iter().rev().any(known) {
            return false;
        }
        if self.events.len() >= MOST {
            self.lose(1);
            return false;
        }
        self.events.push((at, told));
        true
    }
}

impl Told {
    fn words(&self) -> String {
        let or = |part: &Option<String>| part.clone().unwrap_or_else(|| "?".into());
        let what = match (&self.quorum, &self.real_server) {
            (Some(quorum), _) => return format!("{}: quorum {quorum}", or(&self.virtual_service)),
            (None, Some(server)) => format!("{} {server}", or(&self.virtual_service)),
            (None, None) => or(&self.group),
        };
        let reason = self.reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"));
        format!("{what}: {} -> {}{reason}", or(&self.from), or(&self.to))
    }
}

fn fits(expected: &EventExpectation, told: &Told) -> bool {
    let is = |wanted: Option<&str>, seen: &Option<String>| {
        wanted.is_none_or(|wanted| seen.as_deref() == Some(wanted))
    };
    let about = match (&expected.group, &expected.virtual_service) {
        (Some(group), _) => told.group.as_ref() == Some(group),
        (None, service) => told.virtual_service.is_some() && told.virtual_service == *service,
    };
    // Without either, of the real servers.
    let kind = expected.virtual_service.is_none() || told.quorum.is_some() == expected.quorum.is_some();
    about
        && kind
        && is(expected.real_server.as_deref(), &told.real_server)
        && is(expected.quorum.map(|quorum| quorum.word()), &told.quorum)
        && is(expected.from.map(|state| state.word()), &told.from)
        && is(expected.to.map(|state| state.word()), &told.to)
        && expected
            .reason
            .as_ref()
            .is_none_or(|words| told.reason.as_ref().is_some_and(|reason| reason.contains(words)))
}

fn wanted(expected: &EventExpectation, count: Count) -> String {
    let mut words = match (&expected.group, &expected.virtual_service) {
        (Some(group), _) => format!("of group {group}"),
        (None, service) => format!("of {}", service.as_deref().unwrap_or("?")),
    };
    if let Some(server) = &expected.real_server {
        words.push_str(&format!(", real server {server}"));
    }
    if let Some(quorum) = expected.quorum {
        words.push_str(&format!(", quorum {}", quorum.word()));
    }
    for (name, state) in [("from", expected.from), ("to", expected.to)] {
        if let Some(state) = state {
            words.push_str(&format!(" {name} {}", state.word()));
        }
    }
    if let Some(reason) = &expected.reason {
        words.push_str(&format!(" because of `{reason}`"));
    }
    format!("{count} events of {} {words}", expected.node)
}

/// Judges what was heard in a part of the run.
pub fn judge(expected: &EventExpectation, heard: Option<&Heard>, window: Span) -> Finding {
    let count = expected.count.unwrap_or(Count::Limits(Limits { at_least: Some(1), at_most: None }));
    let wanted = wanted(expected, count);
    let Some(heard) = heard.filter(|heard| heard.connected) else {
        return Finding::of(false, wanted, "its event stream has not been there");
    };
    let within = || heard.events.iter().filter(|(at, _)| window.contains(*at));
    let found: Vec<&(u64, Told)> = within().filter(|(_, told)| fits(expected, told)).collect();
    let seen = match (found.last(), within().next_back()) {
        (Some((_, told)), _) => format!("{}, the last: {}", found.len(), told.words()),
        (None, Some((_, told))) => format!("none of {} events; the last: {}", within().count(), told.words()),
        (None, None) => "it told nothing".into(),
    };
    let number = found.len() as u64;
    let mut finding = Finding::of(count.admits(number), wanted, seen).at(found.last().map(|(at, _)| *at));
    if heard.lost > 0 {
        finding.seen = format!("{}; {} events were lost", finding.seen, heard.lost);
        // Among those that were lost there may have been any.
        let certain = finding.verdict == Verdict::Passed
            && matches!(count, Count::Limits(Limits { at_most: None, .. }));
        if !certain && count.admits_any(number, number.saturating_add(heard.lost)) {
            finding.verdict = Verdict::Undecided;
        }
    }
    finding
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::events::{Quorum, State};
    use crate::scenario::expectation::Window;

    fn expectation() -> EventExpectation {
        EventExpectation {
            node: "dir1".into(),
            group: None,
            virtual_service: None,
            real_server: None,
            quorum: None,
            from: None,
            to: None,
            reason: None,
            count: None,
            window: Window::default(),
        }
    }

    fn group(from: Option<State>, to: Option<State>, count: Option<Count>) -> EventExpectation {
        EventExpectation { group: Some("front".into()), from, to, count, ..expectation() }
    }

    const LINES: [&str; 6] = [
        r#"{"time":"2026-03-01T12:00:00.000250Z","group":"front","from":"Initialize","to":"Backup","reason":"it starts","priority":200,"present":true}"#,
        r#"{"time":"2026-03-01T12:00:01.000250Z","group":"front","from":"Backup","to":"Active","reason":"heard nothing for 3.61 intervals (3.61s)","priority":200}"#,
        r#"{"time":"2026-03-01T12:00:02.000250Z","group":"back","from":"Backup","to":"Active","reason":"heard nothing","priority":200}"#,
        r#"{"time":"2026-03-01T12:00:05.103911Z","virtualService":"tp/web","realServer":"srv1","address":"172.16.193.10","from":"Up","to":"Down","weight":0,"reason":"GET /index.html: 503, wanted 200"}"#,
        r#"{"time":"2026-03-01T12:00:05.103950Z","virtualService":"tp/web","quorum":"Lost","alive":0,"needed":1}"#,
        r#"{"time":"2026-03-01T12:00:01.000250Z","group":"front","from":"Backup","to":"Active","reason":"heard nothing for 3.61 intervals (3.61s)","priority":200,"present":true}"#,
    ];

    fn heard() -> Heard {
        let mut heard = Heard::default();
        heard.connect();
        let news: Vec<bool> =
            (1..).zip(LINES).map(|(at, line)| heard.put(at, serde_json::from_str(line).unwrap())).collect();
        assert_eq!(
            news,
            [true, true, true, true, true, false],
            "what was told before is no news at the next connect"
        );
        heard
    }

    fn verdict(expected: &EventExpectation, heard: &Heard) -> Verdict {
        judge(expected, Some(heard), Span { since: 0, until: 100 }).verdict
    }

    #[test]
    fn events_are_found_by_what_they_say() {
        let heard = heard();
        let passes = |expected: &EventExpectation| verdict(expected, &heard) == Verdict::Passed;
        let exactly = |count| Some(Count::Exactly(count));
        assert!(passes(&group(None, None, exactly(2))));
        assert!(passes(&group(Some(State::Backup), Some(State::Active), exactly(1))));
        assert!(!passes(&group(Some(State::Active), None, None)));
        assert!(passes(&group(Some(State::Active), None, exactly(0))));
        let because =
            |words: &str| EventExpectation { reason: Some(words.into()), ..group(None, None, None) };
        assert!(passes(&because("3.61 intervals")) && !passes(&because("a checksum")));
        let web = EventExpectation { virtual_service: Some("tp/web".into()), ..expectation() };
        assert!(passes(&EventExpectation { to: Some(State::Down), count: exactly(1), ..web.clone() }));
        assert!(
            passes(&EventExpectation { count: exactly(1), ..web.clone() }),
            "the quorum is asked for by itself"
        );
        let server = |name: &str| EventExpectation { real_server: Some(name.into()), ..web.clone() };
        assert!(passes(&server("srv1")) && !passes(&server("srv2")));
        let quorum = |quorum| EventExpectation { quorum: Some(quorum), ..web.clone() };
        assert!(passes(&quorum(Quorum::Lost)) && !passes(&quorum(Quorum::Met)));
    }

    #[test]
    fn windows_and_what_was_seen() {
        let heard = heard();
        let late = judge(&group(None, None, None), Some(&heard), Span { since: 3, until: 100 });
        assert_eq!(late.verdict, Verdict::Failed);
        assert_eq!(late.wanted, "at least 1 events of dir1 of group front");
        assert_eq!(late.seen, "none of 3 events; the last: tp/web: quorum Lost");
        let found =
            judge(&group(None, Some(State::Active), None), Some(&heard), Span { since: 0, until: 100 });
        assert_eq!(found.at, Some(2));
        assert!(found.seen.contains("front: Backup -> Active (heard nothing for"), "{}", found.seen);
        let never = judge(
            &group(None, None, Some(Count::Exactly(0))),
            Some(&Heard::default()),
            Span { since: 0, until: 9 },
        );
        assert_eq!(never.verdict, Verdict::Failed, "who was not heard has not told nothing");
    }

    #[test]
    fn what_was_lost_may_have_been_any() {
        let mut heard = heard();
        assert!(!heard.put(7, serde_json::from_str(r#"{"time":"x","missed":3}"#).unwrap()));
        let with = |count| group(None, Some(State::Active), Some(count));
        assert_eq!(verdict(&group(None, Some(State::Active), None), &heard), Verdict::Passed);
        assert_eq!(verdict(&with(Count::Exactly(1)), &heard), Verdict::Undecided);
        assert_eq!(verdict(&with(Count::Exactly(4)), &heard), Verdict::Undecided);
        assert_eq!(verdict(&with(Count::Exactly(5)), &heard), Verdict::Failed);
        assert_eq!(verdict(&with(Count::Exactly(0)), &heard), Verdict::Failed);
    }
}
