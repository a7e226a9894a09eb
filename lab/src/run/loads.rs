//! Loads and held connections: `bascule-lab load` in a node, and its record.

use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

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
}

/// A name as part of a file's; the number tells apart those that would look alike.
fn flat(name: &str, number: usize) -> String {
    let name = name.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' });
    format!("load-{number}-{}", name.take(64).collect::<String>())
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
        let timeout = format!("{}ms", step.timeout.get().as_millis());
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
            begin(world, name, number, &step.from, &step.target, &["http", "tcp", "udp"], options)?;
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
        })
    }

    /// Opens connections; returns when all are open or have failed.
    pub(super) fn hold(world: &World, name: &str, number: usize, step: &Hold) -> Result<Self> {
        let mut options =
            vec!["--hold".into(), step.connections.to_string(), "--timeout".into(), "5s".into()];
        if let Some(source) = step.source {
            options.extend(["--source".into(), source.to_string()]);
        }
        let (process, path) =
            begin(world, name, number, &step.from, &step.target, &["http", "tcp"], options)?;
        process.wait_for_line("ready", PATIENCE + Duration::from_secs(5) * step.connections)?;
        Ok(Self {
            name: name.to_owned(),
            node: step.from.to_string(),
            target: step.target.clone(),
            process,
            path,
            requests: None,
            expected: None,
            stopped: false,
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
        let up = world.node(&self.node).is_ok_and(|node| node.is_up());
        let exit = self.process.exit().filter(|exit| up && !self.stopped && !exit.success())?;
        let said = self.process.output().unwrap_or_default();
        Some(format!("the load {} ended ({exit}): {}", self.name, said.lines().last().unwrap_or_default()))
    }

    fn lines<T: DeserializeOwned>(&self, world: &World) -> Result<Vec<T>> {
        let bytes = world.node(&self.node)?.read_file(&self.path)?;
        let text = String::from_utf8_lossy(&bytes);
        // A line that is just being written has no end yet.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole
            .lines()
            .map(|line| {
                serde_json::from_str(line).map_err(|error| {
                    Error::harness(format!("{} of {}: {error}: {line}", self.path, self.node))
                })
            })
            .collect()
    }

    /// The requests that have ended up to now.
    pub(super) fn ended_requests(&self, world: &World) -> Result<Vec<Request>> {
        let lines: Vec<Line> = self.lines(world)?;
        let requests = lines.into_iter().filter_map(|line| match line {
            Line::Request(request) => Some(request),
            Line::Summary { .. } => None,
        });
        Ok(requests.collect())
    }

    /// What has become of the held connections up to now.
    pub(super) fn events(&self, world: &World) -> Result<Vec<Event>> {
        self.lines(world)
    }

    /// The record as it is, and its file's name.
    pub(super) fn record(&self, world: &World) -> Result<(String, Vec<u8>)> {
        let file = self.path.rsplit('/').next().unwrap_or_default().to_owned();
        Ok((file, world.node(&self.node)?.read_file(&self.path)?))
    }
}
