//! What is read from the disk, within bounds: the names in the directory, one file's bytes, the directory's
//! identity. Every function is a few system calls and never waits on a pipe or a device.

use std::collections::BTreeMap;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

/// A file's name inside the manifests directory.
pub type FileName = Arc<str>;

/// Largest manifest file, in bytes.
pub const MAX_BYTES: u64 = 8 * 1024 * 1024;

/// Most manifest files in one directory; those after (by name) are not read.
pub const MAX_FILES: usize = 100_000;

/// Tells one state of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Signature {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Signature {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// What reading one file gave.
#[derive(Debug)]
pub enum Content {
    /// The bytes, and what the file looked like just before they were read.
    Bytes(Vec<u8>, Signature),
    /// There is no such file (any more).
    Vanished,
    /// It is there and cannot be used; says why. The signature, where there is one, tells when to try again.
    Failed(String, Option<Signature>),
}

/// What the directory holds.
#[derive(Debug, Default)]
pub struct Listing {
    /// The manifests and their signatures; `None` where a file cannot even be looked at (a dangling link).
    pub files: BTreeMap<FileName, Option<Signature>>,
    /// How many manifests there are beyond [`MAX_FILES`].
    pub beyond: usize,
    /// Names that look like manifests but are not valid UTF-8.
    pub unreadable_names: Vec<String>,
}

/// Which directory a path leads to at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryId {
    device: u64,
    inode: u64,
}

/// Whether a file of this name is read: `*.yaml`, `*.yml` or `*.json`, no dotfile, no editor's backup or lock file.
pub fn is_manifest(name: &str) -> bool {
    let Some((stem, extension)) = name.rsplit_once('.') else { return false };
    !stem.is_empty() && !name.starts_with(['.', '#']) && matches!(extension, "yaml" | "yml" | "json")
}

/// The identity of the directory that the path leads to now.
pub fn directory_id(directory: &Path) -> io::Result<DirectoryId> {
    let metadata = std::fs::metadata(directory)?;
    if !metadata.is_dir() {
        return Err(io::Error::new(io::ErrorKind::NotADirectory, "it is not a directory"));
    }
    Ok(DirectoryId { device: metadata.dev(), inode: metadata.ino() })
}

/// Lists the manifests in a directory: no recursion, links followed.
pub fn list(directory: &Path) -> io::Result<Listing> {
    let mut listing = Listing::default();
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        match entry?.file_name().into_string() {
            Ok(name) if is_manifest(&name) => names.push(name),
            Ok(_) => {}
            Err(name) => {
                let name = name.to_string_lossy().into_owned();
                if is_manifest(&name) {
                    listing.unreadable_names.push(name);
                }
            }
        }
    }
    names.sort_unstable();
    listing.beyond = names.len().saturating_sub(MAX_FILES);
    for name in names.into_iter().take(MAX_FILES) {
        let signature = match std::fs::metadata(directory.join(&name)) {
            // Directories are listed by name only: a folder `web.yaml/` is no manifest and no mistake.
            Ok(metadata) if metadata.is_dir() => continue,
            Ok(metadata) => Some(Signature::of(&metadata)),
            Err(_) => None,
        };
        listing.files.insert(name.into(), signature);
    }
    Ok(listing)
}

/// What a file looks like now; none when it cannot be looked at.
pub fn signature(directory: &Path, name: &str) -> Option<Signature> {
    std::fs::metadata(directory.join(name)).ok().map(|metadata| Signature::of(&metadata))
}

/// Reads one file whole. Links are followed; what is not a regular file, or is larger than [`MAX_BYTES`], is refused.
pub fn read(directory: &Path, name: &str) -> Content {
    let path = directory.join(name);
    // Without O_NONBLOCK, opening a named pipe would wait for a writer for ever.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(&path);
    let mut file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // A dangling link is there, and somebody's mistake; only a name that is gone has vanished.
            return if std::fs::symlink_metadata(&path).is_ok() {
                Content::Failed("a link that leads nowhere".into(), None)
            } else {
                Content::Vanished
            };
        }
        Err(error) => {
            let signature = std::fs::metadata(&path).ok().map(|metadata| Signature::of(&metadata));
            return Content::Failed(format!("cannot be opened: {error}"), signature);
        }
    };
    match read_open(&mut file) {
        Ok(content) => content,
        Err(error) => Content::Failed(format!("cannot be read: {error}"), None),
    }
}

