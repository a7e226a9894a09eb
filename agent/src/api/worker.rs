//! The thread that follows the API: what is heard in, configuration changes out, statuses back, and nothing in between that the rest of
//! the agent waits for.

mod keys;
mod looking;
mod session;
mod showing;
mod slices;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bascule_compile::BindingKey;
use tokio::sync::{mpsc, oneshot, watch};

use self::keys::Keeping;
use self::looking::look;
use self::session::Session;
use super::connect::{self, Cluster};
use super::heard::What;
use super::heard::{Heard, Trouble};
use super::link::{Link, LinkStatus, Say};
use super::report::plan::Planner;
use super::secrets;
use super::source::{self, Source, Step};
use super::wanted::Wanted;
use crate::manifests::{Problem, Summary, View};
use crate::reconcile::{ConfigChange, ConfigUpdate, Lives};
use crate::secrets::Secrets;
use crate::state::{Keeper, Saved};
use crate::status::Gatherer;

/// Requests that may wait.
const REQUESTS: usize = 64;
/// What was heard and is not taken in yet.
const HEARD: usize = 256;
/// The same of Secrets.
const KEYS: usize = 16;
/// Between tries to make a client, and from the first answer that our credentials are not known until they are read anew.
const RECONNECT: Duration = Duration::from_secs(10);
/// How long a client may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// How long giving the Lease up may take.
const LEAVE: Duration = Duration::from_secs(2);

/// What the thread is for.
#[derive(Debug)]
pub struct Options {
    /// Which cluster.
    pub cluster: Cluster,
    /// This machine's name.
    pub director: String,
    /// The last good configuration.
    pub remembered: BTreeMap<String, Saved>,
    /// Where the last good configuration is kept; none keeps nothing.
    pub keeper: Option<Arc<Keeper>>,
    /// Where the keys go that are in Secrets.
    pub secrets: Arc<Secrets>,
}

enum Request {
    View(oneshot::Sender<Arc<View>>),
    /// The kubeconfig is read and everything listed anew.
    Again,
    /// Statuses are written back from now on.
    Report(Weak<Gatherer>),
}

#[derive(Debug, Default)]
struct Shared {
    summary: Mutex<Summary>,
    link: Mutex<LinkStatus>,
}

