//! `load --hold`: connections that stay open while faults are played, and tell when they are lost.

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncWriteExt as _, BufReader},
    net::TcpStream,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    answer::read_stream_line,
    clock::monotonic_ns,
    load::{LoadArgs, Protocol, line, tcp_exchange, tcp_greeted},
    patience::Patience,
    record::write_line,
    target::{Answer, HttpConnection, Target, http_connect, http_exchange},
};

/// Headers of a page that are read.
const HEADERS_MAX: usize = 64;
/// Connections of one client.
const CONNECTIONS_MAX: u32 = 10_000;
/// A download that goes on is told of this often.
const TOLD: Duration = Duration::from_secs(1);

/// One line of the record of held connections. Times are nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Which connection, from 0.
    pub connection: u32,
    /// What happened to it.
    pub event: Kind,
    /// Who answered.
    pub answerer: Option<String>,
    /// When.
    pub t: u64,
    /// When the client began to open it.
    #[serde(default)]
    pub began: u64,
    /// Why it was lost.
    pub error: Option<String>,
    /// It was lost by a reset (RST).
    #[serde(default)]
    pub reset: bool,
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
    Http(HttpConnection),
    Tcp(BufReader<TcpStream>),
    Download(BufReader<TcpStream>),
}

/// How connections are opened and held.
struct Holder {
    target: Target,
    patience: Patience,
    exchange_every: Duration,
    download: bool,
    events: mpsc::Sender<Entry>,
}

/// Opens the connections, holds them, and writes what becomes of them until SIGTERM.
pub(super) async fn run(args: LoadArgs, target: Target, count: u32) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(count <= CONNECTIONS_MAX, "--hold {count} is more than {CONNECTIONS_MAX} connections");
    anyhow::ensure!(
        matches!(target.protocol, Protocol::Http | Protocol::Tcp),
        "--hold needs connections: http or tcp"
    );
    anyhow::ensure!(!args.download || target.protocol == Protocol::Http, "--download needs http");
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
    let holder = Arc::new(Holder {
        target,
        patience: Patience::new(args.timeout)?,
        exchange_every: args.exchange_every,
        download: args.download,
        events,
    });
    let mut tasks = tokio::task::JoinSet::new();
    let opening = async {
        if let Some(period) = args.open_every {
            println!("ready");
            let start = Instant::now();
            for connection in 0..count {
                tokio::time::sleep_until(start + period * connection).await;
                let holder = Arc::clone(&holder);
                tasks.spawn(async move {
                    if let Some(opened) = holder.open(connection).await {
                        holder.keep(connection, opened).await;
                    }
                });
            }
        } else {
            for connection in 0..count {
                if let Some(opened) = holder.open(connection).await {
                    let holder = Arc::clone(&holder);
                    tasks.spawn(async move { holder.keep(connection, opened).await });
                }
            }
            // Whoever hears it reads the record at once: all of them have to stand in it.
            let (mark, written) = oneshot::channel();
            let _ = holder.events.send(Entry::Mark(mark)).await;
            let _ = written.await;
            println!("ready");
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = opening => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tasks.shutdown().await;
    drop(tasks);
    drop(holder);
    writer.await??;
    Ok(ExitCode::SUCCESS)
}

/// A connection that opened, and when that began.
struct Opened {
    held: Held,
    began: u64,
}

impl Holder {
    /// Whatever takes longer than the time-out has failed.
    async fn in_time<T>(&self, exchange: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        self.patience.within(Duration::ZERO, exchange).await
    }

    async fn open(&self, connection: u32) -> Option<Opened> {
        let began = monotonic_ns();
        let opened = self.in_time(async {
            if self.download {
                let mut stream = BufReader::new(self.target.connect().await.context("connect")?);
                let answer = download_begins(&mut stream, &self.target).await?;
                Ok((Held::Download(stream), answer))
            } else if self.target.protocol == Protocol::Http {
                let mut connection = http_connect(&self.target).await?;
                let answer = http_exchange(&mut connection, self.target.http_request(false)?).await?;
                Ok((Held::Http(connection), answer))
            } else {
                let (stream, name) = tcp_greeted(&self.target).await?;
                Ok((Held::Tcp(stream), Answer { answerer: Some(name), ..Answer::default() }))
            }
        });
        let opened = opened.await;
        let held = self.report(connection, began, Kind::Open, opened).await?;
        Some(Opened { held, began })
    }

    async fn keep(&self, connection: u32, Opened { mut held, began }: Opened) {
        let mut told = Instant::now();
        let mut next_line = None;
        for round in 0u64.. {
            if !matches!(held, Held::Download(_)) {
                tokio::time::sleep(self.exchange_every).await;
            }
            let answer = self
                .in_time(async {
                    match &mut held {
                        Held::Http(connection) => {
                            http_exchange(connection, self.target.http_request(false)?).await
                        }
                        Held::Tcp(stream) => tcp_exchange(stream, &format!("still here {round}")).await,
                        Held::Download(stream) => download_goes_on(stream, &mut next_line).await,
                    }
                })
                .await;
            let good = matches!(&answer, Ok(answer) if answer.error.is_none());
            if good && matches!(held, Held::Download(_)) && told.elapsed() < TOLD {
                continue;
            }
            told = Instant::now();
            let answer = answer.map(|answer| ((), answer));
            if self.report(connection, began, Kind::Alive, answer).await.is_none() {
                return;
            }
        }
    }

    async fn report<T>(
        &self,
        connection: u32,
        began: u64,
        good: Kind,
        outcome: anyhow::Result<(T, Answer)>,
    ) -> Option<T> {
        let reset = outcome.as_ref().is_err_and(is_reset);
        let (kept, event, answerer, error) = match outcome {
            Ok((kept, Answer { answerer, error: None, .. })) => (Some(kept), good, answerer, None),
            Ok((_, Answer { answerer, error, .. })) => (None, Kind::Lost, answerer, error),
            Err(error) => (None, Kind::Lost, None, Some(format!("{error:#}"))),
        };
        // The writer ends only on an error, which `run` reports.
        let event = Event { connection, event, answerer, t: monotonic_ns(), began, error, reset };
        let _ = self.events.send(Entry::Event(event)).await;
        kept
    }
}

/// Whether the other side, or somebody in its name, ended the connection by a reset.
fn is_reset(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
    })
}

