//! Every manifest of tests/rules is accepted or refused as its name says. Every CEL rule refuses one at every place where it stands,
//! and lets one pass that has something there; every field is in one that is accepted.
//!
//! `KIND/NAME.accept.yaml` is accepted, `KIND/NAME.refuse.yaml` is refused, at the field path and with the words of its first
//! line: `# expect: PATH: WORDS`. Where a file has two documents, the second is judged as a change of the first.

use std::collections::BTreeSet;
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

/// Where something stands in the manifests of a kind, without the places in lists and the keys of maps: `spec.ports[].port`.
type Place = (Kind, String);

/// What the schemas have: each rule at the place where its violation is reported, the place where it stands itself, and every
/// field of a spec.
#[derive(Default)]
struct Declared {
    /// Where a violation is reported, its words, and where the rule stands.
    rules: BTreeSet<(Place, String, Place)>,
    fields: BTreeSet<Place>,
}

impl Declared {
    fn of_all_kinds() -> Declared {
        let mut declared = Declared::default();
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::EndpointSlice) {
            declared.collect(kind, &schema::schema(kind), "");
        }
        declared
    }

    fn collect(&mut self, kind: Kind, schema: &Value, path: &str) {
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            let message = rule["message"].as_str().expect("every rule has a message").to_owned();
            let at = format!("{path}{}", rule["fieldPath"].as_str().unwrap_or_default());
            self.rules.insert(((kind, at), message, (kind, path.to_owned())));
        }
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            let path = child(path, name);
            if path.starts_with("spec.") {
                self.fields.insert((kind, path.clone()));
            }
            self.collect(kind, inner, &path);
        }
        for inner in ["items", "additionalProperties"].iter().filter_map(|keyword| schema.get(keyword)) {
            self.collect(kind, inner, &format!("{path}[]"));
        }
    }
}

fn child(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// All places of a schema at which a value has something.
fn reached(kind: Kind, schema: &Value, value: &Value, path: String, places: &mut BTreeSet<Place>) {
    let below = format!("{path}[]");
    match value {
        Value::Object(map) => {
            for (name, inner) in map {
                if let Some(property) = schema["properties"].get(name) {
                    reached(kind, property, inner, child(&path, name), places);
                } else if let Some(others) = schema.get("additionalProperties") {
                    reached(kind, others, inner, below.clone(), places);
                }
            }
        }
        Value::Array(values) => {
            values.iter().for_each(|inner| reached(kind, &schema["items"], inner, below.clone(), places));
        }
        _ => {}
    }
    places.insert((kind, path));
}

/// `spec.ports[3].port` as `spec.ports[].port`.
fn without_indices(path: &str) -> String {
    let mut parts = path.split('[');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |path, part| path + "[]" + part.split_once(']').map_or("", |(_, rest)| rest))
}

/// A rule that refuses nothing, and one that would refuse everything, look the same until somebody meets them. So every rule, at
/// every place where it stands, refuses a manifest there and lets another one pass that has something there.
#[test]
fn every_rule_refuses_a_manifest_at_its_place_and_lets_another_pass() {
    let declared = Declared::of_all_kinds();
    let (mut told, mut accepted) = (BTreeSet::new(), BTreeSet::new());
    for case in cases().into_iter().filter(|case| case.kind != Kind::EndpointSlice) {
        match judge(&case) {
            Err(violations) => told.extend(
                violations.into_iter().map(|one| ((case.kind, without_indices(&one.path)), one.message)),
            ),
            Ok(_) => {
                // As it was written: a default is no manifest's merit.
                let written = case.documents.last().expect("a document");
                reached(case.kind, &schema::schema(case.kind), written, String::new(), &mut accepted);
            }
        }
    }
    assert!(declared.rules.len() > 200, "only {} rules", declared.rules.len());
    let mut missing = Vec::new();
    for (at, message, stands) in &declared.rules {
        if !told.contains(&(at.clone(), message.clone())) {
            missing.push(format!("{} {}: nothing is refused: {message}", at.0, at.1));
        }
        if !accepted.contains(stands) {
            missing.push(format!("{} {}: nothing is accepted that has it: {message}", stands.0, stands.1));
        }
    }
    for (kind, path) in declared.fields.difference(&accepted) {
        missing.push(format!("{kind} {path}: is in no accepted manifest"));
    }
    assert!(missing.is_empty(), "{} are missing in tests/rules:\n{}", missing.len(), missing.join("\n"));
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
