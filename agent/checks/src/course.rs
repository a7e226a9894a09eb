//! How far one run of a probe has come, and how long it may take.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

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
    begun: Instant,
    timeout: Duration,
    /// How long it has waited for its turn, in nanoseconds: by as much its end has moved.
    waited: AtomicU64,
    phase: AtomicU8,
    short: AtomicBool,
}

impl Course {
    /// A run that begins now.
    pub(crate) fn new(timeout: Duration) -> Self {
        Self {
            begun: Instant::now(),
            timeout,
            waited: AtomicU64::new(0),
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
        let mut future = pin!(future);
        let mut end = pin!(sleep_until(self.deadline()));
        poll_fn(|cx| {
            if let Poll::Ready(made) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(made));
            }
            // It may have begun or ended to wait for its turn.
            let deadline = self.deadline();
            if end.deadline() != deadline {
                end.as_mut().reset(deadline);
            }
            end.as_mut().poll(cx).map(|()| Err(self.late()))
        })
        .await
    }

    /// Waits for a turn that other runs have to give first. That is no time of the target's: the end of the run moves by it. A run
    /// waits no longer than it may take; none is to say that it did so in vain, and does not know about its target.
    pub(crate) async fn turn<T>(&self, turn: impl Future<Output = T>) -> Option<T> {
        let begun = Instant::now();
        let before = Duration::from_nanos(self.waited.load(Ordering::Relaxed));
        let most = self.timeout.saturating_sub(before);
        self.wait(before + most);
        let got = timeout_at(begun + most, turn).await.ok();
        self.wait(before + begun.elapsed().min(most));
        if got.is_none() {
            self.short.store(true, Ordering::Relaxed);
        }
        got
    }

    fn wait(&self, so_long: Duration) {
        self.waited.store(u64::try_from(so_long.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn deadline(&self) -> Instant {
        self.begun + self.timeout + Duration::from_nanos(self.waited.load(Ordering::Relaxed))
    }

    /// How long the run may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The end of the run, or a moment that comes before it.
    pub(crate) fn at_most(&self, wait: Duration) -> Instant {
        self.deadline().min(Instant::now() + wait)
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
    async fn to_wait_for_a_turn_takes_nothing_of_the_targets_time() {
        let course = Course::new(Duration::from_secs(60));
        let end = course.deadline();
        let (give, turn) = tokio::sync::oneshot::channel();
        let waits = async {
            let got = course.turn(turn).await;
            (got, course.deadline())
        };
        let gives = async {
            tokio::time::sleep(Duration::from_millis(2)).await;
            give.send(()).unwrap();
        };
        let (waited, ()) = tokio::join!(course.within(waits), gives);
        let (got, later) = waited.unwrap();
        assert!(got.is_some() && later > end && !course.was_short(), "{later:?}");

        // In vain: as long as it may take, and then it does not know.
        let course = Course::new(Duration::from_millis(20));
        let waits = course.within(course.turn(std::future::pending::<()>())).await;
        assert_eq!(waits, Ok(None));
        assert!(course.was_short());
        // There is nothing left to wait with, and the end is where it is.
        assert_eq!(course.turn(std::future::pending::<()>()).await, None);
        assert_eq!(course.deadline(), course.begun + 2 * course.timeout);
        assert!(course.within(std::future::pending::<()>()).await.is_err());
    }

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
