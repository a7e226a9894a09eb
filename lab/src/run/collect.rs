//! What is kept of a run: records of loads, frames, and the log lines around what went wrong.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::captures;
use super::error::Result;
use super::logs::Logs;
use super::play::Player;
use super::result::{LoadResult, ScenarioResult, Verdict};
use crate::expect::{self, Span};

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
            for event in load.events(world)? {
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

/// The lines that agents and others wrote around what went wrong.
pub(super) fn nearest(result: &ScenarioResult, logs: &Logs, start: u64) -> Vec<String> {
    if result.verdict == Verdict::Passed {
        return Vec::new();
    }
    logs.look();
    let bad = |finding: &&expect::Finding| finding.verdict != expect::Verdict::Passed;
    let found =
        result.steps.iter().flat_map(|step| &step.judged).flat_map(|judged| &judged.findings).find(bad);
    let at = found.and_then(|finding| finding.at).unwrap_or_else(|| {
        let ended = result
            .steps
            .last()
            .map_or(result.duration_seconds, |step| step.at_seconds + step.duration_seconds);
        start + u64::try_from(Duration::from_secs_f64(ended.max(0.0)).as_nanos()).unwrap_or(0)
    });
    let around = Span { since: at.saturating_sub(3_000_000_000), until: at + 1_000_000_000 };
    let lines = logs.around(around, 4);
    lines.into_iter().map(|line| format!("{}: {}", line.of, line.text)).collect()
}
