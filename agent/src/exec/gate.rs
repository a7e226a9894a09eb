//! What may be run: nothing that somebody else than root and the agent's own user could have put there.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use nix::unistd::Uid;

use super::ExecError;

/// Symbolic links followed from the program's name, as the kernel limits them (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Writable by the group or by all.
const WRITABLE: u32 = 0o022;
/// Only the owner of an entry can replace it (`S_ISVTX`, inode(7)).
const STICKY: u32 = 0o1000;
/// Executable by anybody.
const EXECUTABLE: u32 = 0o111;

/// The program `name` of `directory`, as a path without symbolic links, after everything on the way was looked at.
pub(super) fn admit(directory: &Path, name: &str, own: Uid) -> Result<PathBuf, ExecError> {
    if name.is_empty() || name.contains(['/', '\0']) || name == "." || name == ".." {
        return Err(refused(
            Path::new(name),
            format!("a program is named by its base name; it is looked for in {}", directory.display()),
        ));
    }
    let mut path = trusted_directory(directory, own)?.join(name);
    for _ in 0..MAX_LINKS {
        let found = fs::symlink_metadata(&path).map_err(|error| unreadable(&path, &error))?;
        owned(&path, &found, own)?;
        if !found.is_symlink() {
            return program(path, &found);
        }
        // Whoever can replace a link on the way chooses what is run, so that each has to be out of reach.
        let target = fs::read_link(&path).map_err(|error| unreadable(&path, &error))?;
        let target = path.parent().unwrap_or(Path::new("/")).join(target);
        let (Some(parent), Some(base)) = (target.parent(), target.file_name()) else {
            return Err(refused(&path, "the symbolic link leads to no program".into()));
        };
        path = resolve(parent, own)?.join(base);
    }
    Err(refused(&directory.join(name), "too many symbolic links".into()))
}

/// The directory without symbolic links, if nobody else can write into it.
pub(super) fn trusted_directory(directory: &Path, own: Uid) -> Result<PathBuf, ExecError> {
    let path = resolve(directory, own)?;
    let found = fs::symlink_metadata(&path).map_err(|error| unreadable(&path, &error))?;
    if !found.is_dir() {
        return Err(refused(&path, "--allow-exec wants a directory".into()));
    }
    not_writable(&path, &found)?;
    Ok(path)
}

/// The path of a directory without symbolic links, with every directory on it looked at from the root on.
fn resolve(directory: &Path, own: Uid) -> Result<PathBuf, ExecError> {
    let path = fs::canonicalize(directory).map_err(|error| unreadable(directory, &error))?;
    let mut so_far = PathBuf::new();
    for component in path.components() {
        so_far.push(component);
        if component == Component::CurDir {
            continue;
        }
        let found = fs::symlink_metadata(&so_far).map_err(|error| unreadable(&so_far, &error))?;
        owned(&so_far, &found, own)?;
        // In a directory as /tmp nobody can replace what others own, and the next one's owner is looked at in turn.
        if found.mode() & STICKY == 0 {
            not_writable(&so_far, &found)?;
        }
    }
    Ok(path)
}

fn program(path: PathBuf, found: &Metadata) -> Result<PathBuf, ExecError> {
    if !found.is_file() {
        return Err(refused(&path, "is no regular file, and so no program".into()));
    }
    not_writable(&path, found)?;
    if found.mode() & EXECUTABLE == 0 {
        return Err(refused(&path, "is not executable; chmod 755 it".into()));
    }
    Ok(path)
}

fn owned(path: &Path, found: &Metadata, own: Uid) -> Result<(), ExecError> {
    if found.uid() == 0 || found.uid() == own.as_raw() {
        return Ok(());
    }
    Err(refused(
        path,
        format!(
            "belongs to user {}, who could have programs of his own run by the agent; chown it to root",
            found.uid()
        ),
    ))
}

