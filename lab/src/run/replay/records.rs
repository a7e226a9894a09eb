//! What a run left in its folder, as the judges take it. Times are nanoseconds on a clock of its own: a timeline has none but its own zero.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::Path;

use serde_json::{Map, Value};

use super::super::captures::Recorded;
use super::super::result::ScenarioResult;
use super::super::timeline::Timeline;
use crate::annotate::file;
use crate::expect::holders::History;
use crate::programs::pcapng::Packet;
use crate::programs::record::Request;
use crate::scenario::{Scenario, load, shipped};
use crate::world::{Event, Watched};

/// When the scenario began. What happened before it has smaller times, and needs some.
pub(super) const START: u64 = 1 << 50;
/// The largest `result.json` and scenario that are read, in bytes.
const MAX_FILE: u64 = 64 << 20;
/// As many events of a timeline are read.
const MAX_EVENTS: usize = 2_000_000;

/// A recording.
pub(super) struct Records {
    /// What came of the run.
    pub(super) result: ScenarioResult,
    /// What was played.
    pub(super) scenario: Scenario,
    pub(super) timeline: Timeline,
    requests: BTreeMap<String, Vec<Request>>,
    addresses: Vec<Watched>,
    links: BTreeMap<(String, String), Recorded>,
}

/// Seconds since the scenario began, on the clock of the records.
pub(super) fn at(seconds: f64) -> u64 {
    #[expect(clippy::cast_possible_truncation, reason = "a timeline is not 292 years long")]
    let nanoseconds = (seconds * 1e9).round() as i64;
    START.saturating_add_signed(nanoseconds)
}

impl Records {
    /// Reads a folder of results.
    ///
    /// # Errors
    /// The file that is not there, or damaged.
    pub(super) fn read(folder: &Path) -> io::Result<Self> {
        let about = |error: io::Error, file: &str| {
            io::Error::new(error.kind(), format!("{}: {error}", folder.join(file).display()))
        };
        let result: ScenarioResult = text(&folder.join("result.json"))
            .and_then(|text| serde_json::from_str(&text).map_err(io::Error::from))
            .map_err(|error| about(error, "result.json"))?;
        let scenario = scenario(folder, &result.name)?;
        let mut records = Self {
            scenario,
            timeline: Timeline::new(START),
            requests: BTreeMap::new(),
            addresses: Vec::new(),
            links: BTreeMap::new(),
            result,
        };
        records.events(&folder.join("timeline.jsonl")).map_err(|error| about(error, "timeline.jsonl"))?;
        records.frames(&folder.join("capture.pcapng")).map_err(|error| about(error, "capture.pcapng"))?;
        Ok(records)
    }

    fn events(&mut self, path: &Path) -> io::Result<()> {
        let Some(file) = open(path)? else {
            // Without it nothing would have failed, and nobody had any address.
            return if self.result.steps.is_empty() { Ok(()) } else { Err(bad("is not there".to_owned())) };
        };
        for (count, line) in BufReader::new(file).lines().enumerate() {
            if count >= MAX_EVENTS {
                return Err(bad(format!("has more than {MAX_EVENTS} events")));
            }
            let event: Map<String, Value> =
                serde_json::from_str(&line?).map_err(|error| bad(format!("line {}: {error}", count + 1)))?;
            let wrong = || bad(format!("line {}: this is no event of a run", count + 1));
            let kind = event.get("kind").and_then(Value::as_str).ok_or_else(wrong)?.to_owned();
            let time = at(event.get("t").and_then(Value::as_f64).ok_or_else(wrong)?);
            match kind.as_str() {
                "request" => {
                    let (load, request) = request(&event, time).ok_or_else(wrong)?;
                    self.requests.entry(load).or_default().push(request);
                }
                "address" | "lost" => self.addresses.push(watched(&event, time).ok_or_else(wrong)?),
                _ => {}
            }
            // What is judged anew is not what was found then.
            if kind != "finding" {
                self.timeline.put(time, &kind, Value::Object(event));
            }
        }
        Ok(())
    }

