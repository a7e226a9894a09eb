//! What the API server asks of `metadata`, which no schema of a kind contains.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use super::Violation;
use crate::object::Kind;
use crate::schema::MAX_NAME;

/// Checks name and namespace; labels and annotations are checked by their schema only.
pub(super) fn check(kind: Kind, metadata: &Value) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut find = |path: &str, message: String| violations.push(Violation::new(path, message));
    match metadata["name"].as_str() {
        None if metadata.is_object() && metadata.get("name").is_none() => {
            find("metadata.name", "is required".into())
        }
        Some(name) if !is_name(name, true) => find(
            "metadata.name",
            format!(
                "`{name}` is not a name: lower-case letters, digits, `-` and `.`, beginning and ending with a letter or digit"
            ),
        ),
        Some(name) if kind.is_written_by_users() && name.len() > MAX_NAME => {
            find(
                "metadata.name",
                format!("{} characters are more than the {MAX_NAME} that are allowed", name.len()),
            );
        }
        _ => {}
    }
    match metadata.get("namespace").and_then(Value::as_str) {
        Some(namespace) if !kind.is_namespaced() && !namespace.is_empty() => {
            find("metadata.namespace", format!("a {kind} is in no namespace"));
        }
        Some(namespace) if !namespace.is_empty() && (!is_name(namespace, false) || namespace.len() > 63) => {
            find(
                "metadata.namespace",
                format!("`{namespace}` is not a namespace: lower-case letters, digits and `-`, at most 63"),
            );
        }
        _ => {}
    }
    violations
}

/// RFC 1123: a label, or with `dots` a subdomain.
fn is_name(text: &str, dots: bool) -> bool {
    static LABEL: LazyLock<Regex> =
        LazyLock::new(|| Regex::new("^[a-z0-9]([-a-z0-9]*[a-z0-9])?$").expect("a fixed pattern"));
    if dots {
        text.len() <= 253 && text.split('.').all(|part| LABEL.is_match(part))
    } else {
        LABEL.is_match(text)
    }
}
