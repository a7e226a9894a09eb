//! The supervisor: a process of its own on the host that starts the virtual machine, lets clients talk to the executor inside,
//! and ends it when nobody has needed it for a while. When it dies, however it dies, the machine dies with it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;
use tokio::time::timeout;

use super::console::Console;
use super::dir::{ProcessId, State, StateDir};
use super::find::Kernel;
use super::frame::{Decoder, Frame, Kind, MAX_PAYLOAD, QUEUE};
use super::kvm::{self, Verdict};
use super::launch::Machine;
use super::message::{Boot, Hello, PROTOCOL, Pong};

/// How long a boot may take with hardware virtualisation.
const BOOT_KVM: Duration = Duration::from_secs(45);
/// How long a boot may take under emulation; on two free processors it takes 15 s, on busy ones ten times that.
const BOOT_EMULATED: Duration = Duration::from_secs(600);
/// How long the console of a booting machine may say nothing.
const BOOT_SILENCE: Duration = Duration::from_secs(120);
/// How often the executor is asked whether it is there.
const PING: Duration = Duration::from_secs(5);
/// After how long a silence the machine is taken for dead.
const SILENCE: Duration = Duration::from_secs(180);
/// Clients at once.
const MAX_CLIENTS: usize = 48;

/// Supervises the virtual machine; started by the lab, not by people.
#[derive(Debug, clap::Args)]
pub struct SuperviseArgs {
    /// State directory.
    #[arg(long)]
    dir: PathBuf,
    /// virtme-ng.
    #[arg(long)]
    vng: PathBuf,
    /// QEMU.
    #[arg(long)]
    qemu: PathBuf,
    /// Kernel image.
    #[arg(long)]
    kernel: PathBuf,
    /// Release of the kernel.
    #[arg(long)]
    release: String,
    /// The program to run inside.
    #[arg(long)]
    executor: PathBuf,
    /// Processors.
    #[arg(long)]
    cpus: u32,
    /// Memory in MiB.
    #[arg(long)]
    memory_mib: u32,
    /// `auto`, `kvm` or `tcg`.
    #[arg(long)]
    accelerator: super::Accelerator,
    /// Seconds without a client after which the machine is ended.
    #[arg(long)]
    idle_seconds: u64,
    /// Gives it a network card.
    #[arg(long)]
    network: bool,
}

/// Runs until the machine has ended.
pub fn run(args: SuperviseArgs) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = LocalSet::new().block_on(&runtime, supervise(args));
    runtime.shutdown_background();
    result.map(|()| ExitCode::SUCCESS)
}