fn not_writable(path: &Path, found: &Metadata) -> Result<(), ExecError> {
    if found.mode() & WRITABLE == 0 {
        return Ok(());
    }
    Err(refused(
        path,
        format!(
            "can be written by others (mode {:o}), who could have programs of their own run by the agent; chmod go-w it",
            found.mode() & 0o7777
        ),
    ))
}

fn unreadable(path: &Path, error: &std::io::Error) -> ExecError {
    let why = match error.kind() {
        std::io::ErrorKind::NotFound => "is not there".to_owned(),
        _ => error.to_string(),
    };
    refused(path, why)
}

fn refused(path: &Path, why: String) -> ExecError {
    ExecError::Refused { path: path.to_owned(), why }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    use nix::unistd::geteuid;

    use super::*;

    fn write(path: &Path, mode: u32) {
        fs::write(path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// What `admit` says of a name after a preparation in a directory of its own; `None` if it is admitted.
    fn verdict(name: &str, prepare: impl Fn(&Path)) -> Option<String> {
        let outer = tempfile::tempdir().unwrap();
        let directory = outer.path().join("programs");
        fs::create_dir(&directory).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
        write(&directory.join("good"), 0o755);
        prepare(&directory);
        admit(&directory, name, geteuid()).err().map(|error| error.to_string())
    }

    #[test]
    fn what_others_could_have_changed_is_refused() {
        type Prepare = fn(&Path);
        let cases: [(&str, Prepare, Option<&str>); 14] = [
            ("good", |_| {}, None),
            ("absent", |_| {}, Some("is not there")),
            ("", |_| {}, Some("base name")),
            ("../programs/good", |_| {}, Some("base name")),
            ("..", |_| {}, Some("base name")),
            ("p", |d| write(&d.join("p"), 0o775), Some("chmod go-w")),
            ("p", |d| write(&d.join("p"), 0o757), Some("chmod go-w")),
            ("p", |d| write(&d.join("p"), 0o644), Some("chmod 755")),
            ("p", |d| fs::create_dir(d.join("p")).unwrap(), Some("no regular file")),
            ("p", |d| symlink("good", d.join("p")).unwrap(), None),
            ("p", |d| symlink("p", d.join("p")).unwrap(), Some("too many symbolic links")),
            (
                "p",
                |d| {
                    write(&d.parent().unwrap().join("other"), 0o777);
                    symlink("../other", d.join("p")).unwrap();
                },
                Some("other: can be written by others (mode 777)"),
            ),
            (
                "good",
                |d| fs::set_permissions(d, fs::Permissions::from_mode(0o775)).unwrap(),
                Some("chmod go-w"),
            ),
            // Sticky is enough for a directory on the way, not for this one.
            (
                "good",
                |d| fs::set_permissions(d, fs::Permissions::from_mode(0o1777)).unwrap(),
                Some("chmod go-w"),
            ),
        ];
        for (index, (name, prepare, expected)) in cases.into_iter().enumerate() {
            let said = verdict(name, prepare);
            match (&said, expected) {
                (None, None) => {}
                (Some(said), Some(expected)) if said.contains(expected) => {}
                _ => panic!("case {index}, {name}: {said:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn what_belongs_to_others_is_refused() {
        if !geteuid().is_root() {
            eprintln!("not run here: only root gives files away");
            return;
        }
        let other = Some(4242);
        for (what, prepare) in [
            (
                "program",
                Box::new(|d: &Path| chown(d.join("good"), other, other).unwrap()) as Box<dyn Fn(&Path)>,
            ),
            ("directory", Box::new(|d: &Path| chown(d, other, other).unwrap())),
            ("directory above", Box::new(|d: &Path| chown(d.parent().unwrap(), other, other).unwrap())),
        ] {
            let said = verdict("good", prepare);
            assert!(
                said.as_deref().is_some_and(|said| said.contains("belongs to user 4242")),
                "{what}: {said:?}"
            );
        }
    }
}
