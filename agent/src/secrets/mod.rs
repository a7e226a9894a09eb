//! Keys of VRRP that are kept in Secrets of the cluster: which the configuration names, what was read of them, what is in force.
//!
//! Pure: the [`Book`] decides what it means that a Secret is there, changes, cannot be used or goes; [`key`] holds what a key is. I/O:
//! [`file`], where the keys in force outlive a restart without an API server. Secrets are read in `api`, and never copied into
//! another object; whoever needs a key asks [`Secrets`]. A key's bytes are in no text that is made of any of these.

mod book;
pub mod file;
pub mod key;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bascule_crds::common::SecretKeyRef;
use bascule_crds::director_config::DirectorVrrpGroup;

pub use book::{Book, Heard, MAX_NAMED, Said, SecretStatus};
pub use key::{Bytes, Named, Reason, Trouble, Usage};

/// The keys, for those who read Secrets and those who use what is in them.
#[derive(Debug, Default)]
pub struct Secrets {
    /// None where there is no cluster.
    book: Option<Mutex<Book>>,
    directory: PathBuf,
}

impl Secrets {
    /// Those of a cluster, beginning with what is remembered in a state directory. Returns what is wrong with that, for people.
    pub fn open(directory: &Path) -> (Self, Option<String>) {
        let (remembered, note) = match file::load(directory) {
            Ok(remembered) => (remembered, None),
            Err(note) => (Vec::new(), Some(note)),
        };
        let book = Some(Mutex::new(Book::new(remembered)));
        (Self { book, directory: directory.to_owned() }, note)
    }

    /// Where they are kept.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The book; none without a cluster.
    pub(crate) fn book(&self) -> Option<MutexGuard<'_, Book>> {
        Some(self.book.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The bytes in force of a key, or why there are none.
    pub(crate) fn read(&self, reference: &SecretKeyRef, usage: Usage) -> Result<Vec<u8>, String> {
        let Some(book) = self.book() else {
            return Err("a Secret can be had in a cluster only; name a file instead".to_owned());
        };
        book.read(&Named::new(reference, usage)).map_err(|trouble| trouble.message)
    }

    /// How it stands with the keys that a group names.
    pub(crate) fn status(&self, group: &DirectorVrrpGroup) -> Vec<SecretStatus> {
        let Some(book) = self.book() else { return Vec::new() };
        key::named_by(group).into_iter().map(|named| book.status(&named)).collect()
    }

    /// Whether a group has to wait for a Secret that was not read yet, which is soon over.
    pub(crate) fn has_yet_to_read(&self, group: &DirectorVrrpGroup) -> bool {
        self.status(group).iter().any(|one| !one.in_force && one.reason == Some(Reason::SecretNotRead))
    }
}
