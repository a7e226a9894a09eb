//! Keys, in files or in Secrets of the cluster: both are judged alike.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
};

use bascule_crds::common::SecretSource;

use crate::secrets::{Secrets, Usage, key};

/// The bytes of a key or password. One line feed at its end is an editor's, not the key's.
pub(crate) fn read(secrets: &Secrets, source: &SecretSource, usage: Usage) -> Result<Vec<u8>, String> {
    match (&source.file, &source.secret_ref) {
        (Some(path), _) => read_file(path),
        (None, Some(reference)) => secrets.read(reference, usage),
        (None, None) => Err("it names neither a file nor a Secret".to_owned()),
    }
}

fn read_file(path: &str) -> Result<Vec<u8>, String> {
    let fail = |error: io::Error| format!("{path}: {error}");
    // A FIFO in its place must not hold up whoever reads.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(fail)?;
    let metadata = file.metadata().map_err(fail)?;
    if !metadata.is_file() {
        return Err(format!("{path}: not a file"));
    }
    let others = metadata.mode() & 0o077;
    if others != 0 {
        return Err(format!(
            "{path}: others than its owner can use it (mode {:04o}): whoever has the key can take the addresses; chmod 600 {path}",
            metadata.mode() & 0o7777
        ));
    }
    let mut bytes = Vec::new();
    file.take(key::MAX as u64 + 1).read_to_end(&mut bytes).map_err(fail)?;
    key::content(bytes).map_err(|why| format!("{path}: {why}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn only_the_owner_may_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let source = |path: &std::path::Path| SecretSource {
            file: Some(path.to_str().unwrap().to_owned()),
            secret_ref: None,
        };
        let read = |source: &SecretSource| read(&Secrets::default(), source, Usage::Hmac);
        std::fs::write(&path, "0123456789abcdef0123456789abcdef\n").unwrap();
        for (mode, allowed) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o644, false)]
        {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let result = read(&source(&path));
            assert_eq!(result.is_ok(), allowed, "{mode:o}: {result:?}");
            if let Err(error) = result {
                assert!(error.contains("chmod 600"), "{error}");
            } else {
                assert_eq!(result.unwrap().len(), 32);
            }
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        for (content, wanted) in [(String::new(), "empty"), ("x".repeat(300), "longer")] {
            std::fs::write(&path, content).unwrap();
            assert!(read(&source(&path)).unwrap_err().contains(wanted));
        }
        assert!(read(&source(directory.path())).unwrap_err().contains("not a file"));
        assert!(read(&SecretSource { file: None, secret_ref: None }).is_err());
    }
}
