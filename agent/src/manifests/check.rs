//! A directory read once: for `validate` and `plan`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use std::{fmt, io};

use bascule_compile::{CheckKey, NodeConfig};
use bascule_crds::HealthCheckSpec;
use serde::Serialize;

use super::catalog::{Examined, Form, Known};
use super::disk::{self, Content};
use super::engine::{Engine, Locate, directors_of};
use super::examine::examine;
use super::locate::FromDisk;
use super::problem::Problem;
use crate::state::Saved;

/// What a directory holds.
#[derive(Debug, Default)]
pub struct Check {
    /// Files read.
    pub files: usize,
    /// Objects in them, also those in error.
    pub objects: usize,
    /// What is wrong, by file and line.
    pub problems: Vec<Problem>,
    /// What is carried out as it is written and hardly what was meant, by file and line.
    pub warnings: Vec<Warning>,
    /// What else there is to say.
    pub notes: Vec<String>,
    /// Directors that the manifests name.
    pub named: BTreeSet<String>,
    /// The configuration of the director that was asked for.
    pub config: Option<NodeConfig>,
    /// The HealthChecks in force.
    pub checks: BTreeMap<CheckKey, Arc<HealthCheckSpec>>,
}

/// Something that is carried out as it is written and hardly what was meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Warning {
    /// The file, with the directory as it was given.
    pub file: String,
    /// Line in the file, from 1.
    pub line: usize,
    /// The object, as `VirtualService tp/web`.
    pub object: String,
    /// Path of the field, as `spec.onePacket`.
    pub field: String,
    /// What will come of it, and what to do otherwise.
    pub message: String,
}

impl fmt::Display for Warning {
    /// `FILE:LINE: warning: FIELD: MESSAGE (VirtualService tp/web)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Warning { file, line, object, field, message } = self;
        write!(f, "{file}:{line}: warning: {field}: {message} ({object})")
    }
}

fn warnings(engine: &Engine, locate: &impl Locate) -> Vec<Warning> {
    let conditions = engine.compiled().conditions.iter();
    let told = conditions.flat_map(|(object, list)| {
        list.iter().flat_map(move |one| &one.warnings).map(move |one| (object, one))
    });
    let mut warnings: Vec<_> = told
        .filter_map(|(object, warning)| {
            let active = engine.catalog.active_of(object)?;
            Some(Warning {
                file: engine.catalog.path(&active.file),
                line: locate.line(&active.file, object, &warning.field).unwrap_or(active.line),
                object: object.to_string(),
                field: warning.field.clone(),
                message: warning.message.clone(),
            })
        })
        .collect();
    warnings.sort();
    warnings
}

/// Reads a directory. With a director and its last good configuration, what that director would have to do; without,
/// all directors that are named count as known.
pub fn read(directory: &Path, director: Option<(&str, BTreeMap<String, Saved>)>) -> io::Result<Check> {
    let now = Instant::now();
    disk::directory_id(directory)?;
    let listing = disk::list(directory)?;
    let mut notes: Vec<_> = listing
        .unreadable_names
        .iter()
        .map(|name| format!("{name}: the file's name is not valid UTF-8: it is not read"))
        .collect();
    if listing.beyond > 0 {
        notes.push(format!("{} files beyond {} are not read", listing.beyond, disk::MAX_FILES));
    }
    let mut examined = Vec::with_capacity(listing.files.len());
    let mut named = BTreeSet::new();
    let mut objects = 0;
    for name in listing.files.keys() {
        let path = directory.join(&**name).display().to_string();
        let file = match disk::read(directory, name) {
            Content::Vanished => continue,
            Content::Bytes(bytes, _) => examine(&path, &bytes, &Known::default()),
            Content::Failed(message, _) => Examined::Failed(Problem {
                file: path,
                reason: "Unreadable".into(),
                message,
                ..Problem::default()
            }),
        };
        if let Examined::Parsed { documents, nameless } = &file {
            objects += documents.len() + nameless.len();
            for document in documents {
                if let Form::Good { object: Some(object), .. } = &document.form {
                    named.extend(directors_of(object).into_iter().map(str::to_owned));
                }
            }
        }
        examined.push((name.clone(), file));
    }
    let (name, remembered, also) = match director {
        Some((name, remembered)) => (name.to_owned(), remembered, BTreeSet::new()),
        None => (named.first().cloned().unwrap_or_else(|| "director".into()), BTreeMap::new(), named),
    };
    let mut engine = Engine::new(directory, &name, also);
    notes.extend(engine.remember(remembered));
    engine.catalog.listed(now, |name| listing.files.contains_key(name));
    let files = examined.len();
    for (name, file) in examined {
        engine.catalog.read(now, &name, file);
    }
    // What vanished since the last good configuration counts as gone here: there is nothing to wait for.
    engine.catalog.expire(now + super::catalog::SETTLE);
    let step = engine.step();
    let locate = FromDisk::new(directory);
    engine.follow_up(&step, &locate);
    Ok(Check {
        files,
        objects,
        problems: engine.problems(),
        warnings: warnings(&engine, &locate),
        notes,
        named: engine.named().clone(),
        config: engine.config(),
        checks: engine.checks().clone(),
    })
}
