//! The keys in force on the disk: one file, that its owner alone can read, put in place in one step.

use std::fs::{DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use k8s_openapi::ByteString;
use serde::{Deserialize, Serialize};

use super::key::{Bytes, Named};

/// Its name in the state directory.
pub const FILE: &str = "vrrp-secrets.json";

/// The form that this version writes and knows.
const FORMAT: u32 = 1;
/// Largest that is read, in bytes: 64 keys are far less.
const MAX_BYTES: u64 = 1 << 20;

/// A key that was in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Which, and what for.
    pub named: Named,
    /// The Secret's version.
    pub version: String,
    /// The key.
    pub bytes: Bytes,
}

/// As it is written. It has bytes that nothing may show: no Debug.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Form {
    format: u32,
    keys: Vec<Line>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    #[serde(flatten)]
    named: Named,
    resource_version: String,
    /// In base64.
    value: ByteString,
}

/// The keys of a state directory; none where there is no file. The error says what is wrong, and nothing of what stands there.
pub fn load(directory: &Path) -> Result<Vec<Kept>, String> {
    let path = directory.join(FILE);
    let fail = |why: String| {
        format!(
            "{}: {why}; VRRP groups whose keys are in Secrets begin when the API server answers",
            path.display()
        )
    };
    let file = match File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(fail(error.to_string())),
    };
    let metadata = file.metadata().map_err(|error| fail(error.to_string()))?;
    if !metadata.is_file() || metadata.mode() & 0o077 != 0 {
        return Err(fail("is no file that its owner alone can use (mode 0600), and is not believed".into()));
    }
    let mut text = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut text).map_err(|error| fail(error.to_string()))?;
    // What the parser says may hold a piece of what it read.
    let form: Option<Form> = serde_json::from_slice(&text).ok().filter(|form: &Form| form.format == FORMAT);
    let form = form.ok_or_else(|| fail("is damaged, or of another version of the agent".into()))?;
    let kept = |Line { named, resource_version: version, value }| {
        let bytes = Bytes::new(value.0);
        Kept { named, version, bytes }
    };
    Ok(form.keys.into_iter().map(kept).collect())
}

/// Makes these the keys of a state directory, on the disk. Without any there is no file.
pub fn save(directory: &Path, keys: &[Kept]) -> io::Result<()> {
    if keys.is_empty() {
        return forget(directory);
    }
    let line = |kept: &Kept| Line {
        named: kept.named.clone(),
        resource_version: kept.version.clone(),
        value: ByteString(kept.bytes.expose().to_vec()),
    };
    let form = Form { format: FORMAT, keys: keys.iter().map(line).collect() };
    let text = serde_json::to_vec(&form)?;
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let beside = directory.join(format!("{FILE}.new"));
    // One that is left from a crash may have another mode, or be somebody's link.
    remove(&beside)?;
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(&text)?;
    file.sync_all()?;
    std::fs::rename(&beside, directory.join(FILE))?;
    File::open(directory)?.sync_all()
}

/// No keys are kept any more.
pub fn forget(directory: &Path) -> io::Result<()> {
    remove(&directory.join(format!("{FILE}.new")))?;
    remove(&directory.join(FILE))
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
