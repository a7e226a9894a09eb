//! A topology of containerlab (`*.clab.yml`) as a scenario. Pure: a text goes in, a text comes out.
//!
//! What is read is the format of <https://containerlab.dev/manual/topo-def-file/>: nodes of kind `linux` become nodes, bridges and links become
//! networks, and what `exec` does to the network of a node becomes fields of the node ([`commands`]). What the lab cannot rebuild is refused with
//! its line; what it leaves out without a change to the network is said in a note and in a comment of the scenario.

mod apply;
mod checks;
mod commands;
mod links;
mod nodes;
mod reader;
#[cfg(test)]
mod tests;
mod words;

use std::collections::BTreeSet;
use std::path::Path;

use bascule_crds::manifest;

pub(crate) use reader::Note;
use reader::Reader;

use crate::scenario::topology::Topology;
use crate::scenario::{Problem, Record, Requirements, Scenario, load, written};

/// Fields of the file as a whole that are read, or that say nothing about the network.
const FIELDS: [&str; 6] = ["debug", "mgmt", "name", "prefix", "settings", "topology"];
const TOPOLOGY: [&str; 5] = ["defaults", "groups", "kinds", "links", "nodes"];
/// The longest title of a scenario, in characters.
const MAX_TITLE: usize = 80;

/// A topology as a scenario.
#[derive(Clone, Debug)]
pub(crate) struct Imported {
    /// The scenario's file.
    pub(crate) text: String,
    /// What it says.
    pub(crate) scenario: Scenario,
    /// What is otherwise in it, in the order of the lines of the topology.
    pub(crate) notes: Vec<Note>,
}

/// Reads a topology. `file` is what mistakes call it, `name` the scenario's name; `lenient`: commands that cannot be translated are
/// noted, and no mistakes.
///
/// # Errors
/// All mistakes, in the order of their lines.
pub(crate) fn import(file: &str, text: &str, name: &str, lenient: bool) -> Result<Imported, Vec<Problem>> {
    let problem = |line, message| Problem { file: file.to_owned(), line, field: String::new(), message };
    let documents = manifest::parse(text).map_err(|error| vec![problem(error.line, error.message)])?;
    let document = match documents.as_slice() {
        [document] => document,
        [] => return Err(vec![problem(0, "is empty; a topology has `name` and `topology`".to_owned())]),
        [_, second, ..] => {
            let message = "a topology file has one document; here begins another".to_owned();
            return Err(vec![problem(second.line, message)]);
        }
    };
    let mut reader = Reader::new(file, document, lenient);
    let lab = read(&mut reader);
    let mut problems = std::mem::take(&mut reader.problems);
    let notes = reader.take_notes();
    let Some((title, topology)) = lab.filter(|_| problems.is_empty()) else {
        problems.sort_by_key(|problem| problem.line);
        // What is wrong in what several nodes inherit is told once.
        problems.dedup();
        return Err(problems);
    };
    let scenario = scenario(name, &title, topology);
    judge(file, document, &scenario)?;
    let heading = heading(file, &notes);
    let (text, scenario) =
        written(&scenario, &heading).map_err(|why| vec![problem(0, format!("the scenario: {why}"))])?;
    Ok(Imported { text, scenario, notes })
}

/// The lab's name and its network.
fn read(reader: &mut Reader<'_>) -> Option<(String, Topology)> {
    let document = reader.document;
    let whole = reader.object(Some(&document.value), "")?;
    reader.unknown(whole, "", &FIELDS);
    let name = reader.text(whole.get("name"), "name").unwrap_or_default().to_owned();
    if name.is_empty() {
        reader.wrong("name", "`name` is missing: the name of the lab");
    }
    if whole.get("mgmt").is_some_and(|mgmt| !mgmt.is_null()) {
        reader.note("mgmt", "the management network is left out, and with it `eth0` of each node");
    }
    let Some(topology) = reader.object(whole.get("topology"), "topology") else {
        if whole.get("topology").is_none_or(serde_json::Value::is_null) {
            reader.wrong("topology", "`topology` is missing: the nodes and the links between them");
        }
        return None;
    };
    reader.unknown(topology, "topology", &TOPOLOGY);
    let sources = nodes::read(reader, topology);
    let wiring = links::read(reader, topology, &sources);
    Some((name, apply::topology(reader, &sources, wiring)))
}

/// The topology with steps that see that neighbours reach each other.
fn scenario(name: &str, title: &str, topology: Topology) -> Scenario {
    let steps = checks::steps(&topology);
    let mut programs = checks::programs(&topology);
    if checks::pings(&steps) {
        programs.insert("ping".to_owned());
    }
    Scenario {
        name: name.to_owned(),
        title: Some(format!("containerlab: {title}").chars().take(MAX_TITLE).collect()),
        summary: format!(
            "The topology `{title}` of containerlab. Its steps see that neighbours reach each other; add what you want to know."
        ),
        requires: Requirements { kernel: BTreeSet::new(), programs, lateness: None },
        record: Record::default(),
        topology,
        steps,
        peers: crate::scenario::Peers::default(),
        control: None,
    }
}

/// Whether it is a good scenario; mistakes are told with the lines of the topology file.
fn judge(file: &str, document: &manifest::Document, scenario: &Scenario) -> Result<(), Vec<Problem>> {
    let text = serde_json::to_string(scenario).map_err(|error| {
        vec![Problem { file: file.to_owned(), line: 0, field: String::new(), message: error.to_string() }]
    })?;
    let name = format!("{}.yaml", scenario.name);
    load(&name, &text).map(drop).map_err(|problems| {
        let told = problems.into_iter().map(|problem| {
            let node = part(&problem.field, "topology.nodes[").and_then(|at| scenario.topology.nodes.get(at));
            let place = node.map(|node| crate::scenario::join("topology.nodes", &node.name));
            let of = node.map_or_else(String::new, |node| format!("`{}`: ", node.name));
            Problem {
                file: file.to_owned(),
                line: place.as_deref().map_or(0, |place| document.line_of(place)),
                field: place.unwrap_or_default(),
                message: format!("{of}this cannot be a scenario: {}: {}", problem.field, problem.message),
            }
        });
        told.collect()
    })
}

/// The index in a path: 2 of `topology.nodes[2].links`.
fn part(path: &str, before: &str) -> Option<usize> {
    path.strip_prefix(before)?.split_once(']')?.0.parse().ok()
}

/// The comments at the head of the scenario.
fn heading(file: &str, notes: &[Note]) -> String {
    let file = Path::new(file).file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let mut text = format!(
        "Made by `bascule-lab import` from {file}, a topology of containerlab. Left out are images and what they\n\
         start, and the management network (eth0). Networks carry 1500 bytes unless the topology said otherwise.\n"
    );
    if !notes.is_empty() {
        text.push_str("What else is otherwise, by the lines of that file:\n");
    }
    for note in notes {
        // A command may have several lines.
        let words: Vec<&str> = note.text.split_whitespace().collect();
        text.push_str(&format!("  {}: {}\n", note.line, words.join(" ")));
    }
    text
}
