//! What the chart holds that is made from other files says what they say.

use std::fs;

use bascule_tests::chart::{self, CHART};
use bascule_tests::helm;

#[test]
fn the_generated_files_are_up_to_date() {
    for (path, content) in chart::files().expect("the chart's files") {
        let written = fs::read_to_string(chart::root().join(&path)).unwrap_or_default();
        assert!(written == content, "{path} is out of date: run `make generate`");
    }
    let definitions = fs::read_dir(chart::root().join(CHART).join("files/crds")).expect("a folder").count();
    let made = bascule_crds::generate::files().into_iter().filter(|(path, _)| path.starts_with("yaml/"));
    assert_eq!(definitions, made.count(), "a definition of no kind in {CHART}/files/crds");
}

#[test]
fn the_plain_manifests_are_up_to_date() {
    for (path, content) in helm::manifests().expect("the plain manifests") {
        let written = fs::read_to_string(chart::root().join(&path)).unwrap_or_default();
        assert!(written == content, "{path} is out of date: run `make manifests`");
    }
}
