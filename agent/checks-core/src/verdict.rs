//! What the results of a check mean: whether its target is up.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Outcome, Time};

/// How many results in a row change a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Thresholds {
    /// Passes in a row that bring a target that is down up, at least 1.
    pub rise: u32,
    /// Failures in a row that take a target that is up down, at least 1 (keepalived: retry + 1).
    pub fall: u32,
}

/// Whether a target is up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Health {
    /// No result yet.
    #[default]
    Unknown,
    /// It is up.
    Up,
    /// It is down.
    Down,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        })
    }
}

/// The verdict on a target, plain data that can be kept and taken up again by another process.
///
/// The first result decides alone, whatever the thresholds: a target of which nothing is known has nothing to lose by one success
/// or one failure. keepalived does the same ("one failure is enough initially", `complete_checker_init` in
/// keepalived/check/check_api.c; with `alpha`, one success is).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Whether the target is up.
    pub health: Health,
    /// Since when, [`Verdict::health`] has this value.
    pub since: Time,
    /// Passes in a row up to now; 0 after a failure.
    pub passes: u32,
    /// Failures in a row up to now; 0 after a pass.
    pub failures: u32,
    /// What the last result that decided anything said, one line of at most [`crate::MESSAGE_MAX`] characters. Before the first,
    /// why there is none, or empty.
    pub message: String,
    /// The weight that the last pass asked for, none when it asked for none.
    pub weight: Option<u16>,
}

/// A verdict that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// Before.
    pub from: Health,
    /// After; the same as before when only the weight changed.
    pub to: Health,
    /// The weight that the check asks for.
    pub weight: Option<u16>,
    /// Why, for a person.
    pub message: String,
}

impl Verdict {
    /// Nothing is known, since `now`.
    pub fn unknown(now: Time) -> Self {
        Self {
            health: Health::Unknown,
            since: now,
            passes: 0,
            failures: 0,
            message: String::new(),
            weight: None,
        }
    }

    /// Takes a result; says what changed: the health, or the weight of a target that is up. One that says nothing about the
    /// target changes nothing; as long as nothing is known, its message tells why.
    pub fn apply(&mut self, now: Time, outcome: &Outcome, thresholds: Thresholds) -> Option<Transition> {
        if !outcome.is_decided() {
            if self.health == Health::Unknown {
                outcome.message().clone_into(&mut self.message);
            }
            return None;
        }
        let (from, weighed) = (self.health, self.weight);
        if outcome.is_passed() {
            self.passes = self.passes.saturating_add(1);
            self.failures = 0;
            self.weight = outcome.weight();
        } else {
            self.failures = self.failures.saturating_add(1);
            self.passes = 0;
        }
        outcome.message().clone_into(&mut self.message);
        self.health = match self.health {
            Health::Unknown if self.passes > 0 => Health::Up,
            Health::Unknown => Health::Down,
            Health::Down if self.passes >= thresholds.rise.max(1) => Health::Up,
            Health::Up if self.failures >= thresholds.fall.max(1) => Health::Down,
            unchanged => unchanged,
        };
        if self.health != from {
            self.since = now;
        } else if self.health != Health::Up || self.weight == weighed {
            return None;
        }
        Some(Transition { from, to: self.health, weight: self.weight, message: self.message.clone() })
    }

