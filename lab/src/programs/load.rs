//! `load`: an open-loop client. Request k is due at start + k / rate, whatever became of the others, so that a slow
//! server cannot hide behind a client that waits for it (coordinated omission).

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpStream, UdpSocket},
    signal::unix::{SignalKind, signal},
    sync::{Mutex, mpsc},
    time::Instant,
};

use super::{
    answer::answerer_in_line,
    clock::monotonic_ns,
    hold,
    patience::Patience,
    ping::Pinger,
    record::{Recorder, Request},
    target::{Answer, HttpConnection, Target, http_connect, http_exchange, is_again},
};

/// An open-loop client of the lab, which runs inside a node.
#[derive(Debug, Clone, clap::Args)]
pub struct LoadArgs {
    /// Its name in records and messages.
    #[arg(long, default_value = "load")]
    pub name: String,
    /// What to speak.
    #[arg(long, value_enum, default_value = "http")]
    pub protocol: Protocol,
    /// An http:// address, ADDRESS:PORT for TCP and UDP, or an address for ping.
    #[arg(long)]
    pub target: String,
    /// Requests a second.
    #[arg(long, default_value_t = 10.0)]
    pub rate: f64,
    /// End after this many requests.
    #[arg(long, conflicts_with = "duration")]
    pub count: Option<u64>,
    /// End after this time, as `10s` or `500ms`; without it and `--count`, at SIGTERM.
    #[arg(long, value_parser = duration)]
    pub duration: Option<Duration>,
    /// A request that has not completed this long after it was due has failed; what the machine stood still meanwhile does not count.
    #[arg(long, default_value = "500ms", value_parser = duration)]
    pub timeout: Duration,
    /// Local address to connect from.
    #[arg(long)]
    pub source: Option<IpAddr>,
    /// Keep one connection (or UDP socket) for all requests, instead of a new one each.
    #[arg(long)]
    pub reuse: bool,
    /// Instead of requests: open this many connections and hold them, with exchanges on each.
    #[arg(long, conflicts_with_all = ["count", "duration", "rate"])]
    pub hold: Option<u32>,
    /// With --hold: open one connection every so long, instead of one after another.
    #[arg(long, requires = "hold", value_parser = duration)]
    pub open_every: Option<Duration>,
    /// With --hold: pause between two exchanges on a connection.
    #[arg(long, requires = "hold", default_value = "1s", value_parser = duration)]
    pub exchange_every: Duration,
    /// With --hold: each connection is a download that does not end.
    #[arg(long, requires = "hold")]
    pub download: bool,
    /// Where to write a JSON line for each request.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    /// GET of a page; 2xx is good.
    Http,
    /// A line sent, the same line back with the server's name.
    Tcp,
    /// The same with datagrams.
    Udp,
    /// ICMP echo.
    Ping,
}

/// Reads `10s`, `500ms`, `1m30s`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration: write it as 500ms, 10s or 1m30s");
    let (mut rest, mut total) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit_end = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| digits + at);
        let unit = match &rest[digits..unit_end] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_mins(1),
            "h" => Duration::from_hours(1),
            _ => return Err(wrong()),
        };
        let part =
            u32::try_from(number).ok().and_then(|number| unit.checked_mul(number)).ok_or_else(wrong)?;
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = &rest[unit_end..];
    }
    if text.is_empty() { Err(wrong()) } else { Ok(total) }
}

