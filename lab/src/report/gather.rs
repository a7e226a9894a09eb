//! What a run left in its folder, as one JSON value. Nothing of it names the machine or its folders.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::{frames, logs};
use crate::annotate::{Known, annotate, file};
use crate::scenario::topology::{LinkAddress, Node, Peer};
use crate::scenario::{Scenario, load, shipped};

/// So many events of a timeline are taken.
const MAX_EVENTS: usize = 500_000;
/// As much is taken of what an event says, in bytes.
const MAX_TEXT: usize = 16 << 10;
/// The largest file that is read, in bytes; captures have their own bound.
const MAX_FILE: u64 = 64 << 20;

/// Reads a folder.
pub(super) fn gather(folder: &Path) -> io::Result<Value> {
    let about = |error: io::Error, file: &str| {
        io::Error::new(error.kind(), format!("{}: {error}", folder.join(file).display()))
    };
    let result: Value = serde_json::from_str(
        &text(&folder.join("result.json")).map_err(|error| about(error, "result.json"))?,
    )
    .map_err(|error| about(error.into(), "result.json"))?;
    let name = result.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let scenario = scenario(folder, &name)?;
    let started = result.get("startedUnixNs").and_then(Value::as_u64).filter(|start| *start > 0);
    let timeline =
        timeline(&folder.join("timeline.jsonl")).map_err(|error| about(error, "timeline.jsonl"))?;
    let logs = logs::read(&folder.join("logs"), started)?;
    let frames =
        recorded(folder, scenario.as_ref(), started).map_err(|error| about(error, "capture.pcapng"))?;
    let tables = match text(&folder.join("tables.json")) {
        Ok(text) => serde_json::from_str(&text).map_err(|error| about(error.into(), "tables.json"))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => json!([]),
        Err(error) => return Err(about(error, "tables.json")),
    };
    Ok(json!({
        "format": 1,
        "version": env!("CARGO_PKG_VERSION"),
        "again": again(&name, scenario.as_ref(), &result),
        "result": result,
        "title": scenario.as_ref().and_then(|scenario| scenario.title.clone()),
        "topology": scenario.as_ref().map(topology),
        "manifests": scenario.as_ref().map(manifests).unwrap_or_default(),
        "events": timeline.events,
        "left": timeline.left,
        "requests": timeline.requests,
        "vrrp": logs.vrrp,
        "checks": logs.checks,
        "logs": logs.texts,
        "tables": tables,
        "frames": frames,
    }))
}

fn text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}

/// The scenario that was played: what the run left of it, else what ships under its name.
pub(super) fn scenario(folder: &Path, name: &str) -> io::Result<Option<Scenario>> {
    let path = folder.join(format!("{name}.yaml"));
    let told = |problems: Vec<crate::scenario::Problem>| {
        let words: Vec<String> = problems.iter().map(ToString::to_string).collect();
        io::Error::new(io::ErrorKind::InvalidData, words.join("; "))
    };
    match text(&path) {
        Ok(text) => load(name, &text).map(Some).map_err(told),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(shipped::find(name).and_then(|shipped| load(name, shipped.text).ok()))
        }
        Err(error) => Err(error),
    }
}

/// How to play it again.
fn again(name: &str, scenario: Option<&Scenario>, result: &Value) -> Vec<String> {
    let ships = shipped::find(name)
        .and_then(|shipped| load(name, shipped.text).ok())
        .is_some_and(|shipped| Some(&shipped) == scenario);
    let seed = result.get("seed").and_then(Value::as_u64).unwrap_or(0);
    let what = if ships { name.to_owned() } else { format!("./{name}.yaml") };
    vec![
        format!("bascule-lab run {what} --seed {seed}"),
        format!("bascule-lab up {what}"),
        "wireshark capture.pcapng".to_owned(),
        "bascule-lab report .".to_owned(),
    ]
}

fn topology(scenario: &Scenario) -> Value {
    let nodes: Vec<Value> = scenario.topology.nodes.iter().map(node).collect();
    json!({"networks": scenario.topology.networks, "nodes": nodes})
}

fn node(node: &Node) -> Value {
    let mut runs: Vec<String> = node.servers.iter().map(|server| server.name.to_string()).collect();
    runs.extend(node.agent.iter().map(|_| "bascule-agent".to_owned()));
    runs.extend(node.peer.iter().map(|peer| peer.name().to_owned()));
    let link = |link: &crate::scenario::topology::Link| {
        let addresses: Vec<String> =
            link.addresses.iter().map(LinkAddress::prefix).map(|prefix| prefix.to_string()).collect();
        json!({"network": link.network, "interface": link.interface, "addresses": addresses})
    };
    let director = node.agent.is_some() || node.peer.is_some();
    json!({
        "name": node.name, "description": node.description, "runs": runs, "director": director,
        "links": node.links.iter().map(link).collect::<Vec<_>>(),
    })
}

