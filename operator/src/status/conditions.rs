//! Conditions: what they say, and since when.

use bascule_compile::{Condition as Judged, ConditionType};
use bascule_crds::common::{Condition, MAX_CONDITION_MESSAGE};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Longest reason of a condition, in characters.
const MAX_REASON: usize = 128;

/// Whether something is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    /// It is.
    True,
    /// It is not.
    False,
    /// Nobody says.
    Unknown,
}

impl Truth {
    /// As a condition has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Truth::True => "True",
            Truth::False => "False",
            Truth::Unknown => "Unknown",
        }
    }

    /// As a condition has it.
    pub fn of(status: &str) -> Truth {
        match status {
            "True" => Truth::True,
            "False" => Truth::False,
            _ => Truth::Unknown,
        }
    }
}

/// A condition without its times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What it is about.
    pub type_: &'static str,
    /// Whether it is so.
    pub truth: Truth,
    /// One word for why.
    pub reason: String,
    /// The same for people.
    pub message: String,
    /// It speaks of what was before: the agents have yet to speak of the object as it is now.
    pub earlier: bool,
}

impl Verdict {
    /// That, of the object as it is now.
    pub fn new(type_: &'static str, truth: Truth, reason: &str, message: impl Into<String>) -> Verdict {
        Verdict { type_, truth, reason: reason.to_owned(), message: message.into(), earlier: false }
    }

    /// What compiling says.
    pub fn judged(judged: &Judged) -> Verdict {
        let type_ = match judged.type_ {
            ConditionType::Accepted => "Accepted",
            ConditionType::ResolvedRefs => "ResolvedRefs",
        };
        let truth = if judged.status { Truth::True } else { Truth::False };
        Verdict::new(type_, truth, &format!("{:?}", judged.reason), judged.message.clone())
    }
}

/// The verdicts as conditions: their times are those of before where the status is the one of before.
pub(super) fn conditions(
    verdicts: Vec<Verdict>,
    generation: Option<i64>,
    before: &[Condition],
    now: &Time,
) -> Vec<Condition> {
    let condition = |verdict: Verdict| {
        let was = before.iter().find(|one| one.type_ == verdict.type_);
        let status = verdict.truth.as_str();
        let since = was.filter(|was| was.status == status).map(|was| was.last_transition_time.clone());
        let observed_generation = match was {
            // A generation less than any, where nothing has been said before.
            _ if !verdict.earlier => generation,
            Some(was) => was.observed_generation,
            None => Some(0),
        };
        Condition {
            type_: verdict.type_.to_owned(),
            status: status.to_owned(),
            reason: shortened(verdict.reason, MAX_REASON),
            message: shortened(verdict.message, MAX_CONDITION_MESSAGE),
            observed_generation,
            last_transition_time: since.unwrap_or_else(|| now.clone()),
        }
    };
    verdicts.into_iter().map(condition).collect()
}

/// As much as fits.
fn shortened(mut text: String, most: usize) -> String {
    if let Some((at, _)) = text.char_indices().nth(most) {
        // Room for the sign that there was more.
        let end = text.char_indices().nth(most - 1).map_or(at, |(at, _)| at);
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(seconds: i64) -> Time {
        Time(k8s_openapi::jiff::Timestamp::from_second(seconds).unwrap())
    }

    #[test]
    fn times_change_with_the_status_only() {
        let verdict = |truth, message: &str| vec![Verdict::new("Ready", truth, "R", message)];
        let first = conditions(verdict(Truth::True, ""), Some(1), &[], &time(1));
        let other_words = conditions(verdict(Truth::True, "hm"), Some(2), &first, &time(2));
        assert_eq!(
            (other_words[0].last_transition_time.clone(), other_words[0].observed_generation),
            (time(1), Some(2))
        );
        let turned = conditions(verdict(Truth::False, "hm"), Some(2), &other_words, &time(3));
        assert_eq!(turned[0].last_transition_time, time(3));
    }

    #[test]
    fn what_is_said_of_before_keeps_its_generation() {
        let earlier = |truth| vec![Verdict { earlier: true, ..Verdict::new("Ready", truth, "R", "") }];
        assert_eq!(conditions(earlier(Truth::True), Some(2), &[], &time(1))[0].observed_generation, Some(0));
        let now = conditions(vec![Verdict::new("Ready", Truth::True, "R", "")], Some(2), &[], &time(1));
        assert_eq!(conditions(earlier(Truth::True), Some(3), &now, &time(1))[0].observed_generation, Some(2));
    }

    #[test]
    fn texts_are_bounded() {
        for (length, told) in [(3, 3), (1024, 1024), (1025, 1024), (5000, 1024)] {
            let verdict = Verdict::new("Ready", Truth::False, "R", "é".repeat(length));
            let message = &conditions(vec![verdict], None, &[], &time(0))[0].message;
            assert_eq!(message.chars().count(), told);
            assert_eq!(message.ends_with('…'), length > 1024);
        }
    }
}
