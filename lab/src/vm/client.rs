//! The host's side of a call: finds the supervisor or starts it, and talks to the executor through it.

use std::fs;
use std::io::{IsTerminal as _, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Component, Path};
use std::process::{Command as Process, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::dir::StateDir;
use super::executor::PROGRAMS;
use super::frame::{Decoder, Frame, Kind, MAX_PAYLOAD, WINDOW};
use super::message::{Boot, Command, Done, Entry, PROTOCOL, Request};
use super::{Settings, find, programs, terminal};

/// How long a supervisor may take to open its socket, and an ending one to end.
const PATIENCE: Duration = Duration::from_secs(15);
/// What a shell says of a command that it cannot start.
const NOT_STARTED: u8 = 127;
/// Bytes of one fetch.
const MAX_FETCH: u64 = 4 << 30;

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

    async fn send(&mut self, frame: &Frame) -> Result<()> {
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
    async fn expect(&mut self) -> Result<Frame> {
        match self.receive().await? {
            Some(frame) if frame.kind == Kind::Boot => match frame.parse()? {
                Boot::Failed { reason, console } => Err(failure(&self.dir, &reason, &console)),
                _ => Box::pin(self.expect()).await,
            },
            Some(frame) => Ok(frame),
            None => Err(anyhow!("the virtual machine was ended")),
        }
    }

    async fn simple(&mut self, request: &Request) -> Result<Done> {
        self.send(&Frame::json(0, Kind::Request, request)?).await?;
        loop {
            let frame = self.expect().await?;
            if frame.kind == Kind::Done {
                return Ok(frame.parse()?);
            }
        }
    }

    async fn must(&mut self, request: &Request) -> Result<()> {
        match self.simple(request).await? {
            Done::Failed(reason) => bail!("in the virtual machine: {reason}"),
            _ => Ok(()),
        }
    }

    /// Whether the machine has this file.
    pub async fn has(&mut self, path: &str) -> Result<bool> {
        Ok(self.simple(&Request::Has { path: path.to_owned() }).await? == Done::Present(true))
    }

    /// Removes a file or directory of the machine.
    pub async fn remove(&mut self, path: &str) -> Result<()> {
        self.must(&Request::Remove { path: path.to_owned() }).await
    }

    /// Makes these paths of the host visible in the machine, where they would be hidden.
    pub async fn expose(&mut self, paths: Vec<String>) -> Result<()> {
        if paths.is_empty() {
            return Ok(());
        }
        self.must(&Request::Expose { paths }).await
    }

    /// Copies a file of the host into the machine.
    pub async fn put(&mut self, from: &Path, to: &str) -> Result<()> {
        let mut file = fs::File::open(from).with_context(|| format!("opening {}", from.display()))?;
        let mode = file.metadata()?.permissions().mode() & 0o777;
        self.send(&Frame::json(0, Kind::Request, &Request::Put { path: to.to_owned(), mode })?).await?;
        let mut room = WINDOW as usize;
        let mut buffer = vec![0; MAX_PAYLOAD];
        loop {
            let length = file.read(&mut buffer).with_context(|| format!("reading {}", from.display()))?;
            if length == 0 {
                break;
            }
            let frame = Frame::new(0, Kind::Input, buffer[..length].to_vec());
            while room < frame.cost() {
                let answer = self.expect().await?;
                match answer.kind {
                    Kind::Credit => room += answer.credited()? as usize,
                    Kind::Done => bail!("in the virtual machine: {:?}", answer.parse::<Done>()?),
                    _ => {}
                }
            }
            room -= frame.cost();
            self.send(&frame).await?;
        }
        self.send(&Frame::new(0, Kind::InputEnd, Vec::new())).await?;
        loop {
            let frame = self.expect().await?;
            if frame.kind == Kind::Done {
                return match frame.parse()? {
                    Done::Failed(reason) => bail!("in the virtual machine: {reason}"),
                    _ => Ok(()),
                };
            }
        }
    }

    /// Copies a file or directory of the machine to the host; it belongs to the caller. Existing files are replaced.
    pub async fn get(&mut self, from: &str, to: &Path) -> Result<()> {
        self.send(&Frame::json(0, Kind::Request, &Request::Get { path: from.to_owned() })?).await?;
        let mut file: Option<fs::File> = None;
        let mut total: u64 = 0;
        loop {
            let frame = self.expect().await?;
            match frame.kind {
                Kind::Entry => {
                    self.send(&Frame::credit_for(&frame)).await?;
                    file = receive_entry(&frame.parse()?, to)?;
                }
                Kind::Output => {
                    self.send(&Frame::credit_for(&frame)).await?;
                    total += frame.payload.len() as u64;
                    if total > MAX_FETCH {
                        bail!("{from}: more than {} GiB", MAX_FETCH >> 30);
                    }
                    if let Some(file) = &mut file {
                        file.write_all(&frame.payload)
                            .with_context(|| format!("writing below {}", to.display()))?;
                    }
                }
                Kind::Done => {
                    return match frame.parse()? {
                        Done::Failed(reason) => bail!("in the virtual machine: {reason}"),
                        _ => Ok(()),
                    };
                }
                _ => {}
            }
        }
    }

    /// Brings this program and the agent beside it into the machine, if they are not there in this version. Returns the directory
    /// they are in.
    pub async fn install_programs(&mut self) -> Result<String> {
        let programs = programs::own(&self.dir)?;
        let key = programs::set_key(&programs);
        let directory = format!("{PROGRAMS}/{key}");
        for program in &programs {
            let target = format!("{directory}/{}", program.name);
            if !self.has(&target).await? {
                self.put(&program.stripped, &target).await?;
            }
        }
        self.forget_old_sets(&key).await?;
        Ok(directory)
    }

    /// Brings any program into the machine. Returns its path there.
    pub async fn install_program(&mut self, path: &Path) -> Result<String> {
        let program = programs::prepare(&self.dir, path)?;
        let key = programs::set_key(std::slice::from_ref(&program));
        let target = format!("{PROGRAMS}/{key}/{}", program.name);
        if !self.has(&target).await? {
            self.put(&program.stripped, &target).await?;
        }
        self.forget_old_sets(&key).await?;
        Ok(target)
    }

    /// The machine's memory is not a store: of the sets of programs, the last few are kept.
    async fn forget_old_sets(&mut self, newest: &str) -> Result<()> {
        const KEPT: usize = 8;
        let file = self.dir.path().join("sets");
        let mut sets: Vec<String> = fs::read_to_string(&file)
            .unwrap_or_default()
            .lines()
            .filter(|line| *line != newest && line.chars().all(|c| c.is_ascii_hexdigit()) && !line.is_empty())
            .map(str::to_owned)
            .collect();
        sets.push(newest.to_owned());
        let excess = sets.len().saturating_sub(KEPT);
        for old in sets.drain(..excess) {
            self.remove(&format!("{PROGRAMS}/{old}")).await?;
        }
        fs::write(&file, sets.join("\n") + "\n").with_context(|| format!("writing {}", file.display()))
    }

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

enum Attached {
    Ready(Vm),
    Outdated(Vm),
    Gone,
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

/// Makes room for an entry; a regular file is returned for its contents.
fn receive_entry(entry: &Entry, to: &Path) -> Result<Option<fs::File>> {
    let below = Path::new(&entry.path);
    if !below.components().all(|part| matches!(part, Component::Normal(_))) {
        bail!("the virtual machine names a file {:?}", entry.path);
    }
    let path = if entry.path.is_empty() { to.to_owned() } else { to.join(below) };
    if entry.directory {
        return match fs::create_dir_all(&path) {
            Ok(()) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("making {}", path.display())),
        };
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
    }
    // Not through a link that stands there.
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("replacing {}", path.display()));
        }
        _ => {}
    }
    let file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(entry.mode & 0o777)
        .open(&path)
        .with_context(|| format!("creating {}", path.display()))?;
    Ok(Some(file))
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

