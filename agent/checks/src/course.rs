//! How far one run of a probe has come, and how long it may take.

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::words;

/// What a run waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// A connection.
    Connect,
    /// The end of a TLS handshake.
    Handshake,
    /// The first byte of an answer.
    Answer,
    /// The end of an answer.
    Rest,
    /// Whether the answer is as it should be.
    Match,
}

/// One run.
#[derive(Debug)]
pub(crate) struct Course {
    deadline: Instant,
    timeout: Duration,
    phase: AtomicU8,
    short: AtomicBool,
}

impl Course {
    /// A run that begins now.
    pub(crate) fn new(timeout: Duration) -> Self {
        Self {
            deadline: Instant::now() + timeout,
            timeout,
            phase: AtomicU8::new(Phase::Connect as u8),
            short: AtomicBool::new(false),
        }
    }

    /// An error that keeps the run from asking at all: when this machine lacks something, the run says nothing about its target.
    pub(crate) fn note<'a>(&self, error: &'a io::Error) -> &'a io::Error {
        if is_shortage(error) {
            self.short.store(true, Ordering::Relaxed);
        }
        error
    }

    /// Whether this machine lacked what the run needed to ask.
    pub(crate) fn was_short(&self) -> bool {
        self.short.load(Ordering::Relaxed)
    }

    /// What is waited for from now on.
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// Carries out a future, or says what it was waiting for when the time was up.
    pub(crate) async fn within<T>(&self, future: impl Future<Output = T>) -> Result<T, String> {
        timeout_at(self.deadline, future).await.map_err(|_| self.late())
    }

    /// How long the run may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The end of the run, or a moment that comes before it.
    pub(crate) fn at_most(&self, wait: Duration) -> Instant {
        self.deadline.min(Instant::now() + wait)
    }

    fn late(&self) -> String {
        let timeout = words::duration(self.timeout);
        match self.phase.load(Ordering::Relaxed) {
            phase if phase == Phase::Connect as u8 => format!("no connection within {timeout}"),
            phase if phase == Phase::Handshake as u8 => {
                format!("connected, but no TLS handshake within {timeout}")
            }
            phase if phase == Phase::Answer as u8 => format!("no answer within {timeout}"),
            phase if phase == Phase::Match as u8 => format!("the body was not matched within {timeout}"),
            _ => format!("the answer did not end within {timeout}"),
        }
    }
}

/// Whether an error of opening, binding or connecting a socket, or of sending the first datagram, means that this machine lacks
/// something: descriptors, memory, ports. (A source address that is not here is lacking, too, as where it is a group's that is
/// active elsewhere.) What the network or the peer may have caused is none.
fn is_shortage(error: &io::Error) -> bool {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EADDRNOTAVAIL) => true,
        // Of connecting a socket for datagrams: no port is free (inet_autobind in net/ipv4/af_inet.c).
        Some(libc::EAGAIN) => true,
        // Of epoll_ctl(2): fs.epoll.max_user_watches.
        Some(libc::ENOSPC) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_this_machine_lacks_and_what_others_did() {
        let short = [
            libc::EMFILE,
            libc::ENFILE,
            libc::ENOBUFS,
            libc::ENOMEM,
            libc::EADDRNOTAVAIL,
            libc::EAGAIN,
            libc::ENOSPC,
        ];
        for errno in short {
            let course = Course::new(Duration::ZERO);
            assert!(!course.was_short());
            course.note(&io::Error::from_raw_os_error(errno));
            assert!(course.was_short(), "{errno}");
        }
        let course = Course::new(Duration::ZERO);
        for errno in [
            libc::ECONNREFUSED,
            libc::ECONNRESET,
            libc::EHOSTUNREACH,
            libc::ENETUNREACH,
            libc::ETIMEDOUT,
            libc::EPERM,
            libc::EACCES,
            libc::EMSGSIZE,
        ] {
            course.note(&io::Error::from_raw_os_error(errno));
            assert!(!course.was_short(), "{errno}");
        }
    }
}
