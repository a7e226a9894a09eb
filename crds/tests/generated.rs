//! What is generated from the types and committed says what the types say.

use std::collections::BTreeSet;
use std::path::Path;

use bascule_crds::{generate, object::Kind, schema};
use serde_json::Value;

#[test]
fn the_generated_files_are_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = generate::files();
    for (path, content) in &files {
        let written = std::fs::read_to_string(root.join(path)).unwrap_or_default();
        assert!(written == *content, "crds/{path} is out of date: run `make generate`");
    }
    let known: BTreeSet<_> = files.iter().map(|(path, _)| root.join(path)).collect();
    for folder in ["yaml", "json-schema"] {
        for file in std::fs::read_dir(root.join(folder)).expect("a folder") {
            let path = file.expect("a file").path();
            assert!(known.contains(&path), "{} is made from no type", path.display());
        }
    }
}

/// Written as YAML and read again, a definition is the same.
#[test]
fn the_yaml_holds_what_was_written() {
    for kind in Kind::ALL {
        let Some(crd) = schema::crd(kind) else { continue };
        let yaml = serde_saphyr::to_string(&crd).expect("YAML");
        let documents = bascule_crds::manifest::parse(&yaml).expect("YAML of our own");
        assert_eq!(documents.len(), 1);
        assert_eq!(documents[0].value, crd, "{kind}");
    }
}

#[test]
fn every_field_is_documented_and_everything_is_bounded() {
    fn walk(schema: &Value, path: &str, missing: &mut Vec<String>) {
        let open = schema.get("enum").is_some() || schema["format"] == "date-time";
        let bound = match schema["type"].as_str() {
            Some("string") if !open => "maxLength",
            Some("array") => "maxItems",
            Some("object") if schema.get("additionalProperties").is_some() => "maxProperties",
            Some("integer") if !path.ends_with("bservedGeneration") => "maximum",
            _ => "type",
        };
        if schema.get("x-kubernetes-int-or-string").is_none() && schema.get(bound).is_none() {
            missing.push(format!("{path} has no {bound}"));
        }
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            if inner["description"].as_str().is_none_or(str::is_empty) && !path.contains(".metadata") {
                missing.push(format!("{path} has no description"));
            }
            walk(inner, &path, missing);
        }
        for keyword in ["items", "additionalProperties"] {
            if let Some(inner) = schema.get(keyword) {
                walk(inner, &format!("{path}[]"), missing);
            }
        }
    }
    let mut missing = Vec::new();
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::EndpointSlice) {
        walk(&schema::schema(kind), kind.as_str(), &mut missing);
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn kinds_have_short_names_columns_a_category_and_a_status() {
    let mut seen = BTreeSet::new();
    for kind in Kind::ALL {
        let Some(crd) = schema::crd(kind) else { continue };
        let (spec, version) = (&crd["spec"], &crd["spec"]["versions"][0]);
        assert_eq!(spec["names"]["categories"], serde_json::json!(["bascule"]), "{kind}");
        let short = spec["names"]["shortNames"][0].as_str().expect("a short name");
        assert!(seen.insert(short.to_owned()), "{short} stands for two kinds");
        assert!(version["subresources"]["status"].is_object(), "{kind}");
        let scope = if kind.is_namespaced() { "Namespaced" } else { "Cluster" };
        assert_eq!(spec["scope"], scope, "{kind}");
        let columns = version["additionalPrinterColumns"].as_array().expect("columns");
        assert!(columns.len() >= 3, "{kind}");
        // A client-side `kubectl apply` keeps the whole object in an annotation, which may have 262144 bytes.
        assert!(crd.to_string().len() < 200_000, "{kind}: {} bytes", crd.to_string().len());
    }
}

/// Go's `\s` is ASCII, Rust's is Unicode: a class that two engines understand differently is no rule that two can agree on.
#[test]
fn patterns_mean_the_same_to_every_engine() {
    fn walk(value: &Value, seen: &mut usize) {
        let rules = value["x-kubernetes-validations"].as_array().into_iter().flatten();
        let rules = rules.filter_map(|rule| rule["rule"].as_str()).filter(|rule| rule.contains("matches("));
        for pattern in rules.chain(value["pattern"].as_str()) {
            *seen += 1;
            for class in ["\\s", "\\S", "\\d", "\\D", "\\w", "\\W", "\\b", "\\B", "\\p", "\\P", "(?"] {
                assert!(!pattern.contains(class), "{class} in {pattern}");
            }
        }
        match value {
            Value::Object(map) => map.values().for_each(|inner| walk(inner, seen)),
            Value::Array(list) => list.iter().for_each(|inner| walk(inner, seen)),
            _ => {}
        }
    }
    let mut seen = 0;
    Kind::ALL.into_iter().for_each(|kind| walk(&schema::schema(kind), &mut seen));
    assert!(seen > 50, "only {seen} patterns");
}
