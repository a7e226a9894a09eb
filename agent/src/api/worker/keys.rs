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
        // A flush may be taken back: what was in force is needed then, whatever has become of its Secret.
        if told.director.flush.is_some() {
            return;
        }
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
                // After a failure nothing is tried again.
                self.kept(Instant::now(), result);
            }
            self.keep_keys(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::mpsc;

    use super::*;
    use crate::api::connect::{Cluster, Connection};
    use crate::api::heard::Trouble;
    use crate::api::worker::{Options, Shared};
    use crate::secrets::{Bytes, Heard, Named, Secrets, Usage};

    fn worker(state: &Path) -> Worker {
        let (secrets, _) = Secrets::open(state);
        let options = Options {
            cluster: Cluster::default(),
            director: "dir1".into(),
            remembered: BTreeMap::new(),
            keeper: None,
            secrets: Arc::new(secrets),
        };
        Worker::new(options, (Box::new(|_| {}), Box::new(|| {})), Arc::new(Shared::default()))
    }

    /// A key was read.
    fn read(worker: &Worker, key: u8) {
        let mut book = worker.secrets.book().unwrap();
        book.want([Named { secret: "vrrp".into(), key: "front".into(), usage: Usage::Hmac }].into());
        let keys = [("front".to_owned(), Bytes::new(vec![key; 32]))].into();
        assert_eq!(book.hear("vrrp", &Heard::There("1".into(), keys)).len(), 1);
    }

    fn on_the_disk(state: &Path) -> Vec<u8> {
        file::load(state).unwrap().iter().map(|kept| kept.bytes.expose()[0]).collect()
    }

    /// A session with an API server that nobody answers for.
    fn session(worker: &Worker) -> Session {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = kube::Config::new("http://127.0.0.1:9".parse().unwrap());
        let client = kube::Client::try_from(config).unwrap();
        let connection = Connection { client, namespace: "bascule-system".into(), server: "s".into() };
        let (heard, told) = (mpsc::channel(1).0, mpsc::channel(1).0);
        Session::begin(connection, "dir1", &worker.wanted, (&heard, &told), Instant::now())
    }

    #[tokio::test]
    async fn groups_are_told_when_there_is_something_else_for_them() {
        let state = tempfile::tempdir().unwrap();
        let mut worker = worker(state.path());
        let changes = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&changes);
        worker.keys_changed = Box::new(move || {
            counted.fetch_add(1, Ordering::SeqCst);
        });
        read(&worker, 1);
        let mut session = session(&worker);
        session.secrets.follow(&worker.secrets.book().unwrap().secrets());
        let there = |key: u8| Heard::There("2".into(), [("front".into(), Bytes::new(vec![key; 32]))].into());
        for (serial, heard, wanted) in [
            (1, Ok(there(1)), 0),
            (7, Ok(there(2)), 0),
            (1, Ok(there(2)), 1),
            (1, Ok(there(2)), 1),
            (1, Err(Trouble::Lost("no answer".into())), 1),
            (1, Ok(Heard::Missing), 2),
            (1, Ok(Heard::Missing), 2),
        ] {
            let words = format!("{serial} {heard:?}");
            worker.hear_key(Told { serial, secret: "vrrp".into(), heard }, Some(&mut session));
            assert_eq!(changes.load(Ordering::SeqCst), wanted, "{words}");
        }
        worker.hear_key(Told { serial: 1, secret: "vrrp".into(), heard: Ok(there(3)) }, None);
        assert_eq!(changes.load(Ordering::SeqCst), 2, "nobody is followed");
        worker.keep_last_keys().await;
        assert_eq!(on_the_disk(state.path()), [2]);
    }

    #[tokio::test]
    async fn what_is_in_force_is_on_the_disk_at_the_end() {
        let parent = tempfile::tempdir().unwrap();
        let state = parent.path().join("state");
        let mut worker = worker(&state);
        worker.keep_last_keys().await;
        assert!(!state.exists(), "there is nothing to keep");
        read(&worker, 1);
        // It is being written while the next one comes.
        worker.keep_keys(Instant::now());
        read(&worker, 2);
        worker.keep_last_keys().await;
        assert_eq!(on_the_disk(&state), [2]);
        assert!(worker.keeping.running.is_none() && worker.keeping.error.is_none());
    }

    #[tokio::test]
    async fn a_disk_that_does_not_take_it_is_tried_again() {
        let parent = tempfile::tempdir().unwrap();
        let state = parent.path().join("state");
        let mut worker = worker(&state);
        std::fs::write(&state, "in the way").unwrap();
        read(&worker, 1);
        worker.keep_last_keys().await;
        assert!(worker.keeping.error.is_some());
        let again_at = worker.keeping.again_at.expect("a time");
        worker.keep_keys(again_at.checked_sub(Duration::from_millis(1)).unwrap());
        assert!(worker.keeping.running.is_none(), "not yet");
        std::fs::remove_file(&state).unwrap();
        worker.keep_keys(again_at);
        assert!(worker.keeping.running.is_some());
        worker.keep_last_keys().await;
        assert_eq!(on_the_disk(&state), [1]);
        // Once more nothing is to be done, and that it goes on is known.
        assert_eq!((worker.keeping.error.as_ref(), worker.keeping.again_at), (None, None));
    }
}
