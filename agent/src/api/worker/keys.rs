//! Keys of VRRP groups that are in Secrets: has them read, kept, and taken up.

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use futures::FutureExt;
use tokio::task::JoinHandle;

use super::session::Session;
use super::{Worker, say};
use crate::api::link::Say;
use crate::api::secrets::Told;
use crate::secrets::{file, key};

/// As links name it.
const SECRET: &str = "Secret";
/// Between tries when the disk is full or the directory cannot be written.
const RETRY: Duration = Duration::from_secs(5);
/// How long the disk may take at the end.
const AT_THE_END: Duration = Duration::from_secs(2);

/// What is being written to the disk, and how that went.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    running: Option<JoinHandle<io::Result<()>>>,
    /// Nothing is tried before.
    again_at: Option<Instant>,
    /// Why it cannot be written, as last said.
    error: Option<String>,
}

impl Worker {
    /// The keys that the configuration names are those that count from now on.
    pub(super) fn name_keys(&mut self) {
        let Some(mut book) = self.secrets.book().filter(|_| self.source.is_started()) else { return };
        let (told, _) = self.source.told();
        book.want(told.director.vrrp.iter().flat_map(key::named_by).collect::<BTreeSet<_>>());
    }

    /// Follows the Secrets that they are in.
    pub(super) fn follow_keys(&mut self, session: &mut Session) {
        // Before there is a configuration nothing is known to be named.
        if let Some(book) = self.secrets.book().filter(|_| self.source.is_started()) {
            session.secrets.follow(&book.secrets());
        }
    }

    /// Something was heard of a Secret.
    pub(super) fn hear_key(&mut self, told: Told, session: Option<&mut Session>) {
        let now = Instant::now();
        if !session.is_some_and(|session| session.secrets.is_current(&told)) {
            return;
        }
        let heard = match told.heard {
            Ok(heard) => heard,
            Err(trouble) => {
                let said = self.trouble(now, SECRET, &trouble);
                return say(said);
            }
        };
        say(self.link.heard(now));
        let said = match self.secrets.book() {
            Some(mut book) => book.hear(&told.secret, &heard),
            None => return,
        };
        if !said.is_empty() {
            for one in said {
                say(Some(if one.good { Say::Info(one.text) } else { Say::Warn(one.text) }));
            }
            (self.keys_changed)();
        }
        self.keep_keys(now);
    }

    /// Has on the disk what is in force, one write at a time.
    pub(super) fn keep_keys(&mut self, now: Instant) {
        let finished = self.keeping.running.take_if(|running| running.is_finished());
        if let Some(result) = finished.and_then(FutureExt::now_or_never) {
            self.kept(now, result.unwrap_or_else(|error| Err(io::Error::other(error))));
        }
        let rests = self.keeping.again_at.is_some_and(|at| now < at);
        if self.keeping.running.is_some() || rests {
            return;
        }
        let Some(keys) = self.secrets.book().and_then(|mut book| book.take_unsaved()) else { return };
        let directory = self.secrets.directory().to_owned();
        self.keeping.running = Some(tokio::task::spawn_blocking(move || file::save(&directory, &keys)));
    }

    fn kept(&mut self, now: Instant, result: io::Result<()>) {
        let path = self.secrets.directory().join(file::FILE);
        let path = path.display();
        match result {
            Ok(()) => {
                self.keeping.again_at = None;
                if self.keeping.error.take().is_some() {
                    tracing::info!("{path} is written again");
                }
            }
            Err(error) => {
                if let Some(mut book) = self.secrets.book() {
                    book.not_saved();
                }
                self.keeping.again_at = Some(now + RETRY);
                let error = error.to_string();
                if self.keeping.error.as_ref() != Some(&error) {
                    tracing::error!(
                        "{path} cannot be written: {error}; an agent that starts without an API server would go on with \
                         older keys, or none. Trying again every {} s",
                        RETRY.as_secs()
                    );
                    self.keeping.error = Some(error);
                }
            }
        }
    }

    /// Waits for what is being written, and writes what is not; one try, and bounded.
    pub(super) async fn keep_last_keys(&mut self) {
        self.keeping.again_at = None;
        for _ in 0..2 {
            if let Some(running) = &mut self.keeping.running {
                let Ok(result) = tokio::time::timeout(AT_THE_END, running).await else { return };
                self.keeping.running = None;
                let result = result.unwrap_or_else(|error| Err(io::Error::other(error)));
                if result.is_err() {
                    return self.kept(Instant::now(), result);
                }
            }
            self.keep_keys(Instant::now());
        }
    }
}