fn read_open(file: &mut File) -> io::Result<Content> {
    let metadata = file.metadata()?;
    let signature = Signature::of(&metadata);
    if !metadata.is_file() {
        let what = if metadata.is_dir() { "a directory" } else { "a pipe, socket or device" };
        return Ok(Content::Failed(format!("is {what}, not a file of manifests"), Some(signature)));
    }
    let mut bytes =
        Vec::with_capacity(usize::try_from(metadata.len().min(MAX_BYTES)).unwrap_or_default() + 1);
    // The size may lie (it grows while being read), so the reading itself is bounded.
    let length = file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if length as u64 > MAX_BYTES {
        let size = metadata.len().max(length as u64);
        return Ok(Content::Failed(
            format!(
                "is {size} bytes; a file of manifests may have {MAX_BYTES} (8 MiB): split it into several files"
            ),
            Some(signature),
        ));
    }
    Ok(Content::Bytes(bytes, signature))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn names_that_are_manifests() {
        let table = [
            ("web.yaml", true),
            ("web.yml", true),
            ("web.json", true),
            ("10-web.v2.yaml", true),
            (".web.yaml", false),
            (".yaml", false),
            ("..data", false),
            ("web.yaml~", false),
            ("#web.yaml", false),
            ("#web.yaml#", false),
            (".#web.yaml", false),
            (".web.yaml.swp", false),
            ("web.yaml.bak", false),
            ("web.YAML", false),
            ("yaml", false),
            ("README.md", false),
            ("", false),
        ];
        for (name, expected) in table {
            assert_eq!(is_manifest(name), expected, "{name}");
        }
    }

    #[test]
    fn lists_sorted_and_follows_links_as_config_maps_are_mounted() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::create_dir(at("..2026_1")).unwrap();
        std::fs::write(at("..2026_1/b.yaml"), "b").unwrap();
        symlink("..2026_1", at("..data")).unwrap();
        symlink("..data/b.yaml", at("b.yaml")).unwrap();
        std::fs::write(at("a.yaml"), "a").unwrap();
        std::fs::write(at("notes.txt"), "n").unwrap();
        std::fs::create_dir(at("folder.yaml")).unwrap();
        let listing = list(directory.path()).unwrap();
        assert_eq!(listing.files.keys().map(AsRef::as_ref).collect::<Vec<_>>(), ["a.yaml", "b.yaml"]);
        assert!(matches!(read(directory.path(), "b.yaml"), Content::Bytes(bytes, _) if bytes == b"b"));
    }

    #[test]
    fn another_content_has_another_signature() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a.yaml"), "a").unwrap();
        let before = list(directory.path()).unwrap().files["a.yaml"];
        std::fs::write(directory.path().join("a.tmp"), "b").unwrap();
        std::fs::rename(directory.path().join("a.tmp"), directory.path().join("a.yaml")).unwrap();
        assert_ne!(before, list(directory.path()).unwrap().files["a.yaml"]);
    }

    #[test]
    fn refuses_what_cannot_be_manifests() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let file = File::create(at("large.yaml")).unwrap();
        file.set_len(10 * 1024 * 1024).unwrap();
        nix::unistd::mkfifo(&at("pipe.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::fs::create_dir(at("folder.yaml")).unwrap();
        symlink("nowhere", at("dangling.yaml")).unwrap();
        let table = [
            ("large.yaml", "is 10485760 bytes; a file of manifests may have 8388608 (8 MiB)"),
            ("pipe.yaml", "is a pipe, socket or device"),
            ("folder.yaml", "is a directory"),
            ("dangling.yaml", "a link that leads nowhere"),
        ];
        for (name, expected) in table {
            let Content::Failed(message, _) = read(directory.path(), name) else { panic!("{name} was read") };
            assert!(message.starts_with(expected), "{name}: {message}");
        }
        assert!(matches!(read(directory.path(), "absent.yaml"), Content::Vanished));
    }

    #[test]
    fn an_unreadable_file_says_why() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret.yaml");
        std::fs::write(&path, "a").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
        match read(directory.path(), "secret.yaml") {
            Content::Failed(message, Some(_)) => assert!(message.contains("Permission denied"), "{message}"),
            // The superuser reads it all the same.
            Content::Bytes(..) => assert!(nix::unistd::geteuid().is_root()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_directory_that_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(directory_id(&file).unwrap_err().to_string().contains("not a directory"));
        assert_eq!(
            directory_id(&directory.path().join("absent")).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        assert!(directory_id(directory.path()).is_ok());
    }
}
