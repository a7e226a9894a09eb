//! Figures of an agent, in Prometheus' text format.

use super::Finding;
use crate::scenario::expectation::MetricExpectation;

/// Judges a figure of what `/metrics` said.
pub fn judge(expected: &MetricExpectation, text: &str) -> Finding {
    let wanted = format!("{} {}", expected.name, limits(expected));
    let seen = text.lines().find_map(|line| value(line, &expected.name));
    match seen {
        Some(seen) => Finding::of(admits(expected, seen), wanted, seen.to_string()),
        None => Finding::of(false, wanted, nearest(&expected.name, text)),
    }
}

/// The figure of a line that has this name with its labels.
pub(crate) fn value(line: &str, name: &str) -> Option<f64> {
    line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok()
}

fn admits(expected: &MetricExpectation, seen: f64) -> bool {
    // The figures are counts and settings, which are written as they are.
    expected.equals.is_none_or(|wanted| (seen - wanted).abs() <= f64::EPSILON * wanted.abs())
        && expected.at_least.is_none_or(|least| seen >= least)
        && expected.at_most.is_none_or(|most| seen <= most)
}

fn limits(expected: &MetricExpectation) -> String {
    let parts = [("=", expected.equals), ("≥", expected.at_least), ("≤", expected.at_most)];
    let parts = parts.into_iter().filter_map(|(sign, limit)| Some(format!("{sign} {}", limit?)));
    parts.collect::<Vec<_>>().join(" and ")
}

/// What is told instead: the same name with other labels.
fn nearest(name: &str, text: &str) -> String {
    let bare = name.split('{').next().unwrap_or(name);
    let same = |line: &&str| line.strip_prefix(bare).is_some_and(|rest| rest.starts_with(['{', ' ']));
    let others: Vec<&str> = text.lines().filter(same).take(5).collect();
    if others.is_empty() {
        format!("no figure `{bare}` is told")
    } else {
        format!("there is {}", others.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    const TEXT: &str = "# HELP state What it is.\n# TYPE state gauge\nstate{group=\"a\"} 2\nstate{group=\"b\"} 0.5\nloops 7\n";

    fn judged(name: &str, equals: Option<f64>, at_least: Option<f64>, at_most: Option<f64>) -> Finding {
        let expected =
            MetricExpectation { node: "dir1".into(), name: name.into(), equals, at_least, at_most };
        judge(&expected, TEXT)
    }

    #[test]
    fn a_figure_is_found_by_name_and_labels_and_held_to_its_limits() {
        let passes = |name, equals, least, most| judged(name, equals, least, most).verdict == Verdict::Passed;
        assert!(passes("state{group=\"a\"}", Some(2.0), None, None));
        assert!(passes("state{group=\"b\"}", None, Some(0.5), Some(0.5)));
        assert!(passes("loops", None, Some(7.0), None));
        assert!(!passes("loops", None, Some(8.0), None));
        assert!(!passes("loops", None, None, Some(6.0)));
        assert!(!passes("state{group=\"a\"}", Some(0.0), None, None));
    }

    #[test]
    fn what_is_not_told_is_not_there_and_others_are_shown() {
        let finding = judged("state{group=\"c\"}", Some(2.0), None, None);
        assert_eq!(finding.verdict, Verdict::Failed);
        assert_eq!(finding.wanted, "state{group=\"c\"} = 2");
        assert!(finding.seen.contains("state{group=\"a\"} 2; state{group=\"b\"} 0.5"), "{}", finding.seen);
        assert_eq!(judged("nothing", None, Some(1.0), None).seen, "no figure `nothing` is told");
    }
}
