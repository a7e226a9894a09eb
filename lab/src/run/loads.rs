//! Loads and held connections: `bascule-lab load` in a node, and its record.

use std::io::{BufRead as _, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Cancel;
use super::error::{Error, Result};
use super::programs::PATIENCE;
use crate::expect::requests;
use crate::programs::hold::Event;
use crate::programs::record::{Line, Request};
use crate::scenario::Target;
use crate::scenario::step::{Hold, Requests};
use crate::world::{Process, Spawn, World};

/// A load or held connections.
pub(super) struct Load {
    pub(super) name: String,
    pub(super) node: String,
    pub(super) target: String,
    process: Process,
    path: String,
    /// Of requests; none for held connections.
    pub(super) requests: Option<requests::Load>,
    expected: Option<Duration>,
    stopped: bool,
    /// How often the node had booted by then: the load ends with the boot that it began in.
    boots: u32,
    lines: Mutex<Lines>,
}

/// A name as part of a file's; the number tells apart those that would look alike.
fn flat(name: &str, number: usize) -> String {
    let name = name.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' });
    format!("load-{number}-{}", name.take(64).collect::<String>())
}

/// A length of time as the load program reads it.
fn milliseconds(length: Duration) -> String {
    format!("{}ms", length.as_millis())
}

fn begin(
    world: &World,
    name: &str,
    number: usize,
    node: &str,
    target: &str,
    schemes: &[&str],
    options: Vec<String>,
) -> Result<(Process, String)> {
    let target = Target::parse(target, schemes).map_err(Error::harness)?;
    let node = world.node(node)?;
    let file = flat(name, number);
    let path = format!("/var/log/bascule-lab/{file}.jsonl");
    node.write_file(&path, b"")?;
    let mut argv: Vec<String> =
        ["bascule-lab", "load", "--name", name, "--protocol", &target.scheme, "--target", &target.argument]
            .map(Into::into)
            .into();
    argv.extend(options);
    argv.extend(["--out".into(), path.clone()]);
    let process = node.spawn(&Spawn::new(&file, argv))?;
    Ok((process, path))
}

impl Load {
    /// Begins to send.
    pub(super) fn requests(world: &World, name: &str, number: usize, step: &Requests) -> Result<Self> {
        let timeout = milliseconds(step.timeout.get());
        let mut options = vec!["--rate".into(), step.rate.to_string(), "--timeout".into(), timeout];
        if let Some(count) = step.count {
            options.extend(["--count".into(), count.to_string()]);
        }
        if let Some(duration) = step.duration {
            options.extend(["--duration".into(), duration.to_string()]);
        }
        if let Some(source) = step.source {
            options.extend(["--source".into(), source.to_string()]);
        }
        if step.reuse {
            options.push("--reuse".into());
        }
        let (process, path) =
            begin(world, name, number, &step.from, &step.target, &["http", "tcp", "udp", "ping"], options)?;
        process.wait_for_line("ready", PATIENCE)?;
        let interval = Duration::from_secs(1) / step.rate;
        let expected = step
            .duration
            .map(crate::scenario::Span::get)
            .or_else(|| step.count.map(|count| interval * count));
        Ok(Self {
            name: name.to_owned(),
            node: step.from.to_string(),
            target: step.target.clone(),
            process,
            path,
            requests: Some(requests::Load { interval, timeout: step.timeout.get() }),
            expected: expected.map(|expected| expected + step.timeout.get()),
            stopped: false,
            boots: world.node(&step.from)?.boots(),
            lines: Mutex::default(),
        })
    }

    /// Opens connections; returns when all are open or have failed, or when it has begun to where they are opened at their times.
    pub(super) fn hold(world: &World, name: &str, number: usize, step: &Hold) -> Result<Self> {
        let timeout = step.timeout.get();
        let mut options = vec!["--hold".into(), step.connections.to_string()];
        options.extend(["--timeout".into(), milliseconds(timeout)]);
        options.extend(["--exchange-every".into(), milliseconds(step.exchange_every.get())]);
        if let Some(period) = step.open_every {
            options.extend(["--open-every".into(), milliseconds(period.get())]);
        }
        if step.download {
            options.push("--download".into());
        }
        if let Some(source) = step.source {
            options.extend(["--source".into(), source.to_string()]);
        }
        let (process, path) =
            begin(world, name, number, &step.from, &step.target, &["http", "tcp"], options)?;
        let opening = if step.open_every.is_some() { Duration::ZERO } else { timeout * step.connections };
        process.wait_for_line("ready", PATIENCE + opening)?;
        Ok(Self {
            name: name.to_owned(),
            node: step.from.to_string(),
            target: step.target.clone(),
            process,
            path,
            requests: None,
            expected: None,
            stopped: false,
            boots: world.node(&step.from)?.boots(),
            lines: Mutex::default(),
        })
    }

    /// Waits until the load has sent all and heard all.
    pub(super) fn wait(&mut self, cancel: &Cancel) -> Result<()> {
        let expected = self.expected.unwrap_or_default();
        // Slowness of the machine is no reason to give up.
        let deadline = Instant::now() + expected + PATIENCE;
        loop {
            if let Some(exit) = self.process.wait(Duration::from_millis(50)) {
                self.stopped = true;
                if exit.success() {
                    return Ok(());
                }
                let said = self.process.output().unwrap_or_default();
                let last = said.lines().last().unwrap_or_default();
                return Err(Error::harness(format!("the load {} ended ({exit}): {last}", self.name)));
            }
            cancel.check()?;
            if Instant::now() > deadline {
                return Err(Error::harness(format!("the load {} does not end", self.name)));
            }
        }
    }

    /// Ends it: no new requests, the outstanding ones waited for.
    pub(super) fn stop(&mut self, world: &World) -> Result<()> {
        if self.stopped {
            return Ok(());
        }
        self.stopped = true;
        let node = world.node(&self.node)?;
        if node.is_up() && !node.is_frozen() {
            self.process.stop(PATIENCE)?;
        }
        Ok(())
    }

    /// Why it ended by itself, if it did.
    pub(super) fn ended(&self, world: &World) -> Option<String> {
        let up = world.node(&self.node).is_ok_and(|node| node.is_up() && node.boots() == self.boots);
        let exit = self.process.exit().filter(|exit| up && !self.stopped && !exit.success())?;
        let said = self.process.output().unwrap_or_default();
        Some(format!("the load {} ended ({exit}): {}", self.name, said.lines().last().unwrap_or_default()))
    }

    /// Reads what has been written since the last time.
    fn so_far(&self, world: &World) -> Result<MutexGuard<'_, Lines>> {
        let node = world.node(&self.node)?;
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let file = node.open_file(&self.path)?;
        lines
            .read_on(file, self.requests.is_some())
            .map_err(|error| Error::harness(format!("reading {} of {}: {error}", self.path, self.node)))?;
        Ok(lines)
    }

    /// The requests that have ended up to now.
    pub(super) fn ended_requests(&self, world: &World) -> Result<Vec<Request>> {
        Ok(self.so_far(world)?.requests.clone())
    }

    /// What has become of the held connections up to now.
    pub(super) fn events(&self, world: &World) -> Result<Vec<Event>> {
        Ok(self.so_far(world)?.events.clone())
    }

    /// Copies the record as it is into a folder.
    pub(super) fn copy_record(&self, world: &World, folder: &Path) -> Result<()> {
        let mut file = world.node(&self.node)?.open_file(&self.path)?;
        let path = folder.join(self.path.rsplit('/').next().unwrap_or_default());
        std::fs::File::create(&path)
            .and_then(|mut copy| std::io::copy(&mut file, &mut copy))
            .map(drop)
            .map_err(|error| Error::harness(format!("{}: {error}", path.display())))
    }
}

