//! Commands in the machine, with the caller's input, output, signals and terminal.

use std::io::{IsTerminal as _, Read as _};

use anyhow::{Result, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::client::Vm;
use super::frame::{Frame, Kind, WINDOW};
use super::message::{Command, Done, Request};
use super::terminal;

/// What a shell says of a command that it cannot start.
const NOT_STARTED: u8 = 127;

/// How a command is connected to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interaction {
    /// Output is passed on; a terminal is imitated when the caller has one. Nothing is read.
    Watch,
    /// Input is passed, too, as it comes from a pipe or file.
    Pipe,
    /// Keys are passed as they are typed, when the caller sits at a terminal; else as `Pipe`.
    Terminal,
}

impl Vm {
    /// Runs a command. Returns its exit code as a shell would say it. When the caller is asked to end (SIGINT, SIGTERM, SIGHUP), so
    /// is the command; the third time it is killed. 127: it could not be started.
    pub async fn run(&mut self, mut command: Command, interaction: Interaction) -> Result<u8> {
        let raw = if interaction == Interaction::Terminal && std::io::stdout().is_terminal() {
            terminal::Raw::enter()
        } else {
            None
        };
        let wants_terminal = match interaction {
            Interaction::Watch => std::io::stderr().is_terminal(),
            Interaction::Pipe => false,
            Interaction::Terminal => raw.is_some(),
        };
        command.terminal = if wants_terminal { terminal::of_caller() } else { None };
        command.input = interaction != Interaction::Watch;
        self.send(&Frame::json(0, Kind::Request, &Request::Run(command.clone()))?).await?;
        let done = self.converse(&command).await;
        drop(raw);
        Ok(match done? {
            Done::Exited(code) => u8::try_from(code).unwrap_or(255),
            Done::Signaled(signal) => u8::try_from(128 + signal).unwrap_or(255),
            Done::NotStarted(reason) => {
                eprintln!("bascule-lab: {reason}");
                NOT_STARTED
            }
            Done::Failed(reason) => bail!("in the virtual machine: {reason}"),
            other => bail!("an unexpected answer: {other:?}"),
        })
    }

    async fn converse(&mut self, command: &Command) -> Result<Done> {
        let mut asked = 0;
        let mut interrupted = signal(SignalKind::interrupt())?;
        let mut terminated = signal(SignalKind::terminate())?;
        let mut hung_up = signal(SignalKind::hangup())?;
        let mut resized = signal(SignalKind::window_change())?;
        let mut input = command.input.then(read_input);
        let mut room = WINDOW as usize;
        loop {
            let event = tokio::select! {
                frame = self.expect() => Event::Frame(frame?),
                _ = interrupted.recv() => Event::Signal(libc::SIGINT),
                _ = terminated.recv() => Event::Signal(libc::SIGTERM),
                _ = hung_up.recv() => Event::Signal(libc::SIGHUP),
                _ = resized.recv() => Event::Resized,
                bytes = next_input(input.as_mut()), if input.is_some() && room >= INPUT_CHUNK => Event::Input(bytes),
            };
            match event {
                Event::Frame(frame) => match frame.kind {
                    Kind::Output => {
                        let ok = print(&mut std::io::stdout(), &frame.payload);
                        self.send(&Frame::credit_for(&frame)).await?;
                        if !ok {
                            // Nobody reads any more: as SIGPIPE would have it.
                            self.send(&Frame::new(0, Kind::Signal, signal_byte(libc::SIGPIPE))).await?;
                        }
                    }
                    Kind::ErrorOutput => {
                        print(&mut std::io::stderr(), &frame.payload);
                        self.send(&Frame::credit_for(&frame)).await?;
                    }
                    Kind::Credit => room = (room + frame.credited()? as usize).min(WINDOW as usize),
                    Kind::Done => return Ok(frame.parse()?),
                    _ => {}
                },
                Event::Signal(number) => {
                    asked += 1;
                    if asked > 2 {
                        return Ok(Done::Signaled(number));
                    }
                    self.send(&Frame::new(0, Kind::Signal, signal_byte(number))).await?;
                }
                Event::Resized => {
                    if let (Some(_), Some((rows, columns))) = (&command.terminal, terminal::size()) {
                        let mut payload = rows.to_le_bytes().to_vec();
                        payload.extend(columns.to_le_bytes());
                        self.send(&Frame::new(0, Kind::Resize, payload)).await?;
                    }
                }
                Event::Input(Some(bytes)) => {
                    let frame = Frame::new(0, Kind::Input, bytes);
                    room = room.saturating_sub(frame.cost());
                    self.send(&frame).await?;
                }
                Event::Input(None) => {
                    input = None;
                    self.send(&Frame::new(0, Kind::InputEnd, Vec::new())).await?;
                }
            }
        }
    }
}

enum Event {
    Frame(Frame),
    Signal(i32),
    Resized,
    Input(Option<Vec<u8>>),
}

/// Bytes of input read at once.
const INPUT_CHUNK: usize = 16 * 1024;

fn signal_byte(number: i32) -> Vec<u8> {
    vec![u8::try_from(number).unwrap_or(15)]
}

fn print(to: &mut impl std::io::Write, bytes: &[u8]) -> bool {
    to.write_all(bytes).and_then(|()| to.flush()).is_ok()
}

/// Reads standard input on a thread, which the end of the process ends.
fn read_input() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(1);
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin();
        let mut buffer = vec![0; INPUT_CHUNK];
        loop {
            match stdin.read(&mut buffer) {
                Ok(0) => return,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return,
                Ok(length) => {
                    if sender.blocking_send(buffer[..length].to_vec()).is_err() {
                        return;
                    }
                }
            }
        }
    });
    receiver
}

async fn next_input(input: Option<&mut mpsc::Receiver<Vec<u8>>>) -> Option<Vec<u8>> {
    match input {
        Some(input) => input.recv().await,
        None => std::future::pending().await,
    }
}