async fn supervise(args: SuperviseArgs) -> Result<()> {
    let dir = StateDir::open_at(&args.dir)?;
    dir.clean();
    std::fs::create_dir_all(dir.temporary()).context("making the directory for temporary files")?;
    let machine_socket = UnixListener::bind(dir.machine_socket()).context("binding machine.sock")?;
    dir.write_state(&State {
        process: ProcessId::own()?,
        protocol: PROTOCOL,
        cpus: args.cpus,
        memory_mib: args.memory_mib,
        network: args.network,
        kernel: args.kernel.clone(),
    })?;
    // Last, because a client takes its being there for the start's success.
    let control_socket = UnixListener::bind(dir.control_socket()).context("binding control.sock")?;

    let (boot, _) = watch::channel(Boot::Booting { seconds: 0, what: "starting".to_owned() });
    let (to_machine, from_clients) = mpsc::channel(256);
    let hub = Rc::new(Hub {
        boot,
        to_machine,
        clients: RefCell::default(),
        stop: tokio::sync::Notify::new(),
        idle_since: RefCell::new(Instant::now()),
    });
    let accepting = tokio::task::spawn_local(accept(control_socket, Rc::clone(&hub)));

    let (mut terminated, mut hung_up) = (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    let result = tokio::select! {
        result = live(&args, &dir, &machine_socket, &hub, from_clients) => result,
        () = hub.stop.notified() => Ok(()),
        _ = terminated.recv() => Ok(()),
        _ = hung_up.recv() => Ok(()),
    };
    // `live` is dropped now, and with it the machine (`kill_on_drop`). Nobody new is let in; those who are there hear why.
    accepting.abort();
    dir.clean();
    if let Err(error) = &result {
        let console = match &*hub.boot.borrow() {
            Boot::Failed { console, .. } => console.clone(),
            _ => Vec::new(),
        };
        hub.boot.send_replace(Boot::Failed { reason: format!("{error:#}"), console });
        eprintln!("bascule-lab: {error:#}");
        // Time to read it.
        let start = Instant::now();
        while !hub.clients.borrow().is_empty() && start.elapsed() < Duration::from_secs(5) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}

/// What the tasks of the supervisor share.
struct Hub {
    boot: watch::Sender<Boot>,
    to_machine: mpsc::Sender<Frame>,
    clients: RefCell<HashMap<u32, mpsc::Sender<Frame>>>,
    stop: tokio::sync::Notify,
    idle_since: RefCell<Instant>,
}

impl Hub {
    fn progress(&self, start: Instant, what: &str) {
        self.boot.send_replace(Boot::Booting { seconds: start.elapsed().as_secs(), what: what.to_owned() });
    }
}

/// Boots the machine and serves it until it ends; `Ok` when it was idle.
async fn live(
    args: &SuperviseArgs,
    dir: &StateDir,
    machine_socket: &UnixListener,
    hub: &Hub,
    from_clients: mpsc::Receiver<Frame>,
) -> Result<()> {
    let start = Instant::now();
    let console = Console::default();
    let mut kvm = match args.accelerator {
        super::Accelerator::Kvm => true,
        super::Accelerator::Tcg => false,
        super::Accelerator::Auto => {
            hub.progress(start, "trying /dev/kvm");
            let (dir, qemu) = (dir.clone(), args.qemu.clone());
            let kernel = Kernel { image: args.kernel.clone(), release: args.release.clone() };
            let verdict = tokio::task::spawn_blocking(move || kvm::verdict(&dir, &qemu, &kernel)).await?;
            if let Verdict::Broken { reason } = &verdict {
                println!("emulating: {reason}");
            }
            verdict.works()
        }
    };
    let mut machine = loop {
        match boot(args, dir, machine_socket, hub, &console, kvm, start).await {
            Ok(machine) => break machine,
            Err(error) if kvm && args.accelerator == super::Accelerator::Auto => {
                println!("no boot with KVM, emulating: {error:#}");
                kvm = false;
            }
            Err(error) => {
                hub.boot.send_replace(Boot::Failed { reason: String::new(), console: console.tail() });
                return Err(error);
            }
        }
    };
    let accelerator = if kvm { "KVM" } else { "TCG" };
    hub.boot.send_replace(Boot::Ready {
        hello: machine.hello.clone(),
        accelerator: accelerator.to_owned(),
        boot_millis: u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX),
        kept: 0,
        clients: 0,
        supervisor: std::process::id(),
    });
    println!("ready after {:.1} s ({accelerator})", start.elapsed().as_secs_f64());
    *hub.idle_since.borrow_mut() = Instant::now();
    let idle = Duration::from_secs(args.idle_seconds);
    let result = serve(&mut machine, hub, from_clients, idle).await;
    if result.is_err() {
        hub.boot.send_replace(Boot::Failed { reason: String::new(), console: console.tail() });
    }
    result
}

/// A booted machine.
struct Booted {
    process: Child,
    stream: UnixStream,
    decoder: Decoder,
    hello: Hello,
}

async fn boot(
    args: &SuperviseArgs,
    dir: &StateDir,
    machine_socket: &UnixListener,
    hub: &Hub,
    console: &Console,
    kvm: bool,
    start: Instant,
) -> Result<Booted> {
    let machine = Machine {
        vng: args.vng.clone(),
        qemu: args.qemu.clone(),
        kernel: args.kernel.clone(),
        cpus: args.cpus,
        memory_mib: args.memory_mib,
        network: args.network,
        kvm,
        executor: args.executor.clone(),
    };
    let (reader, writer) = std::io::pipe().context("making a pipe for the console")?;
    let mut command = Command::new("/proc/self/exe");
    command
        .arg("vm-launch")
        .args(["--parent", &std::process::id().to_string(), "--"])
        .arg(&machine.vng)
        .args(machine.arguments(dir)?)
        .env("TMPDIR", dir.temporary())
        .env("PATH", path_with(&machine.vng))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .kill_on_drop(true);
    let mut process = command.spawn().context("starting virtme-ng")?;
    // The command holds the pipe's writing end; without it the console would never end.
    drop(command);
    console.follow(reader, &dir.console_log());
    let bound = if kvm { BOOT_KVM } else { BOOT_EMULATED };
    let what = format!("booting {} ({})", args.release, if kvm { "KVM" } else { "emulated" });
    let begun = Instant::now();
    let mut stream = None;
    let mut decoder = Decoder::default();
    let mut buffer = vec![0; MAX_PAYLOAD];
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            _ = tick.tick() => {
                hub.progress(start, &what);
                if begun.elapsed() > bound {
                    bail!("the virtual machine did not boot within {} s", bound.as_secs());
                }
                if console.silent() > BOOT_SILENCE {
                    bail!("the booting virtual machine has said nothing for {} s", BOOT_SILENCE.as_secs());
                }
            }
            accepted = machine_socket.accept(), if stream.is_none() => {
                stream = Some(accepted.context("waiting for QEMU")?.0);
            }
            status = process.wait() => {
                // The console's reader may be a moment behind.
                tokio::time::sleep(Duration::from_millis(200)).await;
                bail!("virtme-ng ended during the boot ({})", status?);
            }
            read = read_some(stream.as_mut(), &mut buffer), if stream.is_some() => {
                let length = read.context("reading from the virtual machine")?;
                if length == 0 {
                    bail!("QEMU closed its connection during the boot");
                }
                decoder.push(&buffer[..length]);
                if let Some(frame) = decoder.next()? {
                    let hello: Hello = frame.parse()?;
                    if frame.kind != Kind::Hello || hello.protocol != PROTOCOL {
                        bail!("the executor speaks protocol {}, not {PROTOCOL}", hello.protocol);
                    }
                    let stream = stream.context("the frame came over it")?;
                    return Ok(Booted { process, stream, decoder, hello });
                }
            }
        }
    }
}

