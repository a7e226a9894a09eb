//! Running: everything is started here, and ended in order.

use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::args::{Listen, Run};
use super::fail;
use super::lock::{self, LockError, RunLock};
use super::logging;
use super::service_manager::ServiceManager;
use crate::http;
use crate::manifests::{self, Manifests};
use crate::reconcile;
use crate::state::{self, Keeper};
use crate::status::{Gatherer, HttpStatus, Server};

/// How long the service manager waits for the first full pass before it hears that the agent is up all the same: it
/// is, and tries again by itself, when the kernel lacks something.
const READY_WITHIN: Duration = Duration::from_secs(15);

/// How long open requests may take when the agent ends.
const GRACE: Duration = Duration::from_secs(2);

pub(super) fn run(args: &Run) -> ExitCode {
    let started = Instant::now();
    if let Err(error) = logging::start(args.log_format, &args.log_level) {
        return fail(error, super::USAGE);
    }
    let mut notes = Vec::new();
    let lock = match lock::lock(&args.source.run_dir) {
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
    let result = runtime.block_on(work(args, lock.as_ref(), notes, started));
    runtime.shutdown_timeout(GRACE);
    drop(lock);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error, 1),
    }
}

async fn work(
    args: &Run,
    lock: Option<&RunLock>,
    notes: Vec<String>,
    started: Instant,
) -> Result<(), String> {
    let source = &args.source;
    let mut signals = Signals::new().map_err(|error| format!("signals cannot be received: {error}"))?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        director = source.director(),
        manifests = %source.manifests().display(),
        "starting"
    );
    let loaded = state::load(&source.state_dir);
    for note in &loaded.notes {
        tracing::error!("{note}");
    }
    let notes = notes.into_iter().chain(loaded.notes.iter().cloned()).collect();
    let remembered = loaded.objects.clone();
    let keeper = Keeper::spawn(&source.state_dir, loaded).map(Arc::new);
    let keeper = keeper.map_err(|error| format!("a thread cannot be started: {error}"))?;

    let options = reconcile::Options { adopt: source.adopt, ..reconcile::Options::new(&source.run_dir) };
    let reconcile = reconcile::spawn(options).map_err(|error| error.to_string())?;
    let report = reconcile.report();
    let options = manifests::Options {
        directory: source.manifests().to_owned(),
        director: source.director().to_owned(),
        remembered,
        keeper: Some(keeper.clone()),
    };
    let updates = reconcile.updates();
    let manifests = Manifests::spawn(options, move |update| updates.send(&update))
        .map_err(|error| format!("a thread cannot be started: {error}"))?;
    let gatherer = Arc::new(Gatherer {
        manifests,
        reconcile,
        report,
        keeper: Some(keeper),
        http: Arc::new(Mutex::new(HttpStatus::default())),
        started,
        notes,
    });

    let (stop, stopped) = watch::channel(false);
    let mut servers = JoinSet::new();
    if let Listen::At(listen) = args.listen {
        servers.spawn(http::serve(listen, gatherer.clone(), stopped.clone()));
    }
    if lock.is_some() {
        match Server::bind(&source.run_dir) {
            Ok(server) => {
                let gatherer = gatherer.clone();
                let mut stopped = stopped.clone();
                servers.spawn(async move {
                    tokio::select! {
                        () = server.serve(gatherer) => {}
                        _ = stopped.wait_for(|stop| *stop) => {}
                    }
                });
            }
            Err(error) => tracing::error!(
                "the control socket {} cannot be made: {error}; status cannot ask this agent",
                source.run_dir.join(crate::status::SOCKET).display()
            ),
        }
    }

    let manager = ServiceManager::from_env();
    let why = supervise(&gatherer, &manager, &mut signals).await;
    manager.tell("STOPPING=1");
    tracing::info!("{why}: ending; what the kernel holds stays");
    let _ = stop.send(true);
    let ended = tokio::time::timeout(GRACE, async { while servers.join_next().await.is_some() {} }).await;
    if ended.is_err() {
        servers.shutdown().await;
    }
    // First the one who hands over changes, then the one who carries them out; the disk last. A request that is still being
    // answered keeps a hand on all of them, and must not cost what was not written yet.
    gatherer.manifests.stop();
    let keeper = gatherer.keeper.clone();
    if let Some(gatherer) = Arc::into_inner(gatherer) {
        gatherer.reconcile.shutdown().await;
    }
    if let Some(keeper) = keeper {
        keeper.close();
    }
    Ok(())
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

/// Until the end: signals, and what the service manager and the log are told. Returns why it ends.
async fn supervise(gatherer: &Gatherer, manager: &ServiceManager, signals: &mut Signals) -> &'static str {
    let mut report = gatherer.report.clone();
    let mut watchdog = tokio::time::interval(manager.watchdog().unwrap_or(Duration::from_hours(1)));
    let mut second = tokio::time::interval(Duration::from_secs(1));
    let mut told_ready = false;
    let mut told: Option<Result<(), String>> = None;
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return "SIGTERM",
            _ = signals.interrupt.recv() => return "SIGINT",
            _ = signals.hangup.recv() => gatherer.manifests.rescan(),
            _ = watchdog.tick() => {
                if gatherer.manifests.is_alive() {
                    manager.tell("WATCHDOG=1");
                }
            }
            // A report comes with every change; the state is looked at once a second until it is ready, then with each.
            _ = second.tick(), if !matches!(told, Some(Ok(()))) => {}
            changed = report.changed() => {
                if changed.is_err() {
                    return "the reconciler ended";
                }
            }
        }
        let ready = gatherer.readiness();
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

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
