//! The executor: the part of `bascule-lab` that runs inside the virtual machine and does what the host asks.
//!
//! It is the machine's only program of its own. It answers on a virtio-serial port; when the supervisor at the other end is gone,
//! it ends, and the machine with it.

mod command;
mod files;
mod port;

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result};
use tokio::sync::{Semaphore, mpsc};

use super::frame::{Frame, Kind, QUEUE, WINDOW};
use super::message::{Done, Hello, PROTOCOL, Pong, Request};

/// Where the machine shows the host's files as they are, without what it has mounted over them.
pub const HOST_VIEW: &str = "/usr/local/lib/bascule-vm/host";
/// Where programs are put that the machine runs.
pub const PROGRAMS: &str = "/usr/local/lib/bascule-vm/bin";
/// Variable that tells a command that it runs in the machine.
pub const MACHINE: &str = "BASCULE_LAB_MACHINE";
/// Channels at once.
const MAX_CHANNELS: usize = 64;

/// Runs inside the virtual machine; started by the lab, not by people.
#[derive(Debug, clap::Args)]
pub struct ExecutorArgs {
    /// Name of the virtio-serial port.
    #[arg(long, default_value = super::launch::PORT)]
    port: String,
}

/// Answers until the supervisor is gone.
pub fn run(args: &ExecutorArgs) -> Result<ExitCode> {
    prepare_mounts()?;
    let (reader, writer) = port::open(&args.port)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(answer(reader, writer))?;
    Ok(ExitCode::SUCCESS)
}

/// Takes away the copies-on-write that would show old states of the host's files, and gives the machine its own `/tmp`.
fn prepare_mounts() -> Result<()> {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    let mounts = std::fs::read_to_string("/proc/mounts").context("reading /proc/mounts")?;
    for directory in ["/home", "/opt", "/srv", "/root"] {
        let covered = mounts.lines().any(|line| {
            let mut words = line.split(' ').skip(1);
            words.next() == Some(directory) && words.next() == Some("overlay")
        });
        if covered {
            umount2(directory, MntFlags::MNT_DETACH).with_context(|| format!("uncovering {directory}"))?;
        }
    }
    mount(Some("tmpfs"), "/tmp", Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=1777"))
        .context("mounting a tmpfs on /tmp")?;
    std::fs::create_dir_all(PROGRAMS).with_context(|| format!("making {PROGRAMS}"))?;
    Ok(())
}

fn hello() -> Hello {
    let kernel = nix::sys::utsname::uname()
        .map_or_else(|_| "unknown".to_owned(), |name| name.release().to_string_lossy().into_owned());
    let cpus = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
    let memory_mib = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| text.lines().next()?.split_whitespace().nth(1)?.parse::<u64>().ok())
        .unwrap_or(0)
        / 1024;
    Hello { protocol: PROTOCOL, kernel, cpus, memory_mib }
}

/// What all channels share.
struct Shared {
    out: mpsc::Sender<Frame>,
    /// Control groups of commands that live on after their call.
    kept: Mutex<Vec<PathBuf>>,
    /// What was made visible of the host, to be shown anew at the next call.
    exposed: Mutex<Vec<PathBuf>>,
}

impl Shared {
    /// Control groups of kept commands in which there is still a process; the others are removed.
    fn count_kept(&self) -> u32 {
        let mut kept = self.kept.lock().expect("no holder panics");
        kept.retain(|group| {
            let populated = std::fs::read_to_string(group.join("cgroup.events"))
                .is_ok_and(|events| events.lines().any(|line| line == "populated 1"));
            if !populated {
                command::remove_group(group);
            }
            populated
        });
        u32::try_from(kept.len()).unwrap_or(u32::MAX)
    }
}

/// One client: what came from it, and how much may be sent to it.
struct Channel {
    inbox: mpsc::Sender<Frame>,
    window: Arc<Semaphore>,
}

