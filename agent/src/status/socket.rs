//! The control socket: one JSON request a connection and line, one JSON answer.

use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::{Gatherer, Status};

/// Name of the socket in the run directory.
pub const SOCKET: &str = "agent.sock";

/// Longest request, in bytes.
const MAX_REQUEST: u64 = 4096;

/// Largest answer that the client takes, in bytes: ten thousand services of many real servers.
const MAX_ANSWER: u64 = 256 * 1024 * 1024;

/// Requests served at a time; more wait to be accepted.
const MAX_CLIENTS: usize = 8;

/// How long a client may take for its request, and for taking the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a switch-over may take: Active_Down_Interval, after which the group itself gives up, is seldom longer.
const SWITCHOVER: Duration = Duration::from_secs(300);

/// The form of [`Request::TakeOver`]'s conversation; another release may have another one.
const TAKE_OVER: u32 = 1;

/// How long the running agent may take to end everything but VRRP.
const YIELDING: Duration = Duration::from_secs(60);

/// What can be asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum Request {
    /// To be told something.
    Get(What),
    /// To give a group to another member.
    Switchover(String),
    /// To make room for the process that asks.
    TakeOver(u32),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum What {
    Status,
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Answer {
    Status(Box<Status>),
    Switchover(String),
    Error(String),
}

/// The word with which the running agent answers [`Request::TakeOver`] once its lock and its sockets are free.
pub const YIELDED: &str = "yielded";

/// The agent's side.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Server {
    /// Listens in a run directory. A socket that another agent left there is replaced: whoever calls this holds the
    /// run directory's lock.
    pub fn bind(run_dir: &Path) -> io::Result<Self> {
        let path = run_dir.join(SOCKET);
        let beside = run_dir.join(format!("{SOCKET}.new"));
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&beside)?;
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&beside, &path)?;
        Ok(Self { listener, path })
    }

    /// Answers until dropped.
    ///
    /// Who wants to take over is handed to `successors`.
    pub async fn serve(self, gatherer: Arc<Gatherer>, successors: mpsc::Sender<BlockingStream>) {
        let places = Arc::new(Semaphore::new(MAX_CLIENTS));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let (gatherer, successors) = (gatherer.clone(), successors.clone());
                    tokio::spawn(async move {
                        // A client that goes away or is too slow is its own affair.
                        let answered =
                            timeout(SWITCHOVER + 3 * PATIENCE, answer(stream, &gatherer, &successors)).await;
                        // One that was broken off may have been large.
                        let bytes = answered.ok().and_then(Result::ok).unwrap_or(usize::MAX);
                        crate::memory::give_back_after(bytes);
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(path = %self.path.display(), "the control socket cannot accept: {error}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Answers one client; returns the size of the answer in bytes.
async fn answer(
    mut stream: UnixStream,
    gatherer: &Gatherer,
    successors: &mpsc::Sender<BlockingStream>,
) -> io::Result<usize> {
    // The mode of the socket says so already; between its making and its mode there is a moment.
    let user = stream.peer_cred()?.uid();
    let answer = if user != 0 && user != nix::unistd::geteuid().as_raw() {
        Answer::Error("only the superuser and the agent's own user may ask".into())
    } else {
        match timeout(PATIENCE, request(&mut stream)).await {
            Err(_) => Answer::Error("no request came".into()),
            Ok(Err(message)) => Answer::Error(message),
            Ok(Ok(Request::Get(What::Status))) => match gatherer.status().await {
                Ok(status) => Answer::Status(Box::new(status)),
                Err(message) => Answer::Error(message),
            },
            Ok(Ok(Request::Switchover(group))) => {
                match timeout(SWITCHOVER, gatherer.groups.switchover(&group)).await {
                    Ok(Ok(reason)) => Answer::Switchover(reason),
                    Ok(Err(message)) => Answer::Error(message),
                    Err(_) => Answer::Error(format!("it takes longer than {} s", SWITCHOVER.as_secs())),
                }
            }
            Ok(Ok(Request::TakeOver(TAKE_OVER))) => {
                let stream = stream.into_std()?;
                return successors.try_send(stream).map(|()| 0).map_err(io::Error::other);
            }
            Ok(Ok(Request::TakeOver(_))) => Answer::Error(
                "the running agent hands over in another form: stop it and start the new one instead".into(),
            ),
        }
    };
    let mut bytes = serde_json::to_vec(&answer)?;
    bytes.push(b'\n');
    timeout(PATIENCE, stream.write_all(&bytes)).await??;
    stream.shutdown().await?;
    Ok(bytes.len())
}

async fn request(stream: &mut UnixStream) -> Result<Request, String> {
    let mut line = Vec::new();
    let mut reader = BufReader::new(stream.take(MAX_REQUEST));
    reader.read_until(b'\n', &mut line).await.map_err(|error| error.to_string())?;
    if line.last() != Some(&b'\n') {
        return Err(format!("a request is one line of JSON of at most {MAX_REQUEST} bytes"));
    }
    serde_json::from_slice(&line)
        .map_err(|error| format!("not a request: {error}; such as {{\"get\":\"status\"}}"))
}

/// Why the running agent could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no agent runs with the run directory {}: {} {why}; start one, or name its --run-dir", run_dir.display(), run_dir.join(SOCKET).display())]
    NoAgent {
        /// The directory.
        run_dir: PathBuf,
        /// What was found.
        why: &'static str,
    },
    /// It is somebody else's.
    #[error("{}: permission denied: only the superuser and the agent's own user may ask", run_dir.join(SOCKET).display())]
    Denied {
        /// The directory.
        run_dir: PathBuf,
    },
    /// It did not answer as expected.
    #[error("the agent does not answer: {0}")]
    Io(#[from] io::Error),
    /// It answered with an error.
    #[error("the agent says: {0}")]
    Refused(String),
    /// It answered something else.
    #[error("the agent's answer is not understood (another version?): {0}")]
    Answer(#[from] serde_json::Error),
}

/// Asks the agent that runs with a run directory. Waits for at most half a minute.
pub fn ask(run_dir: &Path) -> Result<Status, ClientError> {
    match converse(run_dir, &Request::Get(What::Status), 3 * PATIENCE)? {
        Answer::Status(status) => Ok(*status),
        Answer::Error(message) => Err(ClientError::Refused(message)),
        Answer::Switchover(_) => Err(ClientError::Refused("something else than was asked".into())),
    }
}

/// Has the agent that runs with a run directory give a group to another member. Answers with the reason of its new state.
pub fn switchover(run_dir: &Path, group: &str) -> Result<String, ClientError> {
    match converse(run_dir, &Request::Switchover(group.to_owned()), SWITCHOVER + PATIENCE)? {
        Answer::Switchover(reason) => Ok(reason),
        Answer::Error(message) => Err(ClientError::Refused(message)),
        Answer::Status(_) => Err(ClientError::Refused("something else than was asked".into())),
    }
}

/// Asks the agent that runs with a run directory to make room. Returns the connection over which it gives its sockets and states
/// away, once its lock is free.
pub fn take_over(run_dir: &Path) -> Result<BlockingStream, ClientError> {
    let stream = connect(run_dir, YIELDING)?;
    send(&stream, &Request::TakeOver(TAKE_OVER))?;
    // Byte by byte: what follows the line is somebody else's to read.
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < 4096 && (&stream).read(&mut byte)? == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    if line == YIELDED.as_bytes() {
        return Ok(stream);
    }
    match serde_json::from_slice(&line) {
        Ok(Answer::Error(message)) => Err(ClientError::Refused(message)),
        Ok(_) => Err(ClientError::Refused("something else than was asked".into())),
        Err(error) => Err(ClientError::Answer(error)),
    }
}

fn connect(run_dir: &Path, patience: Duration) -> Result<BlockingStream, ClientError> {
    let no_agent = |why| ClientError::NoAgent { run_dir: run_dir.to_owned(), why };
    let stream = BlockingStream::connect(run_dir.join(SOCKET)).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => no_agent("is not there"),
        io::ErrorKind::ConnectionRefused => no_agent("is there, but nobody listens (a crash left it)"),
        io::ErrorKind::PermissionDenied => ClientError::Denied { run_dir: run_dir.to_owned() },
        _ => ClientError::Io(error),
    })?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn send(mut stream: &BlockingStream, request: &Request) -> Result<(), ClientError> {
    let mut bytes = serde_json::to_vec(request)?;
    bytes.push(b'\n');
    stream.write_all(&bytes)?;
    Ok(())
}

fn converse(run_dir: &Path, request: &Request, patience: Duration) -> Result<Answer, ClientError> {
    let stream = connect(run_dir, patience)?;
    send(&stream, request)?;
    let mut bytes = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}
