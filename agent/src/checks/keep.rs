//! Verdicts that survive the agent: in a file of the run directory, which a reboot empties.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use bascule_checks_core::pool::Standing;
use bascule_checks_core::{Time, Verdict};
use bascule_compile::BindingKey;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::spec::Subject;

/// Name of the file.
pub(super) const FILE: &str = "checks.json";
/// Larger files are not ours, in bytes.
const MAX_FILE: u64 = 256 * 1024 * 1024;

/// What another process needs to go on.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Kept {
    verdicts: BTreeMap<String, Verdict>,
    standings: BTreeMap<String, Standing>,
}

/// The same subject in another process.
pub(super) fn identity(subject: &Subject) -> String {
    let digest = Sha256::digest(format!("{subject:?}"));
    digest[..16].iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl Kept {
    pub(super) fn new(
        verdicts: impl Iterator<Item = (String, Verdict)>,
        standings: impl Iterator<Item = (String, Standing)>,
    ) -> Self {
        Self { verdicts: verdicts.collect(), standings: standings.collect() }
    }

    /// What was kept; nothing if that cannot be read, and why. What claims to be later than now is of another start of the machine.
    pub(super) fn read(run_dir: &Path, now: Time) -> (Self, Option<String>) {
        let path = run_dir.join(FILE);
        let text = match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() && metadata.len() <= MAX_FILE => fs::read(&path),
            Ok(_) => return (Self::default(), None),
            Err(error) => Err(error),
        };
        let kept = match text {
            Ok(text) => serde_json::from_slice::<Self>(&text).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return (Self::default(), None),
            Err(error) => Err(error),
        };
        match kept {
            Ok(mut kept) => {
                kept.verdicts.retain(|_, verdict| verdict.since <= now);
                (kept, None)
            }
            Err(error) => (Self::default(), Some(format!("{}: {error}; checks begin anew", path.display()))),
        }
    }

    /// Writes it, so that there is always a whole one.
    pub(super) fn write(&self, run_dir: &Path) -> io::Result<()> {
        let path = run_dir.join(FILE);
        let new = path.with_extension("json.new");
        let mut file = fs::File::create(&new)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        drop(file);
        fs::rename(new, path)
    }

    pub(super) fn verdict(&self, identity: &str) -> Option<Verdict> {
        self.verdicts.get(identity).cloned()
    }

    pub(super) fn standing(&self, key: &BindingKey) -> Standing {
        self.standings.get(&key.to_string()).copied().unwrap_or_default()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
