//! What the documentation shows is what the agent takes: every manifest in it is validated, every link leads somewhere.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The pages: those beside the sources, and all of docs/.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut pages =
        vec![root.join("README.md"), root.join("CONTRIBUTING.md"), root.join("agent/ipvs/README.md")];
    let mut folders = vec![root.join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    pages.sort();
    pages
}

/// The fenced blocks of a page in one language, with the lines on which they begin.
fn blocks(text: &str, language: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut lines = text.lines().zip(1..);
    while let Some((line, number)) = lines.next() {
        if let Some(fence) = line.strip_prefix("```") {
            let body: Vec<&str> =
                lines.by_ref().map(|(line, _)| line).take_while(|line| !line.starts_with("```")).collect();
            if fence.trim() == language {
                found.push((number + 1, body.join("\n") + "\n"));
            }
        }
    }
    found
}

#[test]
fn every_manifest_of_the_documentation_is_valid() {
    let mut judged = 0;
    let mut refused = String::new();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        // A manifest inside a scenario is the lab's to judge: there it is not in the first column.
        let manifests = blocks(&text, "yaml")
            .into_iter()
            .filter(|(_, block)| block.lines().any(|line| line.starts_with("apiVersion: bascule.dev")));
        for (number, block) in manifests {
            let directory = tempfile::tempdir().unwrap();
            fs::write(directory.path().join("manifest.yaml"), block).unwrap();
            let output = Command::new(env!("CARGO_BIN_EXE_bascule-agent"))
                .args(["validate", "--manifests"])
                .arg(directory.path())
                .output()
                .unwrap();
            judged += 1;
            if !output.status.success() {
                refused += &format!(
                    "{}:{number}: {}{}",
                    page.display(),
                    String::from_utf8_lossy(&output.stdout),
                    String::from_utf8_lossy(&output.stderr)
                );
            }
        }
    }
    assert!(refused.is_empty(), "{refused}");
    assert!(judged >= 3, "the README and the tutorial show manifests, and {judged} were found");
}

/// GitHub's name of a heading: lower case, punctuation gone, blanks as dashes.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

fn has_anchor(page: &str, wanted: &str) -> bool {
    let mut fenced = false;
    page.lines().any(|line| {
        fenced ^= line.starts_with("```");
        let heading = line.trim_start_matches('#');
        (!fenced && heading.len() < line.len() && anchor(heading) == wanted)
            || line.contains(&format!("<a id=\"{wanted}\">"))
    })
}

#[test]
fn every_link_of_the_documentation_leads_somewhere() {
    let mut dead = String::new();
    let mut followed = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            followed += 1;
            let (path, heading) =
                link.split_once('#').map_or((link, None), |(path, heading)| (path, Some(heading)));
            let target = if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
            let found = target.exists()
                && heading.is_none_or(|heading| {
                    fs::read_to_string(&target).is_ok_and(|target| has_anchor(&target, heading))
                });
            if !found {
                dead += &format!("{}: {link}\n", page.display());
            }
        }
    }
    assert!(dead.is_empty(), "{dead}");
    assert!(followed >= 20, "{followed} links");
}

/// Words of a text that begin with `start` and go on with letters, `-` and `_`.
fn words<'a>(text: &'a str, start: &'a str) -> impl Iterator<Item = &'a str> {
    let part_of_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    text.split(move |c| !part_of_word(c))
        .filter(move |word| word.len() > start.len() && word.starts_with(start))
}

#[test]
fn the_reference_of_the_agent_has_every_option_and_variable() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/agent.md");
    let page = fs::read_to_string(page).unwrap();
    let mut missing = Vec::new();
    let mut known = 0;
    for command in ["", "plan", "validate", "status", "digest"] {
        let call = [command, "--help"].into_iter().filter(|word| !word.is_empty());
        let output = Command::new(env!("CARGO_BIN_EXE_bascule-agent")).args(call).output().unwrap();
        let help = String::from_utf8(output.stdout).unwrap();
        for word in words(&help, "--").chain(words(&help, "BASCULE_")) {
            known += 1;
            if !page.contains(word) && !matches!(word, "--help" | "--version") {
                missing.push(word.to_owned());
            }
        }
    }
    assert!(missing.is_empty(), "docs/reference/agent.md lacks {missing:?}");
    assert!(known > 20, "{known} options and variables");
}

#[test]
fn the_table_of_settings_has_all_that_the_agent_sets() {
    let agent = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(agent.join("../docs/reference/agent.md")).unwrap();
    let source = fs::read_to_string(agent.join("src/plane/sysctl/mod.rs")).unwrap();
    // The paths below /proc/sys are text in this file and nowhere else.
    let paths: Vec<String> = source
        .split('"')
        .filter(|text| text.starts_with("net/") && *text != "net/ipv6/conf")
        .map(|path| path.replace("{interface}", "INTERFACE").replace('/', "."))
        .collect();
    assert!(paths.len() >= 6, "{paths:?}");
    for path in paths.iter().map(String::as_str).chain(["net.ipv6.conf.INTERFACE.accept_ra"]) {
        assert!(page.contains(&format!("`{path}`")), "docs/reference/agent.md lacks {path}");
    }
}
