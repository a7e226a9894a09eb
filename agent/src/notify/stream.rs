//! The stream of transitions: a socket on which every reader gets lines of JSON, first the present states.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, PipeReader, PipeWriter, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

use super::change;
use super::time::rfc3339;
use super::{Transition, word};

/// Name of the socket in the run directory.
pub const SOCKET: &str = "events.sock";

/// Readers at once; one more is told to come back later.
pub(super) const MAX_READERS: usize = 32;

/// What a reader may leave unread beyond what the kernel buffers, in bytes; one who leaves more is dropped.
pub(super) const MAX_UNREAD: usize = 256 * 1024;

/// Events on their way to the thread that writes them.
const MAX_EVENTS: usize = 4096;

/// Pause after the kernel refused a connection: it lacks descriptors, and goes on refusing for a while.
const BREATH: Duration = Duration::from_millis(100);

/// One line of the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// When, as RFC 3339 writes it.
    pub time: String,
    /// The group.
    pub group: String,
    /// What it was.
    pub from: String,
    /// What it is.
    pub to: String,
    /// Why.
    pub reason: String,
    /// The effective priority.
    pub priority: u8,
    /// True of the states told at connect: no transition just now, but the last one there was.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub present: bool,
}

impl Event {
    pub(super) fn new(transition: &Transition) -> Self {
        Self {
            time: rfc3339(transition.at),
            group: transition.group.clone(),
            from: word(transition.from).into(),
            to: word(transition.to).into(),
            reason: transition.reason.clone(),
            priority: transition.priority,
            present: false,
        }
    }

    /// As it is told at connect, by its group.
    fn into_present(self) -> (String, Event) {
        (self.group.clone(), Event { present: true, ..self })
    }

    fn line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

/// What the thread has not taken yet.
#[derive(Debug, Default)]
struct Mail {
    /// In order: a state told after a list of states is newer than the list.
    messages: VecDeque<Message>,
    /// Changes for which there was no room.
    missed: u64,
    ending: bool,
}

impl Mail {
    /// Makes room by leaving out the oldest change. False when there is none.
    fn miss_one(&mut self) -> bool {
        let oldest = self.messages.iter().position(|message| matches!(message, Message::Change(_)));
        let Some(at) = oldest else { return false };
        self.messages.remove(at);
        self.missed = self.missed.saturating_add(1);
        true
    }
}

#[derive(Debug)]
enum Message {
    /// These are the states, and no others.
    Present(Vec<Event>),
    /// To every reader.
    Event(Event),
    /// This group has none any more.
    Forget(String),
    /// A line of a service of a group, to every reader who keeps up.
    Change(Vec<u8>),
}

/// The socket and its thread. Dropped, it is gone.
#[derive(Debug)]
pub(super) struct Stream {
    mail: Arc<Mutex<Mail>>,
    wake: PipeWriter,
    path: PathBuf,
    /// Device and inode of the socket.
    file: (u64, u64),
    thread: Option<JoinHandle<()>>,
}

impl Stream {
    /// Listens. A socket that another agent left there is replaced.
    pub(super) fn spawn(run_dir: &Path) -> io::Result<Self> {
        let path = run_dir.join(SOCKET);
        // Bound beside and renamed, so that nobody connects before only the owner may.
        let beside = run_dir.join(format!("{SOCKET}.new"));
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&beside)?;
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        let file = file(&beside)?;
        let (woken, wake) = io::pipe()?;
        crate::exec::nonblocking(woken.as_fd())?;
        crate::exec::nonblocking(wake.as_fd())?;
        let mail = Arc::new(Mutex::new(Mail::default()));
        let theirs = mail.clone();
        let work = Work { listener, woken, mail: theirs, readers: Vec::new(), present: BTreeMap::new() };
        let thread = std::thread::Builder::new().name("events".into()).spawn(move || work.run())?;
        let stream = Self { mail, wake, path, file, thread: Some(thread) };
        std::fs::rename(&beside, &stream.path)?;
        Ok(stream)
    }

    /// These are the present states; others are forgotten.
    pub(super) fn present(&self, events: Vec<Event>) {
        self.send(|mail| mail.messages.push_back(Message::Present(events)));
    }

    /// To every reader.
    pub(super) fn tell(&self, event: Event) {
        self.send(|mail| {
            // The thread writes without waiting, so that this many are never there unless the machine stands still.
            if mail.messages.len() >= MAX_EVENTS && !mail.miss_one() {
                let oldest = mail.messages.iter().position(|message| matches!(message, Message::Event(_)));
                oldest.and_then(|at| mail.messages.remove(at));
            }
            mail.messages.push_back(Message::Event(event));
        });
    }

    /// To every reader, before what was there of its kind where there are too many: thousands of services may change at once.
    pub(super) fn change(&self, line: Vec<u8>) {
        self.send(|mail| {
            if mail.messages.len() >= MAX_EVENTS && !mail.miss_one() {
                mail.missed = mail.missed.saturating_add(1);
            } else {
                mail.messages.push_back(Message::Change(line));
            }
        });
    }

    /// The group has no state here any more.
    pub(super) fn forget(&self, group: &str) {
        self.send(|mail| mail.messages.push_back(Message::Forget(group.to_owned())));
    }

