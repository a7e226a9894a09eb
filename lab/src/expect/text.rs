//! What is true of a text.

use super::Finding;
use crate::scenario::expectation::TextExpectation;

/// Judges a text. `what` is what it is: "`ip addr` prints".
pub fn judge(what: &str, expected: &TextExpectation, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let whole = one_line(text);
    for words in &expected.contains {
        let good = whole.contains(&squeeze(words));
        findings.push(Finding::of(good, format!("{what} `{words}`"), excerpt(text)));
    }
    for words in &expected.contains_not {
        let words_squeezed = squeeze(words);
        let line = text.lines().find(|line| squeeze(line).contains(&words_squeezed));
        let good = !whole.contains(&words_squeezed);
        let seen = line.map_or_else(|| excerpt(text), |line| format!("`{}`", line.trim()));
        findings.push(Finding::of(good, format!("{what} nothing with `{words}`"), seen));
    }
    let mut rest = text.lines();
    for wanted in &expected.lines {
        let pattern = squeeze(wanted);
        let good = rest.by_ref().any(|line| matches(&pattern, &squeeze(line)));
        let finding = Finding::of(good, format!("{what} the line `{}`", wanted.trim()), excerpt(text));
        findings.push(finding);
        if !good {
            break;
        }
    }
    if let Some(all) = &expected.equals {
        let good = squeeze_lines(all) == squeeze_lines(text);
        findings.push(Finding::of(good, format!("{what} exactly `{}`", all.trim()), excerpt(text)));
    }
    findings
}

/// Spaces in a row as one, none at the ends.
pub(crate) fn squeeze(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn one_line(text: &str) -> String {
    squeeze(text)
}

fn squeeze_lines(text: &str) -> Vec<String> {
    text.trim().lines().map(squeeze).collect()
}

/// Whether `*` in the pattern can stand for something that makes it the text.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(place) => rest = &rest[place + part.len()..],
            None => return false,
        }
    }
    rest.len() >= last.len() && rest.ends_with(last)
}

/// The beginning of a text, for messages.
pub(crate) fn excerpt(text: &str) -> String {
    const MOST: usize = 600;
    let text = text.trim();
    if text.is_empty() {
        return "nothing".into();
    }
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Verdict, worst};
    use super::*;

    fn verdict(expected: &TextExpectation, text: &str) -> Verdict {
        worst(&judge("it prints", expected, text))
    }

    #[test]
    fn words_lines_and_the_whole() {
        let text = "IP Virtual Server\nTCP  192.16.193.30:80 rr\n  -> 172.16.193.10:80   Masq    1      0          0\n";
        let words =
            |words: &str| TextExpectation { contains: vec![words.into()], ..TextExpectation::default() };
        assert_eq!(verdict(&words("TCP 192.16.193.30:80 rr"), text), Verdict::Passed);
        assert_eq!(verdict(&words("wrr"), text), Verdict::Failed);
        let not =
            |words: &str| TextExpectation { contains_not: vec![words.into()], ..TextExpectation::default() };
        assert_eq!(verdict(&not("wrr"), text), Verdict::Passed);
        assert_eq!(verdict(&not("Masq 1"), text), Verdict::Failed);
        let lines = |lines: &[&str]| TextExpectation {
            lines: lines.iter().map(|line| (*line).to_owned()).collect(),
            ..TextExpectation::default()
        };
        assert_eq!(verdict(&lines(&["TCP * rr", "-> 172.16.193.10:80 Masq 1 * *"]), text), Verdict::Passed);
        assert_eq!(verdict(&lines(&["-> *", "TCP * rr"]), text), Verdict::Failed, "the order counts");
        assert_eq!(verdict(&lines(&["TCP * r"]), text), Verdict::Failed, "a line is a whole line");
        let all = |all: &str| TextExpectation { equals: Some(all.into()), ..TextExpectation::default() };
        assert_eq!(verdict(&all("1\n"), "1\n"), Verdict::Passed);
        assert_eq!(verdict(&all("1"), "11"), Verdict::Failed);
        assert_eq!(verdict(&TextExpectation::default(), "anything"), Verdict::Passed);
    }

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, text, wanted) in [
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            ("a*c", "acb", false),
            ("*", "", true),
            ("a", "a", true),
            ("a", "ab", false),
            ("*b*", "abc", true),
            ("ab*bc", "abc", false),
            ("a*b*c", "aXbYc", true),
        ] {
            assert_eq!(matches(pattern, text), wanted, "{pattern} {text}");
        }
    }
}
