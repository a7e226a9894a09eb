//! Judges what was recorded. Nothing here touches the system: records go in, findings come out.

pub mod bound;
pub mod claims;
pub mod connections;
pub mod events;
pub mod frames;
pub mod holders;
pub mod ipvsadm;
pub mod kernel;
pub mod metric;
pub mod reals;
pub mod requests;
pub mod status;
mod tally;
pub mod text;

use serde::{Deserialize, Serialize};

pub use crate::canary::{Lateness, Span};

/// What came of a judgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// As wanted.
    Passed,
    /// The measure is coarser than what it would have to decide.
    Undecided,
    /// Not as wanted.
    Failed,
}

/// One thing that was judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// The verdict.
    pub verdict: Verdict,
    /// What was wanted, with the bound as it was derived.
    pub wanted: String,
    /// What was seen.
    pub seen: String,
    /// When what speaks against it happened: CLOCK_MONOTONIC, nanoseconds.
    #[serde(skip)]
    pub at: Option<u64>,
    /// The same in seconds since the scenario began; filled in by the runner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_seconds: Option<f64>,
    /// The length that was measured, where it is one that comparisons show.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gap: Option<Gap>,
}

/// How long something was not there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gap {
    /// What was not.
    pub kind: GapKind,
    /// The address, or the load.
    pub of: String,
    /// How long.
    pub milliseconds: f64,
}

/// What was not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum GapKind {
    /// Nobody had the address.
    Held,
    /// Nobody else had said yet that he has it.
    Claimed,
    /// Nobody answered.
    Served,
}

impl GapKind {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Claimed => "claimed",
            Self::Served => "served",
        }
    }
}

impl Finding {
    /// Passed or failed.
    pub fn of(good: bool, wanted: impl Into<String>, seen: impl Into<String>) -> Self {
        let verdict = if good { Verdict::Passed } else { Verdict::Failed };
        Self { verdict, wanted: wanted.into(), seen: seen.into(), at: None, at_seconds: None, gap: None }
    }

    /// The same with the length that was measured.
    #[must_use]
    pub fn gap(mut self, kind: GapKind, of: &str, length: std::time::Duration) -> Self {
        self.gap = Some(Gap { kind, of: of.to_owned(), milliseconds: length.as_secs_f64() * 1000.0 });
        self
    }

    /// The same with the time of what speaks against it.
    #[must_use]
    pub fn at(mut self, at: Option<u64>) -> Self {
        self.at = at;
        self
    }
}

/// The worst verdict of all; passed if there is none.
pub fn worst(findings: &[Finding]) -> Verdict {
    findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Passed)
}
