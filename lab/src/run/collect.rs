//! What is kept of a run: records of loads, frames, and the log lines around what went wrong.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::captures;
use super::error::Result;
use super::logs::Logs;
use super::play::Player;
use super::result::{ConnectionsResult, LoadResult, ScenarioResult, Verdict};
use crate::expect::{self, Span, connections};

/// Ends the loads and captures, and keeps what they recorded.
pub(super) fn collect(player: &mut Player<'_>, folder: &Path, result: &mut ScenarioResult) -> Result<()> {
    let world = player.world;
    for load in player.loads.values_mut() {
        load.stop(world)?;
    }
    player.programs.stop_managers();
    for (name, load) in &player.loads {
        load.copy_record(world, &folder.join("logs").join(&load.node))?;
        if load.requests.is_none() {
            let events = load.events(world)?;
            let tally = connections::Tally::of(&events, connections::Which::All, 0);
            let lost = tally.lost.iter().filter(|connection| tally.opened.contains_key(connection)).count();
            let connections = ConnectionsResult { opened: tally.opened.len() as u64, lost: lost as u64 };
            result.connections.insert(name.clone(), connections);
            for event in events {
                let fields = serde_json::to_value(&event).unwrap_or_default();
                player.timeline.put(event.t, "connection", merged(json!({"load": name}), fields, &["t"]));
            }
            continue;
        }
        let mut tally =
            LoadResult { from: load.node.clone(), target: load.target.clone(), ..LoadResult::default() };
        for request in load.ended_requests(world)? {
            tally.sent += 1;
            if request.ok {
                tally.ok += 1;
                *tally
                    .answerers
                    .entry(request.answerer.clone().unwrap_or_else(|| "?".into()))
                    .or_default() += 1;
            } else {
                tally.failed += 1;
            }
            let late = Duration::from_nanos(request.started.saturating_sub(request.scheduled)).as_secs_f64()
                * 1000.0;
            tally.late_max_ms = tally.late_max_ms.max(late);
            let times = json!({
                "load": name,
                "startedAt": player.timeline.seconds(request.started),
                "endedAt": player.timeline.seconds(request.ended),
            });
            let fields = serde_json::to_value(&request).unwrap_or_default();
            player.timeline.put(
                request.scheduled,
                "request",
                merged(times, fields, &["scheduled", "started", "ended"]),
            );
        }
        result.loads.insert(name.clone(), tally);
    }
    for capture in &mut player.captures {
        capture.stop();
    }
    captures::merge(world, player.scenario, &player.captures, &folder.join("capture.pcapng"))
}

/// Two objects as one, some fields of the second left out.
fn merged(mut first: serde_json::Value, second: serde_json::Value, without: &[&str]) -> serde_json::Value {
    if let (Some(first), serde_json::Value::Object(second)) = (first.as_object_mut(), second) {
        first.extend(second.into_iter().filter(|(name, _)| !without.contains(&name.as_str())));
    }
    first
}

/// As many frames are told of each link, and of all links together.
const FRAMES: (usize, usize) = (6, 24);

/// When what went wrong happened, as far as that is known; `None`: nothing did.
fn moment(result: &ScenarioResult, start: u64) -> Option<u64> {
    if result.verdict == Verdict::Passed {
        return None;
    }
    let bad = |finding: &&expect::Finding| finding.verdict != expect::Verdict::Passed;
    let found =
        result.steps.iter().flat_map(|step| &step.judged).flat_map(|judged| &judged.findings).find(bad);
    Some(found.and_then(|finding| finding.at).unwrap_or_else(|| {
        let ended = result
            .steps
            .last()
            .map_or(result.duration_seconds, |step| step.at_seconds + step.duration_seconds);
        start + u64::try_from(Duration::from_secs_f64(ended.max(0.0)).as_nanos()).unwrap_or(0)
    }))
}

/// The lines that agents and others wrote around what went wrong.
pub(super) fn nearest(result: &ScenarioResult, logs: &Logs, start: u64) -> Vec<String> {
    let Some(at) = moment(result, start) else { return Vec::new() };
    logs.look();
    let around = Span { since: at.saturating_sub(3_000_000_000), until: at + 1_000_000_000 };
    let lines = logs.around(around, 4);
    lines.into_iter().map(|line| format!("{}: {}", line.of, line.text)).collect()
}

/// The last frames on each recorded link before what went wrong, and those just after it, in the order of time.
pub(super) fn nearest_frames(player: &Player<'_>, result: &ScenarioResult) -> Vec<String> {
    let Some(at) = moment(result, player.timeline.start()) else { return Vec::new() };
    let around = Span { since: at.saturating_sub(2_000_000_000), until: at + 100_000_000 };
    let mut found: Vec<(u64, String)> = Vec::new();
    for capture in &player.captures {
        // What cannot be read is said where the captures are collected.
        let Ok(recorded) = capture.read(player.world) else { continue };
        let mut near: Vec<(u64, String)> = Vec::new();
        for packet in &recorded.packets {
            let time = player.monotonic(packet.time_ns);
            if around.contains(time) {
                let words = expect::frames::describe(&expect::frames::decode(&packet.data));
                near.push((time, format!("{} {}: {words}", capture.node, capture.interface)));
            }
        }
        near.sort_by_key(|(time, _)| *time);
        found.extend(near.into_iter().rev().take(FRAMES.0));
    }
    found.sort_by_key(|(time, _)| *time);
    let skipped = found.len().saturating_sub(FRAMES.1);
    let line = |(time, words): (u64, String)| format!("{:.3} s  {words}", player.timeline.seconds(time));
    found.into_iter().skip(skipped).map(line).collect()
}