/// What has been read of a record. It grows while the load runs, by up to a million lines: each is read once.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// How much has been read, in bytes.
    offset: u64,
    pub(crate) requests: Vec<Request>,
    events: Vec<Event>,
}

impl Lines {
    /// Reads on from where the last time ended.
    pub(crate) fn read_on(&mut self, mut file: impl Read + Seek, of_requests: bool) -> std::io::Result<()> {
        file.seek(SeekFrom::Start(self.offset))?;
        let mut reader = BufReader::new(file);
        let mut line = String::new();
        loop {
            line.clear();
            let length = reader.read_line(&mut line)?;
            // A line that is just being written has no end yet.
            if !line.ends_with('\n') {
                return Ok(());
            }
            let wrong = |error| std::io::Error::other(format!("{error}: {}", line.trim_end()));
            if of_requests {
                if let Line::Request(request) = serde_json::from_str(&line).map_err(wrong)? {
                    self.requests.push(request);
                }
            } else {
                self.events.push(serde_json::from_str(&line).map_err(wrong)?);
            }
            self.offset += length as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::programs::record::Summary;

    #[test]
    fn a_record_is_read_line_by_line_while_it_grows() {
        let line = |seq: u64| {
            let request = Request {
                seq,
                scheduled: seq,
                started: seq,
                ended: seq,
                ok: true,
                answerer: Some("SRV1".into()),
                status: Some(200),
                error: None,
                again: false,
            };
            serde_json::to_string(&Line::Request(request)).unwrap() + "\n"
        };
        let mut text = line(0) + &line(1);
        let third = line(2);
        text.push_str(&third[..20]);
        let mut lines = Lines::default();
        lines.read_on(Cursor::new(&text), true).unwrap();
        assert_eq!(lines.requests.len(), 2);
        lines.read_on(Cursor::new(&text), true).unwrap();
        assert_eq!(lines.requests.len(), 2, "nothing twice");
        text.push_str(&third[20..]);
        text.push_str(
            &(serde_json::to_string(&Line::Summary { summary: Summary::default() }).unwrap() + "\n"),
        );
        lines.read_on(Cursor::new(&text), true).unwrap();
        assert_eq!(lines.requests.iter().map(|request| request.seq).collect::<Vec<_>>(), [0, 1, 2]);
        text.push_str("no JSON\n");
        assert!(lines.read_on(Cursor::new(&text), true).unwrap_err().to_string().contains("no JSON"));
    }
}
