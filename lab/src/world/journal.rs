//! Which processes of a node ended by a signal that dumps core: a journal, a line of JSON an entry, among the node's logs. The lab writes
//! down what it starts and which of these signals it sends, the node's first process what ended by one. It outlives the node.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The journal's name, in the folder of a node's logs.
pub(super) const FILE: &str = "processes.jsonl";
/// As much of a journal is read, in bytes.
const MAX_FILE: u64 = 8 << 20;
/// So many ends are written down of one boot of a node; a program that is started and dumps again and again is told often enough.
pub(super) const MOST: u32 = 200;

/// The signals whose default action is to dump core: signal(7).
const DUMP: [i32; 10] = [
    libc::SIGQUIT,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGABRT,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGSEGV,
    libc::SIGSYS,
    libc::SIGXCPU,
    libc::SIGXFSZ,
];

/// Whether a signal dumps core.
pub(super) fn dumps_core(signal: i32) -> bool {
    DUMP.contains(&signal)
}

/// An entry. Times are CLOCK_MONOTONIC in nanoseconds, numbers of processes those inside the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "what", deny_unknown_fields)]
pub(super) enum Entry {
    /// The lab started it, at the head of a process group of its own.
    Started {
        /// No later than this it was not there.
        at: u64,
        /// The process.
        pid: i32,
        /// What its log is called.
        name: String,
    },
    /// The lab sends it a signal that dumps core.
    Sent {
        /// Before it is sent.
        at: u64,
        /// The process.
        pid: i32,
        /// The signal.
        signal: i32,
        /// Whether to its whole process group.
        group: bool,
    },
    /// It ended by a signal that dumps core.
    Ended {
        /// When it was collected.
        at: u64,
        /// The process.
        pid: i32,
        /// Its process group.
        group: i32,
        /// Its command name, at most 15 bytes; empty if that could not be read.
        program: String,
        /// The signal.
        signal: i32,
    },
}

impl Entry {
    fn at(&self) -> u64 {
        match self {
            Self::Started { at, .. } | Self::Sent { at, .. } | Self::Ended { at, .. } => *at,
        }
    }

    /// Appends it, whole or not at all.
    pub(super) fn write(&self, mut journal: &File) -> io::Result<()> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        journal.write_all(&line)
    }

    /// Appends it to the journal in a folder of logs.
    pub(super) fn append(&self, logs: &Path) -> io::Result<()> {
        self.write(&open(&logs.join(FILE))?)
    }
}

/// Opens a journal to append to it.
pub(super) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

/// A process that ended by a signal which dumps core, and which the lab did not send.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dump {
    /// CLOCK_MONOTONIC, nanoseconds, when its node collected it.
    pub at: u64,
    /// The node.
    pub node: String,
    /// Its number inside the node.
    pub pid: i32,
    /// Its command name, at most 15 bytes; empty if that could not be read.
    pub program: String,
    /// The signal's number.
    pub signal: i32,
    /// The program that the lab started and that it is or belongs to: what its log is called.
    pub of: Option<String>,
}

/// What the journals of all nodes say, in the order of time: those in `LOGS/NODE/`.
///
/// # Errors
/// When a journal cannot be read.
pub fn dumps(logs: &Path) -> io::Result<Vec<Dump>> {
    let mut dumps = Vec::new();
    for folder in folders(logs)? {
        let node = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        dumps.extend(of_node(&node, read(&folder.join(FILE))?));
    }
    dumps.sort();
    Ok(dumps)
}

fn folders(logs: &Path) -> io::Result<Vec<PathBuf>> {
    match std::fs::read_dir(logs) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect(),
    }
}

fn read(path: &Path) -> io::Result<Vec<Entry>> {
    let file = match File::open(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        other => other?,
    };
    let mut entries = Vec::new();
    let mut reader = BufReader::new(file.take(MAX_FILE));
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 {
        // The last may still be on its way.
        if line.ends_with('\n') {
            let wrong = |error| io::Error::other(format!("{}: {error}: {}", path.display(), line.trim_end()));
            entries.push(serde_json::from_str(&line).map_err(wrong)?);
        }
        line.clear();
    }
    Ok(entries)
}

