//! Writes the journal behind everything else: a thread of its own, changes of one object merge while it waits.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::journal::{Journal, Loaded, Saved};

/// How long changes gather before they are written: the kernel comes first.
const GATHER: Duration = Duration::from_millis(200);

/// Between tries when the disk is full or the directory cannot be written.
const RETRY: Duration = Duration::from_secs(5);

/// How the last good configuration is kept.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeeperStatus {
    /// The journal.
    pub path: String,
    /// How many objects it holds.
    pub objects: usize,
    /// Changes not on the disk yet.
    pub pending: usize,
    /// Why it cannot be written, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[derive(Debug, Default)]
struct Shared {
    pending: BTreeMap<String, Option<Saved>>,
    stopping: bool,
    status: KeeperStatus,
}

/// Keeps the last good configuration on the disk.
#[derive(Debug)]
pub struct Keeper {
    shared: Arc<(Mutex<Shared>, Condvar)>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Keeper {
    /// Starts the thread; goes on with what was loaded from `directory`.
    pub fn spawn(directory: &Path, loaded: Loaded) -> std::io::Result<Self> {
        let journal = Journal::new(directory, loaded);
        let status = KeeperStatus {
            path: journal.path().display().to_string(),
            objects: journal.objects(),
            ..KeeperStatus::default()
        };
        let shared = Arc::new((Mutex::new(Shared { status, ..Shared::default() }), Condvar::new()));
        let theirs = shared.clone();
        let thread =
            std::thread::Builder::new().name("last-good".into()).spawn(move || run(&theirs, journal))?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Notes changes; returns at once.
    pub fn record(&self, changes: impl IntoIterator<Item = (String, Option<Saved>)>) {
        let (mutex, wake) = &*self.shared;
        let mut shared = lock(mutex);
        shared.pending.extend(changes);
        if !shared.pending.is_empty() {
            wake.notify_one();
        }
    }

    /// How it goes.
    pub fn status(&self) -> KeeperStatus {
        let shared = lock(&self.shared.0);
        KeeperStatus { pending: shared.pending.len(), ..shared.status.clone() }
    }

    /// Writes what is pending (one try) and ends the thread; what is recorded later is not kept.
    pub fn close(&self) {
        let (mutex, wake) = &*self.shared;
        lock(mutex).stopping = true;
        wake.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.close();
    }
}

fn lock(mutex: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run(shared: &(Mutex<Shared>, Condvar), mut journal: Journal) {
    let (mutex, wake) = shared;
    let mut guard = lock(mutex);
    loop {
        while guard.pending.is_empty() && !guard.stopping {
            guard = wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        if guard.pending.is_empty() {
            return;
        }
        let pause = if guard.status.error.is_some() { RETRY } else { GATHER };
        guard = sleep(guard, wake, pause);
        let batch = std::mem::take(&mut guard.pending);
        guard.status.pending = batch.len();
        drop(guard);
        let written = journal.append(&batch);
        guard = lock(mutex);
        guard.status.objects = journal.objects();
        guard.status.pending = 0;
        match written {
            Ok(()) => {
                if guard.status.error.take().is_some() {
                    tracing::info!(path = guard.status.path, "the last good configuration is written again");
                }
            }
            Err(error) => {
                if guard.status.error.is_none() {
                    tracing::error!(
                        path = guard.status.path,
                        "the last good configuration cannot be written: {error}; after a restart with unreadable \
                         manifests the agent would go on with an older one. Trying again every {} s",
                        RETRY.as_secs()
                    );
                }
                guard.status.error = Some(error.to_string());
                // What came meanwhile is newer.
                for (key, change) in batch {
                    guard.pending.entry(key).or_insert(change);
                }
                if guard.stopping {
                    return;
                }
            }
        }
    }
}

fn sleep<'a>(mut guard: MutexGuard<'a, Shared>, wake: &Condvar, pause: Duration) -> MutexGuard<'a, Shared> {
    let until = Instant::now() + pause;
    while !guard.stopping {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        guard = wake.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0;
    }
    guard
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::load;

    fn change(key: &str, json: &str) -> (String, Option<Saved>) {
        (key.to_owned(), Some(Saved { file: "f.yaml".into(), line: 1, source: 0, json: json.into() }))
    }

    #[test]
    fn the_newest_form_is_on_the_disk_when_it_ends() {
        let directory = tempfile::tempdir().unwrap();
        let keeper = Keeper::spawn(directory.path(), load(directory.path())).unwrap();
        for n in 0..100 {
            keeper.record([change("a", &n.to_string())]);
        }
        keeper.record([change("b", "x"), ("c".into(), None)]);
        drop(keeper);
        let loaded = load(directory.path());
        assert_eq!(loaded.objects.len(), 2);
        assert_eq!(&*loaded.objects["a"].json, "99");
    }

    #[test]
    fn is_on_the_disk_when_closed_although_somebody_still_looks_at_it() {
        let directory = tempfile::tempdir().unwrap();
        let keeper = Arc::new(Keeper::spawn(directory.path(), load(directory.path())).unwrap());
        let somebody = keeper.clone();
        keeper.record([change("a", "1")]);
        keeper.close();
        assert_eq!(load(directory.path()).objects.len(), 1);
        assert_eq!(somebody.status().pending, 0);
    }

    #[test]
    fn says_when_it_cannot_write_and_recovers() {
        let parent = tempfile::tempdir().unwrap();
        let state = parent.path().join("state");
        std::fs::write(&state, "in the way").unwrap();
        let keeper = Keeper::spawn(&state, load(&state)).unwrap();
        keeper.record([change("a", "1")]);
        let limit = Instant::now() + Duration::from_secs(20);
        while keeper.status().error.is_none() {
            assert!(Instant::now() < limit, "the error never showed");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(keeper.status().pending, 1);
        std::fs::remove_file(&state).unwrap();
        drop(keeper);
        assert_eq!(load(&state).objects.len(), 1);
    }
}
