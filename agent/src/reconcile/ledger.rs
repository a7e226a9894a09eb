//! The write-ahead ledger: what this agent put into kernel tables that cannot hold a mark.
//!
//! An entry is written before the kernel gets it and struck out after it is gone, so that an agent that starts after a crash
//! removes exactly what its predecessor made. The file is a line an entry under a header with the boot id and the cookie of
//! the network namespace: what was written for another boot or another namespace says nothing about this one. It lives in a
//! directory that a reboot empties; nothing is synced to disk, for the kernel's tables die with the machine, too.

use std::{
    collections::BTreeSet,
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, getsockopt, socket};

/// Lines of a ledger that are read; a bigger file is no ledger of ours.
const MAX_BYTES: u64 = 256 << 20;
/// Struck-out lines that are allowed beyond twice the entries before the file is written anew.
const SLACK: usize = 4_096;

/// Something that can stand in a ledger: one line of text that reads back as the same thing.
pub(crate) trait Entry: Ord + Clone {
    /// The line, without a line feed.
    fn line(&self) -> String;
    /// Reads it.
    fn parse(line: &str) -> Option<Self>;
}

/// What a ledger is about: this boot and this network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    boot: String,
    namespace: String,
}

mod cookie {
    #![allow(missing_docs, reason = "the macro writes an item without comment")]
    use nix::{getsockopt_impl, sockopt_impl};
    sockopt_impl!(NetnsCookie, GetOnly, libc::SOL_SOCKET, libc::SO_NETNS_COOKIE, u64);
}

impl Identity {
    /// Of the calling thread.
    pub(crate) fn here() -> io::Result<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        let namespace = match getsockopt(&socket.as_fd(), cookie::NetnsCookie) {
            Ok(cookie) => format!("cookie:{cookie}"),
            // Before Linux 5.14: the inode may be used again for a later namespace, but not while this one lives.
            Err(_) => fs::read_link("/proc/thread-self/ns/net")?.to_string_lossy().into_owned(),
        };
        Ok(Self { boot, namespace })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.boot, self.namespace)
    }
}

/// A ledger and its file.
pub(crate) struct Ledger<T> {
    path: PathBuf,
    header: String,
    entries: BTreeSet<T>,
    file: Option<File>,
    struck: usize,
    error: Option<String>,
    writes: bool,
}

impl<T: Entry> Ledger<T> {
    /// Opens the ledger, or starts one. A file of another boot or namespace, or one that cannot be read, counts as empty; see
    /// [`Ledger::error`].
    pub(crate) fn open(path: &Path, identity: &Identity) -> Self {
        let mut ledger = Self::read(path, identity);
        ledger.writes = true;
        ledger.rewrite();
        ledger
    }

    /// Reads the ledger without ever writing to it: for those who only look.
    pub(crate) fn read(path: &Path, identity: &Identity) -> Self {
        let header = format!("bascule-ledger 1 {identity}");
        let (entries, error) = match read(path, &header) {
            Ok(entries) => (entries, None),
            Err(error) => (BTreeSet::new(), Some(format!("cannot read {}: {error}", path.display()))),
        };
        Self { path: path.to_owned(), header, entries, file: None, struck: 0, error, writes: false }
    }

    /// Why the ledger cannot be read or written; what is added meanwhile is not known as ours after a crash.
    pub(crate) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    pub(crate) fn contains(&self, entry: &T) -> bool {
        self.entries.contains(entry)
    }

    pub(crate) fn entries(&self) -> &BTreeSet<T> {
        &self.entries
    }

    /// Notes entries, before the kernel gets them.
    pub(crate) fn add(&mut self, entries: impl IntoIterator<Item = T>) {
        let mut text = String::new();
        for entry in entries {
            if !self.entries.contains(&entry) {
                text.push_str("+ ");
                text.push_str(&entry.line());
                text.push('\n');
                self.entries.insert(entry);
            }
        }
        self.write(&text);
    }

    /// Strikes entries out, after the kernel no longer has them.
    pub(crate) fn remove<'a>(&mut self, entries: impl IntoIterator<Item = &'a T>)
    where
        T: 'a,
    {
        let mut text = String::new();
        for entry in entries {
            if self.entries.remove(entry) {
                text.push_str("- ");
                text.push_str(&entry.line());
                text.push('\n');
                self.struck += 2;
            }
        }
        self.write(&text);
        if self.struck > self.entries.len() + SLACK {
            self.rewrite();
        }
    }

    /// Tries again after an error.
    pub(crate) fn retry(&mut self) {
        if self.writes && self.error.is_some() {
            self.rewrite();
        }
    }

    fn write(&mut self, text: &str) {
        if text.is_empty() || !self.writes {
            return;
        }
        match &mut self.file {
            Some(file) => {
                // A file that somebody removed or a directory that was emptied is as good as unwritten.
                let gone = fs::metadata(&self.path).is_err();
                if gone {
                    self.rewrite();
                } else if let Err(error) = file.write_all(text.as_bytes()) {
                    self.fail(&error);
                }
            }
            None => self.rewrite(),
        }
    }

    fn fail(&mut self, error: &io::Error) {
        self.file = None;
        self.error = Some(format!(
            "cannot write {}: {error}; what the agent adds now is not known as its own after a crash",
            self.path.display()
        ));
    }

    fn rewrite(&mut self) {
        let mut text = self.header.clone();
        text.push('\n');
        for entry in &self.entries {
            text.push_str("+ ");
            text.push_str(&entry.line());
            text.push('\n');
        }
        match replace(&self.path, &text) {
            Ok(file) => {
                self.file = Some(file);
                self.struck = 0;
                self.error = None;
            }
            Err(error) => self.fail(&error),
        }
    }
}

