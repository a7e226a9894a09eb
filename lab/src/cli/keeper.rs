//! The keeper: the process that holds a topology that is `up` until `down`, and plays faults in it when it is asked.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use crate::inspect::Inspection;
use crate::run::{Cancel, Checked, Recording, RunOptions, Up, up};
use crate::scenario::{Fault, load_file};
use crate::vm::dir::ProcessId;

/// Where the keeper's socket, log and scenario are, and the logs of what runs in the nodes.
const FOLDER: &str = "/run/bascule-up";
/// The longest request or answer, in bytes: how thousands of real servers are is long.
const MAX_LINE: u64 = 64 << 20;
/// How long an answer may take; a reboot under emulation takes some seconds.
const PATIENCE: Duration = Duration::from_secs(300);

/// What the keeper is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) enum Request {
    /// What is up?
    Status,
    /// Play a fault.
    Inject(Fault),
    /// End a fault.
    Heal(Fault),
    /// Is it as the scenario expects?
    Check {
        /// Whether the scenario's faults are played, too.
        faults: bool,
    },
    /// How is everything now?
    Inspect,
    /// Begin to record links, each `NODE` or `NODE:INTERFACE`; none: all.
    Record(Vec<String>),
    /// End the recording and write it down.
    Recorded,
    /// Take everything down.
    Down,
}

/// What it answers, a line of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub(super) enum Answer {
    /// What is being done, while it starts; more answers follow.
    Progress(String),
    /// This is up.
    Up {
        /// Name of the scenario.
        scenario: String,
        /// Identifier of the run, for commands in nodes.
        run: String,
        /// Names of the nodes.
        nodes: Vec<String>,
        /// The keeper.
        keeper: ProcessId,
    },
    /// So it was judged.
    Checked {
        /// The table.
        text: String,
        /// The exit code.
        code: u8,
    },
    /// This is how everything is.
    Seen(Box<Inspection>),
    /// These links are recorded.
    Recording(Vec<String>),
    /// What was asked makes no sense.
    Wrong(String),
    /// Done, with what shows it.
    Done(String),
    /// It could not be done.
    Failed(String),
}

#[derive(Debug, clap::Args)]
pub(super) struct KeepArgs {
    /// The scenario's file.
    #[arg(long)]
    scenario: PathBuf,
    /// Whether no agent and no peer is started.
    #[arg(long)]
    topology_only: bool,
}

fn socket() -> PathBuf {
    Path::new(FOLDER).join("keeper.sock")
}

/// The folder, ours and nobody else's to read.
pub(super) fn folder() -> Result<&'static Path> {
    let path = Path::new(FOLDER);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("making {FOLDER}"))?;
    let owner = fs::symlink_metadata(path)?.uid();
    if owner != nix::unistd::geteuid().as_raw() {
        bail!("{FOLDER} belongs to user {owner}");
    }
    Ok(path)
}

/// The path of the keeper's socket, by which a virtual machine is asked whether something is up in it.
pub(super) const SOCKET: &str = "/run/bascule-up/keeper.sock";

