//! One file's bytes, judged: which objects it holds, and what is wrong with it. Pure.

use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};

use bascule_crds::manifest::{self, Document as Parsed};
use bascule_crds::validate::{self, Judged};
use bascule_crds::{Kind, Object, ObjectRef};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::catalog::{Document, Examined, Form, Known};
use super::problem::Problem;

/// How many errors of documents that do not say which object they are, of one file, are told.
const MAX_NAMELESS: usize = 100;

/// Examines a file. `path` is how messages name it.
pub fn examine(path: &str, bytes: &[u8], known: &Known) -> Examined {
    let failed = |line, reason: &str, message| {
        Examined::Failed(Problem {
            file: path.to_owned(),
            line,
            reason: reason.to_owned(),
            message,
            ..Problem::default()
        })
    };
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let good = &bytes[..error.valid_up_to()];
            let line = 1 + bytecount(good);
            return failed(
                Some(line),
                "Unreadable",
                format!(
                    "is not text: the byte 0x{:02x} is not valid UTF-8; manifests are YAML or JSON",
                    bytes[good.len()]
                ),
            );
        }
    };
    let documents = match manifest::parse(text) {
        Ok(documents) => documents,
        Err(error) => {
            return failed(Some(error.line), "Unparsable", error.message);
        }
    };
    let mut found = Vec::with_capacity(documents.len());
    let mut nameless = Vec::new();
    for document in documents.into_iter().filter(|document| !document.value.is_null()) {
        match identity(&document.value) {
            Some(reference) => found.push(judge(path, document, reference, known)),
            None if nameless.len() < MAX_NAMELESS => nameless.extend(nameless_problems(path, &document)),
            None => {}
        }
    }
    Examined::Parsed { documents: found, nameless }
}

fn bytecount(bytes: &[u8]) -> usize {
    bytes.split(|byte| *byte == b'\n').count() - 1
}

/// Which object a document is, as far as it says so.
pub fn identity(value: &Value) -> Option<ObjectRef> {
    let kind = kind_of(value)?;
    let metadata = value.get("metadata")?;
    let name = metadata.get("name")?.as_str().filter(|name| !name.is_empty())?;
    // As the API server has it, an empty one is none.
    let namespace = metadata.get("namespace").and_then(Value::as_str).filter(|name| !name.is_empty());
    let namespace = kind.is_namespaced().then(|| namespace.unwrap_or("default").to_owned());
    Some(ObjectRef { kind, namespace, name: name.to_owned() })
}

/// The kind of a document, if it is one that users write.
fn kind_of(value: &Value) -> Option<Kind> {
    let (version, kind) = (value.get("apiVersion")?.as_str()?, value.get("kind")?.as_str()?);
    let named =
        |one: &&Kind| one.as_str() == kind && one.api_version() == version && one.is_written_by_users();
    Kind::ALL.iter().find(named).copied()
}

fn judge(path: &str, mut document: Parsed, reference: ObjectRef, known: &Known) -> Document {
    let source = hash(&document.value);
    let line = document.line;
    if let Some(json) = known.documents.get(&source) {
        return Document { reference, line, source, form: Form::Good { json: json.clone(), object: None } };
    }
    let value = std::mem::take(&mut document.value);
    let problem = |field: String, reason: String, message: String| Problem {
        file: path.to_owned(),
        line: Some(document.line_of(&field)),
        object: Some(reference.to_string()),
        field: Some(field),
        reason,
        message,
        ..Problem::default()
    };
    // What it was before, if that was good.
    let before = known.objects.get(&reference).and_then(|json| serde_json::from_str(json).ok());
    let form = match validate::judge_beside(value, before.as_ref()) {
        Err(violations) => Form::Bad(
            violations.into_iter().map(|one| problem(one.path, "Invalid".into(), one.message)).collect(),
        ),
        Ok(Judged { object, value }) => {
            let problems = bascule_compile::problems_of(&object);
            // What is wrong with an object that is in force all the same is told by compile.
            if problems.is_empty() || !bascule_compile::is_refused_whole(reference.kind) {
                Form::Good { json: canonical(&value), object: Some(Box::new(object)) }
            } else {
                let problems = problems.into_iter();
                Form::Bad(
                    problems
                        .map(|one| problem(one.field, format!("{:?}", one.reason), one.message))
                        .collect(),
                )
            }
        }
    };
    Document { reference, line, source, form }
}

/// What is wrong with a document of which we cannot tell which object it is.
fn nameless_problems(path: &str, document: &Parsed) -> Vec<Problem> {
    let violations = match validate::judge(&document.value) {
        Err(violations) => violations,
        Ok(_) => Vec::new(),
    };
    let mut problems: Vec<_> = violations
        .into_iter()
        .map(|one| Problem {
            file: path.to_owned(),
            line: Some(document.line_of(&one.path)),
            field: Some(one.path),
            reason: "Invalid".into(),
            message: one.message,
            ..Problem::default()
        })
        .collect();
    if problems.is_empty() {
        problems.push(Problem {
            file: path.to_owned(),
            line: Some(document.line),
            reason: "Invalid".into(),
            message: "does not say which object it is: apiVersion, kind and metadata.name are needed".into(),
            ..Problem::default()
        });
    }
    problems
}

/// The same in every version, because it is kept on the disk. Not for security: who can write a file can write what he
/// wants into it.
fn hash(value: &Value) -> u64 {
    let mut hasher = Sha256::new();
    // The hasher takes everything.
    let _ = serde_json::to_writer(&mut hasher, value);
    let digest = hasher.finalize();
    let first = digest.first_chunk().copied().unwrap_or_default();
    // 0 is kept for "not known".
    u64::from_be_bytes(first).max(1)
}

/// Names the rules by which this version judges, so that a verdict is not believed that other rules gave.
pub fn rules() -> &'static str {
    static RULES: OnceLock<String> = OnceLock::new();
    RULES.get_or_init(|| {
        let mut hasher = Sha256::new();
        hasher.update(env!("CARGO_PKG_VERSION"));
        for kind in Kind::ALL.iter().filter(|kind| kind.is_written_by_users()) {
            let _ = serde_json::to_writer(&mut hasher, &bascule_crds::schema::schema(*kind));
        }
        hasher.finalize().iter().take(8).fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    })
}

/// A judged manifest in one line that is the same whatever the order and the place of its fields: a map of JSON is sorted, and the
/// defaults are filled in.
fn canonical(value: &Value) -> Arc<str> {
    value.to_string().into()
}

/// The object of a canonical line; none when this version does not understand it.
pub fn decode(json: &str) -> Option<Object> {
    let value: Value = serde_json::from_str(json).ok()?;
    let object = match kind_of(&value)? {
        Kind::VirtualService => Object::VirtualService(serde_json::from_value(value).ok()?),
        Kind::HealthCheck => Object::HealthCheck(serde_json::from_value(value).ok()?),
        Kind::VrrpGroup => Object::VrrpGroup(serde_json::from_value(value).ok()?),
        Kind::NatRule => Object::NatRule(serde_json::from_value(value).ok()?),
        Kind::Director => Object::Director(serde_json::from_value(value).ok()?),
        Kind::EndpointSlice => Object::EndpointSlice(serde_json::from_value(value).ok()?),
        Kind::VirtualServiceBinding | Kind::NatRuleBinding | Kind::DirectorConfig => return None,
    };
    Some(object)
}
