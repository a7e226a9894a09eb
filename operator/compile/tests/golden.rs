//! One folder a case under `tests/cases`: `input.yaml` holds the manifests, `nodes.yaml.snap` and `conditions.yaml.snap` what is to come of them.
//!
//! `input.yaml` may begin with a document without a kind that says who asks: `{trust: Cluster, directors: [dir1]}`; default are
//! files and no declared director. What a `before.yaml` beside it comes to counts as programmed already.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use bascule_compile::{Compiled, Condition, NodeConfig, Snapshot, Trust, compile};
use bascule_crds::{Object, manifest, validate};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asker {
    #[serde(default)]
    trust: String,
    #[serde(default)]
    directors: BTreeSet<String>,
}

fn read(path: &Path) -> Snapshot {
    let text = fs::read_to_string(path).unwrap();
    let mut snapshot = Snapshot::new(Trust::Files);
    for document in manifest::parse(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display())) {
        if document.value.get("kind").is_none() {
            let asker: Asker = serde_json::from_value(document.value).unwrap();
            snapshot.directors = asker.directors;
            if asker.trust == "Cluster" {
                snapshot.trust = Trust::Cluster;
            }
            continue;
        }
        let object: Object = validate::judge(&document.value)
            .unwrap_or_else(|v| panic!("{}:{}: {v:#?}", path.display(), document.line));
        snapshot.objects.push(object);
    }
    snapshot
}

fn case(folder: &Path) -> Compiled {
    let mut snapshot = read(&folder.join("input.yaml"));
    let before = folder.join("before.yaml");
    if before.exists() {
        snapshot.programmed = compile(&read(&before)).nodes;
    }
    compile(&snapshot)
}

#[test]
fn cases() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut folders: Vec<_> = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert!(folders.len() >= 20, "only {} cases", folders.len());
    for folder in folders {
        let compiled = case(&folder);
        let conditions: BTreeMap<String, &Vec<Condition>> =
            compiled.conditions.iter().map(|(object, conditions)| (object.to_string(), conditions)).collect();
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path(&folder);
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.bind(|| {
            let nodes: &BTreeMap<String, NodeConfig> = &compiled.nodes;
            insta::assert_snapshot!("nodes.yaml", serde_saphyr::to_string(nodes).unwrap());
            insta::assert_snapshot!("conditions.yaml", serde_saphyr::to_string(&conditions).unwrap());
        });
        // What an agent keeps as its last good configuration comes back the same.
        for node in compiled.nodes.values() {
            let text = serde_json::to_string(node).unwrap();
            assert_eq!(&serde_json::from_str::<NodeConfig>(&text).unwrap(), node, "{}", folder.display());
        }
    }
}