fn manifests(scenario: &Scenario) -> Vec<Value> {
    let mut files = Vec::new();
    for node in &scenario.topology.nodes {
        for (file, text) in node.agent.iter().flat_map(|agent| &agent.manifests) {
            files.push(json!({"node": node.name, "file": file, "text": text}));
        }
        for file in node.peer.iter().flat_map(Peer::files) {
            let name = file.path.rsplit('/').next().unwrap_or(file.path);
            files.push(json!({"node": node.name, "file": name, "text": file.text}));
        }
    }
    files
}

/// Requests by their loads, as columns; and all other events, as they are.
#[derive(Default)]
struct Timeline {
    events: Vec<Value>,
    requests: BTreeMap<String, Requests>,
    /// How many are left out.
    left: usize,
}

/// What became of the requests of a load. Times are milliseconds.
#[derive(Default, serde::Serialize)]
struct Requests {
    due: Vec<f64>,
    took: Vec<f64>,
    ok: Vec<u8>,
    by: Vec<usize>,
    answerers: Vec<String>,
    error: BTreeMap<usize, String>,
}

fn timeline(path: &Path) -> io::Result<Timeline> {
    let mut timeline = Timeline::default();
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        // Of a scenario that this machine could not play.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(timeline),
        Err(error) => return Err(error),
    };
    for (count, line) in BufReader::new(file).lines().enumerate() {
        let event: Value = serde_json::from_str(&line?)?;
        if count >= MAX_EVENTS {
            timeline.left += 1;
            continue;
        }
        match event.get("kind").and_then(Value::as_str) {
            Some("request") => timeline.request(&event),
            // What was judged is with the steps.
            Some("finding") => {}
            _ => {
                if let Value::Object(event) = event {
                    timeline.events.push(short(event));
                }
            }
        }
    }
    Ok(timeline)
}

/// An event with its texts cut.
fn short(event: Map<String, Value>) -> Value {
    let cut = |value: Value| match value {
        Value::String(text) if text.len() > MAX_TEXT => {
            let end = (0..=MAX_TEXT).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            Value::String(format!("{}…", &text[..end]))
        }
        other => other,
    };
    event.into_iter().map(|(name, value)| (name, cut(value))).collect()
}

impl Timeline {
    fn request(&mut self, event: &Value) {
        let word = |name: &str| event.get(name).and_then(Value::as_str);
        let number = |name: &str| event.get(name).and_then(Value::as_f64).unwrap_or(0.0);
        let milliseconds = |seconds: f64| (seconds * 10_000.0).round() / 10.0;
        let requests = self.requests.entry(word("load").unwrap_or_default().to_owned()).or_default();
        let ok = event.get("ok").and_then(Value::as_bool).unwrap_or(false);
        let by = word("answerer").unwrap_or_default();
        let place = requests.answerers.iter().position(|name| name == by).unwrap_or_else(|| {
            requests.answerers.push(by.to_owned());
            requests.answerers.len() - 1
        });
        if let Some(error) = word("error") {
            requests.error.insert(requests.due.len(), error.to_owned());
        }
        requests.due.push(milliseconds(number("t")));
        requests.took.push(milliseconds(number("endedAt") - number("t")));
        requests.ok.push(u8::from(ok));
        requests.by.push(place);
    }
}

/// The frames with their comments; none if nothing was recorded, or nothing says when the scenario began.
fn recorded(folder: &Path, scenario: Option<&Scenario>, started: Option<u64>) -> io::Result<Option<Value>> {
    let path = folder.join("capture.pcapng");
    let (Some(start), true) = (started, path.is_file()) else { return Ok(None) };
    let mut bytes = Vec::new();
    std::fs::File::open(&path)?.take(file::MAX_BYTES).read_to_end(&mut bytes)?;
    let capture = file::read(&bytes)?;
    drop(bytes);
    let mut known = scenario.map(Known::of).unwrap_or_default();
    file::tell(&capture, &mut known);
    let annotated = annotate(&capture.packets, &mut known);
    Ok(Some(frames::columns(&capture, &known, &annotated, start)))
}
