//! The journal's lines and its file.
//!
//! A line is `CHECKSUM TAB VERB TAB …`: `begin TAB 2 TAB RULES` first, then `put TAB KEY TAB FILE TAB LINE TAB SOURCE TAB
//! OBJECT` and `delete TAB KEY`; KEY and FILE are JSON strings, OBJECT is the object's JSON. SOURCE, 16 hexadecimal digits,
//! is the hash of the document that the object was read from (0: not known), so that it need not be judged again as long as
//! the same RULES judge. Format 1, which had neither, is still read. The checksum, the first 16 hexadecimal
//! digits of the SHA-256 of the rest of the line, tells a damaged line, which is left out and said.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::FILE;
use crate::manifests::FileName;
use crate::manifests::disk::MAX_BYTES;
use crate::manifests::examine::rules;

/// The format that this version writes.
const VERSION: u32 = 2;

/// Longest line that is read: an object that is a whole file, with what JSON and its defaults add to YAML, and its place.
const MAX_LINE: u64 = 4 * MAX_BYTES;

/// What a journal may grow by, in bytes, before it is worth writing it anew.
const SLACK: u64 = 1024 * 1024;

/// How many damaged lines are named one by one.
const MAX_NOTES: usize = 10;

/// An object as it was when it was last valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// The file that it came from.
    pub file: FileName,
    /// Its line there.
    pub line: usize,
    /// Hash of the document that says so; 0 when it is not known, or was judged by other rules.
    pub source: u64,
    /// Canonical JSON.
    pub json: Arc<str>,
}

/// What a journal held.
#[derive(Debug, Default)]
pub struct Loaded {
    /// By the object's reference as text (`VirtualService tp/web`).
    pub objects: BTreeMap<String, Saved>,
    /// What is the matter with the journal, for people; empty when it is whole or absent.
    pub notes: Vec<String>,
    /// It has to be written anew before anything is added.
    damaged: bool,
}

/// Reads the journal in a state directory. One that is absent is empty; what is damaged is left out and said.
pub fn load(directory: &Path) -> Loaded {
    let path = directory.join(FILE);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Loaded::default(),
        Err(error) => {
            let note = format!("the last good configuration cannot be read: {}: {error}", path.display());
            return Loaded { notes: vec![note], ..Loaded::default() };
        }
    };
    read(BufReader::new(file), &path)
}

fn read(mut reader: impl io::BufRead, path: &Path) -> Loaded {
    let mut loaded = Loaded::default();
    let mut damaged = 0_usize;
    let mut number = 0_usize;
    let mut line = Vec::new();
    let mut same_rules = true;
    loop {
        line.clear();
        number += 1;
        match (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => {
                loaded.damaged = true;
                loaded.notes.push(format!("{}:{number}: cannot be read further: {error}", path.display()));
                break;
            }
        }
        let whole = line.pop() == Some(b'\n');
        let record = whole.then(|| decode(&line)).flatten();
        match (record, number) {
            (Some(Record::Begin(VERSION, its)), 1) => same_rules = its == rules(),
            (Some(Record::Begin(1, _)), 1) => same_rules = false,
            (Some(Record::Begin(version, _)), 1) => {
                loaded.damaged = true;
                loaded.notes.push(format!(
                    "{}: the last good configuration is of format {version} and this version of the agent knows \
                     {VERSION}: it is not used",
                    path.display()
                ));
                break;
            }
            (_, 1) => {
                loaded.damaged = true;
                loaded.notes.push(format!(
                    "{}: not a last good configuration (or its beginning is damaged): it is not used",
                    path.display()
                ));
                break;
            }
            (Some(Record::Put(key, saved)), _) => {
                loaded.objects.insert(key, saved);
            }
            (Some(Record::Delete(key)), _) => {
                loaded.objects.remove(&key);
            }
            (Some(Record::Begin(..)) | None, _) => {
                loaded.damaged = true;
                damaged += 1;
                let cut = !whole && reader.fill_buf().is_ok_and(<[u8]>::is_empty);
                if cut {
                    // The machine went down while the line was written: expected, and nobody's fault.
                    loaded
                        .notes
                        .push(format!("{}:{number}: the last entry was cut off: left out", path.display()));
                } else if damaged <= MAX_NOTES {
                    loaded
                        .notes
                        .push(format!("{}:{number}: damaged: this entry is left out", path.display()));
                }
            }
        }
    }
    if !same_rules {
        // The forms are good as long as this version understands them; what was said of documents is not believed.
        loaded.damaged = true;
        loaded.objects.values_mut().for_each(|saved| saved.source = 0);
    }
    if damaged > MAX_NOTES {
        loaded.notes.push(format!("{}: {} more damaged entries", path.display(), damaged - MAX_NOTES));
    }
    loaded
}

