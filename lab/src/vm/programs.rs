//! Programs of the host for the machine: stripped once, copied into its memory, found again by what they were made from.
//!
//! Run from the host's files they would be slow to load, and a program that is rebuilt while it runs would change under it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use super::dir::StateDir;

/// Versions of a program that are kept.
const KEPT: usize = 2;

/// A program as the machine gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its name.
    pub name: String,
    /// What it was made from: a hash over the original's identity (device, inode, size, times).
    pub key: String,
    /// The stripped copy.
    pub stripped: PathBuf,
}

/// This program, and the agent beside it when it has been built.
pub fn own(dir: &StateDir) -> Result<Vec<Program>> {
    let lab = std::env::current_exe().context("finding the running program")?;
    let mut programs = vec![prepare_own(dir, &lab)?];
    let agent = lab.with_file_name("bascule-agent");
    if agent.is_file() {
        programs.push(prepare(dir, &agent)?);
    }
    Ok(programs)
}

/// The running program, which a rebuild may have replaced: then its file is still there behind `/proc/self/exe`.
fn prepare_own(dir: &StateDir, lab: &Path) -> Result<Program> {
    if lab.is_file() {
        prepare(dir, lab)
    } else {
        prepare_from(dir, Path::new("/proc/self/exe"), "bascule-lab")
    }
}

/// Strips a program, unless that has been done.
pub fn prepare(dir: &StateDir, original: &Path) -> Result<Program> {
    let name = original.file_name().context("a program has a name")?.to_string_lossy().into_owned();
    prepare_from(dir, original, &name)
}

fn prepare_from(dir: &StateDir, original: &Path, name: &str) -> Result<Program> {
    let metadata = fs::metadata(original).with_context(|| format!("looking at {}", original.display()))?;
    let mut hash = Sha256::new();
    for number in [metadata.dev(), metadata.ino(), metadata.size()] {
        hash.update(number.to_le_bytes());
    }
    for number in [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()] {
        hash.update(number.to_le_bytes());
    }
    let key: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let folder = dir.programs().join(name);
    let stripped = folder.join(&key);
    if !stripped.is_file() {
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let temporary = folder.join(format!("{key}.{}", std::process::id()));
        strip(original, &temporary)?;
        fs::rename(&temporary, &stripped).with_context(|| format!("naming {}", stripped.display()))?;
        forget_old(&folder, &key);
    }
    Ok(Program { name: name.to_owned(), key, stripped })
}

/// Strips with binutils where they are installed; what cannot be stripped is copied.
fn strip(from: &Path, to: &Path) -> Result<()> {
    let stripped = Command::new("strip")
        .arg("-o")
        .arg(to)
        .arg(from)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !stripped {
        fs::copy(from, to).with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    }
    Ok(())
}

fn forget_old(folder: &Path, newest: &str) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut versions: Vec<(std::time::SystemTime, PathBuf)> = entries
        .flatten()
        .filter(|entry| entry.file_name() != newest)
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    versions.sort();
    for (_, path) in versions.iter().rev().skip(KEPT - 1) {
        let _ = fs::remove_file(path);
    }
}

/// The name of a set of programs: it changes when any of them does.
pub fn set_key(programs: &[Program]) -> String {
    let mut hash = Sha256::new();
    for program in programs {
        hash.update(program.name.as_bytes());
        hash.update(program.key.as_bytes());
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_prepared_once_and_anew_when_it_changes() {
        let base = tempfile::tempdir().expect("a temporary directory");
        let dir = StateDir::open_at(&base.path().join("vm")).expect("a short path");
        let program = base.path().join("tool");
        fs::write(&program, "#!/bin/sh\n").expect("writable");
        let first = prepare(&dir, &program).expect("prepared");
        assert_eq!(fs::read(&first.stripped).expect("copied"), b"#!/bin/sh\n");
        assert_eq!(prepare(&dir, &program).expect("known"), first);
        for version in 0..4 {
            // As a compiler does it: a new file under the old name.
            fs::remove_file(&program).expect("there");
            fs::write(&program, format!("#!/bin/sh\n# {version}\n")).expect("writable");
            let next = prepare(&dir, &program).expect("prepared");
            assert_ne!(next.key, first.key);
            assert_eq!(
                fs::read_to_string(&next.stripped).expect("copied"),
                format!("#!/bin/sh\n# {version}\n")
            );
            assert_ne!(set_key(&[next]), set_key(std::slice::from_ref(&first)));
        }
        let kept = fs::read_dir(dir.programs().join("tool")).expect("there").count();
        assert_eq!(kept, KEPT);
    }
}
