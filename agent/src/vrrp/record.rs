//! What a group leaves in /run for the process that comes after a crash of this one, and in /var/lib for the one after a reboot.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use bascule_vrrp::resume::Record;

/// A record is written in one piece of this size, padded with spaces: a process that is killed leaves the old one or the new one.
const SIZE: usize = 16 * 1024;

/// This boot of the machine.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// The record of one group.
#[derive(Debug)]
pub(crate) struct RecordFile {
    path: PathBuf,
    file: Option<File>,
    error: Option<String>,
}

impl RecordFile {
    /// In a directory, which is made when absent.
    pub(crate) fn new(directory: &Path, group: &str) -> Self {
        Self { path: directory.join(format!("{group}.json")), file: None, error: None }
    }

    /// What a former process left.
    pub(crate) fn read(&self) -> Option<Record> {
        let text = fs::read(&self.path).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Writes it. Called after each advertisement, on a file system in memory: one `pwrite`.
    pub(crate) fn write(&mut self, record: &Record) {
        let mut bytes = serde_json::to_vec(record).unwrap_or_default();
        // Bounded by the virtual routers of a group; what is longer would be cut, and a cut record is none.
        if bytes.len() < SIZE {
            bytes.resize(SIZE, b' ');
        }
        let result = self.open().and_then(|file| file.write_all_at(&bytes, 0));
        self.error = result.err().map(|error| {
            self.file = None;
            format!(
                "cannot write {}: {error}; after a crash the agent will not know that it was active",
                self.path.display()
            )
        });
    }

    /// Why it cannot be written, if so.
    pub(crate) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// The group is gone.
    pub(crate) fn remove(&mut self) {
        self.file = None;
        let _ = fs::remove_file(&self.path);
    }

    fn open(&mut self) -> io::Result<&File> {
        if self.file.is_none() {
            if let Some(directory) = self.path.parent() {
                fs::create_dir_all(directory)?;
            }
            let file = OpenOptions::new().create(true).write(true).truncate(false).open(&self.path)?;
            self.file = Some(file);
        }
        self.file.as_ref().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }
}

/// Where a commanded switch-over that holds against preemption is remembered over reboots.
pub(crate) fn hold_file(state_dir: &Path, group: &str) -> PathBuf {
    state_dir.join("vrrp").join(format!("{group}.hold"))
}

/// Whether one was remembered.
pub(crate) fn is_held(state_dir: &Path, group: &str) -> bool {
    hold_file(state_dir, group).exists()
}

/// Remembers it, or forgets it. Not called on the thread that speaks: a disk may take its time.
pub(crate) fn remember(path: &Path, hold: bool) -> io::Result<()> {
    if hold {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        File::create(path)?.sync_all()
    } else {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bascule_vrrp::BootTime;

    use super::*;

    fn record(last: u64) -> Record {
        Record {
            boot_id: "b".into(),
            last_advertisement: Some(BootTime::from_nanos(last)),
            patience: Duration::from_millis(300),
            hold: false,
            sequences: Vec::new(),
        }
    }

    #[test]
    fn the_newest_is_read_and_a_torn_one_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = RecordFile::new(&directory.path().join("vrrp"), "front");
        assert_eq!(file.read(), None);
        file.write(&record(u64::MAX));
        file.write(&record(7));
        assert_eq!(file.read(), Some(record(7)));
        assert_eq!(file.error(), None);
        fs::write(&file.path, "{\"bootId\":").unwrap();
        assert_eq!(file.read(), None);
        file.remove();
        assert_eq!(file.read(), None);
    }

    #[test]
    fn what_cannot_be_written_is_said() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("vrrp"), "").unwrap();
        let mut file = RecordFile::new(&directory.path().join("vrrp"), "front");
        file.write(&record(1));
        assert!(file.error().unwrap().contains("front.json"), "{:?}", file.error());
    }

    #[test]
    fn a_hold_is_remembered_until_it_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let path = hold_file(directory.path(), "front");
        assert!(!is_held(directory.path(), "front"));
        remember(&path, true).unwrap();
        assert!(is_held(directory.path(), "front"));
        remember(&path, false).unwrap();
        remember(&path, false).unwrap();
        assert!(!is_held(directory.path(), "front"));
    }
}
