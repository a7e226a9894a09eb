//! What the programs of the nodes logged, and when: the sizes of the log files are noted as they grow.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::expect::Span;
use crate::world::now;

/// As many sizes are noted of one file; what grows after that counts as grown at the last of them.
const MAX_NOTED: usize = 100_000;
/// As much of a file is read at once, in bytes.
const MAX_READ: u64 = 16 << 20;
/// As much of a file's end is looked at for its last lines, in bytes.
const MAX_TAIL: u64 = 64 << 10;

/// The log files of a run: `FOLDER/NODE/PROGRAM.log`.
pub(super) struct Logs {
    folder: PathBuf,
    sizes: Mutex<BTreeMap<PathBuf, Vec<(u64, u64)>>>,
}

/// A line of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Whose: `NODE/PROGRAM`.
    pub(super) of: String,
    /// The line.
    pub(super) text: String,
}

impl Logs {
    /// The logs in a folder.
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, sizes: Mutex::default() }
    }

    /// Notes the sizes of all files.
    pub(super) fn look(&self) {
        let at = now();
        let mut sizes = self.sizes.lock().unwrap_or_else(PoisonError::into_inner);
        for path in files(&self.folder) {
            let Ok(metadata) = std::fs::metadata(&path) else { continue };
            let noted = sizes.entry(path).or_default();
            if noted.last().is_none_or(|(_, size)| *size < metadata.len()) && noted.len() < MAX_NOTED {
                noted.push((at, metadata.len()));
            }
        }
    }

    /// What a program wrote in a part of the run, to within the distance of two looks.
    pub(super) fn written(&self, node: &str, program: &str, span: Span) -> Vec<String> {
        self.part(&self.folder.join(node).join(format!("{program}.log")), span)
    }

    fn part(&self, path: &Path, span: Span) -> Vec<String> {
        let (from, to) = {
            let sizes = self.sizes.lock().unwrap_or_else(PoisonError::into_inner);
            let noted = sizes.get(path).map_or(&[][..], Vec::as_slice);
            // A size that was noted at some time had been reached by then.
            let size_at = |time: u64| {
                let count = noted.partition_point(|(at, _)| *at <= time);
                if count == 0 { 0 } else { noted[count - 1].1 }
            };
            (size_at(span.since), size_at(span.until))
        };
        read(path, from, to).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// The last lines that each server, agent and peer wrote around a time.
    pub(super) fn around(&self, span: Span, most: usize) -> Vec<Line> {
        let mut lines = Vec::new();
        // What the lab's own clients and captures say is in their records.
        let own = |path: &PathBuf| {
            let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
            name.starts_with("load-") || name.starts_with("capture-")
        };
        for path in files(&self.folder).into_iter().filter(|path| !own(path)) {
            let name = |path: Option<&Path>| {
                path.and_then(Path::file_stem).map(|name| name.to_string_lossy().into_owned())
            };
            let of =
                [name(path.parent()), name(Some(&path))].into_iter().flatten().collect::<Vec<_>>().join("/");
            let part = self.part(&path, span);
            let skipped = part.len().saturating_sub(most);
            lines.extend(part.into_iter().skip(skipped).map(|text| Line { of: of.clone(), text }));
        }
        lines
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = |folder: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).into_iter().flatten();
        let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.sort();
        paths
    };
    entries(folder)
        .iter()
        .flat_map(|node| entries(node))
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect()
}

/// The last lines of a program's log.
pub(super) fn last(folder: &Path, node: &str, program: &str, most: usize) -> Vec<String> {
    let path = folder.join(node).join(format!("{program}.log"));
    let size = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
    let text = read(&path, size.saturating_sub(MAX_TAIL), size).unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(most)..].iter().map(|line| (*line).to_owned()).collect()
}

fn read(path: &Path, from: u64, to: u64) -> std::io::Result<String> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = std::fs::File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(to.saturating_sub(from).min(MAX_READ)).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_belong_to_the_time_in_which_they_came() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dir1/agent.log");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let logs = Logs::new(folder.path().to_owned());
        std::fs::write(&path, "one\n").unwrap();
        logs.look();
        let middle = now();
        std::fs::write(&path, "one\ntwo\nthree\n").unwrap();
        logs.look();
        let all = Span { since: 0, until: now() };
        assert_eq!(logs.written("dir1", "agent", all), ["one", "two", "three"]);
        assert_eq!(logs.written("dir1", "agent", Span { since: middle, until: now() }), ["two", "three"]);
        assert_eq!(logs.written("dir1", "agent", Span { since: 0, until: middle }), ["one"]);
        assert!(logs.written("dir2", "agent", all).is_empty());
        let last = logs.around(all, 1);
        assert_eq!(last, [Line { of: "dir1/agent".into(), text: "three".into() }]);
        assert_eq!(super::last(folder.path(), "dir1", "agent", 2), ["two", "three"]);
        assert!(super::last(folder.path(), "dir2", "agent", 2).is_empty());
    }
}
