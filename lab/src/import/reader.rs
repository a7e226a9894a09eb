//! Reads values of the topology file, and gathers what is wrong and what is otherwise.

use std::collections::BTreeMap;

use bascule_crds::manifest::Document;
use serde_json::{Map, Value};

use crate::scenario::{Problem, suggest};

/// Something that is otherwise in the scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    /// Where, from 1.
    pub(crate) line: usize,
    /// What.
    pub(crate) text: String,
}

/// As many mistakes and notes are told; more would not be read.
const MAX_TOLD: usize = 200;

/// The topology file.
pub(super) struct Reader<'a> {
    pub(super) file: &'a str,
    pub(super) document: &'a Document,
    /// Whether what cannot be translated is noted, and no mistake.
    pub(super) lenient: bool,
    pub(super) problems: Vec<Problem>,
    notes: Vec<Note>,
    /// Fields that are not used, by field and why: of whom, and the first line.
    unused: BTreeMap<(String, &'static str), (usize, Vec<String>)>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a str, document: &'a Document, lenient: bool) -> Self {
        Self { file, document, lenient, problems: Vec::new(), notes: Vec::new(), unused: BTreeMap::new() }
    }

    /// A mistake.
    pub(super) fn wrong(&mut self, path: &str, message: impl Into<String>) {
        if self.problems.len() < MAX_TOLD {
            self.problems.push(Problem {
                file: self.file.to_owned(),
                line: self.document.line_of(path),
                field: path.to_owned(),
                message: message.into(),
            });
        }
    }

    /// Something that is otherwise.
    pub(super) fn note(&mut self, path: &str, text: impl Into<String>) {
        if self.notes.len() < MAX_TOLD {
            self.notes.push(Note { line: self.document.line_of(path), text: text.into() });
        }
    }

    /// A mistake, or with `--lenient` a note.
    pub(super) fn wrong_or_note(&mut self, path: &str, message: String) {
        if self.lenient {
            self.note(path, message);
        } else {
            self.wrong(path, format!("{message} (`--lenient` leaves it out, and says so in a comment)"));
        }
    }

    /// A field of a node that is not used, and why.
    pub(super) fn unused(&mut self, node: &str, field: &str, why: &'static str, path: &str) {
        let line = self.document.line_of(path);
        let of = self.unused.entry((field.to_owned(), why)).or_insert_with(|| (line, Vec::new()));
        of.0 = of.0.min(line);
        of.1.push(node.to_owned());
    }

    /// All that is otherwise, in the order of lines.
    pub(super) fn take_notes(&mut self) -> Vec<Note> {
        let mut notes = std::mem::take(&mut self.notes);
        for ((field, why), (line, nodes)) in std::mem::take(&mut self.unused) {
            notes.push(Note { line, text: format!("`{field}` of {} is not used: {why}", nodes.join(", ")) });
        }
        notes.sort_by_key(|note| note.line);
        notes
    }

    /// An object; none where nothing is there.
    pub(super) fn object(&mut self, value: Option<&'a Value>, path: &str) -> Option<&'a Map<String, Value>> {
        match value {
            None | Some(Value::Null) => None,
            Some(Value::Object(map)) => Some(map),
            Some(_) => {
                self.wrong(path, "has to be a map of fields");
                None
            }
        }
    }

    /// A list; empty where nothing is there.
    pub(super) fn list(&mut self, value: Option<&'a Value>, path: &str) -> &'a [Value] {
        match value {
            None | Some(Value::Null) => &[],
            Some(Value::Array(items)) => items,
            Some(_) => {
                self.wrong(path, "has to be a list");
                &[]
            }
        }
    }

    /// A string; none where nothing is there.
    pub(super) fn text(&mut self, value: Option<&'a Value>, path: &str) -> Option<&'a str> {
        match value {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text),
            Some(_) => {
                self.wrong(path, "has to be a string");
                None
            }
        }
    }

    /// Fields that are none, as slips of those that are known.
    pub(super) fn unknown(&mut self, map: &Map<String, Value>, path: &str, known: &[&str]) {
        for field in map.keys().filter(|field| !known.contains(&field.as_str())) {
            let message = format!("unknown field `{field}`{}", slip(field, known));
            self.wrong_or_note(&crate::scenario::join(path, field), message);
        }
    }
}

/// Which known field is meant, if one is near; containerlab knows too many to name them all.
fn slip(field: &str, known: &[&str]) -> String {
    suggest::nearest(field, known.iter().copied())
        .map_or_else(String::new, |nearest| format!("; did you mean `{nearest}`?"))
}
