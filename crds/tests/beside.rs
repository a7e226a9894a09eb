//! A manifest judged beside one that was good gets the verdict and the words that it gets alone.

use std::path::{Path, PathBuf};

use bascule_crds::manifest;
use bascule_crds::validate::{self, Judged};
use serde_json::Value;

/// Each manifest is crossed with so many others.
const CROSSED: usize = 6;

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder of manifests") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

/// The manifests of users, one a file.
fn manifests() -> Vec<Value> {
    let mut paths = Vec::new();
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rules"), &mut paths);
    paths.sort();
    let read = |path: PathBuf| {
        let mut documents = manifest::parse(&std::fs::read_to_string(path).expect("a file")).expect("YAML");
        documents.pop().expect("a document").value
    };
    let by_users = |value: &Value| validate::kind_of(value).is_ok_and(|kind| kind.is_written_by_users());
    paths.into_iter().map(read).filter(by_users).collect()
}

fn compare(manifest: &Value, good: &Value) -> bool {
    let alone = validate::judge(manifest);
    let beside = validate::judge_beside(manifest.clone(), Some(good));
    let refused = alone.is_err();
    let (alone, beside) = (alone.map_err(sorted), beside.map(|judged| judged.object).map_err(sorted));
    assert!(alone == beside, "alone:\n{alone:?}\nbeside {good}:\n{beside:?}\nthe manifest:\n{manifest}");
    refused
}

fn sorted<T: Ord>(mut list: Vec<T>) -> Vec<T> {
    list.sort();
    list
}

#[test]
fn the_verdict_beside_a_good_one_is_the_verdict_alone() {
    let manifests = manifests();
    let good: Vec<Value> = manifests
        .iter()
        .filter_map(|manifest| validate::judge_beside(manifest.clone(), None).ok())
        .map(|Judged { value, .. }| value)
        .collect();
    let (mut accepted, mut refused) = (0, 0);
    let mut count = |is_refused| if is_refused { refused += 1 } else { accepted += 1 };
    for (at, manifest) in manifests.iter().enumerate() {
        let alike: Vec<_> = good.iter().filter(|good| good["kind"] == manifest["kind"]).collect();
        for step in 0..CROSSED {
            // Others for each: 31 shares no divisor with the numbers that occur, or hardly.
            let good = alike[(at + 31 * step) % alike.len()];
            count(compare(manifest, good));
            // The good one with one field of this one: what a person's edit is.
            let Some(fields) = manifest["spec"].as_object().filter(|fields| !fields.is_empty()) else {
                continue;
            };
            let (name, field) = fields.iter().nth((at + step) % fields.len()).expect("a field");
            let mut crossed = good.clone();
            crossed["spec"][name] = field.clone();
            count(compare(&crossed, good));
        }
    }
    assert!(accepted > 200 && refused > 200, "{accepted} accepted and {refused} refused say little");
}
