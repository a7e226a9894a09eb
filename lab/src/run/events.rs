//! Listens to the agents' streams of events, each a socket in a node, and again after an agent has ended.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use serde_json::{Map, Value};

use super::error::{Error, Result};
use super::timeline::Timeline;
use crate::expect::events::{Heard, Told};
use crate::scenario::step::{Action, Step};
use crate::scenario::topology::Topology;
use crate::scenario::{Expectation, Kind};
use crate::world::{Node, World, now};

/// Where an agent's stream is unless its arguments say otherwise, and what it is called there.
const RUN_DIR: &str = "/run/bascule";
const SOCKET: &str = "events.sock";
/// Pause before the next attempt where none is there, and how long is waited for a line before somebody asks for the end.
const PAUSE: Duration = Duration::from_millis(20);
/// The longest line, in bytes.
const MAX_LINE: usize = 64 << 10;

/// What was heard, by node.
pub(super) type Streams = Mutex<BTreeMap<String, Heard>>;

/// The nodes whose events are expected somewhere.
fn wanted(steps: &[Step]) -> BTreeSet<String> {
    let expectations = steps.iter().flat_map(|step| -> &[Expectation] {
        match &step.action {
            Action::Expect(expectations) => expectations,
            Action::Wait(wait) => &wait.until,
            _ => &[],
        }
    });
    expectations
        .filter_map(|expectation| match &expectation.kind {
            Kind::Event(expected) => Some(expected.node.to_string()),
            _ => None,
        })
        .collect()
}

/// The threads that listen, one a node; they end when this is dropped.
pub(super) struct Watch {
    alive: Option<Arc<()>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Watch {
    /// Begins to listen to those of whom the steps expect something.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub(super) fn start(
        steps: &[Step],
        topology: &Topology,
        world: &World,
        streams: &Arc<Streams>,
        timeline: &Weak<OnceLock<Timeline>>,
    ) -> Result<Self> {
        let alive = Arc::new(());
        let mut threads = Vec::new();
        for name in wanted(steps) {
            let arguments = topology.node(&name).and_then(|node| node.agent.as_ref());
            let listener = Listener {
                node: world.node(&name)?,
                path: run_dir(arguments.map_or(&[], |agent| &agent.arguments)).join(SOCKET),
                streams: Arc::clone(streams),
                timeline: timeline.clone(),
            };
            let lives = Arc::downgrade(&alive);
            let listen = move || {
                while lives.strong_count() > 0 {
                    listener.listen(&|| lives.strong_count() > 0);
                    std::thread::sleep(PAUSE);
                }
            };
            let thread = std::thread::Builder::new().name(format!("events {name}")).spawn(listen);
            threads.push(thread.map_err(|error| Error::harness(format!("starting a thread: {error}")))?);
        }
        Ok(Self { alive: Some(alive), threads })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.alive.take();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// The run directory that an agent is told, if it is.
fn run_dir(arguments: &[String]) -> PathBuf {
    let told =
        arguments.iter().enumerate().find_map(|(index, argument)| match argument.strip_prefix("--run-dir") {
            Some("") => arguments.get(index + 1).map(String::as_str),
            Some(rest) => rest.strip_prefix('='),
            None => None,
        });
    PathBuf::from(told.unwrap_or(RUN_DIR))
}

struct Listener {
    node: Node,
    path: PathBuf,
    streams: Arc<Streams>,
    timeline: Weak<OnceLock<Timeline>>,
}

impl Listener {
    /// Listens until the stream ends. Where there is none it returns at once.
    fn listen(&self, wanted: &dyn Fn() -> bool) {
        let Some(stream) = self.connect() else { return };
        self.heard(Heard::connect);
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while wanted() {
            let room = (MAX_LINE - line.len()) as u64;
            match reader.by_ref().take(room).read_until(b'\n', &mut line) {
                Ok(0) => return,
                Ok(_) if line.ends_with(b"\n") => {
                    self.take(&line);
                    line.clear();
                }
                // What comes after a line that is none cannot be read.
                Ok(_) if line.len() >= MAX_LINE => return self.heard(|heard| heard.lose(1)),
                Ok(_) => {}
                // What there is of a line stays.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) => {}
                Err(_) => return,
            }
        }
    }

    /// Connects, if the agent is there.
    fn connect(&self) -> Option<UnixStream> {
        if !self.node.is_up() || self.node.is_frozen() {
            return None;
        }
        let path: PathBuf = self.node.host_path(Path::new(&self.path)).ok()?;
        let stream = UnixStream::connect(path).ok()?;
        stream.set_read_timeout(Some(PAUSE)).ok()?;
        Some(stream)
    }

    fn heard(&self, change: impl FnOnce(&mut Heard)) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        change(streams.entry(self.node.name().to_owned()).or_default());
    }

    fn take(&self, line: &[u8]) {
        let at = now();
        let (Ok(told), Ok(fields)) =
            (serde_json::from_slice::<Told>(line), serde_json::from_slice::<Map<String, Value>>(line))
        else {
            return self.heard(|heard| heard.lose(1));
        };
        let mut news = false;
        self.heard(|heard| news = heard.put(at, told));
        let timeline = self.timeline.upgrade();
        if let Some(timeline) = timeline.as_ref().and_then(|timeline| timeline.get()).filter(|_| news) {
            let mut event = Map::new();
            event.insert("node".into(), self.node.name().into());
            event.extend(fields);
            timeline.put(at, "event", Value::Object(event));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_run_directory_is_the_one_that_the_agent_is_told() {
        let of = |arguments: &[&str]| {
            run_dir(&arguments.iter().map(|&argument| argument.to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(of(&["--allow-exec", "/etc"]), Path::new(RUN_DIR));
        assert_eq!(of(&["--run-dir", "/run/other", "--x"]), Path::new("/run/other"));
        assert_eq!(of(&["--run-dir=/run/other"]), Path::new("/run/other"));
    }
}