    fn frames(&mut self, path: &Path) -> io::Result<()> {
        let started = self.result.started_unix_ns;
        let Some(file) = open(path)?.filter(|_| started > 0) else { return Ok(()) };
        if file.metadata()?.len() > file::MAX_BYTES {
            return Err(bad(format!("has more than {} bytes", file::MAX_BYTES)));
        }
        let mut bytes = Vec::new();
        file.take(file::MAX_BYTES).read_to_end(&mut bytes)?;
        let capture = file::read(&bytes)?;
        let names: Vec<(String, String)> = capture
            .links
            .iter()
            .map(|link| link.name.split_once('/').unwrap_or((link.name.as_str(), "")))
            .map(|(node, interface)| (node.to_owned(), interface.to_owned()))
            .collect();
        for (name, link) in names.iter().zip(&capture.links) {
            self.links.entry(name.clone()).or_default().dropped += link.dropped;
        }
        for packet in capture.packets {
            let name = usize::try_from(packet.interface).ok().and_then(|index| names.get(index));
            let since = i128::from(packet.time_ns) - i128::from(started);
            let time_ns = u64::try_from(i128::from(START) + since).unwrap_or(0);
            if let Some(recorded) = name.and_then(|name| self.links.get_mut(name)) {
                recorded.packets.push(Packet { time_ns, ..packet });
            }
        }
        Ok(())
    }

    /// The requests of a load that had ended by a time.
    pub(super) fn requests(&self, load: &str, until: u64) -> impl Iterator<Item = &Request> {
        self.requests.get(load).into_iter().flatten().filter(move |request| request.ended <= until)
    }

    /// Who had which address up to a time.
    pub(super) fn history(&self, until: u64) -> History {
        let mut history = History::default();
        for watched in self.addresses.iter().filter(|watched| watched.at <= until) {
            history.put(watched);
        }
        history
    }

    /// The frames of a link; none if it was not recorded.
    pub(super) fn link(&self, node: &str, interface: &str) -> Option<&Recorded> {
        self.links.get(&(node.to_owned(), interface.to_owned()))
    }
}

fn bad(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

fn open(path: &Path) -> io::Result<Option<std::fs::File>> {
    match std::fs::File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}

/// The scenario that was played: what the run left of it, else what ships under its name.
fn scenario(folder: &Path, name: &str) -> io::Result<Scenario> {
    let path = folder.join(format!("{name}.yaml"));
    let told = |problems: Vec<crate::scenario::Problem>| {
        bad(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    };
    match text(&path) {
        Ok(text) => load(name, &text).map_err(told),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match shipped::find(name) {
            Some(shipped) => load(name, shipped.text).map_err(told),
            None => Err(bad(format!("{} is not there, and no scenario `{name}` ships", path.display()))),
        },
        Err(error) => Err(error),
    }
}

fn request(event: &Map<String, Value>, scheduled: u64) -> Option<(String, Request)> {
    let time = |name: &str| event.get(name).and_then(Value::as_f64).map(at);
    let mut fields = event.clone();
    for (name, value) in
        [("scheduled", scheduled), ("started", time("startedAt")?), ("ended", time("endedAt")?)]
    {
        fields.insert(name.to_owned(), value.into());
    }
    let load = event.get("load")?.as_str()?.to_owned();
    Some((load, serde_json::from_value(Value::Object(fields)).ok()?))
}

fn watched(event: &Map<String, Value>, at: u64) -> Option<Watched> {
    let word = |name: &str| event.get(name).and_then(Value::as_str);
    let node = word("node")?.to_owned();
    if word("kind") == Some("lost") {
        let count = event.get("notifications")?.as_u64()?;
        return Some(Watched { at, node, event: Event::Lost { count } });
    }
    let (address, prefix) = word("address")?.split_once('/')?;
    let (address, prefix) = (address.parse().ok()?, prefix.parse().ok()?);
    let interface = word("interface")?.to_owned();
    let event = match word("change")? {
        "added" => Event::AddressAdded {
            interface,
            address,
            prefix,
            label: word("label").map(str::to_owned),
            initial: event.get("initial").and_then(Value::as_bool).unwrap_or(false),
        },
        change => Event::AddressRemoved { interface, address, prefix, gone: change != "removed" },
    };
    Some(Watched { at, node, event })
}
