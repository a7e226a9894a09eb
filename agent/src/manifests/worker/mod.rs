//! The thread that watches the directory: events in, configuration changes out, and nothing in between that waits.

mod look;
mod requests;

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bascule_compile::BindingKey;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::oneshot;

use self::requests::{Inbox, Request};
use crate::manifests::catalog::SETTLE;
use crate::manifests::disk::{self, DirectoryId, FileName, Signature};
use crate::manifests::engine::{Engine, Step};
use crate::manifests::locate::FromDisk;
use crate::manifests::view::{Summary, View};
use crate::reconcile::{ConfigChange, ConfigUpdate, Lives};
use crate::state::{Keeper, Saved};
use crate::watch::{Event, Watch};

/// Between looks at whether the path still leads to the watched directory.
const CHECK: Duration = Duration::from_secs(1);

/// Shortest time between two looks at all files, for what the kernel does not tell (links to elsewhere, network file
/// systems). A look that takes long is repeated more rarely: it may use 0.2 % of a core.
const RESCAN: Duration = Duration::from_secs(10);

/// The same where the kernel tells nothing.
const RESCAN_UNWATCHED: Duration = Duration::from_secs(2);

/// How long a directory that came in the place of another one may take to be filled before files that are missing from it
/// count as gone although new ones still come.
const FILLING: Duration = Duration::from_mins(5);

/// Files examined between two updates of the configuration when very many change at once.
const BATCH: usize = 256;

/// From how many files on they are examined on all cores.
const PARALLEL: usize = 32;

/// Requests that may wait.
const REQUESTS: usize = 64;

/// What the worker is for.
#[derive(Debug)]
pub struct Options {
    /// The directory.
    pub directory: PathBuf,
    /// This machine's name.
    pub director: String,
    /// The last good configuration.
    pub remembered: BTreeMap<String, Saved>,
    /// Where the last good configuration is kept; none keeps nothing.
    pub keeper: Option<Arc<Keeper>>,
}

