//! Finds the line of a field by reading the file once more: lines of valid objects are not kept.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use bascule_crds::ObjectRef;
use bascule_crds::manifest::{self, Document};

use super::disk::{self, Content};
use super::engine::Locate;
use super::examine::identity;

/// Reads from the directory; the file read last is kept, so that asking file by file reads each once.
#[derive(Debug)]
pub struct FromDisk<'a> {
    directory: &'a Path,
    last: RefCell<Option<Parsed>>,
}

#[derive(Debug)]
struct Parsed {
    file: String,
    /// Empty when it cannot be read or parsed any more.
    documents: BTreeMap<ObjectRef, Document>,
}

impl<'a> FromDisk<'a> {
    /// Of files in a directory.
    pub fn new(directory: &'a Path) -> Self {
        Self { directory, last: RefCell::new(None) }
    }

    fn parse(&self, file: &str) -> Parsed {
        let documents = match disk::read(self.directory, file) {
            Content::Bytes(bytes, _) => std::str::from_utf8(&bytes)
                .ok()
                .and_then(|text| manifest::parse(text).ok())
                .unwrap_or_default(),
            Content::Vanished | Content::Failed(..) => Vec::new(),
        };
        // Of two of one name the first counts.
        let named = documents.into_iter().rev().filter_map(|one| Some((identity(&one.value)?, one)));
        Parsed { file: file.to_owned(), documents: named.collect() }
    }
}

impl Locate for FromDisk<'_> {
    fn line(&self, file: &str, reference: &ObjectRef, field: &str) -> Option<usize> {
        let mut last = self.last.borrow_mut();
        let parsed = match last.take() {
            Some(parsed) if parsed.file == file => last.insert(parsed),
            _ => last.insert(self.parse(file)),
        };
        Some(parsed.documents.get(reference)?.line_of(field))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bascule_crds::Kind;

    #[test]
    fn a_file_is_read_once_for_all_its_objects() {
        let directory = tempfile::tempdir().unwrap();
        let one = |name: &str| {
            format!(
                "apiVersion: bascule.dev/v1alpha1\nkind: Director\nmetadata: {{name: {name}}}\nspec: {{}}\n"
            )
        };
        std::fs::write(directory.path().join("f.yaml"), format!("{}---\n{}", one("a"), one("b"))).unwrap();
        let locate = FromDisk::new(directory.path());
        let reference = |name| ObjectRef::new(Kind::Director, None, name);
        assert_eq!(locate.line("f.yaml", &reference("a"), "spec"), Some(4));
        // Who reads it again finds nothing.
        std::fs::remove_file(directory.path().join("f.yaml")).unwrap();
        assert_eq!(locate.line("f.yaml", &reference("b"), "spec"), Some(9));
        assert_eq!(locate.line("f.yaml", &reference("c"), "spec"), None);
        assert_eq!(locate.line("g.yaml", &reference("a"), "spec"), None);
    }
}
