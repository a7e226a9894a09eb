//! The folders that results go to. What is in them from an earlier run goes; what is not the lab's own stays.

use std::io;
use std::path::{Path, PathBuf};

/// The file by which a folder is known as one of results.
pub(super) const RESULT: &str = "result.json";
/// The largest `result.json` that is taken for one, in bytes.
const MAX_RESULT: u64 = 64 << 20;

/// The results of the `run`-th time, from 1, that a scenario is played: `OUT/NAME`, then `OUT/NAME.2` and so on.
pub(crate) fn folder(out: &Path, name: &str, run: u32) -> PathBuf {
    if run <= 1 { out.join(name) } else { out.join(format!("{name}.{run}")) }
}

/// Why results must not go there, if they must not: a file, or a folder with things in it that no run left there.
///
/// # Errors
/// When it cannot be looked at.
pub(crate) fn refusal(folder: &Path) -> io::Result<Option<String>> {
    let metadata = match std::fs::symlink_metadata(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    if !metadata.is_dir() {
        return Ok(Some(format!("{} is not a folder; results would have to go there", folder.display())));
    }
    let empty = std::fs::read_dir(folder)?.next().is_none();
    Ok((!empty && !is_result(&folder.join(RESULT))).then(|| {
        format!(
            "{} is not a result folder of bascule-lab, and its contents would be lost; give another --out",
            folder.display()
        )
    }))
}

/// Whether a file is what a run wrote.
fn is_result(path: &Path) -> bool {
    let plain = |path: &Path| {
        std::fs::symlink_metadata(path)
            .is_ok_and(|metadata| metadata.is_file() && metadata.len() <= MAX_RESULT)
    };
    let text =
        |value: &serde_json::Value, key: &str| value.get(key).is_some_and(serde_json::Value::is_string);
    plain(path)
        && std::fs::read(path)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok())
            .is_some_and(|value| text(&value, "name") && text(&value, "verdict"))
}

/// Removes the results of an earlier run, which would be taken for those of the next.
///
/// # Errors
/// When it is something else ([`refusal`]), or cannot be removed.
pub(crate) fn clear(folder: &Path) -> io::Result<()> {
    if let Some(why) = refusal(folder)? {
        return Err(io::Error::other(why));
    }
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes a file that may not be there.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_results_are_cleared() {
        let out = tempfile::tempdir().unwrap();
        let at = |name: &str| out.path().join(name);
        clear(&at("not-there")).unwrap();
        std::fs::create_dir(at("empty")).unwrap();
        clear(&at("empty")).unwrap();
        assert!(!at("empty").exists());

        std::fs::create_dir_all(at("ours/logs/SRV1")).unwrap();
        std::fs::write(at("ours/result.json"), r#"{"name": "ours", "verdict": "passed"}"#).unwrap();
        clear(&at("ours")).unwrap();
        assert!(!at("ours").exists());

        std::fs::create_dir(at("docs")).unwrap();
        std::fs::write(at("docs/README.md"), "much work").unwrap();
        for result in [None, Some("{}"), Some("not JSON")] {
            if let Some(text) = result {
                std::fs::write(at("docs/result.json"), text).unwrap();
            }
            let error = clear(&at("docs")).unwrap_err().to_string();
            assert!(error.contains("is not a result folder"), "{error}");
        }
        std::fs::write(at("file"), "much work").unwrap();
        assert!(clear(&at("file")).unwrap_err().to_string().contains("is not a folder"));
        std::os::unix::fs::symlink(at("docs"), at("link")).unwrap();
        assert!(clear(&at("link")).is_err(), "a link is somebody's");
        assert_eq!(std::fs::read_to_string(at("docs/README.md")).unwrap(), "much work");
    }

    #[test]
    fn repetitions_have_folders_of_their_own() {
        let out = Path::new("/out");
        assert_eq!(folder(out, "udp", 1), Path::new("/out/udp"));
        assert_eq!(folder(out, "udp", 3), Path::new("/out/udp.3"));
    }
}