/// Asks for a page that does not end, and reads up to its first line.
async fn download_begins(stream: &mut BufReader<TcpStream>, target: &Target) -> anyhow::Result<Answer> {
    let request = target.http_request(false)?;
    let host = request.headers().get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
    let head = format!("GET {} HTTP/1.0\r\nhost: {host}\r\n\r\n", request.uri());
    stream.get_mut().write_all(head.as_bytes()).await.context("send")?;
    let status = line(stream).await?;
    let code = status.split(' ').nth(1).and_then(|code| code.parse::<u16>().ok());
    anyhow::ensure!(code == Some(200), "not a page: {:.40}", status.trim_end());
    for _ in 0..HEADERS_MAX {
        if line(stream).await?.trim_end().is_empty() {
            return download_goes_on(stream, &mut None).await;
        }
    }
    anyhow::bail!("the page has more than {HEADERS_MAX} headers")
}

/// Reads the next line of a download: from the same server as before, none left out.
async fn download_goes_on(
    stream: &mut BufReader<TcpStream>,
    next: &mut Option<u64>,
) -> anyhow::Result<Answer> {
    let text = line(stream).await?;
    let (name, number) =
        read_stream_line(&text).with_context(|| format!("not a line of a download: {text:.40}"))?;
    let error =
        next.filter(|next| *next != number).map(|next| format!("line {number} came instead of {next}"));
    *next = Some(number + 1);
    Ok(Answer { answerer: Some(name.to_owned()), status: Some(200), error })
}
