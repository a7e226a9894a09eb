//! What is counted, and how it is shown.

use super::*;
use crate::expect::{Finding, GapKind};
use crate::run::{ConnectionsResult, Judged, LoadResult, StepResult};
use crate::scenario::load;

const TEXT: &str = "\
summary: Two directors.
topology:
  networks: [{name: lan}]
  nodes:
    - name: dir1
      links: [{network: lan, interface: enp0s3}]
      agent: {manifests: &manifests {front.yaml: \"# a comment\\nkind: VrrpGroup\\n\\nspec: {}\\n\"}}
    - name: dir2
      links: [{network: lan, interface: enp0s3}]
      agent: {manifests: *manifests}
steps:
  - name: dir1 is ready
    wait: {until: [{agentStatus: {node: dir1, values: {/ready: true}}}]}
  - name: what it cost
    wait: {for: 1s}
peers:
  keepalived:
    summary: The same in its own words.
    nodes:
      dir1: {peer: {keepalived: {config: \"! of dir1\\n# too\\nvrrp_instance a {\\n  priority 200\\n}\\n\"}}}
      dir2: {peer: {keepalived: {config: \"vrrp_instance a {\\n  priority 100\\n}\\n\"}}}
    steps:
      - {step: dir1 is ready, because: it says nothing about itself}
";

fn played(scenario: &Scenario, verdict: Verdict, milliseconds: u64) -> ScenarioResult {
    let mut result = ScenarioResult::new(scenario, 7);
    result.kernel = "6.1.0".into();
    result.verdict = verdict;
    if verdict != Verdict::Passed {
        result.reason = "step `what it cost`: wanted less | seen more\nand so on".into();
    }
    let length = std::time::Duration::from_millis(milliseconds);
    let gap = |kind, of| Finding::of(true, "short", "short").gap(kind, of, length);
    let findings = vec![
        gap(GapKind::Held, "192.16.193.30"),
        Finding::of(true, "short", "short").gap(GapKind::Held, "172.16.193.253", length / 2),
        gap(GapKind::Served, "pings"),
        Finding::of(true, "a number", "a number"),
    ];
    result.steps.push(StepResult {
        name: "what it cost".into(),
        action: "expect".into(),
        verdict: crate::expect::Verdict::Passed,
        at_seconds: 1.0,
        duration_seconds: 0.5,
        lateness_ms: 0.0,
        judged: vec![Judged { kind: "holders".into(), findings, after_seconds: None }],
    });
    let load = LoadResult {
        sent: 100,
        ok: 100 - milliseconds / 50,
        failed: milliseconds / 50,
        ..LoadResult::default()
    };
    result.loads.insert("pings".into(), load);
    result.connections.insert("held".into(), ConnectionsResult { opened: 12, lost: milliseconds / 500 });
    result
}

fn comparison() -> Comparison {
    let mut scenario = load("two.yaml", TEXT).unwrap_or_else(|problems| panic!("{}", problems[0]));
    scenario.name = "two".into();
    let plays = plays(&scenario);
    assert_eq!(plays.iter().map(|(with, _)| with.as_str()).collect::<Vec<_>>(), [OURS, "keepalived"]);
    assert_eq!(plays[1].1.name, "two-with-keepalived");
    let results = [played(&plays[0].1, Verdict::Passed, 361), played(&plays[1].1, Verdict::Failed, 3600)];
    Comparison::of(&scenario, &results)
}

#[test]
fn lines_that_a_person_writes_are_counted_once() {
    let comparison = comparison();
    assert_eq!(comparison.plays[0].configuration_lines, 2, "the same on both");
    assert_eq!(comparison.plays[1].configuration_lines, 6, "differ, and `!` begins a comment");
}

#[test]
fn the_tables_and_the_file() {
    let comparison = comparison();
    insta::assert_snapshot!("compare_text", text(std::slice::from_ref(&comparison)));
    insta::assert_snapshot!("compare_markdown", markdown(std::slice::from_ref(&comparison)));
    insta::assert_json_snapshot!("compare_json", comparison);
}

#[test]
fn who_played_nothing_has_no_figures() {
    let mut comparison = comparison();
    let play = &mut comparison.plays[1];
    *play = Play {
        verdict: Verdict::Unsupported,
        reason: "the program keepalived is not installed".into(),
        requests: Part::default(),
        connections: Part::default(),
        gaps: Vec::new(),
        ..play.clone()
    };
    let text = text(&[comparison]);
    assert!(text.contains("unsupported: the program keepalived is not installed"), "{text}");
    let line = text.lines().find(|line| line.contains("requests lost")).unwrap_or_default();
    assert!(line.ends_with('–'), "{text}");
}
