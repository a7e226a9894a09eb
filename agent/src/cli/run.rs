//! Running: everything is started here, and ended in order.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::args::{Listen, Origin, Run};
use super::fail;
use super::keys;
use super::lock::{self, LockError, RunLock};
use super::logging;
use super::service_manager::ServiceManager;
use crate::api::{self, Api};
use crate::checks::{self, Checks};
use crate::exec;
use crate::groups::{self, Groups};
use crate::http;
use crate::limits;
use crate::manifests::{self, Manifests};
use crate::plane;
use crate::reconcile;
use crate::secrets::Secrets;
use crate::source::Source;
use crate::state::{self, Keeper};
use crate::status::{self, ClientError, Gatherer, HttpStatus, Server, YIELDED};

/// How long the service manager waits for the first full pass before it hears that the agent is up all the same: it
/// is, and tries again by itself, when the kernel lacks something.
const READY_WITHIN: Duration = Duration::from_secs(15);

/// How long open requests may take when the agent ends.
const GRACE: Duration = Duration::from_secs(2);

/// How long groups wait at most for the kernel's tables to be filled before they take part, after the machine was started.
const FILLED_WITHIN: Duration = Duration::from_secs(5);

/// How often what a group was refused for is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// From one look at the reports to the next: planes report whatever wakes them, on a busy machine hundreds of times a second.
const REST: Duration = Duration::from_millis(50);

/// How long an agent that was to take over may take to end, when it did not.
const GIVEN_BACK_WITHIN: Duration = Duration::from_secs(30);

pub(super) fn run(args: &Run) -> ExitCode {
    let started = Instant::now();
    if let Err(error) = logging::start(args.log_format, &args.log_level) {
        return fail(error, super::USAGE);
    }
    limits::raise();
    plane::sysctl::set_root(&args.source.proc_sys);
    let mut notes = Vec::new();
    if let Some(journal) = &args.simulated_ipvs {
        if super::args::in_pod() {
            let why = "--simulated-ipvs is for benchmarks and forwards nothing: not in a pod; leave it out";
            return fail(why, super::USAGE);
        }
        let note = format!("IPVS is simulated, nothing is forwarded; commands are in {}", journal.display());
        tracing::error!("{note}");
        notes.push(note);
    }
    let heritage = match take_over(args) {
        Ok(heritage) => heritage,
        Err(error) => return fail(error, 1),
    };
    let patience = if heritage.is_some() { GRACE } else { Duration::ZERO };
    let lock = match lock_patiently(&args.source.run_dir, patience) {
        Ok(lock) => Some(lock),
        Err(error @ LockError::Taken { .. }) => return fail(error, 1),
        Err(error @ LockError::Unusable { .. }) => {
            let note = format!(
                "{error}; the agent does its work without a control socket (status cannot ask it) and without the \
                 ledger that tells after a crash which IPVS services are its own"
            );
            tracing::error!("{note}");
            notes.push(note);
            None
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(format_args!("cannot start: {error}"), 1),
    };
    let result = runtime.block_on(live(args, lock, notes, started, heritage));
    runtime.shutdown_timeout(GRACE);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error, 1),
    }
}

