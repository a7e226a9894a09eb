//! Every manifest of `crds/tests/rules` gets one verdict from kubectl and in-process: accepted by both, or refused at the same
//! field paths, and where a CEL rule refuses it, with the rule's words.
//!
//! A file with two documents is a change: the first is stored, the second is to replace it.

mod answer;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bascule_crds::validate::{self, Violation};
use bascule_crds::{Kind, manifest, schema};
use bascule_tests::api_server::ApiServer;
use serde_json::Value;

use crate::Findings;
use answer::Answer;

/// kubectl mostly waits for the server; so many keep both cores busy.
const AT_ONCE: usize = 4;

/// The server says so of a rule that came to nothing, because the value is not of the shape that the rule was written for; what
/// is wrong with the shape is said besides.
const FAILED: &str = " evaluating rule: ";
/// So many accepted manifests go into one call of kubectl.
const TOGETHER: usize = 40;

struct Case {
    path: PathBuf,
    text: String,
    kind: Kind,
    documents: Vec<Value>,
}

impl Case {
    /// The path below the folder of all manifests.
    fn name(&self) -> String {
        let root = crate::crds().join("tests/rules");
        self.path.strip_prefix(&root).unwrap_or(&self.path).display().to_string()
    }
}

pub(crate) fn run(server: &ApiServer) -> Findings {
    let cases = cases();
    let rules = rules();
    // Those that are to be accepted go together; who is not is asked about alone.
    let (accepted, refused): (Vec<_>, Vec<_>) =
        cases.iter().partition(|case| case.name().ends_with(".accept.yaml") && case.documents.len() == 1);
    let groups: Vec<&[&Case]> = accepted.chunks(TOGETHER).chain(refused.chunks(1)).collect();
    let next = AtomicUsize::new(0);
    let findings = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(group) = groups.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let all_accepted = group.len() > 1 && all_accepted(server, group);
                    for case in *group {
                        let theirs = if all_accepted { Ok(Answer::Accepted) } else { ask(server, case) };
                        let theirs = theirs.unwrap_or_else(|error| Answer::Unclear(format!("{error:#}")));
                        for finding in compare(&theirs, &judge(case), &rules) {
                            findings.lock().expect("no panic").push(format!("{}: {finding}", case.name()));
                        }
                    }
                }
            });
        }
    });
    println!("  {} manifests", cases.len());
    let mut findings = findings.into_inner().expect("no panic");
    findings.sort();
    findings
}

/// Whether kubectl finds nothing wrong with any of them.
fn all_accepted(server: &ApiServer, group: &[&Case]) -> bool {
    let mut command = server.kubectl();
    command.args(["create", "--validate=strict", "--dry-run=server"]);
    for case in group {
        command.arg("-f").arg(&case.path);
    }
    command.output().is_ok_and(|output| output.status.success() && output.stderr.is_empty())
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let entries = |path: &Path| -> Vec<PathBuf> {
        let mut paths: Vec<_> =
            fs::read_dir(path).expect("a folder").map(|e| e.expect("an entry").path()).collect();
        paths.sort();
        paths
    };
    for folder in entries(&crate::crds().join("tests/rules")) {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let kind =
            Kind::ALL.into_iter().find(|kind| kind.as_str() == name).expect("a folder is called like a kind");
        for path in entries(&folder) {
            let text = fs::read_to_string(&path).expect("a manifest");
            let documents =
                manifest::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let documents = documents.into_iter().map(|document| document.value).collect();
            cases.push(Case { path, text, kind, documents });
        }
    }
    assert!(cases.len() > 400, "only {} manifests", cases.len());
    cases
}

/// The words of all CEL rules.
fn rules() -> BTreeSet<String> {
    fn walk(value: &Value, words: &mut BTreeSet<String>) {
        for rule in value["x-kubernetes-validations"].as_array().into_iter().flatten() {
            words.extend(rule["message"].as_str().map(ToOwned::to_owned));
        }
        match value {
            Value::Object(map) => map.values().for_each(|inner| walk(inner, words)),
            Value::Array(list) => list.iter().for_each(|inner| walk(inner, words)),
            _ => {}
        }
    }
    let mut words = BTreeSet::new();
    for kind in Kind::ALL {
        walk(&schema::schema(kind), &mut words);
    }
    words
}

