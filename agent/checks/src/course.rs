//! How far one run of a probe has come, and how long it may take.

use std::future::Future;
use std::sync::atomic::{AtomicU8, Ordering};
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
}

impl Course {
    /// A run that begins now.
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { deadline: Instant::now() + timeout, timeout, phase: AtomicU8::new(Phase::Connect as u8) }
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
