//! Verdicts that survive the agent: in a file of the run directory, which a reboot empties.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use bascule_checks_core::Verdict;
use bascule_checks_core::pool::Standing;
use bascule_compile::BindingKey;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::before::Before;
use super::spec::Key;

/// Name of the file.
pub(super) const FILE: &str = "checks.json";
/// Larger files are not ours, in bytes.
const MAX_FILE: u64 = 256 * 1024 * 1024;

/// What another process needs to go on.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Kept {
    /// Which start of the machine it is of: its clock says nothing to another.
    boot: String,
    /// By subject and rhythm.
    verdicts: BTreeMap<String, BTreeMap<String, Verdict>>,
    services: BTreeMap<String, KeptService>,
}

/// Which start of the machine this is; empty where that cannot be told.
pub(super) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Of one virtual service.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct KeptService {
    /// Whether its quorum was met.
    pub(super) standing: Standing,
    /// What its real servers were.
    pub(super) servers: Before,
}

/// What tells a probe from others in another process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// What it asks, and whom.
    subject: String,
    /// In which rhythm: of one subject there is a verdict for each.
    rhythm: String,
}

impl Identity {
    /// Some microseconds of work.
    pub(super) fn of(key: &Key) -> Self {
        Self { subject: digest(&format!("{:?}", key.subject)), rhythm: digest(&format!("{:?}", key.timings)) }
    }
}

fn digest(text: &str) -> String {
    let digest = Sha256::digest(text);
    digest[..16].iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl Kept {
    pub(super) fn new(
        boot: &str,
        all: impl Iterator<Item = (Identity, Verdict)>,
        services: impl Iterator<Item = (String, KeptService)>,
    ) -> Self {
        let mut verdicts: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for (identity, verdict) in all {
            verdicts.entry(identity.subject).or_default().insert(identity.rhythm, verdict);
        }
        Self { boot: boot.to_owned(), verdicts, services: services.collect() }
    }

    /// What was kept since this start of the machine; nothing if that cannot be read, and why.
    pub(super) fn read(run_dir: &Path, boot: &str) -> (Self, Option<String>) {
        let path = run_dir.join(FILE);
        let nothing = || Self { boot: boot.to_owned(), ..Self::default() };
        let text = match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() && metadata.len() <= MAX_FILE => fs::read(&path),
            Ok(_) => return (nothing(), None),
            Err(error) => Err(error),
        };
        let kept = match text {
            Ok(text) => serde_json::from_slice::<Self>(&text).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return (nothing(), None),
            Err(error) => Err(error),
        };
        match kept {
            Ok(kept) if kept.boot == boot => (kept, None),
            // The run directory is one that a reboot does not empty.
            Ok(_) => (nothing(), None),
            Err(error) => (nothing(), Some(format!("{}: {error}; checks begin anew", path.display()))),
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

    /// The verdict of a probe, or of one that asked the same in another rhythm.
    pub(super) fn verdict(&self, identity: &Identity) -> Option<&Verdict> {
        let rhythms = self.verdicts.get(&identity.subject)?;
        rhythms.get(&identity.rhythm).or_else(|| rhythms.values().next())
    }

    /// Whether the quorum of a service was met; none where it is not known.
    pub(super) fn standing(&self, key: &BindingKey) -> Option<Standing> {
        self.services.get(&key.to_string()).map(|service| service.standing)
    }

    pub(super) fn before(&self, key: &BindingKey) -> Before {
        self.services.get(&key.to_string()).map(|service| service.servers.clone()).unwrap_or_default()
    }

    /// Which start of the machine it is of.
    pub(super) fn boot(&self) -> &str {
        &self.boot
    }

    pub(super) fn clear(&mut self) {
        self.verdicts.clear();
        self.services.clear();
    }
}
