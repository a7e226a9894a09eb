//! The pages of `kubectl explain` that are kept say what the types say.
//!
//! A real API server and the real kubectl write them and are compared with them in the tests of Kubernetes. That takes
//! minutes; here a page that was forgotten is noticed in seconds.

use std::path::{Path, PathBuf};

use bascule_crds::object::Kind;
use bascule_crds::schema;
use serde_json::Value;

fn page(plural: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(format!("../tests/tests/kubernetes/snapshots/explain-{plural}.snap"))
}

/// kubectl breaks lines where it likes.
fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What is missing on the page: descriptions of the spec's own fields, and the names of those below.
fn missing(spec: &Value, page: &str) -> Vec<String> {
    fn names(schema: &Value, path: &str, page: &str, missing: &mut Vec<String>) {
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            if !page.contains(&format!(" {name} <")) {
                missing.push(format!("{path}: not on the page"));
            }
            names(inner, &path, page, missing);
            names(&inner["items"], &path, page, missing);
        }
    }
    let page = squeezed(page);
    let mut missing = Vec::new();
    names(spec, "spec", &page, &mut missing);
    for (name, field) in spec["properties"].as_object().into_iter().flatten() {
        let description = squeezed(field["description"].as_str().unwrap_or_default());
        if !page.contains(&description) {
            missing.push(format!("spec.{name}: the page does not say \"{description}\""));
        }
    }
    missing
}

#[test]
fn the_pages_of_explain_are_up_to_date() {
    let mut wrong = Vec::new();
    for crd in Kind::ALL.into_iter().filter_map(schema::crd) {
        let plural = crd["spec"]["names"]["plural"].as_str().expect("a plural");
        let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        assert!(spec["properties"].is_object(), "{plural} has no spec");
        let page = std::fs::read_to_string(page(plural)).expect("a page of each kind");
        wrong.extend(missing(spec, &page).into_iter().map(|what| format!("{plural}: {what}")));
    }
    assert!(
        wrong.is_empty(),
        "{}\nwrite the pages anew: INSTA_UPDATE=always STAGES=kubernetes scripts/test",
        wrong.join("\n")
    );
}

#[test]
fn a_page_that_was_forgotten_is_noticed() {
    let spec = serde_json::json!({ "properties": {
        "port": { "description": "The port, 1 to 65535." },
        "group": { "description": "Who.", "properties": { "name": { "description": "Its name." } } },
    }});
    let page = "group <Object>\n  Who.\n\nport\t<integer>\n  The\n  port, 1 to 65535.\n FIELDS:\n  group <Object>\n   name <string>\n  port <integer>\n";
    assert_eq!(missing(&spec, &format!("FIELDS:\n {page}")), Vec::<String>::new());
    assert_eq!(missing(&spec, &page.replace("65535", "80")).len(), 1);
    assert_eq!(missing(&spec, &page.replace("name <", "nom <")), ["spec.group.name: not on the page"]);
}
