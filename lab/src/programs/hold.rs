//! `load --hold`: connections that stay open while faults are played, and tell when they are lost.

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio::{
    io::BufReader,
    net::TcpStream,
    signal::unix::{SignalKind, signal},
    sync::{Mutex, mpsc, oneshot},
};

use super::{
    clock::monotonic_ns,
    load::{
        Answer, HttpSender, LoadArgs, Protocol, Target, http_connect, http_exchange, tcp_exchange,
        tcp_greeted,
    },
    record::write_line,
};

/// Connections of one client.
const CONNECTIONS_MAX: u32 = 10_000;
/// Pause between two exchanges on a connection.
const PERIOD: Duration = Duration::from_secs(1);

/// One line of the record of held connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Which connection, from 0.
    pub connection: u32,
    /// What happened to it.
    pub event: Kind,
    /// Who answered.
    pub answerer: Option<String>,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub t: u64,
    /// Why it was lost.
    pub error: Option<String>,
}

/// What can happen to a held connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// It opened and the first exchange succeeded.
    Open,
    /// A later exchange succeeded.
    Alive,
    /// It could not be opened, or an exchange failed; it is not opened again.
    Lost,
}

/// What the writer of the record is told.
#[derive(Debug)]
enum Entry {
    /// To be written.
    Event(Event),
    /// To be answered once everything before it is written.
    Mark(oneshot::Sender<()>),
}

#[derive(Debug)]
enum Held {
    Http(HttpSender),
    Tcp(BufReader<TcpStream>),
}

/// Opens the connections one after another, holds them, and writes what becomes of them until SIGTERM.
pub(super) async fn run(args: LoadArgs, target: Target, count: u32) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(count <= CONNECTIONS_MAX, "--hold {count} is more than {CONNECTIONS_MAX} connections");
    anyhow::ensure!(target.protocol != Protocol::Udp, "--hold needs connections: http or tcp");
    let out =
        std::fs::File::create(&args.out).with_context(|| format!("cannot write {}", args.out.display()))?;
    let (events, mut received) = mpsc::channel::<Entry>(1024);
    let writer = tokio::spawn(async move {
        let mut out = std::io::BufWriter::new(out);
        while let Some(entry) = received.recv().await {
            match entry {
                Entry::Event(event) => write_line(&mut out, &event)?,
                // Nobody waits any more when it ends.
                Entry::Mark(written) => drop(written.send(())),
            }
        }
        anyhow::Ok(())
    });
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let shared = Arc::new((target, args.timeout, events, Mutex::new(())));
    let mut tasks = tokio::task::JoinSet::new();
    let opening = async {
        for connection in 0..count {
            let first = open(&shared.0, args.timeout).await;
            let held = report(&shared.2, connection, Kind::Open, first).await;
            if let Some(held) = held {
                let shared = Arc::clone(&shared);
                tasks.spawn(async move { keep(&shared.0, shared.1, &shared.2, connection, held).await });
            }
        }
        // Whoever hears it reads the record at once: all of them have to stand in it.
        let (mark, written) = oneshot::channel();
        let _ = shared.2.send(Entry::Mark(mark)).await;
        let _ = written.await;
        println!("ready");
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = opening => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tasks.shutdown().await;
    drop(tasks);
    drop(shared);
    writer.await??;
    Ok(ExitCode::SUCCESS)
}

async fn open(target: &Target, timeout: Duration) -> anyhow::Result<(Held, Answer)> {
    let opened = async {
        if target.protocol == Protocol::Http {
            let mut sender = http_connect(target).await?;
            let answer = http_exchange(&mut sender, target.http_request(false)?).await?;
            Ok((Held::Http(sender), answer))
        } else {
            let (stream, name) = tcp_greeted(target).await?;
            Ok((Held::Tcp(stream), Answer { answerer: Some(name), ..Answer::default() }))
        }
    };
    tokio::time::timeout(timeout, opened).await.unwrap_or_else(|_| Err(late(timeout)))
}

async fn keep(
    target: &Target,
    timeout: Duration,
    events: &mpsc::Sender<Entry>,
    connection: u32,
    mut held: Held,
) {
    for round in 0u64.. {
        tokio::time::sleep(PERIOD).await;
        let exchanged = async {
            let answer = match &mut held {
                Held::Http(sender) => http_exchange(sender, target.http_request(false)?).await?,
                Held::Tcp(stream) => tcp_exchange(stream, &format!("still here {round}")).await?,
            };
            anyhow::Ok(answer)
        };
        let answer = tokio::time::timeout(timeout, exchanged).await.unwrap_or_else(|_| Err(late(timeout)));
        if report(events, connection, Kind::Alive, answer.map(|answer| ((), answer))).await.is_none() {
            return;
        }
    }
}

async fn report<T>(
    events: &mpsc::Sender<Entry>,
    connection: u32,
    good: Kind,
    outcome: anyhow::Result<(T, Answer)>,
) -> Option<T> {
    let (kept, event, answerer, error) = match outcome {
        Ok((kept, Answer { answerer, error: None, .. })) => (Some(kept), good, answerer, None),
        Ok((_, Answer { answerer, error, .. })) => (None, Kind::Lost, answerer, error),
        Err(error) => (None, Kind::Lost, None, Some(format!("{error:#}"))),
    };
    // The writer ends only on an error, which `run` reports.
    let event = Event { connection, event, answerer, t: monotonic_ns(), error };
    let _ = events.send(Entry::Event(event)).await;
    kept
}

fn late(timeout: Duration) -> anyhow::Error {
    anyhow::anyhow!("no answer within {} ms", timeout.as_millis())
}
