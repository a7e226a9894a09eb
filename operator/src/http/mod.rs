//! `/healthz`, `/readyz` and `/metrics`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::index::Source;
use crate::tally::Tally;

/// Between tries to listen.
const RETRY: Duration = Duration::from_secs(5);
/// A worker that has not been seen working for so long hangs.
const HANGS: Duration = Duration::from_secs(60);
/// An operator that has not reached the Lease for so long is not ready.
const UNREACHED: Duration = Duration::from_secs(30);

/// What is asked about.
#[derive(Clone, Debug)]
pub struct Watched {
    /// What is counted.
    pub tally: Tally,
    /// When the program started.
    pub started: Instant,
    /// The sources that the worker still waits for; `None`: it does not lead.
    pub missing: watch::Receiver<Option<Vec<Source>>>,
    /// When the Lease was last read or written.
    pub reached: watch::Receiver<Option<Instant>>,
}

impl Watched {
    /// Whether the worker works.
    fn health(&self) -> Result<(), String> {
        let seen = Duration::from_nanos(self.tally.alive.load(Ordering::Relaxed));
        let silent = self.started.elapsed().saturating_sub(seen);
        if silent > HANGS { Err(format!("the worker hangs since {} s", silent.as_secs())) } else { Ok(()) }
    }

    /// Whether it does its work: the one that leads has listed everything, the other one could take over.
    fn readiness(&self) -> Result<(), String> {
        self.health()?;
        let reached = self.reached.borrow().is_some_and(|at| at.elapsed() < UNREACHED);
        if !reached {
            return Err("the Lease has not been reached: see the log".into());
        }
        let missing = self.missing.borrow();
        // One that does not lead watches nothing.
        let Some(missing) = missing.as_deref() else { return Ok(()) };
        let failing = self.tally.watches.failing(Instant::now());
        let why = failing.iter().map(|(source, why)| format!("; {source}: {why}")).collect::<String>();
        if !missing.is_empty() {
            let names: Vec<&str> = missing.iter().map(|source| source.as_str()).collect();
            return Err(format!("not listed yet: {}; see the log{why}", names.join(", ")));
        }
        if failing.is_empty() { Ok(()) } else { Err(format!("not heard of any more; see the log{why}")) }
    }
}

/// Serves until `stop` changes. A port that is in use does not hinder the operator: it tries again.
pub async fn serve(listen: SocketAddr, watched: Watched, mut stop: watch::Receiver<bool>) {
    let listener = loop {
        match TcpListener::bind(listen).await {
            Ok(listener) => break listener,
            Err(error) => tracing::error!(
                "cannot listen at {listen}: {error}; the operator does its work all the same and tries again every {} s \
                 (another address: --listen ADDR:PORT, none at all: --listen none)",
                RETRY.as_secs()
            ),
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    };
    let address = listener.local_addr().unwrap_or(listen);
    tracing::info!(listen = %address, "serving /healthz, /readyz and /metrics");
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(Arc::new(watched));
    let stopped = async move {
        let _ = stop.wait_for(|stop| *stop).await;
    };
    if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stopped).await {
        tracing::error!(%listen, "the HTTP server ended: {error}");
    }
}

fn answer(verdict: Result<(), String>) -> Response {
    match verdict {
        Ok(()) => "ok\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ok: {why}\n")).into_response(),
    }
}

async fn healthz(State(watched): State<Arc<Watched>>) -> Response {
    answer(watched.health())
}

async fn readyz(State(watched): State<Arc<Watched>>) -> Response {
    answer(watched.readiness())
}

async fn metrics(State(watched): State<Arc<Watched>>) -> Response {
    let mut text = String::new();
    if encode(&mut text, &watched.tally.registry()).is_err() {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::{SourceLabels, WriteLabels};

    #[test]
    fn who_does_its_work_is_ready() {
        let (missing, see_missing) = watch::channel(None);
        let (reached, see_reached) = watch::channel(None);
        let watched = Watched {
            tally: Tally::default(),
            started: Instant::now(),
            missing: see_missing,
            reached: see_reached,
        };
        assert!(watched.health().is_ok());
        assert!(watched.readiness().unwrap_err().contains("Lease"));
        reached.send_replace(Some(Instant::now()));
        assert_eq!(watched.readiness(), Ok(()), "one that could take over");
        missing.send_replace(Some(vec![Source::Node]));
        assert_eq!(watched.readiness(), Err("not listed yet: Node; see the log".into()));
        missing.send_replace(Some(Vec::new()));
        assert_eq!(watched.readiness(), Ok(()));
        for _ in 0..3 {
            watched.tally.watch_failed(Source::Lease, "forbidden");
        }
        assert_eq!(watched.readiness(), Err("not heard of any more; see the log; Lease: forbidden".into()));
        missing.send_replace(Some(vec![Source::Lease]));
        let why = "not listed yet: Lease; see the log; Lease: forbidden";
        assert_eq!(watched.readiness(), Err(why.into()));
        missing.send_replace(None);
        assert_eq!(watched.readiness(), Ok(()));
    }

    #[test]
    fn the_names_of_the_figures_are_an_interface() {
        let tally = Tally::default();
        tally.watch_failed(Source::Node, "");
        tally.objects.get_or_create(&SourceLabels { kind: "Node" }).set(1);
        let labels = WriteLabels { kind: "Director", action: "apply", result: "done" };
        tally.writes.get_or_create(&labels).inc();
        let mut text = String::new();
        encode(&mut text, &tally.registry()).unwrap();
        let names: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("# TYPE ") || line.contains('{'))
            .filter(|line| !line.contains("_bucket") && !line.contains("version="))
            .collect();
        insta::assert_snapshot!(names.join("\n"));
    }
}
