//! Finds the line of a field by reading the file once more: lines of valid objects are not kept.

use std::path::Path;

use bascule_crds::{ObjectRef, manifest};

use super::disk::{self, Content};
use super::engine::Locate;
use super::examine::identity;

/// Reads from the directory.
#[derive(Debug)]
pub struct FromDisk<'a> {
    /// The directory.
    pub directory: &'a Path,
}

impl Locate for FromDisk<'_> {
    fn line(&self, file: &str, reference: &ObjectRef, field: &str) -> Option<usize> {
        let Content::Bytes(bytes, _) = disk::read(self.directory, file) else { return None };
        let documents = manifest::parse(std::str::from_utf8(&bytes).ok()?).ok()?;
        let document =
            documents.iter().find(|document| identity(&document.value).as_ref() == Some(reference))?;
        Some(document.line_of(field))
    }
}
