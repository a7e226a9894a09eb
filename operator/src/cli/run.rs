//! Running: everything is started here, and ended in order.

use std::io::Read as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::args::{Flush, Listen, Log, Run};
use super::{USAGE, fail, logging};
use crate::api::events::Events;
use crate::api::{causes, connect};
use crate::election::lease::{self, Term};
use crate::election::{Election, Timing};
use crate::flush;
use crate::http::{self, Watched};
use crate::tally::Tally;
use crate::worker::{self, Context};

/// How long what is open may take when the operator ends.
const GRACE: Duration = Duration::from_secs(2);

pub(super) fn run(args: &Run) -> ExitCode {
    go(&args.log, live(args)).map_or_else(|code| code, |()| ExitCode::SUCCESS)
}

/// Has the agents take everything away, and prints what came of it.
pub(super) fn flush(args: &Flush) -> ExitCode {
    let flushing = async {
        let (client, default_namespace) = connect(args.place.kubeconfig.as_deref()).await?;
        let namespace = args.place.namespace.clone().unwrap_or(default_namespace);
        let identity = identity(args.place.identity.as_deref())?;
        flush::run(client, &namespace, &identity, args.timeout).await
    };
    match go(&args.log, flushing) {
        Err(code) => code,
        Ok(outcome) => {
            print!("{}", outcome.text());
            if outcome.unanswered.is_empty() {
                return ExitCode::SUCCESS;
            }
            fail(
                "not every director is clean; its agent puts everything back now. Without waiting for them: helm uninstall --no-hooks",
                1,
            )
        }
    }
}

/// Runs something to its end; an error is said, with its exit code.
fn go<T>(log: &Log, work: impl Future<Output = anyhow::Result<T>>) -> Result<T, ExitCode> {
    logging::start(log.format, &log.level).map_err(|error| fail(error, USAGE))?;
    // Only fails where one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| fail(format_args!("cannot start: {error}"), 1))?;
    let result = runtime.block_on(work);
    runtime.shutdown_timeout(GRACE);
    result.map_err(|error| fail(causes(&*error), 1))
}

async fn live(args: &Run) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut terminate = signal(SignalKind::terminate()).context("signals cannot be received")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("signals cannot be received")?;
    let (client, default_namespace) = connect(args.place.kubeconfig.as_deref()).await?;
    let namespace = args.place.namespace.clone().unwrap_or(default_namespace);
    let identity = identity(args.place.identity.as_deref())?;
    let timing = Timing::DEFAULT;
    let tally = Tally::default();

    let (stop, stopped) = watch::channel(false);
    let (term, see_term) = watch::channel(Term::default());
    let (reached, see_reached) = watch::channel(None);
    let (missing, see_missing) = watch::channel(None);
    let (idle, see_idle) = watch::channel(true);
    let watched = Watched { tally: tally.clone(), started, missing: see_missing, reached: see_reached };
    let server = match args.listen {
        Listen::None => None,
        Listen::At(listen) => Some(tokio::spawn(http::serve(listen, watched, stopped.clone()))),
    };
    tracing::info!(identity, namespace, version = env!("CARGO_PKG_VERSION"), "starting");
    let events = Events::spawn(client.clone(), identity.clone(), see_term.clone(), timing.request, &tally);
    let context = Context {
        client: client.clone(),
        namespace: namespace.clone(),
        patience: timing.request,
        events,
        tally,
        started,
    };
    let worker = tokio::spawn(worker::run(context, see_term, worker::Told { missing, idle }));
    let leases = Api::<Lease>::namespaced(client, &namespace);
    let election = Election::new(identity, timing, Instant::now());
    let told = lease::Told { term, reached };
    let mut elected = tokio::spawn(lease::run(leases, election, timing, told, stopped, see_idle));

    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: ending"),
        _ = interrupt.recv() => tracing::info!("SIGINT: ending"),
        _ = &mut elected => anyhow::bail!("the election ended by itself"),
        ended = worker => {
            ended.context("the worker panicked")?;
            anyhow::bail!("the worker ended by itself");
        }
    }
    stop.send_replace(true);
    // Both are bounded by what a request may take.
    let _ = tokio::time::timeout(3 * timing.request, elected).await;
    if let Some(server) = server {
        let _ = tokio::time::timeout(GRACE, server).await;
    }
    Ok(())
}

/// A name that nobody else has, and that this process had in no earlier life.
fn identity(name: Option<&str>) -> anyhow::Result<String> {
    let name = match name {
        Some(name) => name.to_owned(),
        None => {
            let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
                .context("the host's name cannot be read; give one with --identity NAME")?;
            name.trim().to_owned()
        }
    };
    let mut random = [0; 4];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut random))
        .context("/dev/urandom cannot be read")?;
    // A Lease's holder has no bound of its own; a name has.
    let name: String = name.chars().take(200).collect();
    Ok(format!("{name}_{:08x}", u32::from_ne_bytes(random)))
}
