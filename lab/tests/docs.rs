//! What the documentation shows is what the lab takes: scenarios, steps to add to one, and the manifests inside.

use std::fs;
use std::path::{Path, PathBuf};

use bascule_lab::scenario::{Scenario, load, shipped};

/// The pages that show scenarios or parts of them.
fn pages() -> Vec<PathBuf> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let folders = ["tutorials", "how-to", "reference", "explanation"].map(|folder| docs.join(folder));
    let mut pages: Vec<PathBuf> = folders
        .iter()
        .flat_map(|folder| fs::read_dir(folder).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    pages.sort();
    pages
}

/// The blocks of YAML of a page.
fn blocks(page: &Path) -> Vec<String> {
    let text = fs::read_to_string(page).unwrap();
    text.split("\n```yaml\n")
        .skip(1)
        .filter_map(|rest| Some(rest.split_once("\n```")?.0.to_owned() + "\n"))
        .collect()
}

fn good(what: &str, text: &str) -> Scenario {
    load(what, text).unwrap_or_else(|problems| {
        panic!("{}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    })
}

#[test]
fn every_scenario_of_the_documentation_is_good_and_so_are_its_manifests() {
    let mut scenarios = 0;
    for page in pages() {
        for block in blocks(&page).iter().filter(|block| block.contains("\ntopology:")) {
            let scenario = good(&page.display().to_string(), block);
            scenarios += 1;
            for agent in scenario.topology.nodes.iter().filter_map(|node| node.agent.as_ref()) {
                for (file, text) in &agent.manifests {
                    for document in bascule_crds::manifest::parse(text).unwrap() {
                        let verdict = bascule_crds::validate::judge(&document.value);
                        assert!(verdict.is_ok(), "{}: {file}: {verdict:?}", page.display());
                    }
                }
            }
        }
    }
    assert!(scenarios >= 1, "the reference of the language begins with a scenario");
}

/// So are those of the scenarios that ship.
#[test]
fn manifests_of_shipped_scenarios_are_good() {
    for shipped in shipped::SHIPPED {
        let scenario = good(shipped.name, shipped.text);
        for agent in scenario.topology.nodes.iter().filter_map(|node| node.agent.as_ref()) {
            for (name, text) in &agent.manifests {
                for document in bascule_crds::manifest::parse(text).unwrap() {
                    let verdict = bascule_crds::validate::judge(&document.value);
                    assert!(verdict.is_ok(), "{}: {name}: {verdict:?}", shipped.name);
                }
            }
        }
    }
}

/// Steps that a page shows are for the scenario of the tutorial.
#[test]
fn steps_of_the_documentation_go_into_the_scenario_of_the_tutorial() {
    let mut tutorial =
        bascule_crds::manifest::parse(shipped::find("tp-ipvs").unwrap().text).unwrap().remove(0).value;
    // As the page says: steps that ask the agent do not fit those who could be in its place.
    tutorial.as_object_mut().unwrap().remove("peers");
    let mut blocks_of_steps = 0;
    for page in pages() {
        for block in blocks(&page).iter().filter(|block| block.trim_start().starts_with("- name:")) {
            let steps = bascule_crds::manifest::parse(&format!("steps:\n{block}")).unwrap().remove(0).value;
            let mut scenario = tutorial.clone();
            let all = scenario["steps"].as_array_mut().unwrap();
            all.extend(steps["steps"].as_array().unwrap().iter().cloned());
            good(&page.display().to_string(), &scenario.to_string());
            blocks_of_steps += 1;
        }
    }
    assert!(blocks_of_steps >= 1, "the how-to about scenarios shows steps");
}

/// The faults that the reference of the program lists are those of the language.
#[test]
fn the_table_of_faults_has_them_all() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/lab.md");
    let page = fs::read_to_string(page).unwrap();
    let schema = bascule_lab::scenario::schema::schema();
    let kinds = schema["$defs"]["Fault"]["oneOf"].as_array().unwrap();
    assert!(kinds.len() >= 10, "{kinds:?}");
    for kind in kinds {
        let (name, value) = kind["properties"].as_object().unwrap().iter().next().unwrap();
        let row = page.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
        let row = row.unwrap_or_else(|| panic!("docs/reference/lab.md has no row for the fault {name}"));
        let of = value["$ref"].as_str().unwrap().rsplit('/').next().unwrap();
        for field in schema["$defs"][of]["properties"].as_object().unwrap().keys() {
            assert!(row.contains(&format!("`{field}`")), "{row}: lacks the field {field}");
        }
    }
}

#[test]
fn the_reference_of_the_lab_has_every_command() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/lab.md");
    let page = fs::read_to_string(page).unwrap();
    let output =
        std::process::Command::new(env!("CARGO_BIN_EXE_bascule-lab")).arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let commands = help.split_once("Commands:\n").unwrap().1.split_once("\n\n").unwrap().0;
    // What goes on from the line before is indented further.
    let names = commands
        .lines()
        .filter(|line| !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next());
    let names: Vec<&str> = names.filter(|name| *name != "help").collect();
    assert!(names.contains(&"inject") && names.len() >= 12, "{names:?}");
    for name in names {
        assert!(page.contains(&format!("\nbascule-lab {name}")), "docs/reference/lab.md lacks {name}");
    }
}
