//! Changes in a directory as the kernel tells them (inotify(7)).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent};

/// What happened in the directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    /// A file was written and closed, or came by rename: it is complete, read it at once.
    Written(String),
    /// A name appeared. A link has its content already; a plain file is about to be written.
    Created(String),
    /// Owner, mode or times changed: a file that could not be read may be readable now.
    Attributes(String),
    /// The name is gone.
    Gone(String),
    /// Look at everything: events were lost, or a link that the manifests go through was replaced.
    Rescan(&'static str),
    /// The watched directory itself was deleted, moved or unmounted.
    DirectoryGone,
}

/// A watched directory.
#[derive(Debug)]
pub(crate) struct Watch {
    inotify: Inotify,
    matters: fn(&str) -> bool,
}

impl Watch {
    /// Watches a directory for what happens to names that matter. Fails when the kernel's limits (`fs.inotify.max_user_instances`,
    /// `…_watches`) are reached.
    pub(crate) fn open(directory: &Path, matters: fn(&str) -> bool) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        inotify.add_watch(directory, flags)?;
        Ok(Self { inotify, matters })
    }

    /// What happened since the last call, in order; empty when nothing did. Never waits.
    pub(crate) fn events(&self) -> io::Result<Vec<Event>> {
        let mut events = Vec::new();
        loop {
            match self.inotify.read_events() {
                Ok(batch) => events.extend(batch.iter().filter_map(|event| interpret(event, self.matters))),
                Err(nix::errno::Errno::EAGAIN) => return Ok(events),
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            // The rest is read at the next call: a flood of events must not keep those before it waiting.
            if events.len() >= 4096 {
                return Ok(events);
            }
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

fn interpret(event: &InotifyEvent, matters: fn(&str) -> bool) -> Option<Event> {
    let name = event.name.as_ref().and_then(|name| name.to_str());
    meaning(event.mask, name, matters)
}

fn meaning(mask: AddWatchFlags, name: Option<&str>, matters: fn(&str) -> bool) -> Option<Event> {
    if mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
        return Some(Event::Rescan("the kernel's queue of directory events overflowed"));
    }
    let itself = AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF
        | AddWatchFlags::IN_UNMOUNT
        | AddWatchFlags::IN_IGNORED;
    if mask.intersects(itself) {
        return Some(Event::DirectoryGone);
    }
    let name = name?;
    let appeared = AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CREATE;
    // A ConfigMap's or Secret's new content comes with the rename of one link, `..data`.
    if name == "..data" && mask.intersects(appeared) {
        return Some(Event::Rescan("the link ..data was replaced"));
    }
    if !matters(name) {
        return None;
    }
    let name = name.to_owned();
    if mask.intersects(AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO) {
        Some(Event::Written(name))
    } else if mask.contains(AddWatchFlags::IN_CREATE) {
        Some(Event::Created(name))
    } else if mask.intersects(AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM) {
        Some(Event::Gone(name))
    } else if mask.contains(AddWatchFlags::IN_ATTRIB) {
        Some(Event::Attributes(name))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifests::disk::is_manifest;

    #[test]
    fn what_the_kernels_events_mean() {
        let file = |event: fn(String) -> Event| Some(event("a.yaml".to_owned()));
        let table = [
            (AddWatchFlags::IN_CLOSE_WRITE, Some("a.yaml"), file(Event::Written)),
            (AddWatchFlags::IN_MOVED_TO, Some("a.yaml"), file(Event::Written)),
            (AddWatchFlags::IN_CREATE, Some("a.yaml"), file(Event::Created)),
            (AddWatchFlags::IN_ATTRIB, Some("a.yaml"), file(Event::Attributes)),
            (AddWatchFlags::IN_DELETE, Some("a.yaml"), file(Event::Gone)),
            (AddWatchFlags::IN_MOVED_FROM, Some("a.yaml"), file(Event::Gone)),
            (AddWatchFlags::IN_CLOSE_WRITE, Some("a.yaml~"), None),
            (AddWatchFlags::IN_CLOSE_WRITE, Some("4913"), None),
            (AddWatchFlags::IN_MOVED_TO, Some("..data"), Some(Event::Rescan("the link ..data was replaced"))),
            (AddWatchFlags::IN_DELETE, Some("..data"), None),
            (AddWatchFlags::IN_ATTRIB, None, None),
            (AddWatchFlags::IN_DELETE_SELF, None, Some(Event::DirectoryGone)),
            (AddWatchFlags::IN_MOVE_SELF, None, Some(Event::DirectoryGone)),
            (AddWatchFlags::IN_UNMOUNT, None, Some(Event::DirectoryGone)),
            (AddWatchFlags::IN_IGNORED, None, Some(Event::DirectoryGone)),
        ];
        for (mask, name, expected) in table {
            assert_eq!(meaning(mask, name, is_manifest), expected, "{mask:?} {name:?}");
        }
        assert!(matches!(meaning(AddWatchFlags::IN_Q_OVERFLOW, None, is_manifest), Some(Event::Rescan(_))));
    }

    #[test]
    fn the_kernel_tells_of_a_rename_and_of_the_directorys_end() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("m");
        std::fs::create_dir(&directory).unwrap();
        let watch = Watch::open(&directory, is_manifest).unwrap();
        assert_eq!(watch.events().unwrap(), []);
        std::fs::write(directory.join("a.tmp"), "x").unwrap();
        std::fs::rename(directory.join("a.tmp"), directory.join("a.yaml")).unwrap();
        assert_eq!(watch.events().unwrap(), [Event::Written("a.yaml".into())]);
        std::fs::remove_dir_all(&directory).unwrap();
        let events = watch.events().unwrap();
        assert_eq!(events[0], Event::Gone("a.yaml".into()));
        assert!(events.contains(&Event::DirectoryGone), "{events:?}");
    }

    #[test]
    fn a_file_is_no_directory() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("m");
        std::fs::write(&file, "").unwrap();
        assert!(Watch::open(&file, is_manifest).is_err());
    }
}