/// The running thread.
#[derive(Debug)]
pub struct Api {
    requests: mpsc::Sender<Request>,
    /// Whether to end, and whether the sign of life is taken back before.
    stop: watch::Sender<Option<bool>>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Api {
    /// Starts following. Updates go to `updates`; the first holds everything. It comes at once where a last good configuration is
    /// remembered. `keys_changed` is called when something else is to be had of [`Options::secrets`]; it must not wait.
    pub fn spawn(
        options: Options,
        updates: impl FnMut(ConfigUpdate) + Send + 'static,
        keys_changed: impl FnMut() + Send + 'static,
    ) -> std::io::Result<Self> {
        let (requests, received) = mpsc::channel(REQUESTS);
        let (stop, stopped) = watch::channel(None);
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("api".into()).spawn(move || {
            let worker = Worker::new(options, (Box::new(updates), Box::new(keys_changed)), theirs);
            runtime.block_on(worker.run(received, stopped));
            runtime.shutdown_timeout(Duration::from_secs(1));
        })?;
        Ok(Self { requests, stop, shared, thread: Mutex::new(Some(thread)) })
    }

    /// Writes statuses back from now on, as this one sees them.
    pub fn report(&self, gatherer: &Arc<Gatherer>) {
        // The queue is empty at the start.
        let _ = self.requests.try_send(Request::Report(Arc::downgrade(gatherer)));
    }

    /// Reads the kubeconfig and lists everything anew, soon.
    pub fn rescan(&self) {
        // A full queue: somebody asked just now.
        let _ = self.requests.try_send(Request::Again);
    }

    /// Everything that the API says. None when the thread is busy for longer than `wait`, or ended.
    pub async fn view(&self, wait: Duration) -> Option<Arc<View>> {
        let (answer, receiver) = oneshot::channel();
        self.requests.try_send(Request::View(answer)).ok()?;
        tokio::time::timeout(wait, receiver).await.ok()?.ok()
    }

    /// The figures, at once.
    pub fn summary(&self) -> Summary {
        lock(&self.shared.summary).clone()
    }

    /// How it stands with the API server.
    pub fn link(&self) -> LinkStatus {
        lock(&self.shared.link).clone()
    }

    /// Whether the thread works.
    pub fn is_alive(&self) -> bool {
        lock(&self.thread).as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Ends the thread. With `leave` the sign of life is taken back: nobody follows. No update comes after this.
    pub fn stop(&self, leave: bool) {
        self.stop.send_if_modified(|stop| {
            let first = stop.is_none();
            stop.get_or_insert(leave);
            first
        });
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.stop(false);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Who carries out what is found.
type Sink = Box<dyn FnMut(ConfigUpdate) + Send>;
/// Who takes keys up.
type KeysChanged = Box<dyn FnMut() + Send>;

struct Worker {
    director: String,
    cluster: Cluster,
    source: Source,
    /// For whoever reads slices.
    wanted: Arc<Wanted>,
    /// Slices of single Services are not asked for before: they could not be read.
    fetch_at: Instant,
    updates: Sink,
    keeper: Option<Arc<Keeper>>,
    secrets: Arc<Secrets>,
    keys_changed: KeysChanged,
    keeping: Keeping,
    shared: Arc<Shared>,
    link: Link,
    planner: Planner,
    written: u64,
    failed: u64,
    serial: u64,
    /// The newest serial of the bindings that changed since the first update.
    told: HashMap<(What, BindingKey), u64>,
    /// The same of the director's own settings.
    told_config: u64,
    /// Problems as last told.
    problems: Vec<Problem>,
    /// Objects of a directory in the last good configuration: not needed any more when the API has said everything.
    foreign: Vec<String>,
    notes: Vec<String>,
    server: String,
    /// Everything was listed, and that was said.
    listed: bool,
    digest: Option<(u64, String)>,
    kernel: String,
    /// No look is made use of before.
    rest_until: Instant,
    /// When to make a client anew.
    connect_at: Option<Instant>,
    /// Why no client could be made, as last said.
    unusable: Option<String>,
}

impl Worker {
    fn new(options: Options, (updates, keys_changed): (Sink, KeysChanged), shared: Arc<Shared>) -> Self {
        let Options { cluster, director, remembered, keeper, secrets } = options;
        let mut source = Source::new(&director);
        let notes = source.remember(&remembered);
        for note in &notes {
            tracing::warn!("{note}");
        }
        let foreign = remembered.into_keys().filter(|key| !source::is_ours(key)).collect();
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let now = Instant::now();
        Self {
            director,
            cluster,
            source,
            wanted: Arc::default(),
            fetch_at: now,
            updates,
            keeper,
            secrets,
            keys_changed,
            keeping: Keeping::default(),
            shared,
            link: Link::default(),
            planner: Planner::new(now),
            written: 0,
            failed: 0,
            serial: 0,
            told: HashMap::new(),
            told_config: 0,
            problems: Vec::new(),
            foreign,
            notes,
            server: String::new(),
            listed: false,
            digest: None,
            kernel: kernel.trim().to_owned(),
            rest_until: now,
            connect_at: Some(now),
            unusable: None,
        }
    }

    async fn run(mut self, mut requests: mpsc::Receiver<Request>, mut stop: watch::Receiver<Option<bool>>) {
        let step = self.source.begin();
        if !step.is_empty() {
            tracing::info!(
                objects = self.source.in_force(),
                "going on with the last good configuration until the API server has said everything"
            );
        }
        self.tell(Instant::now(), step);
        self.want(None);
        let (to_worker, mut heard) = mpsc::channel(HEARD);
        let (of_keys, mut keys) = mpsc::channel(KEYS);
        let (to_look, mut looks) = mpsc::channel(1);
        let mut session: Option<Session> = None;
        let mut second = tokio::time::interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let leave = loop {
            tokio::select! {
                stopped = stop.wait_for(Option::is_some) => {
                    break stopped.is_ok_and(|stop| *stop == Some(true));
                }
                Some(first) = heard.recv() => self.hear(first, &mut heard, session.as_mut()),
                Some(told) = keys.recv() => self.hear_key(told, session.as_mut()),
                Some(request) = requests.recv() => match request {
                    Request::View(answer) => self.answer(answer),
                    Request::Again => self.connect_at = Some(Instant::now()),
                    Request::Report(gatherer) => drop(tokio::spawn(look(gatherer, to_look.clone()))),
                },
                Some(status) = looks.recv() => self.report(&status, session.as_mut()),
                Some(done) = Session::next(session.as_mut()) => self.done(done, session.as_mut()),
                _ = second.tick() => {
                    let to = (&to_worker, &of_keys);
                    self.tick(&mut session, to, &mut heard, &mut keys).await;
                }
            }
            self.show();
        };
        self.keep_last_keys().await;
        if leave && let Some(session) = &session {
            session.leave(&self.director, LEAVE).await;
        }
    }

    /// What is due: a client, the sign of life.
    async fn tick(
        &mut self,
        session: &mut Option<Session>,
        to: (&mpsc::Sender<Heard>, &mpsc::Sender<secrets::Told>),
        heard: &mut mpsc::Receiver<Heard>,
        keys: &mut mpsc::Receiver<secrets::Told>,
    ) {
        let now = Instant::now();
        self.keep_keys(now);
        for said in self.link.rest(now) {
            say(Some(said));
        }
        if let Some(session) = session {
            session.tick(now, &self.director);
            self.follow_keys(session);
            if now >= self.fetch_at {
                self.want(Some(session));
            }
            // None ends by itself; whatever happened, it is begun anew.
            if session.watches.has_ended() {
                self.connect_at.get_or_insert(now + RECONNECT);
            }
        }
        if self.connect_at.is_none_or(|at| now < at) {
            return;
        }
        self.connect_at = None;
        let connected = tokio::time::timeout(CONNECT, connect::connect(&self.cluster)).await;
        match connected.unwrap_or_else(|_| Err(anyhow::anyhow!("reading it takes too long"))) {
            Ok(connection) => {
                self.unusable = None;
                tracing::info!(server = connection.server, "following the API server");
                self.server.clone_from(&connection.server);
                *session = None;
                // What the former client heard is heard again.
                while heard.try_recv().is_ok() {}
                while keys.try_recv().is_ok() {}
                self.source.disconnected();
                if let Some(mut book) = self.secrets.book() {
                    book.set_namespace(&connection.namespace);
                }
                *session = Some(Session::begin(connection, &self.director, &self.wanted, to, now));
            }
            Err(error) => {
                let why = format!("{error:#}");
                if self.unusable.as_ref() != Some(&why) {
                    tracing::error!(
                        "{why}; going on with what is known, and trying again every {} s",
                        RECONNECT.as_secs()
                    );
                    self.unusable = Some(why);
                }
                self.connect_at = Some(now + RECONNECT);
            }
        }
    }

    fn hear(&mut self, first: Heard, heard: &mut mpsc::Receiver<Heard>, session: Option<&mut Session>) {
        let seen = Instant::now();
        self.hear_one(seen, first);
        for _ in 1..HEARD {
            let Ok(next) = heard.try_recv() else { break };
            self.hear_one(seen, next);
        }
        let step = self.source.step();
        self.tell(seen, step);
        self.want(session);
        if !self.listed && self.source.is_listed() {
            self.listed = true;
            tracing::info!(
                objects = self.source.in_force(),
                problems = self.problems.len(),
                "everything was listed"
            );
        }
    }

    fn hear_one(&mut self, now: Instant, heard: Heard) {
        let said = match &heard {
            Heard::Listing(_) | Heard::Asked(_) => None,
            Heard::There(..) | Heard::Gone(..) => self.link.heard(now),
            Heard::Listed(what) => {
                let granted = self.link.granted(what.word());
                granted.or(self.link.heard(now))
            }
            Heard::Failed(what, trouble) => self.trouble(now, what.word(), trouble),
        };
        say(said);
        self.source.hear(heard);
    }

    fn trouble(&mut self, now: Instant, what: &'static str, trouble: &Trouble) -> Option<Say> {
        if matches!(trouble, Trouble::Unknown(_)) {
            // The file may hold another token by now.
            self.connect_at.get_or_insert(now + RECONNECT);
        }
        self.link.failed(now, what, trouble)
    }

    /// Hands what changed to the reconciler, then to the disk, then to the log.
    fn tell(&mut self, seen: Instant, step: Step) {
        if !step.is_empty() {
            let Step { change, checks, .. } = &step;
            let change = change.clone().unwrap_or_else(ConfigChange::none);
            self.serial += 1;
            if change.director().is_some() {
                self.told_config = self.serial;
            }
            if let ConfigChange::Some { bindings, nat_rules, .. } = &change {
                let bindings =
                    bindings.iter().map(|(key, spec)| ((What::Bindings, key.clone()), spec.is_some()));
                let rules = nat_rules.iter().map(|(key, spec)| ((What::Rules, key.clone()), spec.is_some()));
                for (key, there) in bindings.chain(rules) {
                    if there {
                        self.told.insert(key, self.serial)
                    } else {
                        self.told.remove(&key)
                    };
                }
            }
            let checks = checks.iter().map(|(key, spec)| (key.clone(), spec.clone())).collect();
            let update = ConfigUpdate { serial: self.serial, seen, change, checks, live: Lives::new() };
            self.name_keys();
            (self.updates)(update);
        }
        if let Some(keeper) = &self.keeper {
            keeper.record(step.saved);
            if self.source.is_started() && self.source.is_listed() {
                keeper.record(std::mem::take(&mut self.foreign).into_iter().map(|key| (key, None)));
            }
        }
        self.follow_up();
    }

    fn follow_up(&mut self) {
        let problems = self.source.problems(&self.server);
        for problem in problems.iter().filter(|one| !self.problems.contains(one)) {
            tracing::error!("{problem}");
        }
        for problem in self.problems.iter().filter(|one| !problems.contains(one)) {
            tracing::info!("resolved: {problem}");
        }
        self.problems = problems;
    }

    fn done(&mut self, done: session::Done, session: Option<&mut Session>) {
        let now = Instant::now();
        match done {
            session::Done::Slices(service, result) => self.fetched(now, &service, result, session),
            session::Done::Lease(result) => {
                let said = match &result {
                    Ok(()) => {
                        say(self.link.granted("Lease"));
                        self.link.heard(now)
                    }
                    Err(trouble) => self.trouble(now, "Lease", trouble),
                };
                say(said);
            }
            session::Done::Status(write, result) => {
                if let Some(words) = self.planner.done(now, write.what, &write.place, &result) {
                    tracing::warn!("{words}");
                }
                if result.is_ok() {
                    self.written += 1;
                    self.source.written(write.what, &write.place, write.status);
                } else {
                    self.failed += 1;
                    tracing::debug!(kind = %write.what, object = %write.place, "a status was not written: {result:?}");
                }
            }
        }
    }
}

fn say(said: Option<Say>) {
    match said {
        None => {}
        Some(Say::Warn(text)) => tracing::warn!("{text}"),
        Some(Say::Info(text)) => tracing::info!("{text}"),
    }
}
