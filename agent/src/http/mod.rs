//! `/healthz`, `/readyz` and `/metrics`.
//!
//! A port that is in use does not hinder the agent: it says so, goes on with its work and tries again every few seconds.

mod api;
mod checks;
mod groups;
mod metrics;
mod token;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};

use crate::status::{Gatherer, HttpStatus};
use token::{Refusal, Token};

/// Between tries to listen.
const RETRY: Duration = Duration::from_secs(5);

/// Scrapes at a time; one is refused when there are more.
const SCRAPES: usize = 2;

/// Pieces of a scrape's answer that wait for a slow client.
const PIECES: usize = 4;

#[derive(Clone)]
struct App {
    gatherer: Arc<Gatherer>,
    scrapes: Arc<Semaphore>,
    token: Token,
}

/// Serves until `stop` changes. Tries again for as long as it cannot listen. `token`: the file of what `/metrics` asks for, if anything.
pub async fn serve(
    listen: SocketAddr,
    token: Option<PathBuf>,
    gatherer: Arc<Gatherer>,
    mut stop: watch::Receiver<bool>,
) {
    let state = gatherer.http.clone();
    let Some(listener) = listener(listen, &state, &mut stop).await else { return };
    let app = App { gatherer, scrapes: Arc::new(Semaphore::new(SCRAPES)), token: Token::new(token) };
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(scrape))
        .with_state(app);
    let stopped = async move {
        let _ = stop.wait_for(|stop| *stop).await;
    };
    if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stopped).await {
        tracing::error!(%listen, "the HTTP server ended: {error}");
        set(&state, HttpStatus { listen: Some(listen.to_string()), error: Some(error.to_string()) });
    }
}

async fn listener(
    listen: SocketAddr,
    state: &Mutex<HttpStatus>,
    stop: &mut watch::Receiver<bool>,
) -> Option<TcpListener> {
    let mut said = false;
    loop {
        let error = match TcpListener::bind(listen).await {
            Ok(listener) => {
                let address = listener.local_addr().unwrap_or(listen);
                tracing::info!(listen = %address, "serving /healthz, /readyz and /metrics");
                set(state, HttpStatus { listen: Some(address.to_string()), error: None });
                return Some(listener);
            }
            Err(error) => error,
        };
        if !said {
            said = true;
            let message = format!(
                "cannot listen at {listen}: {error}; the agent does its work all the same and tries again every {} s \
                 (another address: --listen ADDR:PORT, none at all: --listen none)",
                RETRY.as_secs()
            );
            tracing::error!("{message}");
            set(state, HttpStatus { listen: Some(listen.to_string()), error: Some(message) });
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            _ = stop.wait_for(|stop| *stop) => return None,
        }
    }
}

fn set(state: &Mutex<HttpStatus>, now: HttpStatus) {
    *state.lock().unwrap_or_else(PoisonError::into_inner) = now;
}

async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(app): State<App>) -> Response {
    match app.gatherer.readiness() {
        Ok(()) => "ok\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response(),
    }
}

async fn scrape(State(app): State<App>, headers: HeaderMap) -> Response {
    let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    match app.token.admits(shown) {
        Ok(()) => {}
        Err(Refusal::Token) => {
            let ask = [(header::WWW_AUTHENTICATE, "Bearer")];
            return (StatusCode::UNAUTHORIZED, ask, "show the token: Authorization: Bearer TOKEN\n")
                .into_response();
        }
        Err(Refusal::Unusable(why)) => {
            tracing::warn!("/metrics: {why}");
            return (StatusCode::INTERNAL_SERVER_ERROR, "the token cannot be read; see the log\n")
                .into_response();
        }
    }
    let Ok(place) = app.scrapes.clone().try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many scrapes at a time\n").into_response();
    };
    let (counters, vrrp) = tokio::join!(app.gatherer.reconcile.counters(), app.gatherer.groups.status());
    let snapshot = metrics::Snapshot::of(&app.gatherer, counters, vrrp.unwrap_or_default());
    // In pieces: the figures of ten thousand services are tens of megabytes of text.
    let (sender, receiver) = mpsc::channel(PIECES);
    tokio::task::spawn_blocking(move || {
        let bytes = metrics::write(snapshot, sender);
        crate::memory::give_back_after(bytes);
        drop(place);
    });
    let pieces = futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|piece: String| (Ok::<_, Infallible>(piece), receiver))
    });
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], Body::from_stream(pieces)).into_response()
}
