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
use tokio::sync::Semaphore;
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

/// What can be asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Request {
    get: What,
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
    Error(String),
}

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
    pub async fn serve(self, gatherer: Arc<Gatherer>) {
        let places = Arc::new(Semaphore::new(MAX_CLIENTS));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let gatherer = gatherer.clone();
                    tokio::spawn(async move {
                        // A client that goes away or is too slow is its own affair.
                        let answered = timeout(3 * PATIENCE, answer(stream, &gatherer)).await;
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
async fn answer(mut stream: UnixStream, gatherer: &Gatherer) -> io::Result<usize> {
    // The mode of the socket says so already; between its making and its mode there is a moment.
    let user = stream.peer_cred()?.uid();
    let answer = if user != 0 && user != nix::unistd::geteuid().as_raw() {
        Answer::Error("only the superuser and the agent's own user may ask".into())
    } else {
        match timeout(PATIENCE, request(&mut stream)).await {
            Err(_) => Answer::Error("no request came".into()),
            Ok(Err(message)) => Answer::Error(message),
            Ok(Ok(Request { get: What::Status })) => match gatherer.status().await {
                Ok(status) => Answer::Status(Box::new(status)),
                Err(message) => Answer::Error(message),
            },
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
    let no_agent = |why| ClientError::NoAgent { run_dir: run_dir.to_owned(), why };
    let mut stream = BlockingStream::connect(run_dir.join(SOCKET)).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => no_agent("is not there"),
        io::ErrorKind::ConnectionRefused => no_agent("is there, but nobody listens (a crash left it)"),
        io::ErrorKind::PermissionDenied => ClientError::Denied { run_dir: run_dir.to_owned() },
        _ => ClientError::Io(error),
    })?;
    stream.set_read_timeout(Some(3 * PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut request = serde_json::to_vec(&Request { get: What::Status })?;
    request.push(b'\n');
    stream.write_all(&request)?;
    let mut bytes = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut bytes)?;
    match serde_json::from_slice(&bytes)? {
        Answer::Status(status) => Ok(*status),
        Answer::Error(message) => Err(ClientError::Refused(message)),
    }
}
