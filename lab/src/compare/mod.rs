//! The same scenario with Bascule and with others in its place, side by side: `compare.json` and the tables. Nothing here plays anything.

mod table;

use std::collections::BTreeSet;

use serde::Serialize;

use crate::expect::Gap;
use crate::run::{ScenarioResult, Verdict};
use crate::scenario::Scenario;
use crate::scenario::topology::Peer;

pub use table::{markdown, text};

/// How Bascule is called where others are called by their names.
pub const OURS: &str = "Bascule";
/// The files that a comparison leaves in the folder of results.
pub const JSON: &str = "compare.json";
/// The same for people.
pub const MARKDOWN: &str = "compare.md";

/// A scenario and all who played it, Bascule first.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Comparison {
    /// The scenario.
    pub name: String,
    /// The kernel's release.
    pub kernel: String,
    /// Who played it.
    pub plays: Vec<Play>,
}

/// A scenario as one played it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Play {
    /// Who: `Bascule`, or the peer.
    pub with: String,
    /// The folder of its results, below that of the comparison.
    pub folder: String,
    /// What came of it.
    pub verdict: Verdict,
    /// Why, where it is not passed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Lines that a person writes: manifests, or the peer's files. No empty ones, no comments; a text that is on several nodes counts once.
    pub configuration_lines: usize,
    /// Requests of all loads that were not answered well and in time.
    pub requests: Part,
    /// Held connections that were opened and then lost.
    pub connections: Part,
    /// How long an address was not there, in the order of the steps that judge it.
    pub gaps: Vec<StepGap>,
    /// Steps in whose place something else was played.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub otherwise: Vec<Reason>,
}

/// How many of how many were lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// All of them.
    pub of: u64,
    /// Those that were lost.
    pub lost: u64,
}

/// A gap and the step that judged it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StepGap {
    /// The step.
    pub step: String,
    /// How long.
    #[serde(flatten)]
    pub gap: Gap,
}

/// Why something else was played in place of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reason {
    /// The step.
    pub step: String,
    /// Why.
    pub because: String,
}

/// A scenario as it is played: Bascule's, then one for each of its peers.
pub fn plays(scenario: &Scenario) -> Vec<(String, Scenario)> {
    let others = scenario.peers.iter().filter_map(|(name, _)| {
        let other = scenario.with_peer(name).ok()?;
        Some((name.to_owned(), other))
    });
    std::iter::once((OURS.to_owned(), scenario.clone())).chain(others).collect()
}

impl Comparison {
    /// Of what came of [`plays`], in their order.
    pub fn of(scenario: &Scenario, results: &[ScenarioResult]) -> Self {
        let kernel = results.first().map(|result| result.kernel.clone()).unwrap_or_default();
        let plays = plays(scenario);
        let plays = plays.iter().zip(results).map(|((with, played), result)| {
            let place = scenario.peers.iter().find(|(name, _)| name == with).map(|(_, place)| place);
            let otherwise = place.iter().flat_map(|place| &place.steps);
            let otherwise =
                otherwise.map(|other| Reason { step: other.step.clone(), because: other.because.clone() });
            Play { otherwise: otherwise.collect(), ..Play::of(with, played, result) }
        });
        Self { name: scenario.name.clone(), kernel, plays: plays.collect() }
    }
}

impl Play {
    fn of(with: &str, scenario: &Scenario, result: &ScenarioResult) -> Self {
        let mut gaps = Vec::new();
        for step in &result.steps {
            for gap in
                step.judged.iter().flat_map(|judged| &judged.findings).filter_map(|found| found.gap.as_ref())
            {
                gaps.push(StepGap { step: step.name.clone(), gap: gap.clone() });
            }
        }
        let loads = result.loads.values();
        let requests = loads
            .fold(Part::default(), |sum, load| Part { of: sum.of + load.sent, lost: sum.lost + load.failed });
        let held = result.connections.values();
        let connections = held
            .fold(Part::default(), |sum, held| Part { of: sum.of + held.opened, lost: sum.lost + held.lost });
        Self {
            with: with.to_owned(),
            folder: scenario.name.clone(),
            verdict: result.verdict,
            reason: result.reason.clone(),
            configuration_lines: configuration_lines(scenario),
            requests,
            connections,
            gaps,
            otherwise: Vec::new(),
        }
    }
}

/// The lines that a person writes for whoever decides: no empty ones, no comments, and a text that is on several nodes once.
fn configuration_lines(scenario: &Scenario) -> usize {
    let nodes = &scenario.topology.nodes;
    let ours = nodes.iter().filter_map(|node| node.agent.as_ref()).flat_map(|agent| agent.manifests.values());
    let mut texts: BTreeSet<(&str, &[&str])> = ours.map(|text| (text.as_str(), &["#"][..])).collect();
    for peer in nodes.iter().filter_map(|node| node.peer.as_ref()) {
        let comments: &[&str] =
            if matches!(peer, Peer::Keepalived(_) | Peer::Frr(_)) { &["#", "!"] } else { &["#"] };
        texts.extend(peer.files().into_iter().map(|file| (file.text, comments)));
    }
    let counts = |line: &str, comments: &[&str]| {
        !line.is_empty() && !comments.iter().any(|comment| line.starts_with(comment))
    };
    texts
        .iter()
        .map(|(text, comments)| text.lines().filter(|line| counts(line.trim(), comments)).count())
        .sum()
}

#[cfg(test)]
mod tests;