/// virtme-ng calls its companions by name: its own directory comes first.
fn path_with(vng: &std::path::Path) -> std::ffi::OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = vng.parent().map(std::path::Path::to_owned);
    let system = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
    std::env::join_paths(own.into_iter().chain(std::env::split_paths(&path)).chain(system)).unwrap_or(path)
}

async fn read_some(stream: Option<&mut UnixStream>, buffer: &mut [u8]) -> std::io::Result<usize> {
    match stream {
        Some(stream) => stream.read(buffer).await,
        None => std::future::pending().await,
    }
}

/// Carries frames between clients and executor. `Ok` when nobody has needed the machine for `idle`.
async fn serve(
    machine: &mut Booted,
    hub: &Hub,
    mut from_clients: mpsc::Receiver<Frame>,
    idle: Duration,
) -> Result<()> {
    let (reader, mut writer) = machine.stream.split();
    let mut decoder = std::mem::take(&mut machine.decoder);
    let mut heard = Instant::now();
    let mut kept = 0;
    let process = &mut machine.process;
    let receive = async {
        let mut reader = reader;
        let mut buffer = vec![0; MAX_PAYLOAD];
        let mut ping = tokio::time::interval(PING);
        loop {
            while let Some(frame) = decoder.next().context("the executor sent something else than a frame")? {
                heard = Instant::now();
                if frame.kind == Kind::Pong {
                    kept = frame.parse::<Pong>()?.kept;
                    hub.boot.send_if_modified(|boot| match boot {
                        Boot::Ready { kept: known, .. } if *known != kept => {
                            *known = kept;
                            true
                        }
                        _ => false,
                    });
                } else {
                    route(hub, frame);
                }
            }
            tokio::select! {
                read = reader.read(&mut buffer) => {
                    let length = read.context("reading from the virtual machine")?;
                    if length == 0 {
                        bail!("the virtual machine has ended");
                    }
                    decoder.push(&buffer[..length]);
                }
                status = process.wait() => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    bail!("the virtual machine has ended ({})", status?);
                }
                _ = ping.tick() => {
                    if heard.elapsed() > SILENCE {
                        bail!("the virtual machine has said nothing for {} s", SILENCE.as_secs());
                    }
                    // A full queue is a machine that does not read; its silence is measured above.
                    let _ = hub.to_machine.try_send(Frame::new(0, Kind::Ping, Vec::new()));
                    let unused = hub.clients.borrow().is_empty() && kept == 0;
                    if !unused {
                        *hub.idle_since.borrow_mut() = Instant::now();
                    } else if hub.idle_since.borrow().elapsed() > idle {
                        println!("nobody has used it for {} s", idle.as_secs());
                        return Ok(());
                    }
                }
            }
        }
    };
    let send = async {
        while let Some(frame) = from_clients.recv().await {
            writer.write_all(&frame.encode()).await.context("writing to the virtual machine")?;
        }
        Ok(())
    };
    tokio::select! {
        result = receive => result,
        result = send => result,
    }
}

