//! Alerts and dashboard speak of figures that the programs export.

use std::collections::BTreeSet;
use std::fs;

use bascule_tests::chart::{self, CHART};

/// The snapshots in which the programs' tests hold what they export.
const EXPORTED: [&str; 2] = [
    "agent/src/http/snapshots/bascule_agent__http__metrics__tests__the_names_and_labels_are_an_interface.snap",
    "operator/src/http/snapshots/bascule_operator__http__tests__the_names_of_the_figures_are_an_interface.snap",
];
/// Exported with `--kubeconfig` alone, which the snapshot does not show: agent/src/http/api.rs.
const OF_THE_API: &str = "agent/src/http/api.rs";

/// Every name as Prometheus has it, with the suffixes of counters, histograms and infos.
fn exported() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut add = |name: &str, kind: &str| {
        let suffixes: &[&str] = match kind {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_sum", "_count"],
            "info" => &["_info"],
            "gauge" => &[""],
            other => panic!("{name} is a {other}"),
        };
        names.extend(suffixes.iter().map(|suffix| format!("{name}{suffix}")));
    };
    for path in EXPORTED {
        let text = fs::read_to_string(chart::root().join(path)).expect(path);
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let mut seen = 0;
        for line in types {
            let (name, kind) = line.split_once(' ').expect("a name and a kind");
            add(name, kind);
            seen += 1;
        }
        assert!(seen > 10, "{path} shows {seen} figures");
    }
    let api = fs::read_to_string(chart::root().join(OF_THE_API)).expect(OF_THE_API);
    for (name, kind) in
        [("api_connected", "gauge"), ("api_last_heard_seconds", "gauge"), ("api_statuses_failed", "counter")]
    {
        assert!(api.contains(&format!("\"{name}\"")), "{OF_THE_API} has no {name}");
        add(&format!("bascule_{name}"), kind);
    }
    names
}

/// The names of ours in a text: `bascule_` and what follows, but for the chart's own words.
fn named(text: &str) -> BTreeSet<String> {
    let word = |character: char| character.is_ascii_alphanumeric() || character == '_';
    text.split(|character| !word(character))
        .filter(|word| word.starts_with("bascule_"))
        .map(ToOwned::to_owned)
        .collect()
}

#[test]
fn alerts_and_dashboard_speak_of_figures_that_there_are() {
    let exported = exported();
    for path in ["files/alerts.yaml", "files/dashboard.json"] {
        let text = fs::read_to_string(chart::root().join(CHART).join(path)).expect(path);
        let named = named(&text);
        assert!(named.len() >= 10, "{path} names {} figures", named.len());
        let unknown: Vec<_> = named.difference(&exported).collect();
        assert!(unknown.is_empty(), "{path} speaks of what nobody exports: {unknown:?}");
    }
}

#[test]
fn each_alert_says_what_to_do() {
    let rules = chart::documents(&format!("{CHART}/files/alerts.yaml")).expect("YAML").remove(0);
    let rules = rules["groups"][0]["rules"].as_array().expect("rules").clone();
    let mut names = BTreeSet::new();
    for rule in &rules {
        let name = rule["alert"].as_str().expect("a name");
        assert!(names.insert(name.to_owned()), "{name} twice");
        for field in ["/expr", "/for", "/labels/severity", "/annotations/summary", "/annotations/description"]
        {
            let text = rule.pointer(field).and_then(|value| value.as_str()).unwrap_or_default();
            assert!(!text.is_empty(), "{name} has no {field}");
            for (open, close) in [('(', ')'), ('{', '}')] {
                let count = |character| text.matches(character).count();
                assert_eq!(count(open), count(close), "{name} {field}: {text}");
            }
        }
    }
    for wanted in [
        "NoActiveDirector",
        "TwoActiveDirectors",
        "RedundancyLost",
        "RealServerDown",
        "DriftRepeated",
        "ReconcileStuck",
    ] {
        assert!(names.contains(&format!("Bascule{wanted}")), "no alert Bascule{wanted}");
    }
}