async fn answer(mut port: mpsc::Receiver<Frame>, out: mpsc::Sender<Frame>) -> Result<()> {
    let shared = Arc::new(Shared { out: out.clone(), kept: Mutex::default(), exposed: Mutex::default() });
    out.send(Frame::json(0, Kind::Hello, &hello())?).await.context("the port is closed")?;
    let mut channels: HashMap<u32, Channel> = HashMap::new();
    while let Some(frame) = port.recv().await {
        let id = frame.channel;
        match frame.kind {
            Kind::Ping => {
                let pong = Frame::json(0, Kind::Pong, &Pong { kept: shared.count_kept() })?;
                if out.send(pong).await.is_err() {
                    break;
                }
            }
            Kind::Close => {
                channels.remove(&id);
            }
            Kind::Credit => {
                if let (Some(channel), Ok(bytes)) = (channels.get(&id), frame.credited()) {
                    let room = (WINDOW as usize).saturating_sub(channel.window.available_permits());
                    channel.window.add_permits((bytes as usize).min(room));
                }
            }
            _ => {
                if !channels.contains_key(&id) {
                    if frame.kind != Kind::Request {
                        continue;
                    }
                    channels.retain(|_, channel| !channel.inbox.is_closed());
                    if channels.len() >= MAX_CHANNELS {
                        let done = Done::Failed(format!("the machine already serves {MAX_CHANNELS} calls"));
                        let _ = out.send(Frame::json(id, Kind::Done, &done)?).await;
                        continue;
                    }
                    let (inbox, received) = mpsc::channel(QUEUE);
                    let window = Arc::new(Semaphore::new(WINDOW as usize));
                    tokio::spawn(serve(id, received, Arc::clone(&window), Arc::clone(&shared)));
                    channels.insert(id, Channel { inbox, window });
                }
                // A full inbox is a client that sends without credit; it is cut off.
                if channels.get(&id).is_some_and(|channel| channel.inbox.try_send(frame).is_err()) {
                    channels.remove(&id);
                }
            }
        }
    }
    Ok(())
}

/// Serves one client: request after request, until it is gone.
async fn serve(id: u32, mut inbox: mpsc::Receiver<Frame>, window: Arc<Semaphore>, shared: Arc<Shared>) {
    while let Some(frame) = inbox.recv().await {
        if frame.kind == Kind::Input {
            // Late input of a command that has ended.
            let _ = shared.out.send(Frame::credit_for(&frame)).await;
        }
        if frame.kind != Kind::Request {
            continue;
        }
        let client = Client { id, window: Arc::clone(&window), out: shared.out.clone() };
        let done = match frame.parse::<Request>() {
            Err(error) => Done::Failed(format!("cannot read the request: {error}")),
            Ok(Request::Run(command)) => command::run(command, &client, &mut inbox, &shared).await,
            Ok(Request::Put { path, mode }) => files::put(&path, mode, &client, &mut inbox).await,
            Ok(Request::Copy { from, path, mode, length }) => files::copy(from, path, mode, length).await,
            Ok(Request::Get { path }) => files::get(&path, &client).await,
            Ok(Request::Has { path }) => files::has(&path),
            Ok(Request::Remove { path }) => files::remove(&path),
            Ok(Request::Expose { paths }) => files::expose(&paths, &shared),
        };
        let done = Frame::json(id, Kind::Done, &done)
            .or_else(|error| Frame::json(id, Kind::Done, &Done::Failed(error.to_string())));
        let Ok(done) = done else { break };
        if shared.out.send(done).await.is_err() {
            break;
        }
    }
}

/// The way back to a client.
#[derive(Clone)]
struct Client {
    id: u32,
    window: Arc<Semaphore>,
    out: mpsc::Sender<Frame>,
}

impl Client {
    /// Sends data when the client has room for it. False when the machine is ending.
    async fn send(&self, kind: Kind, data: impl Into<bytes::Bytes>) -> bool {
        let frame = Frame::new(self.id, kind, data);
        let cost = u32::try_from(frame.cost()).expect("payloads are bounded");
        match self.window.acquire_many(cost).await {
            Ok(permit) => permit.forget(),
            Err(_) => return false,
        }
        self.out.send(frame).await.is_ok()
    }

    /// Tells the client that `frame` was consumed.
    async fn credit(&self, frame: &Frame) {
        let _ = self.out.send(Frame::credit_for(frame)).await;
    }
}