/// A frame from the executor to its client.
fn route(hub: &Hub, mut frame: Frame) {
    let id = std::mem::take(&mut frame.channel);
    let mut clients = hub.clients.borrow_mut();
    // The window bounds what may wait; a client for which more is waiting than that is cut off.
    if clients.get(&id).is_some_and(|client| client.try_send(frame).is_err()) {
        clients.remove(&id);
    }
}

async fn accept(listener: UnixListener, hub: Rc<Hub>) {
    let mut next: u32 = 1;
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: those who are there will leave.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let user = stream.peer_cred().map(|peer| peer.uid());
        let allowed = user.is_ok_and(|user| user == 0 || user == nix::unistd::geteuid().as_raw());
        if !allowed || hub.clients.borrow().len() >= MAX_CLIENTS {
            continue;
        }
        let id = next;
        next = next.checked_add(1).unwrap_or(1);
        let (sender, receiver) = mpsc::channel(QUEUE);
        hub.clients.borrow_mut().insert(id, sender);
        let hub = Rc::clone(&hub);
        tokio::task::spawn_local(async move {
            let (reader, writer) = stream.into_split();
            tokio::select! {
                () = from_client(id, reader, &hub) => {}
                () = to_client(writer, receiver, &hub) => {}
            }
            hub.clients.borrow_mut().remove(&id);
            *hub.idle_since.borrow_mut() = Instant::now();
            // The executor ends what this client had started.
            let _ = timeout(SILENCE, hub.to_machine.send(Frame::new(id, Kind::Close, Vec::new()))).await;
        });
    }
}

/// Frames of a client to the executor, until it goes or sends what is not a frame.
async fn from_client(id: u32, mut reader: impl AsyncRead + Unpin, hub: &Hub) {
    let mut decoder = Decoder::default();
    let mut buffer = vec![0; MAX_PAYLOAD];
    loop {
        loop {
            let mut frame = match decoder.next() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => {
                    println!("a client sent what is not a frame: {error}");
                    return;
                }
            };
            match frame.kind {
                // Decided here: whoever asks cannot know who else has come meanwhile.
                Kind::Stop if frame.payload.is_empty() || hub.clients.borrow().len() == 1 => {
                    hub.stop.notify_one();
                    return;
                }
                Kind::Request | Kind::Input | Kind::InputEnd | Kind::Credit | Kind::Signal | Kind::Resize => {
                }
                _ => return,
            }
            if !matches!(&*hub.boot.borrow(), Boot::Ready { .. }) {
                return;
            }
            frame.channel = id;
            if hub.to_machine.send(frame).await.is_err() {
                return;
            }
        }
        match reader.read(&mut buffer).await {
            Ok(length) if length > 0 => decoder.push(&buffer[..length]),
            _ => return,
        }
    }
}

/// How the boot goes, then the executor's frames, to a client.
async fn to_client(mut writer: impl AsyncWrite + Unpin, mut frames: mpsc::Receiver<Frame>, hub: &Hub) {
    let mut boot = hub.boot.subscribe();
    boot.mark_changed();
    let mut ready = false;
    loop {
        let frame = tokio::select! {
            biased;
            frame = frames.recv() => match frame {
                Some(frame) => frame,
                None => return,
            },
            changed = boot.changed() => {
                if changed.is_err() {
                    return;
                }
                let mut now = boot.borrow_and_update().clone();
                if let Boot::Ready { clients, .. } = &mut now {
                    *clients = u32::try_from(hub.clients.borrow().len()).unwrap_or(u32::MAX);
                }
                let was_ready = std::mem::replace(&mut ready, matches!(now, Boot::Ready { .. }));
                // Without a reason yet, the failure is about to be sent with one.
                if (was_ready && ready) || matches!(&now, Boot::Failed { reason, .. } if reason.is_empty()) {
                    continue;
                }
                match Frame::json(0, Kind::Boot, &now) {
                    Ok(frame) => frame,
                    Err(_) => return,
                }
            }
        };
        let last = frame.kind == Kind::Boot && !ready && matches!(&*hub.boot.borrow(), Boot::Failed { .. });
        if writer.write_all(&frame.encode()).await.is_err() || last {
            return;
        }
    }
}