/// Runs until the count, the time or SIGTERM.
///
/// # Errors
/// When the target is no address, or the record cannot be written.
pub fn run(args: LoadArgs) -> anyhow::Result<ExitCode> {
    let target = Target::parse(&args)?;
    if !(args.rate > 0.0 && args.rate <= 100_000.0) {
        bail!("--rate {} is not between 0 and 100000 requests a second", args.rate);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if let Some(count) = args.hold {
        return runtime.block_on(hold::run(args, target, count));
    }
    runtime.block_on(load(args, target))?;
    Ok(ExitCode::SUCCESS)
}

async fn load(args: LoadArgs, target: Target) -> anyhow::Result<()> {
    let recorder =
        Recorder::create(&args.out).with_context(|| format!("cannot write {}", args.out.display()))?;
    let (records, results) = mpsc::channel(4096);
    let writer = tokio::spawn(write(recorder, results));
    let pinger = match target.protocol {
        Protocol::Ping => Some(Pinger::start(target.address.ip(), target.source)?),
        _ => None,
    };
    let kept = args.reuse.then(Mutex::default);
    let client = Arc::new(Client { target, kept, pinger, patience: Patience::new(args.timeout)? });
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    println!("ready");

    let (start, start_ns) = (Instant::now(), monotonic_ns());
    for seq in 0.. {
        #[expect(clippy::cast_precision_loss, reason = "no load has 2^53 requests")]
        let offset = Duration::from_secs_f64(seq as f64 / args.rate);
        if args.count.is_some_and(|count| seq >= count)
            || args.duration.is_some_and(|duration| offset >= duration)
        {
            break;
        }
        tokio::select! {
            () = tokio::time::sleep_until(start + offset) => {}
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
        let scheduled = start_ns + u64::try_from(offset.as_nanos()).unwrap_or(u64::MAX);
        let (client, records, due) = (Arc::clone(&client), records.clone(), start + offset);
        tokio::spawn(async move {
            let request = client.request(seq, scheduled, due).await;
            // The writer ends only on an error, which the main task reports.
            let _ = records.send(request).await;
        });
    }
    // Outstanding requests hold a sender each and end by their time-out; with the last one the channel closes.
    drop(records);
    let summary = writer.await??;
    println!("{}", serde_json::to_string(&summary)?);
    Ok(())
}

async fn write(
    mut recorder: Recorder,
    mut results: mpsc::Receiver<Request>,
) -> anyhow::Result<super::record::Summary> {
    while let Some(request) = results.recv().await {
        recorder.request(&request).context("cannot write the record")?;
    }
    recorder.finish().context("cannot write the record")
}

#[derive(Debug)]
struct Client {
    target: Target,
    kept: Option<Mutex<Kept>>,
    pinger: Option<Arc<Pinger>>,
    patience: Patience,
}

/// What is kept between requests with `--reuse`.
#[derive(Debug, Default)]
struct Kept {
    http: Option<HttpConnection>,
    tcp: Option<BufReader<TcpStream>>,
    udp: Option<UdpSocket>,
}

impl Client {
    async fn request(&self, seq: u64, scheduled: u64, due: Instant) -> Request {
        let started = monotonic_ns();
        let outcome = self.patience.within(due.elapsed(), self.exchange(seq)).await;
        let ended = monotonic_ns();
        let again = outcome.as_ref().is_err_and(is_again);
        let Answer { answerer, status, error } =
            outcome.unwrap_or_else(|error| Answer { error: Some(format!("{error:#}")), ..Answer::default() });
        Request { seq, scheduled, started, ended, ok: error.is_none(), answerer, status, error, again }
    }

    async fn exchange(&self, seq: u64) -> anyhow::Result<Answer> {
        if let Some(pinger) = &self.pinger {
            // Who answers a ping is not told.
            return pinger.exchange(seq).await.map(|()| Answer::default());
        }
        let Some(kept) = &self.kept else { return self.exchange_on(&mut Kept::default(), seq, true).await };
        let mut kept = kept.lock().await;
        if self.target.protocol == Protocol::Udp {
            if kept.udp.is_none() {
                kept.udp = Some(self.udp_socket().await?);
            }
            let Some(socket) = &kept.udp else { bail!("no socket") };
            // No datagram is half-read: after a time-out the same socket goes on, and with it the port by which the client is known.
            let answer = udp_exchange(socket, &format!("request {seq}")).await;
            if answer.is_err() {
                kept.udp = None;
            }
            return answer;
        }
        // Taken out while in use: a request that times out in the middle must not leave a half-read connection.
        let mut mine = std::mem::take(&mut *kept);
        let answer = self.exchange_on(&mut mine, seq, false).await?;
        *kept = mine;
        Ok(answer)
    }

    async fn exchange_on(&self, kept: &mut Kept, seq: u64, close: bool) -> anyhow::Result<Answer> {
        match self.target.protocol {
            Protocol::Http => {
                let mut connection = match kept.http.take() {
                    Some(connection) if !connection.is_closed() => connection,
                    _ => http_connect(&self.target).await?,
                };
                let answer = http_exchange(&mut connection, self.target.http_request(close)?).await?;
                kept.http = Some(connection);
                Ok(answer)
            }
            Protocol::Tcp => {
                let mut stream = match kept.tcp.take() {
                    Some(stream) => stream,
                    None => tcp_greeted(&self.target).await?.0,
                };
                let answer = tcp_exchange(&mut stream, &format!("request {seq}")).await?;
                kept.tcp = Some(stream);
                Ok(answer)
            }
            Protocol::Udp => {
                let socket = self.udp_socket().await?;
                udp_exchange(&socket, &format!("request {seq}")).await
            }
            Protocol::Ping => bail!("pings have no connection"),
        }
    }

    async fn udp_socket(&self) -> anyhow::Result<UdpSocket> {
        let any = if self.target.address.is_ipv4() { "0.0.0.0" } else { "::" };
        let source = self.target.source.map_or_else(|| any.parse(), Ok)?;
        let socket = UdpSocket::bind(SocketAddr::new(source, 0)).await.context("bind")?;
        socket.connect(self.target.address).await.context("connect")?;
        Ok(socket)
    }
}

/// A connection to a server of lines, with the name that it greeted with.
pub(super) async fn tcp_greeted(target: &Target) -> anyhow::Result<(BufReader<TcpStream>, String)> {
    let mut stream = BufReader::new(target.connect().await.context("connect")?);
    let greeting = line(&mut stream).await?;
    let name = greeting.split(' ').next().unwrap_or_default().to_owned();
    Ok((stream, name))
}

pub(super) async fn tcp_exchange(stream: &mut BufReader<TcpStream>, text: &str) -> anyhow::Result<Answer> {
    stream.get_mut().write_all(format!("{text}\n").as_bytes()).await.context("send")?;
    let got = line(stream).await?;
    Ok(judged(&got, text))
}

pub(super) async fn line(stream: &mut BufReader<TcpStream>) -> anyhow::Result<String> {
    let mut text = String::new();
    let length = stream.take(4096).read_line(&mut text).await.context("receive")?;
    if length == 0 {
        bail!("the server closed the connection");
    }
    Ok(text)
}

async fn udp_exchange(socket: &UdpSocket, text: &str) -> anyhow::Result<Answer> {
    socket.send(text.as_bytes()).await.context("send")?;
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await.context("receive")?;
        let answer = judged(&String::from_utf8_lossy(&buffer[..length]), text);
        // With a kept socket, the late answer of an earlier request may come first.
        if answer.error.is_none() {
            return Ok(answer);
        }
    }
}

fn judged(got: &str, sent: &str) -> Answer {
    let answerer = answerer_in_line(got, sent);
    let error = answerer.is_none().then(|| format!("a wrong answer: {:.40}", got.trim_end()));
    Answer { answerer, status: None, error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        for wrong in ["", "5", "5.5s", "s", "-1s", "9999999999999h", "1d"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
