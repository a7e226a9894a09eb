//! A directory read once: for `validate` and `plan`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::time::Instant;

use bascule_compile::NodeConfig;
use bascule_crds::Object;

use super::catalog::{Examined, Form, Known};
use super::disk::{self, Content};
use super::engine::Engine;
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
    /// What else there is to say.
    pub notes: Vec<String>,
    /// Directors that the manifests name.
    pub named: BTreeSet<String>,
    /// The configuration of the director that was asked for.
    pub config: Option<NodeConfig>,
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
                if let Form::Good { object: Some(object), .. } = &document.form
                    && let Object::VirtualService(service) = &**object
                    && let Some(director) = &service.spec.director
                {
                    named.insert(director.name.clone());
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
    engine.follow_up(&step, &FromDisk { directory });
    Ok(Check {
        files,
        objects,
        problems: engine.problems(),
        notes,
        named: engine.named().clone(),
        config: engine.config(),
    })
}