fn judge(case: &Case) -> Vec<Violation> {
    let verdict = match case.documents.as_slice() {
        [one] => validate::judge_update(case.kind, one, None),
        [old, new] => match validate::judge_update(case.kind, old, None) {
            Ok(old) => validate::judge_update(case.kind, new, Some(&old)),
            refused => refused,
        },
        more => panic!("{}: {} documents", case.path.display(), more.len()),
    };
    verdict.err().unwrap_or_default()
}

fn ask(server: &ApiServer, case: &Case) -> anyhow::Result<Answer> {
    let kubectl = |verb: &str, text: &str, more: &[&str]| -> anyhow::Result<Answer> {
        let name = case.path.file_name().unwrap_or_default().to_string_lossy();
        let file = server.dir().join(format!("{verb}-{}-{name}", case.kind));
        fs::write(&file, text)?;
        let output =
            server.kubectl().args([verb, "--validate=strict"]).args(more).arg("-f").arg(&file).output()?;
        Ok(Answer::read(output.status.success(), &String::from_utf8_lossy(&output.stderr)))
    };
    let Some((old, new)) = case.text.split_once("\n---\n").filter(|_| case.documents.len() == 2) else {
        return kubectl("create", &case.text, &["--dry-run=server"]);
    };
    match kubectl("create", old, &[])? {
        Answer::Accepted => kubectl("replace", new, &["--dry-run=server"]),
        refused => Ok(refused),
    }
}

/// What the two do not agree on.
fn compare(theirs: &Answer, ours: &[Violation], rules: &BTreeSet<String>) -> Findings {
    let paths = |list: &mut dyn Iterator<Item = &String>| list.cloned().collect::<BTreeSet<_>>();
    let our_paths = paths(&mut ours.iter().map(|violation| &violation.path));
    match theirs {
        Answer::Unclear(words) => vec![format!("kubectl says what is not understood here: {words}")],
        Answer::Accepted if ours.is_empty() => Vec::new(),
        Answer::Accepted => vec![format!("accepted by the server, refused in-process: {ours:?}")],
        _ if ours.is_empty() => vec![format!("accepted in-process, refused by the server: {theirs:?}")],
        // Told before anything else is looked at.
        Answer::Unknown(fields) => fields
            .iter()
            .filter(|field| !our_paths.contains(*field))
            .map(|field| format!("unknown field {field} is not told in-process: {ours:?}"))
            .collect(),
        Answer::Invalid(causes) => {
            let mut findings = Vec::new();
            let their_paths = paths(&mut causes.iter().map(|(path, _)| path));
            if their_paths != our_paths {
                findings.push(format!(
                    "at {their_paths:?} for the server ({causes:?}), at {our_paths:?} in-process ({ours:?})"
                ));
            }
            let is_rule = |words: &str, rule: &str| words.ends_with(rule) && !words.contains(FAILED);
            let told = |path: &str, message: &str| {
                causes.iter().any(|(at, words)| at == path && is_rule(words, message))
            };
            for violation in ours.iter().filter(|violation| rules.contains(&violation.message)) {
                if !told(&violation.path, &violation.message) {
                    findings.push(format!(
                        "a rule refuses it in-process only: {violation}; the server: {causes:?}"
                    ));
                }
            }
            for (path, words) in causes {
                let rule = rules.iter().filter(|rule| is_rule(words, rule)).max_by_key(|rule| rule.len());
                if let Some(rule) = rule
                    && !ours.iter().any(|violation| violation.path == *path && violation.message == *rule)
                {
                    findings.push(format!(
                        "a rule refuses it on the server only: {path}: {words}; in-process: {ours:?}"
                    ));
                }
            }
            findings
        }
    }
}
