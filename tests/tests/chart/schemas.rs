//! Definitions of one version against those of an older chart.

use std::process::Command;

use bascule_crds::generate;
use bascule_crds::manifest::parse;
use bascule_tests::widens::narrowed;

use crate::lifecycle::OLDER;

/// `v1alpha1` only widens: what a user has written for an older version is taken, kept and meant as before.
#[test]
fn what_the_older_definitions_took_is_taken_still() {
    let chart = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(OLDER);
    let output = Command::new("tar")
        .arg("-xzOf")
        .arg(chart)
        .args(["--wildcards", "bascule/files/crds/*.yaml"])
        .output()
        .expect("tar");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // They stand one behind another, without what parts documents.
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let mut older = Vec::new();
    for definition in text.split("apiVersion: apiextensions.k8s.io/v1\n").skip(1) {
        let documents = parse(&format!("apiVersion: apiextensions.k8s.io/v1\n{definition}")).expect("YAML");
        older.extend(documents.into_iter().map(|document| document.value));
    }
    assert!(older.len() >= 7, "{} definitions in the older chart", older.len());
    let newer: Vec<_> = generate::files()
        .into_iter()
        .filter(|(path, _)| path.starts_with("yaml"))
        .flat_map(|(_, text)| parse(&text).expect("YAML of our own"))
        .map(|document| document.value)
        .collect();
    for before in &older {
        let name = &before["metadata"]["name"];
        let now = newer.iter().find(|one| one["metadata"]["name"] == *name);
        let now = now.unwrap_or_else(|| panic!("{name} is no longer defined"));
        let found = narrowed(before, now);
        assert!(found.is_empty(), "this needs another version of the API:\n{}", found.join("\n"));
    }
}
