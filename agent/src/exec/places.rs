//! How many run at once, and how one that waits or runs is called off. Both are pipes, so that one poll(2) waits for all.

use std::io::{self, PipeReader, PipeWriter, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Call, ExecError};

/// A pipe with a byte for every free place.
#[derive(Debug)]
pub(super) struct Places {
    pipe: Arc<(PipeReader, PipeWriter)>,
    count: usize,
}

/// A place, free again when dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<(PipeReader, PipeWriter)>);

impl Drop for Place {
    fn drop(&mut self) {
        // The pipe has room: what is written was read from it.
        let _ = (&self.0.1).write(&[0]);
    }
}

impl Places {
    /// So many, at most 4096: what every pipe holds.
    pub(super) fn new(count: usize) -> io::Result<Self> {
        let (reader, mut writer) = io::pipe()?;
        nonblocking(reader.as_fd())?;
        writer.write_all(&vec![0; count])?;
        Ok(Self { pipe: Arc::new((reader, writer)), count })
    }

    /// Waits for a place, at most for the call's time.
    pub(super) fn take(&self, call: &Call<'_>, cancel: Option<&Cancel>) -> Result<Place, ExecError> {
        let program = || call.program.to_owned();
        let deadline = Instant::now() + call.timeout;
        loop {
            if cancel.is_some_and(Cancel::is_cancelled) {
                return Err(ExecError::Cancelled { program: program() });
            }
            match (&self.pipe.0).read(&mut [0]) {
                Ok(1) => return Ok(Place(self.pipe.clone())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => {
                    let why =
                        other.err().map_or_else(|| "it is closed".to_owned(), |error| error.to_string());
                    return Err(ExecError::System { program: program(), what: "waiting for a place", why });
                }
            }
            let mut waited = vec![PollFd::new(self.pipe.0.as_fd(), PollFlags::POLLIN)];
            waited.extend(cancel.map(|cancel| PollFd::new(cancel.fd(), PollFlags::POLLIN)));
            match poll(&mut waited, until(Some(deadline))) {
                Ok(_) | Err(Errno::EINTR) if Instant::now() < deadline => {}
                Ok(_) | Err(Errno::EINTR) => {
                    return Err(ExecError::Busy {
                        program: program(),
                        after: call.timeout,
                        at_once: self.count,
                    });
                }
                Err(error) => {
                    let why = error.to_string();
                    return Err(ExecError::System { program: program(), what: "waiting for a place", why });
                }
            }
        }
    }
}

/// Calls off what runs or waits with it, now and later, from any thread. Clones are one.
#[derive(Clone, Debug)]
pub struct Cancel(Arc<(PipeReader, PipeWriter)>);

impl Cancel {
    /// Not cancelled yet. Fails when the process has no descriptors left.
    pub fn new() -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        nonblocking(writer.as_fd())?;
        Ok(Self(Arc::new((reader, writer))))
    }

    /// Returns at once; what runs gets SIGTERM, and after a grace SIGKILL.
    pub fn cancel(&self) {
        // A full pipe says the same.
        let _ = (&self.0.1).write(&[0]);
    }

    /// Whether it was.
    pub fn is_cancelled(&self) -> bool {
        let mut waited = [PollFd::new(self.fd(), PollFlags::POLLIN)];
        matches!(poll(&mut waited, PollTimeout::ZERO), Ok(1))
    }

    /// Readable once it is cancelled, for ever: nobody reads it.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.0.as_fd()
    }
}

/// poll(2)'s time until a deadline: whole milliseconds, rounded up so that it does not spin.
pub(super) fn until(deadline: Option<Instant>) -> PollTimeout {
    deadline.map_or(PollTimeout::NONE, |deadline| {
        let left = deadline.saturating_duration_since(Instant::now()).as_micros().div_ceil(1000);
        i32::try_from(left).ok().and_then(|left| PollTimeout::try_from(left).ok()).unwrap_or(PollTimeout::MAX)
    })
}

/// Reading it or writing to it never waits.
pub(crate) fn nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}