/// With `--take-over`: asks the agent that runs to make room.
fn take_over(args: &Run) -> Result<Option<UnixStream>, ClientError> {
    if !args.take_over {
        return Ok(None);
    }
    match status::take_over(&args.source.run_dir) {
        Ok(stream) => Ok(Some(stream)),
        Err(error @ ClientError::NoAgent { .. }) => {
            tracing::warn!("nothing to take over: {error}");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The lock of the run directory. One that has just been given up may take a moment to be free.
fn lock_patiently(run_dir: &Path, patience: Duration) -> Result<RunLock, LockError> {
    let until = Instant::now() + patience;
    loop {
        match lock::lock(run_dir) {
            Err(LockError::Taken { .. }) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(10));
            }
            other => return other,
        }
    }
}

/// From the start to the end, through attempts to be followed by another process.
async fn live(
    args: &Run,
    mut lock: Option<RunLock>,
    mut notes: Vec<String>,
    started: Instant,
    heritage: Option<UnixStream>,
) -> Result<(), String> {
    let source = &args.source;
    let mut signals = Signals::new().map_err(|error| format!("signals cannot be received: {error}"))?;
    let options = exec::Options {
        directory: args.allow_exec.clone(),
        user: args.exec_user.clone(),
        ..exec::Options::default()
    };
    let runner = exec::Runner::new(&options).map_err(|error| format!("programs cannot be run: {error}"))?;
    let at_once = heritage.is_some() || groups::ran_before(&source.run_dir);
    let (secrets, note) = keys::open(source);
    notes.extend(note);
    let groups = Groups::spawn(&runner, &source.run_dir, &source.state_dir, heritage, Arc::clone(&secrets))
        .map_err(|error| error.to_string())?;
    if at_once {
        groups.open();
    }
    let manager = ServiceManager::from_env();
    loop {
        let parts = (&groups, &secrets, &runner);
        let end = work(args, lock.as_ref(), &notes, started, parts, &manager, &mut signals).await?;
        let stream = match end {
            End::Stop => return Ok(()),
            End::Declined(why) => return Err(why),
            End::Yield(stream) => stream,
        };
        // What follows needs the lock and the sockets before it can ask for more.
        drop(lock.take());
        let successor = peer(&stream);
        match yield_to(&groups, stream, &manager, &mut signals).await {
            Yielded::Taken => {
                if args.linger {
                    tracing::info!(
                        "another agent has taken over: nothing is left to do but to wait for the end"
                    );
                    // Neither sockets nor the lock are this process's any more.
                    let why = signals.end().await;
                    tracing::info!("{why}: ending");
                    return Ok(());
                }
                tracing::info!(?successor, "another agent has taken over: ending");
                if let Some(pid) = successor {
                    manager.tell(&format!("MAINPID={pid}"));
                }
                return Ok(());
            }
            Yielded::Stop(why) => {
                manager.tell("STOPPING=1");
                tracing::info!(
                    "{why}: ending, instead of the agent that wanted to take over; groups are handed over"
                );
                Arc::clone(&groups).stop().await;
                return Ok(());
            }
            Yielded::Kept(error) => {
                tracing::error!("the agent that wanted to take over did not ({error}): going on as before");
                lock = match lock_patiently(&source.run_dir, GIVEN_BACK_WITHIN) {
                    Ok(lock) => Some(lock),
                    // Groups go on all the same: this director may be the active one.
                    Err(error) => {
                        let note = format!("{error}; the agent goes on without a control socket: restart it");
                        tracing::error!("{note}");
                        notes.push(note);
                        None
                    }
                };
            }
        }
    }
}

/// What became of an attempt to take over.
enum Yielded {
    /// The other agent has everything.
    Taken,
    /// This one has everything, as before.
    Kept(std::io::Error),
    /// The same, and it was told to end.
    Stop(&'static str),
}

/// Gives everything to the agent at the other end, which may take its time. A signal to end breaks that off, unless it is done.
async fn yield_to(
    groups: &Arc<Groups>,
    stream: UnixStream,
    manager: &ServiceManager,
    signals: &mut Signals,
) -> Yielded {
    let mut told_to_end = None;
    let Ok(connection) = stream.try_clone() else {
        return Yielded::Kept(std::io::Error::last_os_error());
    };
    let giving = async {
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(GRACE))?;
        (&stream).write_all(format!("{YIELDED}\n").as_bytes())?;
        groups.give(stream).await
    };
    tokio::pin!(giving);
    let mut watchdog = tokio::time::interval(manager.watchdog().unwrap_or(Duration::from_hours(1)));
    let given = loop {
        let why = tokio::select! {
            given = &mut giving => break given,
            _ = watchdog.tick() => {
                manager.tell("WATCHDOG=1");
                continue;
            }
            _ = signals.terminate.recv() => "SIGTERM",
            _ = signals.interrupt.recv() => "SIGINT",
        };
        // Whoever waits for the other end's next word waits no longer.
        let _ = connection.shutdown(std::net::Shutdown::Both);
        told_to_end = Some(why);
    };
    // The other end must find the connection closed: that is how it knows.
    let _ = connection.shutdown(std::net::Shutdown::Both);
    match (given, told_to_end) {
        (Ok(()), _) => Yielded::Taken,
        (Err(_), Some(why)) => Yielded::Stop(why),
        (Err(error), None) => Yielded::Kept(error),
    }
}

/// The process at the other end.
fn peer(stream: &UnixStream) -> Option<i32> {
    let credentials = nix::sys::socket::getsockopt(stream, nix::sys::socket::sockopt::PeerCredentials);
    credentials.ok().map(|credentials| credentials.pid())
}

/// Why the work ended.
enum End {
    /// A signal; groups have been handed over.
    Stop,
    /// Another agent waits at the other end to take over. Groups go on.
    Yield(UnixStream),
    /// The agent that was to be followed goes on, and why.
    Declined(String),
}

/// Why there is nothing more to supervise.
enum Ending {
    /// To end, and why.
    Stop(&'static str),
    /// Another agent takes over.
    Yield(UnixStream),
    /// The agent that was to be followed goes on, and why.
    Declined(String),
}

async fn work(
    args: &Run,
    lock: Option<&RunLock>,
    notes: &[String],
    started: Instant,
    (groups, secrets, runner): (&Arc<Groups>, &Arc<Secrets>, &exec::Runner),
    manager: &ServiceManager,
    signals: &mut Signals,
) -> Result<End, String> {
    let source = &args.source;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        director = source.director(),
        source = %source.origin(),
        "starting"
    );
    let loaded = state::load(&source.state_dir);
    for note in &loaded.notes {
        tracing::error!("{note}");
    }
    let notes = notes.iter().chain(&loaded.notes).cloned().collect();
    let remembered = loaded.objects.clone();
    let keeper = Keeper::spawn(&source.state_dir, loaded).map(Arc::new);
    let keeper = keeper.map_err(|error| format!("a thread cannot be started: {error}"))?;

    let options = reconcile::Options {
        adopt: source.adopt,
        proc_sys: source.proc_sys.clone(),
        simulated_ipvs: args.simulated_ipvs.clone(),
        ..reconcile::Options::new(&source.run_dir)
    };
    let reconcile = reconcile::spawn(options).map_err(|error| error.to_string())?;
    let report = reconcile.report();
    let checking = checks::Options {
        director: source.director().to_owned(),
        run_dir: source.run_dir.clone(),
        allow_file: args.allow_file.clone(),
        descriptors: limits::descriptors(),
    };
    let verdicts = reconcile.updates();
    let tracking = Arc::clone(groups);
    let checks = Checks::spawn(
        &checking,
        runner,
        move |live| verdicts.live(live),
        move |tracked, failing| tracking.tracked(&tracked.group, &tracked.name, failing),
    )
    .map(Arc::new);
    let checks = checks.map_err(|error| format!("checks cannot be started: {error}"))?;
    let rules = reconcile.updates();
    groups.follow(move |group, active| rules.role(group, active));
    let listening = Arc::clone(groups);
    checks.observe(move |change| listening.changed(change));
    let (updates, told, checked) = (reconcile.updates(), Arc::clone(groups), Arc::clone(&checks));
    let carry_out = move |update: reconcile::ConfigUpdate| {
        let director = update.change.director().cloned();
        checked.configure(update, |update| updates.send(update));
        if let Some(director) = director {
            told.configure(&director);
        }
    };
    let director = source.director().to_owned();
    let manifests = match source.origin() {
        Origin::Directory(directory) => {
            let (theirs, remembered) = remembered.into_iter().partition(|(key, _)| api::source::is_ours(key));
            keeper.record(std::collections::BTreeMap::into_keys(theirs).map(|key| (key, None)));
            let keeper = Some(keeper.clone());
            let options = manifests::Options { directory, director, remembered, keeper };
            Manifests::spawn(options, carry_out).map(Source::Manifests)
        }
        Origin::Api(cluster) => {
            let (keeper, secrets) = (Some(keeper.clone()), Arc::clone(secrets));
            let options = api::Options { cluster, director, remembered, keeper, secrets };
            let keyed = Arc::clone(groups);
            Api::spawn(options, carry_out, move || keyed.reload()).map(Source::Api)
        }
    }
    .map_err(|error| format!("a thread cannot be started: {error}"))?;
    let gatherer = Arc::new(Gatherer {
        manifests,
        reconcile,
        report,
        keeper: Some(keeper),
        http: Arc::new(Mutex::new(HttpStatus::default())),
        started,
        groups: Arc::clone(groups),
        checks: Arc::clone(&checks),
        notes,
    });

    gatherer.manifests.report(&gatherer);

    let (stop, stopped) = watch::channel(false);
    let (successors, mut successor) = mpsc::channel(1);
    let mut servers = JoinSet::new();
    if let Listen::At(listen) = args.listen {
        let token = args.metrics_token.clone();
        servers.spawn(http::serve(listen, token, gatherer.clone(), stopped.clone()));
    }
    if lock.is_some() {
        match Server::bind(&source.run_dir) {
            Ok(server) => {
                let gatherer = gatherer.clone();
                let mut stopped = stopped.clone();
                servers.spawn(async move {
                    tokio::select! {
                        () = server.serve(gatherer, successors) => {}
                        _ = stopped.wait_for(|stop| *stop) => {}
                    }
                });
            }
            Err(error) => tracing::error!(
                "the control socket {} cannot be made: {error}; status cannot ask this agent",
                source.run_dir.join(status::SOCKET).display()
            ),
        }
    }

    let end = match supervise(&gatherer, manager, signals, &mut successor).await {
        Ending::Yield(stream) => {
            tracing::info!("another agent takes over");
            End::Yield(stream)
        }
        // Nothing of the groups is this process's.
        Ending::Declined(why) => End::Declined(why),
        Ending::Stop(why) => {
            manager.tell("STOPPING=1");
            tracing::info!("{why}: ending; groups are handed over, what else the kernel holds stays");
            Arc::clone(groups).stop().await;
            End::Stop
        }
    };
    let _ = stop.send(true);
    let ended = tokio::time::timeout(GRACE, async { while servers.join_next().await.is_some() {} }).await;
    if ended.is_err() {
        servers.shutdown().await;
    }
    // First the one who hands over changes, then the one who carries them out; the disk last. A request that is still being
    // answered keeps a hand on all of them, and must not cost what was not written yet.
    gatherer.manifests.stop(matches!(end, End::Stop));
    checks.stop();
    let keeper = gatherer.keeper.clone();
    if let Some(gatherer) = Arc::into_inner(gatherer) {
        gatherer.reconcile.shutdown().await;
    }
    if let Some(keeper) = keeper {
        keeper.close();
    }
    Ok(end)
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
    upgrade: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            upgrade: signal(SignalKind::user_defined2())?,
        })
    }

    /// Waits for one that tells to end; returns its name.
    async fn end(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Until the end: signals, and what the service manager and the log are told.
async fn supervise(
    gatherer: &Gatherer,
    manager: &ServiceManager,
    signals: &mut Signals,
    successor: &mut mpsc::Receiver<UnixStream>,
) -> Ending {
    let mut report = gatherer.report.clone();
    let mut watchdog = tokio::time::interval(manager.watchdog().unwrap_or(Duration::from_hours(1)));
    let mut second = tokio::time::interval(Duration::from_secs(1));
    let mut again = tokio::time::interval(TRY_AGAIN);
    let mut told_ready = false;
    let mut told: Option<Result<(), String>> = None;
    let mut rests_until = tokio::time::Instant::now();
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return Ending::Stop("SIGTERM"),
            _ = signals.interrupt.recv() => return Ending::Stop("SIGINT"),
            why = gatherer.groups.declined() => return Ending::Declined(why),
            _ = signals.hangup.recv() => {
                gatherer.manifests.rescan();
                gatherer.groups.reload();
            }
            _ = signals.upgrade.recv() => upgrade(),
            Some(stream) = successor.recv() => return Ending::Yield(stream),
            _ = again.tick() => gatherer.groups.retry(),
            _ = watchdog.tick() => {
                if gatherer.manifests.is_alive() {
                    manager.tell("WATCHDOG=1");
                }
            }
            // A report comes with every change; the state is looked at once a second until it is ready, then with each.
            _ = second.tick(), if !matches!(told, Some(Ok(()))) => {}
            changed = async {
                tokio::time::sleep_until(rests_until).await;
                report.changed().await
            } => {
                rests_until = tokio::time::Instant::now() + REST;
                if changed.is_err() {
                    return Ending::Stop("the reconciler ended");
                }
            }
        }
        let ready = gatherer.readiness();
        if !gatherer.groups.is_open() && (ready.is_ok() || gatherer.started.elapsed() >= FILLED_WITHIN) {
            gatherer.groups.open();
        }
        let is_up = ready.is_ok() || gatherer.started.elapsed() >= READY_WITHIN;
        if told.as_ref() != Some(&ready) {
            match &ready {
                Ok(()) => {
                    tracing::info!(milliseconds = milliseconds(gatherer.started.elapsed()), "ready");
                    manager.tell("STATUS=ready");
                }
                Err(why) => {
                    // What is missing at the start is told by whoever misses it.
                    if matches!(told, Some(Ok(()))) {
                        tracing::warn!("not ready any more: {why}");
                    }
                    manager.tell(&format!("STATUS=not ready: {}", why.replace('\n', "; ")));
                }
            }
            told = Some(ready);
        }
        if is_up && !told_ready {
            told_ready = true;
            manager.tell("READY=1");
        }
    }
}

/// SIGUSR2: starts the program that stands where this one stood when it was started, with the same arguments, to take over. It
/// belongs to the same service then.
fn upgrade() {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| {
        let path = std::env::current_exe().ok()?;
        // What the kernel adds when the file was replaced.
        Some(
            path.to_str()
                .and_then(|text| text.strip_suffix(" (deleted)"))
                .map_or(path.clone(), PathBuf::from),
        )
    });
    let Some(program) = program else {
        tracing::error!("SIGUSR2: this program's own file is not known");
        return;
    };
    let arguments = std::env::args_os().skip(1).filter(|argument| argument != "--take-over");
    // The service manager's watchdog is to be the successor's affair; the variable names this process.
    let mut command = std::process::Command::new(program);
    command.arg("--take-over").args(arguments).env_remove("WATCHDOG_PID");
    match limits::give_back(&mut command).spawn() {
        Ok(mut child) => {
            tracing::info!(pid = child.id(), "SIGUSR2: {} is started to take over", program.display());
            // If it fails it says so itself; nobody else waits for it.
            std::thread::spawn(move || child.wait());
        }
        Err(error) => tracing::error!("SIGUSR2: {} cannot be started: {error}", program.display()),
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