    /// Whether the last result was a failure.
    pub fn is_failing(&self) -> bool {
        self.failures > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Thresholds = Thresholds { rise: 2, fall: 3 };

    fn at(second: u64) -> Time {
        Time::from_nanos(second * 1_000_000_000)
    }

    /// Results as letters: `+` passed, `-` failed, `?` undecided, a digit passed with that weight.
    fn outcome(letter: char) -> Outcome {
        match letter {
            '+' => Outcome::passed("fine"),
            '-' => Outcome::failed("refused"),
            '?' => Outcome::undecided("no descriptors"),
            digit => Outcome::passed("fine").with_weight(u16::try_from(digit.to_digit(10).unwrap()).unwrap()),
        }
    }

    /// The verdict after each result: `U`p, `D`own; small when nothing was said of it.
    fn story(results: &str) -> String {
        let mut verdict = Verdict::unknown(at(0));
        let mut story = String::new();
        for (second, letter) in (1..).zip(results.chars()) {
            let before = verdict.clone();
            let said = verdict.apply(at(second), &outcome(letter), AT);
            let letter = match verdict.health {
                Health::Unknown => 'x',
                Health::Up => 'u',
                Health::Down => 'd',
            };
            story.push(if said.is_some() { letter.to_ascii_uppercase() } else { letter });
            let since = if verdict.health == before.health { before.since } else { at(second) };
            assert_eq!(verdict.since, since, "{results} at {second}");
            if let Some(said) = said {
                assert_eq!((said.from, said.to), (before.health, verdict.health));
                assert_eq!(said.message, verdict.message);
            }
        }
        story
    }

    #[test]
    fn results_and_what_they_mean() {
        for (results, verdicts) in [
            // The first result decides.
            ("+", "U"),
            ("-", "D"),
            // Three failures in a row take it down, two and a pass do not.
            ("+---", "UuuD"),
            ("+--+--+", "Uuuuuuu"),
            ("+--+---", "UuuuuuD"),
            // Two passes in a row bring it back, one and a failure do not.
            ("-++", "DdU"),
            ("-+-+-", "Ddddd"),
            ("-+-++-", "DdddUu"),
            // What it is stays what it is.
            ("++++++++", "Uuuuuuuu"),
            ("--------", "Dddddddd"),
            // Weights: told when they change, not before it is up, and again without.
            ("557+", "UuUU"),
            ("-55", "DdU"),
            ("-575", "DdUU"),
            // What says nothing about the target counts neither way, and ends no row.
            ("?", "x"),
            ("?-?", "xDd"),
            ("+?????", "Uuuuuu"),
            ("+-?-?-", "UuuuuD"),
            ("-+?+", "DddU"),
            ("5?5", "Uuu"),
            // A failure that does not take it down leaves the weight.
            ("5-5", "Uuu"),
            ("5-+", "UuU"),
        ] {
            assert_eq!(story(results), verdicts, "{results}");
        }
    }

    #[test]
    fn why_nothing_is_known_yet_is_told_and_no_more() {
        let mut verdict = Verdict::unknown(at(0));
        verdict.apply(at(1), &outcome('?'), AT);
        assert_eq!((verdict.message.as_str(), verdict.since), ("no descriptors", at(0)));
        verdict.apply(at(2), &outcome('-'), AT);
        let before = verdict.clone();
        verdict.apply(at(3), &outcome('?'), AT);
        assert_eq!(verdict, before);
    }

    #[test]
    fn a_new_threshold_holds_from_the_next_result() {
        let mut verdict = Verdict::unknown(at(0));
        for letter in "+--".chars() {
            verdict.apply(at(1), &outcome(letter), AT);
        }
        let said = verdict.apply(at(2), &outcome('-'), Thresholds { rise: 1, fall: 2 }).unwrap();
        assert_eq!((said.to, said.message.as_str()), (Health::Down, "refused"));
        assert!(verdict.apply(at(3), &outcome('+'), Thresholds { rise: 1, fall: 2 }).is_some());
    }

    #[test]
    fn a_threshold_of_zero_is_one() {
        let zero = Thresholds { rise: 0, fall: 0 };
        let mut verdict = Verdict::unknown(at(0));
        verdict.apply(at(1), &outcome('+'), zero);
        assert!(verdict.apply(at(2), &outcome('+'), zero).is_none());
        assert!(verdict.apply(at(3), &outcome('-'), zero).is_some());
    }

    #[test]
    fn it_survives_being_written_down() {
        let mut verdict = Verdict::unknown(at(0));
        verdict.apply(at(1), &outcome('7'), AT);
        let text = serde_json::to_string(&verdict).unwrap();
        assert_eq!(serde_json::from_str::<Verdict>(&text).unwrap(), verdict);
    }
}