/// Writes a file anew, whole or not at all, and returns it open for appending.
pub(crate) fn replace(path: &Path, text: &str) -> io::Result<File> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    fs::rename(&temporary, path)?;
    Ok(file)
}

fn read<T: Entry>(path: &Path, header: &str) -> io::Result<BTreeSet<T>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    // Only whole lines: the last may be torn by a crash, and half of one could name somebody else's entry. The kernel never got
    // what it was about to say.
    let mut lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    if lines.next() != Some(header) {
        return Ok(BTreeSet::new());
    }
    let mut entries = BTreeSet::new();
    for line in lines {
        match line.split_at_checked(2) {
            Some(("+ ", rest)) => entries.extend(T::parse(rest)),
            Some(("- ", rest)) => {
                if let Some(entry) = T::parse(rest) {
                    entries.remove(&entry);
                }
            }
            _ => {}
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Entry for u32 {
        fn line(&self) -> String {
            self.to_string()
        }
        fn parse(line: &str) -> Option<Self> {
            line.parse().ok()
        }
    }

    fn identity(boot: &str, namespace: &str) -> Identity {
        Identity { boot: boot.into(), namespace: namespace.into() }
    }

    fn numbers(ledger: &Ledger<u32>) -> Vec<u32> {
        ledger.entries().iter().copied().collect()
    }

    #[test]
    fn keeps_entries_over_a_crash_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/ledger");
        let here = identity("b", "1");
        let mut ledger = Ledger::open(&path, &here);
        ledger.add([1, 2, 3]);
        ledger.remove(&[2]);
        assert_eq!(ledger.error(), None);
        // Torn in the middle of a line: 44 was never said.
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"+ 4").unwrap();
        assert_eq!(numbers(&Ledger::read(&path, &here)), [1, 3]);
        assert_eq!(numbers(&Ledger::read(&path, &identity("b", "2"))), [0u32; 0], "another namespace");
        assert_eq!(numbers(&Ledger::read(&path, &identity("c", "1"))), [0u32; 0], "another boot");
        assert_eq!(numbers(&Ledger::open(&path, &here)), [1, 3]);
    }

    #[test]
    fn does_not_grow_without_bound() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger");
        let mut ledger = Ledger::open(&path, &identity("b", "1"));
        for _ in 0..3 * SLACK {
            ledger.add([7]);
            ledger.remove(&[7]);
        }
        assert!(fs::metadata(&path).unwrap().len() < 8 * SLACK as u64);
        assert_eq!(numbers(&ledger), [0u32; 0]);
    }

    #[test]
    fn says_that_it_cannot_write_goes_on_and_recovers() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger");
        fs::create_dir(&path).unwrap();
        let mut ledger = Ledger::open(&path, &identity("b", "1"));
        ledger.add([1]);
        let error = ledger.error().unwrap().to_owned();
        assert!(error.contains("ledger") && error.contains("not known as its own"), "{error}");
        assert_eq!(numbers(&ledger), [1]);
        fs::remove_dir(&path).unwrap();
        ledger.retry();
        assert_eq!(ledger.error(), None);
        assert_eq!(numbers(&Ledger::read(&path, &identity("b", "1"))), [1]);
    }

    #[test]
    fn writes_anew_when_the_directory_was_emptied() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger");
        let mut ledger = Ledger::open(&path, &identity("b", "1"));
        ledger.add([1]);
        fs::remove_file(&path).unwrap();
        ledger.add([2]);
        assert_eq!(numbers(&Ledger::read(&path, &identity("b", "1"))), [1, 2]);
    }

    #[test]
    fn reading_alone_writes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger");
        let mut ledger = Ledger::read(&path, &identity("b", "1"));
        ledger.add([1]);
        assert!(!path.exists());
    }

    #[test]
    fn knows_where_it_is() {
        let here = Identity::here().unwrap();
        assert_eq!(here, Identity::here().unwrap());
        assert_eq!(here.boot.len(), 36);
    }
}