/// The running worker.
#[derive(Debug)]
pub struct Manifests {
    requests: SyncSender<Request>,
    wake: UnixStream,
    stop: Arc<AtomicBool>,
    summary: Arc<Mutex<Summary>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Manifests {
    /// Starts watching. Updates go to `updates`; the first holds everything.
    pub fn spawn(
        options: Options,
        updates: impl FnMut(ConfigUpdate) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (requests, receiver) = sync_channel(REQUESTS);
        let (wake, woken) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let summary = Arc::new(Mutex::new(Summary::default()));
        let theirs = summary.clone();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name("manifests".into()).spawn(move || {
            let inbox = Inbox { requests: receiver, woken, stop: stopped };
            Worker::new(options, Box::new(updates), inbox, theirs).run();
        })?;
        Ok(Self { requests, wake, stop, summary, thread: Mutex::new(Some(thread)) })
    }

    /// Looks at every file again, soon.
    pub fn rescan(&self) {
        self.request(Request::Rescan);
    }

    /// Everything that the manifests say. None when the worker is busy for longer than `wait`, or ended.
    pub async fn view(&self, wait: Duration) -> Option<Arc<View>> {
        let (answer, receiver) = oneshot::channel();
        self.request(Request::View(answer));
        tokio::time::timeout(wait, receiver).await.ok()?.ok()
    }

    /// The figures, at once.
    pub fn summary(&self) -> Summary {
        self.summary.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the thread works.
    pub fn is_alive(&self) -> bool {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Ends the thread, also in the middle of reading thousands of files. No update comes after this.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = (&self.wake).write(&[1]);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }

    fn request(&self, request: Request) {
        match self.requests.try_send(request) {
            // A full queue: whoever asked is told by the answer that never comes.
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
        let _ = (&self.wake).write(&[1]);
    }
}

impl Drop for Manifests {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Who carries out what the worker finds.
type Sink = Box<dyn FnMut(ConfigUpdate) + Send>;

struct Worker {
    options: Options,
    engine: Engine,
    updates: Sink,
    inbox: Inbox,
    /// Somebody wants all files looked at.
    rescan_asked: bool,
    summary: Arc<Mutex<Summary>>,
    watch: Option<(Watch, DirectoryId)>,
    /// The directory that was last looked at and believed; none when the path may lead to another one now.
    listed: Option<DirectoryId>,
    /// The directory is another one than before, and may still be filled: since when.
    filling: Option<Instant>,
    signatures: BTreeMap<FileName, Option<Signature>>,
    /// Files that a look found changed without an event: read when they have not changed for [`SETTLE`].
    suspects: BTreeMap<FileName, (Option<Signature>, Instant)>,
    check_at: Instant,
    rescan_at: Instant,
    /// A first update was sent; from then on only changes are.
    started: bool,
    /// Why inotify cannot be used, as last said.
    unwatched: Option<String>,
    serial: u64,
    /// The newest serial of the bindings that changed since the first update.
    told: HashMap<BindingKey, u64>,
    /// The same of NatRules.
    told_rules: HashMap<BindingKey, u64>,
    /// What the last good configuration has that cannot be used.
    notes: Vec<String>,
    /// What is wrong with names in the directory, as last looked at.
    name_notes: Vec<String>,
}

impl Worker {
    fn new(mut options: Options, updates: Sink, inbox: Inbox, summary: Arc<Mutex<Summary>>) -> Self {
        let mut engine = Engine::new(&options.directory, &options.director, []);
        let remembered = std::mem::take(&mut options.remembered);
        let notes = engine.remember(remembered);
        for note in &notes {
            tracing::warn!("{note}");
        }
        let now = Instant::now();
        Self {
            options,
            engine,
            updates,
            inbox,
            rescan_asked: false,
            summary,
            watch: None,
            listed: None,
            filling: None,
            signatures: BTreeMap::new(),
            suspects: BTreeMap::new(),
            check_at: now,
            rescan_at: now,
            started: false,
            unwatched: None,
            serial: 0,
            told: HashMap::new(),
            told_rules: HashMap::new(),
            notes,
            name_notes: Vec::new(),
        }
    }

    fn run(mut self) {
        self.start();
        // From now on it is changes that it reads, a few at a time, and clients wait for them.
        crate::priority::raise();
        while !self.inbox.is_stopped() {
            self.wait();
            // What the kernel told comes first, on its own: nothing below may delay it.
            let seen = Instant::now();
            self.serve_events(seen);
            if !self.engine.catalog.is_unchanged() {
                self.publish(seen);
            }
            self.serve_requests();
            let now = Instant::now();
            if std::mem::take(&mut self.rescan_asked) {
                tracing::info!("looking at all manifests again, as asked");
                self.check_directory(now);
                self.look(now, true);
            }
            if now >= self.check_at {
                self.check_at = now + CHECK;
                self.check_directory(now);
            }
            if now >= self.rescan_at {
                self.look(now, false);
            }
            self.read_suspects(now);
            self.expire(now);
            self.publish(now);
        }
    }

    /// The first look: everything at once.
    fn start(&mut self) {
        let now = Instant::now();
        self.check_at = now + CHECK;
        self.open_directory(now);
        self.publish(now);
        if let Some(note) = self.note_of_names() {
            tracing::warn!("{note}");
        }
        // Reading thousands of files left holes behind.
        crate::memory::give_back();
        tracing::info!(
            files = self.signatures.len(),
            objects = self.engine.catalog.active_count(),
            problems = self.engine.problem_count(),
            milliseconds = u64::try_from(now.elapsed().as_millis()).unwrap_or(u64::MAX),
            "manifests read"
        );
    }

    /// What is to be said when no manifest names this director.
    fn note_of_names(&self) -> Option<String> {
        let named = self.engine.named();
        if named.contains(&self.options.director) || self.engine.catalog.lost().is_some() {
            return None;
        }
        let known = named.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let known =
            if known.is_empty() { "they name no director".into() } else { format!("they name {known}") };
        Some(format!(
            "no manifest in {} names the director {}: {known}; there is nothing to do until one does",
            self.options.directory.display(),
            self.options.director
        ))
    }

    fn wait(&mut self) {
        let deadlines = [Some(self.check_at), Some(self.rescan_at), self.engine.catalog.next_deadline()];
        let suspects = self.suspects.values().map(|(_, since)| *since + SETTLE);
        let next = deadlines.into_iter().flatten().chain(suspects).min().unwrap_or(self.check_at);
        let left = next.saturating_duration_since(Instant::now());
        // Rounded up: waking a little early would only mean waking twice.
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        let mut fds = vec![PollFd::new(self.inbox.woken.as_fd(), PollFlags::POLLIN)];
        if let Some((watch, _)) = &self.watch {
            fds.push(PollFd::new(watch.as_fd(), PollFlags::POLLIN));
        }
        // An interrupted wait ends early, that is all.
        let _ = poll(&mut fds, timeout);
    }

    /// Answers those who wait; what else they want is noted.
    fn serve_requests(&mut self) {
        let (waiting, rescan) = self.inbox.take();
        self.rescan_asked |= rescan;
        requests::answer(waiting, || self.view());
    }

    fn serve_events(&mut self, seen: Instant) {
        let Some((watch, _)) = &self.watch else { return };
        let events = match watch.events() {
            Ok(events) => events,
            Err(error) => {
                tracing::warn!(
                    "the kernel's directory events cannot be read: {error}; looking at everything"
                );
                vec![Event::DirectoryGone]
            }
        };
        // What happened to a name last is what counts.
        let mut names: BTreeMap<String, bool> = BTreeMap::new();
        let mut rescan = None;
        for event in events {
            match event {
                Event::Written(name) => drop(names.insert(name, true)),
                Event::Created(name) if self.is_link(&name) => drop(names.insert(name, true)),
                Event::Attributes(name) if self.failed_before(&name) => drop(names.insert(name, true)),
                // About to be written, most likely, which ends with an event; if not (linked from an unnamed file), it is
                // read when it has not changed for a while.
                Event::Created(name) => {
                    // Gone and there again: until it is read, what it said before counts.
                    if names.get(&name) == Some(&false) {
                        names.remove(&name);
                    }
                    self.engine.catalog.reappeared(&name);
                    self.still_filled(seen, &name);
                    let signature = disk::signature(&self.options.directory, &name);
                    self.suspects.insert(name.into(), (signature, seen));
                }
                Event::Attributes(_) => {}
                Event::Gone(name) => drop(names.insert(name, false)),
                Event::Rescan(why) => rescan = Some(why),
                Event::DirectoryGone => {
                    self.watch = None;
                    self.listed = None;
                    self.check_at = seen;
                }
            }
        }
        let (written, gone): (Vec<_>, Vec<_>) = names.into_iter().partition(|(_, written)| *written);
        for (name, _) in gone {
            self.signatures.remove(name.as_str());
            self.suspects.remove(name.as_str());
            self.engine.catalog.vanished(seen, &name);
        }
        let written: Vec<FileName> = written.into_iter().map(|(name, _)| name.into()).collect();
        for name in &written {
            self.still_filled(seen, name);
        }
        if !written.is_empty() {
            // A first manifest ends what a directory found empty at the start means.
            if self.engine.catalog.lost().is_some() {
                self.look(seen, true);
            }
            self.read(seen, &written);
        }
        if let Some(why) = rescan {
            tracing::info!("looking at all manifests: {why}");
            self.look(seen, true);
        }
    }

    /// Hands what changed to the reconciler, then sees to the rest.
    fn publish(&mut self, seen: Instant) {
        // Stopped in the middle of reading, what is not read yet would count as absent.
        if self.inbox.is_stopped() {
            return;
        }
        let mut step = self.engine.step();
        if !self.started {
            // Nothing known at all is no reason to clear what the kernel holds.
            let blind = self.engine.catalog.lost().is_some() && (self.engine.catalog.active_count() == 0);
            if blind {
                self.follow_up(&step);
                return;
            }
            self.started = true;
            step.config = self.engine.config().map(|config| ConfigChange::All(Arc::new(config)));
            let all = self.engine.checks().iter();
            step.checks = all.map(|(key, spec)| (key.clone(), Some(Arc::clone(spec)))).collect();
        }
        if step.config.is_some() || !step.checks.is_empty() {
            let change = step.config.take().unwrap_or_else(ConfigChange::none);
            let checks = std::mem::take(&mut step.checks).into_iter().collect();
            self.serial += 1;
            if let ConfigChange::Some { bindings, nat_rules, .. } = &change {
                for (key, binding) in bindings {
                    match binding {
                        Some(_) => self.told.insert(key.clone(), self.serial),
                        None => self.told.remove(key),
                    };
                }
                for (key, binding) in nat_rules {
                    match binding {
                        Some(_) => self.told_rules.insert(key.clone(), self.serial),
                        None => self.told_rules.remove(key),
                    };
                }
            }
            let update = ConfigUpdate { serial: self.serial, seen, change, checks, live: Lives::new() };
            (self.updates)(update);
        }
        self.follow_up(&step);
    }

    fn follow_up(&mut self, step: &Step) {
        if step.put + step.deleted > 0 {
            tracing::info!(changed = step.put, removed = step.deleted, "manifests changed");
        }
        let locate = FromDisk::new(&self.options.directory);
        let aftermath = self.engine.follow_up(step, &locate);
        for problem in &aftermath.appeared {
            tracing::error!("{problem}");
        }
        for problem in &aftermath.resolved {
            tracing::info!("resolved: {problem}");
        }
        if let Some(keeper) = &self.options.keeper {
            keeper.record(aftermath.saved);
        }
        let summary = Summary {
            serial: self.serial,
            started: self.started,
            files: self.signatures.len(),
            objects: self.engine.catalog.active_count(),
            problems: self.engine.problem_count(),
            lost: self.engine.catalog.lost().map(ToString::to_string),
        };
        *self.summary.lock().unwrap_or_else(PoisonError::into_inner) = summary;
    }

    fn view(&self) -> View {
        let mut view = View::of(&self.engine, &self.options.director, &self.options.directory);
        view.serial = self.serial;
        for object in &mut view.objects {
            let told = object.binding.as_ref().and_then(|key| self.told.get(key));
            let told = told.or_else(|| self.told_rules.get(object.rule.as_ref()?));
            object.told = told.copied().unwrap_or(1);
        }
        view.files = self.signatures.len();
        let notes = self.notes.iter().chain(&self.name_notes).chain(&self.unwatched).cloned();
        view.notes = notes.chain(self.started.then(|| self.note_of_names()).flatten()).collect();
        view
    }
}

#[cfg(test)]
mod tests;
