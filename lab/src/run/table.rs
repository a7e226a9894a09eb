//! What a person reads at the end of a run.

use std::fmt::Write as _;

use super::result::{CoreDump, ScenarioResult, Summary, Verdict};
use super::timeline::Timeline;
use crate::expect;

/// Rows whose columns stand below each other.
fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::from(" ");
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, " {cell:<width$} ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn seconds(value: f64) -> String {
    format!("{value:.3} s")
}

/// The table of one scenario.
pub(super) fn scenario(result: &ScenarioResult, timeline: &Timeline) -> String {
    let mut text = format!(
        "\n{}: {} in {:.1} s ({:.1} s to build), kernel {}, seed {}\n",
        result.name,
        result.verdict.name(),
        result.duration_seconds,
        result.setup_seconds,
        result.kernel,
        result.seed
    );
    let mut rows = vec![["step", "", "began", "took", "machine late"].map(String::from).to_vec()];
    for step in &result.steps {
        let verdict = match step.verdict {
            expect::Verdict::Passed => "ok",
            expect::Verdict::Undecided => "undecided",
            expect::Verdict::Failed => "FAILED",
        };
        rows.push(vec![
            step.name.clone(),
            verdict.into(),
            seconds(step.at_seconds),
            seconds(step.duration_seconds),
            format!("{:.1} ms", step.lateness_ms),
        ]);
    }
    text.push_str(&columns(&rows));
    if !result.loads.is_empty() {
        let mut rows = vec![
            ["requests", "from", "to", "sent", "ok", "failed", "answered by"].map(String::from).to_vec(),
        ];
        for (name, load) in &result.loads {
            let by: Vec<String> =
                load.answerers.iter().map(|(name, count)| format!("{name} {count}")).collect();
            rows.push(vec![
                name.clone(),
                load.from.clone(),
                load.target.clone(),
                load.sent.to_string(),
                load.ok.to_string(),
                load.failed.to_string(),
                by.join(", "),
            ]);
        }
        text.push('\n');
        text.push_str(&columns(&rows));
    }
    text.push_str(&events(timeline));
    text.push_str(&measured(result));
    for line in result.core_dumps.iter().flat_map(CoreDump::lines) {
        text.push_str(&format!("\n  {line}"));
    }
    if !result.core_dumps.is_empty() {
        text.push('\n');
    }
    text.push_str(&why(result));
    text
}

/// What a row says of an event; none: nothing.
type Words<'a> = dyn Fn(&serde_json::Map<String, serde_json::Value>) -> Option<Vec<String>> + 'a;

/// Faults, heals, and addresses that came and went.
fn events(timeline: &Timeline) -> String {
    let mut rows: Vec<(f64, Vec<String>)> = Vec::new();
    let mut take = |kind: &str, words: &Words<'_>| {
        for event in timeline.of(kind) {
            let at = event.get("t").and_then(serde_json::Value::as_f64).unwrap_or(0.0);
            if let Some(words) = words(&event) {
                rows.push((at, std::iter::once(seconds(at)).chain(words).collect()));
            }
        }
    };
    let word = |event: &serde_json::Map<String, serde_json::Value>, name: &str| {
        event.get(name).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
    };
    take("fault", &|event| Some(vec!["fault".into(), word(event, "fault"), word(event, "proof")]));
    take("heal", &|event| Some(vec!["heal".into(), word(event, "fault"), word(event, "proof")]));
    take("agentStarted", &|event| Some(vec!["agent".into(), word(event, "node"), "started again".into()]));
    take("address", &|event| {
        // What every node has of itself, and what was there when the scenario began, is in timeline.jsonl.
        let before = event.get("t").and_then(serde_json::Value::as_f64).is_none_or(|t| t < 0.0);
        if before
            || word(event, "interface") == "lo" && word(event, "address").starts_with(['1', ':'])
            || word(event, "address").starts_with("fe80:")
        {
            return None;
        }
        let what = format!("{} {} {}", word(event, "node"), word(event, "interface"), word(event, "address"));
        Some(vec!["address".into(), what, word(event, "change")])
    });
    if rows.is_empty() {
        return String::new();
    }
    rows.sort_by(|a, b| a.0.total_cmp(&b.0));
    let hidden = rows.len().saturating_sub(60);
    let rows: Vec<Vec<String>> = rows.into_iter().take(60).map(|(_, row)| row).collect();
    let mut text = format!("\n{}", columns(&rows));
    if hidden > 0 {
        let _ = writeln!(text, "  … and {hidden} more, in timeline.jsonl");
    }
    text
}

