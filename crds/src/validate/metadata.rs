//! `metadata`, which the API server judges in code: names, labels, annotations.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use super::structural::{Findings, shortened};

/// Most bytes of all annotations together (k8s.io/apimachinery: TotalAnnotationSizeLimitB).
const MAX_ANNOTATIONS: usize = 256 << 10;
/// Longest name of a namespace or value of a label, or of what follows the slash in a label's key.
const MAX_LABEL: usize = 63;
/// Longest name of an object.
const MAX_SUBDOMAIN: usize = 253;

static LABEL: LazyLock<Regex> =
    LazyLock::new(|| Regex::new("^[a-z0-9]([-a-z0-9]*[a-z0-9])?$").expect("a pattern"));
static QUALIFIED: LazyLock<Regex> =
    LazyLock::new(|| Regex::new("^([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]$").expect("a pattern"));

/// What the API server objects to in an object's metadata, its types being right. The namespace of a kind that has none is
/// ignored there, and so it is here.
pub(super) fn check(metadata: &Value, namespaced: bool, findings: &mut Findings) {
    match metadata["name"].as_str() {
        None | Some("") => findings.block("metadata.name", "is required"),
        Some(name) if !is_subdomain(name) => findings.add(
            "metadata.name",
            format!(
                "`{}` is not a name: at most {MAX_SUBDOMAIN} lower-case letters, digits, `-` and `.`, beginning and ending with a letter or digit",
                shortened(name)
            ),
        ),
        Some(_) => {}
    }
    let namespace = metadata["namespace"].as_str().filter(|name| namespaced && !name.is_empty());
    if let Some(namespace) = namespace.filter(|name| name.len() > MAX_LABEL || !LABEL.is_match(name)) {
        findings.add(
            "metadata.namespace",
            format!(
                "`{}` is not a namespace: at most {MAX_LABEL} lower-case letters, digits and `-`, beginning and ending with a letter or digit",
                shortened(namespace)
            ),
        );
    }
    for (key, value) in metadata["labels"].as_object().into_iter().flatten() {
        if !is_key(key) {
            findings.add("metadata.labels", format!("`{}` is not a key of a label", shortened(key)));
        }
        let value = value.as_str().unwrap_or_default();
        if !(value.is_empty() || value.len() <= MAX_LABEL && QUALIFIED.is_match(value)) {
            findings.add("metadata.labels", format!("`{}` is not a value of a label", shortened(value)));
        }
    }
    let mut size = 0;
    for (key, value) in metadata["annotations"].as_object().into_iter().flatten() {
        if !is_key(&key.to_lowercase()) {
            findings
                .add("metadata.annotations", format!("`{}` is not a key of an annotation", shortened(key)));
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > MAX_ANNOTATIONS {
        let message = format!("{size} bytes are more than the {MAX_ANNOTATIONS} that are allowed");
        findings.block("metadata.annotations", message);
    }
}

/// RFC 1123: labels with dots between them.
fn is_subdomain(name: &str) -> bool {
    name.len() <= MAX_SUBDOMAIN && name.split('.').all(|part| LABEL.is_match(part))
}

/// A qualified name: a name, or a domain, a slash and a name.
fn is_key(key: &str) -> bool {
    let (domain, name) = match key.split_once('/') {
        Some((domain, name)) => (Some(domain), name),
        None => (None, key),
    };
    domain.is_none_or(is_subdomain) && name.len() <= MAX_LABEL && QUALIFIED.is_match(name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_labels_and_annotations_are_those_of_kubernetes() {
        let long = "a".repeat(64);
        for (metadata, path) in [
            (json!({}), Some("metadata.name")),
            (json!({"name": "Web"}), Some("metadata.name")),
            (json!({"name": "a..b"}), Some("metadata.name")),
            (json!({"name": "web.1"}), None),
            (json!({"name": "web", "namespace": "a.b"}), Some("metadata.namespace")),
            (json!({"name": "web", "namespace": long}), Some("metadata.namespace")),
            (json!({"name": "web", "labels": {"a/b/c": "x"}}), Some("metadata.labels")),
            (json!({"name": "web", "labels": {"a": "x y"}}), Some("metadata.labels")),
            (json!({"name": "web", "labels": {"example.org/A_b": "X.y", "b": ""}}), None),
            (json!({"name": "web", "annotations": {"Example.org/a": "any thing"}}), None),
            (json!({"name": "web", "annotations": {"-": ""}}), Some("metadata.annotations")),
            (
                json!({"name": "web", "annotations": {"a": "x".repeat(MAX_ANNOTATIONS)}}),
                Some("metadata.annotations"),
            ),
        ] {
            let mut findings = Findings::default();
            check(&metadata, true, &mut findings);
            let found: Vec<&str> = findings.violations.iter().map(|one| one.path.as_str()).collect();
            assert_eq!(found, path.into_iter().collect::<Vec<_>>(), "{metadata}");
        }
        let mut findings = Findings::default();
        check(&json!({"name": "a", "namespace": "a.b"}), false, &mut findings);
        assert!(findings.violations.is_empty(), "{findings:?}");
    }
}
