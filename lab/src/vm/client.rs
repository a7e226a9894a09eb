//! The host's side of a call: finds the supervisor or starts it, and talks to the executor through it.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::Settings;
use super::dir::StateDir;
use super::frame::{Decoder, Frame, Kind, MAX_PAYLOAD};
use super::message::{Boot, Done, PROTOCOL, Request};
use super::start::start_supervisor;

/// How long a supervisor may take to open its socket, and an ending one to end.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);

/// A connection to the machine. When it is dropped, what was started over it is ended.
#[derive(Debug)]
pub struct Vm {
    stream: UnixStream,
    decoder: Decoder,
    buffer: Vec<u8>,
    ready: Boot,
    dir: StateDir,
}

impl Vm {
    /// Connects to the running machine, or starts one and waits until it has booted. `progress` hears how it goes.
    pub async fn start(settings: &Settings, progress: &mut dyn FnMut(&Boot)) -> Result<Self> {
        let dir = StateDir::open()?;
        for _ in 0..3 {
            let stream = match UnixStream::connect(dir.control_socket()).await {
                Ok(stream) => stream,
                Err(_) => start_supervisor(&dir, settings).await?,
            };
            match Self::attach(stream, dir.clone(), progress).await? {
                Attached::Ready(vm) => return Ok(vm),
                Attached::Outdated(vm) => {
                    vm.end().await?;
                }
                // It was ending just now.
                Attached::Gone => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
        bail!("the virtual machine's supervisor ended as soon as it had started; its log: {}", log_tail(&dir))
    }

    /// Connects to the machine if one runs.
    pub async fn running(progress: &mut dyn FnMut(&Boot)) -> Result<Option<Self>> {
        let dir = StateDir::open()?;
        let Ok(stream) = UnixStream::connect(dir.control_socket()).await else {
            return Ok(None);
        };
        match Self::attach(stream, dir, progress).await? {
            Attached::Ready(vm) | Attached::Outdated(vm) => Ok(Some(vm)),
            Attached::Gone => Ok(None),
        }
    }

    /// Connects to the supervisor if there is one, also while the machine boots: enough to end it.
    pub async fn running_in_any_state() -> Result<Option<Self>> {
        let dir = StateDir::open()?;
        let Ok(stream) = UnixStream::connect(dir.control_socket()).await else {
            return Ok(None);
        };
        Ok(Some(Self::over(stream, dir)))
    }

    fn over(stream: UnixStream, dir: StateDir) -> Self {
        let ready = Boot::Booting { seconds: 0, what: "connecting".to_owned() };
        Self { stream, decoder: Decoder::default(), buffer: vec![0; MAX_PAYLOAD], ready, dir }
    }

    async fn attach(stream: UnixStream, dir: StateDir, progress: &mut dyn FnMut(&Boot)) -> Result<Attached> {
        let outdated = dir.state().is_some_and(|state| state.protocol != PROTOCOL);
        let mut vm = Self::over(stream, dir);
        if outdated {
            return Ok(Attached::Outdated(vm));
        }
        loop {
            let Some(frame) = vm.receive().await? else {
                return Ok(Attached::Gone);
            };
            if frame.kind != Kind::Boot {
                continue;
            }
            let boot: Boot = frame.parse()?;
            progress(&boot);
            match boot {
                Boot::Booting { .. } => {}
                Boot::Ready { .. } => {
                    vm.ready = boot;
                    return Ok(Attached::Ready(vm));
                }
                Boot::Failed { reason, console } => return Err(failure(&vm.dir, &reason, &console)),
            }
        }
    }

    /// What the supervisor said when the machine was ready.
    pub fn ready(&self) -> &Boot {
        &self.ready
    }

    /// Where host and machine keep their things.
    pub fn dir(&self) -> &StateDir {
        &self.dir
    }

    /// Ends the machine and waits until its supervisor is gone.
    pub async fn end(mut self) -> Result<()> {
        let supervisor = self.dir.state().map(|state| state.process);
        self.send(&Frame::new(0, Kind::Stop, Vec::new())).await?;
        Self::ended(supervisor).await;
        Ok(())
    }

    /// Ends the machine if nobody else is connected to it.
    pub async fn end_if_unused(mut self) -> Result<()> {
        self.send(&Frame::new(0, Kind::Stop, vec![1])).await?;
        // The end of the connection is the answer, whichever it is.
        while let Ok(Some(_)) = self.receive().await {}
        Ok(())
    }

    async fn ended(supervisor: Option<super::dir::ProcessId>) {
        let start = Instant::now();
        while let Some(process) = supervisor {
            if !process.is_alive() {
                break;
            }
            if start.elapsed() > PATIENCE {
                process.kill(PATIENCE);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(super) async fn send(&mut self, frame: &Frame) -> Result<()> {
        self.stream.write_all(&frame.encode()).await.context("the virtual machine's supervisor is gone")
    }

    /// The next frame; `None` at the end of the connection. Safe to cancel.
    async fn receive(&mut self) -> Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.decoder.next().context("the supervisor sent what is not a frame")? {
                return Ok(Some(frame));
            }
            let length = self.stream.read(&mut self.buffer).await.context("reading from the supervisor")?;
            if length == 0 {
                return Ok(None);
            }
            self.decoder.push(&self.buffer[..length]);
        }
    }

    /// The next frame of a request under way.
    pub(super) async fn expect(&mut self) -> Result<Frame> {
        match self.receive().await? {
            Some(frame) if frame.kind == Kind::Boot => match frame.parse()? {
                Boot::Failed { reason, console } => Err(failure(&self.dir, &reason, &console)),
                _ => Box::pin(self.expect()).await,
            },
            Some(frame) => Ok(frame),
            None => Err(anyhow!("the virtual machine was ended")),
        }
    }

    pub(super) async fn simple(&mut self, request: &Request) -> Result<Done> {
        self.send(&Frame::json(0, Kind::Request, request)?).await?;
        loop {
            let frame = self.expect().await?;
            if frame.kind == Kind::Done {
                return Ok(frame.parse()?);
            }
        }
    }

    pub(super) async fn must(&mut self, request: &Request) -> Result<()> {
        match self.simple(request).await? {
            Done::Failed(reason) => bail!("in the virtual machine: {reason}"),
            _ => Ok(()),
        }
    }
}

enum Attached {
    Ready(Vm),
    Outdated(Vm),
    Gone,
}

fn failure(dir: &StateDir, reason: &str, console: &[String]) -> anyhow::Error {
    let mut text = format!("the virtual machine failed: {reason}");
    if !console.is_empty() {
        let from = console.len().saturating_sub(12);
        text.push_str("\n  the last lines of its console:");
        for line in &console[from..] {
            text.push_str("\n    ");
            text.push_str(line);
        }
        text.push_str(&format!("\n  all of it: {}", dir.console_log().display()));
    }
    anyhow!(text)
}

pub(super) fn log_tail(dir: &StateDir) -> String {
    let text = fs::read_to_string(dir.supervisor_log()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(5);
    if lines.is_empty() { "(empty)".to_owned() } else { lines[from..].join(" | ") }
}