#[derive(Debug, PartialEq)]
enum Record {
    /// Format and rules.
    Begin(u32, String),
    Put(String, Saved),
    Delete(String),
}

fn checksum(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    let mut sum = String::with_capacity(16);
    for byte in &digest[..8] {
        let _ = write!(sum, "{byte:02x}");
    }
    sum
}

fn encode(into: &mut String, rest: &str) {
    into.push_str(&checksum(rest));
    into.push('\t');
    into.push_str(rest);
    into.push('\n');
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn put_line(into: &mut String, key: &str, saved: &Saved) {
    let (key, file, Saved { line, source, json, .. }) = (quoted(key), quoted(&saved.file), saved);
    let rest = format!("put\t{key}\t{file}\t{line}\t{source:016x}\t{json}");
    encode(into, &rest);
}

fn delete_line(into: &mut String, key: &str) {
    encode(into, &format!("delete\t{}", quoted(key)));
}

fn decode(line: &[u8]) -> Option<Record> {
    let (sum, rest) = std::str::from_utf8(line).ok()?.split_once('\t')?;
    if checksum(rest) != sum {
        return None;
    }
    let (verb, rest) = rest.split_once('\t')?;
    match verb {
        "begin" => {
            let (version, rules) = rest.split_once('\t').unwrap_or((rest, ""));
            Some(Record::Begin(version.parse().ok()?, rules.to_owned()))
        }
        "delete" => Some(Record::Delete(serde_json::from_str(rest).ok()?)),
        "put" => {
            let mut parts = rest.splitn(4, '\t');
            let key = serde_json::from_str(parts.next()?).ok()?;
            let file: String = serde_json::from_str(parts.next()?).ok()?;
            let line = parts.next()?.parse().ok()?;
            // Format 1 has the object here. Its JSON has no tab.
            let last = parts.next()?;
            let (source, json) = match last.split_once('\t') {
                Some((source, json)) => (u64::from_str_radix(source, 16).ok()?, json),
                None => (0, last),
            };
            Some(Record::Put(key, Saved { file: file.into(), line, source, json: json.into() }))
        }
        _ => None,
    }
}

/// The journal being written.
#[derive(Debug)]
pub(super) struct Journal {
    directory: PathBuf,
    /// None: has to be written anew first.
    file: Option<File>,
    live: BTreeMap<String, Saved>,
    live_bytes: u64,
    bytes: u64,
}

impl Journal {
    /// Goes on with what was loaded. Touches nothing until the first [`Journal::append`].
    pub(super) fn new(directory: &Path, loaded: Loaded) -> Self {
        let path = directory.join(FILE);
        let live_bytes = loaded.objects.iter().map(|(key, saved)| size(key, saved)).sum();
        // A journal with damage, or none at all, is written anew.
        let file = (!loaded.damaged).then(|| OpenOptions::new().append(true).open(&path).ok()).flatten();
        let bytes = file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |metadata| metadata.len());
        let file = file.filter(|_| bytes > 0);
        Self { directory: directory.to_owned(), file, live: loaded.objects, live_bytes, bytes }
    }

    /// How many objects it holds.
    pub(super) fn objects(&self) -> usize {
        self.live.len()
    }

    /// Where it is.
    pub(super) fn path(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    /// Writes changes and has the disk hold them. After an error everything is written anew at the next call, so
    /// that the same changes may be given again.
    pub(super) fn append(&mut self, changes: &BTreeMap<String, Option<Saved>>) -> io::Result<()> {
        let mut text = String::new();
        for (key, change) in changes {
            if let Some(former) = self.live.remove(key) {
                self.live_bytes -= size(key, &former);
            } else if change.is_none() {
                continue;
            }
            match change {
                Some(saved) => {
                    put_line(&mut text, key, saved);
                    self.live_bytes += size(key, saved);
                    self.live.insert(key.clone(), saved.clone());
                }
                None => delete_line(&mut text, key),
            }
        }
        let grown = self.bytes + text.len() as u64;
        let Some(file) = self.file.as_mut().filter(|_| grown <= 2 * self.live_bytes + SLACK) else {
            return self.rewrite();
        };
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_data());
        if written.is_err() {
            // Half a line may be there now.
            self.file = None;
        }
        self.bytes = grown;
        written
    }

    /// Writes it anew, beside, and puts it in place in one step.
    fn rewrite(&mut self) -> io::Result<()> {
        self.file = None;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        let beside = self.directory.join(format!("{FILE}.new"));
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        let mut text = String::new();
        encode(&mut text, &format!("begin\t{VERSION}\t{}", rules()));
        let mut bytes = 0;
        for (key, saved) in &self.live {
            put_line(&mut text, key, saved);
            if text.len() >= 1024 * 1024 {
                file.write_all(text.as_bytes())?;
                bytes += text.len() as u64;
                text.clear();
            }
        }
        file.write_all(text.as_bytes())?;
        bytes += text.len() as u64;
        file.sync_all()?;
        let path = self.path();
        std::fs::rename(&beside, &path)?;
        File::open(&self.directory)?.sync_all()?;
        self.file = Some(OpenOptions::new().append(true).open(&path)?);
        self.bytes = bytes;
        Ok(())
    }
}