/// Holds a topology until it is told to take it down, or until SIGTERM. The first answers on standard output are how the start
/// goes; the last of them is `Up` or `Failed`.
pub(super) fn keep(args: &KeepArgs) -> Result<ExitCode> {
    let folder = folder()?;
    let cancel = Cancel::default();
    cancel.on_signals().context("listening to signals")?;
    match start(args, folder, &cancel) {
        Err(error) => {
            say(&Answer::Failed(format!("{error:#}")));
            Ok(ExitCode::FAILURE)
        }
        Ok((standing, listener, up)) => {
            say(&up);
            let result = serve(&standing, &listener, &up, &cancel);
            let _ = fs::remove_file(socket());
            // Told only when it is true: whoever asked waits for the connection's end.
            let down = standing.tear_down();
            if let (Ok(Some(mut stream)), Ok(())) = (result, &down) {
                let _ = answer(&mut stream, &Answer::Done("everything is down".to_owned()));
            }
            down?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn start(args: &KeepArgs, folder: &Path, cancel: &Cancel) -> Result<(Up, UnixListener, Answer)> {
    let scenario = load_file(&args.scenario).map_err(|problems| {
        anyhow!(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    })?;
    let mut options = RunOptions::new(folder.to_owned())?;
    options.cancel = cancel.clone();
    options.topology_only = args.topology_only;
    options.progress = std::sync::Arc::new(|line| say(&Answer::Progress(line.to_owned())));
    let standing = up(&scenario, &options).map_err(|error| anyhow!("{error}"))?;
    let nodes = standing.world.nodes().iter().map(|node| node.name().to_owned()).collect();
    let run = standing.world.id().to_owned();
    let _ = fs::remove_file(socket());
    let listener = UnixListener::bind(socket()).context("binding the keeper's socket")?;
    listener.set_nonblocking(true)?;
    let up = Answer::Up { scenario: scenario.name, run, nodes, keeper: ProcessId::own()? };
    Ok((standing, listener, up))
}

fn say(answer: &Answer) {
    if let Ok(line) = serde_json::to_string(answer) {
        let mut out = std::io::stdout().lock();
        // Whoever started it may have gone.
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }
}

/// Serves one request at a time. Returns the connection that asked to take everything down, if one did.
fn serve(standing: &Up, listener: &UnixListener, up: &Answer, cancel: &Cancel) -> Result<Option<UnixStream>> {
    let mut recording = None;
    while !cancel.is_cancelled() {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
            Err(error) => return Err(error).context("waiting for requests"),
        };
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.set_write_timeout(Some(Duration::from_secs(5)))?;
        let result = match read_line::<Request>(&stream) {
            Err(error) => Answer::Failed(format!("{error:#}")),
            Ok(Request::Status) => up.clone(),
            Ok(Request::Down) => return Ok(Some(stream)),
            Ok(Request::Inject(fault)) => played(standing.inject(&fault)),
            Ok(Request::Heal(fault)) => played(standing.heal(&fault)),
            Ok(Request::Check { faults }) => check(standing, faults, &stream, &mut recording, cancel),
            Ok(Request::Inspect) => Answer::Seen(Box::new(standing.inspect())),
            Ok(Request::Record(links)) => record(standing, &links, &mut recording),
            Ok(Request::Recorded) => recorded(standing, &mut recording),
        };
        let _ = answer(&mut stream, &result);
    }
    Ok(None)
}

fn played(result: Result<crate::fault::Played, crate::run::Error>) -> Answer {
    match result {
        Ok(played) => Answer::Done(played.proof),
        Err(error) => Answer::Failed(error.to_string()),
    }
}

/// Judges it, and tells how it goes. It ends early when nobody listens any more, or the keeper has to.
fn check(
    standing: &Up,
    faults: bool,
    stream: &UnixStream,
    recording: &mut Option<Recording>,
    keeper: &Cancel,
) -> Answer {
    // The links are recorded for the check; whoever recorded them is told so at his end.
    if let Some(mut before) = recording.take() {
        before.stop();
    }
    let options = stream.try_clone().and_then(|listener| {
        let mut options = RunOptions::new(PathBuf::from(FOLDER))?;
        let (cancel, keeper) = (options.cancel.clone(), keeper.clone());
        let listener = std::sync::Mutex::new(listener);
        options.progress = std::sync::Arc::new(move |line| {
            let mut listener = listener.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let told = answer(&mut listener, &Answer::Progress(line.to_owned()));
            if told.is_err() || keeper.is_cancelled() {
                cancel.cancel();
            }
        });
        Ok(options)
    });
    match options
        .map_err(|error| error.to_string())
        .and_then(|options| standing.check(faults, &options).map_err(|error| error.to_string()))
    {
        Ok(Checked { text, code }) => Answer::Checked { text, code },
        Err(reason) => Answer::Failed(reason),
    }
}

/// Begins to record. One whose caller has gone without a word is forgotten.
fn record(standing: &Up, links: &[String], recording: &mut Option<Recording>) -> Answer {
    if let Some(mut before) = recording.take() {
        before.stop();
    }
    let links = match standing.links(links) {
        Ok(links) => links,
        Err(wrong) => return Answer::Wrong(wrong),
    };
    match standing.record(&links) {
        Ok(begun) => {
            *recording = Some(begun);
            Answer::Recording(links.iter().map(|(node, interface)| format!("{node}:{interface}")).collect())
        }
        Err(error) => Answer::Failed(error.to_string()),
    }
}

fn recorded(standing: &Up, recording: &mut Option<Recording>) -> Answer {
    let Some(mut recording) = recording.take() else {
        return Answer::Failed("nothing is recorded: another call has ended it".to_owned());
    };
    recording.stop();
    let file = Path::new(FOLDER).join("capture.pcapng");
    match recording.write(standing, &file) {
        Ok(()) => Answer::Done(file.display().to_string()),
        Err(error) => Answer::Failed(error.to_string()),
    }
}

fn answer(stream: &mut UnixStream, answer: &Answer) -> Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    stream.write_all(&line).context("answering")
}

fn read_line<T: serde::de::DeserializeOwned>(stream: &UnixStream) -> Result<T> {
    read_from(&mut BufReader::new(stream))
}

fn read_from<T: serde::de::DeserializeOwned>(reader: &mut BufReader<&UnixStream>) -> Result<T> {
    let mut line = String::new();
    reader.take(MAX_LINE).read_line(&mut line).context("reading from the keeper's socket")?;
    serde_json::from_str(&line).context("reading a line of the keeper's socket")
}

/// Asks the keeper of this kernel. `None` when there is none.
pub(super) fn ask(request: &Request) -> Result<Option<Answer>> {
    ask_telling(request, |_| {})
}

/// The same, told meanwhile how it goes.
pub(super) fn ask_telling(request: &Request, mut tell: impl FnMut(&str)) -> Result<Option<Answer>> {
    let Ok(mut stream) = UnixStream::connect(socket()) else { return Ok(None) };
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line).context("asking the keeper")?;
    // One reader for all lines: it reads ahead.
    let mut reader = BufReader::new(&stream);
    loop {
        match read_from(&mut reader)? {
            Answer::Progress(line) => tell(&line),
            last => return Ok(Some(last)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_answers_are_lines_of_json() {
        let (mut one, other) = UnixStream::pair().expect("a pair");
        answer(&mut one, &Answer::Done("as shown\nby two lines".into())).expect("written");
        assert_eq!(read_line::<Answer>(&other).expect("read"), Answer::Done("as shown\nby two lines".into()));
        one.write_all(b"\xff\x00 junk\n").expect("written");
        drop(one);
        assert!(read_line::<Request>(&other).is_err());
    }
}
