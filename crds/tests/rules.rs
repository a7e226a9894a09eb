//! Every manifest of tests/rules is accepted or refused as its name says, and every CEL rule of every kind refuses one.
//!
//! `KIND/NAME.accept.yaml` is accepted, `KIND/NAME.refuse.yaml` is refused, at the field path and with the words of its first
//! line: `# expect: PATH: WORDS`. Where a file has two documents, the second is judged as a change of the first.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bascule_crds::manifest;
use bascule_crds::object::Kind;
use bascule_crds::schema;
use bascule_crds::validate::{self, Violation};
use serde_json::Value;

struct Case {
    path: PathBuf,
    kind: Kind,
    /// What is refused, and with which words; none for what is accepted.
    expect: Option<(String, String)>,
    documents: Vec<Value>,
}

fn cases() -> Vec<Case> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rules");
    let mut cases = Vec::new();
    for folder in std::fs::read_dir(&root).expect("the folder of the rules") {
        let folder = folder.expect("a folder").path();
        let name = folder.file_name().and_then(|name| name.to_str()).expect("the name of a kind").to_owned();
        let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == name).expect("a kind");
        for path in std::fs::read_dir(&folder).expect("a folder").map(|file| file.expect("a file").path()) {
            let text = std::fs::read_to_string(&path).expect("a readable file");
            let documents =
                manifest::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let expect = if path.to_string_lossy().ends_with(".refuse.yaml") {
                let line = text.lines().next().and_then(|line| line.strip_prefix("# expect: "));
                let line =
                    line.unwrap_or_else(|| panic!("{}: no `# expect: ` in the first line", path.display()));
                let (at, words) = line.split_once(": ").expect("a path and words");
                Some((at.to_owned(), words.to_owned()))
            } else {
                assert!(path.to_string_lossy().ends_with(".accept.yaml"), "{}", path.display());
                None
            };
            let documents = documents.into_iter().map(|document| document.value).collect();
            cases.push(Case { path, kind, expect, documents });
        }
    }
    cases.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(cases.len() > 400, "only {} manifests", cases.len());
    cases
}

fn judge(case: &Case) -> Result<Value, Vec<Violation>> {
    match case.documents.as_slice() {
        [one] => validate::judge_update(case.kind, one, None),
        [old, new] => {
            let old = validate::judge_update(case.kind, old, None)
                .unwrap_or_else(|violations| panic!("{}: the first: {violations:?}", case.path.display()));
            validate::judge_update(case.kind, new, Some(&old))
        }
        more => panic!("{}: {} documents", case.path.display(), more.len()),
    }
}

#[test]
fn every_manifest_is_judged_as_its_name_says() {
    let mut wrong = Vec::new();
    for case in cases() {
        let path = case.path.display();
        match (judge(&case), &case.expect) {
            (Ok(_), None) => {
                // What the schema accepts, the types can hold; for the kinds that users write.
                let last = case.documents.last().expect("a document");
                if case.kind.is_written_by_users()
                    && let Err(violations) = validate::judge(last)
                {
                    wrong.push(format!("{path}: cannot be decoded: {violations:?}"));
                }
            }
            (Err(violations), Some((at, words))) => {
                if !violations.iter().any(|one| one.path == *at && one.message.contains(words)) {
                    wrong.push(format!("{path}: refused otherwise: {violations:?}"));
                }
            }
            (Ok(_), Some(_)) => wrong.push(format!("{path}: accepted")),
            (Err(violations), None) => wrong.push(format!("{path}: refused: {violations:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_rule_refuses_a_manifest_and_every_kind_accepts_some() {
    let mut told: BTreeMap<Kind, BTreeSet<String>> = BTreeMap::new();
    let mut accepted: BTreeSet<Kind> = BTreeSet::new();
    for case in cases() {
        match judge(&case) {
            Err(violations) => {
                told.entry(case.kind).or_default().extend(violations.into_iter().map(|one| one.message));
            }
            Ok(_) => {
                accepted.insert(case.kind);
            }
        }
    }
    let mut silent = Vec::new();
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::EndpointSlice) {
        assert!(accepted.contains(&kind), "no {kind} is accepted");
        let mut messages = BTreeSet::new();
        collect(&schema::schema(kind), &mut messages);
        let told = told.get(&kind).cloned().unwrap_or_default();
        silent.extend(messages.difference(&told).map(|message| format!("{kind}: {message}")));
    }
    assert!(silent.is_empty(), "rules that refuse nothing in tests/rules:\n{}", silent.join("\n"));
}

fn collect(schema: &Value, messages: &mut BTreeSet<String>) {
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        messages.insert(rule["message"].as_str().expect("every rule has a message").to_owned());
    }
    for inner in schema["properties"].as_object().into_iter().flat_map(|properties| properties.values()) {
        collect(inner, messages);
    }
    for inner in ["items", "additionalProperties"].iter().filter_map(|keyword| schema.get(keyword)) {
        collect(inner, messages);
    }
}

/// In one schema two rules with one message could not be told apart in what a person reads, nor here.
#[test]
fn no_two_rules_of_a_place_say_the_same() {
    fn walk(schema: &Value, path: &str) {
        let rules = schema["x-kubernetes-validations"].as_array();
        let messages: Vec<_> = rules.into_iter().flatten().map(|rule| rule["message"].to_string()).collect();
        let distinct: BTreeSet<_> = messages.iter().collect();
        assert_eq!(messages.len(), distinct.len(), "{path}");
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            walk(inner, &format!("{path}.{name}"));
        }
        for inner in ["items", "additionalProperties"].iter().filter_map(|keyword| schema.get(keyword)) {
            walk(inner, &format!("{path}[]"));
        }
    }
    for kind in Kind::ALL {
        walk(&schema::schema(kind), kind.as_str());
    }
}