/// About what a line takes, in bytes.
fn size(key: &str, saved: &Saved) -> u64 {
    (key.len() + saved.file.len() + saved.json.len() + 57) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(file: &str, json: &str) -> Saved {
        Saved { file: file.into(), line: 7, source: 0xfeed, json: json.into() }
    }

    fn changes<'a>(
        list: impl IntoIterator<Item = (&'a str, Option<Saved>)>,
    ) -> BTreeMap<String, Option<Saved>> {
        list.into_iter().map(|(key, saved)| (key.to_owned(), saved)).collect()
    }

    #[test]
    fn reads_what_it_wrote_also_with_odd_names() {
        let odd = saved("a\tb\n\"c\".yaml", r#"{"spec":"tab\tand ü"}"#);
        let mut text = String::new();
        put_line(&mut text, "VirtualService tp/web", &odd);
        delete_line(&mut text, "VirtualService tp/web");
        let lines: Vec<_> = text.lines().map(|line| decode(line.as_bytes())).collect();
        assert_eq!(
            lines,
            [
                Some(Record::Put("VirtualService tp/web".into(), odd)),
                Some(Record::Delete("VirtualService tp/web".into()))
            ]
        );
    }

    #[test]
    fn keeps_over_restarts() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("new");
        let mut journal = Journal::new(&state, load(&state));
        journal
            .append(&changes([("a", Some(saved("a.yaml", "1"))), ("b", Some(saved("b.yaml", "2")))]))
            .unwrap();
        journal.append(&changes([("a", Some(saved("a.yaml", "3"))), ("b", None), ("c", None)])).unwrap();
        drop(journal);
        let loaded = load(&state);
        assert_eq!(loaded.notes, [""; 0]);
        assert_eq!(loaded.objects, BTreeMap::from([("a".to_owned(), saved("a.yaml", "3"))]));
        // And goes on in the same file.
        let mut journal = Journal::new(&state, loaded);
        journal.append(&changes([("d", Some(saved("d.yaml", "4")))])).unwrap();
        assert_eq!(load(&state).objects.len(), 2);
        let lines = std::fs::read_to_string(state.join(FILE)).unwrap().lines().count();
        assert_eq!(lines, 6, "begin, three of a and b, one delete, d");
    }

    #[test]
    fn damage_costs_the_damaged_line_only_and_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path();
        let mut journal = Journal::new(state, load(state));
        let three = ["a", "b", "c"].map(|key| (key, Some(saved("f.yaml", r#"{"k":1}"#))));
        journal.append(&changes(three)).unwrap();
        let path = state.join(FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines[2] = lines[2].replace("{\"k\":1}", "{\"k\":2}");
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
        let loaded = load(state);
        assert_eq!(loaded.objects.keys().collect::<Vec<_>>(), ["a", "c"]);
        assert_eq!(loaded.notes.len(), 1);
        assert!(
            loaded.notes[0].ends_with("last-good.journal:3: damaged: this entry is left out"),
            "{loaded:?}"
        );

        // The next write makes it whole.
        Journal::new(state, loaded).append(&changes([("d", Some(saved("f.yaml", "5")))])).unwrap();
        let loaded = load(state);
        assert_eq!((loaded.objects.len(), loaded.notes.len()), (3, 0));
    }

    #[test]
    fn a_line_cut_off_by_a_crash_is_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path();
        let two = ["a", "b"].map(|key| (key, Some(saved("f.yaml", "{}"))));
        Journal::new(state, load(state)).append(&changes(two)).unwrap();
        let path = state.join(FILE);
        let length = std::fs::metadata(&path).unwrap().len();
        File::options().write(true).open(&path).unwrap().set_len(length - 3).unwrap();
        let loaded = load(state);
        assert_eq!(loaded.objects.keys().collect::<Vec<_>>(), ["a"]);
        assert!(loaded.notes[0].contains("the last entry was cut off"), "{loaded:?}");
    }

    #[test]
    fn what_is_no_journal_is_said_and_replaced() {
        for (junk, said) in [
            (&b"\x00\xff\xfe junk"[..], "not a last good configuration"),
            (b"", ""),
            (b"hello\nworld\n", "not a last good configuration"),
            (b"41c5\n", "not a last good configuration"),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let state = directory.path();
            std::fs::write(state.join(FILE), junk).unwrap();
            let loaded = load(state);
            assert!(loaded.objects.is_empty());
            assert!(
                loaded.notes.join("\n").contains(said),
                "{:?}: {loaded:?}",
                String::from_utf8_lossy(junk)
            );
            Journal::new(state, loaded).append(&changes([("a", Some(saved("f", "{}")))])).unwrap();
            let loaded = load(state);
            assert_eq!(
                (loaded.objects.len(), loaded.notes.len()),
                (1, 0),
                "{:?}",
                String::from_utf8_lossy(junk)
            );
        }
    }

    /// A journal of one object whose first line is this.
    fn beginning_with(begin: &str, line: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let mut text = String::new();
        encode(&mut text, begin);
        encode(&mut text, line);
        std::fs::write(directory.path().join(FILE), text).unwrap();
        directory
    }

    #[test]
    fn what_other_rules_said_of_documents_is_not_believed_and_soon_written_anew() {
        let put = "put\t\"a\"\t\"f\"\t7\t000000000000feed\t{}";
        let ours = format!("begin\t2\t{}", rules());
        for (begin, line, source) in [
            (ours.as_str(), put, 0xfeed),
            ("begin\t2\tother", put, 0),
            ("begin\t1", "put\t\"a\"\t\"f\"\t7\t{}", 0),
        ] {
            let directory = beginning_with(begin, line);
            let loaded = load(directory.path());
            assert_eq!(loaded.notes, [""; 0], "{begin}");
            assert_eq!(loaded.objects["a"], Saved { source, ..saved("f", "{}") }, "{begin}");
            let mut journal = Journal::new(directory.path(), loaded);
            journal.append(&changes([("b", Some(saved("f", "{}")))])).unwrap();
            let text = std::fs::read_to_string(directory.path().join(FILE)).unwrap();
            assert!(text.lines().next().unwrap().ends_with(&ours), "{text}");
            assert_eq!(load(directory.path()).objects["b"].source, 0xfeed);
        }
    }

    #[test]
    fn an_object_as_large_as_a_file_may_be_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path();
        let large = saved("f", &"x".repeat(usize::try_from(MAX_BYTES).unwrap()));
        Journal::new(state, load(state)).append(&changes([("a", Some(large.clone()))])).unwrap();
        let loaded = load(state);
        assert_eq!(loaded.notes, [""; 0]);
        assert!(loaded.objects["a"] == large);
    }

    #[test]
    fn a_newer_format_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let mut text = String::new();
        encode(&mut text, "begin\t9");
        put_line(&mut text, "a", &saved("f", "{}"));
        std::fs::write(directory.path().join(FILE), text).unwrap();
        let loaded = load(directory.path());
        assert!(loaded.objects.is_empty());
        assert!(loaded.notes[0].contains("format 9"), "{loaded:?}");
    }

    #[test]
    fn is_written_anew_when_it_has_grown_and_not_before() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path();
        let mut journal = Journal::new(state, load(state));
        let text = "x".repeat(1000);
        let mut largest = 0;
        for n in 0..5000 {
            let json = format!("{n}{text}");
            journal.append(&changes([("a", Some(saved("f", &json)))])).unwrap();
            largest = largest.max(std::fs::metadata(state.join(FILE)).unwrap().len());
        }
        assert!(largest > SLACK / 2, "it was written anew for every change");
        assert!(largest <= SLACK + 4096, "{largest}");
        assert!(load(state).objects["a"].json.starts_with("4999"));
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_an_error_and_the_next_try_may_succeed() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        std::fs::write(&state, "a file is in the way").unwrap();
        let mut journal = Journal::new(&state, load(&state));
        let change = changes([("a", Some(saved("f", "{}")))]);
        assert!(journal.append(&change).is_err());
        std::fs::remove_file(&state).unwrap();
        journal.append(&change).unwrap();
        assert_eq!(load(&state).objects.len(), 1);
    }
}