/// What counts of a node's journal.
fn of_node(node: &str, mut entries: Vec<Entry>) -> Vec<Dump> {
    // What ends at once may be written down before its start is, and never has an earlier time.
    entries.sort_by_key(Entry::at);
    let mut started: BTreeMap<i32, String> = BTreeMap::new();
    let mut sent: BTreeSet<(i32, i32, bool)> = BTreeSet::new();
    let mut dumps = Vec::new();
    for entry in entries {
        match entry {
            Entry::Started { pid, name, .. } => {
                started.insert(pid, name);
                sent.retain(|(other, ..)| *other != pid);
            }
            Entry::Sent { pid, signal, group, .. } => {
                sent.insert((pid, signal, group));
            }
            Entry::Ended { at, pid, group, program, signal } => {
                let by_the_lab =
                    sent.contains(&(pid, signal, false)) || sent.contains(&(group, signal, true));
                if !by_the_lab {
                    let of = started.get(&pid).or_else(|| started.get(&group)).cloned();
                    dumps.push(Dump { at, node: node.to_owned(), pid, program, signal, of });
                }
            }
        }
    }
    dumps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(at: u64, pid: i32, group: i32, signal: i32) -> Entry {
        Entry::Ended { at, pid, group, program: "sh".into(), signal }
    }

    #[test]
    fn what_the_lab_sent_does_not_count_and_only_that() {
        let (segv, quit) = (libc::SIGSEGV, libc::SIGQUIT);
        let start = |at, pid| Entry::Started { at, pid, name: format!("p{pid}") };
        let entries = vec![
            // Written down late: it had ended before the lab knew its number.
            ended(2, 10, 10, segv),
            start(1, 10),
            start(3, 20),
            Entry::Sent { at: 4, pid: 20, signal: quit, group: false },
            ended(5, 20, 20, quit),
            // A child of it was not told.
            ended(6, 21, 20, quit),
            // After a reboot the numbers are given anew.
            start(7, 20),
            ended(8, 20, 20, quit),
            start(9, 30),
            Entry::Sent { at: 10, pid: 30, signal: quit, group: true },
            ended(11, 31, 30, quit),
            ended(12, 32, 30, segv),
            ended(13, 99, 98, segv),
        ];
        let found: Vec<(u64, Option<String>)> =
            of_node("SRV1", entries).into_iter().map(|dump| (dump.at, dump.of)).collect();
        let of = |name: &str| Some(name.to_owned());
        assert_eq!(found, [(2, of("p10")), (6, of("p20")), (8, of("p20")), (12, of("p30")), (13, None)]);
    }

    #[test]
    fn journals_of_all_nodes_are_read_up_to_the_last_whole_line() {
        let logs = tempfile::tempdir().unwrap();
        assert!(dumps(&logs.path().join("none")).unwrap().is_empty());
        for (node, at) in [("b", 1), ("a", 2)] {
            std::fs::create_dir(logs.path().join(node)).unwrap();
            ended(at, 5, 5, libc::SIGABRT).append(&logs.path().join(node)).unwrap();
        }
        std::fs::create_dir(logs.path().join("quiet")).unwrap();
        std::fs::write(logs.path().join("a-file"), "").unwrap();
        let mut journal = open(&logs.path().join("a").join(FILE)).unwrap();
        journal.write_all(b"{\"what\":\"ended\"").unwrap();
        let found = dumps(logs.path()).unwrap();
        assert_eq!(found.iter().map(|dump| dump.node.as_str()).collect::<Vec<_>>(), ["b", "a"]);
        journal.write_all(b"}\n").unwrap();
        assert!(dumps(logs.path()).unwrap_err().to_string().contains("a/processes.jsonl"));
    }
}