fn log_tail(dir: &StateDir) -> String {
    let text = fs::read_to_string(dir.supervisor_log()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(5);
    if lines.is_empty() { "(empty)".to_owned() } else { lines[from..].join(" | ") }
}

/// Starts a supervisor and connects to it. If another call has done so meanwhile, connects to that one.
async fn start_supervisor(dir: &StateDir, settings: &Settings) -> Result<UnixStream> {
    let kernel = find::kernel().map_err(|missing| anyhow!("{missing}; see `bascule-lab doctor`"))?;
    let vng = find::vng().map_err(|missing| anyhow!("{missing}; see `bascule-lab doctor`"))?;
    let qemu = find::qemu().map_err(|missing| anyhow!("{missing}; see `bascule-lab doctor`"))?;
    let executor = programs::own(dir)?.swap_remove(0).stripped;
    let _lock = dir.lock(PATIENCE)?;
    if let Ok(stream) = UnixStream::connect(dir.control_socket()).await {
        return Ok(stream);
    }
    if let Some(state) = dir.state() {
        // It no longer listens: it is ending, or cannot.
        let start = Instant::now();
        while state.process.is_alive() {
            if start.elapsed() > PATIENCE && !state.process.kill(PATIENCE) {
                bail!("an old supervisor (process {}) does not end", state.process.pid);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    dir.clean();
    let log = fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(dir.supervisor_log())
        .context("opening the supervisor's log")?;
    let mut command = Process::new("/proc/self/exe");
    command
        .arg("vm-supervise")
        .arg("--dir")
        .arg(dir.path())
        .arg("--vng")
        .arg(&vng)
        .arg("--qemu")
        .arg(&qemu)
        .arg("--kernel")
        .arg(&kernel.image)
        .args(["--release", &kernel.release])
        .arg("--executor")
        .arg(&executor)
        .args(["--cpus", &settings.cpus().to_string()])
        .args(["--memory-mib", &settings.memory_mib().to_string()])
        .args(["--accelerator", settings.accelerator.as_str()])
        .args(["--idle-seconds", &settings.idle.as_secs().to_string()])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    // SAFETY: setsid is a system call; it may be made between fork and exec.
    unsafe {
        command.pre_exec(|| {
            if libc::setsid() < 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let mut child = command.spawn().context("starting the virtual machine's supervisor")?;
    let start = Instant::now();
    loop {
        if let Ok(stream) = UnixStream::connect(dir.control_socket()).await {
            return Ok(stream);
        }
        if let Some(status) = child.try_wait()? {
            bail!("the virtual machine's supervisor ended at once ({status}): {}", log_tail(dir));
        }
        if start.elapsed() > PATIENCE {
            let _ = child.kill();
            bail!("the virtual machine's supervisor did not start within {} s", PATIENCE.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
