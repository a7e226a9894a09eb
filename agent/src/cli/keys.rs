//! The keys of Secrets, as the agent begins.

use std::sync::Arc;

use super::args::{Origin, Source};
use crate::secrets::{Secrets, file};

/// Those of a cluster, with what is remembered of them; none in a directory, where nobody can name one: what is kept of a cluster goes.
/// Returns what is wrong besides, which is logged already.
pub(super) fn open(source: &Source) -> (Arc<Secrets>, Option<String>) {
    let (secrets, note) = match source.origin() {
        Origin::Api(_) => Secrets::open(&source.state_dir),
        Origin::Directory(_) => {
            let path = source.state_dir.join(file::FILE);
            let error = file::forget(&source.state_dir).err();
            let note = error.map(|error| format!("{}: cannot be removed: {error}", path.display()));
            (Secrets::default(), note)
        }
    };
    if let Some(note) = &note {
        tracing::error!("{note}");
    }
    (Arc::new(secrets), note)
}