    fn send(&self, change: impl FnOnce(&mut Mail)) {
        change(&mut lock(&self.mail));
        // A full pipe wakes as well.
        let _ = (&self.wake).write(&[0]);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.send(|mail| mail.ending = true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        // The agent that took over may have put its own in this place.
        if file(&self.path).is_ok_and(|file| file == self.file) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Device and inode of a file.
fn file(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

fn lock(mail: &Mutex<Mail>) -> MutexGuard<'_, Mail> {
    mail.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Somebody who reads, and what he has not read.
#[derive(Debug)]
struct Reader {
    stream: UnixStream,
    unread: VecDeque<u8>,
    /// Changes that it was not told because it has too much to read already.
    missed: u64,
}

impl Reader {
    /// Adds a line and writes what can be written. False when the reader is gone or too slow.
    fn push(&mut self, line: &[u8]) -> bool {
        self.unread.extend(line);
        self.flush() && self.unread.len() <= MAX_UNREAD
    }

    /// The same with a change of a service, which is left out where half of what may be unread is: the other half is for the
    /// transitions of groups.
    fn push_change(&mut self, line: &[u8]) -> bool {
        if self.unread.len() > MAX_UNREAD / 2 {
            self.missed = self.missed.saturating_add(1);
            return true;
        }
        self.push(line)
    }

    /// Says how much was left out, once there is room.
    fn own_up(&mut self) -> bool {
        if self.missed == 0 || self.unread.len() > MAX_UNREAD / 2 {
            return true;
        }
        let line = change::missed(std::mem::take(&mut self.missed), SystemTime::now());
        self.push(&line)
    }

    fn flush(&mut self) -> bool {
        while !self.unread.is_empty() {
            let (first, _) = self.unread.as_slices();
            match (&self.stream).write(first) {
                Ok(0) => return false,
                Ok(count) => drop(self.unread.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// Whatever a reader writes is thrown away. False when he has closed his side.
    fn listen(&mut self) -> bool {
        match (&self.stream).read(&mut [0; 256]) {
            Ok(0) => false,
            Ok(_) => true,
            Err(error) => matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
        }
    }
}

/// The thread.
struct Work {
    listener: UnixListener,
    woken: PipeReader,
    mail: Arc<Mutex<Mail>>,
    readers: Vec<Reader>,
    present: BTreeMap<String, Event>,
}

impl Work {
    fn run(mut self) {
        loop {
            let mut waited = vec![
                PollFd::new(self.woken.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
            ];
            waited.extend(self.readers.iter().map(|reader| {
                let writable = if reader.unread.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
                PollFd::new(reader.stream.as_fd(), PollFlags::POLLIN | writable)
            }));
            match poll(&mut waited, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => {
                    tracing::error!("the event stream ends: {error}");
                    return;
                }
            }
            let ready: Vec<bool> = waited.iter().map(|fd| fd.any().unwrap_or(false)).collect();
            drop(waited);
            let mut index = 2;
            self.readers.retain_mut(|reader| {
                index += 1;
                !ready[index - 1] || (reader.listen() && reader.flush() && reader.own_up())
            });
            // Before new readers, who get the states as they are then.
            if ready[0] && self.take_mail() {
                return;
            }
            if ready[1] {
                self.accept();
            }
        }
    }

    /// Returns whether it is to end.
    fn take_mail(&mut self) -> bool {
        while matches!((&self.woken).read(&mut [0; 64]), Ok(64)) {}
        let mail = std::mem::take(&mut *lock(&self.mail));
        for message in mail.messages {
            match message {
                Message::Event(event) => self.tell(event),
                Message::Present(events) => {
                    self.present = events.into_iter().map(Event::into_present).collect();
                }
                Message::Forget(group) => {
                    self.present.remove(&group);
                }
                Message::Change(line) => self.readers.retain_mut(|reader| reader.push_change(&line)),
            }
        }
        self.readers.retain_mut(|reader| {
            reader.missed = reader.missed.saturating_add(mail.missed);
            reader.own_up()
        });
        mail.ending
    }

    fn tell(&mut self, event: Event) {
        let line = event.line();
        self.readers.retain_mut(|reader| {
            let stays = reader.push(&line);
            if !stays && reader.unread.len() > MAX_UNREAD {
                tracing::warn!("a reader of the event stream does not read: dropped");
            }
            stays
        });
        let (group, event) = event.into_present();
        self.present.insert(group, event);
    }

    fn accept(&mut self) {
        // One at a time: poll says at once when there are more.
        let stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return;
            }
            Err(error) => {
                tracing::warn!("the event stream cannot accept a reader: {error}");
                std::thread::sleep(BREATH);
                return;
            }
        };
        if self.readers.len() >= MAX_READERS {
            tracing::warn!("the event stream has {MAX_READERS} readers already: one more is refused");
            return;
        }
        let mut reader = Reader { stream, unread: VecDeque::new(), missed: 0 };
        if reader.stream.set_nonblocking(true).is_ok()
            && self.present.values().all(|event| reader.push(&event.line()))
        {
            self.readers.push(reader);
        }
    }
}