/// After how long things came true.
fn measured(result: &ScenarioResult) -> String {
    let mut rows = Vec::new();
    for step in &result.steps {
        for judged in step.judged.iter().filter(|judged| judged.after_seconds.is_some()) {
            if step.action == "expect"
                && let Some(finding) = judged.findings.first()
            {
                rows.push(vec![
                    step.name.clone(),
                    finding.wanted.clone(),
                    finding.seen.lines().next().unwrap_or_default().to_owned(),
                ]);
            }
        }
    }
    if rows.is_empty() { String::new() } else { format!("\n{}", columns(&rows)) }
}

fn why(result: &ScenarioResult) -> String {
    if result.verdict == Verdict::Passed {
        return String::new();
    }
    let mut text = format!("\n  {}: {}\n", result.verdict.name(), result.reason);
    for step in &result.steps {
        for finding in step.judged.iter().flat_map(|judged| &judged.findings) {
            if finding.verdict == expect::Verdict::Passed {
                continue;
            }
            let _ = writeln!(text, "    step:   {}", step.name);
            let _ = writeln!(text, "    wanted: {}", indented(&finding.wanted));
            let _ = writeln!(text, "    seen:   {}", indented(&finding.seen));
            if let Some(at) = finding.at_seconds {
                let _ = writeln!(text, "    at:     {}", seconds(at));
            }
        }
    }
    for (what, lines) in [("log lines", &result.nearest_log_lines), ("frames", &result.nearest_frames)] {
        if !lines.is_empty() {
            let _ = writeln!(text, "    nearest {what}:");
        }
        for line in lines {
            let _ = writeln!(text, "      {line}");
        }
    }
    text
}

fn indented(text: &str) -> String {
    text.trim_end().replace('\n', "\n            ")
}

/// One line a scenario; what has not passed comes last, where a log that was cut short still has it.
pub(super) fn all(summary: &Summary) -> String {
    let mut results: Vec<&ScenarioResult> = summary.results.iter().collect();
    results.sort_by_key(|result| result.verdict != Verdict::Passed);
    let mut rows = Vec::new();
    for result in results {
        let verdict = match result.attempts {
            0 | 1 => result.verdict.name().to_owned(),
            attempts => format!("{} ({attempts} plays)", result.verdict.name()),
        };
        rows.push(vec![
            result.name.clone(),
            verdict,
            format!("{:.1} s", result.setup_seconds + result.duration_seconds),
            result.reason.lines().next().unwrap_or_default().to_owned(),
        ]);
    }
    format!("\n{}", columns(&rows))
}

#[cfg(test)]
mod tests {
    use super::super::result::{Judged, StepResult, example};
    use super::*;

    #[test]
    fn what_has_not_passed_comes_last() {
        let mut again = example("b", Verdict::Passed);
        again.attempts = 2;
        let results = vec![example("a", Verdict::Failed), again, example("c", Verdict::Passed)];
        let text = all(&Summary { results });
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        assert!(lines[0].starts_with("b  passed (2 plays)"), "{text}");
        assert!(lines[1].starts_with("c  passed"), "{text}");
        assert!(lines[2].starts_with("a  failed") && lines[2].contains("wanted 10 ok, seen 9"), "{text}");
    }

    #[test]
    fn a_failure_says_what_was_wanted_and_seen_and_when() {
        let mut result = example("tp-ipvs", Verdict::Failed);
        result.steps.push(StepResult {
            name: "all came".into(),
            action: "expect".into(),
            verdict: expect::Verdict::Failed,
            at_seconds: 1.0,
            duration_seconds: 0.25,
            lateness_ms: 0.5,
            judged: vec![Judged {
                kind: "requests".into(),
                findings: vec![expect::Finding {
                    verdict: expect::Verdict::Failed,
                    wanted: "exactly 10 ok".into(),
                    seen: "9 ok\n1 failed".into(),
                    at: Some(2_000_000_000),
                    at_seconds: Some(1.5),
                    gap: None,
                }],
                after_seconds: None,
            }],
        });
        result.loads.insert(
            "pages".into(),
            super::super::result::LoadResult {
                from: "ClientA".into(),
                target: "http://192.16.193.30/".into(),
                sent: 10,
                ok: 9,
                failed: 1,
                answerers: [("SRV1".into(), 5), ("SRV2".into(), 4)].into(),
                late_max_ms: 0.0,
            },
        );
        result.nearest_log_lines = vec!["Load-Balancer/agent: a line".into()];
        let timeline = Timeline::new(0);
        timeline.put(1, "fault", serde_json::json!({"fault": "crash SRV2", "proof": "gone"}));
        insta::assert_snapshot!(scenario(&result, &timeline));
    }
}
